"""Everybody takes locks in one order: two batches may wait for each other, but never in a circle.

A circle would be found by Postgres and tried again, so nothing would be lost; it would cost a
second (`deadlock_timeout`) each time, which is how these tests see it: by the server's own count.
"""

import asyncio
from collections.abc import Sequence
from contextlib import AsyncExitStack

import asyncpg
from pydantic import SecretStr

from newsloom.adapters.postgres import open_store
from newsloom.core.article import Article
from newsloom.ports import Batch, TopicPartition
from newsloom.settings.groups import PostgresSettings
from tests.support.articles import article, observations

ARTICLES = 250


async def _apply(dsn: str, partition: int, batches: Sequence[list[tuple[int, Article]]]) -> None:
    settings = PostgresSettings(dsn=SecretStr(dsn))
    async with AsyncExitStack() as stack:
        store = await stack.enter_async_context(open_store(settings, consumer_group="newsloom"))
        claim = await store.claim(TopicPartition("t", partition), "me", 0)
        start = 0
        for stream in batches:
            end = start + len(stream)
            items = observations(*stream, start=start)
            await store.apply(Batch(claim.partition, claim.epoch, 0, start, end, items))
            start = end


async def _deadlocks(dsn: str) -> int:
    connection = await asyncpg.connect(dsn)
    try:
        await asyncio.sleep(0.5)  # the backends that have ended report what they counted
        count: int = await connection.fetchval(
            "SELECT deadlocks FROM pg_stat_database WHERE datname = current_database()"
        )
    finally:
        await connection.close()
    return count


SLOW = """
CREATE FUNCTION be_slow() RETURNS trigger LANGUAGE plpgsql AS
    $$ BEGIN PERFORM pg_sleep(0.003); RETURN NEW; END $$;
CREATE TRIGGER slow BEFORE INSERT ON newsloom.article_urls
    FOR EACH ROW EXECUTE FUNCTION be_slow();
"""
"""So that two statements of many rows are under way at the same time, on any machine."""


async def test_batches_that_bring_the_same_new_addresses_in_opposite_order_never_deadlock(
    database: str,
) -> None:
    connection = await asyncpg.connect(database)
    await connection.execute(SLOW)
    await connection.close()
    rounds = [[(1, article(f"{number}-{n}")) for n in range(60)] for number in range(3)]
    await asyncio.gather(
        _apply(database, 0, rounds), _apply(database, 1, [stream[::-1] for stream in rounds])
    )
    assert await _deadlocks(database) == 0


async def test_batches_that_revise_the_same_articles_in_opposite_order_never_deadlock(
    database: str,
) -> None:
    names = [str(n) for n in range(ARTICLES)]
    await _apply(database, 0, [[(1, article(name)) for name in names]])
    ones = [[(n, article(name, title=f"One {n}")) for name in names] for n in range(2, 8)]
    twos = [[(n, article(name, title=f"Two {n}")) for name in names[::-1]] for n in range(2, 8)]
    await asyncio.gather(_apply(database, 1, ones), _apply(database, 2, twos))
    assert await _deadlocks(database) == 0
