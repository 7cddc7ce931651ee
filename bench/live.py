"""Newsloom as it is lived with: latency at a steady rate, and how soon it is there."""

import asyncio
import json
import os
import statistics
import subprocess
import time
import urllib.error
import urllib.request
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from typing import Any, Final

import asyncpg
from aiokafka import AIOKafkaProducer

from bench.field import NEWSLOOM, STORED, Program, newsloom_env, running
from bench.stage import Stage
from bench.workloads import Made, make
from newsloom.adapters.embedded.processes import free_port

SECONDS: Final = 20
WARM_UP_SECONDS: Final = 3
TICK_SECONDS: Final = 0.005
HELPS: Final = 11
STARTS: Final = 5
PATIENCE_SECONDS: Final = 60.0

# From Kafka's timestamp of the plain message, which is its observed time, to the commit of its row.
_LATENCIES: Final = """
SELECT count(*), percentile_cont(ARRAY[0.5, 0.99, 1.0]) WITHIN GROUP (
    ORDER BY extract(epoch FROM pg_xact_commit_timestamp(t.xmin) - a.observed_at))
FROM newsloom.articles AS a JOIN newsloom.{table} AS t USING (article_id)
WHERE a.observed_at >= $1"""
_LINKED: Final = "SELECT count(*) FROM newsloom.link_states"


async def latency(stage: Stage) -> dict[str, Any]:
    """Send 1,000 small records a second; measure from their timestamp to their COMMIT."""
    return await _steady(stage, 1000, ["ingest"], "article_contents", STORED)


async def linking(stage: Stage) -> dict[str, Any]:
    """Send 500 small records a second; measure from their timestamp to the linker's COMMIT."""
    return await _steady(stage, 500, ["ingest", "link"], "link_states", _LINKED)


async def _steady(
    stage: Stage, rate: int, roles: Sequence[str], table: str, done: str
) -> dict[str, Any]:
    made = make("small", rate * (SECONDS + WARM_UP_SECONDS))
    values = [(one.event().key, one.value()) for one in made]
    topic = await stage.topic("live")
    async with stage.fresh_database() as dsn:
        env = newsloom_env(stage, dsn, topic)
        async with running([[NEWSLOOM, role] for role in roles], env) as programs:
            connection = await asyncpg.connect(dsn)
            await _until(connection, "SELECT count(*) FROM newsloom.ingest_offsets", 1, programs)
            begun = datetime.now(UTC)
            sent = await _send(stage, topic, values, rate)
            await _until(connection, done, len(values), programs)
            count, quantiles = await connection.fetchrow(
                _LATENCIES.format(table=table), begun + timedelta(seconds=WARM_UP_SECONDS)
            )
            await connection.close()
    p50, p99, most = (round(float(value) * 1000) for value in quantiles)
    return {
        "records_a_second": round(sent),
        "records": count,
        "p50_ms": p50,
        "p99_ms": p99,
        "max_ms": most,
    }


async def _send(
    stage: Stage, topic: str, values: Sequence[tuple[bytes, bytes]], rate: int
) -> float:
    """Send at a steady pace; return the rate that came of it."""
    producer = AIOKafkaProducer(bootstrap_servers=stage.servers)
    await producer.start()
    started = time.monotonic()
    try:
        sent = 0
        while sent < len(values):
            due = min(len(values), int((time.monotonic() - started) * rate) + 1)
            for key, value in values[sent:due]:
                await producer.send(topic, value, key)
            sent = max(sent, due)
            await asyncio.sleep(TICK_SECONDS)
        await producer.flush()
        return len(values) / (time.monotonic() - started)
    finally:
        await producer.stop()


async def _until(
    connection: asyncpg.Connection, query: str, count: int, programs: Sequence[Program]
) -> None:
    deadline = time.monotonic() + PATIENCE_SECONDS
    while (seen := await connection.fetchval(query)) < count:
        for program in programs:
            program.check()
        if time.monotonic() > deadline:
            raise TimeoutError(f"{seen} of {count} after {PATIENCE_SECONDS:.0f} s")
        await asyncio.sleep(0.2)


async def start(stage: Stage) -> dict[str, Any]:
    """Time `newsloom --help`, and ingest from its assignment to /readyz saying yes."""
    helps = [_help_seconds() for _ in range(HELPS)][1:]
    made: list[Made] = make("small", 1000)
    topic = await stage.fill("start", made)
    readies = [await _ready_seconds(stage, topic) for _ in range(STARTS)]
    assigned = [after for after, _ in readies]
    return {
        "help_ms": round(statistics.median(helps) * 1000),
        "help_max_ms": round(max(helps) * 1000),
        "ready_after_assignment_ms": round(statistics.median(assigned) * 1000),
        "ready_after_assignment_max_ms": round(max(assigned) * 1000),
        "ready_after_start_ms": round(statistics.median(whole for _, whole in readies) * 1000),
        "runs": {"help": len(helps), "ready": STARTS},
    }


def _help_seconds() -> float:
    started = time.perf_counter()
    subprocess.run([NEWSLOOM, "--help"], check=True, capture_output=True)  # noqa: S603 - ours
    return time.perf_counter() - started


async def _ready_seconds(stage: Stage, topic: str) -> tuple[float, float]:
    """Return seconds from the assignment, and from the start of the process, to being ready."""
    port = free_port()
    async with stage.fresh_database() as dsn:
        env = newsloom_env(stage, dsn, topic) | {
            "NEWSLOOM_ADMIN_PORT": str(port),
            "NEWSLOOM_LOG_LEVEL": "INFO",
            "NEWSLOOM_LOG_FORMAT": "json",
        }
        begun = time.time()
        async with running([[NEWSLOOM, "ingest"]], env) as programs:
            while not await asyncio.to_thread(_is_ready, port):
                programs[0].check()
                if time.time() - begun > PATIENCE_SECONDS:
                    raise TimeoutError(f"not ready after {PATIENCE_SECONDS:.0f} s")
                await asyncio.sleep(0.01)
            ready = time.time()
            return max(0.0, ready - _assigned_at(programs[0])), ready - begun


def _is_ready(port: int) -> bool:
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/readyz", timeout=1) as answer:
            return bool(answer.status == 200)  # noqa: PLR2004 - HTTP
    except (urllib.error.URLError, OSError):
        return False


def _assigned_at(program: Program) -> float:
    program.log.seek(0, os.SEEK_SET)
    for line in program.log.read().decode().splitlines():
        said = json.loads(line) if line.startswith("{") else {}
        if said.get("message") == "partitions assigned" and said.get("partitions"):
            return datetime.fromisoformat(said["time"]).timestamp()
    raise RuntimeError("it did not say when its partitions were assigned")
