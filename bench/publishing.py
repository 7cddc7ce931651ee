"""How fast `newsloom publish` is: front matter files of 14 KB, and small records as NDJSON.

The command is timed as a whole, and once more with a single record: what that takes is its start,
which is stated apart and taken off.
"""

import asyncio
import subprocess
import time
from collections.abc import Awaitable, Callable, Sequence
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from bench.field import NEWSLOOM, newsloom_env
from bench.stage import Stage
from bench.workloads import Made, make
from newsloom.core.workloads import front_matter

FILES_SHARE = 0.15
LEAST = 200

Measured = tuple[str, int, Callable[[], Awaitable[float]]]


def cases(stage: Stage, records: int) -> list[Measured]:
    """List both ways of publishing: name, records, and what measures the rate."""
    small = make("small", records)
    full = make("full", max(LEAST, int(records * FILES_SHARE)))
    return [
        ("publish small NDJSON", len(small), partial(rate, stage, small, files=False)),
        ("publish full files", len(full), partial(rate, stage, full, files=True)),
        ("publish start", 1, partial(starts, stage, small)),
    ]


async def rate(stage: Stage, made: Sequence[Made], *, files: bool) -> float:
    """Return records a second, the start of the command apart."""
    start = await _seconds(stage, made[:1], files=files)
    return (len(made) - 1) / (await _seconds(stage, made, files=files) - start)


async def starts(stage: Stage, made: Sequence[Made]) -> float:
    """Return how often a second the command could start and publish a single record."""
    return 1 / await _seconds(stage, made[:1], files=False)


async def _seconds(stage: Stage, made: Sequence[Made], *, files: bool) -> float:
    topic = await stage.topic("publish")
    with TemporaryDirectory(prefix="newsloom-bench-") as name:
        folder = Path(name)
        if files:
            for number, one in enumerate(made):
                (folder / f"{number}.md").write_text(front_matter(one.record), encoding="utf-8")
        else:
            lines = b"\n".join(one.value() for one in made)
            (folder / "records.ndjson").write_bytes(lines)
        env: dict[str, Any] = newsloom_env(stage, "", topic)
        return await asyncio.to_thread(_timed, [NEWSLOOM, "publish", str(folder)], env)


def _timed(command: Sequence[str], env: dict[str, str]) -> float:
    started = time.perf_counter()
    subprocess.run(command, env=env, check=True, capture_output=True)  # noqa: S603 - our own
    return time.perf_counter() - started
