"""Events to Kafka: acknowledged by all replicas, each exactly where its receipt says.

aiokafka's idempotent producer retries for ever and can poison itself: a batch that expires while
its partition has no leader has used up a sequence number, and every later one is refused (its issue
1017). So there is a deadline of our own, and a producer that failed is replaced; what was not
acknowledged is sent again under the same ids.
"""

import asyncio
import logging
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from functools import lru_cache
from struct import unpack_from
from typing import Any

from aiokafka import AIOKafkaProducer
from aiokafka import errors as kafka_errors

from newsloom.adapters.kafka.client import client_options, kafka_unavailable, unavailable
from newsloom.core.event import Event, Outgoing
from newsloom.errors import Rejected, RejectReason, Unavailable
from newsloom.ports import Receipt
from newsloom.settings import KafkaSettings, PublishSettings

logger = logging.getLogger(__name__)

# It reports a missing topic ten times a second; we say it once.
logging.getLogger("aiokafka.cluster").setLevel(logging.CRITICAL)

_BATCH_BYTES = 256 * 1024
_REBUILD_WAIT_SECONDS = 0.5
_STOP_SECONDS = 5.0
_METADATA_SECONDS = 5.0
_RECORD_OVERHEAD_BYTES = 128

_TOO_LARGE: tuple[type[Exception], ...] = (
    kafka_errors.MessageSizeTooLargeError,
    kafka_errors.RecordListTooLargeError,
)
_HOPELESS: tuple[type[Exception], ...] = (
    kafka_errors.TopicAuthorizationFailedError,
    kafka_errors.ClusterAuthorizationFailedError,
    kafka_errors.AuthenticationFailedError,
    kafka_errors.UnknownTopicOrPartitionError,
    kafka_errors.UnsupportedVersionError,
)


@dataclass(slots=True)
class _KafkaBatch:
    """Events that go to one partition together: where they stand among all, and the sent batch."""

    partition: int
    positions: list[int] = field(default_factory=list)
    builder: Any = None


class KafkaSink:
    """An `EventSink` on Kafka. Made by `open_sink`."""

    def __init__(self, kafka: KafkaSettings, publish: PublishSettings) -> None:
        self._options = client_options(kafka) | {
            "acks": "all",
            "enable_idempotence": True,
            "compression_type": None if publish.compression == "none" else publish.compression,
            "linger_ms": 0,
            "max_batch_size": min(_BATCH_BYTES, publish.max_record_bytes),
            "max_request_size": publish.max_record_bytes + _BATCH_BYTES,
        }
        self._deadline_seconds = publish.delivery_timeout_seconds
        self._max_record_bytes = publish.max_record_bytes
        self._producer: Any = None
        self._generation = 0
        self._enqueue = asyncio.Lock()
        self._replacing = asyncio.Lock()

    async def start(self) -> None:
        """Connect. Raises `Unavailable`."""
        producer = AIOKafkaProducer(**self._options)
        try:
            with kafka_unavailable():
                async with asyncio.timeout(self._deadline_seconds):
                    await producer.start()
        except BaseException:
            await _stopped(producer)
            raise
        self._producer = producer

    async def stop(self) -> None:
        """Disconnect; what is on its way gets a few seconds."""
        producer, self._producer = self._producer, None
        if producer is not None:
            await _stopped(producer)

    async def send(
        self, kafka_topic: str, events: Sequence[Event | Outgoing]
    ) -> Sequence[Receipt | Rejected]:
        """Make events durable; see `EventSink.send`."""
        results: list[Receipt | Rejected | None] = [self._refused(event) for event in events]
        loop = asyncio.get_running_loop()
        deadline = loop.time() + self._deadline_seconds
        alone = False
        while open_ones := [n for n, result in enumerate(results) if result is None]:
            generation = self._generation
            failure = await self._attempt(
                kafka_topic, events, open_ones, results, deadline, alone=alone
            )
            if failure is None:
                continue
            if isinstance(failure, _HOPELESS):
                raise unavailable(failure) from failure
            if loop.time() >= deadline:
                raise Unavailable("kafka", type(failure).__name__) from failure
            # A batch that is too large for Kafka fails whole: its events go again, each alone.
            alone = alone or isinstance(failure, _TOO_LARGE)
            await self._replace(generation, deadline)
        return [result for result in results if result is not None]

    def _refused(self, event: Event | Outgoing) -> Rejected | None:
        size = len(event.key or b"") + len(event.value or b"") + _RECORD_OVERHEAD_BYTES
        size += sum(len(name) + len(value or b"") for name, value in event.headers)
        if size <= self._max_record_bytes:
            return None
        detail = f"the event has {size} bytes, at most {self._max_record_bytes} are allowed"
        return Rejected(RejectReason.KAFKA_OVERSIZE, detail)

    async def _attempt(
        self,
        kafka_topic: str,
        events: Sequence[Event | Outgoing],
        positions: Sequence[int],
        results: list[Receipt | Rejected | None],
        deadline: float,
        *,
        alone: bool,
    ) -> BaseException | None:
        """Send once and fill in what was acknowledged; return what went wrong, if anything did."""
        sent: dict[asyncio.Future[Any], _KafkaBatch] = {}
        failure: BaseException | None = None
        try:
            async with asyncio.timeout_at(deadline), self._enqueue:
                producer = self._producer
                if producer is None:
                    raise kafka_errors.ProducerClosed
                batches = await _batched(producer, kafka_topic, events, positions, alone=alone)
                for batch in batches:
                    future = await producer.send_batch(
                        batch.builder, kafka_topic, partition=batch.partition
                    )
                    sent[future] = batch
        except (kafka_errors.KafkaError, OSError, TimeoutError) as error:
            failure = error
        if sent:
            # Waiting, not cancelling: a cancelled future would not stop the send.
            remaining = max(0.0, deadline - asyncio.get_running_loop().time())
            done, late = await asyncio.wait(sent, timeout=remaining)
            for future in done:
                failed = _settle(kafka_topic, sent[future], future, events, results)
                failure = failed or failure
            if late:
                failure = failure or TimeoutError()
        return failure

    async def _replace(self, generation: int, deadline: float) -> None:
        """Put a new producer in the place of one that failed, unless somebody has done so."""
        async with self._replacing:
            if generation != self._generation:
                return
            logger.warning("replacing the Kafka producer")
            old, self._producer = self._producer, None
            self._generation += 1
            await self._renewed(old, deadline)

    async def _renewed(self, old: Any, deadline: float) -> None:
        loop = asyncio.get_running_loop()
        if old is not None:
            await _stopped(old)
        while True:
            try:
                await self.start()
            except Unavailable as error:
                if error.systemic or loop.time() >= deadline:
                    raise
                await asyncio.sleep(_REBUILD_WAIT_SECONDS)
            else:
                return


async def _batched(
    producer: Any,
    kafka_topic: str,
    events: Sequence[Event | Outgoing],
    positions: Sequence[int],
    *,
    alone: bool,
) -> list[_KafkaBatch]:
    """Put events into Kafka batches by partition, in order; `alone`: one a batch."""
    count = len(await _partitions(producer, kafka_topic))
    open_batches: dict[int, _KafkaBatch] = {}
    finished: list[_KafkaBatch] = []
    for position in positions:
        event = events[position]
        partition = _hash(event.key or b"") % count
        batch = open_batches.get(partition)
        if batch is None or alone or not _append(batch, event, position):
            if batch is not None:
                finished.append(batch)
            batch = _KafkaBatch(partition, builder=producer.create_batch())
            open_batches[partition] = batch
            _append(batch, event, position)
    return [*finished, *open_batches.values()]


async def _partitions(producer: Any, kafka_topic: str) -> Any:
    """Return the topic's partitions; a topic that is not there is not waited for."""
    try:
        async with asyncio.timeout(_METADATA_SECONDS):
            return await producer.partitions_for(kafka_topic)
    except TimeoutError:
        raise kafka_errors.UnknownTopicOrPartitionError from None


@lru_cache(maxsize=8192)
def _hash(key: bytes) -> int:
    """Hash as every Kafka client does, so that an article's events share a partition."""
    return murmur2(key) & 0x7FFFFFFF


def murmur2(data: bytes) -> int:
    """Give Kafka's hash of a key, word by word: aiokafka's goes byte by byte, in twice the time."""
    size, factor, mask = len(data), 0x5BD1E995, 0xFFFFFFFF
    result = 0x9747B28C ^ size
    for word in unpack_from(f"<{size // 4}I", data):
        mixed = word * factor & mask
        result = (result * factor & mask) ^ ((mixed ^ mixed >> 24) * factor & mask)
    if size % 4:
        result = (result ^ int.from_bytes(data[size - size % 4 :], "little")) * factor & mask
    result = (result ^ result >> 13) * factor & mask
    return result ^ result >> 15


def _append(batch: _KafkaBatch, event: Event | Outgoing, position: int) -> bool:
    """Add an event to a batch; False when it is full."""
    added = batch.builder.append(
        timestamp=None, key=event.key, value=event.value, headers=event.headers
    )
    if added is None:
        return False
    batch.positions.append(position)
    return True


def _settle(
    kafka_topic: str,
    batch: _KafkaBatch,
    future: asyncio.Future[Any],
    events: Sequence[Event | Outgoing],
    results: list[Receipt | Rejected | None],
) -> BaseException | None:
    """Note the receipts of an acknowledged batch; return the error of one that failed."""
    if future.cancelled():
        return TimeoutError()
    error: BaseException | None = future.exception()
    if error is None:
        base = future.result().offset
        for index, position in enumerate(batch.positions):
            # -1: stored by an attempt before, whose offset Kafka no longer knows.
            offset = base + index if base >= 0 else -1
            event_id = events[position].event_id
            results[position] = Receipt(kafka_topic, batch.partition, offset, event_id)
    elif isinstance(error, _TOO_LARGE) and len(batch.positions) == 1:
        detail = "Kafka refuses an event of this size"
        results[batch.positions[0]] = Rejected(RejectReason.KAFKA_OVERSIZE, detail)
        return error
    return error


async def _stopped(producer: Any) -> None:
    """Stop a producer for good, even one that waits for an answer it will never get."""
    try:
        async with asyncio.timeout(_STOP_SECONDS):
            await producer.stop()
    except (TimeoutError, kafka_errors.KafkaError, OSError):
        with suppress(TimeoutError, kafka_errors.KafkaError, OSError):
            async with asyncio.timeout(_STOP_SECONDS):
                await producer.client.close()


@asynccontextmanager
async def open_sink(kafka: KafkaSettings, publish: PublishSettings) -> AsyncIterator[KafkaSink]:
    """Connect to Kafka for sending. Raises `Unavailable` when it cannot be reached."""
    sink = KafkaSink(kafka, publish)
    await sink.start()
    try:
        yield sink
    finally:
        await sink.stop()
