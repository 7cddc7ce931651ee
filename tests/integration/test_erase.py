"""Takedown: nothing of the article is left anywhere, and nothing of it comes back."""

import asyncio
import json
import os
import subprocess
import sys
from collections.abc import AsyncIterator, Iterable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit, urlunsplit
from uuid import UUID, uuid4

import asyncpg
import pytest
from prometheus_client import CollectorRegistry
from pydantic import SecretStr

from newsloom.adapters.postgres import open_store
from newsloom.adapters.postgres.erasing import Erasure, NotFound, open_erasing
from newsloom.adapters.postgres.linking import open_link_store
from newsloom.core.batch import DeadLetter, Item, Observation
from newsloom.core.copies import DEFAULT_COPY_CONFIG
from newsloom.core.identity import article_id, canonicalise
from newsloom.core.mapping import article_from_record
from newsloom.core.record import record_from_mapping
from newsloom.core.stories import DEFAULT_STORY_CONFIG
from newsloom.health import Health
from newsloom.linker import Linker
from newsloom.metrics import Metrics
from newsloom.ports import Batch, TopicPartition
from newsloom.relinking import relink
from newsloom.settings import PostgresSettings
from tests.support.blackbox import Line, producer
from tests.support.kafka import MakeTopic

PARTITION = TopicPartition("newsloom.articles.v1", 0)
T0 = datetime(2026, 3, 1, 12, tzinfo=UTC)
WINDOW = timedelta(hours=48)
TEXT = (
    "The quokkafish swam past the lighthouse at dawn while forty children counted its stripes."
    " Officials of the island said that no such animal had been seen there since the great flood,"
    " and that the harbour would stay closed until the tide had turned twice more this week."
    " Fishermen argued about the colour of its fins, a teacher drew it on the wall of the school,"
    " and the ferry to the mainland left half an hour late because nobody wanted to go on board."
    " In the evening the mayor promised a small museum, if the council would pay for the roof."
)
WORD = "quokkafish"
PATH = "zebrastreet"
OUTLETS = ("amber", "birch", "cedar", "dune")  # other numbers would make them other texts


def settings_of(dsn: str) -> PostgresSettings:
    return PostgresSettings(dsn=SecretStr(dsn))


@pytest.fixture
async def owner(database: str) -> AsyncIterator[asyncpg.Connection]:
    connection = await asyncpg.connect(database)
    yield connection
    await connection.close()


@pytest.fixture
async def admin(database: str, owner: asyncpg.Connection) -> AsyncIterator[str]:
    """The DSN of a login that may what newsloom_admin may, and nothing else."""
    name = f"operator_{uuid4().hex}"
    await owner.execute(f"CREATE ROLE {name} LOGIN PASSWORD 'x' IN ROLE newsloom_admin")
    parts = urlsplit(database)
    address = f"{name}:x@{parts.hostname}:{parts.port}"
    yield urlunsplit(parts._replace(netloc=address))
    await owner.execute(f"DROP ROLE {name}")


def id_of(url: str) -> UUID:
    canonical = canonicalise(url)
    assert canonical is not None
    return article_id(canonical.key)


def seen(offset: int, fields: dict[str, Any], *, minutes: float | None = None) -> Observation:
    when = T0 + timedelta(minutes=offset if minutes is None else minutes)
    record = {"title": "A title", "publishedDateTime": when.isoformat(), **fields}
    return Observation(offset, when, article_from_record(record_from_mapping(record).record))


async def store(dsn: str, items: Iterable[Item]) -> list[str]:
    """Apply each delivery in a batch of its own; return the outcomes."""
    outcomes = []
    async with open_store(settings_of(dsn), consumer_group="newsloom") as opened:
        claim = await opened.claim(PARTITION, "me", 0)
        position = claim.next_offset
        for item in items:
            report = await opened.apply(
                Batch(PARTITION, claim.epoch, 0, position, item.offset + 1, [item])
            )
            position = item.offset + 1
            outcomes += [outcome.value for outcome, n in report.outcomes.items() for _ in range(n)]
    return outcomes


async def link(dsn: str, window: timedelta = WINDOW) -> None:
    async with open_link_store(settings_of(dsn)) as opened:
        linker = Linker(
            opened,
            window=window,
            metrics=Metrics(CollectorRegistry()),
            health=Health(needs=(), owns_partitions=False, stall_after_seconds=60),
            owner_id="me",
            jitter=lambda: 0.1,
            beat=lambda: None,
        )
        task = asyncio.create_task(linker.run(asyncio.Event()))
        async with asyncio.timeout(30):
            while linker.empty_read_at < 0:  # noqa: ASYNC110 - what is waited for has no event
                await asyncio.sleep(0.02)
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


async def erase(dsn: str, name: UUID, *, does_it: bool = True, is_url: bool = False) -> Erasure:
    async with open_erasing(settings_of(dsn), os_user="op@host") as erasing:
        return await erasing.erase(name, "court order 7", does_it=does_it, is_url=is_url)


async def traces(owner: asyncpg.Connection, *words: str) -> dict[str, int]:
    """Count the rows of every table in which one of the words is, in text or in bytes."""
    tables = await owner.fetch(
        "SELECT c.oid::regclass::text AS name FROM pg_class c"
        " WHERE c.relkind = 'r' AND c.relnamespace = 'newsloom'::regnamespace"
    )
    found: dict[str, int] = {}
    for table in tables:
        for word in words:
            count = await owner.fetchval(
                f"SELECT count(*) FROM {table['name']} AS t WHERE t::text ILIKE $1"  # noqa: S608
                " OR t::text ILIKE $2",
                f"%{word}%",
                f"%{word.encode().hex()}%",
            )
            if count:
                found[table["name"]] = found.get(table["name"], 0) + count
    return found


URL, AMP = f"https://www.a.example/{PATH}/1", f"https://amp.b.example/{PATH}/amp/1"
WHOLE: dict[str, Any] = {
    "title": f"A {WORD} again",
    "originalUrl": URL,
    "ampWebUrl": AMP,
    "excerpt": TEXT[:90],
    "body": TEXT,
    "secured": f"{WORD};x",
    "topics": [WORD],
    "related": [{"title": "Other", "originalUrl": "https://c.example/other"}],
}
DELIVERIES: list[dict[str, Any]] = [
    WHOLE,
    {**WHOLE, "body": TEXT + " More."},
    {**WHOLE, "heat": "7"},
    {**WHOLE, "publishedDateTime": f"{WORD}day", "originalUrl": URL + "?utm_source=x"},
    {"title": "Copied", "originalUrl": "https://d.example/copy", "body": TEXT.lower()},
    {"title": "Neighbour", "originalUrl": "https://e.example/n", "related": [WHOLE]},
]
LATER: list[dict[str, Any]] = [
    WHOLE,
    {"title": f"The {WORD}", "originalUrl": AMP, "body": TEXT},
    {"title": f"The {WORD}", "originalUrl": f"https://new.example/{PATH}", "webUrl": URL},
    {"title": "Fine", "originalUrl": "https://f.example/fine", "related": [WHOLE]},
]


async def test_nothing_is_left_and_nothing_comes_back_from_kafka_to_the_last_table(
    kafka_bootstrap: str, make_topic: MakeTopic, database: str, owner: asyncpg.Connection
) -> None:
    line = Line(kafka_bootstrap, database, await make_topic(name="articles"))
    await send(line, DELIVERIES)
    await line.ingest()
    linked = await line.run("link", "--exit-when-idle", "0.5")
    assert linked.code == 0, linked.told()
    filled = {"articles", "article_contents", "dead_letters"}
    assert (await traces(owner, WORD)).keys() >= {f"newsloom.{table}" for table in filled}
    assert await owner.fetchval("SELECT count(*) FROM newsloom.copies") == 1

    shown = await line.run("erase", AMP, "--reason", "court order 7", "--format", "json")
    assert shown.code == 2, shown.told()
    done = await line.run("erase", AMP, "--reason", "court order 7", "--yes", "--format", "json")
    assert done.code == 0, done.told()
    assert done.lines()[0]["rows"] == shown.lines()[0]["rows"]
    assert done.lines()[0]["article_id"] == str(id_of(URL))
    assert done.lines()[0]["rows"]["dead_letters"] == 1
    assert not any(word in done.out + done.err for word in (WORD, PATH))
    await check_that_it_is_gone(owner)

    counted = await line.outcomes()
    await send(line, LATER)
    await line.ingest()
    outcomes = await line.outcomes()
    assert outcomes["rejected"] == counted["rejected"] + 3
    assert outcomes["created"] == counted["created"] + 1
    letters = await owner.fetch("SELECT reason, key, value, headers FROM newsloom.dead_letters")
    assert [tuple(row) for row in letters] == [("erased", None, None, None)] * 4
    await check_that_it_is_gone(owner)


async def check_that_it_is_gone(owner: asyncpg.Connection) -> None:
    # The copy is an article of somebody else's; so is what it says.
    await owner.execute("DELETE FROM newsloom.article_contents WHERE canonical_url ~ 'd.example'")
    assert await traces(owner, WORD) == {}
    assert await traces(owner, PATH) == {"newsloom.articles": 1}  # the key of the tombstone
    for count in (
        "SELECT count(*) FROM newsloom.copies WHERE $1 IN (article_id, copy_of)",
        "SELECT count(*) FROM api.related_articles WHERE related_article_id = $1",
        "SELECT count(*) FROM api.articles WHERE article_id = $1",
        "SELECT count(*) FROM api.article_urls WHERE article_id = $1",
    ):
        assert await owner.fetchval(count, id_of(URL)) == 0
    (change,) = await owner.fetch(
        "SELECT c.kind, c.version = max(c.version) OVER () AS is_highest, a.version = c.version"
        " AS is_present FROM newsloom.changes c JOIN newsloom.articles a USING (article_id)"
        " WHERE article_id = $1 ORDER BY c.version DESC LIMIT 1",
        id_of(URL),
    )
    assert tuple(change) == ("erased", True, True)
    (audit,) = await owner.fetch("SELECT action, subject, reason FROM newsloom.audit_log")
    assert tuple(audit) == ("erase", str(id_of(URL)), "court order 7")


async def send(line: Line, records: Iterable[dict[str, Any]]) -> None:
    async with producer(line.bootstrap) as sender:
        for record in records:
            value = json.dumps(record).replace("/", "\\/").encode()
            await sender.send_and_wait(line.topic, value=value, key=b"k", partition=0)


async def test_merged_articles_go_together_by_the_id_of_either(
    database: str, owner: asyncpg.Connection, admin: str
) -> None:
    one, two = f"https://a.example/{PATH}/1", f"https://b.example/{PATH}/2"
    await store(
        database,
        [
            seen(0, {"originalUrl": one, "body": TEXT}),
            seen(1, {"originalUrl": two, "body": TEXT, "title": f"{WORD} two", "heat": "3"}),
            seen(2, {"originalUrl": one, "webUrl": two, "body": f"{WORD} at last"}),
        ],
    )
    merged = "SELECT merged_into FROM newsloom.articles WHERE article_id = $1"
    assert await owner.fetchval(merged, id_of(two)) == id_of(one)
    erasure = await erase(admin, id_of(two))
    assert (erasure.article_id, erasure.was_erased, erasure.is_done) == (id_of(one), False, True)
    assert erasure.rows["revisions"] == 2
    assert await traces(owner, WORD) == {}
    assert await traces(owner, PATH) == {"newsloom.articles": 2}
    assert (
        await owner.fetchval("SELECT count(*) FROM newsloom.articles WHERE erased_at IS NULL") == 0
    )
    for offset, url in enumerate([one, two], 3):
        assert await store(database, [seen(offset, {"originalUrl": url})]) == ["rejected"]


async def test_a_second_time_changes_nothing_but_takes_what_came_since(
    database: str, owner: asyncpg.Connection, admin: str
) -> None:
    url = f"https://a.example/{PATH}"
    await store(database, [seen(0, {"originalUrl": url, "body": TEXT})])
    assert not (await erase(admin, id_of(url), does_it=False)).was_erased
    assert await owner.fetchval("SELECT count(*) FROM newsloom.audit_log") == 0
    assert await owner.fetchval("SELECT count(*) FROM api.articles") == 1
    await erase(admin, id_of(url), is_url=True)
    versions = "SELECT version FROM newsloom.articles"
    before = await owner.fetchval(versions)
    again = await erase(admin, id_of(url))
    assert again.was_erased
    assert not any(again.rows.values())
    # What cannot be parsed is set aside before anybody knows which article it is about.
    value = (
        f'{{"originalUrl": "http:\\/\\/www.A.example\\/{PATH}\\/?utm_medium=x", "{WORD}'.encode()
    )
    await store(database, [DeadLetter(1, "parse.json", "byte 3", T0, key=b"k", value=value)])
    assert (await erase(admin, id_of(url))).rows["dead_letters"] == 1
    assert await traces(owner, WORD) == {}
    assert await owner.fetchval(versions) == before
    assert await owner.fetchval("SELECT count(*) FROM newsloom.audit_log") == 2
    assert await owner.fetchval("SELECT count(*) FROM newsloom.changes WHERE kind = 'erased'") == 1


async def test_a_mention_can_be_erased_and_its_neighbours_stay(
    database: str, owner: asyncpg.Connection, admin: str
) -> None:
    url = f"https://a.example/{PATH}"
    mention = {"originalUrl": url, "title": WORD}
    other = {"originalUrl": "https://b.example/2", "related": [mention]}
    await store(database, [seen(0, other)])
    await erase(admin, id_of(url))
    assert await traces(owner, WORD) == {}
    assert await owner.fetchval("SELECT count(*) FROM api.related_articles") == 0
    assert await owner.fetchval("SELECT count(*) FROM api.articles") == 1
    assert await store(database, [seen(1, {**other, "title": "Anew"})]) == ["revised"]
    assert await owner.fetchval("SELECT count(*) FROM newsloom.related_articles") == 0


async def test_an_unknown_article_is_an_answer_of_its_own(admin: str) -> None:
    with pytest.raises(NotFound):
        await erase(admin, uuid4())
    for argument, code in (("https://a.example/never", 1), (str(uuid4()), 1), ("no url", 2)):
        done = await asyncio.to_thread(command, admin, argument, "--reason", "x", "--yes")
        assert done.returncode == code, done.stderr


def command(dsn: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    clean = {n: v for n, v in os.environ.items() if not n.startswith("NEWSLOOM_")}
    address = {"NEWSLOOM_POSTGRES_DSN": dsn, "NEWSLOOM_KAFKA_BOOTSTRAP_SERVERS": "127.0.0.1:1"}
    return subprocess.run(
        [Path(sys.executable).with_name("newsloom"), "erase", *arguments],
        env=clean | address,
        capture_output=True,
        text=True,
        check=False,
        timeout=50,
    )


def copies_of_a_text(count: int, minutes_apart: float = 1.0) -> list[Observation]:
    """The same text by several outlets, each with a few words of its own."""
    return [
        seen(
            number,
            {
                "originalUrl": f"https://outlet{number}.example/{PATH}/{number}",
                "title": f"{WORD} {OUTLETS[number]}",
                "body": f"{TEXT} By {OUTLETS[number]}.",
            },
            minutes=number * minutes_apart,
        )
        for number in range(count)
    ]


async def copies(owner: asyncpg.Connection) -> dict[UUID, UUID]:
    rows = await owner.fetch("SELECT article_id, copy_of FROM api.copies")
    return {row["article_id"]: row["copy_of"] for row in rows}


@pytest.mark.parametrize("is_linked_after", [False, True])
async def test_copies_of_the_erased_article_get_the_root_that_they_would_have_without_it(
    database: str,
    owner: asyncpg.Connection,
    admin: str,
    is_linked_after: bool,  # noqa: FBT001 - a case
) -> None:
    items = copies_of_a_text(4)
    await store(database, items)
    await link(database)
    ids = [id_of(f"https://outlet{n}.example/{PATH}/{n}") for n in range(4)]
    assert await copies(owner) == {ids[1]: ids[0], ids[2]: ids[0], ids[3]: ids[0]}
    stories = await owner.fetch("SELECT title, article_count FROM api.stories")
    assert [tuple(row) for row in stories] == [(f"{WORD} {OUTLETS[0]}", 4)]
    await erase(admin, ids[0])
    if is_linked_after:
        await link(database)
    assert await copies(owner) == {ids[2]: ids[1], ids[3]: ids[1]}
    (story,) = await owner.fetch("SELECT title, article_count FROM api.stories")
    assert story["article_count"] == 3
    assert story["title"] != f"{WORD} {OUTLETS[0]}"
    if is_linked_after:
        async with open_link_store(settings_of(database)) as opened:
            report = await relink(
                opened,
                owner_id="me",
                window=WINDOW,
                copies=DEFAULT_COPY_CONFIG,
                stories=DEFAULT_STORY_CONFIG,
                dry_run=True,
                on_progress=lambda _: None,
            )
        found = report.difference
        assert (found.copies_gained, found.copies_lost, found.copies_changed) == (0, 0, 0)
    versions = await owner.fetch(
        "SELECT a.version, (SELECT max(c.version) FROM newsloom.changes c"
        " WHERE c.article_id = a.article_id) AS told FROM newsloom.articles a"
    )
    assert all(row["version"] == row["told"] for row in versions)


async def test_a_root_that_had_left_the_window_gets_no_more_copies(
    database: str, owner: asyncpg.Connection, admin: str
) -> None:
    items = copies_of_a_text(4, minutes_apart=40 * 60)  # each still meets the one before it
    await store(database, items[:3])
    ids = [id_of(f"https://outlet{n}.example/{PATH}/{n}") for n in range(4)]
    async with open_link_store(settings_of(database)) as opened:
        linker = Linker(
            opened,
            window=WINDOW,
            metrics=Metrics(CollectorRegistry()),
            health=Health(needs=(), owns_partitions=False, stall_after_seconds=60),
            owner_id="me",
            jitter=lambda: 0.1,
            beat=lambda: None,
        )
        task = asyncio.create_task(linker.run(asyncio.Event()))
        try:
            await wait_for_copies(owner, {ids[1]: ids[0], ids[2]: ids[0]})
            await erase(admin, ids[0])
            assert await copies(owner) == {ids[2]: ids[1]}
            await store(database, items[3:])
            await wait_for_copies(owner, {ids[2]: ids[1], ids[3]: ids[1]})
        finally:
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)


async def wait_for_copies(owner: asyncpg.Connection, wanted: dict[UUID, UUID]) -> None:
    found: dict[UUID, UUID] = {}
    for _ in range(400):
        found = await copies(owner)
        if found == wanted:
            return
        await asyncio.sleep(0.05)
    assert found == wanted


async def test_deliveries_that_come_meanwhile_are_refused_from_one_moment_on(
    database: str, owner: asyncpg.Connection, admin: str
) -> None:
    """Ingest keeps rewriting, merging and mentioning the article while it is taken down."""
    urls = [f"https://a.example/{PATH}/{n}" for n in range(6)]
    stop = asyncio.Event()
    position = 0

    async def ingest() -> None:
        nonlocal position
        async with open_store(settings_of(database), consumer_group="newsloom") as opened:
            claim = await opened.claim(PARTITION, "me", 0)
            while not stop.is_set():
                number = position // 2
                pair = {"originalUrl": urls[number % 6], "webUrl": urls[(number + 1) % 6]}
                items = [
                    seen(position, {**pair, "body": f"{TEXT} {number}"}),
                    seen(
                        position + 1,
                        {
                            "originalUrl": f"https://b.example/{number}",
                            "related": [{"title": WORD, "originalUrl": urls[number % 6]}],
                        },
                    ),
                ]
                batch = Batch(PARTITION, claim.epoch, 0, position, position + 2, items)
                await opened.apply(batch)
                position += 2

    task = asyncio.create_task(ingest())
    while position < 20 and not task.done():  # noqa: ASYNC110 - a count has no event
        await asyncio.sleep(0.01)
    erasure = await erase(admin, id_of(urls[0]), is_url=True)
    assert erasure.is_done
    reached = position
    while position < reached + 40 and not task.done():  # noqa: ASYNC110 - as above
        await asyncio.sleep(0.01)
    stop.set()
    await task
    assert await traces(owner, WORD) == {}
    (row,) = await owner.fetch(
        "SELECT created + revised + refreshed + unchanged + stale + rejected AS outcomes,"
        " next_offset, rejected FROM newsloom.ingest_offsets"
    )
    assert row["outcomes"] == row["next_offset"] == position
    assert row["rejected"] >= 20
