"""Connections to Postgres: few, long-lived, with a limit on every wait on both sides.

A connection is kept only when it is known to be idle; otherwise it is terminated. `close()` is
never awaited: it waits for a server that may be frozen.
"""

import asyncio
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from typing import NamedTuple

import asyncpg

from newsloom.adapters.postgres.errors import LINK_ERRORS, translated
from newsloom.settings.groups import PostgresSettings

_ROLLBACK_SECONDS = 5.0
_HAS_TRANSACTION_TIMEOUT = (17,)


class PoolState(NamedTuple):
    """How many connections are at work, how many wait for work, and how many there may be."""

    in_use: int
    idle: int
    limit: int


class Connections:
    """At most `settings.pool_max_connections`, opened when needed, kept while they work.

    `waits_for_disk=False`: a COMMIT returns before it is on disk. For what may be lost with the
    server, but not with us.
    """

    def __init__(
        self, settings: PostgresSettings, application_name: str, *, waits_for_disk: bool = True
    ) -> None:
        if settings.dsn is None:
            raise ValueError("the address of Postgres is not known")
        self._dsn = settings.dsn
        self._settings = settings
        self._application_name = application_name
        self._waits_for_disk = waits_for_disk
        self._idle: list[asyncpg.Connection] = []
        self._in_use = 0
        self._places = asyncio.Semaphore(settings.pool_max_connections)

    @asynccontextmanager
    async def use(self) -> AsyncIterator[asyncpg.Connection]:
        """Lend a connection. Errors come out translated; what was open is rolled back."""
        async with self._places:
            self._in_use += 1
            try:
                with _translating():
                    connection = self._idle.pop() if self._idle else await self._connect()
                    try:
                        yield connection
                    except BaseException as error:
                        await self._settle(connection, error)
                        raise
                    if not connection.is_closed():
                        self._idle.append(connection)
            finally:
                self._in_use -= 1

    def state(self) -> PoolState:
        """Count the connections."""
        return PoolState(self._in_use, len(self._idle), self._settings.pool_max_connections)

    def terminate(self) -> None:
        """Drop every idle connection at once, without a word to the server."""
        while self._idle:
            self._idle.pop().terminate()

    async def _connect(self) -> asyncpg.Connection:
        settings = self._settings
        connection = await asyncpg.connect(
            self._dsn.get_secret_value(),
            timeout=settings.connect_timeout_seconds,
            command_timeout=settings.command_timeout_seconds,
            max_cached_statement_lifetime=0,
            server_settings=self._server_settings(),
        )
        if connection.get_server_version() >= _HAS_TRANSACTION_TIMEOUT:
            limit = _milliseconds(settings.transaction_timeout_seconds)
            await connection.execute(f"SET transaction_timeout = {limit}")
        return connection

    def _server_settings(self) -> dict[str, str]:
        settings = self._settings
        idle_limit = settings.idle_in_transaction_timeout_seconds
        return {
            "application_name": self._application_name,
            "timezone": "UTC",
            "synchronous_commit": "on" if self._waits_for_disk else "off",
            "statement_timeout": _milliseconds(settings.statement_timeout_seconds),
            "lock_timeout": _milliseconds(settings.lock_timeout_seconds),
            "idle_in_transaction_session_timeout": _milliseconds(idle_limit),
            "tcp_user_timeout": _milliseconds(settings.tcp_user_timeout_seconds),
            "jit": "off",
            # Every statement here goes by an index. A plan made while a table was still empty may
            # live as long as the connection: it must not be a scan.
            "enable_seqscan": "off",
        }

    async def _settle(self, connection: asyncpg.Connection, error: BaseException) -> None:
        """Bring a connection back to idle after an error, or end it when its state is in doubt."""
        if connection.is_closed():
            return
        if not isinstance(error, Exception):  # cancelled: the server may still be at work on it
            connection.terminate()
        elif isinstance(error, LINK_ERRORS) or not await _is_rolled_back(connection):
            connection.terminate()
            self.terminate()  # the others have most likely died of the same
        else:
            self._idle.append(connection)


@contextmanager
def _translating() -> Iterator[None]:
    try:
        yield
    except Exception as error:
        meaning = translated(error)
        if meaning is error:
            raise
        raise meaning from None


async def _is_rolled_back(connection: asyncpg.Connection) -> bool:
    try:
        await connection.execute("ROLLBACK", timeout=_ROLLBACK_SECONDS)
    except (asyncpg.PostgresError, *LINK_ERRORS):
        return False
    return True


def _milliseconds(seconds: float) -> str:
    return str(int(seconds * 1000))
