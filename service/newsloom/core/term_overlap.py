"""Which terms an article shares with each of its candidates, for a whole batch at once.

Shared terms are found once, by one sort; what they weigh depends on the rarity of terms at the
moment at which the article is looked at, and is worked out then.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

from newsloom.core.signatures import U32
from newsloom.core.stories import Floats, Rarity
from newsloom.core.text_features import Features

Ints = NDArray[np.int64]

_ENTRY_BITS: Final = np.uint64(18)
_OWNER_SHIFT: Final = np.uint64(50)
_ENTRIES: Final = (1 << 18) - 1
_CHUNK_ENTRIES: Final = 1 << 16
"""Terms compared in one go: few enough to stay in the processor's cache."""


@dataclass(frozen=True, slots=True, eq=False)
class Overlap:
    """One article beside its candidates.

    `terms` and `weights` are those of the article, then those of each candidate; text t begins at
    `starts[t]`. Shared term s is `own[s]` in the article and `theirs[s]` in text `text[s]`.
    """

    terms: U32
    weights: Floats
    starts: Ints
    text: Ints
    theirs: Ints
    own: Ints

    def cosines(self, rarity: Rarity) -> Floats:
        """Return the cosine of the article and each candidate, terms weighted by rarity."""
        values = self.weights * rarity(self.terms)
        lengths = np.sqrt(np.add.reduceat(values * values, self.starts))
        lengths[lengths == 0] = 1.0
        shared = values[self.theirs] * values[self.own]
        products = np.bincount(self.text, shared, minlength=len(lengths))
        cosines: Floats = products[1:] / (lengths[1:] * lengths[0])
        return cosines


def overlaps(texts: Sequence[Sequence[Features]]) -> Iterator[Overlap]:
    """Yield for each article, given as [its own terms, those of each candidate], what is shared.

    Every text has at least one term; those of one article have fewer than 2**18 together.
    """
    chunk: list[Sequence[Features]] = []
    entries = 0
    for own_and_candidates in texts:
        more = sum(len(one.terms) for one in own_and_candidates)
        if chunk and entries + more > _CHUNK_ENTRIES:
            yield from _overlaps(chunk)
            chunk, entries = [], 0
        chunk.append(own_and_candidates)
        entries += more
    if chunk:
        yield from _overlaps(chunk)


def _overlaps(chunk: list[Sequence[Features]]) -> Iterator[Overlap]:
    flat = [text for texts in chunk for text in texts]
    sizes = np.array([len(text.terms) for text in flat])
    terms = np.concatenate([text.terms for text in flat])
    weights = np.concatenate([text.weights for text in flat]).astype(np.float64)
    counts = np.array([len(texts) for texts in chunk])
    first_text = np.cumsum(counts) - counts
    starts = np.cumsum(sizes) - sizes
    text_of = np.repeat(np.arange(len(flat)), sizes)
    owner_of = np.repeat(np.arange(len(chunk)), counts)[text_of]
    first_entry = starts[first_text]
    own_ends = first_entry + sizes[first_text]

    keys = owner_of.astype(np.uint64) << _OWNER_SHIFT
    keys |= terms.astype(np.uint64) << _ENTRY_BITS
    keys |= np.arange(len(terms), dtype=np.uint64)
    keys.sort()
    entries = (keys & np.uint64(_ENTRIES)).astype(np.int64)
    keys >>= _ENTRY_BITS
    opens = np.ones(len(keys), np.bool_)
    opens[1:] = keys[1:] != keys[:-1]
    # Of equal terms of one article and its candidates the article's own comes first, if it has it.
    heads = entries[np.maximum.accumulate(np.where(opens, np.arange(len(keys)), 0))]
    shared = np.flatnonzero(~opens & (heads < own_ends[owner_of[heads]]))
    theirs, own = entries[shared], heads[shared]
    owner = owner_of[theirs]
    text = text_of[theirs] - first_text[owner]
    base = first_entry[owner]
    theirs -= base
    own -= base
    bounds = np.searchsorted(owner, np.arange(len(chunk) + 1)).tolist()
    limits = [*first_entry.tolist(), len(terms)]
    texts_from = [*first_text.tolist(), len(flat)]
    for at in range(len(chunk)):
        low, high = bounds[at], bounds[at + 1]
        entries_from, entries_to = limits[at], limits[at + 1]
        yield Overlap(
            terms[entries_from:entries_to],
            weights[entries_from:entries_to],
            starts[texts_from[at] : texts_from[at + 1]] - entries_from,
            text[low:high],
            theirs[low:high],
            own[low:high],
        )
