"""The consumer against a real broker: what aiokafka does to a new assignment before we look."""

import asyncio
from uuid import uuid4

import pytest
from aiokafka import TopicPartition as KafkaTopicPartition

from newsloom.adapters.kafka.consumer import KafkaSource, open_source
from newsloom.ports import TopicPartition
from newsloom.settings import IngestSettings, KafkaSettings
from tests.support.blackbox import send_raw
from tests.support.kafka import MakeTopic


class Listener:
    """Notes what the consumer would fetch at the moment it is told of an assignment."""

    def __init__(self) -> None:
        self.source: KafkaSource | None = None
        self.fetchable: list[frozenset[KafkaTopicPartition]] = []
        self.told = asyncio.Event()

    def assigned(self, partitions: frozenset[TopicPartition]) -> None:
        assert self.source is not None
        consumer = self.source._consumer
        assert {TopicPartition(*p) for p in consumer.assignment()} == partitions
        self.fetchable.append(frozenset(consumer.assignment() - consumer.paused()))
        self.told.set()

    async def revoked(self, partitions: frozenset[TopicPartition]) -> None:
        assert partitions is not None


async def test_a_new_assignment_gives_nothing_until_it_is_told_where_to_start(
    kafka_bootstrap: str, make_topic: MakeTopic
) -> None:
    topic = await make_topic(1)
    await send_raw(kafka_bootstrap, topic, [b"0", b"1", b"2", b"3"])
    place = TopicPartition(topic, 0)
    listener = Listener()
    kafka = KafkaSettings(
        bootstrap_servers=kafka_bootstrap, articles_topic=topic, backfill_topic=f"{topic}.backfill"
    )
    ingest = IngestSettings(consumer_group=f"test-{uuid4().hex}")
    async with open_source(kafka, ingest, listener) as source:
        listener.source = source
        async with asyncio.timeout(30):
            while not listener.told.is_set():
                # Asked for already while the group is still being formed, as by a member that
                # has lost its session: no position, yet no error and no record.
                assert await source.poll([place], 0.2, 10) == {}
        for _ in range(5):  # as while the position is claimed: nothing may be looked up for us
            assert await source.poll([], 0.2, 10) == {}
        assert listener.fetchable == [frozenset()]
        source.start_at(place, 2)
        found: list[bytes | None] = []
        async with asyncio.timeout(30):
            while len(found) < 2:
                for deliveries in (await source.poll([place], 0.5, 10)).values():
                    found += [delivery.value for delivery in deliveries]
        assert found == [b"2", b"3"]


@pytest.mark.parametrize("offset", [5, 100])
async def test_the_bounds_are_those_of_the_log(
    kafka_bootstrap: str, make_topic: MakeTopic, offset: int
) -> None:
    topic = await make_topic(1)
    await send_raw(kafka_bootstrap, topic, [b"x"] * offset)
    listener = Listener()
    kafka = KafkaSettings(
        bootstrap_servers=kafka_bootstrap, articles_topic=topic, backfill_topic=f"{topic}.backfill"
    )
    ingest = IngestSettings(consumer_group=f"test-{uuid4().hex}")
    async with open_source(kafka, ingest, listener) as source:
        listener.source = source
        async with asyncio.timeout(30):
            await source.poll([], 0.1, 1)
            assert await source.bounds([TopicPartition(topic, 0)]) == {
                TopicPartition(topic, 0): (0, offset)
            }
