"""Looks at a Kafka cluster as `newsloom doctor` needs it: changes nothing, joins nothing."""

import asyncio
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

from aiokafka import AIOKafkaConsumer, TopicPartition
from aiokafka.admin import AIOKafkaAdminClient
from aiokafka.errors import KafkaError, for_code
from aiokafka.protocol.admin import DescribeAclsRequest

from newsloom.adapters.kafka.client import client_options, kafka_unavailable
from newsloom.adapters.kafka.topics import TopicSpec, TopicState, show_topics
from newsloom.settings import KafkaSettings

_ANY = 1  # of the ACL filter's enumerations
_SECURITY_DISABLED = 54
_READ_MS = 2000
_COORDINATOR_SECONDS = 5.0


@dataclass(frozen=True, slots=True)
class GroupFacts:
    """A consumer group. `error` is a class name of aiokafka, None when it could be read."""

    state: str = ""
    members: int = 0
    error: str | None = None


@dataclass(frozen=True, slots=True)
class ReadFacts:
    """Whether the articles topic can be fetched, and the timestamp of a last record of it."""

    error: str | None = None
    last_timestamp_ms: int | None = None


@dataclass(frozen=True, slots=True)
class KafkaFacts:
    """What was found. `has_authorizer` None: the broker would not tell."""

    cluster_id: str
    brokers: int
    topics: Sequence[TopicState]
    group: GroupFacts
    reading: ReadFacts
    has_authorizer: bool | None


async def inspect_kafka(
    settings: KafkaSettings, specs: Sequence[TopicSpec], group: str
) -> KafkaFacts:
    """Look at cluster, Kafka topics, group and rights. Raises Unavailable; the caller bounds it.

    The first of `specs` is the Kafka topic that ingest reads.
    """
    with kafka_unavailable():
        admin = AIOKafkaAdminClient(**client_options(settings))
        try:
            await admin.start()
            cluster = await admin.describe_cluster()
            group_facts = await _group(admin, group)
            has_authorizer = await _has_authorizer(admin)
        finally:
            await admin.close()
        topics = await show_topics(settings, specs)
        articles = topics[0]
        reading = ReadFacts()
        if articles.partitions:
            reading = await _read(settings, articles.name, articles.partitions)
    return KafkaFacts(
        cluster_id=str(cluster["cluster_id"]),
        brokers=len(cluster["brokers"]),
        topics=topics,
        group=group_facts,
        reading=reading,
        has_authorizer=has_authorizer,
    )


async def _group(admin: Any, group: str) -> GroupFacts:
    """Ask for the group; a young broker has to be asked again: its coordinator is being made."""
    deadline = asyncio.get_running_loop().time() + _COORDINATOR_SECONDS
    while True:
        facts, is_passing = await _asked(admin, group)
        if not is_passing or asyncio.get_running_loop().time() > deadline:
            return facts
        await asyncio.sleep(0.2)


async def _asked(admin: Any, group: str) -> tuple[GroupFacts, bool]:
    """Return what the broker says, and whether it may say something better soon."""
    try:
        (response,) = await admin.describe_consumer_groups([group])
    except KafkaError as error:
        return GroupFacts(error=type(error).__name__), bool(error.retriable)
    code, _, state, _, _, members, *_ = response.groups[0]
    if code:
        kind = for_code(code)
        return GroupFacts(error=kind.__name__), bool(kind.retriable)
    return GroupFacts(state=state, members=len(members)), False


async def _has_authorizer(admin: Any) -> bool | None:
    """Ask for the ACLs: a broker without an authorizer says so, one with it may refuse to list."""
    request = DescribeAclsRequest(_ANY, None, _ANY, None, None, _ANY, _ANY)
    try:
        # The admin client has no method for it.
        response = await admin._send_request(request)  # noqa: SLF001
    except (KafkaError, NotImplementedError):
        return None
    return bool(response.error_code != _SECURITY_DISABLED)


async def _read(settings: KafkaSettings, topic: str, partitions: int) -> ReadFacts:
    """Fetch one last record without joining a group."""
    consumer = AIOKafkaConsumer(**client_options(settings), enable_auto_commit=False)
    try:
        await consumer.start()
        assigned = [TopicPartition(topic, number) for number in range(partitions)]
        consumer.assign(assigned)
        starts = await consumer.beginning_offsets(assigned)
        ends = await consumer.end_offsets(assigned)
        for place in assigned:
            consumer.seek(place, max(starts[place], ends[place] - 1))
        holding = [place for place in assigned if ends[place] > starts[place]]
        fetched = await consumer.getmany(*assigned, timeout_ms=_READ_MS if holding else 200)
    except KafkaError as error:
        return ReadFacts(error=type(error).__name__)
    finally:
        with suppress(KafkaError, TimeoutError):
            async with asyncio.timeout(2):
                await consumer.stop()
    stamps = [record.timestamp for records in fetched.values() for record in records]
    return ReadFacts(last_timestamp_ms=max(stamps, default=None))
