"""Who stands by or waits for Postgres is well: no watchdog may end it. One connection is enough."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import timedelta

from prometheus_client import CollectorRegistry
from pydantic import SecretStr

from newsloom.adapters.embedded.processes import free_port
from newsloom.adapters.postgres.linking import PostgresLinkStore, open_link_store
from newsloom.adapters.postgres.relaying import open_relay_store
from newsloom.health import Health
from newsloom.linker import Linker
from newsloom.metrics import Metrics
from newsloom.ports import RelayFeed
from newsloom.settings import PostgresSettings


def settings_of(dsn: str, connections: int = 1) -> PostgresSettings:
    return PostgresSettings(dsn=SecretStr(dsn), pool_max_connections=connections)


@asynccontextmanager
async def linking(store: PostgresLinkStore, beats: list[float]) -> AsyncIterator[Linker]:
    loop = asyncio.get_running_loop()
    linker = Linker(
        store,
        window=timedelta(hours=48),
        metrics=Metrics(CollectorRegistry()),
        health=Health(needs=("postgres",), owns_partitions=False, stall_after_seconds=60),
        owner_id="me",
        jitter=lambda: 0.5,
        beat=lambda: beats.append(loop.time()),
    )
    stop = asyncio.Event()
    task = asyncio.create_task(linker.run(stop))
    try:
        yield linker
    finally:
        stop.set()
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


async def several(beats: list[float]) -> None:
    async with asyncio.timeout(20):
        while len(beats) < 3:  # noqa: ASYNC110 - a list tells nobody
            await asyncio.sleep(0.05)


async def test_a_linker_with_one_connection_works_and_another_stands_by_in_good_health(
    database: str,
) -> None:
    first: list[float] = []
    second: list[float] = []
    async with (
        open_link_store(settings_of(database)) as one,
        open_link_store(settings_of(database)) as two,
        linking(one, first) as leader,
    ):
        await several(first)
        assert leader.empty_read_at > 0
        async with linking(two, second) as other:
            await several(second)
            assert other.empty_read_at < 0, "it stands by"


async def test_a_linker_whose_postgres_is_away_goes_on_waiting() -> None:
    beats: list[float] = []
    nowhere = f"postgresql://newsloom@127.0.0.1:{free_port()}/newsloom"
    async with open_link_store(settings_of(nowhere)) as store, linking(store, beats):
        await several(beats)


async def test_the_relay_can_work_while_it_holds_both_locks(database: str) -> None:
    async with (
        asyncio.timeout(20),
        open_relay_store(settings_of(database)) as store,
        store.lead(RelayFeed.CHANGES),
        store.lead(RelayFeed.DEAD_LETTERS),
    ):
        assert (await store.unsent_letters(10)).letters == []


async def test_a_relay_that_stands_by_says_so(database: str) -> None:
    waited = asyncio.Event()
    async with (
        open_relay_store(settings_of(database)) as one,
        open_relay_store(settings_of(database)) as two,
        one.lead(RelayFeed.CHANGES),
    ):

        async def stand_by() -> None:
            async with two.lead(RelayFeed.CHANGES, waited.set):
                raise AssertionError("there are two")

        task = asyncio.create_task(stand_by())
        async with asyncio.timeout(20):
            await waited.wait()
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
