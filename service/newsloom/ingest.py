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

Offsets in Kafka are a mirror for lag tools; nothing reads them.
"""

import asyncio
import logging
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence

from newsloom.backoff import delays, wait_or_stop
from newsloom.core.batch import BatchReport, DeadLetter, Item
from newsloom.decoding import Decoded
from newsloom.errors import Unavailable
from newsloom.health import Health
from newsloom.metrics import Metrics, Stage
from newsloom.partitions import Parked, Partition, anchor_of, position_problem
from newsloom.ports import (
    ArticleStore,
    Batch,
    BatchRefused,
    Delivery,
    EventSource,
    Fenced,
    PositionLost,
    TopicPartition,
    Unreadable,
)
from newsloom.settings import IngestSettings

logger = logging.getLogger(__name__)

PARKED_RECHECK_SECONDS = 5.0
"""How often a parked partition's row is looked at again, for an operator's way out."""

UNREADABLE_TRIES = 3
"""Polls of one partition that must fail in a row before it parks: wire corruption heals."""

PROBE_CAP_SECONDS = 3.0
"""Longest wait between two tries to claim: recovery is bounded by it."""


Decoder = Callable[[Sequence[Delivery]], Decoded]
"""Pure and total: bad deliveries become dead letters. Runs in a thread, off the event loop."""


class Ingest:
    """The ingest role over an `EventSource` and an `ArticleStore`. Also the source's listener."""

    def __init__(
        self,
        *,
        store: ArticleStore,
        decode: Decoder,
        settings: IngestSettings,
        metrics: Metrics,
        health: Health,
        owner_id: str,
        jitter: Callable[[], float],
    ) -> None:
        self._store = store
        self._decode = decode
        self._settings = settings
        self._metrics = metrics
        self._health = health
        self._owner_id = owner_id
        self._jitter = jitter
        self._partitions: dict[TopicPartition, Partition] = {}
        self._assigned_once = False
        self._unclaimed: list[Partition] = []
        self._room = asyncio.Event()
        self._source: EventSource | None = None
        self._tasks: asyncio.TaskGroup | None = None
        self._owners: set[asyncio.Task[None]] = set()
        self._committed = 0

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
                tasks.create_task(self._report_lag(stop), name="lag"),
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
        self._partitions = {partition: Partition(partition) for partition in sorted(partitions)}
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
        assert self._tasks is not None  # noqa: S101 - set before any call
        name = f"{state.partition.topic}/{state.partition.partition}"
        task = self._tasks.create_task(self._own(state), name=name)
        self._owners.add(task)
        task.add_done_callback(self._owners.discard)

    # The owner task of one partition.

    async def _own(self, state: Partition) -> None:
        """Claim, apply what arrives, and claim again after anything that leaves doubt."""
        waits = self._waits()
        while not state.is_revoked:
            try:
                await self._claim(state)
                waits = self._waits()
                while deliveries := await state.take(self._settings.max_batch_records):
                    await self._apply(state, deliveries)
                    self._room.set()
            except Fenced:
                self._metrics.fenced.inc()
                logger.info("fenced", extra={"partition": state.partition.partition})
                await self._hold(state, next(waits))
            except PositionLost:
                await self._hold(state, next(waits))
            except Unavailable as error:
                self._note_unavailable(error)
                await self._hold(state, next(waits))
            except Parked as parked:
                await self._park(state, parked.reason)
        state.is_ready = False

    async def _claim(self, state: Partition) -> None:
        """Take over the stored position, check it against the log, and start fetching there."""
        assert self._source is not None  # noqa: S101 - set before any task
        state.interruption, state.anchor = None, None
        state.queue.clear()
        bounds = await self._source.bounds([state.partition])
        self._health.usable("kafka")
        self._metrics.set_usable("kafka", usable=True)
        start, end = bounds[state.partition]
        claim = await self._store.claim(state.partition, self._owner_id, start)
        self._health.usable("postgres")
        self._metrics.set_usable("postgres", usable=True)
        state.epoch, state.incarnation = claim.epoch, claim.incarnation
        state.next_offset = state.fetch_offset = claim.next_offset
        if reason := claim.parked_reason or position_problem(claim, start, end):
            raise Parked(reason)
        self._health.unpark(*state.partition)
        self._metrics.set_parked(*state.partition, parked=False)
        if state.is_revoked:
            return
        if claim.anchor is not None and claim.anchor.offset >= start:
            state.anchor = claim.anchor
        state.is_waiting = False
        state.is_ready = True
        state.claims += 1
        self._seek(self._source, state)
        self._room.set()

    async def _apply(self, state: Partition, deliveries: Sequence[Delivery]) -> None:
        started = time.perf_counter()
        decoded = await asyncio.to_thread(self._decode, deliveries)
        self._metrics.observe_stage(Stage.DECODE, time.perf_counter() - started)
        self._metrics.observe_parsed(decoded.dropped, decoded.unknown)
        state.quiet.clear()
        try:
            if not state.is_revoked:
                await self._store_batch(state, deliveries, decoded.items)
        finally:
            state.quiet.set()

    async def _store_batch(
        self, state: Partition, deliveries: Sequence[Delivery], items: Sequence[Item]
    ) -> None:
        """Apply one batch; halve it when the store refuses its rows, until the culprit is alone.

        Each piece is a transaction with its own compare-and-set, so what was stored stays stored.
        """
        batch = Batch(
            partition=state.partition,
            epoch=state.epoch,
            incarnation=state.incarnation,
            expected_offset=state.next_offset,
            next_offset=deliveries[-1].offset + 1,
            items=items,
            anchor=anchor_of(deliveries[-1]),
        )
        try:
            report = await self._store.apply(batch)
        except BatchRefused as refused:
            if len(items) == 1 and isinstance(items[0], DeadLetter):
                raise  # a dead letter that cannot be stored: nothing is left to try
            self._metrics.batch_splits.inc()
            if len(items) == 1:
                letter = refused_letter(deliveries[0], items[0], refused.sqlstate)
                await self._store_batch(state, deliveries, [letter])
                return
            middle = len(items) // 2
            await self._store_batch(state, deliveries[:middle], items[:middle])
            await self._store_batch(state, deliveries[middle:], items[middle:])
            return
        state.next_offset = batch.next_offset
        self._committed += report.consumed
        self._observe(state, report, deliveries)

    def _observe(
        self, state: Partition, report: BatchReport, deliveries: Sequence[Delivery]
    ) -> None:
        self._health.beat()
        self._metrics.observe_batch(report)
        now = time.time()
        for delivery in deliveries:
            self._metrics.observe_end_to_end(now - delivery.timestamp_ms / 1000)
        state.last_timestamp_ms = deliveries[-1].timestamp_ms

    async def _park(self, state: Partition, reason: str) -> None:
        """Write down why the partition waits, and look from time to time whether it still must."""
        self._health.park(*state.partition, reason)
        self._metrics.set_parked(*state.partition, parked=True)
        logger.error(
            "partition parked", extra={"partition": state.partition.partition, "reason": reason}
        )
        try:
            await self._store.park(state.partition, state.epoch, reason)
        except (Fenced, Unavailable):
            # Somebody else owns it, or the store is away: the next claim tells.
            logger.warning("the reason could not be stored", extra={"reason": reason})
        await self._hold(state, PARKED_RECHECK_SECONDS)

    async def _hold(self, state: Partition, seconds: float) -> None:
        """Wait before the next claim; wakes at once when the partition is revoked."""
        state.is_ready, state.is_waiting = False, True
        deadline = time.monotonic() + seconds
        while not state.is_revoked and (left := deadline - time.monotonic()) > 0:
            state.arrived.clear()
            await wait_or_stop(left, state.arrived)

    def _note_unavailable(self, error: Unavailable) -> None:
        self._health.away(error.dependency, error.code)
        self._metrics.set_usable(error.dependency, usable=False)
        self._metrics.retry(error.dependency)
        log = logger.error if error.systemic else logger.warning
        log("waiting for a dependency", extra={"dependency": error.dependency, "code": error.code})

    def _waits(self) -> Iterator[float]:
        cap = min(self._settings.backoff_cap_seconds, PROBE_CAP_SECONDS)
        return delays(min(self._settings.backoff_base_seconds, cap), cap, self._jitter)

    # The poll task.

    async def _poll(self, source: EventSource, stop: asyncio.Event) -> None:
        """Fetch for the partitions that have room; goes round at least every few seconds."""
        alone: deque[TopicPartition] = deque()
        while not stop.is_set():
            if self._is_excused():
                self._health.beat()
            hungry = {p: s for p, s in self._partitions.items() if self._has_room(s)}
            if alone:
                hungry = {p: s for p in [alone.popleft()] if (s := hungry.get(p)) is not None}
            if not hungry and await self._no_room(stop):
                continue
            asked = {partition: (state, state.claims) for partition, state in hungry.items()}
            try:
                fetched = await source.poll(
                    list(hungry),
                    self._settings.poll_timeout_seconds,
                    self._settings.max_batch_records,
                )
            except (Unreadable, PositionLost, Unavailable) as error:
                self._restart(source, hungry, error)
                # One after another finds the culprit and lets the others pass.
                alone.extend(p for p in hungry if len(hungry) > 1)
                await wait_or_stop(self._settings.backoff_base_seconds, stop)
                continue
            for partition, deliveries in fetched.items():
                self._hand_over(source, partition, asked.get(partition), deliveries)

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
            self._seek(source, state)

    def _seek(self, source: EventSource, state: Partition) -> None:
        source.start_at(
            state.partition, state.anchor.offset if state.anchor else state.fetch_offset
        )

    def _has_room(self, state: Partition) -> bool:
        limit = self._settings.max_batch_records * self._settings.queue_batches
        return state.is_ready and len(state.queue) < limit

    async def _no_room(self, stop: asyncio.Event) -> bool:
        """Wait a little for room or a claim. False when it is time to keep the membership alive."""
        self._room.clear()
        if any(self._has_room(state) for state in self._partitions.values()):
            return True
        wakers = asyncio.create_task(self._room.wait()), asyncio.create_task(stop.wait())
        done, pending = await asyncio.wait(
            wakers, timeout=self._settings.poll_timeout_seconds, return_when=asyncio.FIRST_COMPLETED
        )
        for waker in pending:
            waker.cancel()
        return bool(done)

    def _restart(
        self, source: EventSource, polled: Mapping[TopicPartition, Partition], error: Exception
    ) -> None:
        """After a failed poll nothing is known of what the client dropped: seek all of them."""
        self._metrics.poll_errors.inc()
        logger.warning(
            "poll failed", extra={"error": type(error).__name__, "partitions": len(polled)}
        )
        if isinstance(error, Unavailable):
            self._note_unavailable(error)
        for state in polled.values():
            if not state.is_ready:
                continue
            if isinstance(error, PositionLost) and len(polled) == 1:
                state.interrupt(error)
                continue
            if isinstance(error, Unreadable) and len(polled) == 1:
                state.failed_polls += 1
                if state.failed_polls >= UNREADABLE_TRIES and not state.queue:
                    state.interrupt(Parked("kafka.unreadable"))
                    continue
            self._seek(source, state)

    def _is_excused(self) -> bool:
        """Tell whether standing still is right: nothing to do, or a known reason not to do it."""
        return self._assigned_once and all(
            state.is_waiting or (state.is_ready and not self._lag(state))
            for state in self._partitions.values()
        )

    # Lag, idleness, mirror.

    def _lag(self, state: Partition) -> int:
        end = self._source.end_offset(state.partition) if self._source else None
        return max(0, (end or 0) - state.next_offset)

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
        return self._committed

    async def _report_lag(self, stop: asyncio.Event) -> None:
        while not await wait_or_stop(1.0, stop):
            self._metrics.progress_age.set(self._health.progress_age_seconds)
            now = time.time()
            for state in list(self._partitions.values()):
                records = self._lag(state)
                oldest = state.queue[0].timestamp_ms if state.queue else state.last_timestamp_ms
                waited = now - oldest / 1000 if records and oldest > 0 else 0.0
                self._metrics.set_lag(*state.partition, records=records, seconds=waited)

    async def _mirror_offsets(self, source: EventSource, stop: asyncio.Event) -> None:
        mirrored: Mapping[TopicPartition, int] = {}
        while not await wait_or_stop(self._settings.offset_mirror_seconds, stop):
            positions = self.positions
            if positions != mirrored:
                await source.mirror(positions)
                mirrored = positions


def refused_letter(delivery: Delivery, item: Item, sqlstate: str) -> DeadLetter:
    """Make the dead letter of a record whose rows Postgres cannot hold."""
    return DeadLetter(
        offset=delivery.offset,
        reason=f"db.{sqlstate}",
        detail="Postgres refused the rows of this record",
        observed_at=item.observed_at,
        key=delivery.key,
        value=delivery.value,
        headers=delivery.headers,
    )
