"""Everything at once: members, Postgres, Kafka and the links in trouble, as the seed has it."""

import asyncio
import signal
import time
from collections.abc import Awaitable, Callable, Sequence
from contextlib import suppress

import asyncpg

from tests.faults.rig import Member, Rig
from tests.faults.scenarios import COMMIT, RATE
from tests.support.proxy import Cut, Trigger

Trouble = Callable[[], Awaitable[None]]

_AWAY = (OSError, asyncpg.PostgresError, asyncpg.InterfaceError)
"""What the scenario's own statements meet while Postgres is away."""


async def everything_at_once(rig: Rig, seconds: float = 45) -> None:
    """F42: kills, freezes, restarts, cuts, resets and slow links, several at the same time."""
    members = [await rig.member() for _ in range(3)]
    rig.flow(RATE)
    await rig.owned_by(*members)
    before = await rig.line.position()
    troubles = _Troubles(rig, members)
    async with asyncio.TaskGroup() as tasks:
        for kind in (troubles.of_members(), troubles.of_postgres(), troubles.of_kafka()):
            tasks.create_task(troubles.until(time.monotonic() + seconds, kind))
    await troubles.keep_alive()
    rig.figures |= {name: float(count) for name, count in sorted(troubles.done.items())}
    rig.figures["progress meanwhile"] = await rig.line.position() - before
    await rig.progress(1)


class _Troubles:
    """What may happen, and how often it did. Each heals what it has done."""

    def __init__(self, rig: Rig, members: list[Member]) -> None:
        self.done: dict[str, int] = {}
        self._rig = rig
        self._members = members

    def of_members(self) -> Sequence[Trouble]:
        """Troubles of our own processes."""
        return (self.member_killed, self.member_frozen, self.member_stopped, self.keep_alive)

    def of_postgres(self) -> Sequence[Trouble]:
        """Troubles of Postgres and of the way to it."""
        return (
            self.postgres_killed,
            self.postgres_frozen,
            self.backends_killed,
            self.commit_cut,
            self.postgres_unreachable,
        )

    def of_kafka(self) -> Sequence[Trouble]:
        """Troubles of the broker and of the way to it."""
        return (self.broker_killed, self.broker_frozen, self.kafka_reset, self.kafka_slow)

    async def until(self, deadline: float, kinds: Sequence[Trouble]) -> None:
        """Make trouble of these kinds, one after another, with pauses."""
        rng = self._rig.rng
        while time.monotonic() < deadline:
            trouble = rng.choice(kinds)
            await trouble()
            self.done[trouble.__name__] = self.done.get(trouble.__name__, 0) + 1
            await asyncio.sleep(rng.uniform(0.5, 4))

    async def keep_alive(self) -> None:
        """Start those again that are dead, also those that gave up for want of a service."""
        for number, member in enumerate(self._members):
            if not member.alive:
                with suppress(*_AWAY):  # needs Postgres; the next round tries again
                    self._members[number] = await self._rig.member()
        if not all(member.alive for member in self._members):
            await asyncio.sleep(1)

    async def member_killed(self) -> None:
        """SIGKILL."""
        await self._rig.rng.choice(self._members).kill()
        await self.keep_alive()

    async def member_stopped(self) -> None:
        """SIGTERM."""
        member = self._rig.rng.choice(self._members)
        if member.alive:
            await member.terminate(60)
        await self.keep_alive()

    async def member_frozen(self) -> None:
        """SIGSTOP for longer or shorter than a session."""
        member = self._rig.rng.choice(self._members)
        member.signal(signal.SIGSTOP)
        await asyncio.sleep(self._rig.rng.uniform(1, 10))
        member.signal(signal.SIGCONT)

    async def postgres_killed(self) -> None:
        """SIGKILL of the postmaster and all backends."""
        await asyncio.to_thread(self._rig.bench.postgres.kill)
        await asyncio.sleep(self._rig.rng.uniform(0, 3))
        await asyncio.to_thread(self._rig.bench.postgres.start)

    async def postgres_frozen(self) -> None:
        """SIGSTOP of all of it."""
        await asyncio.to_thread(self._rig.bench.postgres.freeze)
        await asyncio.sleep(self._rig.rng.uniform(1, 10))
        await asyncio.to_thread(self._rig.bench.postgres.thaw)

    async def backends_killed(self) -> None:
        """End every session of the members."""
        with suppress(*_AWAY):
            await self._rig.as_owner(
                "SELECT pg_terminate_backend(pid) FROM pg_stat_activity"
                " WHERE usename LIKE 'member%'"
            )

    async def commit_cut(self) -> None:
        """Break the link at a COMMIT, on either side of it."""
        cut = self._rig.rng.choice((Cut.BEFORE, Cut.AFTER))
        trigger = self._rig.postgres.arm(Trigger(COMMIT, cut, visit=self._rig.rng.randrange(1, 6)))
        with suppress(TimeoutError):  # nobody commits just now
            async with asyncio.timeout(5):
                await trigger.fired.wait()

    async def postgres_unreachable(self) -> None:
        """Nothing passes, and nobody says so."""
        self._rig.postgres.blackhole()
        await asyncio.sleep(self._rig.rng.uniform(1, 10))
        self._rig.postgres.heal()

    async def broker_killed(self) -> None:
        """SIGKILL of the only broker."""
        await asyncio.to_thread(self._rig.bench.kafka.kill)
        await asyncio.to_thread(self._rig.bench.kafka.start)

    async def broker_frozen(self) -> None:
        """SIGSTOP."""
        await asyncio.to_thread(self._rig.bench.kafka.freeze)
        await asyncio.sleep(self._rig.rng.uniform(1, 10))
        await asyncio.to_thread(self._rig.bench.kafka.thaw)

    async def kafka_reset(self) -> None:
        """Break every link with RST."""
        self._rig.kafka.reset_all()

    async def kafka_slow(self) -> None:
        """Slice and delay."""
        self._rig.kafka.latency_seconds, self._rig.kafka.slice_bytes = 0.05, 500
        await asyncio.sleep(self._rig.rng.uniform(1, 5))
        self._rig.kafka.heal()
