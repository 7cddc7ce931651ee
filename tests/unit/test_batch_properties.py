"""As if one by one: what a partition's deliveries become does not depend on batch boundaries.

Made-up deliveries over four URLs only, so that nearly everything collides: bridges, mentions of
mentions, equal times, records that name themselves. Where no two contents share a time, the
independent judge of tests/support/oracle.py has to agree as well.
"""

import json
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from typing import Any

from hypothesis import assume, given, settings
from hypothesis import strategies as st

from newsloom.core.batch import Item, StoredState, Writes
from newsloom.core.fold import fold
from newsloom.decoding import decode_deliveries
from newsloom.ports import Delivery
from tests.support import oracle

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
@settings(max_examples=300)
def test_one_batch_gives_what_the_judge_says(stream: list[tuple[int, dict[str, Any]]]) -> None:
    judge, outcomes = _judge(stream)
    writes = fold(_items(stream), StoredState({}, {}))
    assert [outcome.value for _, outcome in writes.outcomes] == outcomes
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
