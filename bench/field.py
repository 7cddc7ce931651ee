"""Programs that read the Kafka topic: newsloom itself, and what a user would pick instead.

Each runs as a process of its own, started after the topic was filled, and is timed from the outside
by what has arrived in Postgres: from its first rows to its last, so that its start does not count.
A contender's arguments: bootstrap servers, Kafka topic, DSN, consumer group.
"""

import asyncio
import os
import signal
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from uuid import uuid4

import asyncpg
import psutil

from bench.contenders.flat import TABLE
from bench.stage import Stage

HERE = Path(__file__).parent
POLL_SECONDS = 0.05
PATIENCE_SECONDS = 120.0

_NEWSLOOM_DONE = "SELECT coalesce(sum(next_offset), 0)::bigint FROM newsloom.ingest_offsets"
_FLAT_DONE = "SELECT count(*) FROM flat"


@dataclass(frozen=True, slots=True)
class Timed:
    """What one run gave: records a second, and CPU seconds of the program itself."""

    rate: float
    cpu_us_a_record: float


async def newsloom(
    stage: Stage, topic: str, count: int, *, processes: int = 1, linker: bool = False
) -> Timed:
    """Time `newsloom ingest`, with or without `newsloom link` beside it."""
    dsn = await stage.database()
    command = [str(Path(sys.executable).with_name("newsloom"))]
    env = {
        **os.environ,
        "NEWSLOOM_KAFKA_BOOTSTRAP_SERVERS": stage.servers,
        "NEWSLOOM_POSTGRES_DSN": dsn,
        "NEWSLOOM_KAFKA_ARTICLES_TOPIC": topic,
        "NEWSLOOM_KAFKA_BACKFILL_TOPIC": f"{topic}.backfill",
        "NEWSLOOM_INGEST_CONSUMER_GROUP": f"bench-{uuid4().hex[:8]}",
        "NEWSLOOM_ADMIN_PORT": "0",
        "NEWSLOOM_LOG_LEVEL": "WARNING",
    }
    commands = [[*command, "ingest"]] * processes + [[*command, "link"]] * linker
    return await _timed(stage, dsn, commands, env, done=_NEWSLOOM_DONE, count=count)


async def contender(stage: Stage, python: Path, program: str, topic: str, count: int) -> Timed:
    """Time one of `bench/contenders`, run with the Python that has its packages."""
    dsn = await stage.database()
    connection = await asyncpg.connect(dsn)
    await connection.execute(TABLE)
    await connection.close()
    script = HERE / "contenders" / f"{program}.py"
    command = [str(python), str(script), stage.servers, topic, dsn, f"bench-{uuid4().hex[:8]}"]
    return await _timed(stage, dsn, [command], os.environ, done=_FLAT_DONE, count=count)


async def _timed(
    stage: Stage,
    dsn: str,
    commands: Sequence[Sequence[str]],
    env: Mapping[str, str],
    *,
    done: str,
    count: int,
) -> Timed:
    running = [
        subprocess.Popen(  # noqa: ASYNC220, S603 - our own commands; starting them is not timed
            command, env=dict(env), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
        )
        for command in commands
    ]
    connection = await asyncpg.connect(dsn)
    try:
        rate = await _watched(connection, running, done, count)
        cpu = sum(_cpu_seconds(process.pid) for process in running)
    finally:
        await connection.close()
        for process in running:
            process.send_signal(signal.SIGKILL)
            process.wait()
        await stage.drop(dsn)
    return Timed(rate, cpu / count * 1e6)


async def _watched(
    connection: asyncpg.Connection,
    running: Sequence[subprocess.Popen[bytes]],
    done: str,
    count: int,
) -> float:
    first_at, first, seen = 0.0, 0, 0
    deadline = time.monotonic() + PATIENCE_SECONDS
    while seen < count:
        await asyncio.sleep(POLL_SECONDS)
        now, before = time.monotonic(), seen
        seen = await connection.fetchval(done)
        if seen and not first:
            first_at, first = now, seen
        if any(process.poll() is not None for process in running):
            raise RuntimeError(f"ended by itself after {seen} of {count} records")
        if seen > before:
            deadline = now + PATIENCE_SECONDS
        if now > deadline:
            raise TimeoutError(f"{seen} of {count} records after {PATIENCE_SECONDS:.0f} s of quiet")
    if seen == first:
        raise RuntimeError("all records came at once: too few of them to time")
    return float((seen - first) / (time.monotonic() - first_at))


def _cpu_seconds(pid: int) -> float:
    times = psutil.Process(pid).cpu_times()
    return float(times.user + times.system)
