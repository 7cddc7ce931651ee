"""The service as its operators meet it: a command, a Kafka topic, a database. Nothing imported."""

import asyncio
import json
import os
import signal
import sys
from collections.abc import AsyncIterator, Callable, Iterable, Sequence
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from uuid import uuid4

import asyncpg
from aiokafka import AIOKafkaConsumer, AIOKafkaProducer, TopicPartition

from tests.support.generator import Message

IDLE_SECONDS = 4
"""How long ingest waits for more before it goes: longer than any join, or it would go too early."""

# Short waits for a dead member: half of every kill test is waiting for the group to notice.
QUICK = {
    "NEWSLOOM_INGEST_SESSION_TIMEOUT_SECONDS": "6",
    "NEWSLOOM_INGEST_HEARTBEAT_INTERVAL_SECONDS": "1",
    "NEWSLOOM_ADMIN_PORT": "0",
}


@dataclass(frozen=True, slots=True)
class Finished:
    """A command that has ended."""

    code: int
    out: str
    err: str

    def lines(self) -> list[dict[str, Any]]:
        """Return stdout's JSON lines."""
        return [json.loads(line) for line in self.out.splitlines() if line.startswith("{")]

    def told(self) -> str:
        """What to show when an assertion fails: the end of both streams."""
        return f"exit {self.code}\nstdout: {self.out[-2000:]}\nstderr: {self.err[-4000:]}"


@dataclass(frozen=True, slots=True)
class Line:
    """One Kafka topic and one database that belong together, and the commands run on them."""

    bootstrap: str
    dsn: str
    topic: str
    partitions: int = 1
    group: str = field(default_factory=lambda: f"test-{uuid4().hex[:8]}")

    def environment(self, extra: dict[str, str] | None = None) -> dict[str, str]:
        """Return the environment of a command: nothing of NEWSLOOM_ is inherited."""
        clean = {n: v for n, v in os.environ.items() if not n.startswith("NEWSLOOM_")}
        return {
            **clean,
            "NEWSLOOM_KAFKA_BOOTSTRAP_SERVERS": self.bootstrap,
            "NEWSLOOM_POSTGRES_DSN": self.dsn,
            "NEWSLOOM_KAFKA_ARTICLES_TOPIC": self.topic,
            "NEWSLOOM_KAFKA_BACKFILL_TOPIC": f"{self.topic}.backfill",
            "NEWSLOOM_KAFKA_RECEIPTS_TOPIC": f"{self.topic}.receipts",
            "NEWSLOOM_INGEST_CONSUMER_GROUP": self.group,
            **QUICK,
            **(extra or {}),
        }

    async def start(
        self, *arguments: str | Path, extra: dict[str, str] | None = None
    ) -> asyncio.subprocess.Process:
        """Start `newsloom ARGUMENTS` in a process group of its own."""
        return await asyncio.create_subprocess_exec(
            Path(sys.executable).with_name("newsloom"),
            *map(str, arguments),
            stdin=asyncio.subprocess.DEVNULL,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
            env=self.environment(extra),
            start_new_session=True,
        )

    async def run(
        self, *arguments: str | Path, patience: float = 120, extra: dict[str, str] | None = None
    ) -> Finished:
        """Run `newsloom ARGUMENTS` to its end; one that takes longer is killed, and an error."""
        process = await self.start(*arguments, extra=extra)
        return await finish(process, patience)

    async def migrate(self) -> None:
        """Apply the migrations."""
        done = await self.run("migrate")
        assert done.code == 0, done.told()

    async def ingest(
        self, *, patience: float = 180, extra: dict[str, str] | None = None
    ) -> Finished:
        """Ingest until nothing comes any more."""
        done = await self.run(
            "ingest", "--exit-when-idle", str(IDLE_SECONDS), patience=patience, extra=extra
        )
        assert done.code == 0, done.told()
        return done

    async def fetch(self, query: str, *arguments: object) -> list[asyncpg.Record]:
        """Run one query as the owner of the database."""
        connection = await asyncpg.connect(self.dsn)
        try:
            return list(await connection.fetch(query, *arguments))
        finally:
            await connection.close()

    async def outcomes(self) -> dict[str, int]:
        """Sum the outcome counts of all partitions, as the public view has them."""
        rows = await self.fetch(
            "SELECT sum(created)::int AS created, sum(revised)::int AS revised,"
            " sum(refreshed)::int AS refreshed, sum(unchanged)::int AS unchanged,"
            " sum(stale)::int AS stale, sum(rejected)::int AS rejected"
            " FROM api.ingest_progress WHERE kafka_topic = $1",
            self.topic,
        )
        return {name: count or 0 for name, count in rows[0].items()}

    async def position(self) -> int:
        """Return the sum of the partitions' next offsets: how many deliveries are accounted for."""
        rows = await self.fetch(
            "SELECT coalesce(sum(next_offset), 0)::bigint AS n FROM api.ingest_progress"
            " WHERE kafka_topic = $1",
            self.topic,
        )
        return int(rows[0]["n"])

    async def reached(self, position: int, patience: float) -> None:
        """Wait until the deliveries below `position` are accounted for."""
        connection = await asyncpg.connect(self.dsn)
        query = (
            "SELECT coalesce(sum(next_offset), 0) FROM api.ingest_progress WHERE kafka_topic = $1"
        )
        try:
            async with asyncio.timeout(patience):
                while await connection.fetchval(query, self.topic) < position:  # noqa: ASYNC110
                    await asyncio.sleep(0.005)
        finally:
            await connection.close()

    async def log_end(self) -> int:
        """Return how many messages the topic holds, all partitions together."""
        consumer = AIOKafkaConsumer(bootstrap_servers=self.bootstrap)
        await consumer.start()
        try:
            numbers = range(self.partitions)
            ends = await consumer.end_offsets([TopicPartition(self.topic, n) for n in numbers])
            return sum(ends.values())
        finally:
            await consumer.stop()


async def finish(process: asyncio.subprocess.Process, patience: float) -> Finished:
    """Wait for a process to end by itself."""
    try:
        async with asyncio.timeout(patience):
            out, err = await process.communicate()
    except TimeoutError:
        kill(process)
        out, err = await process.communicate()
        told = Finished(-9, out.decode(), err.decode()).told()
        raise AssertionError(f"still running after {patience} s: {told}") from None
    return Finished(process.returncode or 0, out.decode(), err.decode())


def kill(process: asyncio.subprocess.Process) -> None:
    """Send SIGKILL to the process and its children: no handler, no farewell."""
    with suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)


@asynccontextmanager
async def producer(bootstrap: str) -> AsyncIterator[AIOKafkaProducer]:
    """Open a plain producer; it knows nothing of the service."""
    sender = AIOKafkaProducer(
        bootstrap_servers=bootstrap, acks="all", linger_ms=20, max_batch_size=512 * 1024
    )
    await sender.start()
    try:
        yield sender
    finally:
        await sender.stop()


async def send(
    bootstrap: str,
    topic: str,
    messages: Iterable[Message],
    partition_of: Callable[[Message], int] = lambda _: 0,
) -> list[tuple[int, int]]:
    """Send made-up messages; returns the (partition, offset) of each, in the order given."""
    async with producer(bootstrap) as sender:
        pending = [
            await sender.send(
                topic,
                value=message.value(),
                key=message.key(),
                headers=message.headers(),
                partition=partition_of(message),
            )
            for message in messages
        ]
        receipts = await asyncio.gather(*pending)
    return [(receipt.partition, receipt.offset) for receipt in receipts]


async def send_raw(
    bootstrap: str, topic: str, values: Sequence[bytes | None], *, timestamp_ms: int | None = None
) -> None:
    """Send values as they are, without headers, to partition 0, in order."""
    async with producer(bootstrap) as sender:
        pending = [
            await sender.send(topic, value=value, key=b"k", partition=0, timestamp_ms=timestamp_ms)
            for value in values
        ]
        await asyncio.gather(*pending)
