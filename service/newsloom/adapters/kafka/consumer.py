"""The `EventSource` on aiokafka's consumer group.

Facts about aiokafka 0.14 that force this shape (found by running and reading it):

- While `on_partitions_assigned` runs, no heartbeats are sent, and its exceptions are only logged.
  So the listener is told synchronously, and everything slow happens elsewhere.
- Waiters in `getmany` wake before that callback, and a partition without a position is reset to the
  group's. So the callback pauses every partition and gives it a position, before anything else.
- A pause is lost at each rebalance, and data fetched for a paused partition is thrown away. So
  back-pressure names the partitions to read instead; pausing is left for long outages.
- An exception out of `getmany` may drop other partitions' records: the caller starts all again.
"""

import asyncio
import logging
from collections.abc import AsyncIterator, Iterator, Mapping, Sequence
from contextlib import asynccontextmanager, contextmanager, suppress

from aiokafka import AIOKafkaConsumer, ConsumerRebalanceListener, ConsumerRecord
from aiokafka import TopicPartition as KafkaTopicPartition
from aiokafka.coordinator.assignors.sticky.sticky_assignor import StickyPartitionAssignor
from aiokafka.errors import (
    CorruptRecordException,
    IllegalStateError,
    KafkaError,
    OffsetOutOfRangeError,
    RecordTooLargeError,
    UnsupportedCodecError,
)

from newsloom.adapters.kafka.client import client_options, kafka_unavailable, unavailable
from newsloom.adapters.kafka.inflating import FOREIGN_ERRORS, bound_decoders
from newsloom.errors import Unavailable
from newsloom.ports import Delivery, OwnershipListener, PositionLost, TopicPartition, Unreadable
from newsloom.settings import IngestSettings, KafkaSettings

logger = logging.getLogger(__name__)

_METADATA_MAX_AGE_MS = 30_000
"""New partitions are noticed after this time at the latest; aiokafka's own choice is 5 minutes."""

_MIRROR_TIMEOUT_SECONDS = 3.0
_STOP_TIMEOUT_SECONDS = 10.0


@asynccontextmanager
async def open_source(
    kafka: KafkaSettings, ingest: IngestSettings, listener: OwnershipListener
) -> AsyncIterator["KafkaSource"]:
    """Join the consumer group for articles, and for bulk imports where their Kafka topic exists.

    Leaves it at the end. Raises Unavailable when Kafka is away.
    """
    bound_decoders()
    consumer = AIOKafkaConsumer(
        **client_options(kafka),
        group_id=ingest.consumer_group,
        enable_auto_commit=False,  # positions live in Postgres
        auto_offset_reset="none",
        isolation_level="read_committed",
        check_crcs=True,
        metadata_max_age_ms=_METADATA_MAX_AGE_MS,
        session_timeout_ms=_ms(ingest.session_timeout_seconds),
        heartbeat_interval_ms=_ms(ingest.heartbeat_interval_seconds),
        rebalance_timeout_ms=_ms(ingest.rebalance_timeout_seconds),
        max_poll_interval_ms=_ms(ingest.max_poll_interval_seconds),
        max_poll_records=ingest.max_batch_records,
        fetch_max_bytes=ingest.fetch_max_bytes,
        max_partition_fetch_bytes=ingest.max_partition_fetch_bytes,
        # One only: with two, the join request is sent once for each of them.
        partition_assignment_strategy=(StickyPartitionAssignor,),
    )
    source = KafkaSource(consumer)
    try:
        with kafka_unavailable():
            await consumer.start()
            topics = [kafka.articles_topic]
            if kafka.backfill_topic in await consumer.topics():
                topics.append(kafka.backfill_topic)
            else:
                logger.info("no Kafka topic for bulk imports: they are not read")
            consumer.subscribe(topics, listener=_Rebalance(source, listener))
        yield source
    finally:
        # `stop` leaves the group, and can hang when the brokers are gone.
        with suppress(TimeoutError, KafkaError):
            async with asyncio.timeout(_STOP_TIMEOUT_SECONDS):
                await consumer.stop()


class _Rebalance(ConsumerRebalanceListener):  # type: ignore[misc] # aiokafka is untyped
    def __init__(self, source: "KafkaSource", listener: OwnershipListener) -> None:
        self._source = source
        self._listener = listener

    async def on_partitions_revoked(self, revoked: Sequence[KafkaTopicPartition]) -> None:
        await self._listener.revoked(_own(revoked))

    def on_partitions_assigned(self, assigned: Sequence[KafkaTopicPartition]) -> None:
        self._source.hold(assigned)
        self._listener.assigned(_own(assigned))


class KafkaSource:
    """A member of the consumer group. See `EventSource` for what the methods promise."""

    def __init__(self, consumer: AIOKafkaConsumer) -> None:
        self._consumer = consumer

    def hold(self, partitions: Sequence[KafkaTopicPartition]) -> None:
        """Give new partitions a position and let none of them fetch yet."""
        for partition in partitions:
            self._consumer.pause(partition)
            self._consumer.seek(partition, 0)

    async def poll(
        self, partitions: Sequence[TopicPartition], timeout_seconds: float, max_records: int
    ) -> Mapping[TopicPartition, Sequence[Delivery]]:
        """Read the named partitions only; see the port."""
        wanted = [KafkaTopicPartition(*p) for p in partitions if p in self.assignment()]
        with _poll_errors():
            if not wanted:
                for partition in self._consumer.assignment():
                    self._consumer.pause(partition)
                await self._consumer.getmany(timeout_ms=0)
                await asyncio.sleep(timeout_seconds)
                return {}
            for partition in wanted:
                self._consumer.resume(partition)
            fetched = await self._consumer.getmany(
                *wanted, timeout_ms=_ms(timeout_seconds), max_records=max_records
            )
        return {
            TopicPartition(*partition): [_delivery(record) for record in records]
            for partition, records in fetched.items()
        }

    def start_at(self, partition: TopicPartition, offset: int) -> None:
        """Seek and resume; see the port."""
        # The partition may be revoked between the caller's decision and this call.
        with suppress(IllegalStateError):
            self._consumer.seek(KafkaTopicPartition(*partition), offset)
            self._consumer.resume(KafkaTopicPartition(*partition))

    def assignment(self) -> frozenset[TopicPartition]:
        """Return the partitions of the present generation."""
        return _own(self._consumer.assignment())

    def partitions(self, kafka_topic: str) -> frozenset[TopicPartition]:
        """Return what the client's metadata says; empty before they came."""
        known = self._consumer.partitions_for_topic(kafka_topic) or ()
        return frozenset(TopicPartition(kafka_topic, partition) for partition in known)

    async def bounds(
        self, partitions: Sequence[TopicPartition]
    ) -> Mapping[TopicPartition, tuple[int, int]]:
        """Ask the brokers for log start and log end."""
        asked = [KafkaTopicPartition(*partition) for partition in partitions]
        if not asked:
            return {}
        with kafka_unavailable():
            starts = await self._consumer.beginning_offsets(asked)
            ends = await self._consumer.end_offsets(asked)
        return {TopicPartition(*p): (starts[p], ends[p]) for p in asked}

    def end_offset(self, partition: TopicPartition) -> int | None:
        """Return the high watermark of the last fetch."""
        kafka_partition = KafkaTopicPartition(*partition)
        if kafka_partition not in self._consumer.assignment():
            return None
        end: int | None = self._consumer.highwater(kafka_partition)
        return end

    async def mirror(self, positions: Mapping[TopicPartition, int]) -> None:
        """Commit positions to the group. By itself `commit` retries for ever: a deadline."""
        ours = self._consumer.assignment()
        offsets = {
            KafkaTopicPartition(*p): offset
            for p, offset in positions.items()
            if KafkaTopicPartition(*p) in ours
        }
        if not offsets:
            return
        try:
            async with asyncio.timeout(_MIRROR_TIMEOUT_SECONDS):
                await self._consumer.commit(offsets)
        except (KafkaError, TimeoutError) as error:
            # For lag tools only: the next round tries again.
            logger.debug("offsets not mirrored", extra={"error": type(error).__name__})


@contextmanager
def _poll_errors() -> Iterator[None]:
    """Tell what an exception out of `getmany` means; see `EventSource`."""
    try:
        yield
    except OffsetOutOfRangeError as error:
        raise PositionLost from error
    except (CorruptRecordException, RecordTooLargeError, UnsupportedCodecError) as error:
        raise Unreadable(type(error).__name__) from error
    except KafkaError as error:
        raise unavailable(error) from error
    except FOREIGN_ERRORS as error:
        raise Unreadable(type(error).__name__) from error
    except OSError as error:
        raise Unavailable("kafka", type(error).__name__) from error
    except (
        ArithmeticError,
        LookupError,
        MemoryError,
        RuntimeError,
        TypeError,
        ValueError,
    ) as error:
        # Foreign bytes go through parsers and decompressors that raise whatever they like.
        raise Unreadable(type(error).__name__) from error


def _own(
    partitions: Sequence[KafkaTopicPartition] | frozenset[KafkaTopicPartition],
) -> frozenset[TopicPartition]:
    return frozenset(TopicPartition(p.topic, p.partition) for p in partitions)


def _delivery(record: ConsumerRecord) -> Delivery:
    return Delivery(
        topic=record.topic,
        partition=record.partition,
        offset=record.offset,
        timestamp_ms=record.timestamp,
        key=record.key,
        value=record.value,
        headers=tuple(record.headers),
    )


def _ms(seconds: float) -> int:
    return int(seconds * 1000)
