"""A real Prometheus scrapes a real ingest process under load: every panel has something to show."""

import asyncio
import json
import math
import socket
import tempfile
import urllib.parse
import urllib.request
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Any

import asyncpg
import pytest

from tests.ops.grafana_sql import expand
from tests.ops.promql import fill
from tests.ops.test_dashboards import promql_queries, sql_queries
from tests.ops.tools import RULES, program, run
from tests.support.blackbox import Line, finish, send, send_raw
from tests.support.generator import Stream
from tests.support.kafka import MakeTopic

pytestmark = pytest.mark.timeout(150)

WINDOW = {"$__rate_interval": "5s", "$__range": "20s"}
LOAD_SECONDS = 22
WATCHED_SECONDS = 14

MOVING = {
    "Deliveries by outcome",
    "From Kafka to Postgres",
    "Decode: deliveries and mentions",
    "Decode: rejected",
    "Batch: where the time goes",
    "Batch: duration of a stage, p95",
    "Store: outcomes",
    "Store: time since the last commit",
    "End to end",
    "CPU",
}
"""Panels whose curves cannot be flat while waves of records arrive."""

POSITIVE = {
    "newsloom_database_pool_max_connections",
    "newsloom_partitions_owned",
    "newsloom_last_commit_timestamp_seconds",
    "newsloom_dependency_usable",
    "newsloom_mentions_total",
    "newsloom_unknown_fields_total",
    "newsloom_dropped_values_total",
    "newsloom_event_loop_lag_seconds_count",
}
"""Series that are above zero in a process that works: each is set by another part of it."""

FILLED_BY_LINK = {"Stories that grow", "Newest copies"}
"""Tables that stay empty where only ingest has run."""

NO_DATE = {"title": "No date", "originalUrl": "https://summitledger.example/undated"}
BAD = [b"{", b"[]", b'{"title": "no address"}']
ODD = b'{"title": "Odd", "originalUrl": "https://summitledger.example/odd", "heat": "warm", "x": 1}'


def free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return int(listener.getsockname()[1])


@asynccontextmanager
async def prometheus(
    folder: Path, admin_port: int, *, rules: str = RULES.read_text()
) -> AsyncIterator[str]:
    """A Prometheus with our rules that scrapes one process every second."""
    (folder / "rules.yml").write_text(rules)
    (folder / "prometheus.yml").write_text(
        "global: {scrape_interval: 1s, scrape_timeout: 1s, evaluation_interval: 1s}\n"
        "rule_files: [rules.yml]\n"
        "scrape_configs:\n"
        "  - job_name: newsloom\n"
        f"    static_configs: [{{targets: ['127.0.0.1:{admin_port}']}}]\n"
    )
    address = f"127.0.0.1:{free_port()}"
    process = await asyncio.create_subprocess_exec(
        program("prometheus"),
        f"--config.file={folder / 'prometheus.yml'}",
        f"--storage.tsdb.path={folder / 'data'}",
        f"--web.listen-address={address}",
        "--log.level=warn",
        stdout=asyncio.subprocess.DEVNULL,
        stderr=asyncio.subprocess.DEVNULL,
    )
    try:
        yield f"http://{address}"
    finally:
        with suppress(ProcessLookupError):
            process.terminate()
        await process.wait()


def ask(base: str, path: str, **parameters: object) -> Any:
    """Ask Prometheus's HTTP API, or fetch a page of the service."""
    url = f"{base}{path}" + (f"?{urllib.parse.urlencode(parameters)}" if parameters else "")
    with urllib.request.urlopen(url, timeout=10) as answer:  # noqa: S310 - http, and ours
        text = answer.read().decode()
    return json.loads(text) if path.startswith("/api/") else text


async def answers(url: str, path: str, process: asyncio.subprocess.Process | None = None) -> None:
    """Wait until a page is there."""
    async with asyncio.timeout(40):
        while True:
            assert process is None or process.returncode is None, "ended before it was ready"
            with suppress(OSError):
                await asyncio.to_thread(ask, url, path)
                return
            await asyncio.sleep(0.2)


async def load(line: Line) -> None:
    """Waves of records for a while, some of them bad or odd."""
    messages = iter(Stream(11, deliveries=100_000, rejected=0.02))
    loop = asyncio.get_running_loop()
    until = loop.time() + LOAD_SECONDS
    wave = 0
    while loop.time() < until:
        wave += 1
        batch = [next(messages) for _ in range(40 + 160 * (wave % 3))]
        await send(line.bootstrap, line.topic, batch, lambda m: len(m.path) % 2)
        # Not the same in each wave: on a quiet machine the waves come like clockwork.
        raw = [*BAD, ODD, json.dumps(NO_DATE).encode()] * (1 + wave % 4)
        await send_raw(line.bootstrap, line.topic, [*raw, *mentioning(wave)])
        await asyncio.sleep(0.6)


def mentioning(wave: int) -> list[bytes]:
    """Records that mention others: a different number in each wave."""
    base = "https://summitledger.example"
    related = [{"title": f"M{n}", "originalUrl": f"{base}/m/{n}"} for n in range(1 + wave % 7)]
    record = {"title": "Mentions", "originalUrl": f"{base}/mentions", "related": related}
    return [json.dumps(record).encode()] * (1 + wave % 3)


def moves(result: list[dict[str, Any]]) -> bool:
    """Tell whether any series takes more than one value (NaN: nothing was observed)."""
    for series in result:
        values = {float(value) for _, value in series["values"]}
        if len({value for value in values if not math.isnan(value)}) > 1:
            return True
    return False


def panel_problems(base: str, since: float, until: float) -> Iterator[str]:
    for query in promql_queries():
        result = ask(
            base,
            "/api/v1/query_range",
            query=fill(query.text, WINDOW),
            start=since,
            end=until,
            step=1,
        )["data"]["result"]
        if not result:
            yield f"{query}: no series"
        elif query.panel in MOVING and not moves(result):
            yield f"{query}: constant under load"


def unset_series(base: str) -> Iterator[str]:
    for name in sorted(POSITIVE):
        answer = ask(base, "/api/v1/query", query=f"sum({name}) > 0")
        if not answer["data"]["result"]:
            yield f"{name} is not above zero"


async def table_problems(dsn: str) -> list[str]:
    connection = await asyncpg.connect(dsn)
    try:
        await connection.execute("SET SESSION AUTHORIZATION newsloom_reader")
        problems = []
        for query in sql_queries():
            text = expand(query.text, "2000-01-01T00:00Z", "2100-01-01T00:00Z")
            if not await connection.fetch(text) and query.panel not in FILLED_BY_LINK:
                problems.append(f"{query}: no rows")
        return problems
    finally:
        await connection.close()


async def test_every_panel_shows_something_while_a_service_works(
    kafka_bootstrap: str, database: str, make_topic: MakeTopic
) -> None:
    admin_port = free_port()
    line = Line(kafka_bootstrap, database, await make_topic(2, name="live"), partitions=2)
    process = await line.start("ingest", extra={"NEWSLOOM_ADMIN_PORT": str(admin_port)})
    service = f"http://127.0.0.1:{admin_port}"
    with tempfile.TemporaryDirectory(prefix="newsloom-prometheus-") as folder:
        async with prometheus(Path(folder), admin_port) as base:
            try:
                await answers(service, "/readyz", process)
                await answers(base, "/-/ready")
                await load(line)
                now = float(ask(base, "/api/v1/query", query="time()")["data"]["result"][1])
                problems = list(panel_problems(base, now - WATCHED_SECONDS, now))
                problems += unset_series(base)
                problems += await table_problems(database)
                firing = ask(base, "/api/v1/query", query='ALERTS{alertstate="firing"}')
                page = ask(service, "/metrics")
            finally:
                process.terminate()
                done = await finish(process, 30)
    assert problems == [], done.told()
    assert firing["data"]["result"] == [], "all is well, so nothing should fire"
    run(program("promtool"), "check", "metrics", input=page)


def test_the_panels_that_must_move_exist() -> None:
    titles = {query.panel for query in promql_queries()}
    assert titles >= MOVING
    assert {query.panel for query in sql_queries()} >= FILLED_BY_LINK
