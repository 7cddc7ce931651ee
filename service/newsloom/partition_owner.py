"""What is done with one partition while it is ours: claim, decode, store, halve, park.

The order of effects is told in `newsloom.ingest`; this is where it happens.
"""

import asyncio
import logging
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass

from newsloom.backoff import delays, wait_or_stop
from newsloom.core.batch import BatchReport, DeadLetter, Item
from newsloom.core.event import observed_time
from newsloom.decoding import Decoded
from newsloom.errors import RejectReason, Unavailable
from newsloom.health import Health
from newsloom.metrics import Metrics, Stage
from newsloom.partitions import (
    BatchLimit,
    Parked,
    Partition,
    anchor_of,
    position_problem,
    seek,
    size_of,
)
from newsloom.ports import (
    ArticleStore,
    Batch,
    BatchRefused,
    Claim,
    Delivery,
    EventSource,
    Fenced,
    PositionLost,
    ReceiptSender,
)
from newsloom.receipts import receipts_of
from newsloom.settings import IngestSettings

logger = logging.getLogger(__name__)

PARKED_RECHECK_SECONDS = 5.0
"""How often a parked partition's row is looked at again, for an operator's way out."""

BOUNDS_WAITS_SECONDS = (0.0, 0.5, 1.5)
"""Waits before a position that does not fit the log is compared with it again, each time anew."""

BACKFILL_BATCH_RECORDS = 100
"""Most deliveries of one transaction of a bulk import: what is live waits no longer than that."""

STRIKES_FOR_CARE = 3
"""From so many crashes at one position on, each delivery gets a transaction of its own."""

STRIKES_FOR_DEATH = 6
"""After so many, the delivery at that position becomes a dead letter, unread."""

PROBE_CAP_SECONDS = 3.0
"""Longest wait between two tries to claim: recovery is bounded by it."""


@dataclass(frozen=True, slots=True, eq=False)
class _Begun:
    """A batch that has been marked and is being decoded, in a thread."""

    deliveries: Sequence[Delivery]
    items: asyncio.Future[Sequence[Item]]
    size: int = 0
    """What the values take, bytes."""


Decoder = Callable[[Sequence[Delivery]], Decoded]
"""Pure and total: bad deliveries become dead letters. Runs in a thread, off the event loop."""


class PartitionOwner:
    """Works on one partition at a time, one task for each; holds what they all share.

    `progressed` is set whenever a queue may have got room.
    """

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
        receipts: ReceiptSender | None = None,
    ) -> None:
        self._store = store
        self._receipts = receipts
        self._decode = decode
        self._settings = settings
        self._metrics = metrics
        self._health = health
        self._owner_id = owner_id
        self._jitter = jitter
        self._at_work: set[_Begun] = set()
        self.progressed = asyncio.Event()
        self.committed = 0

    async def own(self, state: Partition, source: EventSource) -> None:
        """Claim, apply what arrives, and claim again after anything that leaves doubt."""
        waits = self._waits()
        while not state.is_revoked:
            try:
                await self._claim(state, source)
                waits = self._waits()
                await self._work(state)
            except Fenced:
                self._metrics.fenced.inc()
                logger.info("fenced", extra={"partition": state.partition.partition})
                await self._hold(state, next(waits))
            except PositionLost:
                await self._hold(state, next(waits))
            except Unavailable as error:
                self.note_unavailable(error)
                await self._hold(state, next(waits))
            except Parked as parked:
                await self._park(state, parked.reason)
        state.is_ready = False
        await self._unmark(state)
        state.quiet.set()

    async def _claim(self, state: Partition, source: EventSource) -> None:
        """Take over the stored position, check it against the log, and start fetching there."""
        state.interruption, state.anchor, state.seen_end = None, None, 0
        state.drop_queue()
        bounds = await source.bounds([state.partition])
        self.note_usable("kafka")
        start, _ = bounds[state.partition]
        claim = await self._store.claim(
            state.partition, self._owner_id, start, after_error=state.is_marked
        )
        state.is_marked, state.strikes = False, claim.strikes
        self.note_usable("postgres")
        state.epoch, state.incarnation = claim.epoch, claim.incarnation
        state.next_offset = state.fetch_offset = claim.next_offset
        if state.strikes >= STRIKES_FOR_CARE:
            state.careful_until = state.next_offset + self._settings.max_batch_records
        problem = position_problem(claim, *bounds[state.partition])
        if problem is not None and claim.parked_reason is None:
            problem = await self._lasting_problem(state, source, claim)
        if reason := claim.parked_reason or problem:
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
        seek(source, state)
        self.progressed.set()

    async def _lasting_problem(
        self, state: Partition, source: EventSource, claim: Claim
    ) -> str | None:
        """Ask for the log's bounds again before a person has to come.

        The first ones are older than the claim: while it waited, another owner may have gone past
        them. And a broker that has just taken the partition over may not know yet where it ends.
        """
        problem: str | None = None
        for seconds in BOUNDS_WAITS_SECONDS:
            await self._hold(state, seconds)
            bounds = await source.bounds([state.partition])
            problem = position_problem(claim, *bounds[state.partition])
            if problem is None:
                break
        return problem

    async def _work(self, state: Partition) -> None:
        """Apply what arrives, batch by batch, until the partition is revoked.

        While a batch is in its transaction the next one is decoded, if it is there as a whole. It
        needs no mark of its own: until COMMIT that of the present batch stands in the row, from
        then on the one that COMMIT itself has set.
        """
        begun = ahead = None
        try:
            while begun := ahead or await self._begin(state):
                ahead = None
                items = await begun.items
                ahead = self._begin_ahead(state)
                await self._apply(state, begun.deliveries, items, marks_next=ahead is not None)
                del items  # or they would stay until the next ones are there
                self._at_work.discard(begun)
                self.progressed.set()
        except Exception:
            # What a thread decodes may still kill us: the mark stands until it has ended.
            for running in (begun, ahead):
                if running is not None:
                    await asyncio.wait([running.items])
                    self._at_work.discard(running)
            state.quiet.set()
            raise

    async def _begin(self, state: Partition) -> "_Begun | None":
        """Wait for deliveries, mark and decode them; None when the partition has been revoked.

        A crash leaves the mark for the next owner to count.
        """
        deliveries = await state.take(self._batch_limit(state))
        if not deliveries:
            return None
        state.quiet.clear()
        await self._store.mark(state.partition, state.epoch, started=True)
        state.is_marked = True
        if state.strikes >= STRIKES_FOR_DEATH:
            return _Begun(deliveries, _ready([crash_loop_letter(deliveries[0])]))
        return self._decoding(deliveries)

    def _begin_ahead(self, state: Partition) -> "_Begun | None":
        """Begin the batch behind the one whose transaction comes now, if there is a backlog.

        Not after a crash: a strike has to count against what lies at the position.
        """
        if state.is_backfill or state.strikes or state.next_offset < state.careful_until:
            return None
        limit = self._batch_limit(state)
        at_work = sum(begun.size for begun in self._at_work)
        if at_work + limit.bytes > self._settings.decode_ahead_bytes:
            return None
        deliveries = state.take_full(limit)
        return self._decoding(deliveries) if deliveries else None

    def _decoding(self, deliveries: Sequence[Delivery]) -> "_Begun":
        size = sum(map(size_of, deliveries))
        begun = _Begun(deliveries, asyncio.ensure_future(self._decoded(deliveries)), size)
        self._at_work.add(begun)
        self.progressed.set()  # the queue has room, and the batch after this one is wanted soon
        return begun

    async def _apply(
        self,
        state: Partition,
        deliveries: Sequence[Delivery],
        items: Sequence[Item],
        *,
        marks_next: bool,
    ) -> None:
        """Store a batch, unless the partition has been revoked."""
        if state.is_revoked:
            return
        await self._store_batch(state, deliveries, items, marks_next=marks_next)
        state.is_marked, state.strikes = marks_next, 0
        if not marks_next:
            state.quiet.set()
        self._check_breaker(state)

    async def _decoded(self, deliveries: Sequence[Delivery]) -> Sequence[Item]:
        started = time.perf_counter()
        decoded = await asyncio.to_thread(self._decode, deliveries)
        self._metrics.observe_stage(Stage.DECODE, time.perf_counter() - started)
        self._metrics.observe_parsed(decoded.dropped, decoded.unknown)
        return decoded.items

    def _batch_limit(self, state: Partition) -> BatchLimit:
        settings = self._settings
        most = settings.max_batch_records
        if state.next_offset < state.careful_until:
            most = 1
        elif state.is_backfill:
            most = min(most, BACKFILL_BATCH_RECORDS)
        return BatchLimit(most, settings.max_batch_bytes)

    async def _unmark(self, state: Partition) -> None:
        """Take the mark back when we leave alive: it must not count against a healthy delivery."""
        if state.is_marked:
            with suppress(Unavailable):  # then the next owner counts one strike too many
                await self._store.mark(state.partition, state.epoch, started=False)

    def _check_breaker(self, state: Partition) -> None:
        """Park when the store refuses too much of what comes: a bad release is no bad record."""
        counts = Counter(reason for reason in state.failures if reason is not None)
        limit = self._settings.breaker_ratio * self._settings.breaker_window_records
        for reason, count in counts.items():
            if count > limit:
                state.failures.clear()
                raise Parked(f"breaker:{reason}")

    async def _store_batch(
        self,
        state: Partition,
        deliveries: Sequence[Delivery],
        items: Sequence[Item],
        *,
        marks_next: bool,
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
            marks_next=marks_next,
        )
        try:
            report = await self._store.apply(batch)
        except BatchRefused as refused:
            if len(items) == 1 and isinstance(items[0], DeadLetter):
                raise  # a dead letter that cannot be stored: nothing is left to try
            self._metrics.batch_splits.inc()
            if len(items) == 1:
                letter = refused_letter(deliveries[0], items[0], refused.sqlstate)
                await self._store_batch(state, deliveries, [letter], marks_next=marks_next)
                return
            middle = len(items) // 2
            for half in (slice(middle), slice(middle, None)):
                await self._store_batch(state, deliveries[half], items[half], marks_next=marks_next)
            return
        state.next_offset = batch.next_offset
        self.committed += report.consumed
        self._observe(state, report, deliveries)

    def _observe(
        self, state: Partition, report: BatchReport, deliveries: Sequence[Delivery]
    ) -> None:
        self._health.beat()
        self._metrics.observe_batch(report)
        if self._receipts is not None and (receipts := receipts_of(deliveries, report)):
            self._receipts.tell(receipts)
        state.failures.extend(_failures(report))
        while len(state.failures) > self._settings.breaker_window_records:
            state.failures.popleft()
        if not state.is_backfill:  # those wait on purpose
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
        clock = asyncio.get_running_loop().time
        deadline = clock() + seconds
        while not state.is_revoked and (left := deadline - clock()) > 0:
            state.arrived.clear()
            await wait_or_stop(left, state.arrived)

    def note_usable(self, dependency: str) -> None:
        """Tell health and metrics that a dependency has answered."""
        self._health.usable(dependency)
        self._metrics.set_usable(dependency, usable=True)

    def note_unavailable(self, error: Unavailable) -> None:
        """Tell health, metrics and log that a dependency is away."""
        self._health.away(error.dependency, error.code)
        self._metrics.set_usable(error.dependency, usable=False)
        self._metrics.retry(error.dependency)
        log = logger.error if error.systemic else logger.warning
        log("waiting for a dependency", extra={"dependency": error.dependency, "code": error.code})

    def _waits(self) -> Iterator[float]:
        cap = min(self._settings.backoff_cap_seconds, PROBE_CAP_SECONDS)
        return delays(min(self._settings.backoff_base_seconds, cap), cap, self._jitter)


def _ready(items: Sequence[Item]) -> asyncio.Future[Sequence[Item]]:
    future = asyncio.get_running_loop().create_future()
    future.set_result(items)
    return future


def _failures(report: BatchReport) -> Iterator[str | None]:
    """Yield one entry a delivery: why the store could not take it; None for all others.

    What the validators reject does not count: junk must not stop the line.
    """
    counted = 0
    for reason, count in report.reasons.items():
        if reason.startswith("db.") or reason == RejectReason.CRASH_LOOP:
            counted += count
            yield from [reason] * count
    yield from [None] * (report.consumed - counted)


def crash_loop_letter(delivery: Delivery) -> DeadLetter:
    """Make the dead letter of a delivery that has taken down every process that read it."""
    return DeadLetter(
        offset=delivery.offset,
        reason=RejectReason.CRASH_LOOP.value,
        detail=f"{STRIKES_FOR_DEATH} processes in a row ended while they worked on this delivery",
        observed_at=observed_time(delivery.headers, delivery.timestamp_ms),
        key=delivery.key,
        value=delivery.value,
        headers=delivery.headers,
    )


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
