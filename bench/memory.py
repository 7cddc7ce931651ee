"""How much memory ingest takes, all of its processes together, with a deep backlog before it."""

import asyncio
import time
from collections.abc import Sequence
from typing import Any, Final

import asyncpg
import psutil

from bench.field import NEWSLOOM, PATIENCE_SECONDS, STORED, Program, newsloom_env, running
from bench.stage import Stage
from bench.workloads import make

BACKLOGS: Final = {"small": 30_000, "full": 6_000, "updates": 60_000}
LOOK_SECONDS: Final = 0.05
_MEGABYTE: Final = 1_000_000


async def peaks(stage: Stage) -> dict[str, Any]:
    """Let one ingest process drain a backlog of each kind; return the most memory it had."""
    found: dict[str, Any] = {"backlogs": BACKLOGS}
    for name, count in BACKLOGS.items():
        topic = await stage.fill(name, make(name, count))
        most = await _drained(stage, topic, count)
        found[f"{name}_peak_rss_mb"] = round(most / _MEGABYTE)
    found["peak_rss_mb"] = max(found[f"{name}_peak_rss_mb"] for name in BACKLOGS)
    return found


async def _drained(stage: Stage, topic: str, count: int) -> int:
    async with stage.fresh_database() as dsn:
        env = newsloom_env(stage, dsn, topic)
        async with running([[NEWSLOOM, "ingest"]], env) as programs:
            connection = await asyncpg.connect(dsn)
            most, deadline = 0, time.monotonic() + 5 * PATIENCE_SECONDS
            while await connection.fetchval(STORED) < count:
                most = max(most, _resident(programs))
                programs[0].check()
                if time.monotonic() > deadline:
                    raise TimeoutError(f"{count} records not stored in time")
                await asyncio.sleep(LOOK_SECONDS)
            await connection.close()
    return most


def _resident(programs: Sequence[Program]) -> int:
    """Return the resident bytes of the programs and all below them, shared pages counted twice."""
    total = 0
    for program in programs:
        top = psutil.Process(program.process.pid)
        for process in (top, *top.children(recursive=True)):
            try:
                total += process.memory_info().rss
            except psutil.NoSuchProcess:
                continue
    return total
