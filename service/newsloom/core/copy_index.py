"""The copies of a moving window: candidates, exact check, groups.

Candidates come from two sources in one index: the 64 MinHash bands find texts that resemble each
other as wholes, and 64 single shingles (those of smallest hash, and the opening's) find the short
text inside the long one. Both read a bounded number of postings, so that boilerplate shared by
thousands costs no more than anything else.

The index learns boilerplate: a shingle in many texts of the window that are not copies of each
other is common, and counts as nothing from then on.

Everything here is a function of the window's articles with their stored results: an index restored
from `CopyState`s behaves as the one that produced them.
"""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from itertools import islice
from typing import Final
from uuid import UUID

import numpy as np
from numpy.typing import NDArray

from newsloom.core.arrays import distinct
from newsloom.core.copies import (
    DEFAULT_COPY_CONFIG,
    CopyConfig,
    explain_copy,
    is_too_short,
)
from newsloom.core.copy_groups import CopyChange, CopyEdge, CopyGroups, RootKey
from newsloom.core.postings import FOREVER, Hashes, Postings, Window, moved, summed
from newsloom.core.signatures import BANDS, U32, Signature

_SINGLES: Final = 48
_OPENING: Final = 16
_PLACES: Final = BANDS + _SINGLES + _OPENING
_BEFORE_FIRST_SEEN: Final = timedelta(hours=48)
_EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)
_MICROSECOND: Final = timedelta(microseconds=1)
_MIX: Final = np.uint64(0x9E3779B97F4A7C15)
_FOLD: Final = np.uint64(29)
_BAND_SALT: Final = np.arange(1, BANDS + 1, dtype=np.uint64) << np.uint64(40)
_OWNER_SHIFT: Final = np.uint64(32)
_ONE_HIT: Final = 840
"""Divisible by every number of hits up to 8: scores stay whole numbers, so sums are exact."""


@dataclass(frozen=True, slots=True)
class CopyInput:
    """One article as the copy index sees it; `first_seen_at` also places it in the window."""

    article_id: UUID
    signature: Signature
    first_seen_at: datetime
    published_at: datetime | None = None

    def root_key(self) -> RootKey:
        """Return what decides the root: published, but never 48 h before it was first seen."""
        earliest = self.first_seen_at
        if self.published_at is not None:
            earliest = max(self.published_at, self.first_seen_at - _BEFORE_FIRST_SEEN)
        return RootKey((earliest - _EPOCH) // _MICROSECOND, self.article_id)


@dataclass(frozen=True, slots=True)
class CopyState:
    """What has to be stored of one article so that the index can be restored at any point.

    `root` is its group's root (None: in no group), `counted` whether its shingles count towards
    common ones, `edges` its verified pairs. States are restored in the order of observation.
    """

    article: CopyInput
    root: RootKey | None
    counted: bool
    edges: tuple[CopyEdge, ...]


class CopyIndex:
    """See the module's docstring. Mutable state, no IO, no clock; not thread-safe."""

    def __init__(self, config: CopyConfig = DEFAULT_COPY_CONFIG) -> None:
        """Start with an empty window."""
        self._config = config
        self._window = Window()
        self._postings = Postings(_PLACES, config.bucket_bits, self._window.capacity)
        self._seen_us = np.zeros(self._window.capacity, np.int64)
        self._counts = np.zeros(1 << config.bucket_bits, np.uint16)
        self._articles: list[_Held | None] = [None] * self._window.capacity
        self._positions: dict[UUID, int] = {}
        self._groups = CopyGroups()
        self._shingle_bytes = 0

    def __len__(self) -> int:
        """Articles in the window."""
        return len(self._positions)

    def __contains__(self, article_id: UUID) -> bool:
        """Whether the article is in the window."""
        return article_id in self._positions

    @property
    def nbytes(self) -> int:
        """Bytes of the arrays and stored shingles, without Python's objects around them."""
        arrays = self._seen_us.nbytes + self._counts.nbytes
        return self._postings.nbytes + arrays + self._shingle_bytes

    def observe(self, article: CopyInput) -> list[CopyChange]:
        """Add an article, or replace it when it is known, and say what changed.

        A later change of one answer replaces earlier ones of the same article.
        """
        return self.observe_all([article])[0]

    def observe_all(self, articles: Sequence[CopyInput]) -> list[list[CopyChange]]:
        """Do what `observe` would do with one after the other, in a tenth of the time."""
        first = self._take(articles)
        hashes = _hashes([article.signature for article in articles], first, self._config)
        self._postings.add(hashes)
        candidates = self._candidates(hashes, first, len(articles))
        return [
            self._observe(article, first + at, found)
            for at, (article, found) in enumerate(zip(articles, candidates, strict=True))
        ]

    def remove(self, article_id: UUID) -> list[CopyChange]:
        """Take an article out because it was erased; [] when it is not there."""
        position = self._positions.pop(article_id, None)
        if position is None:
            return []
        self._window.end(position, self._window.high)
        self._release(position)
        return self._groups.remove(article_id)

    def forget_before(self, moment: datetime) -> int:
        """Let the window begin at `moment` (by first_seen_at); return how many articles left.

        What they were stays stored: their copies keep them as root.
        """
        low, high = self._window.low, self._window.high
        old = self._seen_us[low:high] < (moment - _EPOCH) // _MICROSECOND
        leaving = np.flatnonzero(old & (self._window.ends[low:high] == FOREVER)) + low
        for position in leaving.tolist():
            self._window.end(position, high)
            article_id = self._release(position)
            del self._positions[article_id]
            self._groups.forget(article_id)
        self._window.trim()
        return len(leaving)

    def state_of(self, article_id: UUID) -> CopyState:
        """Return what is to be stored of an article of the window. KeyError when it is not."""
        held = self._at(self._positions[article_id])
        root, edges = self._groups.root_of(article_id), self._groups.edges_of(article_id)
        return CopyState(held.article, root, held.counted, edges)

    def export(self) -> list[CopyState]:
        """Return the states of the whole window in the order that `restore` wants."""
        return [self.state_of(article_id) for article_id in self._positions]

    def restore(self, states: Iterable[CopyState]) -> None:
        """Fill an empty index with stored states, deciding nothing."""
        for batch in _batches(states):
            articles = [state.article for state in batch]
            first = self._take(articles)
            signatures = [article.signature for article in articles]
            self._postings.add(_hashes(signatures, first, self._config))
            for at, state in enumerate(batch):
                self._hold(first + at, _Held(state.article, state.counted))
                self._groups.restore(state.article.root_key(), state.root, state.edges)

    def _take(self, articles: Sequence[CopyInput]) -> int:
        """Give positions to articles; earlier positions of the same articles end there."""
        if not self._window.has_room(len(articles)):
            self._make_room(len(articles))
        first = self._window.take(len(articles))
        last: dict[UUID, int] = {}
        for position, article in enumerate(articles, first):
            before = last.get(article.article_id, self._positions.get(article.article_id))
            if before is not None:
                self._window.end(before, position)
            last[article.article_id] = position
            self._seen_us[position] = (article.first_seen_at - _EPOCH) // _MICROSECOND
        return first

    def _candidates(self, hashes: Hashes, first: int, count: int) -> list[list[int]]:
        """Return for each article the positions that deserve a look, best first.

        A hash that few articles have says much, one that many have says little.
        """
        config = self._config
        positions, which = self._postings.walk(hashes, self._window, config.chain_cap)
        chosen: list[list[int]] = [[] for _ in range(count)]
        if not len(positions):
            return chosen
        matches = np.bincount(which)
        weights = _ONE_HIT // matches[which]
        pairs = (hashes.owner[which] - first) << _POSITION_BITS | positions
        pairs, scores = summed(pairs, weights)
        enough = scores >= _ONE_HIT
        pairs, scores = pairs[enough], scores[enough]
        owners, positions = pairs >> _POSITION_BITS, pairs & ((1 << _POSITION_BITS) - 1)
        # Best first; of equals the newest.
        for at in np.lexsort((-positions, -scores)).tolist():
            own = chosen[owners[at]]
            if len(own) < config.verify_cap:
                own.append(int(positions[at]))
        return chosen

    def _observe(self, article: CopyInput, position: int, found: list[int]) -> list[CopyChange]:
        changes: list[CopyChange] = []
        before = self._positions.pop(article.article_id, None)
        if before is not None:
            self._release(before)
            changes = self._groups.remove(article.article_id)
        edges = self._edges(article, found) if found else []
        strong = any(edge.containment >= self._config.strong for edge in edges)
        self._hold(position, _Held(article, not strong))
        return changes + self._groups.add(article.root_key(), edges)

    def _edges(self, article: CopyInput, found: list[int]) -> list[CopyEdge]:
        """Return the verified pairs, best first; no more than a few into each group."""
        config, signature = self._config, article.signature
        common = self._common(signature)
        mine = set(signature.shingles.tolist()).difference(common.tolist())
        verified: dict[object, int] = {}
        edges = []
        for position in found:
            other = self._at(position).article
            group = self._groups.root_of(other.article_id) or other.article_id
            if verified.get(group, 0) >= config.pairs_a_group:
                continue
            theirs = other.signature.shingles.tolist()
            shared = len(mine.intersection(theirs))
            if 4 * shared < config.containment * min(len(mine), len(theirs)):
                continue
            verdict = explain_copy(signature, other.signature, config, common)
            if verdict.is_copy:
                verified[group] = verified.get(group, 0) + 1
                edges.append(
                    CopyEdge(
                        article.article_id, other.article_id, verdict.jaccard, verdict.containment
                    )
                )
        edges.sort(key=lambda edge: (-edge.containment, -edge.jaccard))
        return edges

    def _common(self, signature: Signature) -> U32:
        """Return the article's shingles that are boilerplate, sorted."""
        counts = self._counts[self._buckets(signature)]
        return distinct(signature.shingles[counts >= self._config.common_after])

    def _buckets(self, signature: Signature) -> U32:
        # Shingle hashes are uniform: their lower bits are a bucket.
        return signature.shingles & np.uint32(len(self._counts) - 1)

    def _hold(self, position: int, held: "_Held") -> None:
        self._positions[held.article.article_id] = position
        self._articles[position] = held
        self._shingle_bytes += held.article.signature.shingles.nbytes
        if held.counted:
            # Buffered: a bucket counts once an article, also when it is named twice.
            self._counts[self._buckets(held.article.signature)] += np.uint16(1)

    def _release(self, position: int) -> UUID:
        held = self._at(position)
        self._articles[position] = None
        self._shingle_bytes -= held.article.signature.shingles.nbytes
        if held.counted:
            self._counts[self._buckets(held.article.signature)] -= np.uint16(1)
        return held.article.article_id

    def _at(self, position: int) -> "_Held":
        held = self._articles[position]
        if held is None:
            raise KeyError(position)
        return held

    def _make_room(self, count: int) -> None:
        low, high = self._window.low, self._window.high
        shift, capacity = self._window.make_room(count)
        self._postings.renumber(shift, high, capacity)
        self._seen_us = moved(self._seen_us, low, high, capacity)
        self._articles = self._articles[low:high]
        self._articles += [None] * (capacity - len(self._articles))
        self._positions = {key: at - shift for key, at in self._positions.items()}


@dataclass(frozen=True, slots=True)
class _Held:
    article: CopyInput
    counted: bool


_POSITION_BITS: Final = 25
"""A posting is 32 bits: 128 places of fewer than 2**25 positions."""
_BATCH: Final = 512


def _batches(states: Iterable[CopyState]) -> Iterator[list[CopyState]]:
    source = iter(states)
    while batch := list(islice(source, _BATCH)):
        yield batch


def _hashes(signatures: Sequence[Signature], first: int, config: CopyConfig) -> Hashes:
    """Return the index entries: 64 bands (told apart by their number) and up to 64 shingles.

    Texts that are too short to judge have none.
    """
    sizes = np.array([len(signature.shingles) for signature in signatures])
    titles = np.array([signature.title_shingles for signature in signatures])
    starts = np.cumsum(sizes) - sizes
    owners = np.repeat(np.arange(len(sizes)), sizes)
    shingles = np.concatenate([signature.shingles for signature in signatures])
    keys = owners.astype(np.uint64) << _OWNER_SHIFT | shingles
    after_title = np.arange(len(keys)) - (starts + titles)[owners]
    once = distinct(keys)
    whose = (once >> _OWNER_SHIFT).astype(np.int64)
    counts = np.bincount(whose, minlength=len(sizes))
    # Smallest hashes: the same choice in every text, whatever its length.
    rank = np.arange(len(once)) - (np.cumsum(counts) - counts)[whose]
    opening = keys[(after_title >= 0) & (after_title < _OPENING)]
    singles = distinct(np.concatenate((once[rank < _SINGLES], opening)))
    usable = np.array([not is_too_short(signature, config) for signature in signatures])
    whose = (singles >> _OWNER_SHIFT).astype(np.int64)
    keep = usable[whose]
    singles, whose = singles[keep], whose[keep]
    counts = np.bincount(whose, minlength=len(sizes))
    place = np.arange(len(singles)) - (np.cumsum(counts) - counts)[whose]
    judged = np.flatnonzero(usable)
    bands = [signatures[at].bands.astype(np.uint64) + _BAND_SALT for at in judged.tolist()]
    return Hashes(
        _mixed(np.concatenate([*bands, singles & np.uint64(0xFFFFFFFF)])),
        first + np.concatenate((np.repeat(judged, BANDS), whose)),
        np.concatenate((np.tile(np.arange(BANDS), len(judged)), BANDS + place)),
    )


def _mixed(values: NDArray[np.uint64]) -> NDArray[np.uint64]:
    values *= _MIX
    values ^= values >> _FOLD
    values *= _MIX
    values ^= values >> _FOLD
    return values
