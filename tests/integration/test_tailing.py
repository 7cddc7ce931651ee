"""What holds the change log back, and who is silent: from a real Postgres."""

import asyncio
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta

import asyncpg
from pydantic import SecretStr

from newsloom.adapters.postgres import open_store
from newsloom.adapters.postgres.linking import open_link_store
from newsloom.adapters.postgres.tailing import open_horizon_store
from newsloom.core.article import Provider
from newsloom.core.batch import DeadLetter, Observation
from newsloom.core.change_log import START
from newsloom.ports import Batch, TopicPartition
from newsloom.settings import PostgresSettings
from newsloom.tailing import HorizonAge
from tests.support.articles import article, observations
from tests.support.postgres import dsn_of

PARTITION = TopicPartition("newsloom.articles.v1", 0)
NOW = datetime.now(UTC)


def settings_of(dsn: str) -> PostgresSettings:
    return PostgresSettings(dsn=SecretStr(dsn))


async def store_all(dsn: str, items: Sequence[Observation | DeadLetter]) -> None:
    async with open_store(settings_of(dsn), consumer_group="newsloom") as store:
        claim = await store.claim(PARTITION, "me", 0)
        await store.apply(Batch(PARTITION, claim.epoch, 0, 0, len(items), items))


async def test_a_transaction_in_another_database_holds_the_horizon(
    database: str, postgres_server: str
) -> None:
    loop = asyncio.get_running_loop()
    other = await asyncpg.connect(dsn_of(postgres_server, "postgres"))
    age = HorizonAge()
    try:
        async with open_horizon_store(settings_of(database)) as store:
            await other.execute("BEGIN")
            number = int(await other.fetchval("SELECT pg_current_xact_id()::text::bigint"))
            await store_all(database, observations((0, article("of-1"))))
            async with asyncio.timeout(30):  # others of this server may be older, and end
                while (running := await store.running()).oldest != number:  # noqa: ASYNC110
                    await asyncio.sleep(0.05)
            assert running.oldest < running.past_ended
            age.observe(running, loop.time())
            await asyncio.sleep(0.2)
            assert age.observe(await store.running(), loop.time()) >= 0.2
            await other.execute("ROLLBACK")
            assert (await store.running()).oldest > number
    finally:
        await other.close()


async def test_the_linker_is_late_by_what_an_open_transaction_hides(
    database: str, postgres_server: str
) -> None:
    other = await asyncpg.connect(dsn_of(postgres_server, "postgres"))
    try:
        await other.execute("BEGIN")
        await other.fetchval("SELECT pg_current_xact_id()")
        before = datetime.now(UTC).timestamp()
        await store_all(database, observations((0, article("of-1"))))
        async with open_link_store(settings_of(database)) as log:
            hidden = await log.read(START, 100)
            assert hidden.rows == 0
            assert hidden.recorded_at is not None
            assert before - 5 < hidden.recorded_at < before + 5
            await other.execute("ROLLBACK")
            async with asyncio.timeout(30):
                while not (read := await log.read(START, 100)).rows:  # noqa: ASYNC110
                    await asyncio.sleep(0.05)
            assert (await log.read(read.position, 100)).recorded_at is None
    finally:
        await other.close()


def by(provider: str, ages: list[timedelta], start: int) -> list[Observation]:
    """Articles of one provider, each observed so long ago."""
    return [
        Observation(
            start + number,
            NOW - age,
            article(
                f"{provider}-{number}",
                provider=Provider(provider, f"{provider}.example"),
            ),
        )
        for number, age in enumerate(sorted(ages, reverse=True))
    ]


async def test_a_provider_is_silent_by_its_own_measure(database: str) -> None:
    minute, hour, day = timedelta(minutes=1), timedelta(hours=1), timedelta(days=1)
    items: list[Observation] = []
    for provider, ages in (
        ("busy", [minute * n for n in range(1, 31)]),
        ("stopped", [hour * 2 + minute * n for n in range(30)]),
        ("daily", [hour * 20 + day * n for n in range(30)]),  # silent for 20 hours, as ever
        ("few", [hour * 5 + minute * n for n in range(19)]),
        ("gone", [day * 8 + hour * n for n in range(30)]),
    ):
        items += by(provider, ages, len(items))
    await store_all(database, items)
    connection = await asyncpg.connect(database)
    try:
        await connection.execute("SET SESSION AUTHORIZATION newsloom_link")
        rows = await connection.fetch("SELECT * FROM api.provider_silence")
    finally:
        await connection.close()
    silent = {row["provider_domain"]: row["is_silent"] for row in rows}
    assert silent == {
        "busy.example": False, "stopped.example": True, "daily.example": False,
        "few.example": False, "gone.example": False,
    }  # fmt: skip
    (stopped,) = (row for row in rows if row["provider_domain"] == "stopped.example")
    assert stopped["usual_gap"] == minute
    assert stopped["last_seen_at"] == NOW - hour * 2
    async with open_horizon_store(settings_of(database)) as store:
        assert await store.silent_providers() == 1
