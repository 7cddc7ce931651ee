"""Step: how long an article is, in words and in seconds of reading."""

import re

from newsloom.core.article import Article
from newsloom.core.enrichment._changes import NOTHING, Changes

WORDS_PER_MINUTE = 238
"""Silent reading of English prose (Brysbaert 2019)."""
CHARACTERS_PER_MINUTE = 500
"""Of scripts that write no spaces: a character counts as a word and is read faster."""

_SPACELESS = re.compile("[\u3040-\u30ff\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff]")


def measure_reading(article: Article) -> Changes:
    """Set `word_count` and `reading_seconds` from the body; both None without one."""
    words, seconds = _measured(article.body) if article.body else (None, None)
    if (words, seconds) == (article.word_count, article.reading_seconds):
        return NOTHING
    return {"word_count": words, "reading_seconds": seconds}


def _measured(body: str) -> tuple[int, int]:
    characters = 0
    if not body.isascii():
        body, characters = _SPACELESS.subn(" ", body)
    words = len(body.split())
    minutes = words / WORDS_PER_MINUTE + characters / CHARACTERS_PER_MINUTE
    return words + characters, round(60 * minutes)
