"""`make explain`: the plan and the time of every query of the cookbook on a big database.

    python -m bench.explain [--articles 500000] [--runs 30] [--ingest 0] [--write docs/queries.md]

Starts a Postgres of its own in a temporary folder (or takes the empty one of --dsn), fills it, and
runs each query as newsloom_reader. `--ingest N` measures once more while the real store takes in N
new records a second. Exit code 1: a query read a big table from end to end.
"""

import argparse
import asyncio
import json
import os
import re
import shutil
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from random import Random
from typing import Any, Final
from urllib.parse import urlsplit, urlunsplit

import asyncpg
from pydantic import SecretStr

from bench.explain_data import MENTIONS_AN_ARTICLE, load
from newsloom.adapters.embedded import EmbeddedPostgres
from newsloom.adapters.migrations import migrate
from newsloom.adapters.postgres import open_store
from newsloom.core.batch import Observation
from newsloom.core.enrichment import enrich
from newsloom.core.generate import Generator
from newsloom.core.mapping import article_from_record
from newsloom.core.record import record_from_mapping
from newsloom.ports import Batch, TopicPartition
from newsloom.settings import PostgresSettings

ROOT: Final = Path(__file__).parents[1]
BIG: Final = 100_000
"""Rows from which on reading a table from end to end is a fault."""

CONFIG: Final = {
    "shared_buffers": "1GB",
    "max_wal_size": "8GB",
    "random_page_cost": "1.1",  # as for solid-state disks
    "effective_cache_size": "4GB",
    "jit": "off",
}
_PARTITION: Final = TopicPartition("newsloom.articles.v1", 7)
_BATCH_SECONDS: Final = 0.25


@dataclass(slots=True)
class Measured:
    """One query: its answer's rows, times in ms, and what was read for it."""

    label: str
    question: str
    sql: str
    rows: int = 0
    first_ms: float = 0.0
    quiet_ms: list[float] = field(default_factory=list)
    busy_ms: list[float] = field(default_factory=list)
    buffers: int = 0
    fetched: int = 0
    scans: dict[str, int] = field(default_factory=dict)
    indexes: set[str] = field(default_factory=set)
    plan: str = ""


def questions() -> list[Measured]:
    """Read the cookbook."""
    text = (ROOT / "docs" / "cookbook.md").read_text(encoding="utf-8")
    found = re.findall(r"^### (\d+)\. (.*?)$.*?^```sql\n(.*?)^```$", text, re.MULTILINE | re.DOTALL)
    # Beyond the cookbook: what costs a search most.
    more = {
        "A search for a very common word": "SELECT * FROM api.search('said');",
        "A search for a misspelt word": "SELECT * FROM api.search('harbuor');",
        "A search for the beginning of a word": "SELECT * FROM api.search('harbou');",
        "A search in one provider's articles": (
            "SELECT * FROM api.search('mayor', provider => 'outlet3.example');"
        ),
        "The providers, counted anew": "SELECT * FROM api.counted_providers();",
    }
    asked = [Measured(f"{number}.", question, sql) for number, question, sql in found]
    return asked + [Measured("", question, sql) for question, sql in more.items()]


async def measure(dsn: str, asked: list[Measured], runs: int, rate: int) -> None:
    """Fill the list in: plans once, times as often as wanted, quiet and (rate > 0) busy."""
    reader = await asyncpg.connect(dsn)
    try:
        await reader.execute("LOAD 'auto_explain'")
        for one in asked:
            await _explain(reader, one)
        await reader.close()
        reader = await asyncpg.connect(dsn)
        await reader.execute("SET ROLE newsloom_reader; SET default_transaction_read_only = on")
        for one in asked:
            one.quiet_ms = [await _timed(reader, one.sql) for _ in range(runs)]
        if rate:
            async with ingesting(dsn, rate):
                for _ in range(runs):
                    for one in asked:
                        one.busy_ms.append(await _timed(reader, one.sql))
    finally:
        await reader.close()


async def _timed(reader: asyncpg.Connection, sql: str) -> float:
    began = time.perf_counter()
    await reader.fetch(sql)
    return (time.perf_counter() - began) * 1000


_AUTO_EXPLAIN: Final = """
SET auto_explain.log_min_duration = 0;
SET auto_explain.log_nested_statements = on;
SET auto_explain.log_analyze = on;
SET auto_explain.log_timing = off;
SET auto_explain.log_format = json;
SET auto_explain.log_level = notice"""

_READ: Final = """
SELECT relname, coalesce(seq_tup_read, 0) AS scanned, coalesce(idx_tup_fetch, 0) AS fetched
FROM pg_stat_xact_user_tables"""


async def _explain(reader: asyncpg.Connection, one: Measured) -> None:
    """Run a query for its plan and what it reads, and once more for the plans in its functions."""
    transaction = reader.transaction(readonly=True)
    await transaction.start()
    try:
        await reader.execute("SET LOCAL ROLE newsloom_reader")
        await _explain_outside(reader, one)
        await reader.execute("RESET ROLE")
        await _explain_inside(reader, one)
    finally:
        await transaction.rollback()
        await reader.execute("RESET ALL")


async def _explain_outside(reader: asyncpg.Connection, one: Measured) -> None:
    # Counters of a transaction leave its parallel workers out.
    await reader.execute("SET LOCAL max_parallel_workers_per_gather = 0")
    before = {row["relname"]: row for row in await reader.fetch(_READ)}
    began = time.perf_counter()
    one.rows = len(await reader.fetch(one.sql))
    one.first_ms = (time.perf_counter() - began) * 1000
    for row in await reader.fetch(_READ):
        base = before.get(row["relname"], {"fetched": 0, "scanned": 0})
        one.fetched += row["fetched"] - base["fetched"]
        if (scanned := row["scanned"] - base["scanned"]) > BIG:
            one.scans[row["relname"]] = scanned
    await reader.execute("SET LOCAL max_parallel_workers_per_gather TO DEFAULT")
    plan = await reader.fetch(f"EXPLAIN (ANALYZE, BUFFERS) {one.sql}")
    one.plan = "\n".join(row[0] for row in plan)
    (explained,) = await reader.fetch(f"EXPLAIN (ANALYZE, BUFFERS, FORMAT JSON) {one.sql}")
    (top,) = json.loads(explained[0])
    one.buffers = top["Plan"]["Shared Hit Blocks"] + top["Plan"]["Shared Read Blocks"]
    _collect(top["Plan"], one)


async def _explain_inside(reader: asyncpg.Connection, one: Measured) -> None:
    messages: list[str] = []

    def listen(_connection: Any, message: Any) -> None:
        messages.append(message.as_dict().get("message", ""))

    await reader.execute(_AUTO_EXPLAIN)
    reader.add_log_listener(listen)
    await reader.execute(one.sql)
    reader.remove_log_listener(listen)
    for message in messages:
        if "{" in message:
            _collect(json.loads(message[message.index("{") :])["Plan"], one)


def _collect(plan: dict[str, Any], one: Measured) -> None:
    """Note the indexes of a plan, and tables that it reads from end to end, workers included."""
    if "Index Name" in plan:
        # Partitions' indexes are called after their partition.
        one.indexes.add(re.sub(r"_\d{6,8}(?=_)|_default(?=_)", "", plan["Index Name"]))
    if plan["Node Type"] == "Seq Scan":
        each = plan["Actual Rows"] + plan.get("Rows Removed by Filter", 0)
        if (scanned := int(each * plan["Actual Loops"])) > BIG:
            one.scans[plan["Relation Name"]] = scanned
    for part in plan.get("Plans", ()):
        _collect(part, one)


@asynccontextmanager
async def ingesting(dsn: str, rate: int) -> AsyncIterator[None]:
    """Let the real store take in new records beside the block, in a process of its own."""
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "bench.explain", "--feed", str(rate),
        env={**os.environ, "NEWSLOOM_POSTGRES_DSN": dsn},
        stdout=asyncio.subprocess.PIPE,
    )  # fmt: skip
    assert process.stdout is not None
    await process.stdout.readline()  # it has stored its first batch
    try:
        yield
    finally:
        process.terminate()
        await process.wait()


async def feed(dsn: str, rate: int) -> None:
    """Store `rate` new records a second until terminated."""
    batch = max(1, int(rate * _BATCH_SECONDS))
    records = Generator(Random(int(time.time()))).records(10**9)
    async with open_store(PostgresSettings(dsn=SecretStr(dsn)), consumer_group="bench") as store:
        claim = await store.claim(_PARTITION, "bench", 0)
        low = claim.next_offset
        while True:
            began = time.monotonic()
            items = [
                Observation(
                    low + n,
                    datetime.now(UTC),
                    enrich(article_from_record(record_from_mapping(next(records).record).record)),
                )
                for n in range(batch)
            ]
            await store.apply(Batch(_PARTITION, claim.epoch, 0, low, low + batch, items))
            if low == claim.next_offset:
                print("fed", flush=True)
            low += batch
            await asyncio.sleep(max(0.0, _BATCH_SECONDS - (time.monotonic() - began)))


def percentile(times: list[float], share: float) -> float:
    """Return the time that `share` of the times are not above."""
    return sorted(times)[min(len(times) - 1, int(share * len(times)))] if times else 0.0


_SIZES: Final = r"""
SELECT regexp_replace(relname, '_(\d+|default)$', '') AS name, sum(n_live_tup)::float8,
    sum(pg_table_size(relid))::float8, sum(pg_indexes_size(relid))::float8
FROM pg_stat_user_tables WHERE schemaname = 'newsloom'
GROUP BY 1 HAVING sum(pg_total_relation_size(relid)) > 1e6
ORDER BY sum(pg_total_relation_size(relid)) DESC"""


async def sizes(dsn: str) -> list[tuple[str, float, float, float]]:
    """Return each table's name, rows (its partitions together), its bytes and its indexes'."""
    owner = await asyncpg.connect(dsn)
    rows = await owner.fetch(_SIZES)
    await owner.close()
    return [tuple(row) for row in rows]


_INTRODUCTION: Final = """\
# The cookbook's queries on a big database

Made by `make explain ARGS="--articles {articles} --runs {runs} --ingest {rate}{alone}
--write docs/queries.md"`: {articles:,} articles and {mentions:,} mentions of two years, {cores}
cores {shared}, shared_buffers 1 GB, Postgres on the same machine.

Times are in milliseconds as a client sees them, over {runs} runs; *first* is the first run of all,
*p95 busy* while the real store took in {rate} new records a second. *Pages* are buffers of 8 kB
looked at. *Fetched* are rows read by way of an index, those inside functions included; *scanned*
are tables read from end to end ({big:,} rows or more): there must be none, or `make explain` fails.

| | question | rows | first | p50 | p95 | p95 busy | pages | fetched | scanned | indexes |
|---|---|---|---|---|---|---|---|---|---|---|
"""


def report(
    asked: list[Measured],
    options: argparse.Namespace,
    stored: list[tuple[str, float, float, float]],
) -> str:
    """Write the page."""
    head = _INTRODUCTION.format(
        articles=options.articles,
        mentions=MENTIONS_AN_ARTICLE * options.articles,
        runs=options.runs,
        rate=options.ingest,
        cores=os.cpu_count(),
        alone=" --alone" if options.alone else "",
        shared="with nothing else to do" if options.alone else "that other work shared",
        big=BIG,
    )
    lines = [_line(one) for one in asked]
    lines += ["", "## Sizes on disk", ""]
    lines += [
        "| table | rows | table MB | indexes MB | MB a million articles |",
        "|---|---|---|---|---|",
    ]
    total = 0.0
    for name, rows, table, indexes in stored:
        each = (table + indexes) / options.articles
        total += each
        sizes_mb = f"{table / 1e6:,.0f} | {indexes / 1e6:,.0f} | {each:,.0f}"
        lines.append(f"| {name} | {rows:,.0f} | {sizes_mb} |")
    lines += [f"| all | | | | {total:,.0f} |", "", "## Plans", ""]
    lines.append("As `EXPLAIN (ANALYZE, BUFFERS)` shows them; what a function does is not in them.")
    for one in asked:
        lines += [
            "",
            f"### {one.label} {one.question}".replace("  ", " "),
            "",
            "```",
            one.plan,
            "```",
        ]
    return head + "\n".join(lines) + "\n"


def _line(one: Measured) -> str:
    times = (
        one.first_ms,
        percentile(one.quiet_ms, 0.5),
        percentile(one.quiet_ms, 0.95),
        percentile(one.busy_ms, 0.95),
    )
    scans = ", ".join(f"{table} {rows:,}" for table, rows in one.scans.items()) or "none"
    cells = (
        one.label, one.question, str(one.rows), *(f"{ms:.1f}" if ms else "-" for ms in times),
        f"{one.buffers:,}", f"{one.fetched:,}", scans, ", ".join(sorted(one.indexes)),
    )  # fmt: skip
    return f"| {' | '.join(cells)} |"


async def run(options: argparse.Namespace, tell: Callable[[str], None]) -> int:
    """Do it all; return the exit code."""
    folder, server = None, None
    dsn = options.dsn
    if dsn is None:
        folder = Path(tempfile.mkdtemp(prefix="newsloom-explain-"))
        folder.chmod(0o711)
        server = EmbeddedPostgres(folder / "postgres", config=CONFIG)
        dsn = urlunsplit(urlsplit(server.start())._replace(path="/newsloom"))
    try:
        if await migrate(dsn):
            began = time.monotonic()
            await load(dsn, options.articles, tell=tell)
            tell(f"loaded in {time.monotonic() - began:.0f} s")
        asked = questions()
        await measure(dsn, asked, options.runs, options.ingest)
        page = report(asked, options, await sizes(dsn))
    finally:
        if server is not None and folder is not None:
            server.kill()
            shutil.rmtree(folder, ignore_errors=True)
    if options.write is not None:
        options.write.write_text(page, encoding="utf-8")
    print(page[: page.index("## Plans")])
    return 1 if any(one.scans for one in asked) else 0


def main() -> int:
    """Parse the arguments and run."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--articles", type=int, default=500_000)
    parser.add_argument("--runs", type=int, default=30)
    parser.add_argument("--ingest", type=int, default=0, metavar="RECORDS_A_SECOND")
    parser.add_argument("--write", type=Path)
    parser.add_argument("--alone", action="store_true", help="nothing else runs: say so")
    parser.add_argument("--dsn", help="an empty database, or one that this script has filled")
    parser.add_argument("--feed", type=int, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.feed:
        asyncio.run(feed(os.environ["NEWSLOOM_POSTGRES_DSN"], options.feed))
    return asyncio.run(run(options, lambda text: print(text, file=sys.stderr)))


if __name__ == "__main__":
    sys.exit(main())
