"""One real broker a session, and Kafka topics for single tests."""

import asyncio
import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Protocol
from uuid import uuid4

import pytest
from aiokafka.admin import AIOKafkaAdminClient, NewPartitions, NewTopic
from aiokafka.protocol.admin import DeleteGroupsRequest

from newsloom.adapters.embedded import EmbeddedKafka, default_cache
from tests.support.services import start_or_fail


class MakeTopic(Protocol):
    """Creates a Kafka topic that no other test knows and returns its name."""

    async def __call__(
        self, partitions: int = 1, *, name: str = "test", config: Mapping[str, str] | None = None
    ) -> str: ...


@pytest.fixture(scope="session")
def kafka_cache(services_folder: Path) -> Path:
    """Where Kafka's jars are: fetched once a machine, or once a session if there is no home."""
    return default_cache(os.environ, services_folder)


@pytest.fixture(scope="session")
def kafka_bootstrap(services_folder: Path, kafka_cache: Path) -> Iterator[str]:
    """The address of the session's broker. Do not stop it: start your own for that."""
    if given := os.environ.get("NEWSLOOM_TEST_KAFKA_BOOTSTRAP_SERVERS"):
        yield given
        return
    kafka = EmbeddedKafka(services_folder / "kafka", cache=kafka_cache)
    try:
        yield start_or_fail(kafka)
    finally:
        kafka.kill()


@pytest.fixture
def make_topic(kafka_bootstrap: str) -> MakeTopic:
    """A function that creates a fresh Kafka topic: `await make_topic(partitions=4)`."""

    async def make(
        partitions: int = 1, *, name: str = "test", config: Mapping[str, str] | None = None
    ) -> str:
        topic = f"{name}.{uuid4().hex}"
        await create_topic(kafka_bootstrap, topic, partitions, config)
        return topic

    return make


async def create_topic(
    bootstrap: str, topic: str, partitions: int = 1, config: Mapping[str, str] | None = None
) -> None:
    """Create one Kafka topic, replication factor 1.

    It keeps what it holds: retention goes by the records' own times, and tests send old ones.
    """
    admin = AIOKafkaAdminClient(bootstrap_servers=bootstrap)
    await admin.start()
    try:
        new = NewTopic(topic, partitions, 1, topic_configs={"retention.ms": "-1", **(config or {})})
        response = await admin.create_topics([new])
        failed = [error for error in response.topic_errors if error[1] != 0]
        assert not failed, failed
    finally:
        await admin.close()


async def delete_topic(bootstrap: str, topic: str, patience: float = 30) -> None:
    """Delete a Kafka topic, and wait until nobody lists it."""
    admin = AIOKafkaAdminClient(bootstrap_servers=bootstrap)
    await admin.start()
    try:
        await admin.delete_topics([topic])
        async with asyncio.timeout(patience):
            while topic in await admin.list_topics():  # noqa: ASYNC110 - no event for it
                await asyncio.sleep(0.1)
    finally:
        await admin.close()


async def add_partitions(bootstrap: str, topic: str, total: int) -> None:
    """Give a Kafka topic more partitions."""
    admin = AIOKafkaAdminClient(bootstrap_servers=bootstrap)
    await admin.start()
    try:
        response = await admin.create_partitions({topic: NewPartitions(total)})
        failed = [error for error in response.topic_errors if error[1] != 0]
        assert not failed, failed
    finally:
        await admin.close()


async def delete_group(bootstrap: str, group: str) -> None:
    """Delete a consumer group and its offsets; it must be empty."""
    admin = AIOKafkaAdminClient(bootstrap_servers=bootstrap)
    await admin.start()
    try:
        # The client speaks the request but has no method for it.
        node = await admin.find_coordinator(group)
        response = await admin._send_request_to_node(node, DeleteGroupsRequest([group]))
        assert [code for _, code in response.results] == [0], response
    finally:
        await admin.close()
