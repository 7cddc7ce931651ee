"""Flow 1: records in, events on Kafka out.

The order of effects: a record is validated and identified first, by the same models that ingest
uses; what they refuse is never sent. Then it is sent, and it counts as published when Kafka has
acknowledged it with an offset. A crash in between loses nothing that was reported as published;
sending again gives the same event ids and changes nothing downstream.
"""

import asyncio
import time
from collections import deque
from collections.abc import (
    AsyncIterable,
    AsyncIterator,
    Awaitable,
    Callable,
    Iterable,
    Mapping,
    Sequence,
)
from dataclasses import replace
from datetime import datetime
from typing import Any, Literal

from prometheus_client import CollectorRegistry

from newsloom.core.documents import Prepared, event_of
from newsloom.core.event import DEFAULT_SOURCE, Event
from newsloom.core.receipts import RECEIPT_TO
from newsloom.core.record import (
    Parsed,
    Record,
    record_from_json,
    record_from_mapping,
    record_from_text,
)
from newsloom.errors import NotConfirmed, Rejected, Unavailable
from newsloom.metrics import Metrics, PublishResult
from newsloom.ports import EventSink, Receipt
from newsloom.receipts import ReceiptDesk

DEFAULT_TOPIC = "newsloom.articles.v1"
DEFAULT_STORED_TIMEOUT_SECONDS = 30.0

RecordLike = Record | Mapping[str, Any] | str
"""A `Record`, the same as a mapping with the family's field names, or front matter as text."""

_CHUNK_RECORDS = 100
_MAX_CHUNKS_IN_FLIGHT = 8


class Publisher:
    """Sends records; see `ArticlePublisher`, which is this with a Kafka of its own.

    Holds no more than `max_in_flight_records` at a time: `publish` waits for its turn.
    """

    def __init__(
        self,
        sink: EventSink,
        *,
        now: Callable[[], datetime],
        kafka_topic: str = DEFAULT_TOPIC,
        source: str = DEFAULT_SOURCE,
        max_in_flight_records: int = 1000,
        receipts: Callable[[], Awaitable[ReceiptDesk]] | None = None,
        metrics: Metrics | None = None,
    ) -> None:
        self._sink = sink
        self._open_receipts = receipts
        self._metrics = metrics or Metrics(CollectorRegistry())
        self._now = now
        self._kafka_topic = kafka_topic
        self._source = source
        self._chunk = min(_CHUNK_RECORDS, max_in_flight_records)
        self._in_flight = max_in_flight_records
        self._slots = asyncio.Semaphore(max_in_flight_records)
        self._waiting: deque[tuple[Event, asyncio.Future[Receipt | Rejected]]] = deque()
        self._pump: asyncio.Task[None] | None = None

    async def publish(
        self,
        record: RecordLike,
        *,
        observed_at: datetime | None = None,
        wait: Literal["acknowledged", "stored"] = "acknowledged",
        stored_timeout_seconds: float = DEFAULT_STORED_TIMEOUT_SECONDS,
    ) -> Receipt:
        """Send one record and return its receipt once Kafka has acknowledged it.

        `observed_at` (aware; default: now) decides which version of an article is the newest.
        Raises `Rejected` for what ingest would refuse (its `problems` list every finding),
        `Unavailable` when Kafka does not acknowledge in time. Many calls at once share batches.

        `wait="stored"` goes on waiting until ingest tells what became of it: the receipt then has
        an `outcome` (`rejected`: and a `reason`). Raises `NotConfirmed` when no word comes within
        `stored_timeout_seconds` of the acknowledgement; the event is in Kafka all the same.
        """
        event = self._checked(record, observed_at)
        if wait == "acknowledged":
            return await self._acknowledged(event)
        if self._open_receipts is None:
            raise ValueError('wait="stored" needs a publisher that can receive receipts')
        desk = await self._open_receipts()
        event = replace(event, headers=[*event.headers, (RECEIPT_TO, desk.address)])
        with desk.expecting(event.event_id) as stored:
            receipt = await self._acknowledged(event)
            try:
                async with asyncio.timeout(stored_timeout_seconds):
                    told = await stored
            except TimeoutError:
                raise NotConfirmed(receipt) from None
        return replace(receipt, outcome=told.outcome.value, reason=told.reason)

    async def _acknowledged(self, event: Event) -> Receipt:
        async with self._slots:
            future: asyncio.Future[Receipt | Rejected]
            future = asyncio.get_running_loop().create_future()
            self._waiting.append((event, future))
            if self._pump is None or self._pump.done():
                self._pump = asyncio.create_task(self._drain(), name="publish")
            result = await future
        if isinstance(result, Rejected):
            raise result
        return result

    async def publish_many(
        self, records: Iterable[RecordLike] | AsyncIterable[RecordLike]
    ) -> AsyncIterator[Receipt | Rejected]:
        """Send a stream of any length with bounded memory; yield one result each, in order.

        A record that is refused gives its `Rejected` and the stream goes on. Raises `Unavailable`
        as `publish` does; what was yielded before it is durable.
        """
        chunks = _chunked(records, self._chunk)
        async for prepared, results in self.publish_prepared(self._prepared(chunks)):
            for result in results:
                yield result
            del prepared

    async def publish_prepared(
        self, chunks: AsyncIterable[Sequence[Prepared]]
    ) -> AsyncIterator[tuple[Sequence[Prepared], Sequence[Receipt | Rejected]]]:
        """Send documents prepared elsewhere; yield each chunk with its results, in order."""
        running: deque[tuple[Sequence[Prepared], asyncio.Task[Sequence[Receipt | Rejected]]]]
        running = deque()
        records = 0
        try:
            async for chunk in chunks:
                while running and (
                    records + len(chunk) > self._in_flight or len(running) >= _MAX_CHUNKS_IN_FLIGHT
                ):
                    oldest, task = running[0]
                    results = await task
                    running.popleft()
                    records -= len(oldest)
                    yield oldest, results
                running.append((chunk, asyncio.create_task(self._send(chunk))))
                records += len(chunk)
            while running:
                oldest, task = running[0]
                results = await task
                running.popleft()
                yield oldest, results
        finally:
            for _, task in running:
                task.cancel()
            await asyncio.gather(*(task for _, task in running), return_exceptions=True)

    async def _prepared(
        self, chunks: AsyncIterable[Sequence[RecordLike]]
    ) -> AsyncIterator[Sequence[Prepared]]:
        async for chunk in chunks:
            yield await asyncio.to_thread(self._prepare_chunk, chunk)

    def _prepare_chunk(self, chunk: Sequence[RecordLike]) -> Sequence[Prepared]:
        prepared = []
        for record in chunk:
            try:
                prepared.append(Prepared("", event=self._event(record, None)))
            except Rejected as rejected:
                prepared.append(Prepared("", rejected=rejected))
        return prepared

    def _event(self, record: RecordLike, observed_at: datetime | None) -> Event:
        return event_of(
            _parsed(record), observed_at=observed_at or self._now(), source=self._source
        )

    def _checked(self, record: RecordLike, observed_at: datetime | None) -> Event:
        try:
            return self._event(record, observed_at)
        except Rejected:
            self._metrics.published(PublishResult.REFUSED)
            raise

    async def _send(self, chunk: Sequence[Prepared]) -> Sequence[Receipt | Rejected]:
        events = [prepared.event for prepared in chunk if prepared.event is not None]
        self._metrics.published(PublishResult.REFUSED, len(chunk) - len(events))
        receipts = iter(await self._deliver(events) if events else ())
        return [prepared.rejected or next(receipts) for prepared in chunk]

    async def _deliver(self, events: Sequence[Event]) -> Sequence[Receipt | Rejected]:
        """Hand events to Kafka and count what it said. A cancelled one has no result to count."""
        started = time.perf_counter()
        try:
            results = await self._sink.send(self._kafka_topic, events)
        except Unavailable:
            self._metrics.published(PublishResult.FAILED, len(events))
            raise
        self._metrics.publish_duration.observe(time.perf_counter() - started)
        kept = [
            event
            for event, result in zip(events, results, strict=True)
            if isinstance(result, Receipt)
        ]
        self._metrics.published(PublishResult.ACCEPTED, len(kept))
        self._metrics.published(PublishResult.REFUSED, len(events) - len(kept))
        self._metrics.published_bytes.inc(sum(len(event.value) for event in kept))
        return results

    async def _drain(self) -> None:
        """Send all that waits at once: the longer Kafka takes, the fuller the batches."""
        while self._waiting:
            batch = [self._waiting.popleft() for _ in range(len(self._waiting))]
            results: Sequence[Receipt | Rejected | BaseException]
            try:
                results = await self._deliver([event for event, _ in batch])
            except BaseException as error:  # noqa: BLE001 - handed to those who wait for it
                results = [error] * len(batch)
            for (_, future), result in zip(batch, results, strict=True):
                if future.done():
                    continue  # its caller was cancelled meanwhile; the event may be stored
                if isinstance(result, Receipt | Rejected):
                    future.set_result(result)
                else:
                    future.set_exception(result)


def _parsed(record: RecordLike) -> Parsed:
    if isinstance(record, str):
        return record_from_text(record)
    if isinstance(record, Record):
        # Built by hand it may hold what only parsing refuses, such as a useless URL.
        return record_from_json(record.to_wire())
    return record_from_mapping(record)


async def _chunked(
    records: Iterable[RecordLike] | AsyncIterable[RecordLike], size: int
) -> AsyncIterator[Sequence[RecordLike]]:
    chunk: list[RecordLike] = []
    if isinstance(records, AsyncIterable):
        async for record in records:
            chunk.append(record)
            if len(chunk) == size:
                yield chunk
                chunk = []
    else:
        for record in records:
            chunk.append(record)
            if len(chunk) == size:
                yield chunk
                chunk = []
    if chunk:
        yield chunk
