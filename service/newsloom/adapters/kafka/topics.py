"""Create newsloom's Kafka topics, and say where existing ones differ from what they should be."""

import asyncio
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from aiokafka.admin import AIOKafkaAdminClient, NewPartitions, NewTopic
from aiokafka.admin.config_resource import ConfigResource, ConfigResourceType
from aiokafka.errors import KafkaError, for_code

from newsloom.adapters.kafka.client import client_options, kafka_unavailable, unavailable
from newsloom.settings import KafkaSettings

_CREATED_WAIT_SECONDS = 20.0
_EXISTS = 36
_DAY_MS = 24 * 60 * 60 * 1000

MAX_MESSAGE_BYTES = 1_048_588
"""Kafka's own default, made explicit: publish stays below it, ingest fetches more than it."""


@dataclass(frozen=True, slots=True)
class TopicSpec:
    """What one Kafka topic should look like. `partitions` 0 = as many as the articles topic."""

    name: str
    partitions: int
    config: Mapping[str, str]


@dataclass(frozen=True, slots=True)
class TopicState:
    """What one Kafka topic looks like. `problems`: one sentence for each difference."""

    name: str
    partitions: int
    replication_factor: int
    created: bool = False
    problems: Sequence[str] = field(default=())


def topic_specs(kafka: KafkaSettings, partitions: int) -> tuple[TopicSpec, ...]:
    """Return every Kafka topic of newsloom. Sizes in bytes, times in milliseconds."""
    # LogAppendTime: a hostile CreateTime far in the future would defeat retention by time.
    events = {
        "cleanup.policy": "delete",
        "message.timestamp.type": "LogAppendTime",
        "max.message.bytes": str(MAX_MESSAGE_BYTES),
    }
    return (
        TopicSpec(kafka.articles_topic, partitions, events | {"retention.ms": str(7 * _DAY_MS)}),
        TopicSpec(kafka.backfill_topic, partitions, events | {"retention.ms": str(7 * _DAY_MS)}),
        TopicSpec(
            kafka.changes_topic,
            partitions,
            # A mirror that was away for less than this hears what was erased meanwhile.
            {
                "cleanup.policy": "compact",
                "delete.retention.ms": str(30 * _DAY_MS),
                "max.message.bytes": str(2 * MAX_MESSAGE_BYTES),
            },
        ),
        TopicSpec(
            kafka.dead_letters_topic,
            1,
            # A dead letter carries its original bytes and more headers than the event had.
            events
            | {"retention.ms": str(30 * _DAY_MS), "max.message.bytes": str(2 * MAX_MESSAGE_BYTES)},
        ),
        TopicSpec(kafka.receipts_topic, 1, events | {"retention.ms": str(_DAY_MS)}),
    )


async def apply_topics(
    settings: KafkaSettings, specs: Sequence[TopicSpec], *, replication_factor: int | None
) -> list[TopicState]:
    """Create what is missing, add partitions where there are too few; change no configuration.

    `replication_factor` None: three, or as many as there are brokers. Raises Unavailable.
    """
    async with _admin(settings) as admin:
        brokers = len((await admin.describe_cluster())["brokers"])
        before = await _describe(admin, specs)
        missing = [spec for spec in specs if spec.name not in before]
        factor = replication_factor or min(3, brokers)
        await _create(admin, missing, factor)
        grow = {
            spec.name: NewPartitions(spec.partitions)
            for spec in specs
            if spec.name in before and before[spec.name].partitions < spec.partitions
        }
        if grow:
            await admin.create_partitions(grow)
        states = await _settled(admin, specs)
        created = {spec.name for spec in missing}
        return [
            TopicState(s.name, s.partitions, s.replication_factor, s.name in created, s.problems)
            for s in states
        ]


async def show_topics(settings: KafkaSettings, specs: Sequence[TopicSpec]) -> list[TopicState]:
    """Describe the Kafka topics that exist, and what differs. Raises Unavailable."""
    async with _admin(settings) as admin:
        states = await _describe(admin, specs)
    absent = TopicState(name="", partitions=0, replication_factor=0, problems=("does not exist",))
    return [
        states.get(spec.name, TopicState(spec.name, 0, 0, problems=absent.problems))
        for spec in specs
    ]


class _admin:  # noqa: N801 - used as a function
    def __init__(self, settings: KafkaSettings) -> None:
        self._client = AIOKafkaAdminClient(**client_options(settings))

    async def __aenter__(self) -> Any:
        try:
            with kafka_unavailable():
                await self._client.start()
        except BaseException:
            await self._client.close()
            raise
        return self._client

    async def __aexit__(self, kind: object, error: BaseException | None, trace: object) -> None:
        await self._client.close()
        if isinstance(error, KafkaError):
            raise unavailable(error) from error


async def _create(admin: Any, specs: Sequence[TopicSpec], factor: int) -> None:
    if not specs:
        return
    response = await admin.create_topics(
        [NewTopic(s.name, s.partitions, factor, topic_configs=dict(s.config)) for s in specs]
    )
    for _, code, *_ in response.topic_errors:
        if code not in (0, _EXISTS):  # somebody else may have been quicker
            raise for_code(code)


async def _settled(admin: Any, specs: Sequence[TopicSpec]) -> list[TopicState]:
    """Wait until every broker's metadata shows the topics with all partitions led."""
    deadline = asyncio.get_running_loop().time() + _CREATED_WAIT_SECONDS
    while True:
        states = await _describe(admin, specs)
        settled = all(s.name in states and states[s.name].partitions >= s.partitions for s in specs)
        if settled or asyncio.get_running_loop().time() > deadline:
            return [states[s.name] for s in specs if s.name in states]
        await asyncio.sleep(0.1)


async def _describe(admin: Any, specs: Sequence[TopicSpec]) -> dict[str, TopicState]:
    # All topics, not by name: a broker with auto-creation on would create what is missing.
    described = {t["topic"]: t for t in await admin.describe_topics() if not t["error_code"]}
    present = [spec for spec in specs if spec.name in described]
    configs = await _configs(admin, [spec.name for spec in present])
    states = {}
    for spec in present:
        partitions = [p for p in described[spec.name]["partitions"] if p["leader"] >= 0]
        states[spec.name] = TopicState(
            spec.name,
            len(partitions),
            min((len(p["replicas"]) for p in partitions), default=0),
            problems=tuple(_problems(spec, len(partitions), configs.get(spec.name, {}))),
        )
    return states


async def _configs(admin: Any, names: Sequence[str]) -> dict[str, dict[str, str]]:
    if not names:
        return {}
    responses = await admin.describe_configs(
        [ConfigResource(ConfigResourceType.TOPIC, name) for name in names]
    )
    return {
        resource[3]: {entry[0]: entry[1] for entry in resource[4]}
        for response in responses
        for resource in response.resources
    }


def _problems(spec: TopicSpec, partitions: int, config: Mapping[str, str]) -> list[str]:
    problems = []
    if partitions < spec.partitions:
        problems.append(f"has {partitions} partitions, {spec.partitions} are wanted")
    if "retention.ms" in spec.config and config.get("cleanup.policy", "delete") != "delete":
        problems.append("is compacted: events would vanish unread; set cleanup.policy=delete")
    limit = int(config.get("max.message.bytes", MAX_MESSAGE_BYTES))
    if limit < int(spec.config["max.message.bytes"]):
        problems.append(f"max.message.bytes is {limit}, below {spec.config['max.message.bytes']}")
    return problems
