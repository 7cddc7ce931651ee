"""When bulk imports may be read: only while nothing live waits.

The live Kafka topic may be read by other processes, so its lag is looked at from outside: an end of
its log that was seen some time ago and that the stored position has not reached is that old.
"""

import asyncio
import logging
from collections import deque
from collections.abc import Iterable, Mapping
from math import inf

from newsloom.errors import Unavailable
from newsloom.metrics import Metrics
from newsloom.partitions import Partition
from newsloom.ports import ArticleStore, EventSource, TopicPartition

logger = logging.getLogger(__name__)

LIVE_LAG_SECONDS = 2.0
"""Bulk imports wait once something live has waited for as long as this."""

LOOK_SECONDS = 0.5
_MOST_ENDS = 1000


class LiveLag:
    """How long the oldest live delivery has waited, from log ends and stored positions.

    Before the first end that was seen has been reached nothing is known: that counts as for ever.
    """

    def __init__(self) -> None:
        self._ends: dict[TopicPartition, deque[tuple[float, int]]] = {}

    def seconds(
        self,
        now: float,
        ends: Mapping[TopicPartition, int],
        positions: Mapping[TopicPartition, int],
    ) -> float:
        """Take in what is seen now (log ends and positions by partition) and return the lag."""
        for partition, end in ends.items():
            first = partition not in self._ends
            seen = self._ends.setdefault(partition, deque(maxlen=_MOST_ENDS))
            if first or not seen or seen[-1][1] < end:
                seen.append((-inf if first else now, end))
            position = positions.get(partition, 0)
            while seen and seen[0][1] <= position:
                seen.popleft()
        return max((now - seen[0][0] for seen in self._ends.values() if seen), default=0.0)


class BackfillGate:
    """Holds the partitions of the bulk imports' Kafka topic back, and lets them go."""

    def __init__(
        self, kafka_topic: str, live_topic: str, *, store: ArticleStore, metrics: Metrics
    ) -> None:
        self.kafka_topic = kafka_topic
        self._live_topic = live_topic
        self._store = store
        self._metrics = metrics
        self._lag = LiveLag()

    async def look(self, source: EventSource, partitions: Iterable[Partition]) -> None:
        """Look at the live Kafka topic and hold or release those of `partitions` that are ours."""
        ours = [state for state in partitions if state.is_backfill]
        if not ours:
            return
        is_held = await self._live_lag(source) >= LIVE_LAG_SECONDS
        self._metrics.backfill_held.set(is_held)
        for state in ours:
            state.hold(is_held=is_held)

    async def _live_lag(self, source: EventSource) -> float:
        try:
            live = sorted(source.partitions(self._live_topic))
            bounds = await source.bounds(live)
            positions = await self._store.positions_of(self._live_topic)
        except Unavailable as error:
            logger.debug("live lag unknown", extra={"dependency": error.dependency})
            return inf
        ends = {partition: end for partition, (_, end) in bounds.items()}
        # A partition that nobody has claimed yet will be read from its log's start.
        known = {place: positions.get(place, start) for place, (start, _) in bounds.items()}
        return self._lag.seconds(asyncio.get_running_loop().time(), ends, known)
