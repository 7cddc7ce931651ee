"""The linker on real Postgres: restarted at any row it links the same; a frozen one is fenced."""

import asyncio
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from random import Random
from uuid import uuid4

import asyncpg
import pytest
from prometheus_client import CollectorRegistry
from pydantic import SecretStr

from newsloom import linker as linker_module
from newsloom.adapters.postgres import open_store
from newsloom.adapters.postgres.linking import PostgresLinkStore, open_link_store
from newsloom.core.batch import Observation
from newsloom.core.copies import DEFAULT_COPY_CONFIG
from newsloom.core.linking import LinkChange, LinkIndex, LinkResults
from newsloom.core.mapping import article_from_record
from newsloom.core.record import record_from_mapping
from newsloom.core.stories import DEFAULT_STORY_CONFIG
from newsloom.health import Health
from newsloom.linker import Linker
from newsloom.metrics import Metrics
from newsloom.ports import Batch, Fenced, LinkerRunning, TopicPartition
from newsloom.relinking import RelinkReport, relink
from newsloom.settings import PostgresSettings
from tests.support.postgres import create_database, drop_database, dsn_of
from tests.support.services import run_apart

PARTITION = TopicPartition("newsloom.articles.v1", 0)
T0 = datetime(2026, 3, 1, 12, tzinfo=UTC)
WINDOW = timedelta(hours=48)
WORDS = [f"{a}{b}" for a in "bcdfghklmnprstvw" for b in ("arol", "entis", "igam", "ofur", "ulek")]


def settings_of(dsn: str) -> PostgresSettings:
    return PostgresSettings(dsn=SecretStr(dsn))


@pytest.fixture
def second_database(postgres_server: str, migrated_template: str) -> Iterator[str]:
    name = f"test_{uuid4().hex}"
    run_apart(create_database(postgres_server, name, migrated_template))
    yield dsn_of(postgres_server, name)
    run_apart(drop_database(postgres_server, name))


def sentence(random: Random, words: int) -> str:
    return " ".join(random.choice(WORDS) + random.choice(WORDS) for _ in range(words))


def observations(seed: int, count: int) -> list[Observation]:
    """Articles of which every third repeats an earlier one with a few words changed."""
    random = Random(seed)
    texts = [sentence(random, 70) for _ in range(count)]
    items = []
    for number in range(count):
        body = texts[number]
        if number % 3 == 2:
            words = texts[random.randrange(number)].split()
            words[random.randrange(len(words))] = "changed"
            body = texts[number] = " ".join(words)
        address = f"https://outlet{number % 7}.example/{number}"
        when = T0 + timedelta(minutes=number)
        record = record_from_mapping(
            {
                "title": sentence(random, 5),
                "originalUrl": address,
                "publishedDateTime": when.isoformat(),
                "body": body,
            }
        ).record
        items.append(Observation(number, when, article_from_record(record)))
    return items


async def store_all(dsn: str, items: list[Observation], size: int = 20) -> None:
    async with open_store(settings_of(dsn), consumer_group="newsloom") as store:
        claim = await store.claim(PARTITION, "me", 0)
        for low in range(0, len(items), size):
            piece = items[low : low + size]
            await store.apply(Batch(PARTITION, claim.epoch, 0, low, piece[-1].offset + 1, piece))


@asynccontextmanager
async def running_linker(dsn: str) -> AsyncIterator[Linker]:
    async with open_link_store(settings_of(dsn)) as store:
        linker = Linker(
            store,
            window=WINDOW,
            metrics=Metrics(CollectorRegistry()),
            health=Health(needs=(), owns_partitions=False, stall_after_seconds=60),
            owner_id="me",
            jitter=lambda: 0.1,
            beat=lambda: None,
        )
        task = asyncio.create_task(linker.run(asyncio.Event()))
        try:
            yield linker
        finally:
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)


async def caught_up(linker: Linker) -> None:
    async with asyncio.timeout(30):
        while linker.empty_read_at < 0:  # noqa: ASYNC110 - what is waited for has no event
            await asyncio.sleep(0.02)


async def answers(dsn: str) -> list[list[asyncpg.Record]]:
    connection = await asyncpg.connect(dsn)
    try:
        return [
            await connection.fetch("SELECT * FROM api.copies ORDER BY article_id"),
            await connection.fetch("SELECT * FROM api.story_articles ORDER BY article_id"),
            await connection.fetch(
                "SELECT story_id, title, article_count, provider_count FROM api.stories "
                "ORDER BY story_id"
            ),
        ]
    finally:
        await connection.close()


async def test_copies_are_linked_with_their_numbers_and_the_change_log_says_so(
    database: str,
) -> None:
    await store_all(database, observations(1, 60))
    async with running_linker(database) as linker:
        await caught_up(linker)
    copies, members, stories = await answers(database)
    assert len(copies) >= 20
    assert all(copy["jaccard"] >= 0.3 for copy in copies)
    assert len(members) == sum(story["article_count"] for story in stories)
    connection = await asyncpg.connect(database)
    try:
        rows = await connection.fetch(
            "SELECT c.version, a.version AS current FROM newsloom.changes c "
            "JOIN newsloom.articles a USING (article_id) WHERE kind = 'copy_linked'"
        )
    finally:
        await connection.close()
    assert len(rows) == len(copies)
    assert all(row["version"] == row["current"] == 2 for row in rows)


async def test_a_linker_that_dies_after_any_read_is_taken_up_where_it_was(
    database: str, second_database: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    items = observations(2, 90)
    await store_all(database, items)
    await store_all(second_database, items)
    async with running_linker(database) as linker:
        await caught_up(linker)
    monkeypatch.setattr(linker_module, "READ_ROWS", 7)
    apply = LinkIndex.apply
    deaths = iter([True, False] * 6)

    def dies(index: LinkIndex, changes: Sequence[LinkChange]) -> LinkResults:
        if next(deaths, False):
            raise ConnectionAbortedError
        return apply(index, changes)

    monkeypatch.setattr(LinkIndex, "apply", dies)
    for _ in range(8):
        async with running_linker(second_database) as linker:
            with_end = asyncio.create_task(caught_up(linker))
            await asyncio.wait([with_end], timeout=0.7)
            with_end.cancel()
    monkeypatch.setattr(LinkIndex, "apply", apply)
    async with running_linker(second_database) as linker:
        await caught_up(linker)
    assert await answers(second_database) == await answers(database)


async def test_a_frozen_linker_cannot_write_once_another_has_taken_over(database: str) -> None:
    await store_all(database, observations(3, 10))
    async with open_link_store(settings_of(database)) as store:
        frozen = await store.take_over("frozen")
        read = await store.read(frozen.position, 5)
        await store.take_over("other")
        results = LinkIndex(WINDOW).apply(read.changes)
        with pytest.raises(Fenced):
            await store.write(frozen, read.position, results)
    copies, members, _ = await answers(database)
    assert copies == members == []


async def test_only_one_linker_leads(database: str) -> None:
    async with (
        open_link_store(settings_of(database)) as one,
        open_link_store(settings_of(database)) as two,
    ):
        order: list[str] = []

        async def lead(name: str, store: PostgresLinkStore, seconds: float) -> None:
            async with store.lead():
                order.append(f"{name} in")
                await asyncio.sleep(seconds)
                order.append(f"{name} out")

        await asyncio.gather(lead("one", one, 0.3), lead("two", two, 0.0))
    assert order in (
        ["one in", "one out", "two in", "two out"],
        ["two in", "two out", "one in", "one out"],
    )


async def relinked(dsn: str, *, dry_run: bool, jaccard: float) -> RelinkReport:
    async with open_link_store(settings_of(dsn)) as store:
        return await relink(
            store,
            owner_id="relink",
            window=WINDOW,
            copies=replace(DEFAULT_COPY_CONFIG, jaccard=jaccard, containment=0.95),
            stories=DEFAULT_STORY_CONFIG,
            dry_run=dry_run,
            on_progress=lambda _: None,
        )


async def test_relinking_shows_what_another_threshold_would_change_and_then_changes_it(
    database: str,
) -> None:
    await store_all(database, observations(4, 60))
    async with running_linker(database) as linker:
        await caught_up(linker)
    before = await answers(database)
    report = await relinked(database, dry_run=True, jaccard=0.99)
    assert report.difference.copies_lost == len(before[0])
    assert await answers(database) == before
    await relinked(database, dry_run=False, jaccard=0.99)
    assert (await answers(database))[0] == []
    again = await relinked(database, dry_run=False, jaccard=0.99)
    assert again.difference.results.copies == {}
    async with running_linker(database) as linker:  # takes up where relinking stood
        await caught_up(linker)
        assert linker.linked == 0


async def test_relinking_refuses_to_run_beside_a_linker(database: str) -> None:
    async with open_link_store(settings_of(database)) as store, store.lead():
        with pytest.raises(LinkerRunning):
            await relinked(database, dry_run=False, jaccard=0.3)


async def test_what_is_read_while_results_are_written_is_not_looked_at_twice(
    database: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    items = observations(5, 12)
    revised = [
        replace(item, offset=item.offset + 12, observed_at=item.observed_at + timedelta(hours=1))
        for item in observations(6, 12)
    ]
    await store_all(database, items + revised)
    # All are created, then all revised: the second read meets what the first write still holds.
    monkeypatch.setattr(linker_module, "READ_ROWS", 12)
    write = PostgresLinkStore.write

    async def writes_slowly(*arguments: object) -> None:
        await asyncio.sleep(0.05)
        await write(*arguments)  # type: ignore[arg-type]

    monkeypatch.setattr(PostgresLinkStore, "write", writes_slowly)
    async with running_linker(database) as linker:
        await caught_up(linker)
        # Each article has two rows in the log and was read as it is now at the first of them.
        assert linker.linked == len(items)
