"""One assigned partition while it is ours: its position, its queue, and how it is interrupted."""

import asyncio
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, field
from hashlib import sha256
from typing import NamedTuple

from newsloom.ports import Anchor, Claim, Delivery, EventSource, TopicPartition


class Parked(Exception):  # noqa: N818 - a state, not a fault
    """The partition waits for an operator. The reason is a code."""

    def __init__(self, reason: str) -> None:
        super().__init__(reason)
        self.reason = reason


class BatchLimit(NamedTuple):
    """Most deliveries of one batch, and most bytes of their values."""

    records: int
    bytes: int


@dataclass(slots=True, eq=False)
class Partition:
    """One assigned partition. A new assignment makes a new object, so late news cannot reach it."""

    partition: TopicPartition
    is_backfill: bool = False
    """It holds bulk imports, which give way to what is live."""
    epoch: int = 0
    incarnation: int = 0
    next_offset: int = 0
    """The stored position, as far as we know."""
    fetch_offset: int = 0
    """The next delivery to accept from a poll: what lies between is queued."""
    anchor: Anchor | None = None
    """Must come first, if set, and be equal: else the Kafka topic is another one."""
    seen_end: int = 0
    """Where its log was seen to end while nothing was fetched of it."""
    queue: deque[Delivery] = field(default_factory=deque)
    queued_bytes: int = 0
    """What the values of the queue take."""
    arrived: asyncio.Event = field(default_factory=asyncio.Event)
    quiet: asyncio.Event = field(default_factory=asyncio.Event)
    """Clear from the mark of a batch until its transaction and all that it marked has ended."""
    is_ready: bool = False
    is_revoked: bool = False
    is_held: bool = False
    """Nothing is read of it for now, because something live waits."""
    is_waiting: bool = False
    """A known reason keeps it from moving: a dependency is away, or it is parked."""
    claims: int = 0
    """Rises with each claim: what was fetched for an earlier one is not to be accepted."""
    is_marked: bool = False
    """A batch has been begun and not ended: what `ArticleStore.mark` noted."""
    strikes: int = 0
    careful_until: int = 0
    """Below this offset each delivery gets a transaction of its own: a killer is among them."""
    failures: deque[str | None] = field(default_factory=deque)
    """The last deliveries: why the store could not take them, None for all others."""
    failed_polls: int = 0
    walk_left: int = 0
    """So many deliveries are to be polled one by one: something unreadable lies among them."""
    interruption: Exception | None = None
    last_timestamp_ms: int = 0
    behind_since: float | None = None
    """When records were first seen waiting (seconds since 1970): their age, if none was read."""

    def __post_init__(self) -> None:
        self.quiet.set()
        self.is_held = self.is_backfill

    def hold(self, *, is_held: bool) -> None:
        """Stop giving out what is queued, or go on."""
        self.is_held = is_held
        self.arrived.set()

    def accept(self, deliveries: Sequence[Delivery]) -> None:
        """Queue what a poll brought, the anchor apart."""
        self.failed_polls = 0
        self.walk_left = max(0, self.walk_left - len(deliveries))
        for delivery in deliveries:
            if self.anchor is not None:
                anchor, self.anchor = self.anchor, None
                if delivery.offset == anchor.offset and anchor_of(delivery) != anchor:
                    self.interrupt(Parked("topic.identity"))
                    return
            if delivery.offset >= self.fetch_offset:
                self.queue.append(delivery)
                self.queued_bytes += size_of(delivery)
                self.fetch_offset = delivery.offset + 1
        self.arrived.set()

    def drop_queue(self) -> None:
        """Forget what was fetched and not yet taken."""
        self.queue.clear()
        self.queued_bytes = 0

    def interrupt(self, error: Exception) -> None:
        """Make the owner task raise `error` at its next step."""
        self.is_ready = False
        self.interruption = error
        self.arrived.set()

    async def take(self, limit: BatchLimit) -> list[Delivery]:
        """Wait for deliveries; empty when the partition has been revoked."""
        while (
            (self.is_held or not self.queue) and not self.is_revoked and self.interruption is None
        ):
            self.arrived.clear()
            await self.arrived.wait()
        if self.interruption is not None:
            raise self.interruption
        if self.is_revoked:
            return []
        return self._next(limit)

    def take_full(self, limit: BatchLimit) -> list[Delivery]:
        """Take a whole batch if one is there, without waiting; else nothing."""
        is_full = len(self.queue) >= limit.records or self.queued_bytes >= limit.bytes
        if not is_full or self.is_held or self.is_revoked or self.interruption is not None:
            return []
        return self._next(limit)

    def _next(self, limit: BatchLimit) -> list[Delivery]:
        """Take the next batch off the queue; a delivery above the limit goes alone."""
        taken: list[Delivery] = []
        left = limit.bytes
        while self.queue and len(taken) < limit.records:
            size = size_of(self.queue[0])
            if taken and size > left:
                break
            taken.append(self.queue.popleft())
            left -= size
            self.queued_bytes -= size
        return taken


def size_of(delivery: Delivery) -> int:
    """Return what a delivery's value takes, bytes."""
    return len(delivery.value or b"")


def position_problem(claim: Claim, start: int, end: int) -> str | None:
    """Compare a stored position with the log's bounds; return why it must park, if it must.

    Never a silent reset: below the log start something was deleted unread (or Postgres restored),
    above its end the Kafka topic was made anew or this is another cluster.
    """
    if claim.next_offset < start:
        return "offset.gap"
    if claim.next_offset > end:
        return "offset.past_end"
    return None


def anchor_of(delivery: Delivery) -> Anchor:
    """Describe a delivery so that it can be recognised: offset, timestamp, digest of its bytes."""
    key = delivery.key or b""
    digest = sha256(len(key).to_bytes(8, "big") + key + (delivery.value or b""))
    return Anchor(delivery.offset, delivery.timestamp_ms, digest.digest())


def seek(source: EventSource, state: Partition) -> None:
    """Let a partition go on with what is to be accepted next: its anchor first, if it has one."""
    source.start_at(state.partition, state.anchor.offset if state.anchor else state.fetch_offset)
