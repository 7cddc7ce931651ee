"""The faults, each as a function over a rig: make it happen, heal it, say what must have followed.

Numbers as in docs/delivery.md. What must hold in every scenario (I1-I9) is the checker's business;
a scenario asserts what is particular to it.
"""

import asyncio
import signal
import time
from collections.abc import Awaitable, Callable

from tests.faults.rig import Member, Rig
from tests.support.proxy import Cut, Trigger

Scenario = Callable[[Rig], Awaitable[None]]

COMMIT = b"COMMIT\0"
RATE = 200
"""Records a second: enough that each partition always has something to commit."""


async def killed_anywhere(rig: Rig, kills: int = 4) -> None:
    """F1: kill -9, again and again, at random moments and over three members."""
    members = [await rig.member() for _ in range(3)]
    rig.flow(RATE)
    await rig.owned_by(*members)
    slowest = 0.0
    for _ in range(kills):
        await asyncio.sleep(rig.rng.uniform(0.2, 3))
        victim = rig.rng.randrange(len(members))
        recovered = await _kill_and_time(rig, members[victim])
        slowest = max(slowest, recovered)
        members[victim] = await rig.member()
        if rig.rng.random() < 0.5:
            await rig.owned_by(*members)
    rig.figures["kills"] = kills
    rig.figures["slowest recovery s"] = slowest


async def _kill_and_time(rig: Rig, victim: Member) -> float:
    """Kill a member; return how long until all that it owned is moved on by others, seconds."""
    lost = [number for number, login in (await rig.owners()).items() if login == victim.login]
    await victim.kill()
    assert victim.ended is not None
    return await rig.taken_over(lost, victim, victim.ended)


async def frozen_before_transaction(rig: Rig) -> None:
    """F4: a member freezes with a batch in its hands and goes on after another has taken over."""
    zombie = await _freeze(rig, "before_cas")
    assert '"fenced"' in await _said(zombie, '"fenced"')


async def frozen_in_transaction(rig: Rig) -> None:
    """F5: the same inside the transaction, where it holds the partition's row: Postgres ends it."""
    await _freeze(rig, "after_cas")


async def _freeze(rig: Rig, step: str) -> Member:
    heir = await rig.member()
    rig.flow(RATE)
    await rig.owned_by(heir)
    visit = rig.rng.randrange(3, 9)
    zombie = await rig.member(extra={"NEWSLOOM_TEST_FAILPOINT": f"{step}:{visit}:stop"})
    owners = await rig.owned_by(zombie, heir)
    await zombie.frozen()
    lost = [number for number, login in owners.items() if login == zombie.login]
    rig.figures["taken over after s"] = await rig.taken_over(lost, zombie, time.time())
    zombie.signal(signal.SIGCONT)
    thawed_at = time.time()
    await rig.owned_by(zombie, heir)
    rig.figures["owner again after s"] = time.time() - thawed_at
    return zombie


async def _said(member: Member, words: str, patience: float = 20) -> str:
    """Wait until a member has logged something; return its log."""
    async with asyncio.timeout(patience):
        while words not in member.told():  # noqa: ASYNC110 - a file has no event
            await asyncio.sleep(0.1)
    return member.told()


async def postgres_killed(rig: Rig, away_seconds: float = 4) -> None:
    """F10: SIGKILL of the postmaster and all backends; it comes back after a while."""
    member = await rig.member()
    rig.flow(RATE)
    await rig.progress(200)
    await asyncio.to_thread(rig.bench.postgres.kill)
    await asyncio.sleep(away_seconds)
    assert member.alive, member.told()[-3000:]
    await asyncio.to_thread(rig.bench.postgres.start)
    rig.figures["resumed after s"] = await rig.progress(1, patience=10)


async def cut_before_commit(rig: Rig, cuts: int = 4) -> None:
    """F14: the link breaks before COMMIT arrives: nothing of the batch happened."""
    await _cut_at_commit(rig, Cut.BEFORE, cuts)


async def cut_after_commit(rig: Rig, cuts: int = 4) -> None:
    """F14: COMMIT is done, and nobody is told: all of the batch happened, and must not again."""
    await _cut_at_commit(rig, Cut.AFTER, cuts)


async def _cut_at_commit(rig: Rig, cut: Cut, cuts: int) -> None:
    await rig.feed.send(400)
    member = await rig.member()
    await rig.progress(1)
    rig.flow(RATE)
    for _ in range(cuts):
        trigger = rig.postgres.arm(Trigger(COMMIT, cut, visit=rig.rng.randrange(1, 6)))
        async with asyncio.timeout(30):
            await trigger.fired.wait()
        await rig.progress(100)
    assert member.alive, member.told()[-3000:]
    rig.figures["cuts"] = cuts


async def broker_killed(rig: Rig, away_seconds: float = 1) -> None:
    """F23: SIGKILL of the only broker, and a restart; the producer and the member wait for it."""
    member = await rig.member()
    rig.flow(RATE)
    await rig.progress(200)
    await asyncio.to_thread(rig.bench.kafka.kill)
    await asyncio.sleep(away_seconds)
    assert member.alive, member.told()[-3000:]
    await asyncio.to_thread(rig.bench.kafka.start)
    # What was fetched before counts as no progress: wait for more than the queues hold.
    rig.figures["resumed after s"] = await rig.progress(1000, patience=60)


async def postgres_restored(rig: Rig) -> None:
    """F33: Postgres comes back from an older copy while a member runs."""
    await rig.feed.send(300)
    member = await rig.member()
    await rig.line.reached(300, 60)
    copy = await asyncio.to_thread(rig.bench.backup)
    rig.flow(RATE)
    await rig.progress(400)
    before = await rig.line.position()
    await asyncio.to_thread(rig.bench.restore, copy)
    after = await rig.line.position()
    rig.figures["taken back"] = before - after
    assert after < before
    await rig.line.reached(before, 60)
    assert member.alive, member.told()[-3000:]


SHORT: dict[str, Scenario] = {
    "F1": killed_anywhere,
    "F4": frozen_before_transaction,
    "F10": postgres_killed,
    "F14-before": cut_before_commit,
    "F14-after": cut_after_commit,
    "F23": broker_killed,
    "F33": postgres_restored,
}
"""Those that `make test` runs."""
