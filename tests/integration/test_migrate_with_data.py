"""From every earlier version of the schema, with data in it, to the newest: nothing is lost."""

import shutil
from pathlib import Path
from uuid import UUID

import asyncpg
import pytest

from newsloom.adapters import migrations
from tests.support.newsroom import reading

NAMES = [migration.name for migration in migrations.read_migrations()]
FIRST_WHOLE = NAMES.index("20261123100600_rights.sql")
"""Before this one there were no rights: no version that anybody could have used."""

ONE, TWO, STORY = (UUID(int=number) for number in (1, 2, 3))

# In the columns of the first whole version: what a database of that time could hold.
FILL = f"""
INSERT INTO newsloom.articles (article_id, first_seen_at, observed_at, signals_at, version,
    revision, heat, article_key, content_hash, secured)
VALUES
    ('{ONE}', '2026-01-01Z', '2026-01-02Z', '2026-01-02Z', 3, 2, 7, 'a.example/1', '\\x01', 's'),
    ('{TWO}', '2026-01-01Z', '2026-01-02Z', '2026-01-02Z', 1, 1, NULL, 'b.example', '\\x02', NULL);
INSERT INTO newsloom.article_contents (article_id, observed_at, published_at, is_mention,
    is_removed, canonical_url, title, body, language, provider_domain, provider_name, topics)
VALUES
    ('{ONE}', '2026-01-02Z', '2026-01-01Z', false, false, 'https://a.example/1', 'Bees sting',
        'Bees sting in summer.', 'en', 'a.example', 'A', '{{Bees}}'),
    ('{TWO}', '2026-01-02Z', NULL, false, false, 'https://b.example/2', 'Bees sting again',
        NULL, 'en', 'b.example', 'B', NULL);
INSERT INTO newsloom.article_urls
VALUES ('{ONE}', '{ONE}', 'original', 'https://a.example/1', 'https://a.example/1');
INSERT INTO newsloom.related_articles VALUES ('{ONE}', '{TWO}', 1);
INSERT INTO newsloom.article_revisions (article_id, observed_at, revision, is_removed,
    canonical_url, title)
VALUES ('{ONE}', '2026-01-01Z', 1, false, 'https://a.example/1', 'Bees do not sting');
INSERT INTO newsloom.article_signals (article_id, observed_at, heat)
VALUES ('{ONE}', '2026-01-01Z', 1);
INSERT INTO newsloom.changes (observed_at, version, article_id, kind)
VALUES ('2026-01-01Z', 1, '{ONE}', 'created'), ('2026-01-02Z', 2, '{ONE}', 'revised');
INSERT INTO newsloom.copies VALUES ('{TWO}', '{ONE}', 0.5, 0.9, 1);
INSERT INTO newsloom.stories
VALUES ('{STORY}', 1, '2026-01-01Z', '2026-01-01Z', 2, 2, NULL, 'Bees');
INSERT INTO newsloom.story_articles VALUES ('{ONE}', '{STORY}', 1), ('{TWO}', '{STORY}', 0.5);
INSERT INTO newsloom.ingest_offsets (consumer_group, kafka_topic, kafka_partition, next_offset,
    created)
VALUES ('newsloom', 't', 0, 2, 2);
INSERT INTO newsloom.dead_letters (consumer_group, kafka_topic, kafka_partition, incarnation,
    kafka_offset, observed_at, reason, detail)
VALUES ('newsloom', 't', 0, 0, 5, now(), 'r', 'd')
"""  # noqa: S608 - three constant ids

TABLES = (
    "articles", "article_contents", "article_urls", "related_articles", "article_revisions",
    "article_signals", "changes", "copies", "stories", "story_articles", "ingest_offsets",
    "dead_letters",
)  # fmt: skip


async def rows_of(connection: asyncpg.Connection) -> dict[str, list[dict[str, object]]]:
    return {
        table: sorted(
            (dict(row) for row in await connection.fetch(f"SELECT * FROM newsloom.{table}")),  # noqa: S608
            key=str,
        )
        for table in TABLES
    }


@pytest.mark.parametrize("last", NAMES[FIRST_WHOLE:])
async def test_data_of_an_earlier_version_are_all_there_in_the_newest(
    empty_database: str, tmp_path: Path, last: str
) -> None:
    for name in NAMES[: NAMES.index(last) + 1]:
        shutil.copy(migrations.FOLDER / name, tmp_path / name)
    await migrations.migrate(empty_database, folder=tmp_path)
    owner = await asyncpg.connect(empty_database)
    try:
        await owner.execute(FILL)
        before = await rows_of(owner)
        assert await migrations.migrate(empty_database) == NAMES[NAMES.index(last) + 1 :]
        after = await rows_of(owner)
    finally:
        await owner.close()
    for table, rows in before.items():
        kept = [{name: row.get(name) for name in rows[0]} for row in after[table]]
        assert kept == rows, table
    await check_as_a_reader(empty_database)


async def check_as_a_reader(dsn: str) -> None:
    async with reading(dsn) as connection:
        found = await connection.fetch("SELECT title, copies FROM api.search('sting')")
        assert [tuple(row) for row in found] == [("Bees sting", 1)]
        assert await connection.fetchval("SELECT change FROM api.diff($1)", ONE) == (
            "Bees [-do not-] sting"
        )
        story = await connection.fetch("SELECT article_id FROM api.story($1)", STORY)
        assert [row["article_id"] for row in story] == [ONE, TWO]
        assert len(await connection.fetch("SELECT * FROM api.changed_since()")) == 2
        assert len(await connection.fetch("SELECT * FROM api.providers")) == 2
        assert len(await connection.fetch("SELECT * FROM api.article_signals")) == 3
