"""Programs that read the Kafka topic: newsloom itself, and what a user would pick instead.

Each runs as a process of its own, started after the topic was filled, and is timed from the outside
by what has arrived in Postgres. The clock starts when `WARM_UP` of the records are there, so that
neither its start, nor a rebalance, nor a compiler that has to warm up counts. Newsloom decodes
ahead of what it stores, so its clock ends before its last records: when as much is under way as at
its start. CPU time is that of the same span. A contender's arguments: bootstrap servers, Kafka
topic, DSN, consumer group.
"""

import asyncio
import os
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory, TemporaryFile
from typing import IO
from uuid import uuid4

import asyncpg

from bench import connect
from bench.contenders.flat import TABLE, TRIGRAM_INDEX, row_of
from bench.stage import Stage, tree_cpu_seconds
from bench.workloads import Made

HERE = Path(__file__).parent
NEWSLOOM = str(Path(sys.executable).with_name("newsloom"))
POLL_SECONDS = 0.05
PATIENCE_SECONDS = 60.0
WARM_UP = 0.2
WIND_DOWN = 0.1
_ENDING_SECONDS = 5.0
_LAST = 64
_LOG_BYTES = 20_000

STORED = "SELECT coalesce(sum(next_offset), 0)::bigint FROM newsloom.ingest_offsets"
_TRIGRAMS = "SELECT extnamespace::regnamespace::text FROM pg_extension WHERE extname = 'pg_trgm'"
_FLAT_STORED = "SELECT count(*) FROM flat"
_FLAT_LAST_STORED = "SELECT count(*) FROM flat WHERE url = ANY($1)"
_FLAT_SIZE = "SELECT pg_relation_size('flat')"


@dataclass(frozen=True, slots=True)
class Timed:
    """What one run gave: records a second, and CPU time a record of the program and of Postgres."""

    rate: float
    cpu_us_a_record: float
    postgres_us_a_record: float


@dataclass(frozen=True, slots=True)
class Program:
    """A running program under test, and where its output goes."""

    process: subprocess.Popen[bytes]
    log: IO[bytes]

    def check(self) -> None:
        """Raise if it has ended."""
        if self.process.poll() is not None:
            raise RuntimeError(
                f"ended by itself with {self.process.returncode}; {self.complaint()}"
            )

    def complaint(self) -> str:
        """Return the last line in which it speaks of an error, else its last line."""
        self.log.seek(max(0, self.log.seek(0, os.SEEK_END) - _LOG_BYTES))
        lines = self.log.read().decode(errors="replace").splitlines() or ["it said nothing"]
        return next((line for line in reversed(lines) if "rror" in line), lines[-1])[:300]


def newsloom_env(stage: Stage, dsn: str, topic: str, group: str | None = None) -> dict[str, str]:
    """Return the environment of a newsloom process in which everything else is as it comes."""
    return {
        **os.environ,
        "NEWSLOOM_KAFKA_BOOTSTRAP_SERVERS": stage.servers,
        "NEWSLOOM_POSTGRES_DSN": dsn,
        "NEWSLOOM_KAFKA_ARTICLES_TOPIC": topic,
        "NEWSLOOM_KAFKA_BACKFILL_TOPIC": f"{topic}.backfill",
        "NEWSLOOM_INGEST_CONSUMER_GROUP": group or f"bench-{uuid4().hex[:8]}",
        "NEWSLOOM_ADMIN_PORT": "0",
        "NEWSLOOM_LOG_LEVEL": "WARNING",
    }


@asynccontextmanager
async def running(
    commands: Sequence[Sequence[str]], env: Mapping[str, str]
) -> AsyncIterator[list[Program]]:
    """Run programs for as long as the block does."""
    programs: list[Program] = []
    try:
        for command in commands:
            log = TemporaryFile()  # noqa: SIM115 - closed below
            process = subprocess.Popen(  # noqa: ASYNC220, S603 - ours; starting is not timed
                command, env=dict(env), stdout=log, stderr=log
            )
            programs.append(Program(process, log))
        yield programs
    finally:
        for program in programs:
            program.process.terminate()
        for program in programs:
            try:
                await asyncio.to_thread(program.process.wait, _ENDING_SECONDS)
            except subprocess.TimeoutExpired:
                program.process.kill()
                program.process.wait()
            program.log.close()


async def newsloom(
    stage: Stage, topic: str, count: int, *, processes: int = 1, linker: bool = False
) -> Timed:
    """Time `newsloom ingest`, with or without `newsloom link` beside it."""
    async with stage.fresh_database() as dsn:
        commands = [[NEWSLOOM, "ingest"]] * processes + [[NEWSLOOM, "link"]] * linker
        async with running(commands, newsloom_env(stage, dsn, topic)) as programs:
            return await timed(stage, dsn, programs, count)


async def contender(
    stage: Stage, python: Path | None, name: str, topic: str, made: Sequence[Made]
) -> Timed:
    """Time one of `bench/contenders`, run with the Python that has its packages."""
    if python is None:
        raise RuntimeError("no Python with its packages; `make bench` makes one")
    script = str(HERE / "contenders" / f"{name}.py")
    async with _flat_database(stage) as dsn:
        arguments = [stage.servers, topic, dsn, f"bench-{uuid4().hex[:8]}"]
        async with running([[str(python), script, *arguments]], os.environ) as programs:
            return await timed(stage, dsn, programs, len(made), made)


async def debezium(stage: Stage, topic: str, made: Sequence[Made]) -> Timed:
    """Time Debezium's JDBC sink in a standalone Kafka Connect worker."""
    with TemporaryDirectory(prefix="newsloom-connect-") as name:
        async with _flat_database(stage) as dsn:
            command = connect.command(Path(name), stage.servers, topic, dsn)
            async with running([command], os.environ) as programs:
                return await timed(stage, dsn, programs, len(made), made)


@asynccontextmanager
async def _flat_database(stage: Stage) -> AsyncIterator[str]:
    async with stage.fresh_database() as dsn:
        connection = await asyncpg.connect(dsn)
        await connection.execute(TABLE)
        if home := await connection.fetchval(_TRIGRAMS):
            await connection.execute(TRIGRAM_INDEX.format(home=home))
        await connection.close()
        yield dsn


class _Watch:
    """Looks at what has arrived: newsloom's positions, or the rows of the flat table."""

    def __init__(self, connection: asyncpg.Connection, made: Sequence[Made] | None) -> None:
        self._connection = connection
        # Kafka's order holds in a partition: with the last of each there, all are there. Counting
        # the whole table all the time would slow down whom we watch.
        self._last = [row_of(one.record)["url"] for one in made[-_LAST:]] if made else None

    async def stored(self) -> int:
        """Return how many records have arrived."""
        query = STORED if self._last is None else _FLAT_STORED
        return int(await self._connection.fetchval(query))

    async def finished(self, count: int) -> int:
        """Return how many have arrived when the clock has to end, until then 0."""
        if self._last is None:
            stored = await self.stored()
            return stored if stored >= count * (1 - WIND_DOWN) else 0
        there = await self._connection.fetchval(_FLAT_LAST_STORED, self._last)
        return count if there == len(set(self._last)) else 0

    async def sign_of_life(self) -> int:
        """Return a number that changes as long as something arrives."""
        if self._last is None:
            return await self.stored()
        return int(await self._connection.fetchval(_FLAT_SIZE))


async def timed(
    stage: Stage,
    dsn: str,
    programs: Sequence[Program],
    count: int,
    flat: Sequence[Made] | None = None,
) -> Timed:
    """Time what runs on a database until `count` records have arrived there: see the module."""
    connection = await asyncpg.connect(dsn)
    try:
        watch = _Watch(connection, flat)
        patience = _Patience(watch, programs)
        while (first := await watch.stored()) < count * WARM_UP:
            await patience.wait()
        before = _Spent.now(stage, programs)
        while (last := await watch.finished(count)) == 0:
            await patience.wait()
        spent = _Spent.now(stage, programs) - before
    finally:
        await connection.close()
    if first >= last:
        raise RuntimeError("all records came at once: too few of them to time")
    of = last - first
    return Timed(of / spent.seconds, spent.programs / of * 1e6, spent.postgres / of * 1e6)


@dataclass(frozen=True, slots=True)
class _Spent:
    seconds: float
    programs: float
    postgres: float

    @classmethod
    def now(cls, stage: Stage, programs: Sequence[Program]) -> "_Spent":
        spent = sum(tree_cpu_seconds(program.process.pid) for program in programs)
        return cls(time.monotonic(), spent, stage.postgres_cpu_seconds())

    def __sub__(self, other: "_Spent") -> "_Spent":
        return _Spent(
            self.seconds - other.seconds,
            self.programs - other.programs,
            self.postgres - other.postgres,
        )


class _Patience:
    """Waits for the next look, and not for ever."""

    def __init__(self, watch: _Watch, programs: Sequence[Program]) -> None:
        self._watch = watch
        self._programs = programs
        self._seen = 0
        self._since = time.monotonic()

    async def wait(self) -> None:
        """Wait a moment; raise if a program has ended or nothing has arrived for long."""
        await asyncio.sleep(POLL_SECONDS)
        for program in self._programs:
            program.check()
        if time.monotonic() - self._since < PATIENCE_SECONDS / 10:
            return
        seen = await self._watch.sign_of_life()
        if seen != self._seen:
            self._seen, self._since = seen, time.monotonic()
        elif time.monotonic() - self._since > PATIENCE_SECONDS:
            words = "; ".join(program.complaint() for program in self._programs)
            raise TimeoutError(f"nothing arrived for {PATIENCE_SECONDS:.0f} s; {words}")
