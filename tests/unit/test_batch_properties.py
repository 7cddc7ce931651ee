"""As if one by one: what a partition's deliveries become does not depend on batch boundaries.

Made-up deliveries over four URLs only, so that nearly everything collides: bridges, mentions of
mentions, equal times, records that name themselves. Where no two contents share a time, the
independent judge of tests/support/oracle.py has to agree as well.
"""

import asyncio
import json
from collections.abc import Sequence
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from newsloom.adapters.memory import MemoryStore
from newsloom.core.batch import Item, StoredState, Writes
from newsloom.core.fold import fold
from newsloom.decoding import decode_deliveries
from newsloom.ports import Batch, Delivery, TopicPartition
from tests.support import oracle
from tests.support.generator import Stream

T0 = datetime(2024, 1, 1, tzinfo=UTC)
URLS = [f"https://outlet{n}.example/{n}" for n in range(4)]

_urls = st.lists(st.sampled_from(URLS), min_size=1, max_size=2, unique=True)
_titles = st.sampled_from(["Bees", "Wasps"])


@st.composite
def _entries(draw: st.DrawFn) -> dict[str, Any]:
    web, *amp = draw(_urls)
    entry: dict[str, Any] = {"title": draw(_titles), "webUrl": web}
    return entry | ({"ampWebUrl": amp[0]} if amp else {})


@st.composite
def _records(draw: st.DrawFn) -> dict[str, Any]:
    original, *web = draw(_urls)
    record: dict[str, Any] = {
        "title": draw(_titles),
        "originalUrl": original,
        "heat": draw(st.sampled_from([-1, 1, 2])),
        "secured": draw(st.sampled_from(["a;b", "c;d"])),
        "related": draw(st.lists(_entries(), max_size=2)),
    }
    if draw(st.integers(0, 19)) == 0:
        del record["title"]
    return record | ({"webUrl": web[0]} if web else {})


def _streams(minutes: int) -> st.SearchStrategy[list[tuple[int, dict[str, Any]]]]:
    """Streams of (minute observed, record); few minutes make ties, many make none."""
    return st.lists(st.tuples(st.integers(0, minutes), _records()), min_size=1, max_size=12)


def _items(stream: Sequence[tuple[int, dict[str, Any]]]) -> Sequence[Item]:
    deliveries = [
        Delivery(
            "t",
            0,
            offset,
            int((T0 + timedelta(minutes=minute)).timestamp() * 1000),
            None,
            json.dumps(record).encode(),
        )
        for offset, (minute, record) in enumerate(stream)
    ]
    return decode_deliveries(deliveries).items


def _judge(stream: Sequence[tuple[int, dict[str, Any]]]) -> tuple[oracle.Oracle, list[str]]:
    judge = oracle.Oracle()
    deliveries = [
        oracle.Delivery("t", 0, offset, record, T0 + timedelta(minutes=minute))
        for offset, (minute, record) in enumerate(stream)
    ]
    try:
        return judge, judge.feed_all(deliveries)
    except oracle.TieError:
        assume(False)  # noqa: FBT003 - hypothesis's own signature
        raise


@given(_streams(minutes=10_000))
@settings(max_examples=120, deadline=None)
def test_one_batch_gives_what_the_judge_says(stream: list[tuple[int, dict[str, Any]]]) -> None:
    judge, outcomes = _judge(stream)
    writes = fold(_items(stream), StoredState({}, {}))
    assert [outcome.value for _, outcome in writes.report.each] == outcomes
    assert _found(writes) == _expected(judge)


def _found(writes: Writes) -> dict[str, object]:
    heads = {head.article_id: head for head in writes.new_heads}
    alive = [head for head in heads.values() if head.merged_into is None]
    return {
        "articles": {
            h.article_id: (h.revision, h.is_mention, h.first_seen_at, h.observed_at) for h in alive
        },
        "moved": {i: h.merged_into for i, h in heads.items() if h.merged_into is not None},
        "urls": {key: alias.article_id for key, alias in writes.new_aliases.items()},
        "edges": {
            row.article_id: edges
            for row in writes.new_contents
            if (edges := [target for target in row.content.related if target is not None])
        },
        "rejected": [letter.offset for letter in writes.dead_letters],
    }


def _expected(judge: oracle.Oracle) -> dict[str, object]:
    return {
        "articles": {
            a.article_id: (a.revisions, not a.full, a.first_seen_at, a.observed_at)
            for a in judge.articles.values()
        },
        "moved": {gone: judge.resolve(gone) for gone in judge.moved},
        "urls": {key: judge.resolve(owner) for key, owner in judge.owner.items()},
        "edges": judge.edges(),
        "rejected": [letter.offset for letter in judge.dead_letters],
    }


@given(_streams(minutes=5))
@settings(max_examples=120, deadline=None)
def test_batches_of_one_two_and_all_give_the_same(stream: list[tuple[int, dict[str, Any]]]) -> None:
    items = _items(stream)
    one = _stored(items, 1)
    for size in (2, 3, len(items)):
        assert _stored(items, size) == one


@pytest.mark.parametrize("seed", [1, 2])
def test_batches_of_one_seven_and_five_hundred_give_the_same(seed: int) -> None:
    messages = list(Stream(seed, deliveries=1000, related=0.5))
    items = decode_deliveries(
        [
            Delivery("t", 0, n, 0, message.key(), message.value(), tuple(message.headers()))
            for n, message in enumerate(messages)
        ]
    ).items
    one = _stored(items, 1)
    assert _stored(items, 7) == one
    assert _stored(items, 500) == one

    judge = oracle.Oracle()
    judge.feed_all(
        oracle.Delivery("t", 0, n, message.record, message.observed_at)
        for n, message in enumerate(messages)
    )
    assert {str(name): count for name, count in one["counts"].items()} == judge.outcomes


@given(_streams(minutes=10_000), st.integers(1, 4))
@settings(max_examples=100, deadline=None)
def test_batches_give_what_the_judge_says(
    stream: list[tuple[int, dict[str, Any]]], size: int
) -> None:
    judge, _ = _judge(stream)
    store = _stored(_items(stream), size)
    assert {str(name): count for name, count in store["counts"].items()} == judge.outcomes
    expected = _expected(judge)
    edges = {i: list(c.related) for i, c in store["contents"].items() if c.related}
    assert edges == expected["edges"]
    alive = {i: h for i, h in store["heads"].items() if h.merged_into is None}
    assert expected["articles"] == {
        i: (h.revision, h.is_mention, h.first_seen_at, h.observed_at) for i, h in alive.items()
    }
    kept = sum(map(len, store["revisions"].values()))
    assert kept + sum(not h.is_mention for h in alive.values()) == judge.revisions


def _stored(items: Sequence[Item], size: int) -> dict[str, Any]:
    """Apply items in batches of `size`; return all that the store holds afterwards."""

    async def apply() -> MemoryStore:
        store, place = MemoryStore(), TopicPartition("t", 0)
        claim = await store.claim(place, "me", 0)
        for start in range(0, len(items), size):
            batch = items[start : start + size]
            await store.apply(
                Batch(place, claim.epoch, claim.incarnation, start, start + len(batch), batch)
            )
        return store

    store = asyncio.run(apply())
    return {
        "counts": dict(store.positions[TopicPartition("t", 0)].counts),
        "heads": store.heads,
        "contents": {
            # No edge is no edge, whether it never was one or a merge turned it upon itself.
            i: replace(content, related=tuple(t for t in content.related if t is not None))
            for i, content in store.contents.items()
        },
        "aliases": store.aliases,
        # A superseded revision keeps no edges: they are those of the current content.
        "revisions": {
            i: {number: replace(content, related=()) for number, content in kept.items()}
            for i, kept in store.revisions.items()
            if kept
        },
        "signals": sorted(store.signals, key=repr),
        "changes": store.changes,
        "dead_letters": store.dead_letters,
    }
