"""Where `make bench` runs: a Kafka and a Postgres of its own, fresh databases, filled topics."""

import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from urllib.parse import urlsplit, urlunsplit
from uuid import uuid4

import asyncpg
from aiokafka.admin import AIOKafkaAdminClient, NewTopic

from bench.workloads import Made
from newsloom.adapters.embedded import EmbeddedKafka, EmbeddedPostgres, default_cache
from newsloom.adapters.kafka.producer import open_sink
from newsloom.adapters.migrations import migrate
from newsloom.settings import KafkaSettings, PublishSettings

PARTITIONS = 4
POSTGRES = {"shared_buffers": "512MB", "max_wal_size": "8GB"}
"""The rest as Postgres comes: fsync, full-page writes and synchronous commit are on."""

_TEMPLATE = "bench_template"


class Stage:
    """The addresses of the two services, and what a run needs from them."""

    def __init__(self, servers: str, dsn: str) -> None:
        self.servers = servers
        self._server_dsn = dsn

    def dsn(self, database: str) -> str:
        """Return the superuser's address of a database."""
        return urlunsplit(urlsplit(self._server_dsn)._replace(path=f"/{database}"))

    async def prepare(self) -> None:
        """Make the database that all others are copies of."""
        await self._server(f"CREATE DATABASE {_TEMPLATE}")
        await migrate(self.dsn(_TEMPLATE))

    async def database(self) -> str:
        """Make a fresh, migrated database, with everything before it on disk; return its DSN."""
        name = f"bench_{uuid4().hex[:12]}"
        await self._server(f"CREATE DATABASE {name} TEMPLATE {_TEMPLATE}", "CHECKPOINT")
        return self.dsn(name)

    async def drop(self, dsn: str) -> None:
        """Drop a database of `database`, whoever is connected."""
        await self._server(f"DROP DATABASE {urlsplit(dsn).path[1:]} WITH (FORCE)")

    async def fill(self, name: str, deliveries: Sequence[Made]) -> str:
        """Make a Kafka topic that holds the deliveries; return its name."""
        topic = f"{name}.{uuid4().hex[:8]}"
        admin = AIOKafkaAdminClient(bootstrap_servers=self.servers)
        await admin.start()
        try:
            await admin.create_topics([NewTopic(topic, PARTITIONS, 1)])
        finally:
            await admin.close()
        kafka = KafkaSettings(bootstrap_servers=self.servers)
        async with open_sink(kafka, PublishSettings()) as sink:
            for at in range(0, len(deliveries), 1000):
                await sink.send(topic, [made.event() for made in deliveries[at : at + 1000]])
        return topic

    async def _server(self, *statements: str) -> None:
        connection = await asyncpg.connect(self._server_dsn)
        try:
            for statement in statements:
                await connection.execute(statement)
        finally:
            await connection.close()


@contextmanager
def services() -> Iterator[Stage]:
    """Start both services in a temporary folder, and end them with the block."""
    with TemporaryDirectory(prefix="newsloom-bench-") as name:
        folder = Path(name)
        folder.chmod(0o711)  # as root, Postgres runs as another user
        kafka = EmbeddedKafka(folder / "kafka", cache=default_cache(os.environ, folder))
        postgres = EmbeddedPostgres(folder / "postgres", config=POSTGRES)
        try:
            yield Stage(kafka.start(), postgres.start())
        finally:
            kafka.kill()
            postgres.kill()
