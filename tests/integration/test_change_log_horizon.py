"""The change log is read up to the oldest transaction that still runs: nothing is ever skipped."""

import asyncio

from pydantic import SecretStr

from newsloom.adapters.postgres import open_store
from newsloom.adapters.postgres.linking import open_link_store
from newsloom.core.change_log import ChangePosition
from newsloom.ports import Batch, TopicPartition
from newsloom.settings.groups import PostgresSettings
from tests.support.articles import article, observations


async def test_the_linker_waits_for_a_slow_transaction_that_began_first(database: str) -> None:
    settings = PostgresSettings(dsn=SecretStr(database))
    written, may_commit = asyncio.Event(), asyncio.Event()

    async def pause(step: str) -> None:
        if step == "before_commit":
            written.set()
            await may_commit.wait()

    async with (
        open_store(settings, consumer_group="slow", checkpoint=pause) as slow,
        open_store(settings, consumer_group="quick") as quick,
        open_link_store(settings) as log,
    ):
        batches = []
        for store, number in ((slow, 0), (quick, 1)):
            claim = await store.claim(TopicPartition("t", number), "me", 0)
            items = observations((1, article(f"of-{number}")))
            batches.append(Batch(claim.partition, claim.epoch, 0, 0, 1, items))
        begun = asyncio.create_task(slow.apply(batches[0]))
        await written.wait()
        await quick.apply(batches[1])
        assert (await log.read(ChangePosition(0, 0), 100)).rows == 0
        may_commit.set()
        await begun
        assert (await log.read(ChangePosition(0, 0), 100)).rows == 2
