"""A line of its own for each acceptance test: a Kafka topic and a migrated database."""

import os
from collections.abc import AsyncIterator
from uuid import uuid4

import pytest

from tests.support.blackbox import Line
from tests.support.kafka import MakeTopic
from tests.support.postgres import create_database, drop_database, dsn_of


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Say on which data the acceptance tests ran: a made-up stream is not the real one."""
    folder = os.environ.get("NEWSLOOM_TEST_DATA")
    told = folder or "made-up equivalents (NEWSLOOM_TEST_DATA is unset)"
    terminalreporter.write_line(f"acceptance data: {told}")


@pytest.fixture
async def line(
    request: pytest.FixtureRequest, kafka_bootstrap: str, make_topic: MakeTopic, database: str
) -> Line:
    """One partition; `parametrize("line", [4], indirect=True)` makes it four."""
    partitions: int = getattr(request, "param", 1)
    topic = await make_topic(partitions, name="articles")
    return Line(kafka_bootstrap, database, topic, partitions)


@pytest.fixture
async def second_line(
    line: Line, postgres_server: str, migrated_template: str
) -> AsyncIterator[Line]:
    """The same Kafka topic into another database, by another consumer group."""
    name = f"test_{uuid4().hex}"
    await create_database(postgres_server, name, migrated_template)
    yield Line(line.bootstrap, dsn_of(postgres_server, name), line.topic, line.partitions)
    await drop_database(postgres_server, name)
