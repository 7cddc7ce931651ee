"""What a batch has to know: its keys made ours or found taken, their articles locked.

Locks are taken in one order by everybody, so that two batches never wait for each other in a
circle: offset row, new URL keys by id, articles by id.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from uuid import UUID

import asyncpg
import orjson

from newsloom.adapters.postgres.rows import ALIAS_COLUMNS, Row, alias_row, columns_of, head_of
from newsloom.core.batch import Alias, Head, Item, StoredState
from newsloom.core.gathering import contents_needed
from newsloom.core.identity import article_id


class OwnerMoved(Exception):  # noqa: N818 - a state of the world: begin the transaction again
    """Another transaction merged an article between our reading its keys and locking it."""


@dataclass(frozen=True, slots=True)
class Keys:
    """The URL keys of a batch: their ids, who owns those that were known, and which are ours now.

    `inserted` are the tentative aliases of keys that nobody had; they are in the table.
    """

    url_ids: Mapping[str, UUID]
    known: Mapping[str, Alias]
    inserted: Mapping[str, Alias]


_READ_ALIASES = """
SELECT url_id, article_id, kind::text AS kind, url, canonical_url
FROM newsloom.article_urls WHERE url_id = ANY($1::uuid[])"""

_INSERT_ALIASES = """
INSERT INTO newsloom.article_urls (url_id, article_id, kind, url, canonical_url)
SELECT n.url_id, n.article_id, n.kind::newsloom.url_kind, n.url, n.canonical_url
FROM unnest($1::uuid[], $2::uuid[], $3::text[], $4::text[], $5::text[])
    AS n (url_id, article_id, kind, url, canonical_url)
ON CONFLICT (url_id) DO NOTHING
RETURNING url_id"""

_LOCK_HEADS = """
SELECT article_id, article_key, version, revision, observed_at, content_hash, first_seen_at,
    quality, heat, ratings, signals_at, secured, merged_into, erased_at
FROM newsloom.articles WHERE article_id = ANY($1::uuid[])
ORDER BY article_id
FOR NO KEY UPDATE"""

_READ_FIELD_HASHES = """
SELECT article_id, field_hashes FROM newsloom.article_contents WHERE article_id = ANY($1::uuid[])"""


async def find_keys(connection: asyncpg.Connection, tentative: Mapping[str, Alias]) -> Keys:
    """Find the owners of the keys of a batch, and make ours those that have none.

    Keys that are stored already are only read, so that a redelivery writes nothing here.
    """
    url_ids = {key: article_id(key) for key in tentative}
    known = await _read_aliases(connection, {url_id: key for key, url_id in url_ids.items()})
    inserted: dict[str, Alias] = {}
    unknown = {key: alias for key, alias in tentative.items() if key not in known}
    if unknown:
        inserted = await _insert_aliases(connection, unknown, url_ids)
        # What somebody else has committed meanwhile is visible to a new statement.
        taken = {url_ids[key]: key for key in unknown if key not in inserted}
        known |= await _read_aliases(connection, taken)
    return Keys(url_ids, known, inserted)


async def gather(connection: asyncpg.Connection, items: Sequence[Item], keys: Keys) -> StoredState:
    """Lock and read the articles that own the known keys. Raises `OwnerMoved`."""
    heads = await _lock_heads(connection, {alias.article_id for alias in keys.known.values()})
    state = StoredState(keys.known, heads)
    if needed := contents_needed(items, state):
        rows = await connection.fetch(_READ_FIELD_HASHES, sorted(needed))
        state.field_hashes = {row["article_id"]: orjson.loads(row["field_hashes"]) for row in rows}
    return state


async def _read_aliases(
    connection: asyncpg.Connection, keys: Mapping[UUID, str]
) -> dict[str, Alias]:
    rows = await connection.fetch(_READ_ALIASES, list(keys)) if keys else []
    return {
        keys[row["url_id"]]: Alias(row["article_id"], row["kind"], row["url"], row["canonical_url"])
        for row in rows
    }


async def _insert_aliases(
    connection: asyncpg.Connection, aliases: Mapping[str, Alias], url_ids: Mapping[str, UUID]
) -> dict[str, Alias]:
    rows = [alias_row(url_ids[key], alias) for key, alias in aliases.items()]
    rows.sort(key=_id_number)
    inserted = await connection.fetch(_INSERT_ALIASES, *columns_of(rows, len(ALIAS_COLUMNS)))
    if len(inserted) == len(rows):
        return dict(aliases)
    ours = {row["url_id"] for row in inserted}
    return {key: alias for key, alias in aliases.items() if url_ids[key] in ours}


def _id_number(row: Row) -> int:
    """Give the order of ids, without comparing them as objects: there are thousands in a batch."""
    number: int = row[0].int
    return number


async def _lock_heads(connection: asyncpg.Connection, owners: set[UUID]) -> dict[UUID, Head]:
    if not owners:
        return {}
    rows = await connection.fetch(_LOCK_HEADS, sorted(owners))
    heads = {row["article_id"]: head_of(row) for row in rows}
    if len(heads) < len(owners) or any(head.merged_into is not None for head in heads.values()):
        raise OwnerMoved
    return heads
