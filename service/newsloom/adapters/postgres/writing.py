"""Carries out the `Writes` of a fold: rows that are new are COPYed, others updated in place."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from uuid import UUID

import asyncpg

from newsloom.adapters.postgres.reading import Keys
from newsloom.adapters.postgres.rows import (
    ALIAS_COLUMNS,
    CHANGE_COLUMNS,
    CONTENT_COLUMNS,
    EDGE_COLUMNS,
    HEAD_COLUMNS,
    REVISION_COLUMNS,
    SIGNALS_COLUMNS,
    VERSION_COLUMNS,
    Row,
    alias_row,
    change_row,
    columns_of,
    content_row,
    dead_letter_row,
    edge_rows,
    head_row,
    revision_row,
    signals_row,
)
from newsloom.core.batch import ArchiveStored, ContentMove, DeadLetter, Head, Writes

_VERSION_LIST = ", ".join(VERSION_COLUMNS)

_MERGE = (
    "UPDATE newsloom.article_urls SET article_id = $2 WHERE article_id = $1",
    "UPDATE newsloom.article_signals SET article_id = $2 WHERE article_id = $1",
    "UPDATE newsloom.articles SET merged_into = $2 WHERE merged_into = $1",
    "UPDATE newsloom.related_articles SET related_article_id = $2 WHERE related_article_id = $1",
)
_MERGE_REVISIONS = """
UPDATE newsloom.article_revisions SET article_id = $2, revision = revision + $3
WHERE article_id = $1"""

_ARCHIVE_STORED = f"""
INSERT INTO newsloom.article_revisions (article_id, revision, {_VERSION_LIST})
SELECT n.article_id, n.revision,
    {", ".join(f"c.{column}" for column in VERSION_COLUMNS)}
FROM unnest($1::uuid[], $2::uuid[], $3::integer[]) AS n (stored_id, article_id, revision)
JOIN newsloom.article_contents AS c ON c.article_id = n.stored_id"""  # noqa: S608 - constants

_CORRECT_ARCHIVED = """
UPDATE newsloom.article_revisions SET changed_fields = $3
WHERE article_id = $1 AND revision = $2"""

_MOVE_CONTENT = """
UPDATE newsloom.article_contents
SET article_id = $2,
    changed_fields = CASE WHEN $3::text[] IS NULL THEN changed_fields ELSE nullif($3, '{}') END
WHERE article_id = $1"""
_MOVE_EDGES = "UPDATE newsloom.related_articles SET article_id = $2 WHERE article_id = $1"

_DROP_CONTENTS = "DELETE FROM newsloom.article_contents WHERE article_id = ANY($1::uuid[])"
_DROP_EDGES = "DELETE FROM newsloom.related_articles WHERE article_id = ANY($1::uuid[])"

# A merge may have made an article its own neighbour: such an edge goes, the rest closes up. Rows
# are renumbered, never written anew: a merge elsewhere may wait for one of them, to redirect it,
# and would miss a new one. By way of negative numbers: the key is checked row by row.
_DROP_SELF_EDGES = """
DELETE FROM newsloom.related_articles
WHERE article_id = ANY($1::uuid[]) AND related_article_id = article_id"""
_CLOSE_UP_EDGES = (
    """
UPDATE newsloom.related_articles AS r SET position = -n.place
FROM (
    SELECT article_id, position,
        row_number() OVER (PARTITION BY article_id ORDER BY position) AS place
    FROM newsloom.related_articles WHERE article_id = ANY($1::uuid[])
) AS n
WHERE r.article_id = n.article_id AND r.position = n.position AND r.position <> n.place""",
    """
UPDATE newsloom.related_articles SET position = -position
WHERE article_id = ANY($1::uuid[]) AND position < 0""",
)

_UPDATE_HEADS = """
UPDATE newsloom.articles AS a
SET version = n.version, revision = n.revision, observed_at = n.observed_at,
    content_hash = n.content_hash, first_seen_at = n.first_seen_at, signals_at = n.signals_at,
    quality = n.quality, heat = n.heat, ratings = n.ratings::jsonb, secured = n.secured,
    merged_into = n.merged_into
FROM unnest(
    $1::uuid[], $2::bigint[], $3::integer[], $4::timestamptz[], $5::bytea[], $6::timestamptz[],
    $7::timestamptz[], $8::integer[], $9::integer[], $10::text[], $11::text[], $12::uuid[]
) AS n (article_id, version, revision, observed_at, content_hash, first_seen_at,
    signals_at, quality, heat, ratings, secured, merged_into)
WHERE a.article_id = n.article_id"""

_UPDATE_ALIASES = """
UPDATE newsloom.article_urls AS u
SET article_id = n.article_id, kind = n.kind::newsloom.url_kind, url = n.url,
    canonical_url = n.canonical_url
FROM unnest($1::uuid[], $2::uuid[], $3::text[], $4::text[], $5::text[])
    AS n (url_id, article_id, kind, url, canonical_url)
WHERE u.url_id = n.url_id"""

# Read before its article was locked, so somebody may have improved the row since: compare again.
_IMPROVE_ALIASES = f"""{_UPDATE_ALIASES}
    AND (n.kind::newsloom.url_kind, n.url COLLATE "C", n.canonical_url COLLATE "C")
        < (u.kind, u.url COLLATE "C", u.canonical_url COLLATE "C")"""

_DELETE_ALIASES = "DELETE FROM newsloom.article_urls WHERE url_id = ANY($1::uuid[])"

_INSERT_DEAD_LETTERS = """
INSERT INTO newsloom.dead_letters (consumer_group, kafka_topic, kafka_partition, incarnation,
    kafka_offset, observed_at, reason, detail, key, value, headers)
SELECT $1, $2, $3, $4, n.kafka_offset, n.observed_at, n.reason, n.detail, n.key, n.value,
    n.headers::jsonb
FROM unnest($5::bigint[], $6::timestamptz[], $7::text[], $8::text[], $9::bytea[], $10::bytea[],
    $11::text[]) AS n (kafka_offset, observed_at, reason, detail, key, value, headers)
ON CONFLICT DO NOTHING"""
_DEAD_LETTER_WIDTH = 7


@dataclass(frozen=True, slots=True)
class Source:
    """Where a batch came from: the part of a dead letter's key that its deliveries share."""

    consumer_group: str
    topic: str
    partition: int
    incarnation: int


async def write(connection: asyncpg.Connection, writes: Writes, keys: Keys, source: Source) -> None:
    """Write all rows of a batch inside the caller's transaction; nothing is sent for no rows."""
    await _move_stored(connection, writes)
    contents = [*writes.new_contents, *writes.replaced_contents]
    await _copy(connection, "article_contents", CONTENT_COLUMNS, map(content_row, contents))
    await _copy(connection, "articles", HEAD_COLUMNS, map(head_row, writes.new_heads))
    await _update_heads(connection, writes.changed_heads)
    edges = (row for content in contents for row in edge_rows(content))
    await _copy(connection, "related_articles", EDGE_COLUMNS, edges)
    if writes.merges:
        await _drop_self_edges(connection, [merge.winner for merge in writes.merges])
    await _write_aliases(connection, writes, keys)
    await _copy(
        connection, "article_revisions", REVISION_COLUMNS, map(revision_row, writes.archived)
    )
    await _copy(
        connection, "article_signals", SIGNALS_COLUMNS, map(signals_row, writes.signals_history)
    )
    await _copy(connection, "changes", CHANGE_COLUMNS, map(change_row, writes.changes))
    await _insert_dead_letters(connection, writes.dead_letters, source)


async def _move_stored(connection: asyncpg.Connection, writes: Writes) -> None:
    """Make room for new contents: merge what is stored, archive, drop and move, in this order."""
    # Nothing is stored under an article of this batch, until a stored one is merged into it.
    bare = {head.article_id for head in writes.new_heads}
    for loser, winner, offset in writes.merges:
        if loser not in bare:
            bare.discard(winner)
            for statement in _MERGE:
                await connection.execute(statement, loser, winner)
            await connection.execute(_MERGE_REVISIONS, loser, winner, offset)
    await _archive(connection, writes.archive_stored)
    replaced = [content.article_id for content in writes.replaced_contents]
    if dropped := sorted({*writes.content_drops, *replaced}):
        await connection.execute(_DROP_CONTENTS, dropped)
        await connection.execute(_DROP_EDGES, dropped)
    await _move_contents(connection, writes.content_moves)


async def _drop_self_edges(connection: asyncpg.Connection, winners: Sequence[UUID]) -> None:
    if await connection.execute(_DROP_SELF_EDGES, winners) != "DELETE 0":
        for statement in _CLOSE_UP_EDGES:
            await connection.execute(statement, winners)


async def _archive(connection: asyncpg.Connection, rows: Sequence[ArchiveStored]) -> None:
    if rows:
        columns = columns_of(((row.stored_id, row.article_id, row.revision) for row in rows), 3)
        await connection.execute(_ARCHIVE_STORED, *columns)
    for row in rows:
        if row.changed_fields is not None:
            await connection.execute(
                _CORRECT_ARCHIVED, row.article_id, row.revision, list(row.changed_fields) or None
            )


async def _move_contents(connection: asyncpg.Connection, moves: Iterable[ContentMove]) -> None:
    for move in moves:
        changed = None if move.changed_fields is None else list(move.changed_fields)
        await connection.execute(_MOVE_CONTENT, move.stored_id, move.article_id, changed)
        if move.stored_id != move.article_id:
            await connection.execute(_MOVE_EDGES, move.stored_id, move.article_id)


async def _copy(
    connection: asyncpg.Connection, table: str, columns: Sequence[str], rows: Iterable[Row]
) -> None:
    # Materialised first: an error raised by a generator inside COPY may leave it hanging.
    if records := list(rows):
        await connection.copy_records_to_table(
            table, schema_name="newsloom", columns=columns, records=records
        )


async def _update_heads(connection: asyncpg.Connection, heads: Sequence[Head]) -> None:
    if heads:
        *columns, _article_key = columns_of(map(head_row, heads), len(HEAD_COLUMNS))
        await connection.execute(_UPDATE_HEADS, *columns)


async def _write_aliases(connection: asyncpg.Connection, writes: Writes, keys: Keys) -> None:
    """Correct what the fold decided otherwise than the tentative aliases had it."""
    url_ids, inserted = keys.url_ids, keys.inserted
    corrected = {key: alias for key, alias in writes.new_aliases.items() if inserted[key] != alias}
    for statement, aliases in (
        (_UPDATE_ALIASES, corrected),
        (_IMPROVE_ALIASES, writes.changed_aliases),
    ):
        if aliases:
            rows = (alias_row(url_ids[key], alias) for key, alias in aliases.items())
            await connection.execute(statement, *columns_of(rows, len(ALIAS_COLUMNS)))
    if unused := [url_ids[key] for key in inserted if key not in writes.new_aliases]:
        await connection.execute(_DELETE_ALIASES, unused)


async def _insert_dead_letters(
    connection: asyncpg.Connection, letters: Sequence[DeadLetter], source: Source
) -> None:
    if letters:
        columns = columns_of(map(dead_letter_row, letters), _DEAD_LETTER_WIDTH)
        await connection.execute(
            _INSERT_DEAD_LETTERS,
            source.consumer_group,
            source.topic,
            source.partition,
            source.incarnation,
            *columns,
        )
