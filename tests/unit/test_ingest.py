"""The ingest flow over the in-memory store and source: nothing lost, nothing doubled."""

import asyncio
import json
import math
import threading
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from contextlib import asynccontextmanager, suppress

import pytest
from prometheus_client import CollectorRegistry

from newsloom.adapters.memory import MemoryStore
from newsloom.adapters.memory_source import MemoryLog, MemorySource
from newsloom.backfill import BackfillGate
from newsloom.core.batch import BatchReport, DeadLetter, Observation
from newsloom.decoding import Decoded, decode_deliveries
from newsloom.errors import Unavailable
from newsloom.health import Health
from newsloom.ingest import Ingest
from newsloom.metrics import Metrics
from newsloom.partition_owner import (
    STRIKES_FOR_CARE,
    STRIKES_FOR_DEATH,
    Decoder,
    PartitionOwner,
)
from newsloom.ports import Batch, BatchRefused, Claim, Delivery, TopicPartition, Unreadable
from newsloom.settings import IngestSettings

ONE, TWO = TopicPartition("articles", 0), TopicPartition("articles", 1)
SETTINGS = IngestSettings(
    max_batch_records=10,
    poll_timeout_seconds=0.02,
    backoff_base_seconds=0.005,
    backoff_cap_seconds=0.01,
    offset_mirror_seconds=0.05,
    drain_seconds=1,
)


class Store(MemoryStore):
    """The in-memory store, with faults to order and a record of what was applied."""

    def __init__(self) -> None:
        super().__init__()
        self.applied: list[tuple[TopicPartition, int]] = []
        self.transactions = 0
        self.claims = 0
        self.before_apply: Callable[[Batch], None] = lambda _: None
        self.before_claim: Callable[[TopicPartition], None] = lambda _: None

    def letters(self) -> list[DeadLetter]:
        return list(self.dead_letters.values())

    def parked_reason(self, partition: TopicPartition) -> str | None:
        position = self.positions.get(partition)
        return position.parked_reason if position else None

    def fence(self, partition: TopicPartition) -> None:
        """Do what another owner's claim does."""
        self.positions[partition].owner_epoch += 1

    async def claim(
        self,
        partition: TopicPartition,
        owner_id: str,
        first_offset: int,
        *,
        after_error: bool = False,
    ) -> Claim:
        self.before_claim(partition)
        self.claims += 1
        return await super().claim(partition, owner_id, first_offset, after_error=after_error)

    async def apply(self, batch: Batch) -> BatchReport:
        self.transactions += 1
        self.before_apply(batch)
        report = await super().apply(batch)
        self.applied += [(batch.partition, item.offset) for item in batch.items]
        return report


class Killed(BaseException):
    """Stands for SIGKILL: nothing that the process would still do on its way out counts."""


class Rig:
    """One ingest over memory. `drained` waits until all that the log holds has been applied."""

    def __init__(
        self,
        log: MemoryLog,
        store: Store,
        *,
        settings: IngestSettings = SETTINGS,
        decode: Decoder = decode_deliveries,
        backfill: str | None = None,
    ) -> None:
        self.log, self.store = log, store
        self.registry = CollectorRegistry()
        self.health = Health(needs=("postgres",), owns_partitions=True, stall_after_seconds=60)
        metrics = Metrics(self.registry)
        owner = PartitionOwner(
            store=store,
            decode=decode,
            settings=settings,
            metrics=metrics,
            health=self.health,
            owner_id="me",
            jitter=lambda: 1.0,
        )
        gate = BackfillGate(backfill, ONE.topic, store=store, metrics=metrics) if backfill else None
        self.ingest = Ingest(
            owner, settings=settings, metrics=metrics, health=self.health, backfill=gate
        )
        self.source = MemorySource(log, self.ingest)
        self.stop = asyncio.Event()

    async def drained(self) -> None:
        await eventually(self.ingest.is_idle)

    async def parked(self, partition: TopicPartition) -> str | None:
        async def is_parked() -> bool:
            return self.store.parked_reason(partition) is not None

        await eventually(is_parked)
        return self.store.parked_reason(partition)


async def eventually(condition: Callable[[], Awaitable[bool]]) -> None:
    async with asyncio.timeout(5):
        while not await condition():  # noqa: ASYNC110 - what is waited for has no event
            await asyncio.sleep(0.005)


@asynccontextmanager
async def running(rig: Rig, partitions: Sequence[TopicPartition] = (ONE,)) -> AsyncIterator[Rig]:
    async with asyncio.TaskGroup() as tasks:
        tasks.create_task(rig.ingest.run(rig.source, rig.stop))
        await asyncio.sleep(0)
        rig.source.assign(partitions)
        yield rig
        rig.stop.set()


def value(number: int) -> bytes:
    return json.dumps(
        {"title": f"Headline {number}", "originalUrl": f"https://outlet.example/{number}"}
    ).encode()


def filled(*counts: int) -> MemoryLog:
    log = MemoryLog()
    for partition, count in zip((ONE, TWO), counts, strict=False):
        for number in range(count):
            log.append(partition, value(partition.partition * 1_000_000 + number))
    return log


def offsets(store: Store, partition: TopicPartition) -> list[int]:
    return [offset for held, offset in store.applied if held == partition]


async def test_every_delivery_is_applied_once_and_in_offset_order() -> None:
    rig = Rig(filled(35, 12), Store())
    async with running(rig, (ONE, TWO)):
        await rig.drained()
    assert offsets(rig.store, ONE) == list(range(35))
    assert offsets(rig.store, TWO) == list(range(12))
    assert rig.ingest.committed == 47


async def test_records_that_a_failing_poll_swallowed_are_fetched_again() -> None:
    rig = Rig(filled(30, 30), Store())
    for _ in range(3):
        rig.source.fail_next_poll(Unreadable("CorruptRecordException"))
    async with running(rig, (ONE, TWO)):
        await rig.drained()
    assert offsets(rig.store, ONE) == list(range(30))
    assert offsets(rig.store, TWO) == list(range(30))


async def test_a_partition_that_stays_unreadable_parks_and_the_other_goes_on(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    log = filled(5, 25)
    rig = Rig(log, Store())
    poll = rig.source.poll

    async def poisoned(
        partitions: Sequence[TopicPartition], timeout_seconds: float, max_records: int
    ) -> Mapping[TopicPartition, Sequence[Delivery]]:
        if ONE in partitions and rig.store.claims >= 2:
            with suppress(Unreadable):
                await poll(partitions, 0, max_records)
            raise Unreadable("UnicodeDecodeError")
        return await poll(partitions, timeout_seconds, max_records)

    monkeypatch.setattr(rig.source, "poll", poisoned)
    async with running(rig, (ONE, TWO)):
        assert await rig.parked(ONE) == "kafka.unreadable"

        async def other_is_through() -> bool:
            return len(offsets(rig.store, TWO)) == 25

        await eventually(other_is_through)
    assert not rig.health.ready().ok


async def test_all_before_an_unreadable_record_is_stored_and_the_position_is_upon_it() -> None:
    rig = Rig(filled(37, 25), Store())
    rig.source = Unparsable(rig.log, rig.ingest, ONE, 33)
    async with running(rig, (ONE, TWO)):
        assert await rig.parked(ONE) == "kafka.unreadable"
        assert rig.store.positions[ONE].next_offset == 33
        assert offsets(rig.store, ONE) == list(range(33))


class Unparsable(MemorySource):
    """Like aiokafka before a record that its parser cannot take.

    Good records of the same poll are lost to it; asked for one at a time, they come, and then it
    raises with the position upon the bad one.
    """

    def __init__(
        self, log: MemoryLog, ingest: Ingest, partition: TopicPartition, offset: int
    ) -> None:
        super().__init__(log, ingest)
        self.bad = partition, offset

    async def poll(
        self, partitions: Sequence[TopicPartition], timeout_seconds: float, max_records: int
    ) -> Mapping[TopicPartition, Sequence[Delivery]]:
        fetched = await super().poll(partitions, timeout_seconds, max_records)
        partition, offset = self.bad
        if any(delivery.offset == offset for delivery in fetched.get(partition, ())):
            raise Unreadable("UnicodeDecodeError")
        return fetched


async def test_a_rebalance_in_the_middle_neither_loses_nor_repeats() -> None:
    rig = Rig(filled(200), Store())
    async with running(rig):
        for _ in range(5):
            await asyncio.sleep(0.01)
            await rig.source.revoke()
            rig.source.assign((ONE,))
        await rig.drained()
    assert offsets(rig.store, ONE) == list(range(200))


async def test_a_poll_that_fails_after_a_rebalance_costs_the_new_claim_nothing() -> None:
    log = MemoryLog()
    rig = Rig(log, Store(), settings=SETTINGS.model_copy(update={"poll_timeout_seconds": 2}))
    async with running(rig):
        await rig.drained()
        # The poll that is under way was begun for the old assignment, and sees the new one fail.
        await rig.source.revoke()
        rig.source.assign((ONE,))

        async def claimed() -> bool:
            return ONE in rig.ingest.positions

        await eventually(claimed)
        for number in range(5):
            log.append(ONE, value(number))
        rig.source.fail_next_poll(Unreadable("CorruptRecordException"))
        await asyncio.sleep(0.05)
        log.append(ONE, value(5))

        async def all_came() -> bool:  # `drained` knows only what the last fetch saw
            return len(offsets(rig.store, ONE)) >= 6

        await eventually(all_came)
    assert offsets(rig.store, ONE) == list(range(6))


async def test_an_owner_that_was_fenced_claims_again_and_goes_on() -> None:
    log, store = filled(50), Store()
    rig = Rig(log, store)
    fences = iter([True, False, True])

    def another_claims(batch: Batch) -> None:
        if next(fences, False):
            store.fence(batch.partition)

    store.before_apply = another_claims
    async with running(rig):
        await rig.drained()
    assert offsets(store, ONE) == list(range(50))
    assert rig.registry.get_sample_value("newsloom_fenced_total") == 2


async def test_an_outage_of_the_store_is_waited_out_without_dead_letters() -> None:
    rig = Rig(filled(40), Store())
    outages = iter(["08006", "53100", "25006", "57P01", "55P03"] * 3)

    def away(_: object) -> None:
        if (code := next(outages, None)) is not None:
            raise Unavailable("postgres", code)

    rig.store.before_apply = away
    async with running(rig):
        await rig.drained()
        assert rig.health.ready().ok
    assert offsets(rig.store, ONE) == list(range(40))
    assert rig.store.letters() == []


async def test_readiness_goes_off_while_the_store_is_away_and_liveness_stays() -> None:
    rig = Rig(filled(3), Store())
    away = True

    def refuse(_: object) -> None:
        if away:
            raise Unavailable("postgres", "42501", systemic=True)

    rig.store.before_claim = refuse
    async with running(rig):
        await asyncio.sleep(0.05)
        assert not rig.health.ready().ok
        assert rig.health.live().ok
        away = False
        await rig.drained()
        assert rig.health.ready().ok


@pytest.mark.parametrize("position", [0, 4, 9], ids=["first", "middle", "last"])
async def test_one_record_that_the_store_refuses_becomes_the_only_dead_letter(
    position: int,
) -> None:
    rig = Rig(filled(10), Store())

    def refuse(batch: Batch) -> None:
        if any(i.offset == position and isinstance(i, Observation) for i in batch.items):
            raise BatchRefused("22021")

    rig.store.before_apply = refuse
    async with running(rig):
        await rig.drained()
    letters = rig.store.letters()
    assert [(letter.offset, letter.reason) for letter in letters] == [(position, "db.22021")]
    assert letters[0].value == value(position)
    assert offsets(rig.store, ONE) == list(range(10))
    assert rig.store.transactions <= 1 + 2 * math.ceil(math.log2(10)) + 2


async def test_undecodable_deliveries_become_dead_letters_between_their_neighbours() -> None:
    log = filled(2)
    log.append(ONE, None)
    log.append(ONE, b"\xff\xfe")
    log.append(ONE, b'{"name": "A Person", "bio": "writes"}')
    log.append(ONE, value(7))
    rig = Rig(log, Store())
    async with running(rig):
        await rig.drained()
    reasons = {letter.offset: letter.reason for letter in rig.store.letters()}
    assert reasons == {2: "kafka.tombstone", 3: "decode.utf8", 4: "not-an-article"}
    assert offsets(rig.store, ONE) == list(range(6))


async def test_unread_records_deleted_from_the_log_park_the_partition() -> None:
    log, store = filled(10), Store()
    await store.claim(ONE, "earlier", 0)
    log.starts[ONE] = 5
    log.records[ONE] = log.records[ONE][5:]
    rig = Rig(log, store)
    async with running(rig):
        assert await rig.parked(ONE) == "offset.gap"
    assert store.applied == []


async def test_a_log_that_ends_below_the_position_parks_the_partition() -> None:
    store = Store()
    async with running(Rig(filled(10), store)) as rig:
        await rig.drained()
    rig = Rig(filled(4), store)
    async with running(rig):
        assert await rig.parked(ONE) == "offset.past_end"


async def test_bounds_that_are_older_than_the_claim_park_nothing(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    store, log = Store(), filled(10)
    async with running(Rig(log, store)) as rig:
        await rig.drained()
    for number in range(10, 15):
        log.append(ONE, value(number))
    rig = Rig(log, store)
    asked = 0
    bounds = rig.source.bounds

    async def slow_to_learn(
        partitions: Sequence[TopicPartition],
    ) -> Mapping[TopicPartition, tuple[int, int]]:
        nonlocal asked
        asked += 1
        return await bounds(partitions) if asked > 2 else {ONE: (0, 4)}

    monkeypatch.setattr(rig.source, "bounds", slow_to_learn)
    async with running(rig):
        await rig.drained()
    assert offsets(store, ONE) == list(range(15))
    assert store.parked_reason(ONE) is None


async def test_a_kafka_topic_made_anew_with_more_records_parks_the_partition() -> None:
    store = Store()
    async with running(Rig(filled(10), store)) as rig:
        await rig.drained()
    other = MemoryLog()
    for number in range(30):
        other.append(ONE, value(500 + number))
    rig = Rig(other, store)
    async with running(rig):
        assert await rig.parked(ONE) == "topic.identity"
    assert len(offsets(store, ONE)) == 10


async def test_the_same_log_is_taken_up_where_it_was_left() -> None:
    store, log = Store(), filled(10)
    async with running(Rig(log, store)) as rig:
        await rig.drained()
    for number in range(10, 15):
        log.append(ONE, value(number))
    async with running(Rig(log, store)) as rig:
        await rig.drained()
    assert offsets(store, ONE) == list(range(15))


async def test_stopping_lets_the_transaction_in_flight_end(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    rig = Rig(filled(10), Store())
    apply = rig.store.apply
    began = asyncio.Event()

    async def slow(batch: Batch) -> BatchReport:
        began.set()
        await asyncio.sleep(0.1)
        return await apply(batch)

    monkeypatch.setattr(rig.store, "apply", slow)
    async with running(rig):
        await began.wait()
    assert offsets(rig.store, ONE) == list(range(10))


async def test_positions_are_mirrored_for_lag_tools() -> None:
    rig = Rig(filled(10), Store())
    async with running(rig):
        await rig.drained()
        await asyncio.sleep(0.2)
    assert rig.source.mirrored == {ONE: 10}


async def test_an_error_nobody_expected_ends_the_role() -> None:
    rig = Rig(filled(3), Store())

    def bug(_: object) -> None:
        raise KeyError

    rig.store.before_apply = bug
    with pytest.raises(ExceptionGroup):
        async with running(rig):
            await asyncio.sleep(5)


async def test_too_many_refusals_for_one_reason_park_the_partition() -> None:
    settings = SETTINGS.model_copy(update={"breaker_window_records": 20, "breaker_ratio": 0.5})
    rig = Rig(filled(40), Store(), settings=settings)

    def refuse(batch: Batch) -> None:
        if any(isinstance(item, Observation) for item in batch.items):
            raise BatchRefused("22P02")

    rig.store.before_apply = refuse
    async with running(rig):
        assert await rig.parked(ONE) == "breaker:db.22P02"
    assert len(rig.store.letters()) < 40


async def test_any_amount_of_junk_does_not_stop_the_line() -> None:
    log = MemoryLog()
    for _ in range(100):
        log.append(ONE, b"junk")
    log.append(ONE, value(1))
    settings = SETTINGS.model_copy(update={"breaker_window_records": 20, "breaker_ratio": 0.1})
    rig = Rig(log, Store(), settings=settings)
    async with running(rig):
        await rig.drained()
    assert len(rig.store.letters()) == 100
    assert offsets(rig.store, ONE) == list(range(101))


async def test_the_next_batch_is_decoded_while_the_present_one_is_in_its_transaction() -> None:
    decoding: list[int] = []
    ahead = asyncio.Event()
    loop = asyncio.get_running_loop()

    def decode(deliveries: Sequence[Delivery]) -> Decoded:
        decoding.append(deliveries[0].offset)
        if len(decoding) == 1:
            wait_for_backlog(rig)
        if len(decoding) == 2:
            loop.call_soon_threadsafe(ahead.set)
        return decode_deliveries(deliveries)

    class Slow(Store):
        async def apply(self, batch: Batch) -> BatchReport:
            if batch.expected_offset == 0:
                async with asyncio.timeout(5):
                    await ahead.wait()
                assert decoding == [0, 10], "more than one batch ahead, or none"
                assert self.positions[ONE].is_marked, "it is decoded under the present mark"
            return await super().apply(batch)

    rig = Rig(filled(25), Slow(), decode=decode)
    async with running(rig):
        await rig.drained()
    assert offsets(rig.store, ONE) == list(range(25))
    assert not rig.store.positions[ONE].is_marked


def wait_for_backlog(rig: Rig) -> None:
    """Wait, in a decoding thread, until a whole batch more is queued."""
    deadline = time.monotonic() + 5
    while len(rig.ingest._partitions[ONE].queue) < SETTINGS.max_batch_records:
        assert time.monotonic() < deadline
        time.sleep(0.001)


async def test_what_was_decoded_ahead_is_dropped_by_a_new_claim() -> None:
    log, store = filled(40), Store()

    def decode(deliveries: Sequence[Delivery]) -> Decoded:
        if deliveries[0].offset < 20:
            wait_for_backlog(rig)
        return decode_deliveries(deliveries)

    rig = Rig(log, store, decode=decode)
    was_ahead: list[bool] = []

    def another_claims(batch: Batch) -> None:
        was_ahead.append(batch.marks_next)
        if batch.expected_offset == 10 and store.claims == 1:
            store.fence(batch.partition)

    store.before_apply = another_claims
    async with running(rig):
        await rig.drained()
    assert was_ahead[:2] == [True, True]
    assert offsets(store, ONE) == list(range(40))
    assert store.positions[ONE].strikes == 0


async def test_a_member_that_leaves_alive_takes_the_mark_of_what_it_decodes_with_it() -> None:
    """Also when it is decoding ahead: its successor must not count that as a death."""
    decoding, go_on = threading.Event(), threading.Event()

    def decode(deliveries: Sequence[Delivery]) -> Decoded:
        if deliveries[0].offset:
            decoding.set()
            assert go_on.wait(5)
        else:
            wait_for_backlog(rig)
        return decode_deliveries(deliveries)

    store = Store()
    rig = Rig(filled(40), store, decode=decode)
    async with running(rig):
        assert await asyncio.to_thread(decoding.wait, 5)

        async def first_is_stored() -> bool:
            return store.positions[ONE].next_offset == 10

        await eventually(first_is_stored)
        assert store.positions[ONE].is_marked
        leaving = asyncio.create_task(rig.source.revoke())
        await asyncio.sleep(0.05)
        assert store.positions[ONE].is_marked, "what is being decoded may still kill the process"
        go_on.set()
        await leaving
        assert not store.positions[ONE].is_marked
        assert store.positions[ONE].next_offset == 10


async def test_nothing_is_decoded_ahead_that_memory_has_no_room_for() -> None:
    settings = SETTINGS.model_copy(update={"decode_ahead_bytes": SETTINGS.max_batch_bytes})
    store = Store()

    def decode(deliveries: Sequence[Delivery]) -> Decoded:
        if deliveries[0].offset < 30:
            wait_for_backlog(rig)
        return decode_deliveries(deliveries)

    rig = Rig(filled(50), store, settings=settings, decode=decode)
    ahead: list[bool] = []
    store.before_apply = lambda batch: ahead.append(batch.marks_next)
    async with running(rig):
        await rig.drained()
    assert ahead == [False] * 5
    assert offsets(store, ONE) == list(range(50))


async def test_a_batch_ends_at_its_bytes_and_so_does_what_is_queued() -> None:
    log = MemoryLog()
    for number in range(30):
        log.append(
            ONE,
            json.dumps(
                {"title": f"{number} " + "x" * 1000, "originalUrl": f"https://o.example/{number}"}
            ).encode(),
        )
    log.append(
        ONE, json.dumps({"title": "x" * 9000, "originalUrl": "https://o.example/big"}).encode()
    )
    settings = SETTINGS.model_copy(update={"max_batch_bytes": 3500})
    store = Store()
    rig = Rig(log, store, settings=settings)
    sizes: list[int] = []
    store.before_apply = lambda batch: sizes.append(len(batch.items))
    async with running(rig):
        await rig.drained()
    assert sizes == [3] * 10 + [1]
    assert offsets(store, ONE) == list(range(31))


async def crash(log: MemoryLog, store: Store, deadly: int) -> None:
    """Let a process run until it reads the deadly delivery, and die of it without a word."""

    def decode(deliveries: Sequence[Delivery]) -> Decoded:
        if any(delivery.offset == deadly for delivery in deliveries):
            raise Killed
        return decode_deliveries(deliveries)

    rig = Rig(log, store, decode=decode)
    async with running(rig):
        await rig.drained()


@pytest.mark.parametrize("deadly", [7, 17, 27])
async def test_a_delivery_that_kills_its_process_again_and_again_becomes_a_dead_letter(
    deadly: int,
) -> None:
    """Also when it is decoded while the batch before it is still in its transaction."""
    log, store = filled(40), Store()
    deaths = 0
    while not store.letters():
        assert deaths <= STRIKES_FOR_CARE + STRIKES_FOR_DEATH
        try:
            await crash(log, store, deadly)
        except BaseExceptionGroup:
            deaths += 1
    assert deaths >= STRIKES_FOR_DEATH
    assert [(letter.offset, letter.reason) for letter in store.letters()] == [
        (deadly, "crash.loop")
    ]
    assert offsets(store, ONE) == list(range(40))


async def test_a_death_while_decoding_ahead_counts_though_nothing_was_committed_yet() -> None:
    """The batch before the deadly one is then read by itself, and the deadly one after it."""
    log, store = filled(40), Store()

    class Dying(Store):
        async def apply(self, _batch: Batch) -> BatchReport:
            await super().claim(ONE, "successor", 0)
            raise Killed

    dying = Dying()
    dying.positions = store.positions

    def decode(deliveries: Sequence[Delivery]) -> Decoded:
        wait_for_backlog(rig)
        return decode_deliveries(deliveries)

    rig = Rig(log, dying, decode=decode)
    with pytest.raises(BaseExceptionGroup):
        async with running(rig):
            await rig.drained()
    assert store.positions[ONE].strikes == 1
    begun: list[tuple[int, bool]] = []

    def first_waits(rig: Rig, deliveries: Sequence[Delivery]) -> Decoded:
        if deliveries[0].offset == 0:
            wait_for_backlog(rig)
        return decode_deliveries(deliveries)

    store.before_apply = lambda batch: begun.append((batch.expected_offset, batch.marks_next))
    successor = Rig(log, store, decode=lambda found: first_waits(successor, found))
    async with running(successor):
        await successor.drained()
    assert begun[0] == (0, False), "a strike has to count against what lies at the position"
    assert offsets(store, ONE) == list(range(40))


async def test_with_nothing_to_fetch_the_client_is_still_polled_before_it_takes_us_for_dead() -> (
    None
):
    """The client leaves the group after the longest time between polls, however full we are."""
    store = Store()
    store.before_claim = away
    limits = {"max_poll_interval_seconds": 0.6, "poll_timeout_seconds": 0.01}
    async with running(Rig(filled(1), store, settings=SETTINGS.model_copy(update=limits))) as rig:
        poll, polls = rig.source.poll, []

        async def noted(
            partitions: Sequence[TopicPartition], timeout_seconds: float, max_records: int
        ) -> Mapping[TopicPartition, Sequence[Delivery]]:
            polls.append(list(partitions))
            return await poll(partitions, timeout_seconds, max_records)

        rig.source.poll = noted  # type: ignore[method-assign]

        async def polled() -> bool:
            return len(polls) >= 2

        await eventually(polled)
        assert polls[:2] == [[], []]


def away(_: TopicPartition) -> None:
    raise Unavailable("postgres", "08006")


async def test_bulk_imports_wait_until_nothing_live_waits_and_then_go_in_small_batches(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("newsloom.ingest.LOOK_SECONDS", 0.02)
    monkeypatch.setattr("newsloom.partition_owner.BACKFILL_BATCH_RECORDS", 4)
    bulk = TopicPartition("bulk", 0)
    log, store = filled(200), Store()
    for number in range(10):
        log.append(bulk, value(5_000_000 + number))
    rig = Rig(log, store, backfill=bulk.topic)
    async with running(rig, (ONE, bulk)):
        await rig.drained()
    places = [partition for partition, _ in store.applied]
    assert places == [ONE] * 200 + [bulk] * 10
    assert offsets(store, bulk) == list(range(10))
    assert store.transactions == 20 + 3
    assert rig.registry.get_sample_value("newsloom_end_to_end_seconds_count") == 200
    lag = "newsloom_consumer_lag_records"
    assert rig.registry.get_sample_value(lag, {"topic": "bulk", "partition": "0"}) is None


async def test_bulk_imports_wait_for_live_partitions_that_are_somebody_elses(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("newsloom.ingest.LOOK_SECONDS", 0.02)
    bulk = TopicPartition("bulk", 0)
    log, store = filled(20, 20), Store()
    log.append(bulk, value(5_000_000))
    rig = Rig(log, store, backfill=bulk.topic)
    async with running(rig, (ONE, bulk)):
        await asyncio.sleep(0.3)
        assert offsets(store, ONE) == list(range(20))
        assert offsets(store, bulk) == []
        assert rig.registry.get_sample_value("newsloom_backfill_held") == 1
        assert rig.registry.get_sample_value("newsloom_backfill_waiting_records") is not None
        claim = await store.claim(TWO, "another process", 0)
        assert claim.next_offset == 0
        store.positions[TWO].next_offset = 20
        await rig.drained()
        assert offsets(store, bulk) == [0]
        assert rig.registry.get_sample_value("newsloom_backfill_held") == 0


async def test_bulk_imports_wait_while_the_store_cannot_tell(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("newsloom.ingest.LOOK_SECONDS", 0.02)
    bulk = TopicPartition("bulk", 0)
    log, store = filled(0), Store()
    log.append(bulk, value(5_000_000))
    is_away = True
    positions_of = store.positions_of

    async def sometimes(kafka_topic: str) -> dict[TopicPartition, int]:
        if is_away:
            raise Unavailable("postgres", "08006")
        return await positions_of(kafka_topic)

    monkeypatch.setattr(store, "positions_of", sometimes)
    rig = Rig(log, store, backfill=bulk.topic)
    async with running(rig, (bulk,)):
        await asyncio.sleep(0.2)
        assert offsets(store, bulk) == []
        is_away = False
        await rig.drained()
    assert offsets(store, bulk) == [0]


async def test_the_lag_grows_while_nothing_can_be_stored() -> None:
    log, store = filled(3), Store()
    rig = Rig(log, store)
    lag = "newsloom_consumer_lag_records"
    labels = {"topic": ONE.topic, "partition": str(ONE.partition)}

    async def lag_is(records: int) -> bool:
        return rig.registry.get_sample_value(lag, labels) == records

    async with running(rig):
        await rig.drained()
        store.before_claim = away
        store.before_apply = lambda _: away(ONE)
        for number in range(3, 10):
            log.append(ONE, value(number))
        await eventually(lambda: lag_is(7))
        for number in range(10, 20):
            log.append(ONE, value(number))
        await eventually(lambda: lag_is(17))
        store.before_claim, store.before_apply = (lambda _: None), (lambda _: None)
        await rig.drained()
        await eventually(lambda: lag_is(0))


class Unreachable(MemorySource):
    """A source whose brokers can go away: fetches then find nothing, questions get no answer."""

    gone: asyncio.Event | None = None

    async def bounds(
        self, partitions: Sequence[TopicPartition]
    ) -> Mapping[TopicPartition, tuple[int, int]]:
        if self.gone is not None:
            await self.gone.wait()
        return await super().bounds(partitions)


async def test_kafka_that_goes_away_when_all_is_claimed_is_noticed(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("newsloom.ingest.KAFKA_LOOK_SECONDS", 0.01)
    monkeypatch.setattr("newsloom.ingest.KAFKA_PATIENCE_SECONDS", 0.05)
    rig = Rig(filled(5), Store())
    source = rig.source = Unreachable(rig.log, rig.ingest)

    async def ready() -> bool:
        return rig.health.ready().ok

    async def not_ready() -> bool:
        return not rig.health.ready().ok

    async with running(rig):
        await rig.drained()
        assert rig.health.ready().ok
        source.gone = asyncio.Event()
        await eventually(not_ready)
        assert rig.health.ready().reasons == ("kafka is not usable (TimeoutError)",)
        source.gone.set()
        await eventually(ready)
