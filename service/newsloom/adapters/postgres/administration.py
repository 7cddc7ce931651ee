"""What operators do by hand: dead letters and positions. Runs with the rights of newsloom_admin.

Whatever changes something writes an audit row in the same transaction.
"""

from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import asdict, dataclass
from typing import Any, Final

import asyncpg
import orjson

from newsloom.adapters.postgres.connection import Connections
from newsloom.adapters.postgres.relaying import letter_columns, letter_of
from newsloom.adapters.postgres.relaying_sql import LETTER_COLUMNS
from newsloom.core.dead_letters import LetterId, StoredLetter
from newsloom.core.offsets import Rebase, RebaseRefused, StoredPosition, rebased
from newsloom.errors import Unavailable
from newsloom.ports import LetterFilter, TopicPartition
from newsloom.settings import PostgresSettings

_PAGE_BYTES: Final = 8 << 20

# $1 reason, $2 since, $3 until, $4 Kafka topic. The metric folds db.<SQLSTATE> into db.data.
_MATCHES = """
    ($1::text IS NULL OR reason = $1 OR ($1 = 'db.data' AND reason LIKE 'db.%'))
    AND ($2::timestamptz IS NULL OR created_at >= $2)
    AND ($3::timestamptz IS NULL OR created_at < $3)
    AND ($4::text IS NULL OR kafka_topic = $4)"""
_ORDER = "kafka_topic, kafka_partition, incarnation, kafka_offset, consumer_group"

_LIST = f"""
SELECT {LETTER_COLUMNS}, headers FROM newsloom.dead_letters WHERE {_MATCHES}
ORDER BY created_at DESC, {_ORDER} LIMIT $5"""  # noqa: S608 - constants

_COUNTS = f"""
SELECT reason, count(*) AS letters, count(replayed_at) AS replayed FROM newsloom.dead_letters
WHERE {_MATCHES} GROUP BY reason ORDER BY letters DESC, reason"""  # noqa: S608 - as above

_ONE = f"""
SELECT {LETTER_COLUMNS}, key, value, headers FROM newsloom.dead_letters
WHERE kafka_topic = $1 AND incarnation = $2 AND kafka_partition = $3 AND kafka_offset = $4
ORDER BY consumer_group LIMIT 1"""  # noqa: S608 - as above

# ... $5 those that were replayed too, $6 to $10 the last letter of the page before, $11 letters,
# $12 bytes at most (but one letter always)
_PAGE = f"""
SELECT {LETTER_COLUMNS}, key, value, headers
FROM (
    SELECT d.*, row_number() OVER w AS number,
        sum(coalesce(octet_length(d.value), 0)) OVER w AS total
    FROM (
        SELECT * FROM newsloom.dead_letters
        WHERE {_MATCHES} AND ($5 OR replayed_at IS NULL)
            AND ($6::text IS NULL OR ({_ORDER}) > ($6, $7::integer, $8::integer, $9::bigint, $10))
        ORDER BY {_ORDER} LIMIT $11
    ) AS d
    WINDOW w AS (ORDER BY {_ORDER})
) AS d
WHERE number = 1 OR total <= $12
ORDER BY number"""  # noqa: S608 - as above

# $1 to $5 the letters, $6 how often each had been replayed, $7 who
_MARK_REPLAYED = """
WITH marked AS (
    UPDATE newsloom.dead_letters AS d
    SET replayed_at = now(), replay_count = d.replay_count + 1
    FROM unnest($1::text[], $2::text[], $3::integer[], $4::integer[], $5::bigint[], $6::integer[])
        AS n (consumer_group, kafka_topic, kafka_partition, incarnation, kafka_offset, replay_count)
    WHERE (d.consumer_group, d.kafka_topic, d.kafka_partition, d.incarnation, d.kafka_offset)
        = (n.consumer_group, n.kafka_topic, n.kafka_partition, n.incarnation, n.kafka_offset)
        AND d.replay_count = n.replay_count
    RETURNING d.kafka_topic, d.kafka_partition, d.kafka_offset
)
INSERT INTO newsloom.audit_log (os_user, action, subject, after, reason)
SELECT $7, 'dead-letters replay', kafka_topic || '/' || kafka_partition,
    jsonb_build_object('letters', count(*), 'lowest_offset', min(kafka_offset),
        'highest_offset', max(kafka_offset)),
    'replay'
FROM marked GROUP BY kafka_topic, kafka_partition"""

_POSITIONS = """
SELECT * FROM newsloom.ingest_offsets WHERE $1::text IS NULL OR consumer_group = $1
ORDER BY consumer_group, kafka_topic, kafka_partition"""

_POSITION = """
SELECT * FROM newsloom.ingest_offsets
WHERE consumer_group = $1 AND kafka_topic = $2 AND kafka_partition = $3"""

_REBASE = """
UPDATE newsloom.ingest_offsets
SET incarnation = $4, next_offset = $5, owner_epoch = $6, skipped = $7, parked_reason = NULL,
    strikes = 0, batch_started_at = NULL, anchor_offset = NULL, anchor_timestamp_ms = NULL,
    anchor_sha256 = NULL, updated_at = now()
WHERE consumer_group = $1 AND kafka_topic = $2 AND kafka_partition = $3"""

_AUDIT = """
INSERT INTO newsloom.audit_log (os_user, action, subject, before, after, reason)
VALUES ($1, 'offsets rebase', $2, $3::jsonb, $4::jsonb, $5)"""


@dataclass(frozen=True, slots=True)
class ReasonCount:
    """How many letters have a reason, and how many of them were replayed."""

    reason: str
    letters: int
    replayed: int


class Administration:
    """An operator's view of the database. `os_user` is written beside what is done.

    Every method may raise `Unavailable`.
    """

    def __init__(self, connections: Connections, os_user: str) -> None:
        self._connections = connections
        self._os_user = os_user

    async def letters(self, wanted: LetterFilter, limit: int) -> Sequence[StoredLetter]:
        """Return the newest letters, without key and value."""
        async with self._connections.use() as connection:
            rows = await connection.fetch(_LIST, *wanted, limit)
        return [letter_of(row) for row in rows]

    async def counts(self, wanted: LetterFilter) -> Sequence[ReasonCount]:
        """Count letters by reason, most first."""
        async with self._connections.use() as connection:
            rows = await connection.fetch(_COUNTS, *wanted)
        return [ReasonCount(**row) for row in rows]

    async def letter(self, name: LetterId) -> StoredLetter | None:
        """Return one letter whole."""
        async with self._connections.use() as connection:
            row = await connection.fetchrow(
                _ONE, name.kafka_topic, name.incarnation, name.partition, name.offset
            )
        return None if row is None else letter_of(row)

    async def replayable(
        self, wanted: LetterFilter, after: StoredLetter | None, limit: int, *, again: bool
    ) -> Sequence[StoredLetter]:
        """Return the next letters whole, in the order of their offsets; see `ReplayStore`."""
        place: tuple[Any, ...] = (None,) * 5
        if after is not None:
            name = after.id
            place = (
                name.kafka_topic,
                name.partition,
                name.incarnation,
                name.offset,
                after.consumer_group,
            )
        async with self._connections.use() as connection:
            rows = await connection.fetch(_PAGE, *wanted, again, *place, limit, _PAGE_BYTES)
        return [letter_of(row) for row in rows]

    async def mark_replayed(self, letters: Sequence[StoredLetter]) -> None:
        """Note that Kafka has these again."""
        counts = [letter.replay_count for letter in letters]
        async with self._connections.use() as connection:
            await connection.execute(
                _MARK_REPLAYED, *letter_columns(letters), counts, self._os_user
            )

    async def positions(self, consumer_group: str | None = None) -> Sequence[StoredPosition]:
        """Return every partition that was ever claimed."""
        async with self._connections.use() as connection:
            rows = await connection.fetch(_POSITIONS, consumer_group)
        return [_position(row) for row in rows]

    async def rebase(
        self,
        consumer_group: str,
        partition: TopicPartition,
        asked: Rebase,
        log: tuple[int, int],
        *,
        reason: str,
        does_it: bool,
    ) -> tuple[StoredPosition, StoredPosition]:
        """Move a position as `rebased` says, and return the row before and after.

        Waits for a batch under way. Without `does_it` nothing is changed. Raises RebaseRefused.
        """
        async with self._connections.use() as connection:
            await connection.execute("BEGIN ISOLATION LEVEL READ COMMITTED")
            locking = " FOR UPDATE" if does_it else ""
            row = await connection.fetchrow(_POSITION + locking, consumer_group, *partition)
            if row is None:
                await connection.execute("ROLLBACK")
                raise RebaseRefused(
                    "this partition was never claimed: its position is made by the first claim"
                )
            before = _position(row)
            try:
                after = rebased(before, asked, log)
            except RebaseRefused:
                await connection.execute("ROLLBACK")
                raise
            if not does_it:
                await connection.execute("ROLLBACK")
                return before, after
            await _move(connection, before, after)
            subject = f"{consumer_group} {partition.topic}/{partition.partition}"
            await connection.execute(
                _AUDIT, self._os_user, subject, _json(before), _json(after), reason
            )
            tag = await connection.execute("COMMIT")
            if tag != "COMMIT":
                raise Unavailable("postgres", tag)
        return before, after


async def _move(
    connection: asyncpg.Connection, before: StoredPosition, after: StoredPosition
) -> None:
    if after.next_offset < before.next_offset and after.incarnation == before.incarnation:
        await connection.execute("SET LOCAL newsloom.rewind = 'on'")
    await connection.execute(
        _REBASE,
        after.consumer_group,
        after.kafka_topic,
        after.partition,
        after.incarnation,
        after.next_offset,
        after.owner_epoch,
        after.skipped,
    )


def _position(row: asyncpg.Record) -> StoredPosition:
    return StoredPosition(
        consumer_group=row["consumer_group"],
        kafka_topic=row["kafka_topic"],
        partition=row["kafka_partition"],
        incarnation=row["incarnation"],
        next_offset=row["next_offset"],
        owner_epoch=row["owner_epoch"],
        owner_id=row["owner_id"],
        parked_reason=row["parked_reason"],
        strikes=row["strikes"],
        skipped=row["skipped"],
        anchor_offset=row["anchor_offset"],
    )


def _json(position: StoredPosition) -> str:
    return orjson.dumps(asdict(position)).decode()


@asynccontextmanager
async def open_administration(
    settings: PostgresSettings, *, os_user: str
) -> AsyncIterator[Administration]:
    """Open the operator's side; its connections end with the block."""
    connections = Connections(settings, "newsloom admin")
    try:
        yield Administration(connections, os_user)
    finally:
        connections.terminate()
