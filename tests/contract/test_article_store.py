"""What every article store promises: the one in memory, the simulated one, the real one."""

import random
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace
from datetime import timedelta
from uuid import uuid4

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import SecretStr

from newsloom.adapters.memory import MemoryStore
from newsloom.adapters.postgres import open_store
from newsloom.core.article import Article, Signals
from newsloom.core.batch import BatchReport, Item, Outcome
from newsloom.core.identity import article_id
from newsloom.ports import Anchor, ArticleStore, Batch, Claim, Fenced, TopicPartition
from newsloom.settings.groups import PostgresSettings
from tests.simulation.world import Connection, Server
from tests.support.articles import (
    T0,
    article,
    dead_letter,
    mention,
    observations,
    random_stream,
    rich_article,
    url,
)
from tests.support.postgres import create_database, drop_database, dsn_of
from tests.support.services import run_apart
from tests.support.stored import Stored, empty_postgres, stored_in_memory, stored_in_postgres

PARTITION = TopicPartition("newsloom.articles.v1", 3)
SHA = b"\x07" * 32


@dataclass
class Desk:
    """A store, a partition claimed from it, and a look inside."""

    store: ArticleStore
    stored: Callable[[], Awaitable[Stored]]
    claim: Claim = field(init=False)
    next_offset: int = 0

    async def open(self) -> "Desk":
        self.claim = await self.store.claim(PARTITION, "me", 0)
        self.next_offset = self.claim.next_offset
        return self

    async def apply(self, items: Sequence[Item], *, marks_next: bool = False) -> BatchReport:
        """Apply items that follow what has been applied."""
        batch = Batch(
            PARTITION,
            self.claim.epoch,
            self.claim.incarnation,
            self.next_offset,
            items[-1].offset + 1,
            items,
            Anchor(items[-1].offset, 17, SHA),
            marks_next,
        )
        report = await self.store.apply(batch)
        self.next_offset = batch.next_offset
        return report

    async def deliver(self, *stream: tuple[int, Article]) -> list[str]:
        """Apply (minute, article) deliveries as one batch; return what became of them."""
        report = await self.apply(observations(*stream, start=self.next_offset))
        return [name for name, count in report.outcomes.items() for _ in range(count)]


def settings_of(dsn: str) -> PostgresSettings:
    return PostgresSettings(dsn=SecretStr(dsn))


@asynccontextmanager
async def memory_desk() -> AsyncIterator[Desk]:
    store = MemoryStore()

    async def stored() -> Stored:
        return stored_in_memory(store)

    yield await Desk(store, stored).open()


class Unhurried(random.Random):
    """Draws no wait at all."""

    def random(self) -> float:
        return 0.0


@asynccontextmanager
async def simulated_desk() -> AsyncIterator[Desk]:
    """Open the server of the simulation, as one member sees it over its link."""
    rng = Unhurried(0)
    server = Server(rng)

    async def stored() -> Stored:
        return stored_in_memory(server)

    yield await Desk(Connection(server, "me", rng), stored).open()
    assert not server.violations


@asynccontextmanager
async def postgres_desk(dsn: str) -> AsyncIterator[Desk]:
    async with open_store(settings_of(dsn), consumer_group="newsloom") as store:

        async def stored() -> Stored:
            return await stored_in_postgres(dsn)

        yield await Desk(store, stored).open()


@pytest.fixture(scope="module")
def shared_database(postgres_server: str, migrated_template: str) -> Iterator[str]:
    """One database for all tests here, each of which begins by emptying it."""
    name = f"contract_{uuid4().hex}"
    run_apart(create_database(postgres_server, name, migrated_template))
    yield dsn_of(postgres_server, name)
    run_apart(drop_database(postgres_server, name))


@pytest.fixture
async def postgres(shared_database: str) -> str:
    await empty_postgres(shared_database)
    return shared_database


@pytest.fixture(params=["memory", "simulation", "postgres"])
async def desk(request: pytest.FixtureRequest, shared_database: str) -> AsyncIterator[Desk]:
    if request.param == "memory":
        async with memory_desk() as opened:
            yield opened
    elif request.param == "simulation":
        async with simulated_desk() as opened:
            yield opened
    else:
        await empty_postgres(shared_database)
        async with postgres_desk(shared_database) as opened:
            yield opened


def id_of(name: str) -> object:
    return article_id(url(name).canonical.key)


async def test_positions_are_told_of_a_whole_kafka_topic(desk: Desk) -> None:
    await desk.deliver((1, article("a")), (2, article("b")))
    await desk.store.claim(TopicPartition(PARTITION.topic, 7), "somebody else", 40)
    await desk.store.claim(TopicPartition("another", 0), "somebody else", 3)
    assert await desk.store.positions_of(PARTITION.topic) == {
        PARTITION: desk.next_offset,
        TopicPartition(PARTITION.topic, 7): 40,
    }


# Outcomes


OUTCOMES = [
    ("a new article is created", (5, article("a")), "created"),
    ("another title revises it", (5, article("a", title="Ants")), "revised"),
    ("other signals refresh it", (5, article("a", signals=Signals(heat=9))), "refreshed"),
    ("another `secured` refreshes it", (5, article("a", secured="x;y")), "refreshed"),
    ("the same again changes nothing", (1, article("a")), "unchanged"),
    ("the same later changes nothing", (5, article("a")), "unchanged"),
    ("what is older is stale", (0, article("a", title="Ants")), "stale"),
]


@pytest.mark.parametrize(
    ("delivery", "outcome"), [c[1:] for c in OUTCOMES], ids=[c[0] for c in OUTCOMES]
)
@pytest.mark.parametrize("is_one_batch", [True, False], ids=["one batch", "two batches"])
async def test_a_delivery_has_the_outcome_that_the_stored_article_gives_it(
    desk: Desk, delivery: tuple[int, Article], outcome: str, *, is_one_batch: bool
) -> None:
    known = [] if outcome == "created" else [(1, article("a"))]
    steps = [[*known, delivery]] if is_one_batch else [[one] for one in (*known, delivery)]
    outcomes = [name for step in steps for name in await desk.deliver(*step)]
    expected = [*("created" for _ in known), outcome]
    assert sorted(outcomes) == sorted(expected)
    counts = (await desk.stored())["positions"][tuple(PARTITION)][3]
    assert counts == tuple(expected.count(name) for name in Outcome)


async def test_every_field_of_an_article_is_kept(desk: Desk) -> None:
    rich = rich_article()
    await desk.deliver((1, rich))
    stored = await desk.stored()
    async with memory_desk() as memory:
        await memory.deliver((1, rich))
        assert stored == await memory.stored()
    (content,) = stored["contents"].values()
    assert content["title"] == rich.title
    assert content["body"] == rich.body
    assert content["extra"] == rich.extra
    (head,) = stored["heads"].values()
    assert head["secured"] == rich.secured
    assert head["signals"] == rich.signals


async def test_a_refreshed_article_keeps_its_content_and_remembers_its_signals(desk: Desk) -> None:
    await desk.deliver((1, article("a", signals=Signals(1, 1))))
    before = await desk.stored()
    await desk.deliver((2, article("a", signals=Signals(2, 1))))
    after = await desk.stored()
    assert after["contents"] == before["contents"]
    assert list(after["signals"]) == [(id_of("a"), T0 + timedelta(minutes=1), Signals(1, 1))]
    assert after["heads"][id_of("a")]["signals"] == Signals(2, 1)
    assert after["heads"][id_of("a")]["signals_at"] == T0 + timedelta(minutes=2)
    assert after["revisions"] == {}


async def test_every_version_of_a_content_is_kept_with_what_it_changed(desk: Desk) -> None:
    await desk.deliver((1, article("a", title="one")))
    await desk.deliver((2, article("a", title="two")), (3, article("a", title="three")))
    await desk.deliver((4, article("a", title="three", excerpt="new")))
    stored = await desk.stored()
    titles = {number: row["title"] for (_, number), row in stored["revisions"].items()}
    assert titles == {1: "one", 2: "two", 3: "three"}
    changed = {number: row["changed_fields"] for (_, number), row in stored["revisions"].items()}
    assert changed == {1: (), 2: ("title",), 3: ("title",)}
    assert stored["contents"][id_of("a")]["changed_fields"] == ("excerpt",)
    assert stored["heads"][id_of("a")]["revision"] == 4
    assert [(row[1], row[2]) for row in stored["changes"]] == [
        (1, "created"),
        (2, "revised"),
        (3, "revised"),
        (4, "revised"),
    ]


async def test_a_stale_delivery_still_brings_its_addresses_and_its_mentions(desk: Desk) -> None:
    await desk.deliver((5, article("a")))
    assert await desk.deliver((1, article("a", "b", title="Old", related=(mention("m"),)))) == [
        "stale"
    ]
    stored = await desk.stored()
    assert {alias[0] for alias in stored["aliases"].values()} == {id_of("a"), id_of("m")}
    assert len(stored["aliases"]) == 3
    assert stored["heads"][id_of("a")]["first_seen_at"] == T0 + timedelta(minutes=1)
    assert stored["edges"] == {}


async def test_rejected_deliveries_are_kept_with_their_bytes_and_neighbours_get_through(
    desk: Desk,
) -> None:
    report = await desk.apply(
        [
            *observations((1, article("a"))),
            dead_letter(1),
            *observations((1, article("b")), start=2),
        ]
    )
    assert report.outcomes == {Outcome.CREATED: 2, Outcome.REJECTED: 1}
    stored = await desk.stored()
    letter = dead_letter(1)
    assert stored["dead_letters"] == {
        (*PARTITION, 0, 1): (
            letter.reason, letter.detail, letter.observed_at, letter.key, letter.value,
            letter.headers,
        )
    }  # fmt: skip


# Mentions and edges


async def test_related_entries_become_mentions_with_edges_in_order(desk: Desk) -> None:
    await desk.deliver(
        (1, article("a", related=(mention("m"), mention("a"), mention("n"), mention("m"))))
    )
    stored = await desk.stored()
    assert stored["edges"] == {id_of("a"): [id_of("m"), id_of("n"), id_of("m")]}
    assert stored["heads"][id_of("m")]["revision"] == 0


async def test_a_record_completes_a_mention_even_an_older_one(desk: Desk) -> None:
    await desk.deliver((5, article("a", related=(mention("m"),))))
    assert await desk.deliver((1, article("m", title="Full"))) == ["created"]
    stored = await desk.stored()
    head = stored["heads"][id_of("m")]
    assert (head["revision"], head["observed_at"]) == (1, T0 + timedelta(minutes=1))
    assert stored["contents"][id_of("m")]["title"] == "Full"
    assert stored["revisions"] == {}


async def test_a_revision_replaces_edges_and_a_redelivery_does_not(desk: Desk) -> None:
    await desk.deliver((1, article("a", related=(mention("m"), mention("n")))))
    await desk.deliver((2, article("a", related=(mention("o"),))))
    assert (await desk.stored())["edges"] == {id_of("a"): [id_of("m"), id_of("n")]}
    await desk.deliver((3, article("a", title="Ants", related=(mention("o"),))))
    assert (await desk.stored())["edges"] == {id_of("a"): [id_of("o")]}


async def test_an_address_is_remembered_by_its_most_trusted_kind(desk: Desk) -> None:
    await desk.deliver((1, article("a", "b")))
    await desk.deliver((2, article("b", "a")))
    kinds = {alias[3]: alias[1] for alias in (await desk.stored())["aliases"].values()}
    assert set(kinds.values()) == {"original"}


# Merges: a delivery whose addresses tie stored articles together

MERGES = {
    "stored and stored, the first is newer": [
        [(9, article("a", title="A")), (2, article("b", title="B"))],
        [(10, article("a", "b", title="C"))],
    ],
    "stored and stored, the first is older": [
        [(1, article("a", title="A")), (5, article("b", title="B"))],
        [(10, article("a", "b", title="C"))],
    ],
    "by a stale delivery": [
        [(4, article("a", title="A")), (5, article("b", title="B"))],
        [(1, article("a", "b", title="C"))],
    ],
    "both with revisions and signals": [
        [(1, article("a", title="A")), (2, article("b", title="B", signals=Signals(1)))],
        [(3, article("a", title="A2")), (4, article("b", title="B2", signals=Signals(2)))],
        [(5, article("b", "a", title="B2"))],
    ],
    "new and stored in one batch": [
        [(5, article("b", title="B"))],
        [(1, article("a", title="A")), (6, article("a", "b", title="C"))],
    ],
    "new and older than stored, whose content stays": [
        [(5, article("b", title="B"))],
        [(1, article("a", title="A")), (2, article("a", "b", title="C"))],
    ],
    "a mention and a full article": [
        [(1, article("x", related=(mention("a"),))), (5, article("b", title="B"))],
        [(6, article("a", "b", title="C"))],
    ],
    "a full article and a later mention": [
        [(1, article("b", title="B")), (5, article("x", related=(mention("a"),)))],
        [(0, article("a", "b", title="C"))],
    ],
    "two mentions, by a mention": [
        [(1, article("x", related=(mention("a"), mention("b"))))],
        [(2, article("y", related=(mention("a", "b", title="One"),)))],
    ],
    "two full articles, by a mention": [
        [(1, article("a", title="A", related=(mention("m"),))), (2, article("b", title="B"))],
        [(3, article("y", related=(mention("a", "b"),)))],
    ],
    "a chain of three": [
        [(3, article("a", title="A")), (2, article("b", title="B")), (1, article("c", title="C"))],
        [(4, article("a", "b", title="AB"))],
        [(5, article("a", "c", title="AC"))],
    ],
    "a chain of three at once": [
        [(3, article("a", title="A")), (2, article("b", title="B")), (1, article("c", title="C"))],
        [(4, article("a", "b", title="AB")), (5, article("b", "c", title="BC"))],
    ],
    "neighbours that become one": [
        [(1, article("a", title="A", related=(mention("m"), mention("b"), mention("n"))))],
        [(2, article("a", "b", title="A"))],
    ],
    "the neighbours of others": [
        [(1, article("x", related=(mention("a"), mention("b"))))],
        [(2, article("a", "b", title="A"))],
    ],
    "three in one delivery": [
        [(3, article("a", title="A")), (2, article("b", title="B")), (1, article("c", title="C"))],
        [(2, article("a", "b", "c", title="ABC"))],
    ],
}


@pytest.mark.parametrize("steps", MERGES.values(), ids=MERGES.keys())
async def test_a_merge_leaves_what_one_by_one_in_memory_leaves(
    desk: Desk, steps: Sequence[Sequence[tuple[int, Article]]]
) -> None:
    for step in steps:
        await desk.deliver(*step)
    async with memory_desk() as judge:
        for step in steps:
            for delivery in step:
                await judge.deliver(delivery)
        expected = await judge.stored()
    found = await desk.stored()
    assert found == expected
    _check_integrity(found)
    assert any(head["merged_into"] for head in found["heads"].values())


def _check_integrity(stored: Stored) -> None:
    """What must hold of every store, whatever was delivered."""
    heads = stored["heads"]
    alive = {owner for owner, head in heads.items() if head["merged_into"] is None}
    assert {head["merged_into"] for head in heads.values()} - {None} <= alive
    assert set(stored["contents"]) == alive
    assert {alias[0] for alias in stored["aliases"].values()} <= alive
    numbers: dict[object, set[int]] = {}
    for owner, number in stored["revisions"]:
        numbers.setdefault(owner, set()).add(number)
    for owner in alive:
        revision = heads[owner]["revision"]
        assert numbers.get(owner, set()) == set(range(1, revision))
    assert set(numbers) <= alive
    for owner, targets in stored["edges"].items():
        assert owner in alive
        assert owner not in targets
        assert set(targets) <= alive
    assert {row[0] for row in stored["signals"]} <= alive


# Positions and fencing


async def test_a_first_claim_starts_where_it_is_told_and_later_ones_go_on(desk: Desk) -> None:
    other = TopicPartition("t", 0)
    first = await desk.store.claim(other, "one", 42)
    assert (first.next_offset, first.anchor, first.parked_reason) == (42, None, None)
    again = await desk.store.claim(other, "two", 0)
    assert (again.next_offset, again.epoch) == (42, first.epoch + 1)


async def test_a_new_claim_sees_what_was_applied(desk: Desk) -> None:
    await desk.deliver((1, article("a")), (1, article("b")))
    claim = await desk.store.claim(PARTITION, "other", 0)
    assert (claim.next_offset, claim.anchor) == (2, Anchor(1, 17, SHA))


async def test_an_older_owner_is_fenced_and_writes_nothing(desk: Desk) -> None:
    await desk.store.claim(PARTITION, "other", 0)
    before = await desk.stored()
    with pytest.raises(Fenced):
        await desk.deliver((1, article("a")))
    with pytest.raises(Fenced):
        await desk.store.park(PARTITION, desk.claim.epoch, "mine")
    assert await desk.stored() == before


@pytest.mark.parametrize("name", ["expected_offset", "incarnation", "epoch"])
async def test_a_batch_that_does_not_begin_at_the_position_is_fenced(desk: Desk, name: str) -> None:
    batch = Batch(PARTITION, desk.claim.epoch, 0, 0, 2, observations((1, article("a"))))
    with pytest.raises(Fenced):
        await desk.store.apply(replace(batch, **{name: getattr(batch, name) + 1}))
    assert (await desk.stored())["heads"] == {}
    await desk.store.apply(batch)


async def test_a_partition_never_claimed_is_fenced(desk: Desk) -> None:
    batch = Batch(TopicPartition("t", 7), 1, 0, 0, 1, observations((1, article("a"))))
    with pytest.raises(Fenced):
        await desk.store.apply(batch)


async def test_gaps_between_offsets_are_passed_over(desk: Desk) -> None:
    await desk.apply(
        [*observations((1, article("a")), start=5), *observations((2, article("b")), start=9)]
    )
    assert (await desk.store.claim(PARTITION, "x", 0)).next_offset == 10


async def test_a_parked_partition_says_so_to_the_next_claim_until_it_runs_again(desk: Desk) -> None:
    await desk.store.park(PARTITION, desk.claim.epoch, "topic.identity")
    claim = await desk.store.claim(PARTITION, "x", 0)
    assert claim.parked_reason == "topic.identity"
    await desk.store.park(PARTITION, claim.epoch, None)
    assert (await desk.store.claim(PARTITION, "x", 0)).parked_reason is None


# The law: as if one by one


async def test_a_mark_left_behind_is_a_strike_until_the_position_moves(desk: Desk) -> None:
    for strikes in (1, 2):
        await desk.store.mark(PARTITION, desk.claim.epoch, started=True)
        await desk.open()
        assert desk.claim.strikes == strikes
    await desk.deliver((0, article("a")))
    await desk.open()
    assert desk.claim.strikes == 0


async def test_a_batch_can_leave_the_mark_of_the_next_one_with_its_commit(desk: Desk) -> None:
    await desk.store.mark(PARTITION, desk.claim.epoch, started=True)
    await desk.apply(observations((0, article("a"))), marks_next=True)
    await desk.open()
    assert desk.claim.strikes == 1
    await desk.deliver((1, article("a")))
    await desk.open()
    assert desk.claim.strikes == 0


async def test_a_mark_taken_back_or_left_by_a_living_process_is_no_strike(desk: Desk) -> None:
    await desk.store.mark(PARTITION, desk.claim.epoch, started=True)
    await desk.store.mark(PARTITION, desk.claim.epoch, started=False)
    await desk.open()
    assert desk.claim.strikes == 0
    await desk.store.mark(PARTITION, desk.claim.epoch, started=True)
    claim = await desk.store.claim(PARTITION, "me", 0, after_error=True)
    assert claim.strikes == 0


async def test_a_fenced_owner_leaves_no_mark(desk: Desk) -> None:
    old = desk.claim.epoch
    await desk.open()
    await desk.store.mark(PARTITION, old, started=True)
    await desk.open()
    assert desk.claim.strikes == 0


async def _stored_after(desk: Desk, items: Sequence[Item], size: int) -> Stored:
    for start in range(0, len(items), size):
        await desk.apply(items[start : start + size])
    stored = await desk.stored()
    _check_integrity(stored)
    return stored


@given(seed=st.integers(0, 2**32), length=st.integers(1, 60))
@settings(max_examples=150, deadline=None)
async def test_batch_boundaries_change_nothing_in_memory(seed: int, length: int) -> None:
    items = random_stream(seed, length)
    results = []
    for size in (1, 7, 500):
        async with memory_desk() as desk:
            results.append(await _stored_after(desk, items, size))
    assert results[0] == results[1] == results[2]


@pytest.mark.parametrize("size", [1, 7, 500])
@pytest.mark.parametrize("seed", range(8))
async def test_postgres_holds_what_memory_holds(postgres: str, seed: int, size: int) -> None:
    items = random_stream(seed, 120)
    async with memory_desk() as desk:
        expected = await _stored_after(desk, items, 1)
    async with postgres_desk(postgres) as desk:
        found = await _stored_after(desk, items, size)
    assert found == expected


async def test_the_random_streams_reach_every_outcome_and_merges() -> None:
    outcomes: set[Outcome] = set()
    merged = 0
    for seed in range(8):
        async with memory_desk() as desk:
            outcomes |= set((await desk.apply(random_stream(seed, 120))).outcomes)
            heads = (await desk.stored())["heads"].values()
            merged += sum(head["merged_into"] is not None for head in heads)
    assert outcomes == set(Outcome)
    assert merged > 20
