"""What the metrics of the change log's readers ask of Postgres; no right beyond reading `api`."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Final

from newsloom.adapters.postgres.connection import Connections
from newsloom.settings import PostgresSettings
from newsloom.tailing import Running

# Both numbers from one snapshot.
_RUNNING: Final = """
SELECT pg_snapshot_xmin(s)::text::bigint AS oldest,
    pg_snapshot_xmax(s)::text::bigint AS past_ended
FROM pg_current_snapshot() AS s"""
_SILENT: Final = "SELECT count(*) FROM api.provider_silence WHERE is_silent"


class PostgresHorizonStore:
    """See `newsloom.tailing.HorizonStore`."""

    def __init__(self, connections: Connections) -> None:
        self._connections = connections

    async def running(self) -> Running:
        """Read the bounds of a snapshot: transactions without a number do not count."""
        async with self._connections.use() as connection:
            (row,) = await connection.fetch(_RUNNING)
        return Running(row["oldest"], row["past_ended"])

    async def silent_providers(self) -> int:
        """Count them, by indexes alone."""
        async with self._connections.use() as connection:
            return int(await connection.fetchval(_SILENT))


@asynccontextmanager
async def open_horizon_store(settings: PostgresSettings) -> AsyncIterator[PostgresHorizonStore]:
    """Open a store with one connection, which ends with the block."""
    connections = Connections(
        settings.model_copy(update={"pool_max_connections": 1}), "newsloom tailing"
    )
    try:
        yield PostgresHorizonStore(connections)
    finally:
        connections.terminate()
