"""How fast `newsloom publish` is: front matter files of 14 KB, and small records as NDJSON."""

import asyncio
import os
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TypeVar

from bench.stage import Stage
from bench.workloads import Made, make
from newsloom.core.workloads import front_matter

C = TypeVar("C")

FILES_SHARE = 0.1


def cases(stage: Stage, records: int, case: Callable[..., C]) -> list[C]:
    """List both ways of publishing as cases."""
    small = make("small", records)
    full = make("full", max(200, int(records * FILES_SHARE)))
    return [
        case("publish small NDJSON", len(small), lambda: _published(stage, small, files=False)),
        case("publish full files", len(full), lambda: _published(stage, full, files=True)),
    ]


async def _published(stage: Stage, made: Sequence[Made], *, files: bool) -> float:
    topic = await stage.fill("publish", made[:1])
    with TemporaryDirectory(prefix="newsloom-bench-") as name:
        folder = Path(name)
        if files:
            for number, one in enumerate(made):
                (folder / f"{number}.md").write_text(front_matter(one.record), encoding="utf-8")
        else:
            lines = b"\n".join(one.value() for one in made)
            (folder / "records.ndjson").write_bytes(lines)
        return await asyncio.to_thread(_timed, stage, topic, folder, len(made))


def _timed(stage: Stage, topic: str, folder: Path, count: int) -> float:
    """Time the whole command, its start included."""
    env = {
        **os.environ,
        "NEWSLOOM_KAFKA_BOOTSTRAP_SERVERS": stage.servers,
        "NEWSLOOM_KAFKA_ARTICLES_TOPIC": topic,
        "NEWSLOOM_LOG_LEVEL": "WARNING",
    }
    command = [str(Path(sys.executable).with_name("newsloom")), "publish", str(folder)]
    started = time.perf_counter()
    subprocess.run(command, env=env, check=True, capture_output=True)  # noqa: S603 - our own
    return count / (time.perf_counter() - started)
