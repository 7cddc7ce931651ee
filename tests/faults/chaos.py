"""Faults of all kinds on real services for a given time, from one seed; a verdict for each.

    make chaos ARGS="--seconds 300 --seed 7 --only F4,F23"

Exit 1 when an invariant was broken. Each line says the scenario's own seed: `--seed` with it and
`--only` with its name repeats that scenario alone.
"""

# ruff: noqa: T201 - a command: it prints

import argparse
import asyncio
import random
import sys
import time

from tests.faults.catalogue import ALL, named
from tests.faults.playing import HEADING, Play, open_bench


def main() -> int:
    """Draw scenarios until the time is over."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seconds", type=float, default=300)
    parser.add_argument("--seed", type=int, default=random.SystemRandom().randrange(10**6))
    parser.add_argument("--only", default="", help="names or numbers, separated by commas")
    parser.add_argument("--each", action="store_true", help="each scenario once, whatever the time")
    parser.add_argument("--replay", action="store_true", help="replay each Kafka topic too (I6)")
    parser.add_argument("--list", action="store_true", help="name the scenarios and end")
    options = parser.parse_args()
    if options.list:
        for name, scenario in ALL.items():
            print(f"{name:12}{(scenario.__doc__ or '').partition(chr(10))[0]}")
        return 0
    asked = [name for name in options.only.split(",") if name]
    if unknown := [name for name in asked if not named(name)]:
        parser.error(f"no such scenario: {', '.join(unknown)}; --list names them")
    names = list(dict.fromkeys(name for one in asked for name in named(one))) or list(ALL)
    rng = random.Random(options.seed)
    rng.shuffle(names)
    print(f"seed {options.seed}\n{HEADING}", flush=True)
    held: list[bool] = []
    with open_bench() as (bench, folder):
        deadline = time.monotonic() + options.seconds
        while len(held) < len(names) if options.each else time.monotonic() < deadline:
            seed = options.seed if len(names) == 1 and not held else rng.randrange(10**6)
            name = names[len(held) % len(names)]
            play = Play(name, ALL[name], seed, replay=options.replay)
            held.append(asyncio.run(play.run(bench, folder)))
    print(f"{sum(held)} of {len(held)} scenarios held, seed {options.seed}")
    return 0 if held and all(held) else 1


if __name__ == "__main__":
    sys.exit(main())
