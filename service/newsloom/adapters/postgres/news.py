"""Reads what the status page shows of the stored data: few rows, through the public views."""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any

import asyncpg

from newsloom.adapters.postgres.connection import Connections
from newsloom.settings.groups import PostgresSettings

READ_TIMEOUT_SECONDS = 2.0
"""Longest statement: a page for people must not be a load."""

_ROWS = 10
_TITLE_CHARACTERS = 300

_OUTCOMES = """
SELECT sum(created)::bigint AS created, sum(revised)::bigint AS revised,
    sum(refreshed)::bigint AS refreshed, sum(unchanged)::bigint AS unchanged,
    sum(stale)::bigint AS stale, sum(rejected)::bigint AS rejected
FROM api.ingest_progress"""

# A date far in the future is most likely a mistake, and would stay on top for years.
_ARTICLES = f"""
SELECT left(title, {_TITLE_CHARACTERS}) AS title, canonical_url AS url, published_at,
    coalesce(provider_name, provider_domain, '') AS provider, topics[1:4] AS topics
FROM api.articles
WHERE NOT is_mention AND published_at < now() + interval '1 day'
ORDER BY published_at DESC LIMIT {_ROWS}"""  # noqa: S608 - constants

_DEAD_LETTERS = f"""
SELECT kafka_topic AS topic, kafka_partition AS partition, kafka_offset AS offset, reason, detail,
    created_at
FROM api.dead_letters ORDER BY created_at DESC LIMIT {_ROWS}"""  # noqa: S608 - constants

_STORIES = f"""
SELECT left(title, {_TITLE_CHARACTERS}) AS title, article_count, provider_count, last_published_at
FROM api.stories WHERE article_count > 1
ORDER BY last_published_at DESC NULLS LAST LIMIT {_ROWS}"""  # noqa: S608 - constants


@dataclass(frozen=True, slots=True)
class News:
    """What is stored, as plain values for JSON. `outcomes` of all processes since the beginning."""

    outcomes: Mapping[str, int]
    articles: list[dict[str, Any]]
    dead_letters: list[dict[str, Any]]
    stories: list[dict[str, Any]]


class NewsReader:
    """One connection of its own, so that a person who looks never takes one from ingest."""

    def __init__(self, settings: PostgresSettings) -> None:
        limits = {
            "pool_min_connections": 0,
            "pool_max_connections": 1,
            "statement_timeout_seconds": READ_TIMEOUT_SECONDS,
            "command_timeout_seconds": READ_TIMEOUT_SECONDS + 1,
        }
        self._connections = Connections(settings.model_copy(update=limits), "newsloom status page")

    async def read(self) -> News:
        """Read it all. Raises Unavailable."""
        async with self._connections.use() as connection:
            (outcomes,) = await connection.fetch(_OUTCOMES)
            articles = await connection.fetch(_ARTICLES)
            dead_letters = await connection.fetch(_DEAD_LETTERS)
            stories = await connection.fetch(_STORIES)
        return News(
            outcomes={name: count or 0 for name, count in outcomes.items()},
            articles=[_plain(row) for row in articles],
            dead_letters=[_plain(row) for row in dead_letters],
            stories=[_plain(row) for row in stories],
        )

    def close(self) -> None:
        """End the connection without a word."""
        self._connections.terminate()


def _plain(row: asyncpg.Record) -> dict[str, Any]:
    return {
        name: value.isoformat(timespec="seconds") if isinstance(value, datetime) else value
        for name, value in row.items()
    }
