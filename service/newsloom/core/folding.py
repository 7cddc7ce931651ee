"""Fold a text so that two typings of the same words are equal, and cut it into words.

Copies and stories both start here. Folding is NFKC, case folding, one kind of quote and no
zero-width characters; words are runs of letters and digits. Scripts that are written without spaces
(Han, kana, Thai, ...) give one word a character, so that shingles mean the same amount of text.
"""

import re
import unicodedata
from dataclasses import dataclass

MAX_WORDS = 4096
"""Words of one article that are looked at; what follows adds no evidence worth its memory."""

MAX_TITLE_WORDS = 14
"""A longer headline is a sentence of text from here on: some sources have no headline."""

_ASCII_FOLD = bytes(
    ord(chr(byte).lower()) if chr(byte).isascii() and chr(byte).isalnum() else ord(" ")
    for byte in range(256)
)
_APOSTROPHE = b"'`"
_WORD = re.compile(
    r"[\u0e00-\u0edf\u1000-\u109f\u1780-\u17ff\u3040-\u30ff\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff"
    r"\U00020000-\U0003ffff]"
    r"|[^\W_\u0e00-\u0edf\u1000-\u109f\u1780-\u17ff\u3040-\u30ff\u3400-\u4dbf\u4e00-\u9fff"
    r"\uf900-\ufaff\U00020000-\U0003ffff]+"
)
_INVISIBLE = re.compile(
    "[\u00ad\u034f\u061c\u115f\u1160\u17b4\u17b5\u180b-\u180f\u200b-\u200f\u202a-\u202e"
    "\u2060-\u206f\ufe00-\ufe0f\ufeff\U000e0000-\U000e0fff]"
)
_APOSTROPHES = re.compile("['`\u2018\u2019\u201a\u201b\u2032\u02b9\u02bb\u02bc\u02c8\uff07]")
_WORST_CHARACTERS_A_WORD = 40


@dataclass(frozen=True, slots=True)
class FoldedText:
    """The folded words of an article, UTF-8, title first, at most `MAX_WORDS`.

    `words[:title_words]` is the title (14 words at most); the rest is excerpt and body.
    """

    words: list[bytes]
    title_words: int


def fold(title: str, excerpt: str | None = None, body: str | None = None) -> FoldedText:
    """Return the folded words of one article. Total: any str is accepted.

    An excerpt that the body begins with is not counted twice.
    """
    head = split_words(title)[:MAX_WORDS]
    count = min(len(head), MAX_TITLE_WORDS)
    text = joined_text(excerpt or "", body or "")
    if text:
        head += split_words(text)
        del head[MAX_WORDS:]
    return FoldedText(head, count)


def split_words(text: str) -> list[bytes]:
    """Return the folded words of a text as UTF-8, in order.

    >>> split_words("The Bank\u2019s \ufb01rst CUT")
    [b'the', b'banks', b'first', b'cut']
    """
    # What lies far beyond the last word that counts is cut before any work is done on it.
    text = text[: MAX_WORDS * _WORST_CHARACTERS_A_WORD]
    if text.isascii():
        return text.encode().translate(_ASCII_FOLD, _APOSTROPHE).split()
    text = _INVISIBLE.sub("", unicodedata.normalize("NFKC", text).casefold())
    text = _APOSTROPHES.sub("", unicodedata.normalize("NFKC", text))
    return " ".join(_WORD.findall(text)).encode("utf-8", "replace").split()


def joined_text(excerpt: str, body: str) -> str:
    """Return excerpt and body as one text, without an excerpt that only opens the body."""
    if not body or not excerpt:
        return body or excerpt
    if body.startswith(excerpt.rstrip(" .\u2026")):
        return body
    return f"{excerpt}\n{body}"
