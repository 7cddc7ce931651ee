"""The article store on Postgres: a batch is a transaction, fenced by its partition's offset row."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AbstractContextManager, asynccontextmanager, nullcontext
from functools import partial

import asyncpg

from newsloom.adapters.postgres.connection import Connections, PoolState
from newsloom.adapters.postgres.errors import LINK_ERRORS, Retry, retry_of
from newsloom.adapters.postgres.reading import OwnerMoved, find_keys, gather
from newsloom.adapters.postgres.writing import Source, write
from newsloom.core.batch import BatchReport, Outcome
from newsloom.core.fold import fold
from newsloom.core.gathering import tentative_aliases
from newsloom.errors import Unavailable
from newsloom.metrics import Metrics, Stage
from newsloom.ports import Anchor, Batch, Claim, Fenced, TopicPartition
from newsloom.settings.groups import PostgresSettings

Checkpoint = Callable[[str], Awaitable[None]]
"""Awaited at "before_claim", "before_cas", "after_cas", "before_commit" and "after_commit".

There tests kill, freeze or delay a process.
"""

_ATTEMPTS = 5

_ADVANCE = """
UPDATE newsloom.ingest_offsets
SET next_offset = $7, anchor_offset = $8, anchor_timestamp_ms = $9, anchor_sha256 = $10,
    strikes = 0, batch_started_at = CASE WHEN $11 THEN clock_timestamp() END, updated_at = now()
WHERE consumer_group = $1 AND kafka_topic = $2 AND kafka_partition = $3
    AND incarnation = $4 AND owner_epoch = $5 AND next_offset = $6"""

_COUNT = """
UPDATE newsloom.ingest_offsets
SET created = created + $4, revised = revised + $5, refreshed = refreshed + $6,
    unchanged = unchanged + $7, stale = stale + $8, rejected = rejected + $9
WHERE consumer_group = $1 AND kafka_topic = $2 AND kafka_partition = $3"""

_CLAIM = """
UPDATE newsloom.ingest_offsets
SET owner_epoch = owner_epoch + 1, owner_id = $4, updated_at = now(),
    -- A batch that was begun before Postgres itself went down tells nothing about its deliveries.
    strikes = strikes + (
        NOT $5 AND coalesce(batch_started_at > pg_postmaster_start_time(), false)
    )::integer,
    batch_started_at = NULL
WHERE consumer_group = $1 AND kafka_topic = $2 AND kafka_partition = $3
RETURNING next_offset, owner_epoch, incarnation, anchor_offset, anchor_timestamp_ms, anchor_sha256,
    parked_reason, strikes"""

_MARK = """
UPDATE newsloom.ingest_offsets SET batch_started_at = CASE WHEN $5 THEN clock_timestamp() END
WHERE consumer_group = $1 AND kafka_topic = $2 AND kafka_partition = $3 AND owner_epoch = $4"""

_FIRST_CLAIM = """
INSERT INTO newsloom.ingest_offsets (consumer_group, kafka_topic, kafka_partition, next_offset)
VALUES ($1, $2, $3, $4) ON CONFLICT DO NOTHING"""

_PARK = """
UPDATE newsloom.ingest_offsets SET parked_reason = $5, updated_at = now()
WHERE consumer_group = $1 AND kafka_topic = $2 AND kafka_partition = $3 AND owner_epoch = $4"""

_POSITIONS = """
SELECT kafka_partition, next_offset FROM newsloom.ingest_offsets
WHERE consumer_group = $1 AND kafka_topic = $2"""

_CHECK = """
SELECT pg_backend_pid() AS backend, pg_is_in_recovery() AS is_standby,
    current_setting('server_encoding') AS encoding,
    to_regclass('newsloom.ingest_offsets') IS NOT NULL AS has_schema"""


class PostgresStore:
    """See `newsloom.ports.ArticleStore`. Several partitions may be applied at the same time."""

    def __init__(
        self,
        connections: Connections,
        marks: Connections,
        *,
        consumer_group: str,
        metrics: Metrics | None = None,
        checkpoint: Checkpoint | None = None,
        refreshed_changes: bool = False,
    ) -> None:
        self._connections = connections
        self._marks = marks
        self._group = consumer_group
        self._time = metrics.time if metrics else _unmeasured
        self._unanswered = metrics.commit_unknown.inc if metrics else _uncounted
        self._checkpoint = checkpoint or _pass
        self._fold = partial(fold, refreshed_changes=refreshed_changes)

    def pool_state(self) -> PoolState:
        """Count the connections: at work, idle, allowed."""
        return self._connections.state()

    async def check(self) -> None:
        """Make sure that this Postgres can be written and has the schema; `Unavailable` if not."""
        async with self._connections.use() as connection:
            (row,) = await connection.fetch(_CHECK)
            again = await connection.fetchval("SELECT pg_backend_pid()")
        if row["is_standby"]:
            raise Unavailable("postgres", "25006")
        if not row["has_schema"]:
            raise Unavailable("postgres", "3F000", systemic=True)
        if row["encoding"] != "UTF8":
            raise Unavailable("postgres", "encoding", systemic=True)
        if row["backend"] != again:  # a pooler that changes backends breaks prepared statements
            raise Unavailable("postgres", "pooler", systemic=True)

    async def claim(
        self,
        partition: TopicPartition,
        owner_id: str,
        first_offset: int,
        *,
        after_error: bool = False,
    ) -> Claim:
        """Take a partition over. Waits for a batch of its old owner that is under way."""
        place = (self._group, *partition)
        await self._checkpoint("before_claim")
        async with self._connections.use() as connection:
            rows = await connection.fetch(_CLAIM, *place, owner_id, after_error)
            if not rows:
                await connection.execute(_FIRST_CLAIM, *place, first_offset)
                rows = await connection.fetch(_CLAIM, *place, owner_id, after_error)
        (row,) = rows
        anchor = None
        if row["anchor_offset"] is not None:
            anchor = Anchor(row["anchor_offset"], row["anchor_timestamp_ms"], row["anchor_sha256"])
        return Claim(
            partition=partition,
            epoch=row["owner_epoch"],
            incarnation=row["incarnation"],
            next_offset=row["next_offset"],
            anchor=anchor,
            parked_reason=row["parked_reason"],
            strikes=row["strikes"],
        )

    async def apply(self, batch: Batch) -> BatchReport:
        """Apply a batch and advance the position in one transaction.

        A deadlock, a merge that came in between and a schema that changed under prepared statements
        are tried again here; nothing of the failed attempt is left.
        """
        async with self._connections.use() as connection:
            for _ in range(_ATTEMPTS - 1):
                try:
                    return await self._transaction(connection, batch)
                except (asyncpg.PostgresError, asyncpg.InternalClientError, OwnerMoved) as error:
                    if not await _may_retry(connection, error):
                        raise
            try:
                return await self._transaction(connection, batch)
            except OwnerMoved:
                raise Unavailable("postgres", "40001") from None

    async def mark(self, partition: TopicPartition, epoch: int, *, started: bool) -> None:
        """Note that a batch is about to be decoded, or that it is not after all.

        Not waited for on disk: the mark has to outlive this process, not Postgres.
        """
        async with self._marks.use() as connection:
            await connection.execute(_MARK, self._group, *partition, epoch, started)

    async def park(self, partition: TopicPartition, epoch: int, reason: str | None) -> None:
        """Set or clear the reason why a partition waits for an operator."""
        async with self._connections.use() as connection:
            tag = await connection.execute(_PARK, self._group, *partition, epoch, reason)
            if tag != "UPDATE 1":
                raise Fenced

    async def positions_of(self, kafka_topic: str) -> dict[TopicPartition, int]:
        """Return the stored positions of a Kafka topic, whoever owns its partitions."""
        async with self._marks.use() as connection:
            rows = await connection.fetch(_POSITIONS, self._group, kafka_topic)
        return {TopicPartition(kafka_topic, row[0]): row[1] for row in rows}

    async def _transaction(self, connection: asyncpg.Connection, batch: Batch) -> BatchReport:
        """Begin, do everything, commit. A crash at any point leaves all of it or nothing."""
        await self._checkpoint("before_cas")
        with self._time(Stage.OFFSET):
            await connection.execute("BEGIN ISOLATION LEVEL READ COMMITTED")
            # First the position: it locks out everybody else, and costs a fenced owner nothing.
            await self._advance(connection, batch)
        await self._checkpoint("after_cas")
        with self._time(Stage.KEYS):
            keys = await find_keys(connection, tentative_aliases(batch.items))
        with self._time(Stage.GATHER):
            state = await gather(connection, batch.items, keys)
        with self._time(Stage.FOLD):
            # With enrichment in it, too much work for the event loop to wait for.
            writes = await asyncio.to_thread(self._fold, batch.items, state)
        with self._time(Stage.WRITE):
            source = Source(self._group, *batch.partition, batch.incarnation)
            await write(connection, writes, keys, source)
            counts = [writes.report.outcomes.get(outcome, 0) for outcome in Outcome]
            await connection.execute(_COUNT, self._group, *batch.partition, *counts)
        await self._checkpoint("before_commit")
        with self._time(Stage.COMMIT):
            # A transaction that failed unnoticed answers COMMIT with ROLLBACK, and no error.
            try:
                tag = await connection.execute("COMMIT")
            except (*LINK_ERRORS, asyncpg.PostgresConnectionError):  # the next claim tells
                self._unanswered()
                raise
        if tag != "COMMIT":
            raise Unavailable("postgres", tag)
        await self._checkpoint("after_commit")
        return writes.report

    async def _advance(self, connection: asyncpg.Connection, batch: Batch) -> None:
        """Move the position, if it is still where the batch begins and still ours."""
        anchor = batch.anchor or (None, None, None)
        tag = await connection.execute(
            _ADVANCE,
            self._group,
            *batch.partition,
            batch.incarnation,
            batch.epoch,
            batch.expected_offset,
            batch.next_offset,
            *anchor,
            batch.marks_next,
        )
        if tag != "UPDATE 1":
            raise Fenced


@asynccontextmanager
async def open_store(
    settings: PostgresSettings,
    *,
    consumer_group: str,
    metrics: Metrics | None = None,
    checkpoint: Checkpoint | None = None,
    refreshed_changes: bool = False,
) -> AsyncIterator[PostgresStore]:
    """Open a store whose connections end with the block. `Unavailable`: it cannot be used.

    `refreshed_changes`: see `newsloom.core.fold.fold`.
    Checked at once: that Postgres answers, may be written, and that no pooler changes the backend
    between statements.
    """
    connections = Connections(settings, "newsloom ingest")
    marks = Connections(settings, "newsloom ingest marks", waits_for_disk=False)
    store = PostgresStore(
        connections,
        marks,
        consumer_group=consumer_group,
        metrics=metrics,
        checkpoint=checkpoint,
        refreshed_changes=refreshed_changes,
    )
    try:
        await store.check()
        yield store
    finally:
        connections.terminate()
        marks.terminate()


async def _may_retry(connection: asyncpg.Connection, error: Exception) -> bool:
    """Roll back if the same transaction may be tried again at once."""
    retry = Retry.YES if isinstance(error, OwnerMoved) else retry_of(error)
    if retry is Retry.NO:
        return False
    await connection.execute("ROLLBACK")
    if retry is Retry.AFTER_RELOAD:
        await connection.reload_schema_state()
    return True


async def _pass(_name: str) -> None:
    """Go on: the checkpoint of a process that is not under test."""


def _uncounted() -> None:
    """Count nothing: there are no metrics."""


def _unmeasured(_stage: Stage) -> AbstractContextManager[None]:
    return nullcontext()
