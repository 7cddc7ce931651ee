"""Faults of all kinds on real services for a given time, from one seed; a verdict for each.

    make chaos ARGS="--seconds 300 --seed 7 --only F4,F23"

Exit 1 when an invariant was broken. Each line says the scenario's own seed: `--seed` with it and
`--only` with its name repeats that scenario alone.
"""

# ruff: noqa: T201 - a command: it prints

import argparse
import asyncio
import logging
import os
import random
import shutil
import sys
import tempfile
import time
from pathlib import Path

from newsloom.adapters.embedded import default_cache
from tests.faults.rig import Bench, open_rig
from tests.faults.scenarios import ALL

CAUGHT = (Exception,)
"""What one scenario raises is its verdict; the others still run."""


async def play(bench: Bench, folder: Path, name: str, seed: int, *, replay: bool) -> bool:
    """Run one scenario and print its line; tell whether it held."""
    began = time.monotonic()
    problem = ""
    figures: dict[str, float] = {}
    told = ""
    try:
        async with open_rig(bench, folder, seed) as rig:
            figures = rig.figures
            await ALL[name](rig)
            figures["drained after s"] = await rig.drained(120)
            verdict = await rig.verdict()
            told = (
                f"{verdict.records} records, {verdict.transactions} transactions, "
                f"{verdict.claims} claims, stall {verdict.longest_stall_seconds:.1f} s"
            )
            problem = verdict.told()
            if replay and not problem and (differs := await rig.replayed()):
                problem = f"I6: {differs}"
    except CAUGHT as error:
        problem = f"{type(error).__name__}: {error}"
    seconds = time.monotonic() - began
    shown = ", ".join(f"{name} {value:.1f}" for name, value in figures.items())
    print(
        f"{'BROKEN' if problem else 'held':7}{name:11}{seed:7} {seconds:6.0f} s  {told}; {shown}",
        flush=True,
    )
    if problem:
        print(f"       {problem}", flush=True)
    return not problem


def main() -> int:
    """Draw scenarios until the time is over."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seconds", type=float, default=300)
    parser.add_argument("--seed", type=int, default=random.SystemRandom().randrange(10**6))
    parser.add_argument("--only", default="", help="names of scenarios, separated by commas")
    parser.add_argument("--each", action="store_true", help="each scenario once, whatever the time")
    parser.add_argument("--replay", action="store_true", help="replay each Kafka topic too (I6)")
    options = parser.parse_args()
    names = [name for name in options.only.split(",") if name] or list(ALL)
    rng = random.Random(options.seed)
    rng.shuffle(names)
    logging.getLogger("aiokafka").setLevel(logging.CRITICAL)  # a broker that dies is talked about
    folder = Path(tempfile.mkdtemp(prefix="newsloom-chaos-"))
    folder.chmod(0o711)
    bench = Bench(folder, default_cache(os.environ, folder))
    print(f"seed {options.seed}", flush=True)
    held: list[bool] = []
    deadline = time.monotonic() + options.seconds
    try:
        bench.start()
        while len(held) < len(names) if options.each else time.monotonic() < deadline:
            seed = options.seed if len(names) == 1 and not held else rng.randrange(10**6)
            name = names[len(held) % len(names)]
            held.append(asyncio.run(play(bench, folder, name, seed, replay=options.replay)))
    finally:
        bench.stop()
        shutil.rmtree(folder, ignore_errors=True)
    print(f"{sum(held)} of {len(held)} scenarios held, seed {options.seed}")
    return 0 if held and all(held) else 1


if __name__ == "__main__":
    sys.exit(main())
