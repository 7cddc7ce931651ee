"""Taking an article down for good: everything of it goes, a tombstone stays to refuse it.

Locks, in this order: the linker's cursor (so the linker writes nothing meanwhile; it takes it first
too), then article rows by id, as ingest does. All of it is one transaction: a crash leaves nothing
or everything. A second run finds the tombstone and removes what has come since.
"""

import base64
from collections.abc import AsyncIterator, Collection, Sequence
from contextlib import asynccontextmanager
from dataclasses import asdict, dataclass, field, replace
from datetime import UTC, datetime
from typing import Any, Final
from uuid import UUID

import asyncpg
import orjson

from newsloom.adapters.postgres.connection import Connections
from newsloom.adapters.postgres.erasing_sql import (
    AUDIT,
    BLANK_MERGED_STORIES,
    BLANK_URLS,
    CHANGED_COPIES,
    COPIES_OF,
    DELETES,
    EMPTY_STORIES,
    ERASED_CHANGE,
    FENCE_LINKER,
    FREE_ROOT,
    GROUP,
    LETTER_KEYS,
    LETTERS,
    LOCK_HEADS,
    LOCK_LINKER,
    MOVE_COPIES,
    NEW_ROOT,
    OWNER,
    REMOVE_LETTERS,
    STORIES_OF,
    TITLES,
    TOMBSTONE,
    URL_IDS,
)
from newsloom.adapters.postgres.linking_sql import COUNT_STORIES, RAISE_VERSIONS, STORY_CHANGES
from newsloom.core.takedown import carries
from newsloom.errors import Unavailable
from newsloom.settings.groups import PostgresSettings

_ATTEMPTS: Final = 8
_AGAIN: Final = frozenset({"40001", "40P01", "55P03"})
_START: Final = datetime.min.replace(tzinfo=UTC)
_STATEMENT_SECONDS: Final = 600.0
_LETTERS_AT_A_TIME: Final = 50


class NotFound(Exception):  # noqa: N818 - an answer
    """No article has this id or address."""


class _Moved(Exception):  # noqa: N818 - a state of the world: look again
    """What was looked at before the lock is not so any more."""


@dataclass(frozen=True, slots=True)
class Erasure:
    """What went (or would go): rows by kind. `was_erased`: it had been taken down before."""

    article_id: UUID
    was_erased: bool
    rows: dict[str, int] = field(default_factory=dict)
    is_done: bool = False


@dataclass(frozen=True, slots=True)
class _Found:
    """An article with all that is erased with it."""

    article_id: UUID
    merged: Sequence[UUID]
    url_ids: frozenset[UUID]
    letters: Sequence[asyncpg.Record]

    @property
    def ids(self) -> list[UUID]:
        return sorted([self.article_id, *self.merged])


class Erasing:
    """`newsloom erase`. Every method may raise `Unavailable`."""

    def __init__(self, connections: Connections, os_user: str) -> None:
        self._connections = connections
        self._os_user = os_user

    async def erase(
        self, article_or_url: UUID, reason: str, *, does_it: bool, is_url: bool
    ) -> Erasure:
        """Take down the article of this id (or with the URL key of this id). Raises `NotFound`.

        Without `does_it` nothing is changed.
        """
        for attempt in range(_ATTEMPTS):
            begun = await self._value("SELECT clock_timestamp()")
            found = await self._find(article_or_url, _START, is_url=is_url)
            try:
                erasure = await self._erase(found, reason, does_it=does_it)
            except _Moved:
                continue
            except Unavailable as error:
                if error.code not in _AGAIN or attempt == _ATTEMPTS - 1:
                    raise
                continue
            return await self._finish(found, erasure, begun, reason) if does_it else erasure
        raise Unavailable("postgres", "40001")

    async def _finish(
        self, found: _Found, erasure: Erasure, since: datetime, reason: str
    ) -> Erasure:
        """Go after letters set aside while we were reading the others; later ones are refused."""
        letters = await self._letters(found.url_ids, since)
        if not letters:
            return erasure
        more = await self._erase(replace(found, letters=letters), reason, does_it=True)
        rows = {name: count + more.rows[name] for name, count in erasure.rows.items()}
        return replace(erasure, rows=rows)

    async def _find(self, name: UUID, since: datetime, *, is_url: bool) -> _Found:
        async with self._connections.use() as connection:
            owner = await connection.fetchval(OWNER, name, is_url)
            if owner is None:
                raise NotFound
            merged, url_ids = await _names(connection, owner)
        return _Found(owner, merged, url_ids, await self._letters(url_ids, since))

    async def _letters(
        self, url_ids: Collection[UUID], since: datetime
    ) -> Sequence[asyncpg.Record]:
        """Read all dead letters: an address can be written in more ways than can be looked for."""
        carrying = []
        async with (
            self._connections.use() as connection,
            connection.transaction(readonly=True),
        ):
            cursor = await connection.cursor(LETTERS, since)
            while rows := await cursor.fetch(_LETTERS_AT_A_TIME):
                carrying += [row for row in rows if _carries(row, url_ids)]
        return carrying

    async def _erase(self, found: _Found, reason: str, *, does_it: bool) -> Erasure:
        async with self._connections.use() as connection:
            await connection.execute("BEGIN ISOLATION LEVEL READ COMMITTED")
            head = await _lock(connection, found)
            rows = await _remove(connection, found)
            was_erased = head["erased_at"] is not None
            if not was_erased:
                await _bury(connection, found)
            if not does_it or (was_erased and not any(rows.values())):
                await connection.execute("ROLLBACK")
                return Erasure(found.article_id, was_erased, rows, is_done=was_erased)
            erasure = Erasure(found.article_id, was_erased, rows, is_done=True)
            told = orjson.dumps(asdict(erasure)["rows"]).decode()
            await connection.execute(AUDIT, self._os_user, str(found.article_id), told, reason)
            if (tag := await connection.execute("COMMIT")) != "COMMIT":
                raise Unavailable("postgres", tag)
        return erasure

    async def _value(self, statement: str) -> Any:
        async with self._connections.use() as connection:
            return await connection.fetchval(statement)


async def _names(
    connection: asyncpg.Connection, owner: UUID
) -> tuple[Sequence[UUID], frozenset[UUID]]:
    merged = [row["article_id"] for row in await connection.fetch(GROUP, owner)]
    rows = await connection.fetch(URL_IDS, [owner, *merged])
    # The ids of merged articles are those of their first keys.
    return merged, frozenset([owner, *merged, *(row["url_id"] for row in rows)])


async def _lock(connection: asyncpg.Connection, found: _Found) -> asyncpg.Record:
    """Lock the linker out, the article, those merged into it and its copies; look again."""
    await connection.execute(LOCK_LINKER)
    copies = [row["article_id"] for row in await connection.fetch(COPIES_OF, found.ids)]
    rows = await connection.fetch(LOCK_HEADS, sorted({*found.ids, *copies}))
    head = next((row for row in rows if row["article_id"] == found.article_id), None)
    if head is None or head["merged_into"] is not None:
        raise _Moved
    if await _names(connection, found.article_id) != (found.merged, found.url_ids):
        raise _Moved
    return head


async def _remove(connection: asyncpg.Connection, found: _Found) -> dict[str, int]:
    """Delete all rows that carry something of the article; tell how many of each kind."""
    titles = [row["title"] for row in await connection.fetch(TITLES, found.ids)]
    stories = [row["story_id"] for row in await connection.fetch(STORIES_OF, found.ids, titles)]
    await connection.execute(FENCE_LINKER, found.ids)
    rows = {}
    for name, statement in DELETES.items():
        rows[name] = _count(await connection.execute(statement, found.ids))
    rows["urls"] = _count(await connection.execute(BLANK_URLS, found.ids))
    await _part_copies(connection, found.ids)
    rows["stories"] = len(stories)
    if stories:
        await connection.execute(COUNT_STORIES, sorted(stories))
        await connection.execute(EMPTY_STORIES, stories)
        kinds = ["story_shrunk"] * len(stories)
        await connection.execute(STORY_CHANGES, sorted(stories), kinds, [None] * len(stories))
    if titles:
        await connection.execute(BLANK_MERGED_STORIES, titles)
    letters = [[row[name] for row in found.letters] for name in LETTER_KEYS]
    rows["dead_letters"] = _count(await connection.execute(REMOVE_LETTERS, *letters))
    return rows


async def _part_copies(connection: asyncpg.Connection, ids: Sequence[UUID]) -> None:
    """Give the copies of what goes the root that the linker would give them."""
    members = [row["article_id"] for row in await connection.fetch(COPIES_OF, ids)]
    if not members:
        return
    root = await connection.fetchval(NEW_ROOT, members)
    await connection.execute(FREE_ROOT, root)
    await connection.execute(MOVE_COPIES, members, root)
    raised = await connection.fetch(RAISE_VERSIONS, sorted(members))
    await connection.executemany(
        CHANGED_COPIES,
        [
            (
                row["article_id"],
                row["version"],
                "copy_linked" if row["copy_of"] else "copy_unlinked",
                row["copy_of"],
                row["observed_at"],
            )
            for row in raised
        ],
    )


async def _bury(connection: asyncpg.Connection, found: _Found) -> None:
    """Leave the tombstone, and say so in the change log."""
    await connection.execute(TOMBSTONE, found.ids)
    await connection.execute(ERASED_CHANGE, found.article_id)


def _carries(row: asyncpg.Record, url_ids: Collection[UUID]) -> bool:
    headers = [
        base64.b64decode(value)
        for _, value in orjson.loads(row["headers"] or "[]")
        if value is not None
    ]
    return carries(url_ids, key=row["key"], value=row["value"], headers=headers)


def _count(tag: str) -> int:
    return int(tag.rsplit(maxsplit=1)[-1])


@asynccontextmanager
async def open_erasing(settings: PostgresSettings, *, os_user: str) -> AsyncIterator[Erasing]:
    """Open it with the patience that reading all dead letters takes."""
    limits = {
        "statement_timeout_seconds": _STATEMENT_SECONDS,
        "transaction_timeout_seconds": _STATEMENT_SECONDS,
        "command_timeout_seconds": _STATEMENT_SECONDS + 10,
    }
    connections = Connections(settings.model_copy(update=limits), "newsloom erase")
    try:
        yield Erasing(connections, os_user)
    finally:
        connections.terminate()
