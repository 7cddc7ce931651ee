"""The linker's side of Postgres: the change log in, copies and stories out, behind one cursor.

Rows of the change log are read by (xid, change_id) below the horizon of running transactions: no
row can still appear behind the position. They are not in commit order, so an article's rows may
come in any order; its version tells which of them are news.
"""

import asyncio
from collections.abc import AsyncIterator, Callable, Iterable, Mapping, Sequence
from contextlib import asynccontextmanager
from typing import Any, Final
from uuid import UUID

import asyncpg

from newsloom.adapters.postgres.connection import Connections
from newsloom.adapters.postgres.linking_sql import (
    ADVANCE,
    ARTICLES,
    COUNT_STORIES,
    DELETE_COPIES,
    DELETE_MEMBERS,
    DELETE_STATES,
    FREE_ROOT,
    HORIZON,
    INSERT_CHANGES,
    INSERT_COPIES,
    INSERT_MEMBERS,
    LOCK_ARTICLES,
    MERGE_STORY,
    MOVE_MEMBERS,
    MOVE_ROOT,
    RAISE_VERSIONS,
    READ,
    STATE_COLUMNS,
    STATES,
    STORY_CHANGES,
    TAKE_OVER,
    UPDATE_PAIRS,
    UPSERT_STATE,
    WAITING,
)
from newsloom.adapters.postgres.store import Checkpoint
from newsloom.core.change_log import START, ChangePosition, StoryChangeKind
from newsloom.core.copy_groups import CopyEdge
from newsloom.core.linking import (
    ALGORITHM_VERSION,
    LinkableArticle,
    LinkChange,
    LinkResults,
    LinkState,
    LinkWindow,
    root_key,
)
from newsloom.core.signatures import Signature
from newsloom.core.text_features import Features
from newsloom.errors import Unavailable
from newsloom.ports import Fenced, LinkerRunning, LinkLease, LinkRead
from newsloom.settings import PostgresSettings

_LOCK: Final = 0x6E65_776C_696E_6B  # "newlink": one linker a database
_TRY_LOCK: Final = "SELECT pg_try_advisory_lock($1)"
_POLL_SECONDS: Final = 1.0
_LEAST_CONNECTIONS: Final = 2
"""The lock keeps one; without another to work with it would wait for itself."""

_STORY_KINDS: Final = {
    StoryChangeKind.CREATED: "story_created",
    StoryChangeKind.GROWN: "story_grown",
    StoryChangeKind.LEFT: "story_shrunk",
    StoryChangeKind.MERGED: "story_merged",
    StoryChangeKind.SPLIT: "story_split",
}


def _nothing() -> None:
    """Nobody wants to know that we wait."""


class PostgresLinkStore:
    """See `newsloom.ports.LinkStore`."""

    def __init__(self, connections: Connections, checkpoint: Checkpoint | None = None) -> None:
        self._connections = connections
        self._checkpoint = checkpoint

    @asynccontextmanager
    async def lead(self, on_wait: Callable[[], None] = _nothing) -> AsyncIterator[None]:
        """Hold the linker's advisory lock; it goes with the connection, however that ends."""
        async with self._connections.use() as connection:
            # Not the waiting form of the lock: it would run into the statement timeout.
            while not await connection.fetchval(_TRY_LOCK, _LOCK):
                on_wait()
                await asyncio.sleep(_POLL_SECONDS)
            try:
                yield
            finally:
                connection.terminate()

    @asynccontextmanager
    async def lead_or_refuse(self) -> AsyncIterator[None]:
        """Hold the lock at once or not at all."""
        async with self._connections.use() as connection:
            if not await connection.fetchval(_TRY_LOCK, _LOCK):
                raise LinkerRunning
            try:
                yield
            finally:
                connection.terminate()

    async def take_over(self, owner_id: str) -> LinkLease:
        """Raise the epoch of the cursor; make the cursor if there is none yet."""
        async with self._connections.use() as connection:
            (row,) = await connection.fetch(TAKE_OVER, owner_id)
        position = ChangePosition(row["xid"], row["change_id"])
        window = LinkWindow(row["sequence"], row["window_from"], row["trim_sequence"])
        return LinkLease(row["epoch"], position, window)

    async def states(self, window: LinkWindow) -> Sequence[LinkState]:
        """Read the window's states; nothing before the first article was linked."""
        if window.since is None:
            return []
        async with self._connections.use() as connection:
            rows = await connection.fetch(STATES, window.since, window.trim_sequence, timeout=600)
        return [_state(row) for row in rows]

    async def read(self, after: ChangePosition, limit: int) -> LinkRead:
        """Read the next rows with the present text of their articles."""
        async with self._connections.use() as connection:
            rows = await connection.fetch(READ, after.xid, after.change_id, limit)
            if not rows:
                waiting = await connection.fetchval(WAITING, after.xid, after.change_id)
                return LinkRead(after, (), 0, waiting.timestamp() if waiting else None)
        last = rows[-1]
        return LinkRead(
            ChangePosition(last["xid"], last["change_id"]),
            [_change(row) for row in rows if row["matters"]],
            len(rows),
            min(row["recorded_at"] for row in rows).timestamp(),
        )

    async def horizon(self) -> ChangePosition:
        """Return the last position below the horizon of running transactions."""
        async with self._connections.use() as connection:
            rows = await connection.fetch(HORIZON)
        return ChangePosition(*rows[0]) if rows else START

    async def articles(self, page: int) -> AsyncIterator[Sequence[LinkChange]]:
        """Read page after page of one snapshot, in order."""
        async with (
            self._connections.use() as connection,
            connection.transaction(isolation="repeatable_read", readonly=True),
        ):
            cursor = await connection.cursor(ARTICLES)
            while rows := await cursor.fetch(page):
                yield [_change(row) for row in rows]

    async def links(self) -> tuple[Mapping[UUID, UUID], Mapping[UUID, UUID]]:
        """Read both tables."""
        async with self._connections.use() as connection:
            copies = await connection.fetch("SELECT article_id, copy_of FROM newsloom.copies")
            members = await connection.fetch(
                "SELECT article_id, story_id FROM newsloom.story_articles"
            )
        return dict(map(tuple, copies)), dict(map(tuple, members))

    async def write(self, lease: LinkLease, to: ChangePosition, results: LinkResults) -> None:
        """Store what a read led to, if the cursor is still where that read began, and ours."""
        async with self._connections.use() as connection:
            await connection.execute("BEGIN ISOLATION LEVEL READ COMMITTED")
            window = results.window
            tag = await connection.execute(
                ADVANCE,
                lease.epoch,
                *lease.position,
                *to,
                window.sequence,
                window.since,
                window.trim_sequence,
            )
            if tag != "UPDATE 1":
                raise Fenced
            if not results.is_empty:
                await _write_results(connection, results)
            if self._checkpoint is not None:
                await self._checkpoint("linked")
            tag = await connection.execute("COMMIT")
            if tag != "COMMIT":
                raise Unavailable("postgres", tag)


async def _write_results(connection: asyncpg.Connection, results: LinkResults) -> None:
    await _write_states(connection, results)
    touched = await _write_copies(connection, results)
    await _write_changed_copies(connection, touched, results)
    await _write_stories(connection, results)


async def _write_states(connection: asyncpg.Connection, results: LinkResults) -> None:
    if results.removed:
        await connection.execute(DELETE_STATES, results.removed)
    if results.states:
        rows = sorted(results.states.values(), key=lambda state: state.article_id)
        await _copy_states(connection, [row for row in rows if row.article_id in results.fresh])
        again = [_state_row(row) for row in rows if row.article_id not in results.fresh]
        if again:
            await connection.executemany(UPSERT_STATE, again)
    others = [
        (article_id, *_edge_columns(edges))
        for article_id, edges in sorted(results.pairs.items())
        if article_id not in results.states
    ]
    if others:
        await connection.executemany(UPDATE_PAIRS, others)


async def _copy_states(connection: asyncpg.Connection, states: Sequence[LinkState]) -> None:
    """Write states of articles that have none: a third of what an upsert costs."""
    await connection.copy_records_to_table(
        "link_states",
        schema_name="newsloom",
        columns=STATE_COLUMNS,
        records=[_state_row(state) for state in states],
    )


async def _write_copies(connection: asyncpg.Connection, results: LinkResults) -> set[UUID]:
    """Write the copies; return the articles whose `copy_of` may have changed."""
    touched = set(results.copies)
    for old, new in results.root_moves:
        touched.update(_ids(await connection.fetch(MOVE_ROOT, old, new)))
        touched.update(_ids(await connection.fetch(FREE_ROOT, old, new)))
    gone = [article_id for article_id, link in results.copies.items() if link is None]
    if gone:
        await connection.execute(DELETE_COPIES, gone)
    links = [link for link in results.copies.values() if link is not None]
    if links:
        await connection.execute(
            INSERT_COPIES,
            [link.article_id for link in links],
            [link.copy_of for link in links],
            [link.jaccard for link in links],
            [link.containment for link in links],
            ALGORITHM_VERSION,
        )
    return touched


async def _write_changed_copies(
    connection: asyncpg.Connection, touched: set[UUID], results: LinkResults
) -> None:
    """Raise the version of each article whose link changed, and say so in the change log."""
    articles = sorted(touched.difference(results.removed))
    if not articles:
        return
    # In order of id, as ingest does: writers that lock in one order do not deadlock.
    await connection.execute(LOCK_ARTICLES, articles)
    rows = await connection.fetch(RAISE_VERSIONS, articles)
    await connection.execute(
        INSERT_CHANGES,
        [row["article_id"] for row in rows],
        [row["version"] for row in rows],
        ["copy_linked" if row["copy_of"] else "copy_unlinked" for row in rows],
        [row["copy_of"] for row in rows],
        [row["observed_at"] for row in rows],
    )


async def _write_stories(connection: asyncpg.Connection, results: LinkResults) -> None:
    stories = set(results.story_kinds)
    for gone, other in results.story_merges:
        await connection.execute(MOVE_MEMBERS, gone, other)
    left = [article_id for article_id, held in results.memberships.items() if held is None]
    if left:
        stories.update(row["story_id"] for row in await connection.fetch(DELETE_MEMBERS, left))
    joined = {a: held for a, held in results.memberships.items() if held is not None}
    if joined:
        stories.update(held.story_id for held in joined.values())
        await connection.execute(
            INSERT_MEMBERS,
            list(joined),
            [held.story_id for held in joined.values()],
            [held.score for held in joined.values()],
        )
    if not stories:
        return
    await connection.execute(COUNT_STORIES, sorted(stories))
    for gone, other in results.story_merges:
        await connection.execute(MERGE_STORY, gone, other)
    ordered = sorted(stories)
    kinds = [results.story_kinds.get(story, StoryChangeKind.LEFT) for story in ordered]
    others = dict(results.story_merges)
    await connection.execute(
        STORY_CHANGES,
        ordered,
        [_STORY_KINDS[kind] for kind in kinds],
        [others.get(story) for story in ordered],
    )


def _ids(rows: Iterable[asyncpg.Record]) -> list[UUID]:
    return [row["article_id"] for row in rows]


def _change(row: asyncpg.Record) -> LinkChange:
    article = None
    if row["title"] is not None:
        article = LinkableArticle(
            article_id=row["article_id"],
            version=row["current_version"],
            title=row["title"],
            excerpt=row["excerpt"],
            body=row["body"],
            first_seen_at=row["first_seen_at"],
            published_at=row["published_at"],
            related=frozenset(row["related"] or ()),
        )
    return LinkChange(
        article_id=row["article_id"],
        version=row["version"],
        article=article,
        merged_into=row["merged_into"],
        linked_version=row["linked_version"] or 0,
    )


def _state(row: asyncpg.Record) -> LinkState:
    root = None
    if row["root_id"] is not None:
        root = root_key(row["root_id"], row["root_first_seen_at"], row["root_published_at"])
    edges = zip(
        row["pair_ids"] or (), row["pair_jaccard"] or (), row["pair_containment"] or (), strict=True
    )
    return LinkState(
        article_id=row["article_id"],
        sequence=row["sequence"],
        version=row["version"],
        first_seen_at=row["first_seen_at"],
        published_at=row["published_at"],
        is_counted=row["is_counted"],
        related=frozenset(row["related"] or ()),
        edges=tuple(CopyEdge(row["article_id"], *edge) for edge in edges),
        signature=Signature.from_bytes(row["signature"]),
        features=Features.from_bytes(row["features"]),
        root=root,
        story_id=row["story_id"],
    )


def _state_row(state: LinkState) -> tuple[Any, ...]:
    return (
        state.article_id,
        state.sequence,
        state.version,
        state.first_seen_at,
        state.published_at,
        state.is_counted,
        sorted(state.related) or None,
        *_edge_columns(state.edges),
        state.signature.to_bytes(),
        state.features.to_bytes(),
    )


def _edge_columns(edges: Sequence[CopyEdge]) -> tuple[Any, Any, Any]:
    if not edges:
        return None, None, None
    return (
        [edge.other_id for edge in edges],
        [edge.jaccard for edge in edges],
        [edge.containment for edge in edges],
    )


@asynccontextmanager
async def open_link_store(
    settings: PostgresSettings, checkpoint: Checkpoint | None = None
) -> AsyncIterator[PostgresLinkStore]:
    """Open a link store whose connections end with the block."""
    least = max(settings.pool_max_connections, _LEAST_CONNECTIONS)
    settings = settings.model_copy(update={"pool_max_connections": least})
    connections = Connections(settings, "newsloom link")
    try:
        yield PostgresLinkStore(connections, checkpoint)
    finally:
        connections.terminate()
