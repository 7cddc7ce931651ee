"""Every Postgres query of the dashboards can be run by the reader, and by nobody with less."""

from collections.abc import AsyncIterator

import asyncpg
import pytest

from tests.ops.grafana_sql import expand
from tests.ops.test_dashboards import Query, sql_queries


@pytest.fixture
async def reader(database: str) -> AsyncIterator[asyncpg.Connection]:
    """A connection with the rights and limits of newsloom_reader."""
    connection = await asyncpg.connect(database)
    await connection.execute("SET SESSION AUTHORIZATION newsloom_reader")
    await connection.execute("SET default_transaction_read_only = on")
    yield connection
    await connection.close()


async def test_the_reader_can_run_every_panel_query(reader: asyncpg.Connection) -> None:
    for query in sql_queries():
        rows = await reader.fetch(expand(query.text, "2000-01-01T00:00Z", "2100-01-01T00:00Z"))
        assert isinstance(rows, list), query


async def test_the_reader_has_no_way_to_the_tables(reader: asyncpg.Connection) -> None:
    with pytest.raises(asyncpg.InsufficientPrivilegeError):
        await reader.fetch("SELECT * FROM newsloom.articles")


@pytest.mark.parametrize("query", [q for q in sql_queries() if '"time"' in q.text], ids=str)
async def test_series_have_a_time_and_numbers(reader: asyncpg.Connection, query: Query) -> None:
    statement = await reader.prepare(expand(query.text, "2000-01-01T00:00Z", "2100-01-01T00:00Z"))
    kinds = {a.name: a.type.name for a in statement.get_attributes()}
    assert kinds.pop("time") in {"numeric", "float8", "timestamptz"}
    kinds.pop("metric", None)
    assert set(kinds.values()) <= {"int8", "float8", "numeric"}
