"""Chains of postings: what is found, and how much is looked at for it."""

import numpy as np
import pytest

from newsloom.core import postings
from newsloom.core.postings import Hashes, Postings, Window, summed

RARE = (7 << 48) | 1
COMMON = (9 << 48) | 1
"""Another hash in the same bucket: only the tag tells them apart."""


def hashes(values: list[int], first: int) -> Hashes:
    """One hash an article."""
    count = len(values)
    return Hashes(
        np.array(values, np.uint64), np.arange(first, first + count), np.zeros(count, np.int64)
    )


class Index:
    """Postings with their window; each article has one hash."""

    def __init__(self) -> None:
        self.window = Window(4096)
        self.postings = Postings(1, 8, 4096)

    def add(self, *values: int) -> None:
        first = self.window.take(len(values))
        self.postings.add(hashes(list(values), first))

    def find(self, value: int, cap: int = 8) -> list[int]:
        first = self.window.take(1)
        asked = hashes([value], first)
        self.postings.add(asked)
        positions, _ = self.postings.walk(asked, self.window, cap)
        return sorted(positions.tolist())


def test_the_newest_postings_of_a_hash_are_found_up_to_the_cap() -> None:
    index = Index()
    index.add(RARE, COMMON, RARE, RARE, COMMON)
    assert index.find(RARE, cap=2) == [2, 3]
    assert index.find(COMMON) == [1, 4]


def test_a_chain_is_looked_at_to_a_depth_not_to_its_end() -> None:
    near, far = Index(), Index()
    near.add(RARE, *[COMMON] * 127)
    far.add(RARE, *[COMMON] * 128)
    assert near.find(RARE) == [0]
    assert far.find(RARE) == []


def test_postings_that_a_restored_index_would_not_have_do_not_count() -> None:
    index = Index()
    index.add(RARE, *[COMMON] * 500)
    for position in range(1, 400):
        index.window.end(position, index.window.high)
    assert index.find(RARE) == [0]


def test_weights_are_summed_by_key() -> None:
    keys, sums = summed(np.array([5, 2, 5, 1 << 46]), np.array([3, 1, 65_535, 9]))
    assert keys.tolist() == [2, 5, 1 << 46]
    assert sums.tolist() == [1, 65_538, 9]


def test_a_window_says_so_when_it_can_hold_no_more(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(postings, "MAX_POSITIONS", 100)
    window = Window(16)
    for _ in range(10):
        if not window.has_room(10):
            window.make_room(10)
        window.take(10)
    assert window.capacity == 100

    with pytest.raises(OverflowError, match="more than 100 articles; NEWSLOOM_LINK_WINDOW_HOURS"):
        window.make_room(1)

    window.low = 30  # what the window has left behind makes room again
    assert window.make_room(1) == (30, 100)
