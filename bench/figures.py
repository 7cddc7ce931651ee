"""`make bench-figures`: what the table of `make bench` cannot show, one figure at a time.

    python -m bench.figures [latency] [linking] [memory] [start] [writing] [contention] [growth]

Without names all are measured but `growth`, which takes minutes to fill two million articles. Each
result replaces the one of its name in the JSON file, with when and at what load it was measured.
"""

import argparse
import asyncio
import json
import os
import signal
import sys
import time
from collections.abc import Awaitable, Callable, Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import uvloop

from bench import growth, live, memory, writing
from bench.limits import quiet_garbage
from bench.stage import POSTGRES, Stage, services

Figure = Callable[[Stage], Awaitable[dict[str, Any]]]

FIGURES: Mapping[str, Figure] = {
    "latency": live.latency,
    "linking": live.linking,
    "start": live.start,
    "memory": memory.peaks,
    "writing": writing.only_secured,
    "contention": writing.contention,
    "growth": growth.cost,
}
_SERVER = {"track_commit_timestamp": "on"}
"""Commit times are what latency is read from."""


def main() -> None:
    """Measure, print, write."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("names", nargs="*", choices=[*FIGURES, []], metavar="NAME")
    parser.add_argument(
        "--shared-buffers",
        default=POSTGRES["shared_buffers"],
        metavar="SIZE",
        help="of Postgres; another one than usual is named in the result",
    )
    parser.add_argument("--output", type=Path, default=Path("bench/results/figures.json"))
    options = parser.parse_args()
    signal.signal(signal.SIGTERM, lambda number, _frame: sys.exit(128 + number))
    names = options.names or [name for name in FIGURES if name != "growth"]
    uvloop.run(_measure(names, options.output, options.shared_buffers))


async def _measure(names: list[str], output: Path, shared_buffers: str) -> None:
    suffix = "" if shared_buffers == POSTGRES["shared_buffers"] else f", {shared_buffers} buffers"
    with services({**POSTGRES, **_SERVER, "shared_buffers": shared_buffers}) as stage:
        await stage.prepare()
        quiet_garbage()
        for name in names:
            started, load = time.monotonic(), os.getloadavg()
            figure = await FIGURES[name](stage)
            figure |= {
                "measured_at": datetime.now(UTC).isoformat(timespec="seconds"),
                "seconds": round(time.monotonic() - started, 1),
                "load_before": load,
            }
            print(json.dumps({name + suffix: figure}, indent=2), flush=True)
            await asyncio.to_thread(_keep, output, name + suffix, figure)


def _keep(output: Path, name: str, figure: dict[str, Any]) -> None:
    kept = json.loads(output.read_text(encoding="utf-8")) if output.exists() else {}
    output.parent.mkdir(parents=True, exist_ok=True)
    output.write_text(json.dumps({**kept, name: figure}, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
