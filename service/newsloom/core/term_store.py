"""The terms of a window's articles in flat arrays, and how much of them two articles share.

One article's terms lie together, in the order of positions, so that those of a few hundred articles
are fetched with two vector operations: arrays of their own would be a cache miss each. Memory: 5
bytes a term and 12 a position.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

from newsloom.core.postings import moved
from newsloom.core.signatures import U32
from newsloom.core.stories import Floats, Rarity
from newsloom.core.text_features import Features

Ints = NDArray[np.int64]

_TOGETHER: Final = 64
"""Articles whose candidates' terms are fetched at once: as many as fit into a cache."""
_PLACES: Final = 1 << 16
_PLACE: Final = np.uint32(_PLACES - 1)
_NO_TERM: Final = np.zeros(1, np.uint32)


@dataclass(frozen=True, slots=True, eq=False)
class Texts:
    """The terms of some texts, one after the other, and how many each has."""

    terms: U32
    weights: NDArray[np.uint8]
    sizes: Ints


class TermStore:
    """Terms and weights by position. Mutable; not thread-safe."""

    def __init__(self, capacity: int) -> None:
        """Start empty with room for `capacity` positions."""
        self._starts = np.zeros(capacity, np.int64)
        self._sizes = np.zeros(capacity, np.int32)
        self._terms = np.zeros(64 * capacity, np.uint32)
        self._weights = np.zeros(64 * capacity, np.uint8)
        self._used = 0

    @property
    def nbytes(self) -> int:
        """Bytes reserved."""
        arrays = (self._starts, self._sizes, self._terms, self._weights)
        return sum(array.nbytes for array in arrays)

    def add(self, first: int, articles: Sequence[Features]) -> None:
        """Store the terms of articles at `first` and the positions after it."""
        sizes = np.array([len(article.terms) for article in articles])
        ends = self._used + sizes.cumsum()
        end = int(ends[-1])
        if end > len(self._terms):
            capacity = max(2 * len(self._terms), end)
            self._terms = moved(self._terms, 0, self._used, capacity)
            self._weights = moved(self._weights, 0, self._used, capacity)
        self._starts[first : first + len(sizes)] = ends - sizes
        self._sizes[first : first + len(sizes)] = sizes
        self._terms[self._used : end] = np.concatenate([article.terms for article in articles])
        self._weights[self._used : end] = np.concatenate([article.weights for article in articles])
        self._used = end

    def at(self, position: int) -> Features:
        """Return the terms of one article; good until the next change of the store."""
        low = self._starts[position]
        high = low + self._sizes[position]
        return Features(self._terms[low:high], self._weights[low:high])

    def has_terms(self, positions: list[int]) -> list[bool]:
        """Whether each article has any term."""
        has: list[bool] = (self._sizes[positions] > 0).tolist()
        return has

    def texts(self, positions: Sequence[int]) -> Texts:
        """Return the terms of some articles."""
        (found,) = self.each([np.array(positions)])
        return found

    def each(self, groups: Sequence[Ints]) -> Iterator[Texts]:
        """Yield the terms of group after group of articles; fetched for many groups at once."""
        for low in range(0, len(groups), _TOGETHER):
            part = groups[low : low + _TOGETHER]
            positions = np.concatenate(part)
            sizes = self._sizes[positions].astype(np.int64)
            ends = sizes.cumsum()
            places: Ints = np.repeat(self._starts[positions] - (ends - sizes), sizes)
            places += np.arange(len(places))
            terms, weights = self._terms.take(places), self._weights.take(places)
            last = np.cumsum([len(group) for group in part])
            begin = text = 0
            for until, end in zip(last.tolist(), ends[last - 1].tolist(), strict=True):
                yield Texts(terms[begin:end], weights[begin:end], sizes[text:until])
                begin, text = end, until

    def renumber(self, shift: int, high: int, capacity: int) -> None:
        """Follow `Window.make_room`: all positions below `high` go down by `shift`."""
        begin = int(self._starts[shift]) if shift < high else self._used
        self._starts = moved(self._starts, shift, high, capacity)
        self._starts[: high - shift] -= begin
        self._sizes = moved(self._sizes, shift, high, capacity)
        used = self._used - begin
        room = max(2 * used, 64)
        self._terms = moved(self._terms, begin, self._used, room)
        self._weights = moved(self._weights, begin, self._used, room)
        self._used = used


class TermOverlap:
    """Compares one text with others. Keeps a table of 64K places between calls; not thread-safe.

    The same number as `stories.cosine_table` gives, without a table: shared terms are looked up
    instead of sorted, which is most of the work where a few dozen texts are compared with one.
    """

    def __init__(self) -> None:
        """Make the table: terms of the one text by their lower 16 bits, counted from 1."""
        self._table = np.zeros(_PLACES, np.int16)

    def cosines(self, texts: Texts, rarity: Rarity) -> Floats:
        """Return the cosine of the first text and each of the others, terms weighted by rarity.

        Every text has at least one term.
        """
        terms, sizes = texts.terms, texts.sizes
        values = texts.weights * rarity(terms)
        lengths = np.sqrt(np.add.reduceat(values * values, sizes.cumsum() - sizes))
        lengths[lengths == 0] = 1.0
        theirs, own = self._shared(terms, int(sizes[0]))
        owner = np.repeat(np.arange(len(sizes)), sizes).take(theirs)
        products = np.bincount(owner, values.take(theirs) * values.take(own), len(sizes))
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
