"""Flow 2: poll -> decode -> enrich -> identify -> store, with exactly-once effect in Postgres.

One task polls; each assigned partition has an owner task that claims the stored position, checks it
against the log, and then applies batches one after another. The order of effects, and what a crash
does between them:

1. claim: the stored epoch rises, which fences every older owner. Crash after it: the next owner
   claims again, nothing else has happened.
2. apply: rows and position in one transaction. Crash before COMMIT: nothing happened. Crash after
   COMMIT: the stored position already says so, and the next claim starts there.
3. only then does the position in memory move. Any doubt (a lost connection, an unknown COMMIT, a
   fence) ends in a new claim: the stored row is the truth, memory never is.

The batch after the one in its transaction may be decoded meanwhile. Its mark, by which a death is
counted, is set by the COMMIT of the present one, whose own mark covers it until then.

Offsets in Kafka are a mirror for lag tools; nothing reads them.
"""

import asyncio
import logging
import time
from collections import deque
from collections.abc import Iterable, Mapping, Sequence

from newsloom.backfill import LOOK_SECONDS, BackfillGate
from newsloom.backoff import wait_or_stop
from newsloom.errors import Unavailable
from newsloom.health import Health
from newsloom.metrics import Metrics
from newsloom.partition_owner import PartitionOwner
from newsloom.partitions import Parked, Partition, seek
from newsloom.ports import (
    Delivery,
    EventSource,
    PositionLost,
    TopicPartition,
    Unreadable,
)
from newsloom.settings import IngestSettings

logger = logging.getLogger(__name__)

KEEP_ALIVE_SECONDS = 30.0
"""Longest time without a poll, which the client takes for a hang: less, if it is told to be less
patient. Polling when nothing may be fetched throws away what was fetched ahead, so it is done as
rarely as that."""

KAFKA_LOOK_SECONDS = 5.0
"""Between two questions to Kafka that are asked for the answer alone."""

KAFKA_PATIENCE_SECONDS = 10.0
"""Longest wait for it. The client itself would try for as long as its request timeout."""

UNREADABLE_TRIES = 3
"""Polls of one partition that must fail in a row before it parks: wire corruption heals."""


class Ingest:
    """The ingest role over an `EventSource` and an `ArticleStore`. Also the source's listener.

    `backfill`: the Kafka topic of bulk imports, which are read while nothing live waits.
    """

    def __init__(
        self,
        owner: PartitionOwner,
        *,
        settings: IngestSettings,
        metrics: Metrics,
        health: Health,
        backfill: BackfillGate | None = None,
    ) -> None:
        self._owner = owner
        self._backfill = backfill
        self._settings = settings
        self._metrics = metrics
        self._health = health
        self._room = owner.progressed
        self._partitions: dict[TopicPartition, Partition] = {}
        self._assigned_once = False
        self._unclaimed: list[Partition] = []
        self._source: EventSource | None = None
        self._tasks: asyncio.TaskGroup | None = None
        self._owners: set[asyncio.Task[None]] = set()

    @property
    def positions(self) -> Mapping[TopicPartition, int]:
        """The stored positions of the partitions that are ours and claimed."""
        return {p.partition: p.next_offset for p in self._partitions.values() if p.is_ready}

    async def run(self, source: EventSource, stop: asyncio.Event) -> None:
        """Ingest until `stop` is set, then let running transactions end.

        Raises what a task did not expect: such a process must not be trusted with more.
        """
        self._source = source
        async with asyncio.TaskGroup() as tasks:
            self._tasks = tasks
            for partition in self._unclaimed:
                self._start(partition)
            self._unclaimed.clear()
            background = [
                tasks.create_task(self._mirror_offsets(source, stop), name="mirror"),
                tasks.create_task(self._report_lag(source, stop), name="lag"),
                tasks.create_task(self._watch_live(source, stop), name="backfill"),
                tasks.create_task(self._watch_kafka(source, stop), name="kafka"),
            ]
            await self._poll(source, stop)
            self._health.drain()
            await self._drain(self._partitions.values())
            for task in (*background, *self._owners):
                task.cancel()

    # Ownership: called by the source, see OwnershipListener.

    def assigned(self, partitions: frozenset[TopicPartition]) -> None:
        """Start an owner task for each partition; the ones we had are gone."""
        self._metrics.rebalances.inc()
        self._metrics.partitions_owned.set(len(partitions))
        self._health.owned(len(partitions))
        self._assigned_once = True
        for old in self._partitions.values():
            old.is_revoked = True
            old.arrived.set()
        bulk = self._backfill.kafka_topic if self._backfill else None
        self._partitions = {
            p: Partition(p, is_backfill=p.topic == bulk) for p in sorted(partitions)
        }
        logger.info("partitions assigned", extra={"partitions": len(partitions)})
        for state in self._partitions.values():
            if self._tasks is None:
                self._unclaimed.append(state)
            else:
                self._start(state)

    async def revoked(self, partitions: frozenset[TopicPartition]) -> None:
        """Let the transactions in flight end, so that their work need not be done again."""
        self._health.unassigned()
        leaving = [self._partitions[p] for p in partitions if p in self._partitions]
        await self._drain(leaving)
        for state in leaving:
            self._partitions.pop(state.partition, None)
            self._metrics.forget_partition(*state.partition)
            self._health.unpark(*state.partition)

    async def _drain(self, leaving: Iterable[Partition]) -> None:
        states = list(leaving)
        for state in states:
            state.is_revoked = True
            state.arrived.set()
        try:
            async with asyncio.timeout(self._settings.drain_seconds):
                for state in states:
                    await state.quiet.wait()
        except TimeoutError:
            # Nothing is lost: the transaction is fenced or rolled back.
            logger.warning("transactions did not end in time", extra={"partitions": len(states)})

    def _start(self, state: Partition) -> None:
        assert self._tasks is not None and self._source is not None  # noqa: S101, PT018 - see run
        name = f"{state.partition.topic}/{state.partition.partition}"
        task = self._tasks.create_task(self._owner.own(state, self._source), name=name)
        self._owners.add(task)
        task.add_done_callback(self._owners.discard)

    # The poll task.

    async def _poll(self, source: EventSource, stop: asyncio.Event) -> None:
        """Fetch for the partitions that have room; goes round at least every few seconds."""
        alone: deque[TopicPartition] = deque()
        keep_alive = min(KEEP_ALIVE_SECONDS, self._settings.max_poll_interval_seconds / 3)
        polled_at = time.monotonic()
        while not stop.is_set():
            if self._is_excused():
                self._health.beat()
            hungry = self._hungry(alone)
            if not hungry:
                await self._wait_for_room(stop)
                if time.monotonic() - polled_at < keep_alive:
                    continue
            polled_at = time.monotonic()
            asked = {partition: (state, state.claims) for partition, state in hungry.items()}
            walks = len(hungry) == 1 and all(state.walk_left for state in hungry.values())
            try:
                fetched = await source.poll(
                    list(hungry),
                    self._settings.poll_timeout_seconds,
                    1 if walks else self._settings.max_batch_records,
                )
            except (Unreadable, PositionLost, Unavailable) as error:
                self._restart(source, asked, error)
                # One after another finds the culprit and lets the others pass.
                alone.extend(p for p in hungry if len(hungry) > 1)
                await wait_or_stop(self._settings.backoff_base_seconds, stop)
                continue
            for partition, deliveries in fetched.items():
                self._hand_over(source, partition, asked.get(partition), deliveries)
            if walks and fetched:
                alone.extendleft(hungry)

    def _hungry(self, alone: deque[TopicPartition]) -> Mapping[TopicPartition, Partition]:
        """Return the partitions to fetch for: all that have room, or the next one to go alone."""
        hungry = {p: s for p, s in self._partitions.items() if self._has_room(s)}
        if not alone:
            return hungry
        return {p: s for p in [alone.popleft()] if (s := hungry.get(p)) is not None}

    def _hand_over(
        self,
        source: EventSource,
        partition: TopicPartition,
        asked: tuple[Partition, int] | None,
        deliveries: Sequence[Delivery],
    ) -> None:
        """Queue what was fetched, if it was fetched for the claim that still holds.

        A rebalance or a new claim may have come during the poll. Then the client's position has
        moved past records that nobody took, so it must be set back.
        """
        state = self._partitions.get(partition)
        if state is None or not state.is_ready:
            return  # the claim to come will seek
        if asked == (state, state.claims):
            state.accept(deliveries)
        else:
            seek(source, state)

    def _has_room(self, state: Partition) -> bool:
        settings = self._settings
        is_full = (
            len(state.queue) >= settings.max_batch_records * settings.queue_batches
            or state.queued_bytes >= settings.max_batch_bytes * settings.queue_batches
        )
        return state.is_ready and not state.is_held and not is_full

    async def _wait_for_room(self, stop: asyncio.Event) -> None:
        """Wait a little for room in a queue, for a claim, or for the end."""
        self._room.clear()
        if any(self._has_room(state) for state in self._partitions.values()):
            return
        wakers = asyncio.create_task(self._room.wait()), asyncio.create_task(stop.wait())
        _, pending = await asyncio.wait(
            wakers, timeout=self._settings.poll_timeout_seconds, return_when=asyncio.FIRST_COMPLETED
        )
        for waker in pending:
            waker.cancel()

    def _restart(
        self,
        source: EventSource,
        asked: Mapping[TopicPartition, tuple[Partition, int]],
        error: Exception,
    ) -> None:
        """After a failed poll nothing is known of what the client dropped: seek all of them.

        A rebalance may have come during the poll: what is sought is what is ours now, and the error
        says nothing about a claim that is younger than the poll.
        """
        self._metrics.poll_errors.inc()
        logger.warning(
            "poll failed", extra={"error": type(error).__name__, "partitions": len(asked)}
        )
        if isinstance(error, Unavailable):
            self._owner.note_unavailable(error)
        for partition, then in asked.items():
            state = self._partitions.get(partition)
            if state is None or not state.is_ready:
                continue  # the claim to come will seek
            culprit = len(asked) == 1 and then == (state, state.claims)
            if not (culprit and self._interrupted(state, error)):
                seek(source, state)

    def _interrupted(self, state: Partition, error: Exception) -> bool:
        """Interrupt the partition that made a poll of its own fail, unless it may heal."""
        if isinstance(error, PositionLost):
            state.interrupt(error)
            return True
        if not isinstance(error, Unreadable):
            return False
        # What can be read before the unreadable comes only if it is asked for one by one.
        state.walk_left = self._settings.max_batch_records
        state.failed_polls += 1
        if state.failed_polls < UNREADABLE_TRIES or state.queue:
            return False
        state.interrupt(Parked("kafka.unreadable"))
        return True

    def _is_excused(self) -> bool:
        """Tell whether standing still is right: nothing to do, or a known reason not to do it."""
        return self._assigned_once and all(
            state.is_waiting or state.is_held or (state.is_ready and not self._lag(state))
            for state in self._partitions.values()
        )

    # Lag, idleness, mirror.

    def _lag(self, state: Partition) -> int:
        end = self._source.end_offset(state.partition) if self._source else None
        return max(0, max(end or 0, state.seen_end) - state.next_offset)

    async def is_idle(self) -> bool:
        """Tell whether everything that Kafka holds has been applied.

        The brokers are asked only when the last fetches leave it open: while a fetch waits for
        records, other questions on the same connection wait with it.
        """
        states = list(self._partitions.values())
        if self._source is None or not self._assigned_once:
            return False
        if any(
            not s.is_ready or s.queue or s.anchor is not None or not s.quiet.is_set()
            for s in states
        ):
            return False
        if any(self._lag(state) for state in states):
            return False
        unknown = [s for s in states if self._source.end_offset(s.partition) is None]
        bounds = await self._source.bounds([state.partition for state in unknown])
        return all(state.next_offset >= bounds[state.partition][1] for state in unknown)

    @property
    def committed(self) -> int:
        """Deliveries committed by this process since its start."""
        return self._owner.committed

    async def _look_ahead(self, source: EventSource) -> None:
        """Ask where the logs end that are not fetched from, because Postgres is away, say.

        Else their lag would stand still while the backlog grows.
        """
        waiting = {p: state for p, state in self._partitions.items() if state.is_waiting}
        try:
            bounds = await source.bounds(list(waiting))
        except Unavailable:
            return  # the claim that waits says so
        for partition, state in waiting.items():
            state.seen_end = bounds[partition][1]

    async def _report_lag(self, source: EventSource, stop: asyncio.Event) -> None:
        while not await wait_or_stop(1.0, stop):
            self._metrics.progress_age.set(self._health.progress_age_seconds)
            await self._look_ahead(source)
            now = time.time()
            states = list(self._partitions.values())
            waiting = sum(self._lag(state) for state in states if state.is_backfill)
            self._metrics.backfill_waiting.set(waiting)
            for state in states:
                if state.is_backfill:
                    continue  # late on purpose: no concern of the alerts on lag
                records = self._lag(state)
                self._metrics.set_lag(
                    *state.partition, records=records, seconds=_waited(state, records, now)
                )

    async def _watch_kafka(self, source: EventSource, stop: asyncio.Event) -> None:
        """Ask Kafka something now and then: a fetch from brokers that are gone finds nothing, only.

        Without it everything would look well, and idle, for as long as they are away.
        """
        while not await wait_or_stop(KAFKA_LOOK_SECONDS, stop):
            claimed = [p for p, state in self._partitions.items() if state.is_ready]
            if not claimed:
                continue  # a claim asks, too
            try:
                async with asyncio.timeout(KAFKA_PATIENCE_SECONDS):
                    await source.bounds(claimed[:1])
            except Unavailable as error:
                self._owner.note_unavailable(error)
            except TimeoutError:
                self._owner.note_unavailable(Unavailable("kafka", "TimeoutError"))
            else:
                self._owner.note_usable("kafka")

    async def _watch_live(self, source: EventSource, stop: asyncio.Event) -> None:
        """Hold bulk imports back while something live waits."""
        while self._backfill is not None and not await wait_or_stop(LOOK_SECONDS, stop):
            await self._backfill.look(source, list(self._partitions.values()))
            self._room.set()

    async def _mirror_offsets(self, source: EventSource, stop: asyncio.Event) -> None:
        mirrored: Mapping[TopicPartition, int] = {}
        while not await wait_or_stop(self._settings.offset_mirror_seconds, stop):
            positions = self.positions
            if positions != mirrored:
                await source.mirror(positions)
                mirrored = positions


def _waited(state: Partition, records: int, now: float) -> float:
    """Return how long the oldest delivery has waited, seconds: by its timestamp if it is known."""
    if not records:
        state.behind_since = None
        return 0.0
    state.behind_since = state.behind_since or now
    oldest_ms = state.queue[0].timestamp_ms if state.queue else state.last_timestamp_ms
    return now - (oldest_ms / 1000 if oldest_ms > 0 else state.behind_since)
