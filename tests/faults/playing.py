"""Plays a scenario on a bench, lets the checker judge, prints the verdict in one line."""

# ruff: noqa: T201 - for commands: it prints

import logging
import os
import shutil
import signal
import sys
import tempfile
import time
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from newsloom.adapters.embedded import default_cache
from tests.faults.rig import Bench, Rig, open_rig
from tests.faults.scenarios import Scenario
from tests.support.generator import Stream

CAUGHT = (Exception,)
"""What one scenario raises is its verdict; the others still run."""

HEADING = "verdict scenario             seed     took  what the checker saw; figures"

_SHOWN = 800
"""Characters of what went wrong: an assertion may bring a whole log."""


def _asked_to_end(number: int, _frame: object) -> None:
    sys.exit(128 + number)


@contextmanager
def open_bench() -> Iterator[tuple[Bench, Path]]:
    """Start services in a temporary folder, for the length of the block; SIGTERM ends it too."""
    signal.signal(signal.SIGTERM, _asked_to_end)
    logging.getLogger("aiokafka").setLevel(logging.CRITICAL)  # a broker that dies is talked about
    folder = Path(tempfile.mkdtemp(prefix="newsloom-chaos-"))
    folder.chmod(0o711)
    bench = Bench(folder, default_cache(os.environ, folder))
    try:
        bench.start()
        yield bench, folder
    finally:
        bench.stop()
        shutil.rmtree(folder, ignore_errors=True)


@dataclass(frozen=True, slots=True)
class Play:
    """One scenario with its seed, and how it is judged.

    `replay`: replay the whole Kafka topic into an empty database too (I6). `patience`: seconds that
    the lag may take to go when all is over (I7).
    """

    name: str
    scenario: Scenario
    seed: int
    replay: bool = False
    patience: float = 60
    stream: Stream | None = None

    async def run(self, bench: Bench, folder: Path) -> bool:
        """Run it and print its line; tell whether it held. What a broken one logged is kept."""
        began = time.monotonic()
        problem, told = "", ""
        figures: dict[str, float] = {}
        logs = folder / f"{self.name}-{self.seed}"
        logs.mkdir(exist_ok=True)
        try:
            async with open_rig(bench, logs, self.seed, stream=self.stream) as rig:
                figures = rig.figures
                await self.scenario(rig)
                told, problem = await self._judged(rig)
        except CAUGHT as error:
            where = traceback.extract_tb(error.__traceback__)[-1]
            place = f"{Path(where.filename).name}:{where.lineno}"
            problem = f"{type(error).__name__} in {where.name} ({place}): {error}"
        seconds = time.monotonic() - began
        shown = ", ".join(f"{name} {value:.6g}" for name, value in figures.items())
        word = "BROKEN" if problem else "held"
        line = f"{word:7} {self.name:18}{self.seed:7} {seconds:6.0f} s  {told}; {shown}"
        print(line.rstrip("; "), flush=True)
        if problem:
            kept = Path(tempfile.mkdtemp(prefix="newsloom-broken-")) / logs.name
            shutil.copytree(logs, kept)
            print(f"       {problem[:_SHOWN]}\n       what the members logged: {kept}", flush=True)
        return not problem

    async def _judged(self, rig: Rig) -> tuple[str, str]:
        """Return what is to be told, and what is wrong, if anything is."""
        if rig.judged:
            return rig.judged, ""
        rig.figures["drained after s"] = round(await rig.drained(self.patience), 1)
        verdict = await rig.verdict()
        problem = verdict.told()
        if self.replay and not problem and (differs := await rig.replayed()):
            problem = f"I6: {differs}"
        return verdict.summary(), problem
