"""The migrations against a real Postgres: forwards, back, commented, and as dbmate sees them."""

import asyncio
import hashlib
import shutil
import subprocess
import sysconfig
from pathlib import Path

import asyncpg
import pytest
from pydantic import SecretStr

from newsloom.adapters import migrations
from newsloom.errors import Unavailable
from newsloom.settings.groups import PostgresSettings

_OBJECTS = """
SELECT format('%s %s', c.relkind, c.oid::regclass) AS name FROM pg_class c
WHERE c.relnamespace IN (SELECT oid FROM pg_namespace WHERE nspname IN ('newsloom', 'api'))
UNION ALL
SELECT format('f %s', p.oid::regprocedure) FROM pg_proc p
WHERE p.pronamespace IN (SELECT oid FROM pg_namespace WHERE nspname IN ('newsloom', 'api'))
UNION ALL
SELECT format('n %s', nspname) FROM pg_namespace WHERE nspname IN ('newsloom', 'api')"""

_UNCOMMENTED = """
SELECT format('%s', c.oid::regclass) AS name FROM pg_class c
JOIN pg_namespace n ON n.oid = c.relnamespace
WHERE n.nspname IN ('newsloom', 'api') AND c.relkind IN ('r', 'p', 'v', 'S')
    AND NOT c.relispartition AND obj_description(c.oid, 'pg_class') IS NULL
UNION ALL
SELECT format('%s.%s', c.oid::regclass, a.attname) FROM pg_class c
JOIN pg_namespace n ON n.oid = c.relnamespace
JOIN pg_attribute a ON a.attrelid = c.oid AND a.attnum > 0 AND NOT a.attisdropped
WHERE n.nspname IN ('newsloom', 'api') AND c.relkind IN ('r', 'p', 'v')
    AND NOT c.relispartition AND col_description(c.oid, a.attnum) IS NULL
UNION ALL
SELECT format('%s', p.oid::regprocedure) FROM pg_proc p
JOIN pg_namespace n ON n.oid = p.pronamespace
WHERE n.nspname IN ('newsloom', 'api') AND obj_description(p.oid, 'pg_proc') IS NULL"""

# architecture.md section 4: what readers rely on, in this order at the start of each view.
CONTRACT = {
    "articles": "article_id canonical_url title excerpt body language type category provider_name "
    "provider_domain published_at observed_at first_seen_at revised_at revision quality heat "
    "is_published is_removed is_mention topics lead_image_url word_count copy_of story_id",
    "article_revisions": "article_id revision observed_at title excerpt changed_fields",
    "article_urls": "article_id url kind canonical_url",
    "article_images": "article_id position url width height title attribution",
    "related_articles": "article_id position related_article_id",
    "article_signals": "article_id observed_at quality heat ratings",
    "copies": "article_id copy_of jaccard containment algorithm_version",
    "stories": "story_id title article_count provider_count first_published_at last_published_at",
    "story_articles": "story_id article_id score",
    "providers": "provider_domain name article_count last_seen_at",
    "dead_letters": "kafka_topic kafka_partition kafka_offset reason detail observed_at "
    "replayed_at",
    "ingest_progress": "kafka_topic kafka_partition next_offset created revised refreshed "
    "unchanged stale rejected parked_reason updated_at",
}


async def _names(dsn: str, query: str) -> list[str]:
    connection = await asyncpg.connect(dsn)
    try:
        return sorted(row["name"] for row in await connection.fetch(query))
    finally:
        await connection.close()


async def test_each_migration_goes_back_and_forth_again(
    empty_database: str, tmp_path: Path
) -> None:
    files = [migration.name for migration in migrations.read_migrations()]
    levels = []
    for _ in files:
        before = await _names(empty_database, _OBJECTS)
        levels.append(before)
        await _apply_one(empty_database, tmp_path, len(levels))
    whole = await _names(empty_database, _OBJECTS)
    for level in reversed(levels):
        assert len(await migrations.rollback(empty_database)) == 1
        assert await _names(empty_database, _OBJECTS) == level
    assert levels[0] == []
    assert await migrations.migrate(empty_database) == files
    assert await _names(empty_database, _OBJECTS) == whole
    assert await migrations.migrate(empty_database) == []


async def _apply_one(dsn: str, scratch: Path, count: int) -> None:
    """Apply the first `count` files, of which all but the last are applied already."""
    folder = migrations.FOLDER
    names = [migration.name for migration in migrations.read_migrations()][:count]
    copy = scratch / str(count)
    copy.mkdir()
    for name in names:
        shutil.copy(folder / name, copy / name)
    assert await migrations.migrate(dsn, folder=copy) == names[-1:]


async def test_everything_has_a_comment(database: str) -> None:
    assert await _names(database, _UNCOMMENTED) == []


async def test_the_views_begin_with_the_columns_that_readers_rely_on(database: str) -> None:
    connection = await asyncpg.connect(database)
    try:
        for view, columns in CONTRACT.items():
            statement = await connection.prepare(f"SELECT * FROM api.{view}")  # noqa: S608
            found = [attribute.name for attribute in statement.get_attributes()]
            assert found[: len(columns.split())] == columns.split()
    finally:
        await connection.close()


async def test_secured_is_in_no_view(database: str) -> None:
    shown = "SELECT c.oid::regclass::text || pg_get_viewdef(c.oid) AS name FROM pg_class c "
    shown += "WHERE relkind = 'v' AND relnamespace = 'api'::regnamespace"
    assert [view for view in await _names(database, shown) if "secured" in view] == []


async def test_two_at_once_apply_everything_once(empty_database: str) -> None:
    one, two = await asyncio.gather(
        migrations.migrate(empty_database), migrations.migrate(empty_database)
    )
    assert sorted(one + two) == [m.name for m in migrations.read_migrations()]
    assert not (one and two)


async def test_a_failing_migration_leaves_nothing_and_those_before_it_stay(
    empty_database: str, tmp_path: Path
) -> None:
    (tmp_path / "20000101000000_good.sql").write_text(
        "-- migrate:up\nCREATE TABLE good (a int);\n-- migrate:down\nDROP TABLE good;\n"
    )
    (tmp_path / "20000102000000_bad.sql").write_text(
        "-- migrate:up\nCREATE TABLE bad (a int);\nSELECT 1/0;\n-- migrate:down\n"
    )
    with pytest.raises(asyncpg.DivisionByZeroError):
        await migrations.migrate(empty_database, folder=tmp_path)
    found = await migrations.status(empty_database, folder=tmp_path)
    assert [migration.is_applied for migration in found] == [True, False]
    relations = "SELECT relname AS name FROM pg_class WHERE relname IN ('good', 'bad')"
    assert await _names(empty_database, relations) == ["good"]


async def test_a_migration_may_ask_to_run_without_a_transaction(
    empty_database: str, tmp_path: Path
) -> None:
    (tmp_path / "20000101000000_table.sql").write_text(
        "-- migrate:up\nCREATE TABLE t (a int);\n-- migrate:down\nDROP TABLE t;\n"
    )
    (tmp_path / "20000102000000_index.sql").write_text(
        "-- migrate:up transaction:false\nCREATE INDEX CONCURRENTLY i ON t (a);\n"
        "-- migrate:down transaction:false\nDROP INDEX CONCURRENTLY i;\n"
    )
    assert len(await migrations.migrate(empty_database, folder=tmp_path)) == 2
    assert len(await migrations.rollback(empty_database, steps=2, folder=tmp_path)) == 2


async def test_dbmate_agrees_about_what_is_applied(empty_database: str) -> None:
    dbmate = Path(sysconfig.get_path("scripts")) / "dbmate"
    arguments = ["--url", empty_database + "?sslmode=disable", "--no-dump-schema"]
    arguments += ["--migrations-dir", str(migrations.FOLDER)]

    def run(verb: str) -> str:
        done = subprocess.run(
            [dbmate, *arguments, verb], capture_output=True, text=True, check=True, timeout=50
        )
        return done.stdout

    count = len(migrations.read_migrations())
    await migrations.migrate(empty_database)
    assert f"Applied: {count}\nPending: 0" in await asyncio.to_thread(run, "status")
    await asyncio.to_thread(run, "rollback")
    found = await migrations.status(empty_database)
    assert [m.is_applied for m in found] == [True] * (count - 1) + [False]
    await asyncio.to_thread(run, "migrate")
    assert await migrations.migrate(empty_database) == []


def test_released_files_are_unchanged() -> None:
    assert migrations.edited_migrations() == []


def test_an_edited_file_is_noticed(tmp_path: Path) -> None:
    name = "20000101000000_words.sql"
    text = b"-- migrate:up\nSELECT 1;\n-- migrate:down\n"
    (tmp_path / name).write_bytes(text)
    sums = tmp_path / migrations.CHECKSUMS
    sums.write_text(f"{hashlib.sha256(text).hexdigest()}  {name}\n")
    assert migrations.edited_migrations(tmp_path) == []
    (tmp_path / name).write_bytes(text.replace(b"1", b"2"))
    assert migrations.edited_migrations(tmp_path) == [name]


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("1_words.sql", "-- migrate:up\n-- migrate:down\n"),
        ("20000101000000_words.sql", "-- migrate:up\nSELECT 1;\n"),
        ("20000101000000_words.sql", "-- migrate:down\n-- migrate:up\n"),
    ],
)
def test_what_dbmate_would_not_read_is_refused(tmp_path: Path, name: str, text: str) -> None:
    (tmp_path / name).write_text(text)
    with pytest.raises(migrations.MigrationError):
        migrations.read_migrations(tmp_path)


async def test_a_role_does_not_start_on_an_old_schema(database: str, empty_database: str) -> None:
    await migrations.require_current_schema(PostgresSettings(dsn=SecretStr(database)))
    with pytest.raises(Unavailable) as caught:
        await migrations.require_current_schema(PostgresSettings(dsn=SecretStr(empty_database)))
    assert caught.value.systemic
    nowhere = SecretStr("postgresql://nobody@127.0.0.1:1/nothing")
    with pytest.raises(Unavailable) as caught:
        await migrations.require_current_schema(PostgresSettings(dsn=nowhere))
    assert not caught.value.systemic


# Partitions


async def test_rows_of_a_range_without_partition_move_when_it_is_made(database: str) -> None:
    connection = await asyncpg.connect(database)
    try:
        await connection.execute(
            "INSERT INTO newsloom.article_signals (article_id, recorded_at, observed_at, heat)"
            " SELECT gen_random_uuid(), '2031-05-10T00:00Z', now(), 1 FROM generate_series(1, 5)"
        )
        count = "SELECT count(*) FROM newsloom.article_signals_default"
        assert await connection.fetchval(count) == 5
        at = "'2031-05-10T12:00Z'"
        assert await connection.fetchval(f"SELECT newsloom.ensure_partitions({at})") == 8 + 3 + 3
        assert await connection.fetchval(f"SELECT newsloom.ensure_partitions({at})") == 0
        assert await connection.fetchval(count) == 0
        month = "SELECT count(*) FROM newsloom.article_signals_203105"
        assert await connection.fetchval(month) == 5
    finally:
        await connection.close()


async def test_the_migration_made_partitions_for_what_comes_next(database: str) -> None:
    connection = await asyncpg.connect(database)
    try:
        await connection.execute(
            "INSERT INTO newsloom.changes (observed_at, version, article_id, kind)"
            " VALUES (now(), 1, gen_random_uuid(), 'created')"
        )
        assert await connection.fetchval("SELECT count(*) FROM newsloom.changes_default") == 0
    finally:
        await connection.close()
