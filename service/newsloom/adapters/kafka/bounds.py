"""Where the logs of partitions begin and end, asked without joining a group."""

import asyncio
from collections.abc import Collection, Mapping, Sequence

from aiokafka import AIOKafkaConsumer
from aiokafka import TopicPartition as KafkaTopicPartition
from aiokafka.admin import AIOKafkaAdminClient

from newsloom.adapters.kafka.client import client_options, kafka_unavailable
from newsloom.ports import TopicPartition
from newsloom.settings import KafkaSettings

_TIMEOUT_SECONDS = 15.0


async def log_bounds(
    settings: KafkaSettings, topics: Collection[str]
) -> Mapping[TopicPartition, tuple[int, int]]:
    """Return log start and log end of every partition of these topics; missing ones are left out.

    Raises Unavailable.
    """
    with kafka_unavailable():
        async with asyncio.timeout(_TIMEOUT_SECONDS):
            places = await _partitions(settings, frozenset(topics))
            return await _bounds(settings, places) if places else {}


async def _partitions(
    settings: KafkaSettings, topics: Collection[str]
) -> Sequence[KafkaTopicPartition]:
    admin = AIOKafkaAdminClient(**client_options(settings))
    try:
        await admin.start()
        # All topics, not by name: a broker with auto-creation on would create what is missing.
        described = await admin.describe_topics()
    finally:
        await admin.close()
    return [
        KafkaTopicPartition(topic["topic"], partition["partition"])
        for topic in described
        if topic["topic"] in topics and not topic["error_code"]
        for partition in topic["partitions"]
    ]


async def _bounds(
    settings: KafkaSettings, places: Sequence[KafkaTopicPartition]
) -> Mapping[TopicPartition, tuple[int, int]]:
    consumer = AIOKafkaConsumer(**client_options(settings), enable_auto_commit=False)
    try:
        await consumer.start()
        starts = await consumer.beginning_offsets(places)
        ends = await consumer.end_offsets(places)
    finally:
        await consumer.stop()
    return {TopicPartition(*place): (starts[place], ends[place]) for place in places}
