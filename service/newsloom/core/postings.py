"""A compact inverted index over a moving window: chains of postings in flat arrays.

Each article occupies one position, a number that only grows, and has up to `width` postings. All
postings whose hash falls into one bucket form a chain, newest first; a 16-bit tag tells apart the
hashes that share a bucket. A whole batch is added and looked up with a few vector operations. For a
hash no more than `cap` postings are read, nor more than 128 of its chain, so one article costs the
same whatever the window holds. Each article sees what was alive just before its own position, so
the answers do not depend on how a stream is cut into batches. Memory: 6 bytes a posting place, 4
bytes a bucket.

Positions are renumbered from time to time (`Window.make_room`), which changes no answer.
"""

from dataclasses import dataclass
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

Array = NDArray[Any]
Ints = NDArray[np.int64]

_TAG_SHIFT: Final = np.uint64(48)
_ENTRY_BITS: Final = np.uint64(32)
_DEEPEST: Final = 128
"""Postings of a chain that are looked at for one hash, whatever their hash is."""
_WEIGHT_BITS: Final = 16
_WEIGHTS: Final = (1 << _WEIGHT_BITS) - 1
FOREVER: Final = np.iinfo(np.int64).max
MAX_POSITIONS: Final = (1 << 25) - 1
"""Postings and their places are numbered in 32 bits, 25 of them for the position."""


class Window:
    """Positions in use: `low <= position < high`, and until which position each is alive."""

    def __init__(self, capacity: int = 1024) -> None:
        """Start empty with room for `capacity` positions; grows by itself."""
        self.low = 0
        self.high = 0
        self.ends = np.zeros(capacity, np.int64)

    @property
    def capacity(self) -> int:
        """Positions there is room for before the next renumbering."""
        return len(self.ends)

    def has_room(self, count: int) -> bool:
        """Whether `count` positions can be taken before `make_room` is due."""
        return self.high + count <= self.capacity

    def make_room(self, count: int) -> tuple[int, int]:
        """Renumber so that `count` more fit; return (shift, capacity).

        Every position kept elsewhere goes down by `shift`; room doubles until it is half empty.
        Raises OverflowError when a window would hold more than `MAX_POSITIONS`.
        """
        shift, used = self.low, self.high - self.low
        if used + count > MAX_POSITIONS:
            raise OverflowError(
                f"the linker's window would hold more than {MAX_POSITIONS} articles;"
                " NEWSLOOM_LINK_WINDOW_HOURS has to be less"
            )
        capacity = self.capacity
        while 2 * (used + count) > capacity and capacity < MAX_POSITIONS:
            capacity = min(2 * capacity, MAX_POSITIONS)
        self.ends = moved(self.ends, shift, self.high, capacity)
        self.ends[:used] -= np.where(self.ends[:used] == FOREVER, 0, shift)
        self.low, self.high = 0, used
        return shift, capacity

    def take(self, count: int) -> int:
        """Return the first of `count` new positions, alive from now on."""
        first = self.high
        self.high += count
        self.ends[first : self.high] = FOREVER
        return first

    def end(self, position: int, at: int) -> None:
        """Let one position be dead for all positions from `at` on."""
        self.ends[position] = at

    def trim(self) -> None:
        """Move the lower edge past what is dead for everybody."""
        dead = self.ends[self.low : self.high] <= self.high
        self.low = self.high if dead.all() else self.low + int(np.argmin(dead))


def moved(array: Array, low: int, high: int, capacity: int) -> Array:
    """Return `array[low:high]` at the start of a zeroed array of `capacity` rows."""
    fresh = np.zeros((capacity, *array.shape[1:]), array.dtype)
    fresh[: high - low] = array[low:high]
    return fresh


@dataclass(frozen=True, slots=True, eq=False)
class Hashes:
    """The distinct 64-bit hashes of some articles, one after the other.

    `owner[i]` is the position of the article that hash i belongs to, `place[i]` its place there.
    """

    values: NDArray[np.uint64]
    owner: Ints
    place: Ints


class Postings:
    """Chains of (position, place) by hash; see the module's docstring."""

    def __init__(self, width: int, bucket_bits: int, capacity: int) -> None:
        """`width` postings an article, 2**bucket_bits chains; hashes are uniform 64-bit values."""
        self._width = width
        self._mask = np.uint64((1 << bucket_bits) - 1)
        # Entry numbers are stored plus one, so that untouched (never paged in) zeros mean "end".
        self._heads = np.zeros(1 << bucket_bits, np.uint32)
        self._previous = np.zeros((capacity, width), np.uint32)
        self._tags = np.zeros((capacity, width), np.uint16)

    @property
    def nbytes(self) -> int:
        """Bytes reserved (the operating system maps untouched pages lazily)."""
        return self._heads.nbytes + self._previous.nbytes + self._tags.nbytes

    def add(self, hashes: Hashes) -> None:
        """Put articles at the front of the chains of their hashes, in the order of positions."""
        entries = hashes.owner * self._width + hashes.place
        self._tags.reshape(-1)[entries] = (hashes.values >> _TAG_SHIFT).astype(np.uint16)
        keys = (hashes.values & self._mask) << _ENTRY_BITS
        keys |= entries.astype(np.uint64)
        keys.sort()
        buckets, entries = (keys >> _ENTRY_BITS).astype(np.int64), keys.astype(np.uint32)
        previous = self._heads[buckets]
        again = np.flatnonzero(buckets[1:] == buckets[:-1])
        previous[again + 1] = entries[again] + np.uint32(1)
        self._previous.reshape(-1)[entries] = previous
        last = np.ones(len(buckets), np.bool_)
        last[again] = False
        self._heads[buckets[last]] = entries[last] + np.uint32(1)

    def walk(self, hashes: Hashes, window: Window, cap: int) -> tuple[Ints, Ints]:
        """Return (positions, indices into `hashes`): the newest `cap` postings of each hash.

        The hashes were added before; only postings older than their owner and alive for it are
        returned, in no promised order.
        """
        tags = (hashes.values >> _TAG_SHIFT).astype(np.uint16)
        owners = hashes.owner
        oldest = window.low * self._width
        entries = self._previous[owners, hashes.place].astype(np.int64) - 1
        which = np.flatnonzero(entries >= oldest)
        entries = entries[which]
        left = np.full(len(tags), cap, np.int32)
        depth = np.full(len(tags), _DEEPEST, np.int32)
        previous, all_tags = self._previous.reshape(-1), self._tags.reshape(-1)
        found = [(_NONE, _NONE)]
        while len(entries):
            positions = entries // self._width
            # Counted are only those that an index restored from storage would meet as well.
            alive = window.ends[positions] > owners[which]
            depth[which] -= alive
            same = np.flatnonzero(alive & (all_tags[entries] == tags[which]))
            hits = which[same]
            found.append((positions[same], hits))
            left[hits] -= 1
            entries = previous[entries].astype(np.int64) - 1
            keep = (entries >= oldest) & (left[which] > 0) & (depth[which] > 0)
            entries, which = entries[keep], which[keep]
        return np.concatenate([at for at, _ in found]), np.concatenate([hit for _, hit in found])

    def renumber(self, shift: int, high: int, capacity: int) -> None:
        """Follow `Window.make_room`: all positions below `high` go down by `shift`."""
        entries = shift * self._width
        self._previous = moved(self._previous, shift, high, capacity)
        self._tags = moved(self._tags, shift, high, capacity)
        for array in (self._heads, self._previous.reshape(-1)):
            _lower(array, entries)


def summed(keys: Ints, weights: Ints) -> tuple[Ints, Ints]:
    """Return the distinct keys (below 2**47), sorted, and the sum of the weights of each.

    Weights are whole numbers below 2**16, so that the order of what is summed does not matter.
    """
    packed = keys << _WEIGHT_BITS | weights
    packed.sort()
    keys = packed >> _WEIGHT_BITS
    starts = np.flatnonzero(np.concatenate((_FIRST, keys[1:] != keys[:-1])))
    return keys[starts], np.add.reduceat(packed & _WEIGHTS, starts)


def _lower(entries: NDArray[np.uint32], by: int) -> None:
    """Subtract in place; what falls below the window becomes "end of chain"."""
    if not by:
        return
    live = entries > by
    np.subtract(entries, np.uint32(by), out=entries, where=live)
    entries[~live] = 0


_FIRST: Final = np.ones(1, np.bool_)
_NONE: Final = np.zeros(0, np.int64)
