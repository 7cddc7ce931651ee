"""Two databases, or a database and the judge: do they hold the same?

`dump` and `differences` compare row for row what must be equal whatever happened to the processes:
every table of schema `newsloom`, without what is only true of one run (see `OWN_COLUMNS`).
`stored_world` and `expected_world` compare what must be equal even where the deliveries of one
article came through several partitions: articles are matched by their URLs there, since the id that
an article got may depend on arrival.
"""

import hashlib
import html
import re
from collections import Counter
from collections.abc import Collection, Iterable, Iterator
from dataclasses import dataclass
from typing import TypeAlias

import asyncpg

from tests.support.oracle import (
    UNKNOWN,
    Oracle,
    article_key,
    fold,
    parse_time,
    secured_of,
)

# Columns that say when, by whom or in which order our own process wrote: never what it wrote.
OWN_COLUMNS = frozenset(
    {
        "recorded_at",  # when a row was written
        "created_at",
        "updated_at",
        "batch_started_at",
        "owner_id",  # by whom
        "owner_epoch",
        "strikes",
        "consumer_group",
        "xid",  # in which order
        "change_id",
    }
)
PROGRESS = frozenset({"ingest_offsets"})
CHANGE_LOG = frozenset({"changes"})
BOOKKEEPING = frozenset({"schema_migrations", "cursors"})

Row: TypeAlias = tuple[str, ...]
Dump: TypeAlias = dict[str, Counter[Row]]
World: TypeAlias = dict[frozenset[str], dict[str, object]]

_TABLES = """
SELECT c.relname AS table_name, a.attname AS column_name,
       quote_ident(a.attname) ||  -- json keeps the order of its names, which says nothing
         CASE a.atttypid WHEN 'json'::regtype THEN '::jsonb::text' ELSE '::text' END AS as_text,
       a.attidentity <> '' OR coalesce(
         pg_get_expr(d.adbin, d.adrelid)
           ~ '(now|clock_timestamp|statement_timestamp|nextval|pg_current_xact_id)\\(', false
       ) AS is_own
FROM pg_class c
JOIN pg_namespace n ON n.oid = c.relnamespace
JOIN pg_attribute a ON a.attrelid = c.oid AND a.attnum > 0 AND NOT a.attisdropped
LEFT JOIN pg_attrdef d ON d.adrelid = c.oid AND d.adnum = a.attnum
WHERE n.nspname = 'newsloom' AND c.relkind IN ('r', 'p') AND NOT c.relispartition
ORDER BY c.relname, a.attnum
"""


@dataclass(frozen=True, slots=True)
class Table:
    """A table and the columns that are compared."""

    name: str
    columns: tuple[str, ...]
    expressions: tuple[str, ...]


async def tables(connection: asyncpg.Connection) -> list[Table]:
    """Return all tables (partitioned ones once), without columns of one run only."""
    found: dict[str, dict[str, str]] = {}
    for row in await connection.fetch(_TABLES):
        columns = found.setdefault(row["table_name"], {})
        if not row["is_own"] and row["column_name"] not in OWN_COLUMNS:
            columns[row["column_name"]] = row["as_text"]
    return [
        Table(name, tuple(columns), tuple(columns.values()))
        for name, columns in found.items()
        if columns
    ]


async def dump(dsn: str, *, without: Collection[str] = ()) -> Dump:
    """Read every table but those in `without` and the bookkeeping; rows as counted texts."""
    connection = await asyncpg.connect(dsn)
    try:
        found: Dump = {}
        for table in await tables(connection):
            if table.name in BOOKKEEPING or table.name in without:
                continue
            columns = ", ".join(table.expressions)
            rows = await connection.fetch(f'SELECT {columns} FROM newsloom."{table.name}"')  # noqa: S608 - names from the catalogue
            found[table.name] = Counter(
                tuple(
                    f"{name}={_short(value)}"
                    for name, value in zip(table.columns, row, strict=True)
                )
                for row in rows
            )
        return found
    finally:
        await connection.close()


def _short(value: str | None) -> str:
    """Keep rows readable and small; what is cut off is still told apart."""
    if value is None or len(value) <= 120:
        return str(value)
    return f"{value[:60]}... sha256 {hashlib.sha256(value.encode()).hexdigest()[:16]}"


def differences(one: Dump, two: Dump, *, shown: int = 3) -> str:
    """Tell which tables differ, with the first rows of each; empty when none does."""
    return "\n".join(_differences(one, two, shown))


def _differences(one: Dump, two: Dump, shown: int) -> Iterator[str]:
    for name in sorted(one.keys() | two.keys()):
        here, there = one.get(name, Counter()), two.get(name, Counter())
        missing, extra = here - there, there - here
        if missing or extra:
            yield (
                f"{name}: {missing.total()} of {here.total()} rows only in the first, "
                f"{extra.total()} of {there.total()} only in the second:\n"
                + "\n".join(_pair(row, extra) for row in sorted(missing)[:shown])
                + ("" if missing else f"  {sorted(extra)[:shown]}")
            )


def _pair(row: Row, others: Collection[Row]) -> str:
    """Set a row beside the one of the other side that is most like it."""
    near = max(others, key=lambda other: len(set(row) & set(other)), default=())
    if len(set(row) & set(near)) < len(row) / 2:
        return f"  only in the first: {row}"
    same = [value for value in row if value in near][:2]
    return f"  {same}: {[v for v in row if v not in near]} != {[v for v in near if v not in row]}"


# --- matched by URLs ------------------------------------------------------------------------------

NOWHERE = frozenset({"an article without any URL"})
"""Merged away, or never there: nothing may lead to it."""

_AMP = re.compile(r"\bamp\b|ampproject", re.IGNORECASE)

_ARTICLES = """
SELECT article_id, is_mention, first_seen_at, observed_at, title, quality, heat, is_published,
       is_removed, published_at, topics
FROM api.articles
"""


def plain(keys: Iterable[str]) -> frozenset[str]:
    """Leave out AMP addresses: the service knows whose they are, the judge does not try to."""
    return frozenset(key for key in keys if not _AMP.search(key))


async def stored_world(dsn: str) -> World:
    """Read every article by the set of its URLs, through the public views (and `secured`)."""
    connection = await asyncpg.connect(dsn)
    try:
        keys: dict[object, set[str]] = {}
        for row in await connection.fetch("SELECT article_id, canonical_url FROM api.article_urls"):
            keys.setdefault(row["article_id"], set()).add(article_key(row["canonical_url"]) or "?")
        urls = {some_id: plain(known) for some_id, known in keys.items()}
        related: dict[object, list[frozenset[str]]] = {}
        for row in await connection.fetch(
            "SELECT article_id, related_article_id FROM api.related_articles ORDER BY 1, position"
        ):
            target = urls.get(row["related_article_id"], NOWHERE)
            related.setdefault(row["article_id"], []).append(target)
        secured = await _secured(connection)
        rows = await connection.fetch(_ARTICLES)
        return {
            urls.get(row["article_id"], NOWHERE): _stored_row(
                row, related.get(row["article_id"], []), secured.get(row["article_id"])
            )
            for row in rows
        }
    finally:
        await connection.close()


async def _secured(connection: asyncpg.Connection) -> dict[object, str | None]:
    """`secured` is in no view: it is read from the one table that has the column."""
    rows = await connection.fetch("SELECT article_id, secured FROM newsloom.articles")
    return {row["article_id"]: row["secured"] for row in rows}


def _stored_row(
    row: asyncpg.Record, related: list[frozenset[str]], secured: str | None
) -> dict[str, object]:
    kept = {name: row[name] for name in row.keys() if name not in {"article_id", "title", "topics"}}  # noqa: SIM118 - a record iterates its values
    return {
        **kept,
        "title": _title(row["title"]),
        "topics": tuple(sorted(row["topics"] or ())),
        "related": tuple(related),
        "secured": secured,
    }


def expected_world(oracle: Oracle) -> World:
    """Return what the judge says, in the form of `stored_world`."""
    urls = {some_id: plain(keys) for some_id, keys in oracle.urls().items()}
    edges = oracle.edges()
    return {
        urls[a.article_id]: {
            "is_mention": not a.full,
            "first_seen_at": a.first_seen_at,
            "observed_at": a.observed_at,
            "title": _title(a.record["title"]),
            "quality": _signal(a.record.get("quality")),
            "heat": _signal(a.record.get("heat")),
            "is_published": _truth(a.record.get("published")),
            "is_removed": bool(_truth(a.record.get("removed"))),
            "published_at": parse_time(a.record.get("publishedDateTime")),
            "topics": _topics(a.record.get("topics")),
            "related": tuple(urls[target] for target in edges.get(a.article_id, ())),
            "secured": secured_of(a.record),
        }
        for a in oracle.articles.values()
    }


def _title(title: object) -> str:
    """Entities are enrichment's business: both sides without them."""
    return fold(html.unescape(html.unescape(fold(title))))


def _topics(value: object) -> tuple[str, ...]:
    return tuple(sorted({fold(topic) for topic in value})) if isinstance(value, list) else ()


def _signal(value: object) -> int | None:
    number = None if value is None else int(fold(value))
    return None if number == UNKNOWN else number


def _truth(value: object) -> bool | None:
    return None if value is None else fold(value) == "true"


def world_differences(expected: World, stored: World, *, shown: int = 5) -> list[str]:
    """Return sentences about articles that are missing, surplus or different; the first few."""
    found = [f"missing: {sorted(urls)}" for urls in expected.keys() - stored.keys()]
    found += [f"not expected: {sorted(urls)}" for urls in stored.keys() - expected.keys()]
    for urls in sorted(expected.keys() & stored.keys(), key=sorted):
        wanted, got = expected[urls], stored[urls]
        found += [
            f"{sorted(urls)} {name}: expected {wanted[name]!r}, stored {got[name]!r}"
            for name in wanted
            if wanted[name] != got[name]
        ]
    return found[:shown] + ([f"... {len(found)} in all"] if len(found) > shown else [])


def dead_letters_expected(oracle: Oracle) -> Counter[tuple[int, int, str | None]]:
    """Return (partition, offset, reason or None where the rules name none)."""
    return Counter((d.partition, d.offset, d.reason) for d in oracle.dead_letters)
