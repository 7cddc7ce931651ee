"""Where `make bench` runs: a Kafka and a Postgres of its own, fresh databases, filled topics."""

import os
from collections.abc import AsyncIterator, Callable, Iterator, Mapping, Sequence
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from urllib.parse import urlsplit, urlunsplit
from uuid import uuid4

import asyncpg
import psutil
from aiokafka.admin import AIOKafkaAdminClient, NewTopic

from bench.workloads import Made
from newsloom.adapters.embedded import EmbeddedKafka, EmbeddedPostgres, default_cache
from newsloom.adapters.kafka.producer import open_sink
from newsloom.adapters.migrations import migrate
from newsloom.core.event import Event
from newsloom.settings import KafkaSettings, PublishSettings

PARTITIONS = 4
POSTGRES = {"shared_buffers": "512MB", "max_wal_size": "8GB"}
"""The rest as Postgres comes: fsync, full-page writes and synchronous commit are on."""

_TEMPLATE = "bench_template"


class Stage:
    """The addresses of the two services, and what a run needs from them."""

    def __init__(self, servers: str, dsn: str, postmaster: int | None = None) -> None:
        self.servers = servers
        self._server_dsn = dsn
        self._postmaster = postmaster

    def postgres_cpu_seconds(self) -> float:
        """Return the CPU time of the whole server so far, ended backends included."""
        return tree_cpu_seconds(self._postmaster) if self._postmaster else 0.0

    def dsn(self, database: str) -> str:
        """Return the superuser's address of a database."""
        return urlunsplit(urlsplit(self._server_dsn)._replace(path=f"/{database}"))

    async def prepare(self) -> None:
        """Make the database that all others are copies of."""
        await self.server(f"CREATE DATABASE {_TEMPLATE}")
        await migrate(self.dsn(_TEMPLATE))

    async def database(self) -> str:
        """Make a fresh, migrated database, with everything before it on disk; return its DSN."""
        name = f"bench_{uuid4().hex[:12]}"
        await self.server(f"CREATE DATABASE {name} TEMPLATE {_TEMPLATE}", "CHECKPOINT")
        return self.dsn(name)

    @asynccontextmanager
    async def fresh_database(self) -> AsyncIterator[str]:
        """Have a fresh database for as long as the block runs."""
        dsn = await self.database()
        try:
            yield dsn
        finally:
            await self.drop(dsn)

    async def drop(self, dsn: str) -> None:
        """Drop a database of `database`, whoever is connected."""
        await self.server(f"DROP DATABASE {urlsplit(dsn).path[1:]} WITH (FORCE)")

    async def fill(self, name: str, deliveries: Sequence[Made]) -> str:
        """Make a Kafka topic that holds the deliveries; return its name."""
        topic = await self.topic(name)
        await self.send(topic, deliveries)
        return topic

    async def topic(self, name: str) -> str:
        """Make an empty Kafka topic; return its name."""
        topic = f"{name}.{uuid4().hex[:8]}"
        admin = AIOKafkaAdminClient(bootstrap_servers=self.servers)
        await admin.start()
        try:
            await admin.create_topics([NewTopic(topic, PARTITIONS, 1)])
        finally:
            await admin.close()
        return topic

    async def send(
        self, topic: str, deliveries: Sequence[Made], event: Callable[[Made], Event] = Made.event
    ) -> None:
        """Send the deliveries, in order, each as `event` makes it."""
        kafka = KafkaSettings(bootstrap_servers=self.servers)
        async with open_sink(kafka, PublishSettings()) as sink:
            for at in range(0, len(deliveries), 1000):
                await sink.send(topic, [event(made) for made in deliveries[at : at + 1000]])

    async def configure(self, name: str, setting: str) -> None:
        """Change a setting of the running server."""
        await self.server(f"ALTER SYSTEM SET {name} = {setting}", "SELECT pg_reload_conf()")

    async def server(self, *statements: str) -> None:
        """Execute statements that concern the whole server."""
        connection = await asyncpg.connect(self._server_dsn)
        try:
            for statement in statements:
                await connection.execute(statement)
        finally:
            await connection.close()


def tree_cpu_seconds(pid: int) -> float:
    """Return the CPU time of a process, its children that live and those it has waited for."""
    try:
        top = psutil.Process(pid)
        times = top.cpu_times()
        children = sum(tree_cpu_seconds(child.pid) for child in top.children())
    except psutil.NoSuchProcess:
        return 0.0
    return float(sum(times[:4])) + children


@contextmanager
def services(config: Mapping[str, str] = POSTGRES) -> Iterator[Stage]:
    """Start both services in a temporary folder, and end them with the block."""
    with TemporaryDirectory(prefix="newsloom-bench-") as name:
        folder = Path(name)
        folder.chmod(0o711)  # as root, Postgres runs as another user
        kafka = EmbeddedKafka(folder / "kafka", cache=default_cache(os.environ, folder))
        postgres = EmbeddedPostgres(folder / "postgres", config=config)
        try:
            yield Stage(kafka.start(), postgres.start(), postgres.pid)
        finally:
            kafka.kill()
            postgres.kill()
