"""Maintenance on real Postgres: what goes, what must stay, and that nobody else notices."""

import asyncio
import json
import os
import subprocess
import sys
from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from urllib.parse import urlsplit, urlunsplit
from uuid import UUID, uuid4

import asyncpg
import pytest
from pydantic import SecretStr

from newsloom.adapters.postgres import maintenance as module
from newsloom.adapters.postgres import open_store
from newsloom.adapters.postgres.maintenance import (
    OtherMaintenance,
    Retention,
    Step,
    all_steps,
    change_log_is_foreign,
    open_maintenance,
)
from newsloom.core.batch import Observation
from newsloom.core.mapping import article_from_record
from newsloom.core.record import record_from_mapping
from newsloom.ports import Batch, TopicPartition
from newsloom.settings import PostgresSettings

PARTITION = TopicPartition("newsloom.articles.v1", 0)
NOW = datetime.now(UTC)
PARTITIONED = {"changes", "article_revisions", "article_signals"}


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


async def maintained(
    dsn: str, keep: Retention | None = None, *, dry_run: bool = False
) -> dict[str, Step]:
    settings = PostgresSettings(dsn=SecretStr(dsn))
    async with open_maintenance(settings, dry_run=dry_run, jitter=lambda: 0.1) as maintenance:
        return {step.name: step for step in await all_steps(maintenance, keep or Retention())}


async def partitions(owner: asyncpg.Connection, parent: str) -> list[str]:
    rows = await owner.fetch(
        "SELECT c.relname FROM pg_inherits i JOIN pg_class c ON c.oid = i.inhrelid"
        " WHERE i.inhparent = $1::text::regclass ORDER BY 1",
        f"newsloom.{parent}",
    )
    return [row["relname"] for row in rows]


async def write_change(owner: asyncpg.Connection, at: datetime) -> tuple[str, int]:
    (row,) = await owner.fetch(
        "INSERT INTO newsloom.changes (observed_at, recorded_at, version, article_id, kind)"
        " VALUES ($1, $1, 1, gen_random_uuid(), 'created')"
        " RETURNING xid::text AS xid, change_id",
        at,
    )
    return row["xid"], row["change_id"]


async def test_missing_partitions_are_made_once_and_a_dry_run_only_counts_them(
    owner: asyncpg.Connection, admin: str
) -> None:
    for parent in PARTITIONED:
        for name in (await partitions(owner, parent))[:-1]:  # the last one is the DEFAULT
            await owner.execute(f"DROP TABLE newsloom.{name}")
    seen = await maintained(admin, dry_run=True)
    assert seen["partitions ahead"].count == 8 + 3 + 3
    assert [len(await partitions(owner, parent)) for parent in sorted(PARTITIONED)] == [1, 1, 1]
    assert (await maintained(admin))["partitions ahead"].count == 8 + 3 + 3
    assert (await maintained(admin))["partitions ahead"].count == 0
    assert (await maintained(admin, dry_run=True))["partitions ahead"].count == 0


async def test_changes_go_by_whole_days_when_every_reader_has_read_them(
    owner: asyncpg.Connection, admin: str
) -> None:
    days = [NOW - timedelta(days=n) for n in (12, 11, 10, 3)]
    for day in days:
        await owner.execute("SELECT newsloom.ensure_partitions($1, 0, 0)", day)
    places = [await write_change(owner, day) for day in days]
    await owner.execute("INSERT INTO newsloom.cursors (reader) VALUES ('link'), ('relay')")
    move = "UPDATE newsloom.cursors SET xid = $2::text::xid8, change_id = $3 WHERE reader = $1"
    step = (await maintained(admin))["changes retired"]
    assert step.count == 0
    assert "3 wait for the reader" in step.note
    await owner.execute(move, "link", *places[3])
    await owner.execute(move, "relay", *places[0])
    step = (await maintained(admin, dry_run=True))["changes retired"]
    assert (step.count, step.note) == (1, f"changes_{days[0]:%Y%m%d}; 2 wait for the reader relay")
    assert (await maintained(admin))["changes retired"].count == 1
    assert await owner.fetchval("SELECT count(*) FROM newsloom.changes") == 3
    await owner.execute(move, "relay", *places[2])
    assert (await maintained(admin))["changes retired"].count == 2
    left = await owner.fetch("SELECT change_id FROM newsloom.changes")
    assert [row["change_id"] for row in left] == [places[3][1]]
    assert (await maintained(admin))["changes retired"].count == 0


async def test_a_day_that_somebody_is_still_writing_into_waits(
    database: str, owner: asyncpg.Connection, admin: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "LOCK_SECONDS", 0.2)
    monkeypatch.setattr(module, "_ATTEMPTS", 2)
    day = NOW - timedelta(days=10)
    await owner.execute("SELECT newsloom.ensure_partitions($1, 0, 0)", day)
    writer = await asyncpg.connect(database)
    transaction = writer.transaction()
    await transaction.start()
    await write_change(writer, day)
    step = (await maintained(admin))["changes retired"]
    assert (step.count, step.is_left) == (0, True)
    await transaction.commit()
    await writer.close()
    await owner.execute("INSERT INTO newsloom.cursors (reader) VALUES ('link')")
    step = (await maintained(admin))["changes retired"]
    assert (step.count, step.is_left) == (0, False)
    assert await owner.fetchval("SELECT count(*) FROM newsloom.changes") == 1


async def test_revisions_and_signals_go_by_whole_months_if_at_all(
    owner: asyncpg.Connection, admin: str
) -> None:
    old, recent = NOW - timedelta(days=800), NOW - timedelta(days=20)
    for at in (old, recent):
        await owner.execute(
            "INSERT INTO newsloom.article_signals (article_id, recorded_at, observed_at, heat)"
            " VALUES (gen_random_uuid(), $1, $1, 1)",
            at,
        )
        await owner.execute(
            "INSERT INTO newsloom.article_revisions (article_id, recorded_at, observed_at,"
            " revision, is_removed, canonical_url, title)"
            " VALUES (gen_random_uuid(), $1, $1, 1, false, '', '')",
            at,
        )
    # Nobody had made their partitions: without being moved, they would stay for ever.
    assert await owner.fetchval("SELECT count(*) FROM newsloom.article_signals_default") >= 1
    done = await maintained(admin)
    assert done["rows without partition moved"].count >= 2
    assert done["article_signals retired"].note == f"article_signals_{old:%Y%m}"
    assert done["article_revisions retired"].count == 0
    count = "SELECT count(*) FROM newsloom.article_signals"
    assert await owner.fetchval(count) == 1
    assert await owner.fetchval("SELECT count(*) FROM newsloom.article_signals_default") == 0
    assert await owner.fetchval("SELECT count(*) FROM newsloom.article_revisions") == 2
    done = await maintained(admin, Retention(revisions=400))
    assert done["article_revisions retired"].note == f"article_revisions_{old:%Y%m}"
    assert await owner.fetchval("SELECT count(*) FROM newsloom.article_revisions") == 1


async def test_dead_letters_stay_until_they_are_relayed_and_old(
    owner: asyncpg.Connection, admin: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "_DELETE_LETTERS", module._DELETE_LETTERS.replace("1000", "2"))
    monkeypatch.setattr(module, "_PAGE", 2)
    for offset, (days, relayed) in enumerate(
        [(100, True), (100, False), (80, True), (200, True), (300, True), (91, True), (92, True)]
    ):
        at = NOW - timedelta(days=days)
        await owner.execute(
            "INSERT INTO newsloom.dead_letters (consumer_group, kafka_topic, kafka_partition,"
            " incarnation, kafka_offset, observed_at, created_at, relayed_at, reason, detail)"
            " VALUES ('g', 't', 0, 0, $1, $2, $2, $3, 'parse.yaml', '')",
            offset,
            at,
            at if relayed else None,
        )
    assert (await maintained(admin, dry_run=True))["dead letters removed"].count == 5
    assert (await maintained(admin))["dead letters removed"].count == 5
    rows = await owner.fetch("SELECT kafka_offset FROM newsloom.dead_letters ORDER BY 1")
    assert [row["kafka_offset"] for row in rows] == [1, 2]


async def test_the_linkers_memory_keeps_roots_and_what_it_looked_at_lately(
    owner: asyncpg.Connection, admin: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("_COUNT_STATES", "_DELETE_STATES"):
        monkeypatch.setattr(module, name, getattr(module, name).replace("1000", "2"))
    monkeypatch.setattr(module, "_PAGE", 2)
    await owner.execute(
        "INSERT INTO newsloom.cursors (reader, sequence, window_from, trim_sequence)"
        " VALUES ('link', 7, $1, 5)",
        NOW - timedelta(days=7),
    )
    ids = [UUID(int=n) for n in range(1, 8)]
    ages = [90, 80, 70, 60, 5, 90, 1]
    for number, (article_id, age) in enumerate(zip(ids, ages, strict=True), 1):
        await owner.execute(
            "INSERT INTO newsloom.link_states (article_id, sequence, version, first_seen_at,"
            " is_counted, signature, features) VALUES ($1, $2, 1, $3, true, '', '')",
            article_id,
            number,
            NOW - timedelta(days=age),
        )
    await owner.execute("INSERT INTO newsloom.copies VALUES ($1, $2, 1, 1, 1)", ids[4], ids[1])
    assert (await maintained(admin, dry_run=True))["link states removed"].count == 3
    assert (await maintained(admin))["link states removed"].count == 3
    rows = await owner.fetch("SELECT article_id FROM newsloom.link_states ORDER BY sequence")
    assert [row["article_id"].int for row in rows] == [2, 5, 6, 7]
    assert (await maintained(admin, Retention(link_states=0))).keys() == (
        set(await maintained(admin)) - {"link states removed"}
    )


async def test_one_maintenance_at_a_time(admin: str) -> None:
    settings = PostgresSettings(dsn=SecretStr(admin))
    async with open_maintenance(settings, dry_run=False, jitter=lambda: 0.1) as one:
        steps = one.run(Retention())
        await anext(steps)
        with pytest.raises(OtherMaintenance):
            await maintained(admin)
        await steps.aclose()  # type: ignore[attr-defined]
    await maintained(admin)


def batch_of(epoch: int, low: int, size: int) -> Batch:
    items = []
    for offset in range(low, low + size):
        record = record_from_mapping(
            {
                "title": f"Number {offset}",
                "originalUrl": f"https://a.example/{offset % 40}",
                "heat": str(offset),
            }
        ).record
        when = NOW + timedelta(seconds=offset)
        items.append(Observation(offset, when, article_from_record(record)))
    return Batch(PARTITION, epoch, 0, low, low + size, items)


async def test_ingest_goes_on_beside_it_and_loses_nothing(
    database: str, owner: asyncpg.Connection, admin: str
) -> None:
    stop = asyncio.Event()
    position = 0

    async def ingest() -> None:
        nonlocal position
        async with open_store(
            PostgresSettings(dsn=SecretStr(database)), consumer_group="newsloom"
        ) as store:
            claim = await store.claim(PARTITION, "me", 0)
            while not stop.is_set():
                await store.apply(batch_of(claim.epoch, position, 10))
                position += 10

    task = asyncio.create_task(ingest())
    for round_ in range(6):
        for number in range(5):
            day = NOW - timedelta(days=40 * (round_ + 1) + number)
            await owner.execute("SELECT newsloom.ensure_partitions($1, 0, 0)", day)
        done = await maintained(admin, Retention(changes=7, revisions=30, signals=30))
        assert not [step for step in done.values() if step.is_left]
        assert done["changes retired"].count >= 5
    assert not task.done()
    stop.set()
    await task
    assert position > 100
    (row,) = await owner.fetch(
        "SELECT created + revised + refreshed + unchanged + stale + rejected AS outcomes,"
        " next_offset FROM newsloom.ingest_offsets"
    )
    assert row["outcomes"] == row["next_offset"] == position
    revisions = await owner.fetchval("SELECT count(*) FROM api.article_revisions")
    assert revisions == position  # each delivery has another title, each article one current row
    assert await owner.fetchval("SELECT sum(revision) FROM newsloom.articles") == position


def command(dsn: str, *arguments: str, name: str = "maintain") -> subprocess.CompletedProcess[str]:
    clean = {n: v for n, v in os.environ.items() if not n.startswith("NEWSLOOM_")}
    return subprocess.run(
        [Path(sys.executable).with_name("newsloom"), name, *arguments],
        env=clean
        | {"NEWSLOOM_POSTGRES_DSN": dsn, "NEWSLOOM_KAFKA_BOOTSTRAP_SERVERS": "127.0.0.1:1"},
        capture_output=True,
        text=True,
        check=False,
        timeout=50,
    )


async def test_the_command_says_what_it_did_and_needs_no_kafka(admin: str) -> None:
    done = await asyncio.to_thread(command, admin, "--format", "json")
    assert done.returncode == 0, done.stderr
    steps = [json.loads(line) for line in done.stdout.splitlines()]
    assert [step["name"] for step in steps] == list(await maintained(admin))
    shown = await asyncio.to_thread(command, admin, "--dry-run", "--keep-signals-days", "0")
    assert shown.returncode == 0, shown.stderr
    assert "nothing was changed" in shown.stderr
    assert "article_signals retired" in shown.stdout
    gone = await asyncio.to_thread(command, "postgresql://nobody@127.0.0.1:1/none")
    assert gone.returncode == 3


FOREIGN = 900_000_000_000


async def bring_foreign_log(owner: asyncpg.Connection) -> None:
    """As a dump brings it along: transaction numbers that this server has yet to reach."""
    await owner.execute(
        "INSERT INTO newsloom.changes (observed_at, version, article_id, kind, xid)"
        " SELECT now(), n, gen_random_uuid(), 'created', ($1::bigint + n)::text::xid8"
        " FROM generate_series(1, 4) AS n",
        FOREIGN,
    )
    await owner.execute(
        "INSERT INTO newsloom.cursors (reader, xid, change_id)"
        " SELECT 'link', xid, change_id FROM newsloom.changes WHERE version = 2"
    )


UNREAD = """
SELECT c.version FROM newsloom.changes c, newsloom.cursors k
WHERE (c.xid, c.change_id) > (k.xid, k.change_id)
    AND c.xid < pg_snapshot_xmin(pg_current_snapshot())
ORDER BY c.xid, c.change_id"""


async def test_after_a_restore_readers_go_on_where_they_were(
    owner: asyncpg.Connection, admin: str
) -> None:
    settings = PostgresSettings(dsn=SecretStr(admin))
    assert not await change_log_is_foreign(settings)
    await bring_foreign_log(owner)
    assert await change_log_is_foreign(settings)
    step = (await maintained(admin))["changes retired"]
    assert step.is_left
    assert "--after-restore" in step.note
    refused = await asyncio.to_thread(command, admin)
    assert refused.returncode == 1
    role = await asyncio.to_thread(command, admin, "--exit-when-idle", "0", name="link")
    assert role.returncode == 2
    assert "--after-restore" in role.stderr
    done = await asyncio.to_thread(command, admin, "--after-restore", "--format", "json")
    assert json.loads(done.stdout) == {"after_restore": "renumbered"}
    assert not await change_log_is_foreign(settings)
    assert [row["version"] for row in await owner.fetch(UNREAD)] == [3, 4]
    await write_change(owner, NOW)
    assert [row["version"] for row in await owner.fetch(UNREAD)] == [3, 4, 1]
    done = await asyncio.to_thread(command, admin, "--after-restore", "--format", "json")
    assert json.loads(done.stdout) == {"after_restore": "unchanged"}


async def test_a_restored_log_that_was_written_to_meanwhile_is_read_again(
    owner: asyncpg.Connection, admin: str
) -> None:
    await bring_foreign_log(owner)
    await write_change(owner, NOW)  # sorts before what the reader has read: it would be missed
    assert await owner.fetch(UNREAD) == []
    done = await asyncio.to_thread(command, admin, "--after-restore", "--format", "json")
    assert json.loads(done.stdout) == {"after_restore": "read again"}
    assert sorted(row["version"] for row in await owner.fetch(UNREAD)) == [1, 1, 2, 3, 4]
