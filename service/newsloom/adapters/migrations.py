"""Applies `migrations/`: the files that dbmate applies in production, in the same way.

Same format (`-- migrate:up`, `-- migrate:down`), same `schema_migrations` table, one transaction a
file unless it says `transaction:false`. Beyond dbmate, a file that was edited after the fact is
noticed: a list of SHA-256 sums is committed beside the files.
"""

import hashlib
import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import asyncpg

from newsloom.errors import Unavailable
from newsloom.settings.groups import PostgresSettings

FOLDER = Path(__file__).parents[1] / "migrations"
"""The files; a link in a checkout, package data in an installed wheel."""

CHECKSUMS = "SHA256SUMS"
"""Name of the list of hashes, in the format of sha256sum(1)."""

_LOCK_KEY = 0x6E6577736C6F6F6D  # "newsloom"
_LOCK_TIMEOUT = "120s"
_CONNECT_SECONDS = 10.0
_STATEMENT_SECONDS = 600.0
_NAME = re.compile(r"(?P<version>\d{14})_[a-z0-9_]+\.sql\Z")
_MARKER = re.compile(r"^--\s*migrate:(?P<half>up|down)(?P<options>[^\n]*)\n", re.MULTILINE)


class MigrationError(Exception):
    """The folder or the database is not as migrations need it; the text says what to do."""


@dataclass(frozen=True, slots=True)
class Half:
    """One direction of a migration: its SQL and whether it runs in a transaction."""

    sql: str
    in_transaction: bool = True


@dataclass(frozen=True, slots=True)
class Migration:
    """One file. `version` is the number its name starts with; versions order migrations."""

    version: str
    name: str
    sha256: str
    up: Half
    down: Half


class MigrationStatus(NamedTuple):
    """Whether a migration has been applied to a database."""

    name: str
    is_applied: bool


def read_migrations(folder: Path | None = None) -> list[Migration]:
    """Read the files in order. MigrationError: a name or a marker is not as dbmate needs it."""
    folder = folder or FOLDER
    migrations = [_read(path) for path in sorted(folder.glob("*.sql"))]
    if not migrations:
        raise MigrationError(f"no migrations in {folder}")
    versions = [migration.version for migration in migrations]
    if len(set(versions)) < len(versions):
        raise MigrationError(f"two migrations in {folder} share a version")
    return migrations


def edited_migrations(folder: Path | None = None) -> list[str]:
    """Return names of files that are not as the list of hashes says, or that it does not name."""
    folder = folder or FOLDER
    lines = (folder / CHECKSUMS).read_text(encoding="utf-8").splitlines()
    hashes = {name: digest for digest, name in (line.split("  ", 1) for line in lines)}
    return [m.name for m in read_migrations(folder) if hashes.get(m.name) != m.sha256]


async def migrate(dsn: str, *, folder: Path | None = None) -> list[str]:
    """Apply what is missing, oldest first; return the names of the files applied.

    Whoever comes second waits for the first (advisory lock). A failing file leaves nothing behind
    and raises the error of Postgres; the files before it stay applied. Raises `Unavailable` when
    Postgres cannot be reached.
    """
    migrations = read_migrations(folder)
    connection = await _connect(dsn)
    try:
        await _lock(connection)
        done = await _applied(connection)
        pending = [migration for migration in migrations if migration.version not in done]
        for migration in pending:
            await _run(connection, migration.up, _RECORD, migration.version)
        return [migration.name for migration in pending]
    finally:
        await _close(connection)


async def rollback(dsn: str, *, steps: int = 1, folder: Path | None = None) -> list[str]:
    """Undo the newest `steps` migrations that are applied; return the names of their files."""
    migrations = read_migrations(folder)
    connection = await _connect(dsn)
    try:
        await _lock(connection)
        done = await _applied(connection)
        newest = [migration for migration in reversed(migrations) if migration.version in done]
        for migration in newest[:steps]:
            await _run(connection, migration.down, _FORGET, migration.version)
        return [migration.name for migration in newest[:steps]]
    finally:
        await _close(connection)


async def status(dsn: str, *, folder: Path | None = None) -> Sequence[MigrationStatus]:
    """Tell for each file whether it has been applied. Changes nothing, waits for nobody."""
    migrations = read_migrations(folder)
    connection = await _connect(dsn)
    try:
        has_table = await connection.fetchval("SELECT to_regclass('schema_migrations') IS NOT NULL")
        done = await _applied(connection) if has_table else frozenset()
        return [MigrationStatus(m.name, m.version in done) for m in migrations]
    finally:
        await _close(connection)


async def require_current_schema(settings: PostgresSettings) -> None:
    """Raise `Unavailable` unless Postgres answers and every migration has been applied."""
    if settings.dsn is None:
        raise ValueError("the address of Postgres is not known")
    with _outages_told():
        found = await status(settings.dsn.get_secret_value())
    if not all(migration.is_applied for migration in found):
        raise Unavailable("postgres", "its schema is old: run `newsloom migrate`", systemic=True)


_RECORD = "INSERT INTO schema_migrations (version) VALUES ($1)"
_FORGET = "DELETE FROM schema_migrations WHERE version = $1"


def _read(path: Path) -> Migration:
    matched = _NAME.match(path.name)
    if matched is None:
        raise MigrationError(f"{path.name}: a migration is called YYYYMMDDHHMMSS_words.sql")
    content = path.read_bytes()
    text = content.decode("utf-8")
    markers = list(_MARKER.finditer(text))
    if [marker["half"] for marker in markers] != ["up", "down"]:
        raise MigrationError(f"{path.name}: wants one '-- migrate:up', then one '-- migrate:down'")
    up, down = markers
    return Migration(
        version=matched["version"],
        name=path.name,
        sha256=hashlib.sha256(content).hexdigest(),
        up=_half(text[up.end() : down.start()], up["options"]),
        down=_half(text[down.end() :], down["options"]),
    )


def _half(sql: str, options: str) -> Half:
    return Half(sql, in_transaction="transaction:false" not in options.split())


@contextmanager
def _outages_told() -> Iterator[None]:
    """Turn what Postgres or the way to it raises into `Unavailable`, without its text."""
    try:
        yield
    except asyncpg.PostgresError as error:
        passes = (error.sqlstate or "")[:2] in ("08", "53", "57")
        code = error.sqlstate or type(error).__name__
        raise Unavailable("postgres", code, systemic=not passes) from None
    except (OSError, asyncpg.InterfaceError) as error:
        raise Unavailable("postgres", type(error).__name__) from None


async def _connect(dsn: str) -> asyncpg.Connection:
    with _outages_told():
        return await asyncpg.connect(
            dsn,
            timeout=_CONNECT_SECONDS,
            command_timeout=_STATEMENT_SECONDS,
            statement_cache_size=0,
            server_settings={
                "application_name": "newsloom migrate",
                "timezone": "UTC",
                # Where dbmate keeps schema_migrations. Our roles' own search_path does not have it.
                "search_path": "public",
            },
        )


async def _close(connection: asyncpg.Connection) -> None:
    try:
        await connection.close(timeout=_CONNECT_SECONDS)
    except (OSError, asyncpg.PostgresError, asyncpg.InterfaceError):
        connection.terminate()


async def _lock(connection: asyncpg.Connection) -> None:
    """Wait for other migrations, then make sure of the table. The lock ends with the session."""
    await connection.execute(f"SET lock_timeout = '{_LOCK_TIMEOUT}'")
    await connection.execute("SELECT pg_advisory_lock($1)", _LOCK_KEY)
    await connection.execute(
        "CREATE TABLE IF NOT EXISTS schema_migrations (version varchar(128) PRIMARY KEY)"
    )


async def _applied(connection: asyncpg.Connection) -> frozenset[str]:
    rows = await connection.fetch("SELECT version FROM schema_migrations")
    return frozenset(row["version"] for row in rows)


async def _run(connection: asyncpg.Connection, half: Half, bookkeeping: str, version: str) -> None:
    if half.in_transaction:
        async with connection.transaction():
            await connection.execute(half.sql)
            await connection.execute(bookkeeping, version)
    else:
        await connection.execute(half.sql)
        await connection.execute(bookkeeping, version)
