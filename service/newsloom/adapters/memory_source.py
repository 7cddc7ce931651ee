"""An `EventSource` in memory: a Kafka of one process, for dry runs and tests of the flow.

It forgets records the way aiokafka does: a failing poll moves the position of what it had already
drained. It knows no group protocol: whoever holds it assigns and revokes partitions.
"""

import asyncio
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from newsloom.ports import Delivery, OwnershipListener, TopicPartition

_TICK_SECONDS = 0.001


@dataclass(slots=True)
class MemoryLog:
    """The partitions and what they hold; shared by the sources that read it."""

    records: dict[TopicPartition, list[Delivery]] = field(default_factory=dict)
    starts: dict[TopicPartition, int] = field(default_factory=dict)

    def append(
        self,
        partition: TopicPartition,
        value: bytes | None,
        *,
        key: bytes | None = None,
        headers: Sequence[tuple[str, bytes | None]] = (),
        timestamp_ms: int = 0,
    ) -> int:
        """Add a record at the end of a partition; return its offset."""
        held = self.records.setdefault(partition, [])
        offset = held[-1].offset + 1 if held else self.starts.get(partition, 0)
        held.append(
            Delivery(*partition, offset, timestamp_ms, key=key, value=value, headers=tuple(headers))
        )
        return offset

    def bounds(self, partition: TopicPartition) -> tuple[int, int]:
        """Return log start and the offset after the last record."""
        start = self.starts.get(partition, 0)
        held = self.records.get(partition, [])
        return start, (held[-1].offset + 1 if held else start)


class MemorySource:
    """One reader of a `MemoryLog`. `assign` and `revoke` play the group's part."""

    def __init__(self, log: MemoryLog, listener: OwnershipListener) -> None:
        self._log = log
        self._listener = listener
        self._positions: dict[TopicPartition, int] = {}
        self._held: set[TopicPartition] = set()
        self._ends: dict[TopicPartition, int] = {}
        self._failures: list[Exception] = []
        self.mirrored: dict[TopicPartition, int] = {}

    def assign(self, partitions: Sequence[TopicPartition]) -> None:
        """Make these the partitions of this reader, as a finished rebalance does."""
        self._positions = dict.fromkeys(partitions, 0)
        self._held, self._ends = set(partitions), {}
        self._listener.assigned(frozenset(partitions))

    async def revoke(self) -> None:
        """Take all partitions away, as a starting rebalance does."""
        await self._listener.revoked(self.assignment())
        self._positions, self._held = {}, set()

    def fail_next_poll(self, error: Exception) -> None:
        """Let a poll raise after it has drained what it had: those records are lost to it."""
        self._failures.append(error)

    async def poll(
        self, partitions: Sequence[TopicPartition], timeout_seconds: float, max_records: int
    ) -> Mapping[TopicPartition, Sequence[Delivery]]:
        """Return what is there; see the port."""
        deadline = asyncio.get_running_loop().time() + timeout_seconds
        while True:
            fetched = self._drain(partitions, max_records)
            if self._failures and partitions:
                raise self._failures.pop(0)
            if fetched or asyncio.get_running_loop().time() >= deadline:
                # A real client gives control back too, however much it has.
                await asyncio.sleep(0)
                return fetched
            await asyncio.sleep(_TICK_SECONDS)

    def start_at(self, partition: TopicPartition, offset: int) -> None:
        """Go on from this offset."""
        if partition in self._positions:
            self._positions[partition] = offset
            self._held.discard(partition)

    def assignment(self) -> frozenset[TopicPartition]:
        """Return the assigned partitions."""
        return frozenset(self._positions)

    def partitions(self, kafka_topic: str) -> frozenset[TopicPartition]:
        """Return the partitions that the log has."""
        return frozenset(p for p in self._log.records if p.topic == kafka_topic)

    async def bounds(
        self, partitions: Sequence[TopicPartition]
    ) -> Mapping[TopicPartition, tuple[int, int]]:
        """Return log start and end."""
        return {partition: self._log.bounds(partition) for partition in partitions}

    def end_offset(self, partition: TopicPartition) -> int | None:
        """Return the log end as the last poll saw it."""
        return self._ends.get(partition) if partition in self._positions else None

    async def mirror(self, positions: Mapping[TopicPartition, int]) -> None:
        """Remember the positions."""
        self.mirrored.update(positions)

    def _drain(
        self, partitions: Sequence[TopicPartition], max_records: int
    ) -> dict[TopicPartition, Sequence[Delivery]]:
        fetched: dict[TopicPartition, Sequence[Delivery]] = {}
        for partition in partitions:
            if partition not in self._positions or partition in self._held or max_records <= 0:
                continue
            self._ends[partition] = self._log.bounds(partition)[1]
            position = self._positions[partition]
            held = self._log.records.get(partition, [])
            found = [d for d in held if d.offset >= position][:max_records]
            if found:
                self._positions[partition] = found[-1].offset + 1
                max_records -= len(found)
                fetched[partition] = found
        return fetched
