"""A mirror of newsloom made of its changes topic alone, as an engineer elsewhere would write it."""

import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import asyncpg
from aiokafka import AIOKafkaConsumer

# What may change without an event: of the moment at which the event was made.
TIMES = frozenset({"observed_at", "first_seen_at"})
SIGNALS = frozenset({"quality", "heat", "ratings"})

Entities = dict[str, dict[str, Any]]


@dataclass
class Mirror:
    """The highest version of each key. Of equal versions the later message counts."""

    values: Entities = field(default_factory=dict)
    erased: set[str] = field(default_factory=set)
    events: list[dict[str, Any]] = field(default_factory=list)
    momentary: frozenset[str] = TIMES | SIGNALS

    def take(self, key: str, value: bytes | None) -> None:
        if value is None:
            self.values.pop(key, None)
            self.erased.add(key)
            return
        change = json.loads(value)
        self.events.append(change)
        known = self.values.get(key)
        if key not in self.erased and (known is None or change["version"] >= known["version"]):
            self.values[key] = change

    def articles(self) -> Entities:
        """The articles that there are, with ids of merged ones followed."""
        found = {}
        for change in self._with_state("article"):
            state = {n: v for n, v in change["state"].items() if n not in self.momentary}
            related = [self.resolve(other) for other in state["related"] or ()]
            state["related"] = [r for r in related if f"article/{r}" in self.values]
            state["copy_of"] = self.resolve(state["copy_of"])
            state["urls"] = sorted(_key(address["canonical_url"]) for address in state["urls"])
            found[change["id"]] = state
        return found

    def stories(self) -> Entities:
        return {change["id"]: change["state"] for change in self._with_state("story")}

    def resolve(self, article: str | None) -> str | None:
        while article is not None:
            change = self.values.get(f"article/{article}")
            if change is None or change["merged_into"] is None:
                break
            article = change["merged_into"]
        return article

    def _with_state(self, entity: str) -> list[dict[str, Any]]:
        return [
            change
            for change in self.values.values()
            if change["entity"] == entity and change["state"] is not None
        ]


def mirror_of(records: Sequence[Any], momentary: frozenset[str] = TIMES | SIGNALS) -> Mirror:
    """Take all records of a topic in."""
    mirror = Mirror(momentary=momentary)
    for record in records:
        mirror.take(record.key.decode(), record.value)
    return mirror


async def mirrored(bootstrap: str, topic: str) -> Mirror:
    """Read the whole topic."""
    return mirror_of(await read_topic(bootstrap, topic))


def compacted(records: Sequence[Any]) -> list[Any]:
    """Return what the most thorough compaction leaves: the last record of each key."""
    return list({record.key: record for record in records}.values())


async def read_topic(bootstrap: str, topic: str) -> list[Any]:
    """Return every record of a Kafka topic, partition by partition."""
    consumer = AIOKafkaConsumer(
        topic, bootstrap_servers=bootstrap, auto_offset_reset="earliest", enable_auto_commit=False
    )
    await consumer.start()
    try:
        places = sorted(consumer.assignment())
        ends = await consumer.end_offsets(places)
        records: list[Any] = []
        reached = await _positions(consumer, places)
        while any(reached[place] < ends[place] for place in places):
            for fetched in (await consumer.getmany(*places, timeout_ms=500)).values():
                records += fetched
            reached = await _positions(consumer, places)
        return records
    finally:
        await consumer.stop()


async def _positions(consumer: AIOKafkaConsumer, places: Sequence[Any]) -> dict[Any, int]:
    return {place: await consumer.position(place) for place in places}


ARTICLES = """
SELECT to_jsonb(v) - 'story_id' - 'version' || jsonb_build_object(
    'urls', (SELECT jsonb_agg(canonical_url) FROM api.article_urls u
        WHERE u.article_id = v.article_id),
    'images', (SELECT coalesce(jsonb_agg(to_jsonb(i) - 'article_id' ORDER BY i.position), '[]')
        FROM api.article_images i WHERE i.article_id = v.article_id),
    'related', (SELECT coalesce(jsonb_agg(r.related_article_id ORDER BY r.position), '[]')
        FROM api.related_articles r WHERE r.article_id = v.article_id)) AS state
FROM api.articles v"""

STORIES = """
SELECT to_jsonb(v) - 'version' || jsonb_build_object(
    'articles', (SELECT coalesce(jsonb_agg(to_jsonb(m) - 'story_id' ORDER BY m.article_id), '[]')
        FROM api.story_articles m WHERE m.story_id = v.story_id)) AS state
FROM api.stories v"""


async def database_articles(dsn: str, momentary: frozenset[str] = TIMES | SIGNALS) -> Entities:
    """The articles as the database has them, in the mirror's form."""
    found = {}
    for state in await _states(dsn, ARTICLES):
        kept = {n: v for n, v in state.items() if n not in momentary}
        kept["urls"] = sorted(_key(address) for address in kept["urls"])
        found[state["article_id"]] = kept
    return found


async def database_stories(dsn: str) -> Entities:
    """The stories as the database has them."""
    return {state["story_id"]: state for state in await _states(dsn, STORIES)}


def comparable(value: Any) -> Any:
    """Bring times to one spelling, so that the JSON of two makers agrees."""
    if isinstance(value, dict):
        return {name: comparable(item) for name, item in value.items()}
    if isinstance(value, list):
        return [comparable(item) for item in value]
    if isinstance(value, str) and value.endswith("+00:00"):
        return value.removesuffix("+00:00") + "Z"
    return value


async def _states(dsn: str, query: str) -> list[dict[str, Any]]:
    connection = await asyncpg.connect(dsn, server_settings={"timezone": "UTC"})
    try:
        return [json.loads(row["state"]) for row in await connection.fetch(query)]
    finally:
        await connection.close()


def _key(url: str) -> str:
    return url.split("://", 1)[1].removeprefix("www.").rstrip("/")
