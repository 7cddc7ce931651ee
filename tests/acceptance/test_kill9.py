"""kill -9 of ingest, again and again: the tables must be those of a run that nobody disturbed.

The offsets at which it dies come from a printed seed; NEWSLOOM_TEST_SEED repeats one. Three deaths
are inside the transaction: after the position was taken, just before COMMIT, just after it.
"""

import asyncio
import os
import random
import signal

import pytest

from tests.support import compare
from tests.support.blackbox import Line, finish, kill, send
from tests.support.generator import Stream
from tests.support.oracle import Delivery, Oracle

pytestmark = [pytest.mark.timeout(600), pytest.mark.faults]

DELIVERIES = 30_000
FAILPOINTS = ("after_cas", "before_commit", "after_commit")
OUTSIDE = 8
"""Kills from outside, at offsets of their own; with the failpoints eleven deaths."""

SMALL_BATCHES = {"NEWSLOOM_INGEST_MAX_BATCH_RECORDS": "200"}


async def test_killed_at_any_moment_the_tables_are_those_of_an_undisturbed_run(
    line: Line, second_line: Line
) -> None:
    seed = int(os.environ.get("NEWSLOOM_TEST_SEED", "") or random.SystemRandom().randrange(10**6))
    print(f"seed {seed}")  # noqa: T201 - shown when the test fails
    messages = list(Stream(seed, deliveries=DELIVERIES))
    await send(line.bootstrap, line.topic, messages)

    _, deaths = await asyncio.gather(line.ingest(patience=400), _ingest_and_kill(second_line, seed))

    assert len(deaths) >= OUTSIDE + len(FAILPOINTS)
    assert await second_line.position() == await line.position() == DELIVERIES
    undisturbed, disturbed = await compare.dump(line.dsn), await compare.dump(second_line.dsn)
    assert not compare.differences(undisturbed, disturbed)

    oracle = Oracle()
    oracle.feed_all(
        Delivery(line.topic, 0, n, m.record, m.observed_at) for n, m in enumerate(messages)
    )
    assert await second_line.outcomes() == {
        name: oracle.outcomes[name] for name in await line.outcomes()
    }
    world = await compare.stored_world(second_line.dsn)
    assert compare.world_differences(compare.expected_world(oracle), world) == []


async def _ingest_and_kill(line: Line, seed: int) -> list[int]:
    """Ingest all of the topic in many short lives; returns the position after each death."""
    rng = random.Random(seed)
    plans: list[tuple[int, str | None]] = [
        (offset, None) for offset in rng.sample(range(DELIVERIES * 8 // 10), OUTSIDE)
    ]
    plans += [(rng.randrange(DELIVERIES * 8 // 10), name) for name in FAILPOINTS]
    deaths: list[int] = []
    for offset, failpoint in sorted(plans, key=lambda plan: plan[0]):
        visit = rng.randrange(1, 5)
        if failpoint is None:
            await _kill_from_outside(line, offset)
        else:
            await _let_it_kill_itself(line, f"{failpoint}:{visit}:kill9")
        position = await line.position()
        print(f"killed {failpoint or f'at {offset}'}: position {position}")  # noqa: T201
        assert position < DELIVERIES, "it was too late to kill anything"
        assert position >= (deaths[-1] if deaths else 0), "the position went back"
        deaths.append(position)
    await line.ingest(patience=400, extra=SMALL_BATCHES)
    return deaths


async def _kill_from_outside(line: Line, offset: int) -> None:
    target = max(offset, await line.position()) + 1
    process = await line.start("ingest", extra=SMALL_BATCHES)
    talk = asyncio.ensure_future(process.communicate())
    try:
        await line.reached(target, 60)
    finally:
        kill(process)
    _, err = await talk
    assert process.returncode == -signal.SIGKILL, err.decode()[-3000:]


async def _let_it_kill_itself(line: Line, failpoint: str) -> None:
    extra = SMALL_BATCHES | {"NEWSLOOM_TEST_FAILPOINT": failpoint}
    done = await finish(await line.start("ingest", extra=extra), 60)
    assert done.code == -signal.SIGKILL, done.told()
