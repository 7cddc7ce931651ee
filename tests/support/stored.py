"""What a store holds, as plain values: the same shape whichever store it is."""

import base64
import json
from collections import Counter
from typing import Any

import asyncpg

from newsloom.adapters.memory import MemoryStore
from newsloom.core.article import Image, Ratings, Signals
from newsloom.core.batch import Content, Head, Outcome
from newsloom.core.identity import article_id

Stored = dict[str, Any]

_CONTENT = (
    "canonical_url", "title", "excerpt", "body", "type", "category", "language",
    "declared_language", "locale", "language_score", "published_at", "updated_at", "is_published",
    "is_removed", "lead_image_url", "featured_content", "price", "length", "word_count",
    "reading_seconds",
)  # fmt: skip
_LISTS = ("topics", "tags", "categories", "levels")
_JSON_LISTS = ("provider_images", "images", "actions", "items")
_JSON_OBJECTS = ("provider_extra", "extra", "field_hashes")
_IMAGE = ("url", "width", "height", "is_cached", "title", "attribution")
_HEAD = (
    "article_id", "article_key", "version", "revision", "observed_at", "content_hash",
    "first_seen_at", "signals_at", "secured", "merged_into",
)  # fmt: skip
_TABLES = {
    "articles": "article_id",
    "article_contents": "article_id",
    "related_articles": "article_id, position",
    "article_urls": "url_id",
    "article_revisions": "article_id, revision",
    "article_signals": "article_id, observed_at",
    "changes": "xid, change_id",
    "dead_letters": "kafka_topic, kafka_partition, incarnation, kafka_offset",
    "ingest_offsets": "kafka_topic, kafka_partition",
}
_COUNTS = ("created", "revised", "refreshed", "unchanged", "stale", "rejected")


def stored_in_memory(store: MemoryStore) -> Stored:
    """Show what a MemoryStore holds."""
    return {
        "heads": {head.article_id: _head(head) for head in store.heads.values()},
        "contents": {owner: _content(content) for owner, content in store.contents.items()},
        "edges": {
            owner: edges
            for owner, content in store.contents.items()
            if (edges := [target for target in content.related if target is not None])
        },
        "aliases": {article_id(key): tuple(alias) for key, alias in store.aliases.items()},
        "revisions": {
            (owner, number): _content(content)
            for owner, numbered in store.revisions.items()
            for number, content in numbered.items()
        },
        "signals": Counter((row.article_id, row.observed_at, row.signals) for row in store.signals),
        "changes": [
            (c.article_id, c.version, c.kind.value, c.observed_at, c.changed_fields, c.other_id)
            for c in store.changes
        ],
        "dead_letters": {
            (*partition, incarnation, offset): (
                letter.reason,
                letter.detail,
                letter.observed_at,
                letter.key,
                letter.value,
                letter.headers,
            )
            for (partition, incarnation, offset), letter in store.dead_letters.items()
        },
        "positions": {
            tuple(partition): (
                position.next_offset,
                position.anchor,
                position.parked_reason,
                tuple(position.counts[Outcome(name)] for name in _COUNTS),
            )
            for partition, position in store.positions.items()
        },
    }


async def stored_in_postgres(dsn: str) -> Stored:
    """Show what a database holds."""
    connection = await asyncpg.connect(dsn)
    try:
        tables = {
            table: await connection.fetch(f"SELECT * FROM newsloom.{table} ORDER BY {order}")  # noqa: S608
            for table, order in _TABLES.items()
        }
    finally:
        await connection.close()
    revisions = [((r["article_id"], r["revision"]), _row(r)) for r in tables["article_revisions"]]
    assert len(dict(revisions)) == len(revisions), "two revisions of one number"
    return {
        "heads": {
            r["article_id"]: {name: r[name] for name in _HEAD}
            | {"signals": _signals(r), "is_erased": r["erased_at"] is not None}
            for r in tables["articles"]
        },
        "contents": {r["article_id"]: _row(r) for r in tables["article_contents"]},
        "edges": _edges(tables["related_articles"]),
        "aliases": {
            r["url_id"]: (r["article_id"], r["kind"], r["url"], r["canonical_url"])
            for r in tables["article_urls"]
        },
        "revisions": dict(revisions),
        "signals": Counter(
            (r["article_id"], r["observed_at"], _signals(r)) for r in tables["article_signals"]
        ),
        "changes": [
            (
                r["article_id"],
                r["version"],
                r["kind"],
                r["observed_at"],
                tuple(r["changed_fields"] or ()),
                r["other_id"],
            )
            for r in tables["changes"]
        ],
        "dead_letters": {
            (r["kafka_topic"], r["kafka_partition"], r["incarnation"], r["kafka_offset"]): (
                r["reason"],
                r["detail"],
                r["observed_at"],
                r["key"],
                r["value"],
                _headers(r["headers"]),
            )
            for r in tables["dead_letters"]
        },
        "positions": {
            (r["kafka_topic"], r["kafka_partition"]): (
                r["next_offset"],
                None
                if r["anchor_offset"] is None
                else (r["anchor_offset"], r["anchor_timestamp_ms"], r["anchor_sha256"]),
                r["parked_reason"],
                tuple(r[name] for name in _COUNTS),
            )
            for r in tables["ingest_offsets"]
        },
    }


def _head(head: Head) -> dict[str, Any]:
    assert head.is_mention == (head.revision == 0)
    return {name: getattr(head, name) for name in _HEAD} | {
        "signals": head.signals,
        "is_erased": head.is_erased,
    }


def _content(content: Content) -> dict[str, Any]:
    article = content.article
    return (
        {name: getattr(article, name) for name in _CONTENT}
        | {name: list(getattr(article, name)) for name in _LISTS}
        | {
            "observed_at": content.observed_at,
            "changed_fields": content.changed_fields,
            "provider_name": article.provider.name,
            "provider_domain": article.provider.domain,
            "provider_images": [_image(image) for image in article.provider.images],
            "provider_extra": dict(article.provider.extra),
            "images": [_image(image) for image in article.images],
            "actions": list(article.actions),
            "items": list(article.items),
            "extra": dict(article.extra),
            "field_hashes": {} if article.is_mention else dict(article.field_hashes),
        }
    )


def _row(row: asyncpg.Record) -> dict[str, Any]:
    return (
        {name: row[name] for name in _CONTENT}
        | {name: row[name] or [] for name in _LISTS}
        | {
            "observed_at": row["observed_at"],
            "changed_fields": tuple(row["changed_fields"] or ()),
            "provider_name": row["provider_name"],
            "provider_domain": row["provider_domain"],
        }
        | {name: json.loads(row[name] or "[]") for name in _JSON_LISTS}
        | {name: json.loads(row[name] or "{}") for name in _JSON_OBJECTS}
    )


def _image(image: Image) -> dict[str, Any]:
    return {name: v for name in _IMAGE if (v := getattr(image, name)) is not None}


def _signals(row: asyncpg.Record) -> Signals:
    ratings = Ratings(**json.loads(row["ratings"])) if row["ratings"] else None
    return Signals(row["quality"], row["heat"], ratings)


def _edges(rows: list[asyncpg.Record]) -> dict[Any, list[Any]]:
    edges: dict[Any, list[Any]] = {}
    for row in rows:
        targets = edges.setdefault(row["article_id"], [])
        targets.append(row["related_article_id"])
        assert row["position"] == len(targets), "positions have a gap"
    return edges


def _headers(text: str | None) -> tuple[tuple[str, bytes | None], ...]:
    return tuple(
        (name, None if value is None else base64.b64decode(value))
        for name, value in json.loads(text or "[]")
    )


async def empty_postgres(dsn: str) -> None:
    """Make a database as new; much quicker than a new one."""
    connection = await asyncpg.connect(dsn)
    try:
        for table in _TABLES:
            await connection.execute(f"DELETE FROM newsloom.{table}")  # noqa: S608
    finally:
        await connection.close()
