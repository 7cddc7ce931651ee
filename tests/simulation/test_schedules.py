"""Thousands of made-up disasters, each from a seed: whatever happens, and in whatever order.

A failing schedule is repeated with NEWSLOOM_TEST_SEED=<its seed>. NEWSLOOM_TEST_SCHEDULES=<n> plays
more of them (`make simulation`).
"""

import logging
import os
import random
from collections import Counter
from collections.abc import Iterator

import pytest

from tests.simulation.schedule import Finding, Schedule

BLOCKS = 8
SCHEDULES = int(os.environ.get("NEWSLOOM_TEST_SCHEDULES", "2000")) // BLOCKS
"""Of each block; blocks spread over the workers of a test run."""


@pytest.fixture(autouse=True)
def _quiet() -> Iterator[None]:
    logging.disable(logging.CRITICAL)
    yield
    logging.disable(logging.NOTSET)


def play(seed: int) -> Finding:
    return Schedule(seed).run()


@pytest.mark.timeout(60 + SCHEDULES)
@pytest.mark.parametrize("block", range(BLOCKS))
def test_no_schedule_loses_or_doubles_a_delivery(block: int) -> None:
    chosen = os.environ.get("NEWSLOOM_TEST_SEED", "")
    first = int(chosen or random.SystemRandom().randrange(10**9))
    done = Counter[str]()
    for seed in range(first, first + (1 if chosen else SCHEDULES)):
        finding = play(seed)
        done += finding.done
        assert not finding.violations, f"seed {seed}: {finding.violations[:5]}"
    print(f"block {block}, seeds from {first}:", dict(done))  # noqa: T201 - for who runs it with -s


def test_the_same_seed_plays_the_same_schedule() -> None:
    for seed in range(20):
        assert play(seed) == play(seed)
