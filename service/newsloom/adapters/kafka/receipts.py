"""Receipts over Kafka: ingest's outbox, a publisher's inbox. Best effort on both sides."""

import asyncio
import logging
from collections import deque
from collections.abc import AsyncIterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager, suppress

from aiokafka import AIOKafkaConsumer
from aiokafka.errors import KafkaError

from newsloom.adapters.kafka.client import client_options, kafka_unavailable
from newsloom.adapters.kafka.producer import KafkaSink, open_sink
from newsloom.core.event import Outgoing
from newsloom.core.receipts import decode_receipt
from newsloom.errors import Unavailable
from newsloom.metrics import Metrics
from newsloom.ports import Receipt
from newsloom.receipts import ReceiptDesk
from newsloom.settings import KafkaSettings, PublishSettings

logger = logging.getLogger(__name__)

_MOST_WAITING = 10_000
_SEND_SECONDS = 10.0
_FLUSH_SECONDS = 2.0
_RETRY_SECONDS = 1.0
_POLL_MS = 1000


class ReceiptOutbox:
    """Sends receipts in the background. What Kafka does not take is lost, and counted."""

    def __init__(self, kafka: KafkaSettings, publish: PublishSettings, metrics: Metrics) -> None:
        self._kafka = kafka
        self._publish = publish.model_copy(update={"delivery_timeout_seconds": _SEND_SECONDS})
        self._metrics = metrics
        self._waiting: deque[Outgoing] = deque()
        self._wake = asyncio.Event()
        self._empty = asyncio.Event()
        self._empty.set()

    def tell(self, receipts: Sequence[Outgoing]) -> None:
        """Queue receipts; see the port."""
        room = max(0, _MOST_WAITING - len(self._waiting))
        self._metrics.receipts_lost.inc(len(receipts) - min(room, len(receipts)))
        self._waiting.extend(receipts[:room])
        self._empty.clear()
        self._wake.set()

    async def run(self) -> None:
        """Send what is queued. Connects when the first receipt is there: most never need it."""
        await self._wake.wait()
        async with AsyncExitStack() as stack:
            sink: KafkaSink | None = None
            while True:
                await self._wake.wait()
                self._wake.clear()
                batch = [self._waiting.popleft() for _ in range(len(self._waiting))]
                try:
                    if sink is None:
                        sink = await stack.enter_async_context(
                            open_sink(self._kafka, self._publish)
                        )
                    results = await sink.send(self._kafka.receipts_topic, batch)
                except Unavailable as error:
                    logger.warning("receipts lost", extra={"code": error.code, "count": len(batch)})
                    self._metrics.receipts_lost.inc(len(batch))
                    await asyncio.sleep(_RETRY_SECONDS)
                else:
                    sent = sum(isinstance(result, Receipt) for result in results)
                    self._metrics.receipts_sent.inc(sent)
                    self._metrics.receipts_lost.inc(len(batch) - sent)
                if not self._waiting:
                    self._empty.set()

    async def flush(self) -> None:
        """Give what is queued a moment to be sent."""
        with suppress(TimeoutError):
            async with asyncio.timeout(_FLUSH_SECONDS):
                await self._empty.wait()


@asynccontextmanager
async def open_receipt_outbox(
    kafka: KafkaSettings, publish: PublishSettings, metrics: Metrics
) -> AsyncIterator[ReceiptOutbox]:
    """Send receipts until the end, and a moment longer."""
    outbox = ReceiptOutbox(kafka, publish, metrics)
    async with asyncio.TaskGroup() as tasks:
        sending = tasks.create_task(outbox.run(), name="receipts")
        try:
            yield outbox
            await outbox.flush()
        finally:
            sending.cancel()


@asynccontextmanager
async def open_receipt_inbox(kafka: KafkaSettings, address: str) -> AsyncIterator[ReceiptDesk]:
    """Read receipts from now on, of all partitions, and hand over ours. Raises `Unavailable`."""
    consumer = AIOKafkaConsumer(
        kafka.receipts_topic,
        **client_options(kafka),
        group_id=None,
        enable_auto_commit=False,
        auto_offset_reset="latest",
    )
    desk = ReceiptDesk(address)
    try:
        with kafka_unavailable():
            await consumer.start()
            await consumer.seek_to_end()
            # Positions are looked up when they are needed; what is sent next must lie behind them.
            for partition in consumer.assignment():
                await consumer.position(partition)
        reading = asyncio.create_task(_read(consumer, desk), name="receipts")
        try:
            yield desk
        finally:
            reading.cancel()
            await asyncio.gather(reading, return_exceptions=True)
    finally:
        await consumer.stop()


async def _read(consumer: AIOKafkaConsumer, desk: ReceiptDesk) -> None:
    while True:
        try:
            fetched = await consumer.getmany(timeout_ms=_POLL_MS)
        except KafkaError as error:
            # What is missed meanwhile is a time-out for whoever waits.
            logger.warning("receipts not read", extra={"error": type(error).__name__})
            await asyncio.sleep(_RETRY_SECONDS)
            continue
        for records in fetched.values():
            for record in records:
                if record.key == desk.address and (receipt := decode_receipt(record.value)):
                    desk.arrived(receipt)
