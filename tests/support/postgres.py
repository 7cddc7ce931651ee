"""One real Postgres a session; each test that asks gets a database of its own."""

import os
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import urlsplit, urlunsplit
from uuid import uuid4

import asyncpg
import pytest

from newsloom.adapters.embedded import EmbeddedPostgres
from tests.support.services import run_apart, start_or_fail


@pytest.fixture(scope="session")
def postgres_server(services_folder: Path) -> Iterator[str]:
    """The superuser's DSN of the session's server. Do not stop it: start your own for that."""
    if given := os.environ.get("NEWSLOOM_TEST_POSTGRES_DSN"):
        yield given
        return
    # Its data is thrown away, so it need not survive a power cut. It does survive kill -9.
    config = {"fsync": "off", "full_page_writes": "off"}
    postgres = EmbeddedPostgres(services_folder / "postgres", config=config)
    try:
        yield start_or_fail(postgres)
    finally:
        postgres.kill()


@pytest.fixture(scope="session")
def migrated_template(postgres_server: str) -> Iterator[str]:
    """The name of a database with all migrations applied; the model of every `database`."""
    name = f"template_{uuid4().hex}"
    run_apart(_migrated(postgres_server, name))
    yield name
    run_apart(drop_database(postgres_server, name))


@pytest.fixture
def database(postgres_server: str, migrated_template: str) -> Iterator[str]:
    """The superuser's DSN of a fresh, migrated database for this test alone."""
    yield from _fresh(postgres_server, migrated_template)


@pytest.fixture
def empty_database(postgres_server: str) -> Iterator[str]:
    """The same without any migration applied."""
    yield from _fresh(postgres_server, "template0")


def _fresh(server: str, template: str) -> Iterator[str]:
    name = f"test_{uuid4().hex}"
    run_apart(create_database(server, name, template))
    yield dsn_of(server, name)
    run_apart(drop_database(server, name))


def dsn_of(server: str, database: str) -> str:
    """Return the DSN of another database of the same server."""
    return urlunsplit(urlsplit(server)._replace(path=f"/{database}"))


async def create_database(server: str, name: str, template: str = "template0") -> None:
    """Create a database as a copy of `template`, to which nobody may be connected."""
    await _execute(server, f'CREATE DATABASE "{name}" TEMPLATE "{template}"')


async def drop_database(server: str, name: str) -> None:
    """Drop a database, ending the sessions that a killed process left open."""
    await _execute(server, f'DROP DATABASE IF EXISTS "{name}" WITH (FORCE)')


async def _migrated(server: str, name: str) -> None:
    from newsloom.adapters.migrations import migrate  # noqa: PLC0415 - only these tests need it

    await create_database(server, name)
    await migrate(dsn_of(server, name))


async def _execute(dsn: str, statement: str) -> None:
    connection = await asyncpg.connect(dsn)
    try:
        await connection.execute(statement)
    finally:
        await connection.close()
