"""What each role may and may not do, asked of a real Postgres."""

from collections.abc import AsyncIterator
from urllib.parse import urlsplit, urlunsplit
from uuid import uuid4

import asyncpg
import pytest

from newsloom.adapters.migrations import migrate, rollback

MAY = [
    ("newsloom_ingest", "SELECT * FROM newsloom.articles"),
    ("newsloom_ingest", "DELETE FROM newsloom.related_articles"),
    ("newsloom_ingest", "SELECT * FROM schema_migrations"),
    ("newsloom_link", "DELETE FROM newsloom.copies"),
    ("newsloom_link", "SELECT * FROM newsloom.changes"),
    ("newsloom_relay", "UPDATE newsloom.dead_letters SET relayed_at = now()"),
    ("newsloom_relay", "SELECT * FROM newsloom.changes"),
    ("newsloom_admin", "DELETE FROM newsloom.articles"),
    ("newsloom_admin", "SELECT newsloom.ensure_partitions()"),
    ("newsloom_reader", "SELECT * FROM api.articles"),
    ("newsloom_reader", "SELECT * FROM api.ingest_progress"),
    ("newsloom_reader", "SELECT api.current_id(gen_random_uuid())"),
]
MAY_NOT = [
    ("newsloom_ingest", "DELETE FROM newsloom.articles"),
    ("newsloom_ingest", "DELETE FROM newsloom.article_revisions"),
    ("newsloom_ingest", "DELETE FROM newsloom.dead_letters"),
    ("newsloom_ingest", "DELETE FROM newsloom.ingest_offsets"),
    ("newsloom_ingest", "SELECT * FROM newsloom.changes"),
    ("newsloom_ingest", "TRUNCATE newsloom.related_articles"),
    ("newsloom_ingest", "DROP TABLE newsloom.related_articles"),
    ("newsloom_ingest", "CREATE TABLE newsloom.mine (a int)"),
    ("newsloom_ingest", "SELECT newsloom.ensure_partitions()"),
    ("newsloom_ingest", "COPY newsloom.articles TO PROGRAM 'cat'"),
    ("newsloom_ingest", "SELECT pg_read_file('/etc/passwd')"),
    ("newsloom_link", "UPDATE newsloom.articles SET heat = 1"),
    ("newsloom_link", "SELECT * FROM newsloom.dead_letters"),
    ("newsloom_relay", "UPDATE newsloom.dead_letters SET reason = 'x'"),
    ("newsloom_relay", "INSERT INTO newsloom.copies DEFAULT VALUES"),
    ("newsloom_reader", "SELECT * FROM newsloom.articles"),
    ("newsloom_reader", "SELECT secured FROM newsloom.articles"),
    ("newsloom_reader", "CREATE TABLE api.mine (a int)"),
    ("newsloom_reader", "DELETE FROM api.stories"),
]


@pytest.fixture
async def superuser(database: str) -> AsyncIterator[asyncpg.Connection]:
    connection = await asyncpg.connect(database)
    yield connection
    await connection.close()


async def test_each_role_may_do_its_work_and_nothing_else(superuser: asyncpg.Connection) -> None:
    for role, statement in MAY:
        async with superuser.transaction():
            await superuser.execute(f"SET LOCAL ROLE {role}")
            await superuser.execute(statement)
    for role, statement in MAY_NOT:
        transaction = superuser.transaction()
        await transaction.start()
        await superuser.execute(f"SET LOCAL ROLE {role}")
        with pytest.raises(asyncpg.InsufficientPrivilegeError):
            await superuser.execute(statement)
        await transaction.rollback()


async def test_whoever_owns_the_database_can_migrate_without_superuser_rights(
    postgres_server: str, migrated_template: str, empty_database: str
) -> None:
    # As on a managed Postgres: the roles are there, and the deployer may act as their owner.
    del migrated_template
    deployer = f"deployer_{uuid4().hex}"
    database = urlsplit(empty_database).path.lstrip("/")
    superuser = await asyncpg.connect(postgres_server)
    try:
        await superuser.execute(
            f"CREATE ROLE {deployer} LOGIN PASSWORD '{deployer}';"
            f"GRANT newsloom_owner TO {deployer};"
            f'ALTER DATABASE "{database}" OWNER TO {deployer}'
        )
        parts = urlsplit(empty_database)
        address = parts.netloc.rpartition("@")[2]
        dsn = urlunsplit(parts._replace(netloc=f"{deployer}:{deployer}@{address}"))
        assert await migrate(dsn)
        assert await rollback(dsn, steps=99)
        await superuser.execute(
            f'ALTER DATABASE "{database}" OWNER TO CURRENT_USER; REASSIGN OWNED BY {deployer}'
            " TO CURRENT_USER"
        )
        await (cleaner := await asyncpg.connect(empty_database)).execute(
            f"DROP OWNED BY {deployer}"
        )
        await cleaner.close()
        await superuser.execute(f"DROP ROLE {deployer}")
    finally:
        await superuser.close()
