"""A parked partition and the way out of it, with the real commands on the real services."""

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from urllib.parse import urlsplit, urlunsplit
from uuid import uuid4

import asyncpg
import pytest
from aiokafka import TopicPartition
from aiokafka.admin import AIOKafkaAdminClient, RecordsToDelete
from pydantic import SecretStr

from newsloom.adapters.postgres.administration import open_administration
from newsloom.core.offsets import Rebase, RebaseRefused
from newsloom.ports import TopicPartition as NewsloomPartition
from newsloom.settings import PostgresSettings
from tests.support.blackbox import Finished, Line, finish, kill, send_raw
from tests.support.kafka import MakeTopic

pytestmark = pytest.mark.timeout(180)


@pytest.fixture
async def line(kafka_bootstrap: str, database: str, make_topic: MakeTopic) -> Line:
    """One partition with ten records, all of them ingested."""
    made = Line(kafka_bootstrap, database, await make_topic(name="articles"))
    await send_raw(made.bootstrap, made.topic, records(0, 10))
    async with ingesting(made):
        await made.reached(10, 60)
    return made


def records(first: int, end: int) -> list[bytes | None]:
    return [
        json.dumps({"title": f"T{n}", "originalUrl": f"https://a.example/{n}"}).encode()
        for n in range(first, end)
    ]


@asynccontextmanager
async def ingesting(line: Line) -> AsyncIterator[None]:
    process = await line.start("ingest")
    try:
        yield
    finally:
        kill(process)
        await finish(process, 10)


async def parked(line: Line) -> str:
    async with asyncio.timeout(60):
        while True:
            (row,) = await line.fetch("SELECT parked_reason FROM newsloom.ingest_offsets")
            if row["parked_reason"]:
                return str(row["parked_reason"])
            await asyncio.sleep(0.1)


async def rebase(line: Line, *arguments: str) -> Finished:
    place = ("offsets", "rebase", line.topic, "0")
    return await line.run(*place, "--reason", "told by the runbook", *arguments)


async def delete_before(line: Line, offset: int) -> None:
    admin = AIOKafkaAdminClient(bootstrap_servers=line.bootstrap)
    await admin.start()
    try:
        await admin.delete_records({TopicPartition(line.topic, 0): RecordsToDelete(offset)})
    finally:
        await admin.close()


async def test_a_gap_parks_and_a_rebase_goes_on_behind_it(line: Line) -> None:
    await send_raw(line.bootstrap, line.topic, records(10, 20))
    await delete_before(line, 15)
    async with ingesting(line):
        assert await parked(line) == "offset.gap"

        shown = await line.run("offsets", "show", "--format", "json")
        assert shown.code == 1, shown.told()
        (told,) = shown.lines()
        figures = [told[name] for name in ("next_offset", "log_start", "log_end", "lag")]
        assert figures == [10, 15, 20, 10]
        assert told["parked_reason"] == "offset.gap"

        asked = await rebase(line, "--to", "earliest", "--expect", "10")
        assert asked.code == 2, asked.told()
        assert "10 -> 15" in asked.out
        assert "add --yes" in asked.err
        stale = await rebase(line, "--to", "earliest", "--expect", "9", "--yes")
        assert stale.code == 2
        assert "the position is 10" in stale.err
        assert await line.position() == 10

        done = await rebase(line, "--to", "earliest", "--expect", "10", "--yes")
        assert done.code == 0, done.told()
        await line.reached(20, 60)
    (row,) = await line.fetch("SELECT * FROM newsloom.ingest_offsets")
    assert (row["skipped"], row["parked_reason"], row["incarnation"]) == (5, None, 0)
    assert row["created"] + row["skipped"] == row["next_offset"] == 20
    (audit,) = await line.fetch("SELECT * FROM newsloom.audit_log")
    assert (audit["action"], audit["reason"]) == ("offsets rebase", "told by the runbook")
    assert audit["database_user"] == urlsplit(line.dsn).username
    before, after = json.loads(audit["before"]), json.loads(audit["after"])
    assert (before["next_offset"], before["parked_reason"]) == (10, "offset.gap")
    assert (after["next_offset"], after["skipped"]) == (15, 5)


@pytest.mark.parametrize(
    ("found_as", "reason"),
    [
        # As if the Kafka topic had been made anew: shorter, and with other records.
        ("next_offset = 500", "offset.past_end"),
        ("anchor_sha256 = '\\x00'", "topic.identity"),
    ],
)
async def test_a_topic_made_anew_parks_and_a_new_incarnation_takes_it_whole(
    line: Line, found_as: str, reason: str
) -> None:
    await line.fetch(f"UPDATE newsloom.ingest_offsets SET {found_as}")  # noqa: S608
    expect = str(await line.position())
    async with ingesting(line):
        assert await parked(line) == reason
        refused = await rebase(line, "--to", "earliest", "--expect", expect, "--yes")
        assert refused.code == 2
        assert "--new-incarnation" in refused.err
        done = await rebase(
            line, "--to", "earliest", "--expect", expect, "--new-incarnation", "--yes"
        )
        assert done.code == 0, done.told()
        await send_raw(line.bootstrap, line.topic, records(10, 12))
        await line.reached(12, 60)
    (row,) = await line.fetch("SELECT * FROM newsloom.ingest_offsets")
    assert (row["incarnation"], row["parked_reason"], row["skipped"]) == (1, None, 0)
    assert row["created"] == 12
    assert row["next_offset"] == 12


async def test_a_rewind_has_to_be_meant_and_changes_no_article(line: Line) -> None:
    refused = await rebase(line, "--to", "3", "--expect", "10", "--yes")
    assert refused.code == 2
    assert "--allow-rewind" in refused.err
    done = await rebase(line, "--to", "3", "--expect", "10", "--allow-rewind", "--yes")
    assert done.code == 0, done.told()
    assert await line.position() == 3
    async with ingesting(line):
        await line.reached(10, 60)
    assert (await line.outcomes())["created"] == 10
    (row,) = await line.fetch("SELECT sum(unchanged + stale)::int AS n FROM api.ingest_progress")
    assert row["n"] == 7


async def test_the_owner_of_a_moved_partition_is_fenced_and_goes_on_from_there(line: Line) -> None:
    async with ingesting(line):
        await asyncio.sleep(4)
        done = await rebase(line, "--to", "3", "--expect", "10", "--allow-rewind", "--yes")
        assert done.code == 0, done.told()
        await send_raw(line.bootstrap, line.topic, records(10, 11))
        await line.reached(11, 60)
    (row,) = await line.fetch("SELECT sum(unchanged + stale)::int AS n FROM api.ingest_progress")
    assert row["n"] == 7


async def test_a_position_that_moves_while_it_is_being_rebased_is_not_overwritten(
    database: str,
) -> None:
    connection = await asyncpg.connect(database)
    try:
        await connection.execute(
            "INSERT INTO newsloom.ingest_offsets (consumer_group, kafka_topic, kafka_partition,"
            " next_offset) VALUES ('g', 't', 0, 10)"
        )
        batch = connection.transaction()
        await batch.start()
        await connection.execute("UPDATE newsloom.ingest_offsets SET next_offset = 11")
        settings = PostgresSettings(dsn=SecretStr(database))
        async with open_administration(settings, os_user="me") as administration:
            place = NewsloomPartition("t", 0)
            asked = Rebase("latest", 10)
            task = asyncio.create_task(
                administration.rebase("g", place, asked, (0, 50), reason="x", does_it=True)
            )
            await asyncio.sleep(0.5)
            await batch.commit()
            with pytest.raises(RebaseRefused, match="11 by now"):
                await task
        assert await connection.fetchval("SELECT next_offset FROM newsloom.ingest_offsets") == 11
        assert not await connection.fetchval("SELECT count(*) FROM newsloom.audit_log")
    finally:
        await connection.close()


async def test_an_operator_needs_no_more_than_the_admin_role(line: Line) -> None:
    name = f"operator_{uuid4().hex}"
    superuser = await asyncpg.connect(line.dsn)
    try:
        await superuser.execute(
            f"CREATE ROLE {name} LOGIN PASSWORD '{name}' IN ROLE newsloom_admin"
        )
        parts = urlsplit(line.dsn)
        address = parts.netloc.rpartition("@")[2]
        dsn = urlunsplit(parts._replace(netloc=f"{name}:{name}@{address}"))
        operator = Line(line.bootstrap, dsn, line.topic, 1, line.group)
        done = await rebase(operator, "--to", "latest", "--expect", "10", "--yes")
        assert done.code == 0, done.told()
        shown = await operator.run("offsets", "show")
        assert shown.code == 0, shown.told()
        assert "at 10  lag 0" in shown.out
        counted = await operator.run("dead-letters", "list", "--counts")
        assert counted.code == 0, counted.told()
        (audit,) = await line.fetch("SELECT database_user FROM newsloom.audit_log")
        assert audit["database_user"] == name
        for statement in (
            "UPDATE newsloom.audit_log SET reason = ''",
            "DELETE FROM newsloom.audit_log",
        ):
            connection = await asyncpg.connect(dsn)
            with pytest.raises(asyncpg.InsufficientPrivilegeError):
                await connection.execute(statement)
            await connection.close()
    finally:
        await superuser.execute(f"DROP ROLE {name}")
        await superuser.close()
