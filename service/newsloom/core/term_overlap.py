"""The cosine of one text and each of a few others: what an article has in common with candidates.

The same number as `stories.cosine_table` gives, without a table: what is shared is looked up
instead of sorted, which is most of the work where a few dozen texts are compared with one.
"""

from collections.abc import Sequence
from typing import Final

import numpy as np
from numpy.typing import NDArray

from newsloom.core.signatures import U32
from newsloom.core.stories import Floats, Rarity
from newsloom.core.text_features import Features

Ints = NDArray[np.int64]

_PLACES: Final = 1 << 16
_PLACE: Final = np.uint32(_PLACES - 1)
_NO_TERM: Final = np.zeros(1, np.uint32)


class TermOverlap:
    """Compares one text with others. Keeps a table of 64K places between calls; not thread-safe."""

    def __init__(self) -> None:
        """Make the table: terms of the one text by their lower 16 bits, counted from 1."""
        self._table = np.zeros(_PLACES, np.int16)

    def cosines(self, one: Features, others: Sequence[Features], rarity: Rarity) -> Floats:
        """Return the cosine of `one` and each of the others, terms weighted by rarity.

        Every text has at least one term.
        """
        texts = [one, *others]
        sizes = np.array([len(text.terms) for text in texts])
        terms = np.concatenate([text.terms for text in texts])
        values = np.concatenate([text.weights for text in texts]) * rarity(terms)
        lengths = np.sqrt(np.add.reduceat(values * values, np.cumsum(sizes) - sizes))
        lengths[lengths == 0] = 1.0
        theirs, own = self._shared(terms, len(one.terms))
        owner = np.repeat(np.arange(len(texts)), sizes).take(theirs)
        products = np.bincount(owner, values.take(theirs) * values.take(own), len(texts))
        cosines: Floats = products[1:] / (lengths[1:] * lengths[0])
        return cosines

    def _shared(self, terms: U32, count: int) -> tuple[Ints, Ints]:
        """Return the places of terms that are among the first `count`, and where there."""
        own, others = terms[:count], terms[count:]
        at = others & _PLACE
        named = np.concatenate((_NO_TERM, own))
        found: list[tuple[Ints, Ints]] = []
        left = np.arange(1, count + 1, dtype=np.int16)
        while len(left):
            places = own[left - 1] & _PLACE
            self._table[places] = left
            numbers = self._table.take(at)
            hits = np.flatnonzero(named.take(numbers) == others)
            found.append((hits + count, numbers[hits].astype(np.int64) - 1))
            # Of terms that share a place the last stands there now; the others take their turn.
            left = left[self._table.take(places) != left]
            self._table[places] = 0
        if len(found) == 1:
            return found[0]
        theirs = np.concatenate([hits for hits, _ in found])
        return theirs, np.concatenate([numbers for _, numbers in found])
