"""One flat table with the columns and the indexes of newsloom's contents: all the others write."""

import json
from datetime import datetime
from typing import Any

TABLE = """
CREATE TABLE flat (
    url text PRIMARY KEY, title text NOT NULL, excerpt text, body text, type text, category text,
    locale text, published_at timestamptz, provider_name text, provider_domain text,
    quality bigint, heat bigint, topics jsonb, secured text,
    observed_at timestamptz NOT NULL DEFAULT now(),
    search tsvector GENERATED ALWAYS AS (
        newsloom.search_vector('en', title, excerpt, body)) STORED
);
CREATE INDEX ON flat USING gin (search);
CREATE INDEX ON flat (published_at);
CREATE INDEX ON flat (provider_domain, published_at);
CREATE INDEX ON flat (LEAST(published_at, observed_at));
CREATE INDEX ON flat (provider_domain, observed_at);
CREATE INDEX ON flat (observed_at);
"""

TRIGRAM_INDEX = "CREATE INDEX ON flat USING gin (lower(title) {home}.gin_trgm_ops)"
"""Where pg_trgm is installed newsloom has such an index too."""

COLUMNS = (
    "url", "title", "excerpt", "body", "type", "category", "locale", "published_at",
    "provider_name", "provider_domain", "quality", "heat", "topics", "secured",
)  # fmt: skip

UPSERT = (
    f"INSERT INTO flat ({', '.join(COLUMNS)}) "  # noqa: S608 - constants
    f"VALUES ({', '.join(f'${n}' for n in range(1, len(COLUMNS) + 1))}) "
    "ON CONFLICT (url) DO UPDATE SET "
    + ", ".join(f"{name} = excluded.{name}" for name in COLUMNS[1:])
)


def row_of(record: dict[str, Any]) -> dict[str, Any]:
    """Return the row of a record; nothing is checked, cleaned or identified."""
    provider = record.get("provider") or {}
    return {
        "url": record["originalUrl"],
        "title": record["title"],
        "excerpt": record.get("excerpt"),
        "body": record.get("body"),
        "type": record.get("type"),
        "category": record.get("category"),
        "locale": record.get("locale"),
        "published_at": datetime.fromisoformat(record["publishedDateTime"]),
        "provider_name": provider.get("name"),
        "provider_domain": provider.get("domain"),
        "quality": record.get("quality"),
        "heat": record.get("heat"),
        "topics": json.dumps(record.get("topics") or []),
        "secured": record.get("secured"),
    }
