"""Alerts provoked on a running service: Postgres stopped, a Kafka topic poisoned, a process killed.

The short form of `make alerts`, which provokes each of them. The rules are the real ones with their
waits and windows made short: what is tested is that the service's metrics do what the rules expect.
"""

import asyncio
import tempfile
from collections.abc import Set as AbstractSet
from pathlib import Path

import pytest

from newsloom.adapters.embedded import EmbeddedPostgres
from tests.ops import provoke
from tests.ops.test_prometheus_live import answers, ask, free_port, prometheus
from tests.ops.tools import alerts
from tests.ops.town import hasty_rules
from tests.support.blackbox import Line, finish, kill, send, send_raw
from tests.support.generator import Stream
from tests.support.kafka import MakeTopic
from tests.support.services import open_folder, start_or_fail

pytestmark = [pytest.mark.timeout(180), pytest.mark.faults]


def test_make_alerts_provokes_each_alert_once() -> None:
    provoked = list(provoke.expected())
    assert sorted(provoked) == sorted(alerts())


async def firing(base: str) -> set[str]:
    query = 'ALERTS{alertstate="firing"}'
    answer = await asyncio.to_thread(ask, base, "/api/v1/query", query=query)
    return {item["metric"]["alertname"] for item in answer["data"]["result"]}


async def until(
    base: str, *, fires: AbstractSet[str] = frozenset(), not_fires: AbstractSet[str] = frozenset()
) -> None:
    """Wait until these alerts fire and those do not."""
    try:
        async with asyncio.timeout(40):
            while True:
                now = await firing(base)
                if fires <= now and not now & not_fires:
                    return
                await asyncio.sleep(0.5)
    except TimeoutError:
        raise AssertionError(f"{fires=} {not_fires=} but firing are {await firing(base)}") from None


async def test_alerts_fire_on_what_goes_wrong_and_end_with_it(
    kafka_bootstrap: str, make_topic: MakeTopic
) -> None:
    postgres = EmbeddedPostgres(open_folder() / "postgres", config={"fsync": "off"})
    dsn = start_or_fail(postgres)
    port = free_port()
    line = Line(kafka_bootstrap, dsn, await make_topic(2, name="alerts"), partitions=2)
    await line.migrate()
    process = await line.start("ingest", extra={"NEWSLOOM_ADMIN_PORT": str(port)})
    messages = list(Stream(3, deliveries=900, rejected=0))
    away = {"NewsloomDependencyAway", "NewsloomNoProgress", "NewsloomStale"}
    try:
        with tempfile.TemporaryDirectory(prefix="newsloom-prometheus-") as folder:
            async with prometheus(Path(folder), port, rules=hasty_rules()) as base:
                await answers(f"http://127.0.0.1:{port}", "/readyz", process)
                await answers(base, "/-/ready")
                await send(line.bootstrap, line.topic, messages[:300], lambda m: len(m.path) % 2)
                await line.reached(300, 30)
                await until(base, not_fires=away)

                postgres.stop()
                await send(line.bootstrap, line.topic, messages[300:], lambda m: len(m.path) % 2)
                await until(base, fires=away)
                start_or_fail(postgres)
                await until(base, not_fires=away)

                await send_raw(line.bootstrap, line.topic, [b"{"] * 600)
                await until(base, fires={"NewsloomDeadLetters"})

                kill(process)
                await until(base, fires={"NewsloomTargetDown"})
    finally:
        kill(process)
        await finish(process, 20)
        postgres.kill()
