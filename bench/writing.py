"""What ingest does to Postgres: log and HOT updates of redeliveries, conflicts of two processes."""

import base64
import time
from collections.abc import Mapping, Sequence
from dataclasses import replace
from datetime import timedelta
from random import Random
from typing import Any, Final

import asyncpg

from bench.field import NEWSLOOM, newsloom_env, running
from bench.live import STORED, _until
from bench.stage import PARTITIONS, Stage
from bench.workloads import Made, make

DOCUMENTS: Final = 4000
AGAIN: Final = 6
UPDATES: Final = 39_000
SHARED: Final = 12_000
SMALL_BATCH: Final = 4
"""Records of a transaction where many are wanted: as it comes, they are too few to count."""

_TABLES: Final = """
SELECT relname, n_tup_ins, n_tup_upd, n_tup_hot_upd, n_tup_del
FROM pg_stat_user_tables WHERE schemaname = 'newsloom'"""
_WIDE: Final = (
    "article_contents", "article_urls", "related_articles", "article_revisions_default",
    "changes_default", "article_signals_default",
)  # fmt: skip


async def only_secured(stage: Stage) -> dict[str, Any]:
    """Measure WAL and row updates of deliveries that change only `secured`, and of the mix."""
    first = make("small", DOCUMENTS)
    topic = await stage.fill("secured", first)
    async with stage.fresh_database() as dsn:
        admin = await asyncpg.connect(dsn)
        group = f"bench-{time.monotonic_ns()}"
        await _ingest(stage, dsn, topic, len(first), group)
        await _full_page_writes(stage, "off")
        before, log = await _counts(admin), await admin.fetchval("SELECT pg_current_wal_lsn()")
        again = list(_reencrypted(first))
        await stage.send(topic, again)
        await _ingest(stage, dsn, topic, len(first) + len(again), group)
        written = await admin.fetchval("SELECT pg_wal_lsn_diff(pg_current_wal_lsn(), $1)", log)
        done = _difference(await _counts(admin), before)
        await _full_page_writes(stage, "on")
        await admin.close()
    updated, hot = done["articles"]["n_tup_upd"], done["articles"]["n_tup_hot_upd"]
    mix = await _mix(stage)
    return {
        "deliveries": len(again),
        "wal_bytes_a_delivery": round(float(written) / len(again)),
        "narrow_rows_updated": updated,
        "hot_share": round(hot / updated, 3),
        "wide_rows_touched": sum(sum(done.get(table, {}).values()) for table in _WIDE),
        **mix,
    }


async def _mix(stage: Stage) -> dict[str, Any]:
    made = make("updates", UPDATES)
    topic = await stage.fill("updates", made)
    async with stage.fresh_database() as dsn:
        await _ingest(stage, dsn, topic, len(made), "mix")
        admin = await asyncpg.connect(dsn)
        counts = (await _counts(admin))["articles"]
        await admin.close()
    return {
        "mix_deliveries": len(made),
        "mix_narrow_rows_updated": counts["n_tup_upd"],
        "mix_hot_share": round(counts["n_tup_hot_upd"] / counts["n_tup_upd"], 3),
    }


def _reencrypted(first: Sequence[Made]) -> "list[Made]":
    rng = Random(1)
    return [
        replace(
            one,
            record={**one.record, "secured": _secured(rng)},
            observed_at=one.observed_at + timedelta(days=number),
        )
        for number in range(1, AGAIN + 1)
        for one in first
    ]


def _secured(rng: Random) -> str:
    cipher, start = (base64.b64encode(rng.randbytes(size)).decode() for size in (192, 16))
    return f"{cipher};{start}"


async def contention(stage: Stage) -> dict[str, Any]:
    """Let two processes store full records that share their mentions; count what had to repeat."""
    made = make("full", SHARED)
    topic = await stage.fill("shared", made)
    small = {"NEWSLOOM_INGEST_MAX_BATCH_RECORDS": str(SMALL_BATCH)}
    return {
        "records": len(made),
        "partitions": PARTITIONS,
        "as_it_comes": await _conflicts(stage, topic, len(made), {}),
        f"batches_of_{SMALL_BATCH}": await _conflicts(stage, topic, len(made), small),
    }


async def _conflicts(
    stage: Stage, topic: str, count: int, more: Mapping[str, str]
) -> dict[str, Any]:
    async with stage.fresh_database() as dsn:
        group = f"shared-{time.monotonic_ns()}"
        await _ingest(stage, dsn, topic, count, group, processes=2, more=more)
        admin = await asyncpg.connect(dsn)
        row = await admin.fetchrow(
            "SELECT xact_commit, xact_rollback, deadlocks FROM pg_stat_database"
            " WHERE datname = current_database()"
        )
        await admin.close()
    return {
        **dict(row),
        "deadlock_share": round(row["deadlocks"] / row["xact_commit"], 5),
        "rollback_share": round(row["xact_rollback"] / row["xact_commit"], 5),
    }


async def _ingest(
    stage: Stage,
    dsn: str,
    topic: str,
    count: int,
    group: str,
    *,
    processes: int = 1,
    more: Mapping[str, str] | None = None,
) -> None:
    """Run ingest until so many deliveries are stored; its statistics are complete at its end."""
    env = {**newsloom_env(stage, dsn, topic, group), **(more or {})}
    connection = await asyncpg.connect(dsn)
    async with running([[NEWSLOOM, "ingest"]] * processes, env) as programs:
        await _until(connection, STORED, count, programs)
    await connection.close()


async def _full_page_writes(stage: Stage, setting: str) -> None:
    await stage.configure("full_page_writes", setting)
    await stage.server("CHECKPOINT")


async def _counts(admin: asyncpg.Connection) -> dict[str, dict[str, int]]:
    rows = await admin.fetch(_TABLES)
    return {row["relname"]: {k: v for k, v in row.items() if k != "relname"} for row in rows}


def _difference(
    after: dict[str, dict[str, int]], before: dict[str, dict[str, int]]
) -> dict[str, dict[str, int]]:
    return {
        table: {kind: value - before[table][kind] for kind, value in counts.items()}
        for table, counts in after.items()
    }
