"""Merges that reach rows which their own batch does not name."""

import asyncio
from typing import Any

from pydantic import SecretStr

from newsloom.adapters.postgres import PostgresStore, open_store
from newsloom.core.article import Article
from newsloom.ports import Batch, TopicPartition
from newsloom.settings.groups import PostgresSettings
from tests.support.articles import article, mention, observations
from tests.support.stored import stored_in_postgres


async def deliver(store: PostgresStore, partition: int, *stream: tuple[int, Article]) -> None:
    """Claim a partition and apply deliveries to it."""
    claim = await store.claim(TopicPartition("t", partition), "me", 0)
    items = observations(*stream, start=claim.next_offset)
    end = claim.next_offset + len(items)
    await store.apply(Batch(claim.partition, claim.epoch, 0, claim.next_offset, end, items))


async def test_edges_that_close_up_in_one_batch_are_still_moved_by_a_merge_in_another(
    database: str,
) -> None:
    inside, go_on = asyncio.Event(), asyncio.Event()

    async def checkpoint(name: str) -> None:
        if name == "before_commit":
            inside.set()
            await go_on.wait()

    settings = PostgresSettings(dsn=SecretStr(database))
    async with (
        open_store(settings, consumer_group="newsloom") as one,
        open_store(settings, consumer_group="newsloom", checkpoint=checkpoint) as two,
    ):
        listed = (mention("neighbour"), mention("lost"), mention("other"))
        await deliver(one, 0, (1, article("winner")), (2, article("list", related=listed)))
        # The list's article turns out to be its own first neighbour: that edge goes ...
        bridge = article("third", related=(mention("list", "neighbour"),))
        closing_up = asyncio.create_task(deliver(two, 1, (3, bridge)))
        await inside.wait()
        # ... while another batch merges its second neighbour away.
        merging = asyncio.create_task(deliver(one, 0, (4, article("winner", "lost"))))
        await asyncio.sleep(0.3)
        go_on.set()
        await asyncio.gather(closing_up, merging)

    stored: dict[str, Any] = await stored_in_postgres(database)
    alive = {owner for owner, head in stored["heads"].items() if head["merged_into"] is None}
    targets = {target for edges in stored["edges"].values() for target in edges}
    assert len(targets) == 3
    assert targets <= alive


async def test_what_is_merged_twice_in_one_batch_moves_on_from_an_article_that_is_new(
    database: str,
) -> None:
    settings = PostgresSettings(dsn=SecretStr(database))
    async with open_store(settings, consumer_group="newsloom") as store:
        stored = article("stored", title="First")
        await deliver(
            store,
            0,
            (5, article("list", related=(mention("stored"),))),
            (6, stored),
            (7, article("stored", title="Second")),
        )
        # Delivered late: seen before all that is stored, and in the end one article with it.
        chain = ((3, article("new")), (4, article("new", "stored")))
        await deliver(store, 1, *chain, (2, article("oldest")), (8, article("oldest", "new")))

    found: dict[str, Any] = await stored_in_postgres(database)
    alive = {owner for owner, head in found["heads"].items() if head["merged_into"] is None}
    assert len(alive) == 2
    assert {target for edges in found["edges"].values() for target in edges} <= alive
    assert {owner for owner, _ in found["revisions"]} <= alive
    assert {alias[0] for alias in found["aliases"].values()} <= alive
