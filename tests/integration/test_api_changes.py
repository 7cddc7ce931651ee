"""`api.changed_since`: no gaps, whatever writers do; cursors that expire say so."""

import asyncio
import base64
import random
from collections.abc import AsyncIterator, Iterator
from datetime import UTC, datetime, timedelta
from uuid import UUID, uuid4

import asyncpg
import pytest

from newsloom.core.identity import article_id
from tests.support.newsroom import reading
from tests.support.postgres import create_database, drop_database, dsn_of
from tests.support.services import run_apart

WRITE = """
INSERT INTO newsloom.changes (observed_at, version, article_id, kind, recorded_at)
VALUES (now(), $2, $1, 'revised', $3)"""


@pytest.fixture
async def owner(database: str) -> AsyncIterator[asyncpg.Connection]:
    connection = await asyncpg.connect(database)
    yield connection
    connection.terminate()


@pytest.fixture
async def poller(database: str) -> AsyncIterator[asyncpg.Connection]:
    async with reading(database) as connection:
        yield connection


async def poll(
    connection: asyncpg.Connection, cursor: str | None = None, max_results: int = 1000
) -> tuple[list[int], str | None]:
    """Return the versions of what changed (each change here has one of its own) and the cursor."""
    rows = await connection.fetch("SELECT * FROM api.changed_since($1, $2)", cursor, max_results)
    return [row["version"] for row in rows], rows[-1]["cursor"] if rows else cursor


async def write(connection: asyncpg.Connection, *versions: int, at: datetime | None = None) -> None:
    for version in versions:
        await connection.execute(WRITE, uuid4(), version, at or datetime.now(UTC))


async def test_what_an_open_transaction_wrote_comes_after_it_ends_and_nothing_overtakes_it(
    owner: asyncpg.Connection, poller: asyncpg.Connection, database: str
) -> None:
    slow = await asyncpg.connect(database)
    transaction = slow.transaction()
    await transaction.start()
    await write(slow, 1)
    await write(owner, 2)  # committed, and with a higher transaction number
    assert await poll(poller) == ([], None)
    await write(slow, 3)
    await transaction.commit()
    seen, cursor = await poll(poller)
    assert seen == [1, 3, 2]
    await write(owner, 4)
    assert (await poll(poller, cursor))[0] == [4]
    await slow.close()


async def test_what_was_rolled_back_never_comes(
    owner: asyncpg.Connection, poller: asyncpg.Connection
) -> None:
    await write(owner, 1)
    transaction = owner.transaction()
    await transaction.start()
    await write(owner, 2)
    await transaction.rollback()
    await write(owner, 3)
    assert (await poll(poller))[0] == [1, 3]


async def write_at_random(database: str, number: int, transactions: int) -> list[int]:
    """Write in transactions that stay open for a while; return what was committed."""
    chance = random.Random(number)
    committed: list[int] = []
    connection = await asyncpg.connect(database)
    for attempt in range(transactions):
        transaction = connection.transaction()
        await transaction.start()
        low = (number * transactions + attempt) * 10
        versions = range(low, low + chance.randrange(1, 6))
        for version in versions:
            await write(connection, version)
            await asyncio.sleep(chance.random() * 0.01)
        if chance.random() < 0.2:
            await transaction.rollback()
        else:
            await transaction.commit()
            committed += versions
    await connection.close()
    return committed


async def poll_until(done: asyncio.Event, connection: asyncpg.Connection) -> list[int]:
    """Poll in small pages until nothing comes any more after `done`."""
    seen: list[int] = []
    cursor: str | None = None
    while True:
        is_last = done.is_set()
        found, cursor = await poll(connection, cursor, max_results=7)
        seen += found
        if is_last and not found:
            return seen
        await asyncio.sleep(0.001)


async def test_a_poller_misses_nothing_beside_many_writers_with_interleaved_transactions(
    database: str, poller: asyncpg.Connection
) -> None:
    done = asyncio.Event()
    polling = asyncio.create_task(poll_until(done, poller))
    writers = (write_at_random(database, number, transactions=25) for number in range(8))
    committed = [version for written in await asyncio.gather(*writers) for version in written]
    done.set()
    assert len(committed) > 300
    assert sorted(await polling) == sorted(committed)


async def test_reading_by_number_alone_would_miss_changes(
    owner: asyncpg.Connection, database: str
) -> None:
    # Why there is a horizon at all: this is what the tests above would look like without it.
    slow = await asyncpg.connect(database)
    transaction = slow.transaction()
    await transaction.start()
    await write(slow, 1)
    await write(owner, 2)
    naive = "SELECT change_id, version FROM newsloom.changes WHERE change_id > $1 ORDER BY 1"
    (row,) = await owner.fetch(naive, 0)
    await transaction.commit()
    assert await owner.fetch(naive, row["change_id"]) == []  # version 1 is lost
    await slow.close()


async def test_pages_join_without_repeating(
    owner: asyncpg.Connection, poller: asyncpg.Connection
) -> None:
    async with owner.transaction():
        await write(owner, *range(10))
    await write(owner, *range(10, 15))
    cursor, pages = None, []
    while True:
        page, cursor = await poll(poller, cursor, max_results=4)
        if not page:
            break
        pages.append(page)
    assert [len(page) for page in pages] == [4, 4, 4, 3]
    assert [version for page in pages for version in page] == list(range(15))
    assert await poll(poller, cursor, max_results=0) == ([], cursor)


async def test_the_cursor_of_now_begins_after_what_is_there_and_before_what_runs(
    owner: asyncpg.Connection, poller: asyncpg.Connection, database: str
) -> None:
    await write(owner, 1)
    slow = await asyncpg.connect(database)
    transaction = slow.transaction()
    await transaction.start()
    await write(slow, 2)
    cursor = await poller.fetchval("SELECT api.changes_cursor()")
    await write(owner, 3)
    await transaction.commit()
    assert (await poll(poller, cursor))[0] == [2, 3]
    await slow.close()


# Cursors that do not hold


@pytest.mark.parametrize(
    "cursor",
    [
        "",
        "x",
        "not a cursor",
        "\u00e9" * 10,
        "A" * 10_000,
        *(
            base64.urlsafe_b64encode(text.encode()).decode().rstrip("=")
            for text in ("1:2", "1:a:b:c", "2:a:1:1", "1:a:-1:x", "1:a:99999999999999999999999:1")
        ),
    ],
)
async def test_what_is_no_cursor_is_refused(poller: asyncpg.Connection, cursor: str) -> None:
    with pytest.raises(asyncpg.InvalidParameterValueError):
        await poll(poller, cursor)


async def has_expired(connection: asyncpg.Connection, cursor: str | None) -> bool:
    try:
        await poll(connection, cursor)
    except asyncpg.PostgresError as error:
        if error.sqlstate == "NL001":
            return True
        raise
    return False


async def test_a_cursor_expires_when_what_comes_after_it_was_retired(
    owner: asyncpg.Connection, poller: asyncpg.Connection
) -> None:
    long_ago = datetime(2020, 5, 10, 12, tzinfo=UTC)
    next_day = long_ago + timedelta(days=1)
    for day in (long_ago, next_day):
        await owner.execute("SELECT newsloom.ensure_partitions($1, 0, 0)", day)
    await write(owner, 1, 2, at=long_ago)
    await write(owner, 3, at=next_day)
    await write(owner, 4)
    _, first = await poll(poller, max_results=1)
    _, last_retired = await poll(poller, max_results=2)
    _, third = await poll(poller, max_results=3)
    assert await owner.fetchval("SELECT newsloom.retire_changes($1)", next_day) == 1
    assert await has_expired(poller, first)
    # Whoever had read all that is gone has missed nothing.
    assert (await poll(poller, last_retired))[0] == [3, 4]
    assert (await poll(poller, third))[0] == [4]
    assert (await poll(poller))[0] == [3, 4]


async def test_changes_that_a_follower_has_not_read_are_not_retired(
    owner: asyncpg.Connection, poller: asyncpg.Connection
) -> None:
    day = datetime(2020, 5, 10, 12, tzinfo=UTC)
    await owner.execute("SELECT newsloom.ensure_partitions($1, 1, 0)", day)
    await write(owner, 1, at=day)
    await write(owner, 2, at=day + timedelta(days=1))
    rows = await owner.fetch("SELECT xid::text AS xid, change_id FROM newsloom.changes ORDER BY 2")
    await owner.execute("INSERT INTO newsloom.cursors (reader) VALUES ('link')")
    retire = "SELECT newsloom.retire_changes('2020-06-01')"
    assert await owner.fetchval(retire) == 0
    move = "UPDATE newsloom.cursors SET xid = $1::text::xid8, change_id = $2"
    await owner.execute(move, *rows[0])
    assert await owner.fetchval(retire) == 1
    assert (await poll(poller))[0] == [2]
    await owner.execute(move, *rows[1])
    assert await owner.fetchval(retire) == 1
    assert (await poll(poller))[0] == []


async def test_a_new_epoch_expires_cursors_and_keeps_the_places_of_followers(
    owner: asyncpg.Connection, poller: asyncpg.Connection
) -> None:
    for version in range(6):
        await write(owner, version)
    _, cursor = await poll(poller, max_results=3)
    rows = await owner.fetch("SELECT xid::text AS xid, change_id FROM newsloom.changes ORDER BY 2")
    await owner.execute(
        "INSERT INTO newsloom.cursors (reader, epoch, xid, change_id)"
        " VALUES ('link', 4, $1::text::xid8, $2)",
        *rows[3],
    )
    assert await owner.fetchval("SELECT newsloom.begin_epoch()") == 2
    assert await has_expired(poller, cursor)
    seen, cursor = await poll(poller)
    assert seen == list(range(6))
    left = await owner.fetch(
        "SELECT c.version FROM newsloom.changes c, newsloom.cursors k"
        " WHERE (c.xid, c.change_id) > (k.xid, k.change_id) ORDER BY c.xid, c.change_id"
    )
    assert [row["version"] for row in left] == [4, 5]
    assert await owner.fetchval("SELECT epoch FROM newsloom.cursors") == 5  # the old one is fenced
    await write(owner, 6)
    assert (await poll(poller, cursor))[0] == [6]


async def test_a_change_log_of_another_server_is_not_read_before_it_was_renumbered(
    owner: asyncpg.Connection, poller: asyncpg.Connection
) -> None:
    # As a dump brings it along: transaction numbers that this server has yet to reach.
    await owner.execute(
        "INSERT INTO newsloom.changes (observed_at, version, article_id, kind, xid)"
        " SELECT now(), n, gen_random_uuid(), 'created', (900000000000 + n)::text::xid8"
        " FROM generate_series(1, 3) AS n"
    )
    with pytest.raises(asyncpg.ObjectNotInPrerequisiteStateError) as caught:
        await poll(poller)
    assert "begin_epoch" in str(caught.value.hint)
    await owner.execute("SELECT newsloom.begin_epoch()")
    await write(owner, 4)
    assert (await poll(poller))[0] == [1, 2, 3, 4]


async def test_a_writer_may_ask_inside_its_own_transaction(owner: asyncpg.Connection) -> None:
    async with owner.transaction():
        await write(owner, 1)
        assert (await poll(owner))[0] == []
    assert (await poll(owner))[0] == [1]


@pytest.fixture
def copied(postgres_server: str, database: str) -> Iterator[str]:
    """Another database that begins as a copy of the first."""
    name = f"copy_{uuid4().hex}"
    run_apart(create_database(postgres_server, name, database.rsplit("/", 1)[1]))
    yield dsn_of(postgres_server, name)
    run_apart(drop_database(postgres_server, name))


async def test_a_cursor_of_another_database_has_expired(
    copied: str, owner: asyncpg.Connection
) -> None:
    await write(owner, 1)
    _, cursor = await poll(owner)
    async with reading(copied) as other:
        assert await has_expired(other, cursor)
        assert not await has_expired(other, None)


# What it says


async def test_a_newsroom_can_be_followed_from_the_start(reader: asyncpg.Connection) -> None:
    rows = await reader.fetch("SELECT * FROM api.changed_since()")
    kinds = {row["kind"] for row in rows}
    assert {"created", "mentioned", "revised", "merged", "copy_linked", "story_created"} <= kinds
    newest: dict[UUID, int] = {}
    for row in rows:
        assert (row["article_id"] is None) != (row["story_id"] is None)
        entity = row["article_id"] or row["story_id"]
        newest[entity] = max(newest.get(entity, 0), row["version"])
    stories = await reader.fetch("SELECT story_id, version FROM api.stories")
    assert [(story, newest[story]) for story, _ in stories] == [tuple(row) for row in stories]
    articles = await reader.fetch("SELECT article_id, version FROM api.articles")
    # Of signals alone there is no change row, but another version.
    refreshed = {article for article, version in articles if newest[article] < version}
    assert refreshed == {article_id("kystwire.example/bridge")}
