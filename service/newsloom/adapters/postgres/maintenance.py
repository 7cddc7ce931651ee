"""Partitions ahead, retention behind: the routine work on the database, safe beside running roles.

Everything is idempotent and done in small transactions. What would have to wait long for a lock
gives way, tries again, and is left for the next run in the end: nobody waits behind it for more
than `LOCK_SECONDS`.
"""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any, Final, TypeVar

from newsloom.adapters.postgres.connection import Connections
from newsloom.backoff import delays
from newsloom.errors import Unavailable
from newsloom.settings.groups import PostgresSettings

T = TypeVar("T")

LOCK_SECONDS: Final = 2.0
"""Longest wait for a lock: autovacuum, which gives way after one second, is waited for."""

_ATTEMPTS: Final = 6
_IN_THE_WAY: Final = frozenset({"55P03", "40P01", "40001"})
_STATEMENT_SECONDS: Final = 900.0
_PAGE: Final = 1000
_LOCK: Final = 0x6E65_776D_6169_6E74  # "newmaint": one maintenance a database
_FOREVER: Final = datetime.min.replace(tzinfo=UTC)
MONTH_TABLES: Final = ("article_revisions", "article_signals")

# What newsloom.ensure_partitions() would make, by name.
_MISSING: Final = """
SELECT count(*) FROM (
    SELECT 'changes_' || to_char(date_trunc('day', now() AT TIME ZONE 'UTC')
        + n * interval '1 day', 'YYYYMMDD') AS name FROM generate_series(0, 7) AS n
    UNION ALL
    SELECT t || '_' || to_char(date_trunc('month', now() AT TIME ZONE 'UTC')
        + n * interval '1 month', 'YYYYMM')
    FROM generate_series(0, 2) AS n, unnest($1::text[]) AS t
) AS p WHERE to_regclass('newsloom.' || p.name) IS NULL"""

_RETIRABLE: Final = "SELECT name, held_by FROM newsloom.retirable_partitions($1::regclass, $2)"
_RETIRE: Final = "SELECT newsloom.retire_partition($1::regclass, $2)"

# Never a letter that the relay has not sent: the Kafka topic would lack it for good.
_OLD_LETTERS: Final = "created_at < $1 AND relayed_at IS NOT NULL"
_COUNT_LETTERS: Final = f"SELECT count(*) FROM newsloom.dead_letters WHERE {_OLD_LETTERS}"  # noqa: S608 - constants
_DELETE_LETTERS: Final = f"""
DELETE FROM newsloom.dead_letters AS d USING (
    SELECT consumer_group, kafka_topic, kafka_partition, incarnation, kafka_offset
    FROM newsloom.dead_letters WHERE {_OLD_LETTERS} ORDER BY created_at LIMIT {_PAGE}
) AS o
WHERE (d.consumer_group, d.kafka_topic, d.kafka_partition, d.incarnation, d.kafka_offset)
    = (o.consumer_group, o.kafka_topic, o.kafka_partition, o.incarnation, o.kafka_offset)"""  # noqa: S608 - constants

# $1 sequence to go on after, $2 distance from the window. A page of the linker's memory: how far it
# reaches, how many of it are old, and which of those may go. Roots of copies stay; so does what the
# linker looks at in this moment, which gives it another sequence.
_STATES_PAGE: Final = f"""
WITH page AS MATERIALIZED (
    SELECT s.article_id, s.sequence, s.first_seen_at < k.window_from - $2::interval AS is_old
    FROM newsloom.cursors AS k, newsloom.link_states AS s
    WHERE k.reader = 'link' AND s.sequence > $1 AND s.sequence <= k.trim_sequence
    ORDER BY s.sequence LIMIT {_PAGE}
), old AS (
    SELECT p.article_id, p.sequence FROM page AS p
    WHERE p.is_old
        AND NOT EXISTS (SELECT FROM newsloom.copies AS c WHERE c.copy_of = p.article_id)
)"""  # noqa: S608 - a constant
_STATES_FIGURES: Final = """
SELECT (SELECT max(sequence) FROM page) AS reached, (SELECT count(*) FROM page) AS rows,
    (SELECT count(*) FROM page WHERE is_old) AS old, (SELECT count(*) FROM {went}) AS gone"""
_COUNT_STATES: Final = _STATES_PAGE + _STATES_FIGURES.format(went="old")
_DELETE_OLD: Final = """, gone AS (
    DELETE FROM newsloom.link_states AS s USING old AS o
    WHERE s.article_id = o.article_id AND s.sequence = o.sequence RETURNING 1
)"""
_DELETE_STATES: Final = _STATES_PAGE + _DELETE_OLD + _STATES_FIGURES.format(went="gone")


@dataclass(frozen=True, slots=True)
class Retention:
    """How many days each kind of row is kept; 0: for ever. `link_states` is behind the window."""

    changes: int = 7
    revisions: int = 0
    signals: int = 365
    dead_letters: int = 90
    link_states: int = 30


@dataclass(frozen=True, slots=True)
class Step:
    """One piece of work: how many were made, moved or removed (with --dry-run: would be).

    `note` says what else there is to know; `is_left`: it has to be tried again later.
    """

    name: str
    count: int
    note: str = ""
    is_left: bool = False


class OtherMaintenance(Exception):  # noqa: N818 - a state of the world
    """Another process maintains this database now."""


class Maintenance:
    """The steps of `newsloom maintain`. Every method may raise `Unavailable`."""

    def __init__(
        self, connections: Connections, *, dry_run: bool, jitter: Callable[[], float]
    ) -> None:
        self._connections = connections
        self._dry_run = dry_run
        self._jitter = jitter

    async def run(self, keep: Retention) -> AsyncIterator[Step]:
        """Yield each step as it is done. Raises `OtherMaintenance`."""
        async with self._alone():
            # A transaction of our own would hold the change log back: its time comes first.
            now: datetime = await self._fetchval("SELECT now()")
            yield await self._step("partitions ahead", self._ensure)
            yield await self._step("rows without partition moved", self._adopt)
            if await self._fetchval("SELECT newsloom.change_log_is_foreign()"):
                note = "restored from another server: run `newsloom maintain --after-restore`"
                yield Step("changes retired", 0, note, is_left=True)
            else:
                yield await self._retire("changes", _before(now, keep.changes))
            yield await self._retire("article_revisions", _before(now, keep.revisions))
            yield await self._retire("article_signals", _before(now, keep.signals))
            letters = _before(now, keep.dead_letters)
            yield await self._step("dead letters removed", lambda: self._letters(letters))
            if keep.link_states:
                distance = timedelta(days=keep.link_states)
                yield await self._step("link states removed", lambda: self._states(distance))
            yield await self._step("providers counted", self._providers)

    async def resume_after_restore(self) -> str:
        """Make the restored change log ours; see newsloom.resume_after_restore() in SQL."""
        async with self._alone():
            if self._dry_run:
                foreign = await self._fetchval("SELECT newsloom.change_log_is_foreign()")
                return "foreign" if foreign else "unchanged"
            statement = "SELECT newsloom.resume_after_restore()"
            outcome: str = await self._patiently(lambda: self._fetchval(statement))
            return outcome

    @asynccontextmanager
    async def _alone(self) -> AsyncIterator[None]:
        async with self._connections.use() as connection:
            if not await connection.fetchval("SELECT pg_try_advisory_lock($1)", _LOCK):
                raise OtherMaintenance
            try:
                yield
            finally:
                connection.terminate()  # and with it goes the lock

    async def _step(self, name: str, work: Callable[[], Awaitable[int]]) -> Step:
        try:
            return Step(name, await self._patiently(work))
        except Unavailable as error:
            if error.code not in _IN_THE_WAY:
                raise
            return Step(name, 0, "something else held the lock", is_left=True)

    async def _patiently(self, work: Callable[[], Awaitable[T]]) -> T:
        """Do it; when a lock is not to be had, let those behind us pass and try again."""
        waits = delays(0.5, 8.0, self._jitter)
        for _ in range(_ATTEMPTS - 1):
            try:
                return await work()
            except Unavailable as error:
                if error.code not in _IN_THE_WAY:
                    raise
                await asyncio.sleep(next(waits))
        return await work()

    async def _ensure(self) -> int:
        if self._dry_run:
            return int(await self._fetchval(_MISSING, list(MONTH_TABLES)))
        return int(await self._fetchval("SELECT newsloom.ensure_partitions()"))

    async def _adopt(self) -> int:
        if self._dry_run:
            return int(await self._fetchval("SELECT count(*) FROM newsloom.stray_ranges()"))
        return int(await self._fetchval("SELECT newsloom.adopt_strays()"))

    async def _retire(self, table: str, older_than: datetime) -> Step:
        """Drop one partition a transaction, so that each holds the lock for a moment only."""
        name, parent = f"{table} retired", f"newsloom.{table}"
        async with self._connections.use() as connection:
            found = await connection.fetch(_RETIRABLE, parent, older_than)
        held = [row for row in found if row["held_by"] is not None]
        free = [row["name"] for row in found if row["held_by"] is None]
        note = ", ".join(free)
        if held:
            waiting = f"{len(held)} wait for the reader {held[0]['held_by']}"
            note = f"{note}; {waiting}" if note else waiting
        if self._dry_run:
            return Step(name, len(free), note)
        for count in range(len(free)):
            retiring = lambda: self._fetchval(_RETIRE, parent, older_than)  # noqa: E731 - two words
            try:
                await self._patiently(retiring)
            except Unavailable as error:
                if error.code not in _IN_THE_WAY:
                    raise
                return Step(name, count, "something else held the lock", is_left=True)
        return Step(name, len(free), note)

    async def _letters(self, older_than: datetime) -> int:
        if self._dry_run:
            return int(await self._fetchval(_COUNT_LETTERS, older_than))
        removed = 0
        while True:
            async with self._connections.use() as connection:
                tag = await connection.execute(_DELETE_LETTERS, older_than)
            count = int(tag.split()[-1])
            removed += count
            if count < _PAGE:
                return removed

    async def _states(self, distance: timedelta) -> int:
        """Go through the linker's memory from its old end, until a page has nothing old."""
        statement = _COUNT_STATES if self._dry_run else _DELETE_STATES
        reached, removed = 0, 0
        while True:
            async with self._connections.use() as connection:
                (row,) = await connection.fetch(statement, reached, distance)
            removed += int(row["gone"])
            if row["rows"] < _PAGE or not row["old"]:
                return removed
            reached = row["reached"]

    async def _providers(self) -> int:
        if self._dry_run:
            return 0
        return int(await self._fetchval("SELECT newsloom.refresh_providers()"))

    async def _fetchval(self, statement: str, *arguments: object) -> Any:
        async with self._connections.use() as connection:
            return await connection.fetchval(statement, *arguments)


def _before(now: datetime, days: int) -> datetime:
    return now - timedelta(days=days) if days else _FOREVER


async def change_log_is_foreign(settings: PostgresSettings) -> bool:
    """Tell whether a dump of another server was restored here and nobody has said so yet."""
    connections = Connections(settings, "newsloom")
    try:
        async with connections.use() as connection:
            return bool(await connection.fetchval("SELECT newsloom.change_log_is_foreign()"))
    finally:
        connections.terminate()


@asynccontextmanager
async def open_maintenance(
    settings: PostgresSettings, *, dry_run: bool, jitter: Callable[[], float]
) -> AsyncIterator[Maintenance]:
    """Open maintenance with its own limits; its connections end with the block."""
    limits = {
        "lock_timeout_seconds": LOCK_SECONDS,
        "statement_timeout_seconds": _STATEMENT_SECONDS,
        "transaction_timeout_seconds": _STATEMENT_SECONDS,
        "command_timeout_seconds": _STATEMENT_SECONDS + 10,
    }
    connections = Connections(settings.model_copy(update=limits), "newsloom maintain")
    try:
        yield Maintenance(connections, dry_run=dry_run, jitter=jitter)
    finally:
        connections.terminate()


async def all_steps(maintenance: Maintenance, keep: Retention) -> Sequence[Step]:
    """Run to the end and collect the steps."""
    return [step async for step in maintenance.run(keep)]
