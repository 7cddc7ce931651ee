"""What a record costs with two million articles stored, against twenty thousand.

The many are a hundred of each of the few: finished rows with ids, keys and addresses of their own,
copied within Postgres. Their search vectors are looked up instead of computed again, and the
indexes are made when the rows are there; vectors, indexes and sizes are as if each had been
ingested. Then new records are ingested into both databases, in turns, and CPU time is compared:
that of ingest and that of the whole Postgres server.

Each pass begins with a checkpoint, after which the first change of a page writes the whole page to
the log. In a small database that is soon over, in a large one each record meets other pages; a
server that checkpoints every few minutes pays it once for the many records that share a page by
then. So it is measured a second time with those images apart.
"""

import asyncio
import statistics
import sys
import time
from collections.abc import Sequence
from typing import Any, Final

import asyncpg

from bench.field import NEWSLOOM, Timed, newsloom_env, running, timed
from bench.limits import finished
from bench.stage import Stage
from bench.workloads import Made, make

FEW: Final = 20_000
TIMES: Final = 100
PASS: Final = 10_000
ROUNDS: Final = 3
WRITERS: Final = 2
NEW_SEED: Final = 2
_TABLES: Final = ("articles", "article_contents", "article_urls", "changes_default")

_INDEXES: Final = """
SELECT i.indexrelid::regclass::text AS name, pg_get_indexdef(i.indexrelid) AS definition,
    t.relname, pg_get_constraintdef(k.oid) AS constraint_definition, k.conname
FROM pg_index AS i JOIN pg_class AS t ON t.oid = i.indrelid
LEFT JOIN pg_constraint AS k ON k.conindid = i.indexrelid AND k.contype = 'p'
WHERE t.relnamespace = 'newsloom'::regnamespace
    AND t.relname IN ('articles', 'article_contents', 'article_urls')"""
_LOOKED_UP: Final = """
CREATE OR REPLACE FUNCTION newsloom.search_vector(
    language text, title text, excerpt text, body text)
RETURNS tsvector LANGUAGE sql IMMUTABLE PARALLEL SAFE
AS 'SELECT p.search FROM public.few AS p WHERE p.title = $2 LIMIT 1'"""
_ANOTHER: Final = {
    "article_id": "md5(article_id::text || ':' || $1)::uuid",
    "url_id": "md5(url_id::text || ':' || $1)::uuid",
    "article_key": "article_key || '-' || $1",
    "canonical_url": "canonical_url || '-' || $1",
    "url": "url || '-' || $1",
}


async def cost(stage: Stage) -> dict[str, Any]:
    """Compare the CPU time of a record in both databases.

    Autovacuum is off meanwhile: vacuuming what was loaded would be in the figures.
    """
    await stage.configure("autovacuum", "off")
    few = await stage.database()
    many = await stage.database()
    started = time.monotonic()
    for dsn in (few, many):
        await _load_few(dsn)
    await _multiply(many)
    loaded = time.monotonic() - started
    _tell(f"loaded in {loaded:.0f} s")
    made = make("small", PASS * ROUNDS * 2, NEW_SEED)
    half = len(made) // 2
    costs = _costs(await _passes(stage, few, many, made[:half]))
    await stage.configure("full_page_writes", "off")
    apart = _costs(await _passes(stage, few, many, made[half:]))
    await stage.configure("full_page_writes", "on")
    result = {
        "stored": [FEW, FEW * TIMES],
        "records_a_pass": PASS,
        "loading_seconds": round(loaded),
        "database_gb": round(await _size(many) / 1e9, 1),
        **costs,
        "full_page_images_apart": apart,
    }
    for dsn in (few, many):
        await stage.drop(dsn)
    await stage.configure("autovacuum", "on")
    return result


async def _passes(
    stage: Stage, few: str, many: str, made: Sequence[Made]
) -> tuple[list[Timed], list[Timed]]:
    """Ingest the same new records into both databases, a pass into one after the other."""
    found: dict[str, list[Timed]] = {few: [], many: []}
    for number in range(ROUNDS):
        topic = await stage.fill("new", made[number * PASS : (number + 1) * PASS])
        for dsn in (few, many):
            await _checkpoint(dsn)
            found[dsn].append(await _ingested(stage, dsn, topic))
            _tell(f"{number + 1}/{ROUNDS} {'few' if dsn == few else 'many'}: {found[dsn][-1]}")
    return found[few], found[many]


def _costs(found: tuple[list[Timed], list[Timed]]) -> dict[str, Any]:
    few, many = found

    def median(of: list[Timed], what: str) -> float:
        return statistics.median(getattr(one, what) for one in of)

    kinds = {"ingest": "cpu_us_a_record", "postgres": "postgres_us_a_record"}
    costs = {name: [median(few, at), median(many, at)] for name, at in kinds.items()}
    both = [sum(pair) for pair in zip(*costs.values(), strict=True)]
    return {
        **{f"{name}_us_a_record": [round(one) for one in pair] for name, pair in costs.items()},
        "us_a_record": [round(one) for one in both],
        "cost_ratio": round(both[1] / both[0], 3),
        "rates": [[round(one.rate) for one in of] for of in (few, many)],
    }


async def _ingested(stage: Stage, dsn: str, topic: str) -> Timed:
    connection = await asyncpg.connect(dsn)
    await connection.execute("DELETE FROM newsloom.ingest_offsets")
    await connection.close()
    async with running([[NEWSLOOM, "ingest"]], newsloom_env(stage, dsn, topic)) as programs:
        return await timed(stage, dsn, programs, PASS)


async def _load_few(dsn: str) -> None:
    link = await asyncpg.connect(dsn)
    for chunk in finished(make("small", FEW)):
        for table, columns, records in chunk:
            await link.copy_records_to_table(
                table, schema_name="newsloom", columns=columns, records=records
            )
    await link.execute("ANALYZE")
    await link.close()


async def _multiply(dsn: str) -> None:
    owner = await asyncpg.connect(dsn, command_timeout=3600)
    indexes = await owner.fetch(_INDEXES)
    for index in indexes:
        await owner.execute(_dropped(index))
    await owner.execute("CREATE TABLE public.few AS TABLE newsloom.article_contents")
    await owner.execute("CREATE INDEX ON public.few (title)")
    await owner.execute("ANALYZE public.few")
    computed = await owner.fetchval(
        "SELECT pg_get_functiondef('newsloom.search_vector'::regproc::oid)"
    )
    await owner.execute(_LOOKED_UP)
    statements = [await _another(owner, table) for table in _TABLES]
    await asyncio.gather(*(_write(dsn, statements, writer) for writer in range(WRITERS)))
    await owner.execute(computed)
    for source in ("few", *(f"few_{table}" for table in _TABLES)):
        await owner.execute(f"DROP TABLE public.{source}")
    await owner.execute("SET maintenance_work_mem = '1GB'")
    for index in indexes:
        await owner.execute(_made(index))
        _tell(f"index {index['name']}")
    await owner.execute("ANALYZE")
    await owner.close()


async def _write(dsn: str, statements: list[str], writer: int) -> None:
    link = await asyncpg.connect(dsn, command_timeout=3600)
    await link.execute("SET synchronous_commit = off")
    for number in range(1 + writer, TIMES, WRITERS):
        for statement in statements:
            await link.execute(statement, str(number))
        _tell(f"{number}/{TIMES} of the rows")
    await link.close()


async def _another(owner: asyncpg.Connection, table: str) -> str:
    """Return the statement that writes the few rows of a table once more, as other articles."""
    source = f"public.few_{table}"
    await owner.execute(f"CREATE TABLE {source} AS TABLE newsloom.{table}")
    rows = await owner.fetch(
        "SELECT attname FROM pg_attribute WHERE attrelid = $1::regclass AND attnum > 0"
        " AND NOT attisdropped AND attgenerated = '' AND attname NOT IN ('change_id', 'xid')",
        f"newsloom.{table}",
    )
    columns = [row["attname"] for row in rows]
    values = ", ".join(_ANOTHER.get(column, column) for column in columns)
    target = f"newsloom.{table} ({', '.join(columns)})"
    return f"INSERT INTO {target} SELECT {values} FROM {source}"  # noqa: S608 - names of tables


def _dropped(index: asyncpg.Record) -> str:
    if index["conname"]:
        return f"ALTER TABLE newsloom.{index['relname']} DROP CONSTRAINT {index['conname']}"
    return f"DROP INDEX {index['name']}"


def _made(index: asyncpg.Record) -> str:
    if index["conname"]:
        return (
            f"ALTER TABLE newsloom.{index['relname']} ADD CONSTRAINT {index['conname']} "
            f"{index['constraint_definition']}"
        )
    return str(index["definition"])


async def _size(dsn: str) -> int:
    link = await asyncpg.connect(dsn)
    size = await link.fetchval("SELECT pg_database_size(current_database())")
    await link.close()
    return int(size)


async def _checkpoint(dsn: str) -> None:
    link = await asyncpg.connect(dsn)
    await link.execute("CHECKPOINT")
    await link.close()


def _tell(what: str) -> None:
    sys.stderr.write(f"growth: {what}\n")
    sys.stderr.flush()
