"""Bulk imports for real: they come in beside live news, which does not notice."""

import asyncio
import json
import time
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path

import asyncpg
import pytest

from tests.support.blackbox import Line, finish, producer
from tests.support.kafka import MakeTopic, create_topic

pytestmark = pytest.mark.timeout(180)

BULK = 6000
LIVE = 250
LIVE_A_SECOND = 50


@pytest.fixture
async def line(kafka_bootstrap: str, make_topic: MakeTopic, database: str) -> Line:
    topic = await make_topic(1, name="articles")
    await create_topic(kafka_bootstrap, f"{topic}.backfill", 2)
    return Line(kafka_bootstrap, database, topic)


def record(number: int, title: str) -> dict[str, str]:
    return {
        "title": title,
        "originalUrl": f"https://slow-gazette.example/{number}",
        "excerpt": "The ferry left the harbour an hour late, as it has done all winter. " * 4,
    }


async def test_a_bulk_import_leaves_live_news_alone_and_never_overwrites_what_is_newer(
    line: Line, tmp_path: Path
) -> None:
    async with ingesting(line):
        await live_latencies(line, first=0, count=5)  # until it has started
        alone = await live_latencies(line, first=0)
        # The live articles once more, as of long ago, and many that nobody has seen.
        numbers = [*range(LIVE), *range(10_000, 10_000 + BULK)]
        importing = asyncio.create_task(backfill(line, tmp_path, numbers))
        beside = await live_latencies(line, first=LIVE)
        assert await imported(line) > BULK / 10, "hardly anything was imported meanwhile"
        await importing
        async with asyncio.timeout(90):
            while await imported(line) < BULK + LIVE:  # noqa: ASYNC110 - a row, no event
                await asyncio.sleep(0.2)

    print(f"live p95: {p95(alone):.3f} s alone, {p95(beside):.3f} s beside a bulk import")  # noqa: T201
    assert p95(beside) < max(3 * p95(alone), 0.5)

    rows = await line.fetch(
        "SELECT count(*) AS n, count(*) FILTER (WHERE title LIKE 'Live%') AS live FROM api.articles"
    )
    assert (rows[0]["n"], rows[0]["live"]) == (2 * LIVE + BULK, 2 * LIVE)


async def test_a_line_without_its_own_time_is_refused(line: Line, tmp_path: Path) -> None:
    file = tmp_path / "bulk.ndjson"
    file.write_text(json.dumps(record(1, "When was this?")))
    done = await line.run("publish", "--backfill", file)
    assert done.code == 1, done.told()
    assert "observed_at" in done.out + done.err


@asynccontextmanager
async def ingesting(line: Line) -> AsyncIterator[None]:
    await line.migrate()
    process = await line.start("ingest")
    try:
        yield
    finally:
        process.terminate()
        done = await finish(process, 30)
    assert done.code == 0, done.told()


async def backfill(line: Line, folder: Path, numbers: Sequence[int]) -> None:
    file = folder / "bulk.ndjson"
    with file.open("w") as lines:
        for number in numbers:
            old = {**record(number, f"Long ago {number}"), "observed_at": "2020-01-01T00:00:00Z"}
            lines.write(json.dumps(old) + "\n")
    done = await line.run("publish", "--backfill", file)
    assert done.code == 0, done.told()


async def imported(line: Line) -> int:
    rows = await line.fetch(
        "SELECT coalesce(sum(next_offset), 0)::int AS n FROM api.ingest_progress"
        " WHERE kafka_topic = $1",
        f"{line.topic}.backfill",
    )
    return int(rows[0]["n"])


async def live_latencies(line: Line, *, first: int, count: int = LIVE) -> list[float]:
    """Send live articles at a steady pace; return how long each took to be stored, seconds."""
    sent: list[float] = []
    stored: list[float] = []
    start = await line.position()

    async def watch() -> None:
        connection = await asyncpg.connect(line.dsn)
        query = "SELECT next_offset FROM newsloom.ingest_offsets WHERE kafka_topic = $1"
        try:
            while len(stored) < count:
                position = await connection.fetchval(query, line.topic) or 0
                stored.extend([time.monotonic()] * (position - start - len(stored)))
                await asyncio.sleep(0.005)
        finally:
            await connection.close()

    async with asyncio.timeout(60), producer(line.bootstrap) as sender, asyncio.TaskGroup() as both:
        both.create_task(watch())
        for number in range(first, first + count):
            value = json.dumps(record(number, f"Live {number}")).encode()
            await sender.send_and_wait(line.topic, value=value, partition=0)
            sent.append(time.monotonic())
            await asyncio.sleep(1 / LIVE_A_SECOND)
    return [after - before for before, after in zip(sent, stored, strict=True)]


def p95(latencies: Sequence[float]) -> float:
    return sorted(latencies)[int(len(latencies) * 0.95)]
