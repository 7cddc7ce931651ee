"""The measured process of `make bench-linker`: one linker on a filled database, until it is idle.

    python -m bench.linking_run DSN [RATE]

With a RATE the change log comes in so many rows a second, and the lag is measured; otherwise it is
all there. Prints one JSON object. A process of its own: memory and CPU are those of the linker.
"""

import asyncio
import functools
import gc
import json
import resource
import sys
import time
from collections import defaultdict
from collections.abc import Callable
from pathlib import Path
from typing import Any

import asyncpg
from prometheus_client import CollectorRegistry
from pydantic import SecretStr

from newsloom.adapters.postgres.linking import PostgresLinkStore, open_link_store
from newsloom.app import process
from newsloom.core import linking
from newsloom.core.copy_index import CopyIndex
from newsloom.core.linking import DEFAULT_WINDOW, LinkIndex
from newsloom.core.story_index import StoryIndex
from newsloom.health import Health
from newsloom.linker import Linker
from newsloom.metrics import Metrics
from newsloom.settings import PostgresSettings

STAGES: dict[str, tuple[tuple[Any, str], ...]] = {
    "signatures": ((linking, "fold_text"), (linking, "signature")),
    "features": ((linking, "features"),),
    "copies": ((CopyIndex, "observe_all"),),
    "stories": ((StoryIndex, "observe_all"),),
    "apply": ((LinkIndex, "apply"),),
}


class Watch:
    """CPU and wall seconds by stage, gathered around the functions that make a stage."""

    def __init__(self) -> None:
        self.cpu: defaultdict[str, float] = defaultdict(float)
        self.wall: defaultdict[str, float] = defaultdict(float)
        self.began = 0.0
        self.ended = 0.0

    def install(self) -> None:
        """Put a clock around every stage."""
        for stage, places in STAGES.items():
            for owner, name in places:
                setattr(owner, name, self._timed(stage, getattr(owner, name)))
        for owner, name in ((LinkIndex, "restore"),):
            setattr(owner, name, self._timed(name, getattr(owner, name)))
        for name in ("states", "read", "write"):
            setattr(PostgresLinkStore, name, self._awaited(name, getattr(PostgresLinkStore, name)))

    def _timed(self, stage: str, function: Callable[..., Any]) -> Callable[..., Any]:
        @functools.wraps(function)
        def timed(*args: Any, **options: Any) -> Any:
            cpu, wall = time.thread_time(), time.perf_counter()
            try:
                return function(*args, **options)
            finally:
                self.cpu[stage] += time.thread_time() - cpu
                self.wall[stage] += time.perf_counter() - wall

        return timed

    def _awaited(self, stage: str, function: Callable[..., Any]) -> Callable[..., Any]:
        @functools.wraps(function)
        async def awaited(*args: Any, **options: Any) -> Any:
            wall = time.perf_counter()
            if stage == "read" and not self.began:
                self.began = wall
                self.cpu["process before"] = time.process_time()
                self.memory = resident_bytes()
            try:
                return await function(*args, **options)
            finally:
                self.wall[stage] += time.perf_counter() - wall
                if stage == "write":
                    self.ended = time.perf_counter()
                    self.cpu["process after"] = time.process_time()

        return awaited


def resident_bytes() -> int:
    """Return the resident memory of this process."""
    for line in Path("/proc/self/status").read_text(encoding="ascii").splitlines():
        if line.startswith("VmRSS:"):
            return int(line.split()[1]) * 1024
    raise RuntimeError("no VmRSS in /proc/self/status")


class Lags(Metrics):
    """Remembers at each commit how long ago the oldest row behind it was written (seconds)."""

    def __init__(self) -> None:
        super().__init__(CollectorRegistry())
        self.seen: list[float] = []

    def set_link(self, *, lag_seconds: float, window: int, size: int) -> None:
        """Remember; 0 is said when there was nothing to do."""
        if lag_seconds > 0:
            self.seen.append(lag_seconds)
        super().set_link(lag_seconds=lag_seconds, window=window, size=size)


async def run(dsn: str, rate: int) -> dict[str, Any]:
    """Link what the change log holds, or what comes into it; return the figures."""
    watch, lags = Watch(), Lags()
    watch.install()
    settings = PostgresSettings(dsn=SecretStr(dsn))
    gc.collect()
    at_start, stop = resident_bytes(), asyncio.Event()
    held_back = await _held_back(dsn) if rate else []
    async with open_link_store(settings) as store:
        linker = Linker(
            store,
            window=DEFAULT_WINDOW,
            metrics=lags,
            health=Health(needs=(), owns_partitions=False, stall_after_seconds=600),
            owner_id="bench",
            jitter=lambda: 0.1,
            beat=lambda: None,
        )
        task = asyncio.create_task(linker.run(stop))
        await _until(task, lambda: linker.empty_read_at >= 0)
        if rate:
            await _feed(dsn, held_back, rate)
            await _until(task, lambda: linker.linked == len(held_back))
        in_use, server_cpu = resident_bytes(), await _server_cpu(dsn)
        stop.set()
        await task
    figures = _figures(watch, linker.linked, (at_start, in_use), server_cpu)
    return figures | ({"lag_seconds": _shares(lags.seen)} if rate else {})


async def _until(task: asyncio.Task[None], is_reached: Callable[[], bool]) -> None:
    while not is_reached():
        if task.done():
            await task
        await asyncio.sleep(0.01)


async def _held_back(dsn: str) -> list[tuple[Any, ...]]:
    """Take the rows out of the change log, to be fed in later."""
    owner = await asyncpg.connect(dsn)
    try:
        rows = await owner.fetch(
            "WITH gone AS (DELETE FROM newsloom.changes RETURNING *) SELECT article_id,"
            " observed_at, version, kind FROM gone ORDER BY xid, change_id"
        )
        return [tuple(row) for row in rows]
    finally:
        await owner.close()


async def _feed(dsn: str, rows: list[tuple[Any, ...]], rate: int) -> None:
    """Write rows into the change log as an ingest at this rate would, a few at a time."""
    owner = await asyncpg.connect(dsn)
    clock, piece = asyncio.get_running_loop().time, max(1, rate // 20)
    began = clock()
    try:
        for low in range(0, len(rows), piece):
            await asyncio.sleep(began + low / rate - clock())
            await owner.copy_records_to_table(
                "changes",
                schema_name="newsloom",
                columns=["article_id", "observed_at", "version", "kind"],
                records=rows[low : low + piece],
            )
    finally:
        await owner.close()


def _shares(lags: list[float]) -> dict[str, float]:
    ordered = sorted(lags)
    return {
        "p50": ordered[len(ordered) // 2],
        "p99": ordered[int(len(ordered) * 0.99)],
        "most": ordered[-1],
    }


def _figures(
    watch: Watch, linked: int, memory: tuple[int, int], server_cpu: float
) -> dict[str, Any]:
    seconds = watch.ended - watch.began
    cpu, wall = watch.cpu, watch.wall
    inside = {stage: cpu[stage] for stage in ("signatures", "features", "copies", "stories")}
    inside["rest of deciding"] = cpu["apply"] - sum(inside.values())
    inside["reading and writing, client"] = (
        cpu["process after"] - cpu["process before"] - cpu["apply"]
    )
    inside["Postgres"] = server_cpu
    return {
        "linked": linked,
        "seconds": seconds,
        "rate": linked / seconds,
        "cpu_us_an_article": {name: 1e6 * spent / linked for name, spent in inside.items()},
        "wall_us_an_article": {
            name: 1e6 * wall[name] / linked for name in ("read", "apply", "write")
        },
        "rebuild_seconds": {"read": wall["states"], "restore": wall["restore"]},
        "resident_before": memory[0],
        "resident_linked": memory[1],
        "resident_peak": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024,
    }


async def _server_cpu(dsn: str) -> float:
    """Return the CPU seconds of the linker's connections."""
    connection = await asyncpg.connect(dsn)
    try:
        rows = await connection.fetch(
            "SELECT pid FROM pg_stat_activity WHERE application_name = 'newsloom link'"
        )
    finally:
        await connection.close()
    return sum(_cpu_seconds(row["pid"]) for row in rows)


def _cpu_seconds(pid: int) -> float:
    fields = Path(f"/proc/{pid}/stat").read_text(encoding="ascii").rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / 100


if __name__ == "__main__":
    print(json.dumps(process.run(run(sys.argv[1], int(sys.argv[2]) if sys.argv[2:] else 0))))
