"""What the simulated members live in: a log, a store with row locks and faults, a pulse to stop."""

import asyncio
import random
from collections import defaultdict
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager

from newsloom.adapters.memory import MemoryStore
from newsloom.adapters.memory_source import MemoryLog, MemorySource
from newsloom.core.batch import BatchReport, DeadLetter
from newsloom.errors import Unavailable
from newsloom.ports import (
    Batch,
    BatchRefused,
    Claim,
    Delivery,
    Fenced,
    OwnershipListener,
    TopicPartition,
)

CODES = ("08006", "53100", "25006", "57P01", "55P03", "42501", "40001", "TimeoutError")
LOCK_SECONDS = 5.0
IDLE_IN_TRANSACTION_SECONDS = 6.0


class Server(MemoryStore):
    """One Postgres for all members: row locks, transactions that take time, and a record of them.

    `refused` are places whose rows it will not take. While `away`, nothing answers.
    """

    def __init__(self, rng: random.Random) -> None:
        super().__init__()
        self.rng = rng
        self.refused: set[tuple[TopicPartition, int]] = set()
        self.away = False
        self.violations: list[str] = []
        self.committed: list[tuple[TopicPartition, tuple[int, ...]]] = []
        self.owners: dict[TopicPartition, str] = {}
        self.transactions: set[asyncio.Future[BatchReport]] = set()
        self._rows: defaultdict[TopicPartition, asyncio.Lock] = defaultdict(asyncio.Lock)

    @asynccontextmanager
    async def row(self, partition: TopicPartition) -> AsyncIterator[None]:
        """Hold the lock of a partition's row; give up as `lock_timeout` does."""
        lock = self._rows[partition]
        try:
            async with asyncio.timeout(LOCK_SECONDS):
                await lock.acquire()
        except TimeoutError:
            raise Unavailable("postgres", "55P03") from None
        try:
            yield
        finally:
            lock.release()

    async def commit(self, batch: Batch, owner: str) -> BatchReport:
        """Do all of a batch at once, and check what must hold whoever does it."""
        position = self.positions[batch.partition]
        before = position.next_offset
        report = await super().apply(batch)
        if self.owners[batch.partition] != owner:
            self.violations.append(f"I4: {owner} wrote {batch.partition} of another")
        if position.next_offset < before:
            self.violations.append(f"I3: {batch.partition} went back to {position.next_offset}")
        offsets = tuple(item.offset for item in batch.items)
        if not all(before <= offset < position.next_offset for offset in offsets):
            self.violations.append(f"I3: {offsets} are not between {before} and the new position")
        self.committed.append((batch.partition, offsets))
        return report

    def refuses(self, batch: Batch) -> bool:
        """Tell whether a row of this batch is one that the store cannot hold."""
        return any(
            (batch.partition, item.offset) in self.refused and not isinstance(item, DeadLetter)
            for item in batch.items
        )


class Connection:
    """The store as one member sees it: through a link that breaks, from a process that dies.

    `lose_requests` and `lose_replies`: how many of the next transactions the link breaks in, before
    COMMIT has arrived or after. A frozen process has its `pulse` cleared.
    """

    def __init__(self, server: Server, owner: str, rng: random.Random) -> None:
        self.owner = owner
        self.pulse = asyncio.Event()
        self.pulse.set()
        self.is_dead = False
        self.lose_requests = 0
        self.lose_replies = 0
        self._server = server
        self._rng = rng

    async def claim(
        self,
        partition: TopicPartition,
        owner_id: str,
        first_offset: int,
        *,
        after_error: bool = False,
    ) -> Claim:
        """Claim; see the port."""
        await self.travel()
        async with self._server.row(partition):
            claim = await self._server.claim(
                partition, owner_id, first_offset, after_error=after_error
            )
            self._server.owners[partition] = self.owner
        await self.travel()
        return claim

    async def mark(self, partition: TopicPartition, epoch: int, *, started: bool) -> None:
        """Mark; see the port."""
        await self.travel()
        async with self._server.row(partition):
            await self._server.mark(partition, epoch, started=started)
        await self.travel()

    async def park(self, partition: TopicPartition, epoch: int, reason: str | None) -> None:
        """Park; see the port."""
        await self.travel()
        async with self._server.row(partition):
            await self._server.park(partition, epoch, reason)
        await self.travel()

    async def positions_of(self, kafka_topic: str) -> dict[TopicPartition, int]:
        """Look; see the port."""
        await self.travel()
        return await self._server.positions_of(kafka_topic)

    async def apply(self, batch: Batch) -> BatchReport:
        """Apply; the server goes on with the transaction whatever becomes of this process."""
        await self.travel()
        transaction = asyncio.ensure_future(self._transaction(batch))
        self._server.transactions.add(transaction)
        transaction.add_done_callback(_heard)
        transaction.add_done_callback(self._server.transactions.discard)
        if self.lose_replies:
            self.lose_replies -= 1
            await asyncio.sleep(self.delay() + self.delay())
            raise Unavailable("postgres", "ConnectionDoesNotExistError")
        report = await asyncio.shield(transaction)
        await self.travel()
        return report

    async def _transaction(self, batch: Batch) -> BatchReport:
        """Run on the server: lock, compare and set, wait for the client, commit."""
        async with self._server.row(batch.partition):
            position = self._server.positions.get(batch.partition)
            expected = (batch.epoch, batch.expected_offset)
            if position is None or (position.owner_epoch, position.next_offset) != expected:
                raise Fenced
            await asyncio.sleep(self.delay())
            try:
                async with asyncio.timeout(IDLE_IN_TRANSACTION_SECONDS):
                    await self.pulse.wait()
            except TimeoutError:
                raise Unavailable("postgres", "25P03") from None
            if self._server.refuses(batch):
                raise BatchRefused("22021")
            if self.lose_requests:
                self.lose_requests -= 1
                raise Unavailable("postgres", "ConnectionDoesNotExistError")
            if self._server.away or (self.is_dead and self._rng.random() < 0.5):
                raise Unavailable("postgres", "57P01")  # rolled back: COMMIT had not been sent
            await asyncio.sleep(self.delay())
            return await self._server.commit(batch, self.owner)

    async def travel(self) -> None:
        """One way over the network, from a process that may be frozen or dead by now."""
        await asyncio.sleep(self.delay())
        await self.pulse.wait()
        if self.is_dead:
            raise asyncio.CancelledError
        if self._server.away:
            raise Unavailable("postgres", self._rng.choice(CODES))

    def delay(self) -> float:
        """Draw the time of one way, seconds."""
        return self._rng.choice((0.0, 0.001, 0.01, 0.1)) * self._rng.random()


def _heard(transaction: asyncio.Future[BatchReport]) -> None:
    """Take note of an error that nobody may be left to hear of."""
    if not transaction.cancelled():
        transaction.exception()


class Reader(MemorySource):
    """A reader that stops with its process, and whose empty polls take one step, not hundreds."""

    def __init__(self, log: MemoryLog, listener: OwnershipListener, link: Connection) -> None:
        super().__init__(log, listener)
        self._link = link
        self.broker_away = False

    async def poll(
        self, partitions: Sequence[TopicPartition], timeout_seconds: float, max_records: int
    ) -> Mapping[TopicPartition, Sequence[Delivery]]:
        """Return what is there now, or after the whole wait."""
        await self._alive()
        if self.broker_away:
            await asyncio.sleep(timeout_seconds)
            return {}
        fetched = self._drain(partitions, max_records)
        if not fetched:
            await asyncio.sleep(timeout_seconds)
            fetched = self._drain(partitions, max_records)
        if self._failures and partitions:
            raise self._failures.pop(0)
        # What was taken from the client may be on its way for a while.
        await asyncio.sleep(self._link.delay())
        await self._alive()
        return fetched

    async def bounds(
        self, partitions: Sequence[TopicPartition]
    ) -> Mapping[TopicPartition, tuple[int, int]]:
        """Ask the broker, which may be away."""
        await self._alive()
        if self.broker_away:
            raise Unavailable("kafka", "NodeNotReadyError")
        return await super().bounds(partitions)

    async def _alive(self) -> None:
        await asyncio.sleep(0)
        await self._link.pulse.wait()
        if self._link.is_dead:
            raise asyncio.CancelledError
