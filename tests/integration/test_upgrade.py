"""Rolling upgrade: migrations over data that an earlier release left, and under one that runs."""

import asyncio
import os
import shutil
import sys
from collections import Counter
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import asyncpg
import pytest
from pydantic import SecretStr

from newsloom.adapters import migrations
from newsloom.adapters.postgres import open_store
from newsloom.core.batch import Observation
from newsloom.core.enrichment import enrich
from newsloom.core.mapping import article_from_record
from newsloom.core.record import record_from_mapping
from newsloom.ports import Batch, TopicPartition
from newsloom.settings import PostgresSettings
from tests.support.blackbox import IDLE_SECONDS, Line, finish, kill, producer
from tests.support.generator import Message, Stream
from tests.support.kafka import MakeTopic

pytestmark = pytest.mark.timeout(300)

PARTITION = TopicPartition("newsloom.articles.v1", 0)
FILES = [migration.name for migration in migrations.read_migrations()]
FIRST_THAT_INGESTS = "20261123100600_rights.sql"
"""From here on there is everything that ingest writes to."""

FIRST_THAT_RUNS = "20261123103000_audit_log.sql"
"""What the release had that is running while the rest is applied."""

# A view is compared by the columns that it had then: later ones are added at the end.
VIEWS = """
SELECT c.relname AS name, array_agg(quote_ident(a.attname) ORDER BY a.attnum) AS columns
FROM pg_class c JOIN pg_attribute a ON a.attrelid = c.oid AND a.attnum > 0 AND NOT a.attisdropped
WHERE c.relnamespace = 'api'::regnamespace AND c.relkind = 'v' GROUP BY 1 ORDER BY 1"""

# Counted when asked, from another time of day on.
NOT_COMPARED = {"providers"}


def up_to(name: str, folder: Path) -> Path:
    """The folder of migrations as it was when this one was the newest."""
    folder.mkdir()
    for file in FILES[: FILES.index(name) + 1]:
        shutil.copy(migrations.FOLDER / file, folder / file)
    return folder


async def fill(dsn: str, messages: list[Message]) -> None:
    async with open_store(PostgresSettings(dsn=SecretStr(dsn)), consumer_group="newsloom") as store:
        claim = await store.claim(PARTITION, "me", 0)
        items = []
        for offset, message in enumerate(messages):
            if "title" not in message.record or "originalUrl" not in message.record:
                continue
            article = enrich(article_from_record(record_from_mapping(message.record).record))
            items.append(Observation(offset, message.observed_at, article))
        await store.apply(Batch(PARTITION, claim.epoch, 0, claim.next_offset, 10_000, items))


async def seen_by_readers(
    connection: asyncpg.Connection, views: dict[str, list[str]]
) -> dict[str, Counter[tuple[Any, ...]]]:
    rows = {}
    for name, columns in views.items():
        query = f"SELECT {', '.join(f'{column}::text' for column in columns)} FROM api.{name}"  # noqa: S608
        rows[name] = Counter(map(tuple, await connection.fetch(query)))
    return rows


async def test_every_migration_keeps_what_an_earlier_release_had_stored(
    empty_database: str, tmp_path: Path
) -> None:
    first = up_to(FIRST_THAT_INGESTS, tmp_path / "first")
    await migrations.migrate(empty_database, folder=first)
    await fill(empty_database, list(Stream(9, deliveries=600, related=0.4)))
    connection = await asyncpg.connect(empty_database)
    try:
        views = {row["name"]: row["columns"] for row in await connection.fetch(VIEWS)}
        views = {name: columns for name, columns in views.items() if name not in NOT_COMPARED}
        before = await seen_by_readers(connection, views)
        assert len(before["articles"]) > 50
        assert before["article_revisions"].total() > before["articles"].total() / 2
        for name in FILES[FILES.index(FIRST_THAT_INGESTS) + 1 :]:
            folder = up_to(name, tmp_path / name)
            assert await migrations.migrate(empty_database, folder=folder) == [name]
            assert await seen_by_readers(connection, views) == before, name
    finally:
        await connection.close()
    assert await migrations.migrate(empty_database) == []


# A release whose newest migration is the last of a folder, as `newsloom ARGUMENTS`. It does not ask
# at its start what a later migration made askable.
OLDER_RELEASE = """
import sys
from pathlib import Path
from newsloom.adapters import migrations
from newsloom.app import roles
migrations.FOLDER = Path(sys.argv.pop(1))
async def is_foreign(settings):
    return False
roles.change_log_is_foreign = is_foreign
from newsloom.cli.main import main
main()
"""


@pytest.fixture
async def older(
    kafka_bootstrap: str, make_topic: MakeTopic, empty_database: str, tmp_path: Path
) -> AsyncIterator[tuple[Line, asyncio.subprocess.Process]]:
    """Ingest of an older release on its own schema, and the line that it works on."""
    line = Line(kafka_bootstrap, empty_database, await make_topic(name="articles"))
    folder = up_to(FIRST_THAT_RUNS, tmp_path / "older")
    await migrations.migrate(empty_database, folder=folder)
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-c", OLDER_RELEASE, folder),
        *("ingest", "--exit-when-idle", str(IDLE_SECONDS)),
        stdin=asyncio.subprocess.DEVNULL,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
        env=line.environment({"PYTHONPATH": os.pathsep.join(sys.path)}),
        start_new_session=True,
    )
    yield line, process
    if process.returncode is None:
        kill(process)
        await process.communicate()


async def test_ingest_of_an_older_release_goes_on_while_the_schema_is_brought_up_to_date(
    older: tuple[Line, asyncio.subprocess.Process],
) -> None:
    line, process = older
    messages = list(Stream(11, deliveries=3000, related=0.4))
    is_migrated = asyncio.Event()
    sent = 0

    async def publish() -> None:
        """Keep deliveries coming until the last migration is in, and for a while after it."""
        nonlocal sent
        async with producer(line.bootstrap) as sender:
            for message in messages:
                await sender.send_and_wait(
                    line.topic,
                    value=message.value(),
                    key=message.key(),
                    headers=message.headers(),
                    partition=0,
                )
                sent += 1
                if is_migrated.is_set() and sent % 200 == 0:
                    return
                await asyncio.sleep(0.005)

    publishing = asyncio.create_task(publish())
    await line.reached(50, 60)
    before = await line.position()
    applied = await migrations.migrate(line.dsn)
    assert applied == FILES[FILES.index(FIRST_THAT_RUNS) + 1 :]
    during = await line.position()
    is_migrated.set()
    await publishing
    done = await finish(process, 120)
    assert done.code == 0, done.told()
    assert before < during < sent or sent == during
    outcomes = await line.outcomes()
    assert sum(outcomes.values()) == await line.position() == sent
    rows = await line.fetch("SELECT owner_epoch, parked_reason FROM newsloom.ingest_offsets")
    # Claimed once: it was neither stopped nor thrown out by any of it.
    assert [tuple(row) for row in rows] == [(1, None)]
    for role in ("ingest", "link"):  # and the new release takes over
        ended = await line.run(role, "--exit-when-idle", "0.5")
        assert ended.code == 0, ended.told()


async def test_the_new_release_does_not_start_before_its_schema_is_there(
    older: tuple[Line, asyncio.subprocess.Process],
) -> None:
    line, _ = older
    done = await line.run("ingest", "--exit-when-idle", "0")
    assert done.code == 2
    assert "newsloom migrate" in done.err
