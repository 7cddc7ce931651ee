"""The figures that docs/delivery.md states, each measured by a command, from a seed.

    make figures ARGS="bounce --seed 7"        one of them; without a name: the list

Real services, three real members, the independent checker behind each. Members run with the limits
of production (a session timeout of 10 s, not the 6 s of the tests). Exit 1: short of the figure, or
an invariant was broken.
"""

# ruff: noqa: T201 - a command: it prints

import argparse
import asyncio
import functools
import random
import signal
import statistics
import sys
import time
from collections.abc import Awaitable, Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass

from tests.faults.playing import HEADING, Play, open_bench
from tests.faults.rig import Member, Rig
from tests.faults.scenarios import RATE, inject, kill_and_time, never_left, prepare_injection
from tests.support.generator import Stream

MEMBERS = 3
BOUNCE_RATE = 300
OUTAGE_RATE = 1000
KILL_SECONDS, TERM_SECONDS = 15.0, 3.0
POSTGRES_SECONDS, BROKER_SECONDS = 10.0, 60.0


async def members(rig: Rig) -> list[Member]:
    """Start three members and wait until each owns something."""
    found = [await rig.member(quick=False) for _ in range(MEMBERS)]
    rig.flow(RATE)
    await rig.owned_by(*found)
    return found


async def bounce(rig: Rig, *, hard: bool, rounds: int, least: int = 3000) -> None:
    """Kafka Connect's bounce test, stricter: nothing missing, nothing double, also when hard.

    Each member in turn is stopped (or killed) and started again, three rounds, at 300 records a
    second. Every record is a new article: one that is applied twice would show as `unchanged`.
    """
    found = [await rig.member(quick=False) for _ in range(MEMBERS)]
    rig.flow(BOUNCE_RATE)
    await rig.owned_by(*found)
    for _ in range(rounds):
        for number, victim in enumerate(found):
            await (victim.kill() if hard else victim.terminate())
            found[number] = await rig.member(quick=False)
            await rig.owned_by(*found)
            await rig.progress(BOUNCE_RATE)
    while rig.feed.sent < least:  # noqa: ASYNC110 - it flows
        await asyncio.sleep(0.2)
    await rig.drained(120)
    sent = len({(ack.partition, ack.offset) for ack in rig.feed.acknowledged})
    outcomes = await rig.line.outcomes()
    applied = outcomes["created"] + outcomes["rejected"]
    rig.figures |= {
        "bounces": rounds * MEMBERS,
        "acknowledged": sent,
        "missing": sent - applied,
        "duplicated": sum(outcomes.values()) - applied,
    }
    assert sent >= least
    assert rig.figures["missing"] == rig.figures["duplicated"] == 0, outcomes


async def kills(rig: Rig, *, count: int) -> None:
    """kill -9 at random moments over three members; often before all has been taken over."""
    found = await members(rig)
    done, waited = 0, 0
    while done < count:
        await asyncio.sleep(rig.rng.uniform(0.2, 3))
        number = rig.rng.randrange(MEMBERS)
        if rig.rng.random() < 0.5:
            await kill_and_time(rig, found[number])
            waited += 1
        else:
            await found[number].kill()
            await rig.progress(20)
        found[number] = await rig.member(quick=False)
        done += 1
    rig.figures |= {"kills": done, "of them waited for": waited}


async def recovery(rig: Rig, *, hard: bool, count: int) -> None:
    """Measure from the signal to the first transaction of others on each lost partition."""
    found = await members(rig)
    taken: list[float] = []
    while len(taken) < count:
        await asyncio.sleep(rig.rng.uniform(1, 3))
        number = rig.rng.randrange(MEMBERS)
        victim = found[number]
        lost = [n for n, login in (await rig.owners()).items() if login == victim.login]
        since = time.time()
        victim.signal(signal.SIGKILL if hard else signal.SIGTERM)
        taken.append(await rig.taken_over(lost, victim, since))
        assert await victim.process.wait() == (-signal.SIGKILL if hard else 0), victim.told()[
            -3000:
        ]
        found[number] = await rig.member(quick=False)
        await rig.owned_by(*found)
    print("       seconds:", " ".join(f"{seconds:.1f}" for seconds in sorted(taken)), flush=True)
    limit = KILL_SECONDS if hard else TERM_SECONDS
    rig.figures |= {
        "tries": count,
        "median s": round(statistics.median(taken), 2),
        "slowest s": round(max(taken), 2),
        "limit s": limit,
    }
    assert max(taken) < limit, f"slowest {max(taken):.1f} s"


async def outage(rig: Rig, *, code: str, seconds: float) -> None:
    """Postgres away, or failing every write with a code, while records come at 1,000 a second."""
    await prepare_injection(rig, "%")
    member = await rig.member(quick=False)
    began = time.monotonic()
    rig.flow(OUTAGE_RATE)
    await rig.progress(2000)
    memory = Memory(member)
    if code == "stopped":
        await asyncio.to_thread(rig.bench.postgres.stop)
        await memory.watch(seconds)
        await asyncio.to_thread(rig.bench.postgres.start)
    else:
        await inject(rig, code)
        before = await rig.line.position()
        await memory.watch(seconds)
        assert await rig.line.position() == before, "something was stored: the fault was not felt"
        await inject(rig, None)
    rig.figures["resumed after s"] = round(await rig.progress(1, patience=30), 1)
    rig.stop_flow()
    lasted = time.monotonic() - began
    missed = rig.feed.sent - await rig.line.position()
    await memory.watch(10)
    rig.figures |= {
        "seconds away": seconds,
        "records sent": rig.feed.sent,
        "a second": round(rig.feed.sent / lasted),
        "behind when it came back": missed,
        "RSS before MB": round(memory.first),
        "RSS most MB": round(memory.most),
    }
    never_left(member)


@dataclass(slots=True)
class Memory:
    """Resident memory of a member, MB: when first looked at, and the most that was seen."""

    member: Member
    first: float = 0.0
    most: float = 0.0

    async def watch(self, seconds: float) -> None:
        """Look twice a second, for so long."""
        self.first = self.first or self.member.rss_megabytes()
        with suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                while True:
                    self.most = max(self.most, self.member.rss_megabytes())
                    await asyncio.sleep(0.5)


async def postgres_restarts(rig: Rig, *, count: int) -> None:
    """From the moment when Postgres takes connections again to the first transaction."""
    member = await rig.member(quick=False)
    rig.flow(RATE)
    taken: list[float] = []
    for number in range(count):
        await rig.progress(200)
        await asyncio.to_thread(rig.bench.postgres.kill if number % 2 else rig.bench.postgres.stop)
        await asyncio.sleep(rig.rng.uniform(0, 8))
        await asyncio.to_thread(rig.bench.postgres.start)
        taken.append(await rig.progress(1, patience=30))
    never_left(member)
    _hold_to(rig, taken, POSTGRES_SECONDS)


async def broker_restarts(rig: Rig, *, count: int) -> None:
    """From the start of the broker to a transaction with a record that was sent after it."""
    member = await rig.member(quick=False)
    rig.flow(RATE)
    taken: list[float] = []
    for number in range(count):
        await rig.progress(200)
        await asyncio.to_thread(rig.bench.kafka.kill if number % 2 else rig.bench.kafka.stop)
        await asyncio.sleep(rig.rng.uniform(0, 8))
        sent = len(rig.feed.acknowledged)
        began = time.monotonic()
        await asyncio.to_thread(rig.bench.kafka.start)
        # A record may have been stored without an acknowledgement: at most those in flight.
        await rig.line.reached(sent + 2 * RATE, BROKER_SECONDS + 60)
        taken.append(time.monotonic() - began)
    assert member.alive, member.told()[-3000:]
    _hold_to(rig, taken, BROKER_SECONDS)


def _hold_to(rig: Rig, taken: Sequence[float], limit: float) -> None:
    print("       seconds:", " ".join(f"{seconds:.1f}" for seconds in sorted(taken)), flush=True)
    rig.figures |= {"tries": len(taken), "slowest s": round(max(taken), 2), "limit s": limit}
    assert max(taken) < limit, f"slowest {max(taken):.1f} s"


@dataclass(frozen=True, slots=True)
class Figure:
    """How one figure is measured: the scenario, its usual count, and what the feed sends."""

    measure: Callable[..., Awaitable[None]]
    count: int | None = None
    is_unique: bool = False
    records: int = 60_000

    def stream(self, seed: int) -> Stream:
        """Return what is sent: deliveries as in life, or one of each article."""
        if self.is_unique:
            return Stream(seed, deliveries=self.records, articles=self.records, related=0)
        return Stream(seed, deliveries=self.records, rejected=0.0)


FIGURES: dict[str, Figure] = {
    "bounce-clean": Figure(functools.partial(bounce, hard=False, rounds=3), is_unique=True),
    "bounce-hard": Figure(functools.partial(bounce, hard=True, rounds=3), is_unique=True),
    "kills": Figure(kills, 40, records=200_000),
    "recovery-kill": Figure(functools.partial(recovery, hard=True), 20, records=200_000),
    "recovery-term": Figure(functools.partial(recovery, hard=False), 20, records=200_000),
    **{
        f"outage-{code}": Figure(functools.partial(outage, code=code, seconds=120), records=300_000)
        for code in ("stopped", "53100", "25006", "55P03")
    },
    "postgres-restarts": Figure(postgres_restarts, 6),
    "broker-restarts": Figure(broker_restarts, 4),
}


def main() -> int:
    """Measure what is named."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "names", nargs="*", metavar="NAME", help="of figures; without one: the list"
    )
    parser.add_argument("--seed", type=int, default=random.SystemRandom().randrange(10**6))
    parser.add_argument("--count", type=int, help="how many kills, tries or restarts")
    options = parser.parse_args()
    if unknown := set(options.names) - set(FIGURES):
        parser.error(f"no such figure: {', '.join(sorted(unknown))}")
    if not options.names:
        for name, figure in FIGURES.items():
            usual = f" (--count {figure.count})" if figure.count else ""
            print(f"{name}{usual}")
        return 0
    print(f"seed {options.seed}\n{HEADING}", flush=True)
    held: list[bool] = []
    with open_bench() as (bench, folder):
        for name in options.names:
            figure = FIGURES[name]
            measure = figure.measure
            if figure.count is not None:
                measure = functools.partial(measure, count=options.count or figure.count)
            play = Play(
                name, measure, options.seed, patience=480, stream=figure.stream(options.seed)
            )
            held.append(asyncio.run(play.run(bench, folder)))
    return 0 if all(held) else 1


if __name__ == "__main__":
    sys.exit(main())
