import asyncio
from collections.abc import AsyncIterator, Sequence
from datetime import UTC, datetime
from typing import Any

import pytest
from prometheus_client import CollectorRegistry

from newsloom.core.batch import Outcome
from newsloom.core.documents import Prepared, event_of
from newsloom.core.event import Event
from newsloom.core.receipts import ReceiptMessage
from newsloom.core.record import Record, record_from_mapping
from newsloom.errors import NotConfirmed, Rejected, RejectReason, Unavailable
from newsloom.metrics import Metrics
from newsloom.ports import Receipt
from newsloom.publisher import Publisher, RecordLike
from newsloom.receipts import ReceiptDesk

NOON = datetime(2024, 2, 3, 12, tzinfo=UTC)


class MemorySink:
    """Keeps events in a list; refuses large ones, and all of them while `away`."""

    def __init__(self) -> None:
        self.batches: list[list[Event]] = []
        self.in_flight = 0
        self.most_in_flight = 0
        self.away = False

    async def send(self, kafka_topic: str, events: Sequence[Event]) -> Sequence[Receipt | Rejected]:
        if self.away:
            raise Unavailable("kafka", "TimeoutError")
        self.in_flight += len(events)
        self.most_in_flight = max(self.most_in_flight, self.in_flight)
        await asyncio.sleep(0.001)
        first = sum(map(len, self.batches))
        self.batches.append(list(events))
        self.in_flight -= len(events)
        return [self._result(kafka_topic, first + n, event) for n, event in enumerate(events)]

    def _result(self, kafka_topic: str, offset: int, event: Event) -> Receipt | Rejected:
        if len(event.value) > 5000:
            return Rejected(RejectReason.KAFKA_OVERSIZE, "too large")
        return Receipt(kafka_topic, 0, offset, event.event_id)

    @property
    def keys(self) -> list[str]:
        return [event.key.decode() for batch in self.batches for event in batch]


@pytest.fixture
def sink() -> MemorySink:
    return MemorySink()


def publisher(sink: MemorySink, max_in_flight_records: int = 1000) -> Publisher:
    return Publisher(sink, now=lambda: NOON, max_in_flight_records=max_in_flight_records)


def record(number: int, **values: object) -> dict[str, object]:
    return {"title": "x", "webUrl": f"https://a.example/{number}", **values}


async def test_a_record_gets_a_receipt_in_every_form_it_may_have(sink: MemorySink) -> None:
    forms: list[RecordLike] = [
        record(1),
        Record(title="x", webUrl="https://a.example/1"),
        "---\ntitle: x\nwebUrl: https://a.example/1\n---\n",
    ]
    receipts = [await publisher(sink).publish(form) for form in forms]
    assert [receipt.offset for receipt in receipts] == [0, 1, 2]
    assert len({receipt.event_id for receipt in receipts}) == 1
    assert receipts[0].kafka_topic == "newsloom.articles.v1"


async def test_the_observed_time_is_now_or_as_given(sink: MemorySink) -> None:
    publishing = publisher(sink)
    await publishing.publish(record(1))
    await publishing.publish(record(1), observed_at=datetime(2020, 1, 1, tzinfo=UTC))
    times = [dict(event.headers)["ce_time"] for batch in sink.batches for event in batch]
    assert times == [b"2024-02-03T12:00:00Z", b"2020-01-01T00:00:00Z"]


@pytest.mark.parametrize(
    "bad", [{"name": "x"}, Record(title="x"), Record(title="x", webUrl="ftp://a"), "no record"]
)
async def test_what_ingest_would_refuse_is_never_sent(
    sink: MemorySink, bad: Record | dict[str, object] | str
) -> None:
    with pytest.raises(Rejected):
        await publisher(sink).publish(bad)
    assert sink.batches == []


async def test_many_calls_at_once_share_batches_and_keep_their_order(sink: MemorySink) -> None:
    publishing = publisher(sink)
    receipts = await asyncio.gather(*(publishing.publish(record(n)) for n in range(300)))
    assert [receipt.offset for receipt in receipts] == list(range(300))
    assert sink.keys == [f"a.example/{n}" for n in range(300)]
    assert len(sink.batches) < 10


async def test_no_more_than_allowed_is_in_flight(sink: MemorySink) -> None:
    publishing = publisher(sink, max_in_flight_records=20)
    await asyncio.gather(*(publishing.publish(record(n)) for n in range(200)))
    assert sink.most_in_flight <= 20
    assert [1 async for _ in publishing.publish_many(record(n) for n in range(200))] == [1] * 200
    assert sink.most_in_flight <= 20


async def test_chunks_of_any_size_share_what_may_be_in_flight(sink: MemorySink) -> None:
    async def chunks() -> AsyncIterator[list[Prepared]]:
        for size in (10, 10, 5, 20, 1, 25, 3):
            parsed = [record_from_mapping(record(n)) for n in range(size)]
            yield [Prepared("", event=event_of(p, observed_at=NOON, source="t")) for p in parsed]

    publishing = publisher(sink, max_in_flight_records=25)
    sizes = [len(results) async for _, results in publishing.publish_prepared(chunks())]
    assert sizes == [10, 10, 5, 20, 1, 25, 3]
    assert sink.most_in_flight == 25


async def test_one_call_that_is_cancelled_leaves_the_others_alone(sink: MemorySink) -> None:
    publishing = publisher(sink)
    calls = [asyncio.create_task(publishing.publish(record(n))) for n in range(3)]
    await asyncio.sleep(0)
    calls[1].cancel()
    results = await asyncio.gather(*calls, return_exceptions=True)
    assert isinstance(results[1], asyncio.CancelledError)
    assert [type(results[n]) for n in (0, 2)] == [Receipt, Receipt]


async def test_when_kafka_is_away_every_waiting_call_hears_of_it(sink: MemorySink) -> None:
    publishing = publisher(sink)
    sink.away = True
    calls = [publishing.publish(record(n)) for n in range(3)]
    results = await asyncio.gather(*calls, return_exceptions=True)
    assert [type(result) for result in results] == [Unavailable] * 3
    sink.away = False
    assert isinstance(await publishing.publish(record(1)), Receipt)


async def test_a_stream_gives_one_result_each_in_order(sink: MemorySink) -> None:
    async def stream() -> AsyncIterator[dict[str, object]]:
        for n in range(250):
            yield {"name": "x"} if n % 50 == 7 else record(n, body="x" * (6000 * (n == 9)))

    results = [result async for result in publisher(sink).publish_many(stream())]
    reasons = {n: r.reason for n, r in enumerate(results) if isinstance(r, Rejected)}
    assert len(results) == 250
    assert reasons == {
        n: RejectReason.KAFKA_OVERSIZE if n == 9 else RejectReason.NOT_AN_ARTICLE
        for n in (7, 9, 57, 107, 157, 207)
    }


async def test_a_stream_is_read_only_as_fast_as_it_is_sent(sink: MemorySink) -> None:
    read = 0

    def endless() -> object:
        nonlocal read
        while True:
            read += 1
            yield record(read)

    results = publisher(sink, max_in_flight_records=50).publish_many(endless())  # type: ignore[arg-type]
    for _ in range(100):
        await anext(results)
    await results.aclose()  # type: ignore[attr-defined]
    assert read <= 100 + 4 * 50


async def test_a_stream_ends_with_the_error_when_kafka_goes_away(sink: MemorySink) -> None:
    results = publisher(sink, max_in_flight_records=10).publish_many(record(n) for n in range(100))
    assert isinstance(await anext(results), Receipt)
    sink.away = True
    with pytest.raises(Unavailable):
        async for _ in results:
            pass


async def test_waiting_until_stored_gives_the_outcome_in_the_order_of_the_deliveries(
    sink: MemorySink,
) -> None:
    desk = ReceiptDesk("me")

    async def opened() -> ReceiptDesk:
        return desk

    both = Publisher(sink, now=lambda: NOON, receipts=opened)
    calls = [asyncio.create_task(both.publish(record(1), wait="stored")) for _ in range(2)]
    while len(sink.keys) < 2:  # noqa: ASYNC110 - the sink has no event
        await asyncio.sleep(0.001)
    event = sink.batches[0][0]
    assert event.headers[-1] == ("newsloom-receipt-to", b"me")
    for offset, outcome in enumerate((Outcome.CREATED, Outcome.UNCHANGED)):
        receipt: dict[str, Any] = {"event_id": event.event_id, "kafka_topic": "t", "partition": 0}
        desk.arrived(ReceiptMessage(**receipt, offset=offset, outcome=outcome))
    assert [(await call).outcome for call in calls] == ["created", "unchanged"]
    assert desk._waiting == {}


async def test_a_receipt_that_does_not_come_is_a_time_out_that_says_where_the_event_is(
    sink: MemorySink,
) -> None:
    desk = ReceiptDesk("me")

    async def opened() -> ReceiptDesk:
        return desk

    waiting = Publisher(sink, now=lambda: NOON, receipts=opened)
    with pytest.raises(NotConfirmed) as caught:
        await waiting.publish(record(1), wait="stored", stored_timeout_seconds=0.02)
    assert isinstance(caught.value.receipt, Receipt)
    assert caught.value.receipt.offset == 0
    assert desk._waiting == {}


async def test_nobody_is_asked_for_a_receipt_unless_one_is_waited_for(sink: MemorySink) -> None:
    receipt = await publisher(sink).publish(record(1))
    assert (receipt.outcome, receipt.reason) == (None, None)
    assert "newsloom-receipt-to" not in dict(sink.batches[0][0].headers)
    with pytest.raises(ValueError, match="receipts"):
        await publisher(sink).publish(record(1), wait="stored")


async def test_every_record_is_counted_once_by_what_became_of_it(sink: MemorySink) -> None:
    metrics = Metrics(CollectorRegistry())
    sender = Publisher(sink, now=lambda: NOON, metrics=metrics)
    await sender.publish(record(1))
    with pytest.raises(Rejected):
        await sender.publish({"title": "no address"})
    with pytest.raises(Rejected):
        await sender.publish(record(2, body="x" * 6000))  # the sink refuses it
    stream: list[RecordLike] = [
        record(3),
        {"title": "no address"},
        record(4, body="x" * 6000),
        record(5),
    ]
    assert len([result async for result in sender.publish_many(stream)]) == 4
    sink.away = True
    with pytest.raises(Unavailable):
        await sender.publish(record(6))

    def value(name: str, **labels: str) -> float | None:
        return metrics.registry.get_sample_value(name, labels)

    counted = {
        result: value("newsloom_published_records_total", result=result)
        for result in ("accepted", "refused", "failed")
    }
    assert counted == {"accepted": 3, "refused": 4, "failed": 1}
    sent = sum(len(e.value) for batch in sink.batches for e in batch if len(e.value) <= 5000)
    assert value("newsloom_published_bytes_total") == sent
    assert value("newsloom_publish_duration_seconds_count") == len(sink.batches)
