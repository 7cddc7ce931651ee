"""Faults of a Kafka cluster: leaders that are killed, replicas that lag, partitions without one."""

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace

from tests.faults.process_scenarios import read_all, write_stream
from tests.faults.rig import Rig
from tests.faults.scenarios import RATE
from tests.support.blackbox import finish
from tests.support.brokers import Cluster, open_cluster


async def leaders_killed(rig: Rig, rounds: int = 4) -> None:
    """F25: kill -9 of one leader after another, then of two of three brokers: no acked loss."""
    async with _cluster(rig) as cluster:
        member = await rig.member()
        rig.flow(RATE)
        await rig.progress(200)
        for _ in range(rounds):
            leaders = await cluster.leaders()
            victim = leaders[rig.rng.randrange(rig.line.partitions)]
            await cluster.kill(victim)
            began = time.monotonic()
            await _moved(cluster, victim)
            await rig.progress(300, patience=90)
            rig.figures["resumed after s"] = round(time.monotonic() - began, 1)
            await cluster.start(victim)
            await cluster.whole()
        pair = rig.rng.sample(sorted(cluster.brokers), 2)
        await cluster.kill(*pair)
        acknowledged = len(rig.feed.acknowledged)
        await asyncio.sleep(5)
        # One replica is too few: what was sent meanwhile waits, and is not taken for stored.
        rig.figures["acknowledged by one replica"] = late = (
            len(rig.feed.acknowledged) - acknowledged
        )
        assert late <= RATE, "one replica alone acknowledged"
        await cluster.start(*pair)
        await rig.progress(300, patience=90)
        assert member.alive, member.told()[-3000:]
        await rig.judge()


async def no_leader(rig: Rig, seconds: float = 15) -> None:
    """F26: no partition has a leader for longer than a request may take, while publish runs."""
    file = rig.folder / "stream.ndjson"
    lines = write_stream(file, rig.seed, 20_000)
    async with _cluster(rig) as cluster:
        member = await rig.member()
        process = await rig.line.start(
            "publish",
            file,
            extra={
                "NEWSLOOM_KAFKA_REQUEST_TIMEOUT_SECONDS": "5",
                "NEWSLOOM_PUBLISH_MAX_IN_FLIGHT_RECORDS": "100",
            },
        )
        talk = asyncio.ensure_future(finish(process, 150))
        await rig.progress(500)
        await cluster.kill(*cluster.brokers)
        assert not talk.done(), "it was over before anything could happen to it"
        await asyncio.sleep(seconds)
        await cluster.start(*cluster.brokers)
        done = await talk
        assert done.code == 0, done.told()
        raw = await read_all(rig)
        assert {record.observed_at.isoformat() for record in raw} == set(lines)
        rig.figures |= {"lines": len(lines), "in Kafka": len(raw)}
        rig.figures["producers replaced"] = done.err.count("replacing the Kafka producer")
        assert member.alive, member.told()[-3000:]
        await rig.judge()


async def _moved(cluster: Cluster, victim: int, patience: float = 30) -> None:
    async with asyncio.timeout(patience):
        while victim in (await cluster.leaders()).values():  # noqa: ASYNC110 - no event for it
            await asyncio.sleep(0.1)


@asynccontextmanager
async def _cluster(rig: Rig) -> AsyncIterator[Cluster]:
    """Move the scenario to a Kafka topic on three brokers of its own."""
    rig.line = replace(rig.line, topic=f"{rig.line.topic}.replicated")
    rig.feed.move(rig.line)
    async with open_cluster(
        rig.bench.kafka,
        rig.line.bootstrap,
        rig.line.topic,
        cache=rig.bench.cache,
        partitions=rig.line.partitions,
    ) as cluster:
        yield cluster
