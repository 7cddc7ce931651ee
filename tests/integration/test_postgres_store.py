"""What only the real store can show: two writers at once, errors, lost connections, HOT updates."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack
from dataclasses import replace
from functools import partial
from typing import Any

import asyncpg
import pytest
from pydantic import SecretStr

from newsloom.adapters.postgres import PostgresStore, open_store
from newsloom.adapters.postgres.connection import Connections
from newsloom.core.article import Article, Signals
from newsloom.core.batch import BatchReport, Item, Outcome
from newsloom.errors import Unavailable
from newsloom.ports import Batch, BatchRefused, Claim, Fenced, TopicPartition
from newsloom.settings.groups import PostgresSettings
from tests.support.articles import article, dead_letter, mention, observations, random_stream
from tests.support.stored import stored_in_postgres

OpenStore = Callable[..., Awaitable[PostgresStore]]


@pytest.fixture
async def open_one(database: str) -> AsyncIterator[OpenStore]:
    """Open stores on the same database, each with connections of its own."""
    async with AsyncExitStack() as stack:

        async def open_one(checkpoint: Any = None, **limits: float) -> PostgresStore:
            settings = PostgresSettings(dsn=SecretStr(database), **limits)  # type: ignore[arg-type]
            return await stack.enter_async_context(
                open_store(settings, consumer_group="newsloom", checkpoint=checkpoint)
            )

        yield open_one


@pytest.fixture
async def sql(database: str) -> AsyncIterator[asyncpg.Connection]:
    connection = await asyncpg.connect(database)
    yield connection
    connection.terminate()


def batch(claim: Claim, items: list[Item]) -> Batch:
    return Batch(
        claim.partition,
        claim.epoch,
        claim.incarnation,
        claim.next_offset,
        claim.next_offset + len(items),
        items,
    )


async def deliver(
    store: PostgresStore, partition: int, *stream: tuple[int, Article]
) -> BatchReport:
    """Claim a partition and apply deliveries to it."""
    claim = await store.claim(TopicPartition("t", partition), "me", 0)
    return await store.apply(batch(claim, observations(*stream, start=claim.next_offset)))


# Two writers at once


async def test_one_new_article_under_two_names_at_the_same_moment_is_one_article(
    open_one: OpenStore, database: str
) -> None:
    one, two = await open_one(), await open_one()
    for number in range(20):
        a, b, c = (f"{letter}{number}" for letter in "abc")
        reports = await asyncio.gather(
            deliver(one, 0, (1, article(a, b, title="A"))),
            deliver(two, 1, (1, article(b, c, title="A"))),
        )
        assert sum(report.outcomes.get(Outcome.CREATED, 0) for report in reports) == 1
    stored = await stored_in_postgres(database)
    alive = [head for head in stored["heads"].values() if head["merged_into"] is None]
    assert len(alive) == 20
    assert len(stored["aliases"]) == 60


async def test_crossing_batches_of_two_writers_end_as_one_writer_would_have_it(
    open_one: OpenStore, database: str
) -> None:
    one, two = await open_one(), await open_one()

    async def drain(store: PostgresStore, partition: int) -> None:
        claim = await store.claim(TopicPartition("t", partition), "me", 0)
        items = random_stream(partition, 200)
        for start in range(0, len(items), 20):
            step = items[start : start + 20]
            await store.apply(
                Batch(claim.partition, claim.epoch, 0, start, start + len(step), step)
            )

    await asyncio.gather(drain(one, 0), drain(two, 1))
    stored = await stored_in_postgres(database)
    heads = stored["heads"]
    alive = {owner for owner, head in heads.items() if head["merged_into"] is None}
    assert {alias[0] for alias in stored["aliases"].values()} <= alive
    assert set(stored["contents"]) == alive
    for owner in alive:
        numbers = {number for article_id, number in stored["revisions"] if article_id == owner}
        assert numbers == set(range(1, heads[owner]["revision"]))
    versions: dict[Any, list[int]] = {}
    for owner, version, *_ in stored["changes"]:
        versions.setdefault(owner, []).append(version)
    for numbers_of_one in versions.values():
        assert len(set(numbers_of_one)) == len(numbers_of_one)
    assert sum(sum(position[3]) for position in stored["positions"].values()) == 400


async def test_a_zombie_inside_its_transaction_holds_the_next_owner_back_and_is_then_fenced(
    open_one: OpenStore,
) -> None:
    inside, go_on = asyncio.Event(), asyncio.Event()

    async def checkpoint(name: str) -> None:
        if name == "before_commit":
            inside.set()
            await go_on.wait()

    zombie, owner = await open_one(checkpoint), await open_one()
    claim = await zombie.claim(TopicPartition("t", 0), "zombie", 0)
    frozen = asyncio.create_task(zombie.apply(batch(claim, observations((1, article("a"))))))
    await inside.wait()
    claiming = asyncio.create_task(owner.claim(TopicPartition("t", 0), "owner", 0))
    await asyncio.sleep(0.2)
    assert not claiming.done()
    go_on.set()
    await frozen
    assert (await claiming).next_offset == 1
    with pytest.raises(Fenced):
        await zombie.apply(batch(claim, observations((1, article("b")))))


class Held:
    """A checkpoint that holds a transaction open until it is let go."""

    def __init__(self) -> None:
        self.reached, self.let_go = asyncio.Event(), asyncio.Event()

    async def __call__(self, name: str) -> None:
        if name == "before_commit":
            self.reached.set()
            await self.let_go.wait()


async def while_held(
    open_one: OpenStore, sql: asyncpg.Connection, first: Article, second: Article
) -> BatchReport:
    """Apply `second` while `first` is written but not committed, and must wait for its article."""
    held = Held()
    one, two = await open_one(held), await open_one()
    writing = asyncio.create_task(deliver(one, 1, (5, first)))
    await held.reached.wait()
    waiting = asyncio.create_task(deliver(two, 2, (6, second)))
    locks = "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database()"
    locks += " AND wait_event_type = 'Lock'"
    while not await sql.fetchval(locks):  # noqa: ASYNC110 - the server has no event for it
        await asyncio.sleep(0.01)
    held.let_go.set()
    await writing
    return await waiting


async def test_an_article_merged_between_reading_its_key_and_locking_it_is_found_again(
    open_one: OpenStore, sql: asyncpg.Connection, database: str
) -> None:
    await deliver(await open_one(), 0, (1, article("a", title="A")), (2, article("b", title="B")))
    report = await while_held(
        open_one, sql, article("a", "b", title="AB"), article("b", title="B2")
    )
    assert report.outcomes == {Outcome.REVISED: 1}
    stored = await stored_in_postgres(database)
    (alive,) = (head for head in stored["heads"].values() if head["merged_into"] is None)
    assert alive["revision"] == 4
    assert stored["contents"][alive["article_id"]]["title"] == "B2"


async def test_of_two_writers_who_trust_an_address_alike_the_lesser_text_stays(
    open_one: OpenStore, sql: asyncpg.Connection, database: str
) -> None:
    await deliver(await open_one(), 0, (1, article("a", "b")))
    lesser = article("b")
    greater = replace(
        lesser, urls=(replace(lesser.urls[0], given="https://www.b.example/b-story"),)
    )
    await while_held(open_one, sql, lesser, greater)
    given = {alias[2] for alias in (await stored_in_postgres(database))["aliases"].values()}
    assert given == {"https://a.example/a-story", "https://b.example/b-story"}


# Errors


async def test_a_row_that_postgres_refuses_is_refused_and_its_neighbours_can_follow(
    open_one: OpenStore, database: str
) -> None:
    store = await open_one()
    claim = await store.claim(TopicPartition("t", 0), "me", 0)
    bad = [
        (article("nul", title="a\0b"), "22021"),
        (article("surrogate", title="a\ud800b"), "22021"),
        (article("count", word_count=2**40), "22003"),
        (article("json", extra={"n": "a\0b"}), "22P05"),
        (article("json-surrogate", extra={"n": "\ud800"}), "22P02"),
        (article("big", extra={"n": 2**70}), "22P02"),
        (article("signal", signals=Signals(heat=2**40)), "22003"),
    ]
    for culprit, sqlstate in bad:
        with pytest.raises(BatchRefused) as caught:
            await store.apply(batch(claim, observations((1, article("a")), (1, culprit))))
        assert caught.value.sqlstate in (sqlstate, "22000"), culprit.urls[0].given
        assert caught.value.__cause__ is None
    assert (await stored_in_postgres(database))["heads"] == {}
    assert store.pool_state() == (0, 1, 8)
    await store.apply(batch(claim, observations((1, article("a")))))


@pytest.mark.parametrize(
    ("sqlstate", "is_systemic"),
    [("53100", False), ("25006", False), ("55P03", False), ("42501", True), ("XX000", True)],
)
async def test_an_error_of_the_server_is_never_blamed_on_the_rows(
    open_one: OpenStore, sql: asyncpg.Connection, sqlstate: str, *, is_systemic: bool
) -> None:
    await raise_on_insert(sql, "article_contents", sqlstate)
    store = await open_one()
    with pytest.raises(Unavailable) as caught:
        await deliver(store, 0, (1, article("a")))
    assert (caught.value.code, caught.value.systemic) == (sqlstate, is_systemic)
    assert await sql.fetchval("SELECT next_offset FROM newsloom.ingest_offsets") == 0
    await sql.execute("DROP TRIGGER fail ON newsloom.article_contents")
    await deliver(store, 0, (1, article("a")))


async def raise_on_insert(sql: asyncpg.Connection, table: str, sqlstate: str) -> None:
    await sql.execute(
        f"CREATE FUNCTION public.fail() RETURNS trigger LANGUAGE plpgsql AS"
        f" $$BEGIN RAISE EXCEPTION USING ERRCODE = '{sqlstate}'; END$$;"
        f" CREATE TRIGGER fail BEFORE INSERT ON newsloom.{table}"
        f" FOR EACH ROW EXECUTE FUNCTION public.fail()"
    )


@pytest.mark.parametrize("sqlstate", ["40P01", "40001"])
async def test_a_deadlock_is_tried_again_at_once(
    open_one: OpenStore, sql: asyncpg.Connection, sqlstate: str
) -> None:
    await sql.execute("CREATE SEQUENCE public.tries; GRANT ALL ON SEQUENCE public.tries TO PUBLIC")
    await sql.execute(
        f"CREATE FUNCTION public.fail() RETURNS trigger LANGUAGE plpgsql AS $$BEGIN"
        f" IF nextval('public.tries') < 3 THEN RAISE EXCEPTION USING ERRCODE = '{sqlstate}';"
        f" END IF; RETURN NEW; END$$;"
        f" CREATE TRIGGER fail BEFORE INSERT ON newsloom.article_contents"
        f" FOR EACH ROW EXECUTE FUNCTION public.fail()"
    )
    report = await deliver(await open_one(), 0, (1, article("a")))
    assert report.outcomes == {Outcome.CREATED: 1}
    assert await sql.fetchval("SELECT last_value FROM public.tries") == 3
    assert await sql.fetchval("SELECT created FROM newsloom.ingest_offsets") == 1


async def test_a_table_altered_under_prepared_statements_costs_one_retry(
    open_one: OpenStore, sql: asyncpg.Connection
) -> None:
    store = await open_one()
    await deliver(store, 0, (1, article("a")))
    await sql.execute("ALTER TABLE newsloom.articles ALTER COLUMN secured TYPE varchar")
    report = await deliver(store, 0, (2, article("a", signals=Signals(heat=5))))
    assert report.outcomes == {Outcome.REFRESHED: 1}


@pytest.mark.parametrize("point", ["after_cas", "before_commit"])
async def test_a_backend_that_dies_inside_the_transaction_leaves_nothing_of_it(
    open_one: OpenStore, sql: asyncpg.Connection, database: str, point: str
) -> None:
    async def checkpoint(name: str) -> None:
        if name == point:
            await sql.fetch(
                "SELECT pg_terminate_backend(pid, 5000) FROM pg_stat_activity"
                " WHERE application_name = 'newsloom ingest' AND datname = current_database()"
                " AND state LIKE 'idle in transaction%'"
            )

    store = await open_one(checkpoint)
    claim = await store.claim(TopicPartition("t", 0), "me", 0)
    with pytest.raises(Unavailable) as caught:
        await store.apply(batch(claim, observations((1, article("a")))))
    assert not caught.value.systemic
    stored = await stored_in_postgres(database)
    assert stored["heads"] == {}
    assert stored["positions"][("t", 0)][0] == 0


async def test_a_server_that_does_not_answer_costs_a_deadline_and_the_connection(
    open_one: OpenStore, sql: asyncpg.Connection
) -> None:
    store = await open_one(
        statement_timeout_seconds=0.8, command_timeout_seconds=1, lock_timeout_seconds=0.3
    )
    claim = await store.claim(TopicPartition("t", 0), "me", 0)
    async with sql.transaction():
        await sql.execute("LOCK TABLE newsloom.ingest_offsets IN EXCLUSIVE MODE")
        with pytest.raises(Unavailable) as caught:
            await store.apply(batch(claim, observations((1, article("a")))))
        assert (caught.value.code, caught.value.systemic) == ("55P03", False)
    await store.apply(batch(claim, observations((1, article("a")))))


async def test_cancelling_a_batch_ends_its_connection_and_leaves_nothing(
    open_one: OpenStore, database: str
) -> None:
    inside = asyncio.Event()

    async def checkpoint(name: str) -> None:
        if name == "before_commit":
            inside.set()
            await asyncio.sleep(60)

    store = await open_one(checkpoint)
    claim = await store.claim(TopicPartition("t", 0), "me", 0)
    task = asyncio.create_task(store.apply(batch(claim, observations((1, article("a"))))))
    await inside.wait()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert store.pool_state().idle == 0
    assert (await store.claim(TopicPartition("t", 0), "me", 0)).next_offset == 0
    assert (await stored_in_postgres(database))["heads"] == {}


class Swallowing(PostgresStore):
    """A store in whose transactions something fails that nobody looks at."""

    async def _advance(self, connection: asyncpg.Connection, batch: Batch) -> None:
        await super()._advance(connection, batch)
        self._checkpoint = partial(self._fail, connection)

    async def _fail(self, connection: asyncpg.Connection, name: str) -> None:
        if name == "before_commit":
            with pytest.raises(asyncpg.DivisionByZeroError):
                await connection.execute("SELECT 1/0")


async def test_a_transaction_that_failed_unnoticed_is_not_taken_for_a_commit(
    database: str, sql: asyncpg.Connection
) -> None:
    connections = Connections(PostgresSettings(dsn=SecretStr(database)), "test")
    store = Swallowing(connections, connections, consumer_group="newsloom")
    try:
        with pytest.raises(Unavailable) as caught:
            await deliver(store, 0, (1, article("a")))
    finally:
        connections.terminate()
    assert caught.value.code == "ROLLBACK"
    assert await sql.fetchval("SELECT next_offset FROM newsloom.ingest_offsets") == 0


# Erased articles


async def test_an_erased_article_stays_refused_and_teaches_no_address(
    open_one: OpenStore, sql: asyncpg.Connection, database: str
) -> None:
    store = await open_one()
    await deliver(store, 0, (1, article("a")))
    await sql.execute("UPDATE newsloom.articles SET erased_at = now()")
    report = await deliver(store, 0, (2, article("a", "new", title="Again")))
    assert report.reasons == {"erased": 1}
    stored = await stored_in_postgres(database)
    assert len(stored["aliases"]) == 1
    (letter,) = stored["dead_letters"].values()
    assert letter[3:] == (None, None, ())


# Positions


async def test_a_position_does_not_go_back(open_one: OpenStore, sql: asyncpg.Connection) -> None:
    await deliver(await open_one(), 0, (1, article("a")))
    back = "UPDATE newsloom.ingest_offsets SET next_offset = 0"
    with pytest.raises(asyncpg.PostgresError) as caught:
        await sql.execute(back)
    assert caught.value.sqlstate == "NL002"
    async with sql.transaction():
        await sql.execute("SET LOCAL newsloom.rewind = 'on'")
        await sql.execute(back)
    await sql.execute("UPDATE newsloom.ingest_offsets SET next_offset = 5")
    await sql.execute(back + ", incarnation = incarnation + 1")


# Cost


async def test_a_redelivery_touches_the_narrow_row_only_and_no_index(
    open_one: OpenStore, sql: asyncpg.Connection
) -> None:
    store = await open_one()
    names = [f"n{number}" for number in range(300)]
    related = (mention("m1"), mention("m2"))
    first = ((1, article(name, secured="a;b" * 150, related=related)) for name in names)
    await deliver(store, 0, *first)
    before = await row_counts(store, sql)
    for minute in range(2, 12):  # a batch touches a few rows a page, as live traffic does
        secured = f"{minute};x" * 100
        again = (article(name, secured=secured, related=related) for name in names[minute::10])
        report = await deliver(store, 0, *((minute, item) for item in again))
        assert set(report.outcomes) == {Outcome.REFRESHED}
    after = await row_counts(store, sql)
    grown = {
        table: [b - a for a, b in zip(before[table], after[table], strict=True)] for table in after
    }
    changed, hot, inserted = grown.pop("articles")
    assert changed >= len(names) - 10
    assert hot >= 0.95 * changed
    assert inserted == 0
    assert grown.pop("ingest_offsets")[2] == 0
    assert all(count == [0, 0, 0] for count in grown.values()), grown


async def row_counts(store: PostgresStore, sql: asyncpg.Connection) -> dict[str, list[int]]:
    """Rows updated, updated without touching an index, and inserted, of each table."""
    store._connections.terminate()  # a session reports what it did when it ends
    sessions = "SELECT count(*) FROM pg_stat_activity WHERE application_name = 'newsloom ingest'"
    sessions += " AND datname = current_database()"
    while await sql.fetchval(sessions):  # noqa: ASYNC110 - the server has no event for it
        await asyncio.sleep(0.05)
    rows = await sql.fetch(
        "SELECT relname, n_tup_upd, n_tup_hot_upd, n_tup_ins + n_tup_del AS n"
        " FROM pg_stat_user_tables WHERE schemaname = 'newsloom'"
    )
    return {row["relname"]: [row["n_tup_upd"], row["n_tup_hot_upd"], row["n"]] for row in rows}


async def test_an_offset_is_dead_lettered_once(
    open_one: OpenStore, sql: asyncpg.Connection
) -> None:
    store = await open_one()
    claim = await store.claim(TopicPartition("t", 0), "me", 0)
    await store.apply(batch(claim, [dead_letter(0)]))
    async with sql.transaction():
        await sql.execute("SET LOCAL newsloom.rewind = 'on'")
        await sql.execute("UPDATE newsloom.ingest_offsets SET next_offset = 0")
    await store.apply(batch(claim, [dead_letter(0, "parse.depth")]))
    assert await sql.fetchval("SELECT array_agg(reason) FROM newsloom.dead_letters") == [
        "parse.json"
    ]


async def test_a_database_without_the_schema_is_refused_at_the_door(empty_database: str) -> None:
    settings = PostgresSettings(dsn=SecretStr(empty_database))
    with pytest.raises(Unavailable) as caught:
        async with open_store(settings, consumer_group="newsloom"):
            pass
    assert caught.value.systemic
