"""The relay's side of Postgres: the change log with present states, and dead letters not yet sent.

Rows of the change log are read as the linker reads them (see `linking`): below the horizon of
running transactions, behind a cursor of its own that an epoch fences.
"""

import asyncio
import base64
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from typing import Any, Final
from uuid import UUID

import asyncpg
import orjson

from newsloom.adapters.postgres.connection import Connections
from newsloom.adapters.postgres.relaying_sql import (
    ADVANCE,
    ARTICLES_MOVED_ON,
    MARK_RELAYED,
    READ,
    SNAPSHOT_ARTICLES,
    SNAPSHOT_STORIES,
    STORIES_MOVED_ON,
    TAKE_OVER,
    UNRELAYED,
    WAITING,
)
from newsloom.adapters.postgres.store import Checkpoint
from newsloom.core.change_log import ChangePosition
from newsloom.core.changes import SNAPSHOT, Changed, Entity, Note
from newsloom.core.dead_letters import Headers, LetterId, StoredLetter
from newsloom.ports import Fenced, RelayFeed, RelayLease, RelayRead, UnsentLetters
from newsloom.settings import PostgresSettings

_LOCKS: Final = {
    RelayFeed.CHANGES: 0x6E65_7772_656C_63,  # "newrelc": one a database
    RelayFeed.DEAD_LETTERS: 0x6E65_7772_656C_64,
}
_TRY_LOCK: Final = "SELECT pg_try_advisory_lock($1)"
_POLL_SECONDS: Final = 1.0
_LEAST_CONNECTIONS: Final = 3
"""The lock of each feed keeps one; without another to work with it would wait for itself."""
_READ_BYTES: Final = 8 << 20
"""Text of articles, or values of dead letters, held in memory at a time."""


def _nothing() -> None:
    """Nobody wants to know that we wait."""


class PostgresRelayStore:
    """See `newsloom.ports.RelayStore`."""

    def __init__(self, connections: Connections, checkpoint: Checkpoint | None = None) -> None:
        self._connections = connections
        self._checkpoint = checkpoint

    @asynccontextmanager
    async def lead(
        self, feed: RelayFeed, on_wait: Callable[[], None] = _nothing
    ) -> AsyncIterator[None]:
        """Hold the feed's advisory lock; it goes with the connection, however that ends."""
        async with self._connections.use() as connection:
            # Not the waiting form of the lock: it would run into the statement timeout.
            while not await connection.fetchval(_TRY_LOCK, _LOCKS[feed]):
                on_wait()
                await asyncio.sleep(_POLL_SECONDS)
            try:
                yield
            finally:
                connection.terminate()

    async def take_over(self, owner_id: str) -> RelayLease:
        """Raise the epoch of the cursor; make the cursor if there is none yet."""
        async with self._connections.use() as connection:
            (row,) = await connection.fetch(TAKE_OVER, owner_id)
        position = ChangePosition(row["xid"], row["change_id"])
        return RelayLease(row["epoch"], position, has_missed=row["has_missed"])

    async def read(self, after: ChangePosition, limit: int) -> RelayRead:
        """Read the next rows; those of one entity come together, with its present state."""
        async with self._connections.use() as connection:
            rows = await connection.fetch(READ, *after, limit, _READ_BYTES)
            if not rows:
                age = await connection.fetchval(WAITING, *after)
                return RelayRead(after, (), 0, age or 0.0)
        last = rows[-1]
        return RelayRead(
            ChangePosition(last["xid"], last["change_id"]),
            _changed(rows),
            len(rows),
            max(row["age"] for row in rows),
        )

    async def advance(self, lease: RelayLease, to: ChangePosition) -> None:
        """Move the cursor, if it is still where the read began, and ours."""
        if self._checkpoint is not None:
            await self._checkpoint("changes_sent")
        async with self._connections.use() as connection:
            if await connection.execute(ADVANCE, lease.epoch, *lease.position, *to) != "UPDATE 1":
                raise Fenced

    async def snapshot(self, entity: Entity, after: UUID, limit: int) -> Sequence[Changed]:
        """Read the present states of the next articles or stories, by id."""
        async with self._connections.use() as connection:
            if entity is Entity.ARTICLE:
                rows = await connection.fetch(SNAPSHOT_ARTICLES, after, limit, _READ_BYTES)
            else:
                rows = await connection.fetch(SNAPSHOT_STORIES, after, limit)
        return [_told_again(entity, row) for row in rows]

    async def moved_on(self, entity: Entity, versions: Mapping[UUID, int]) -> Sequence[Changed]:
        """Read the present states of those whose version is another now."""
        query = ARTICLES_MOVED_ON if entity is Entity.ARTICLE else STORIES_MOVED_ON
        async with self._connections.use() as connection:
            rows = await connection.fetch(query, list(versions), list(versions.values()))
        return [_told_again(entity, row) for row in rows]

    async def unsent_letters(self, limit: int) -> UnsentLetters:
        """Read the oldest letters that are not marked as sent."""
        async with self._connections.use() as connection:
            rows = await connection.fetch(UNRELAYED, limit, _READ_BYTES)
        age = max((row["age"] for row in rows), default=0.0)
        return UnsentLetters([letter_of(row) for row in rows], age)

    async def mark_sent(self, letters: Sequence[StoredLetter]) -> None:
        """Note that Kafka has them."""
        if self._checkpoint is not None:
            await self._checkpoint("letters_sent")
        async with self._connections.use() as connection:
            await connection.execute(MARK_RELAYED, *letter_columns(letters))


def _changed(rows: Sequence[asyncpg.Record]) -> list[Changed]:
    """Put the rows of one entity together, in the order in which the entities first appear."""
    groups: dict[UUID, list[asyncpg.Record]] = {}
    for row in rows:
        groups.setdefault(row["article_id"] or row["story_id"], []).append(row)
    return [_one(entity_id, group) for entity_id, group in groups.items()]


def _one(entity_id: UUID, rows: Sequence[asyncpg.Record]) -> Changed:
    first = rows[0]
    notes = [
        Note(
            version=row["version"],
            kind=row["kind"],
            changed_fields=row["changed_fields"] or [],
            other_id=row["other_id"],
            observed_at=row["observed_at"],
        )
        for row in rows
    ]
    highest = max(note.version for note in notes)
    return Changed(
        entity=Entity.ARTICLE if first["article_id"] else Entity.STORY,
        entity_id=entity_id,
        version=max(first["current_version"] or 0, highest),
        notes=notes,
        recorded_at=max(row["recorded_at"] for row in rows),
        merged_into=first["merged_into"],
        state=None if first["merged_into"] else first["state"],
    )


def _told_again(entity: Entity, row: asyncpg.Record) -> Changed:
    return Changed(
        entity=entity,
        entity_id=row["id"],
        version=row["version"],
        notes=[Note(version=row["version"], kind=SNAPSHOT, observed_at=row["observed_at"])],
        recorded_at=row["read_at"],
        merged_into=row["merged_into"],
        state=None if row["merged_into"] else row["state"],
    )


def letter_of(row: asyncpg.Record) -> StoredLetter:
    """Read a dead letter; a row without the bytes gives a letter without them."""
    named = dict(row)
    return StoredLetter(
        id=LetterId(
            row["kafka_topic"], row["incarnation"], row["kafka_partition"], row["kafka_offset"]
        ),
        consumer_group=row["consumer_group"],
        reason=row["reason"],
        detail=row["detail"],
        observed_at=row["observed_at"],
        created_at=row["created_at"],
        relayed_at=row["relayed_at"],
        replayed_at=row["replayed_at"],
        replay_count=row["replay_count"],
        value_bytes=row["value_bytes"],
        key=named.get("key"),
        value=named.get("value"),
        headers=_headers(named.get("headers")),
    )


def letter_columns(letters: Sequence[StoredLetter]) -> tuple[list[Any], ...]:
    """Give the keys of letters as columns: group, Kafka topic, partition, incarnation, offset."""
    return (
        [letter.consumer_group for letter in letters],
        [letter.id.kafka_topic for letter in letters],
        [letter.id.partition for letter in letters],
        [letter.id.incarnation for letter in letters],
        [letter.id.offset for letter in letters],
    )


def _headers(text: str | None) -> Headers:
    return tuple(
        (name, None if value is None else base64.b64decode(value))
        for name, value in orjson.loads(text or "[]")
    )


@asynccontextmanager
async def open_relay_store(
    settings: PostgresSettings, checkpoint: Checkpoint | None = None
) -> AsyncIterator[PostgresRelayStore]:
    """Open a relay store whose connections end with the block."""
    least = max(settings.pool_max_connections, _LEAST_CONNECTIONS)
    settings = settings.model_copy(update={"pool_max_connections": least})
    connections = Connections(settings, "newsloom relay")
    try:
        yield PostgresRelayStore(connections, checkpoint)
    finally:
        connections.terminate()
