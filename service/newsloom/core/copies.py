"""Copies: does one text repeat another's? The judgement of a pair, with its numbers.

Evidence are the sets of word 3-shingles: Jaccard (shared / all) and containment (shared / smaller).
Three things look like copies and are not, and have a verdict of their own:

- a shared headline: the shared shingles must be in the texts, not in the titles alone;
- shared boilerplate: one unbroken block, away from the opening, between texts that otherwise have
  nothing in common; and shingles that the index has learned to be common (`CopyIndex`) count as
  nothing;
- one template with other numbers: between the same words stand other numbers.

A text of fewer than `min_shingles` distinct shingles, or of fewer than `min_text_shingles` without
its title, is too short to judge.
"""

from dataclasses import dataclass
from enum import StrEnum
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from newsloom.core.arrays import distinct
from newsloom.core.signatures import U32, Signature

COPY_VERSION: Final = 1
"""Version of the judgement; stored with every link, raised when a verdict can change."""


class CopyReason(StrEnum):
    """Why two texts are, or are not, copies. A closed set."""

    COPY = "copy"
    TOO_SHORT = "too-short"
    DIFFERENT = "different"
    TITLE_ONLY = "title-only"
    BOILERPLATE = "boilerplate"
    OTHER_NUMBERS = "other-numbers"


@dataclass(frozen=True, slots=True)
class CopyConfig:
    """Thresholds of the judgement and bounds of the index.

    A pair is a copy from `jaccard` or `containment` upwards. From the containment `strong` upwards
    nothing but other numbers speaks against it. `text_share` of a text (its title apart) must
    be shared. `other_numbers` is the share of conflicting numbers that makes two texts different,
    unless there is less than one in `words_a_number` shared words. A shingle that `common_after`
    texts of the window have without being copies is common. `bucket_bits` sizes the index: 2**n
    chains of 4 bytes and as many counters of 2. `chain_cap` postings are read of a hash,
    `verify_cap` candidates looked at, `pairs_a_group` verified pairs kept with one group.
    """

    jaccard: float = 0.3
    containment: float = 0.5
    strong: float = 0.8
    min_shingles: int = 12
    min_text_shingles: int = 5
    text_share: float = 0.3
    other_numbers: float = 0.5
    words_a_number: int = 80
    common_after: int = 16
    bucket_bits: int = 24
    chain_cap: int = 8
    verify_cap: int = 12
    pairs_a_group: int = 2


@dataclass(frozen=True, slots=True)
class CopyVerdict:
    """The judgement of one pair with its numbers.

    `shared` counts distinct shingles in both; `jaccard` and `containment` are over all shingles
    that are not known to be common. Of the places that both texts have and where both name a number
    (the same words around), `numbers_shared` name the same, `numbers_against` another.
    """

    reason: CopyReason
    jaccard: float
    containment: float
    shared: int
    numbers_shared: int
    numbers_against: int
    version: int = COPY_VERSION

    @property
    def is_copy(self) -> bool:
        """Whether the two texts are copies of each other."""
        return self.reason is CopyReason.COPY


DEFAULT_COPY_CONFIG: Final = CopyConfig()


def is_too_short(signature: Signature, config: CopyConfig = DEFAULT_COPY_CONFIG) -> bool:
    """Whether the text (beside its title) is too short for any judgement about copies."""
    shingles = signature.shingles.tolist()
    text = shingles[signature.title_shingles :]
    return len(set(shingles)) < config.min_shingles or len(set(text)) < config.min_text_shingles


def explain_copy(
    a: Signature,
    b: Signature,
    config: CopyConfig = DEFAULT_COPY_CONFIG,
    common: U32 | None = None,
) -> CopyVerdict:
    """Judge one pair of texts; symmetric.

    `common` are shingles known to be boilerplate: they count as nothing. A text that has nothing
    else is too short to judge.
    """
    left, right = _Side.of(a, common), _Side.of(b, common)
    in_right, in_left = _member(left.kept, right.unique), _member(right.kept, left.unique)
    shared = len(distinct(left.kept[in_right]))
    smaller = min(len(left.unique), len(right.unique))
    union = len(left.unique) + len(right.unique) - shared
    agreeing, against = _compare_numbers(a.numbers, b.numbers)
    verdict = CopyVerdict(
        reason=CopyReason.DIFFERENT,
        jaccard=shared / union if union else 0.0,
        containment=shared / smaller if smaller else 0.0,
        shared=shared,
        numbers_shared=agreeing,
        numbers_against=against,
    )
    reason = _reason(verdict, (left, right), (in_right, in_left), config)
    return verdict if reason is verdict.reason else _with_reason(verdict, reason)


@dataclass(frozen=True, slots=True, eq=False)
class _Side:
    """One text without its common shingles: in text order, and distinct."""

    kept: U32
    unique: U32
    title: int

    @classmethod
    def of(cls, signature: Signature, common: U32 | None) -> "_Side":
        kept, title = signature.shingles, signature.title_shingles
        if common is not None and len(common):
            own = ~_member(kept, common)
            title = int(np.count_nonzero(own[:title]))
            kept = kept[own]
        return cls(kept, distinct(kept), title)


def _reason(
    verdict: CopyVerdict,
    sides: tuple[_Side, _Side],
    hits: tuple[NDArray[np.bool_], NDArray[np.bool_]],
    config: CopyConfig,
) -> CopyReason:
    texts = [len(distinct(side.kept[side.title :])) for side in sides]
    wholes = [len(side.unique) for side in sides]
    if min(wholes) < config.min_shingles or min(texts) < config.min_text_shingles:
        return CopyReason.TOO_SHORT
    if verdict.jaccard < config.jaccard and verdict.containment < config.containment:
        return CopyReason.DIFFERENT
    in_texts = [
        len(distinct(side.kept[side.title :][hit[side.title :]]))
        for side, hit in zip(sides, hits, strict=True)
    ]
    if min(in_texts) < config.text_share * min(texts):
        return CopyReason.TITLE_ONLY
    if _other_numbers(verdict, config):
        return CopyReason.OTHER_NUMBERS
    if verdict.containment < config.strong and all(
        _one_late_block(hit[side.title :]) for side, hit in zip(sides, hits, strict=True)
    ):
        return CopyReason.BOILERPLATE
    return CopyReason.COPY


def _compare_numbers(a: U32, b: U32) -> tuple[int, int]:
    if not len(a) or not len(b):
        return 0, 0
    left, right = _by_context(a), _by_context(b)
    places = left.keys() & right.keys()
    agreeing = sum(not left[place].isdisjoint(right[place]) for place in places)
    return agreeing, len(places) - agreeing


def _by_context(numbers: U32) -> dict[int, set[int]]:
    found: dict[int, set[int]] = {}
    for context, number in numbers.tolist():
        found.setdefault(context, set()).add(number)
    return found


def _other_numbers(verdict: CopyVerdict, config: CopyConfig) -> bool:
    against = verdict.numbers_against
    named = against + verdict.numbers_shared
    # A long text with one number changed was edited; a template differs in number after number.
    rare = against * config.words_a_number < verdict.shared
    return against > 0 and not rare and against >= config.other_numbers * named


_BLOCK_SHARE: Final = 0.9
_OPENING_SHARE: Final = 0.25
_OPENING_SHINGLES: Final = 10
_LONGEST_BOILERPLATE: Final = 160


def _one_late_block(hit: NDArray[np.bool_]) -> bool:
    """Whether what is shared is one block that leaves the opening of this text alone.

    A reprint keeps the opening or has its edits all over; a standing paragraph ("About the
    publisher") does neither.
    """
    total = int(np.count_nonzero(hit))
    if not total:
        return False
    edges = np.flatnonzero(np.diff(np.concatenate(([False], hit, [False]))))
    starts, ends = edges[::2], edges[1::2]
    longest = int(np.argmax(ends - starts))
    length = int(ends[longest] - starts[longest])
    opening = max(_OPENING_SHINGLES, int(_OPENING_SHARE * len(hit)))
    return (
        length >= _BLOCK_SHARE * total
        and length <= _LONGEST_BOILERPLATE
        and int(starts[longest]) >= opening
    )


def _member(values: NDArray[Any], sorted_set: NDArray[Any]) -> NDArray[np.bool_]:
    """Whether each value is in a sorted array."""
    if not len(sorted_set):
        return np.zeros(len(values), np.bool_)
    at = np.searchsorted(sorted_set, values)
    at[at == len(sorted_set)] = 0
    found: NDArray[np.bool_] = sorted_set[at] == values
    return found


def _with_reason(verdict: CopyVerdict, reason: CopyReason) -> CopyVerdict:
    return CopyVerdict(
        reason,
        verdict.jaccard,
        verdict.containment,
        verdict.shared,
        verdict.numbers_shared,
        verdict.numbers_against,
    )
