"""The terms by which an article is recognised as telling a story, with their weights.

A term is a stemmed word, a name (a capitalised word), a run of names or a number, as a 32-bit hash.
Words of the title and of the opening sentences weigh more; the weight is the square root of the
weighted count. No term weight depends on other articles: rarity is the index's business.

Stop words and stems are English; other languages go without both and rely on rarity. Scripts
without spaces give pairs of characters.
"""

import re
from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import lru_cache
from itertools import pairwise
from operator import itemgetter
from typing import Final, Self

import numpy as np
from numpy.typing import NDArray
from xxhash import xxh3_64_intdigest

from newsloom.core.folding import joined_text
from newsloom.core.signatures import U32

FEATURES_VERSION: Final = 1
MAX_TERMS: Final = 256
MAX_TEXT_WORDS: Final = 600

_TITLE_WEIGHT: Final = 3.0
_LEAD_WEIGHT: Final = 2.0
_LEAD_SENTENCES: Final = 2
_NAME_WEIGHT: Final = 1.5
_SENTENCE_WORDS: Final = 4
_NAMES_SAY_NOTHING: Final = 0.6
_WEIGHT_SCALE: Final = 16.0
_CHARACTERS_A_WORD: Final = 12

_WORD: Final = re.compile(r"[^\W_]+(?:['\u2019][^\W_]+)*")
_SENTENCE_END: Final = re.compile(r"(?<=[.!?])[\s'\"\u201d]+|[\n\u3002]+")
_SPACELESS: Final = re.compile(
    r"[\u0e00-\u0edf\u1000-\u109f\u1780-\u17ff\u3040-\u30ff\u3400-\u4dbf\u4e00-\u9fff]"
)
_MONTHS: Final = (
    "jan(?:uary)?|feb(?:ruary)?|mar(?:ch)?|apr(?:il)?|may|june?|july?|aug(?:ust)?"
    "|sept?(?:ember)?|oct(?:ober)?|nov(?:ember)?|dec(?:ember)?"
)
# Possessive throughout: a title that is nearly a date line must not take exponential time.
_DATE_LINE: Final = re.compile(
    rf"(?:(?>(?:mon|tues|wednes|thurs|fri|satur|sun)day|{_MONTHS}|last|updated?|published|posted"
    r"|at|on|of|[ap]\.?m\.?|[bcemp][des]?t|gmt|utc|\d++(?:st|nd|rd|th|[ap]m)?)[\W_]*+)++",
    re.IGNORECASE,
)
_LONGEST_DATE_LINE: Final = 100
_STOP_WORDS: Final = frozenset(
    """
    a about above after again against all also am an and any are as at be because been before being
    below between both but by can could did do does doing don down during each few for from further
    had has have having he her here hers him his how however i if in into is it its itself just me
    might more most must my no nor not now of off on once one only or other our ours out over own
    said same say says she should so some such than that the their theirs them then there these
    they this those through to too two under until up upon us very was we were what when where which
    while who whom whose why will with would yet you your yours told according new news mr mrs ms dr
    inc ltd co monday tuesday wednesday thursday friday saturday sunday january february march april
    may june july august september october november december jan feb mar apr jun jul aug sep sept
    oct nov dec pm edt est gmt pst pdt utc first last year years day days week weeks month months
    time today yesterday tomorrow reuters afp
    """.split()  # noqa: SIM905 - a hundred quoted words are harder to read
)


@dataclass(frozen=True, slots=True, eq=False)
class Features:
    """Up to 256 distinct terms, the heaviest first, with weights in sixteenths.

    Stored form: version byte, then 4 bytes a term, then 1 byte a weight.
    """

    terms: U32
    weights: NDArray[np.uint8]

    def to_bytes(self) -> bytes:
        """Return the stored form; `from_bytes` gives equal features back."""
        return bytes([FEATURES_VERSION]) + self.terms.tobytes() + self.weights.tobytes()

    def copy(self) -> Self:
        """Return the same with arrays of its own."""
        return replace(self, terms=self.terms.copy(), weights=self.weights.copy())

    @classmethod
    def from_bytes(cls, stored: bytes) -> Self:
        """Read what `to_bytes` wrote. Raises ValueError for another version or a torn value."""
        count, rest = divmod(len(stored) - 1, 5)
        if not stored or stored[0] != FEATURES_VERSION or rest:
            raise ValueError(f"not features of version {FEATURES_VERSION}")
        terms = np.frombuffer(stored, "<u4", count, 1)
        return cls(terms, np.frombuffer(stored, np.uint8, count, 1 + 4 * count))

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Features) and self.to_bytes() == other.to_bytes()

    def __hash__(self) -> int:
        return hash(self.to_bytes())


NO_FEATURES: Final = Features(np.zeros(0, np.uint32), np.zeros(0, np.uint8))


def features(title: str, excerpt: str | None = None, body: str | None = None) -> Features:
    """Return the terms of one article. Total: any str is accepted.

    A title that is only a date line counts for nothing.
    """
    counts: dict[int, float] = {}
    if not _is_date_line(title.strip()):
        for sentence in _SENTENCE_END.split(title[: 100 * _CHARACTERS_A_WORD]):
            _count(_words(sentence), _TITLE_WEIGHT, counts)
    text = joined_text(excerpt or "", body or "")
    for words, weight in _weighted_sentences(text):
        _count(words, weight, counts)
    # Stable: of equal weights those named first.
    ranked = sorted(counts.items(), key=itemgetter(1), reverse=True)[:MAX_TERMS]
    weights = np.sqrt(np.array([weight for _, weight in ranked], np.float64)) * _WEIGHT_SCALE
    return Features(
        np.array([term for term, _ in ranked], np.uint32),
        np.minimum(np.rint(weights), 255).astype(np.uint8),
    )


def _is_date_line(title: str) -> bool:
    return len(title) <= _LONGEST_DATE_LINE and bool(_DATE_LINE.fullmatch(title))


def _weighted_sentences(text: str) -> Iterator[tuple[list[str], float]]:
    lead = total = 0
    for sentence in _SENTENCE_END.split(text[: MAX_TEXT_WORDS * _CHARACTERS_A_WORD]):
        words = _words(sentence)
        total += len(words)
        if total > MAX_TEXT_WORDS:
            words = words[: MAX_TEXT_WORDS - total]
        weight = 1.0
        if len(words) >= _SENTENCE_WORDS and lead < _LEAD_SENTENCES:
            lead += 1
            weight = _LEAD_WEIGHT
        yield words, weight
        if total > MAX_TEXT_WORDS:
            return


def _words(sentence: str) -> list[str]:
    words = _WORD.findall(sentence)
    if sentence.isascii() or not _SPACELESS.search(sentence):
        return words
    split: list[str] = []
    for word in words:
        pairs = len(word) > 1 and _SPACELESS.match(word)
        split += [a + b for a, b in pairwise(word)] if pairs else [word]
    return split


def _count(words: list[str], weight: float, counts: dict[int, float]) -> None:
    """Add a sentence's terms: words and numbers, and names where capitals mean something."""
    terms = list(map(_term, words))
    named = len(words) < _SENTENCE_WORDS or (
        sum([capital for _, _, _, capital in terms]) <= _NAMES_SAY_NOTHING * len(words)
    )
    name_weight = weight * _NAME_WEIGHT
    get = counts.get
    run: list[str] = []
    for word, (term, name, factor, _) in zip(words, terms, strict=True):
        if term:
            counts[term] = get(term, 0.0) + weight * factor
        if name and named:
            counts[name] = get(name, 0.0) + name_weight
            run.append(word)
        elif run:
            _count_run(run, name_weight, counts)
            run = []
    if run:
        _count_run(run, name_weight, counts)


def _count_run(run: list[str], weight: float, counts: dict[int, float]) -> None:
    if len(run) > 1:
        term = _hash(" ".join(run).lower())
        counts[term] = counts.get(term, 0.0) + weight


@lru_cache(maxsize=1 << 16)
def _term(word: str) -> tuple[int, int, float, bool]:
    """Return the hash of a word as a term (0: none), that of a capitalised one as a name (0: none).

    And the term's factor, and whether there was a capital.
    """
    capital = word[0].isupper()
    word = word.casefold()
    if "'" in word or "\u2019" in word:
        word = word.replace("\u2019", "'").removesuffix("'s").replace("'", "")
    if not word or word in _STOP_WORDS:
        return 0, 0, 0.0, capital
    if word[0].isdigit():
        return _hash(word), 0, _NAME_WEIGHT, capital
    stem = _stem(word) if word.isascii() else word
    term = _hash(stem) if len(stem) > 1 else 0
    return term, _hash("^" + word) if capital else 0, 1.0, capital


def _hash(term: str) -> int:
    # Never 0, which means "none".
    return xxh3_64_intdigest(term.encode("utf-8", "replace")) & 0xFFFFFFFF or 1


_SHORTEST_STEM: Final = 3
_SUFFIXES: Final = ("ing", "ed", "es", "s")


def _stem(word: str) -> str:
    """Take off the commonest English endings; crude, but the same for every form."""
    if len(word) > _SHORTEST_STEM + 1 and word.endswith("ies"):
        return word[:-3] + "y"
    if word.endswith(_SUFFIXES):
        for suffix in _SUFFIXES:
            if len(word) > len(suffix) + _SHORTEST_STEM and word.endswith(suffix):
                if not word.endswith("ss"):
                    word = word[: -len(suffix)]
                break
    if len(word) > _SHORTEST_STEM + 1 and word[-1] == word[-2] and word[-1] not in "aeiouls":
        word = word[:-1]
    return word[:-1] if len(word) > _SHORTEST_STEM + 1 and word[-1] == "e" else word
