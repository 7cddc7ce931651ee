"""Looks at a Postgres server and at what its role may do, as `newsloom doctor` needs it."""

import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import asyncpg

from newsloom.adapters.postgres.errors import LINK_ERRORS
from newsloom.errors import Unavailable
from newsloom.settings.groups import PostgresSettings

_CHANGED: Final = ("SELECT", "INSERT", "UPDATE")
INGEST_RIGHTS: Final[dict[str, tuple[str, ...]]] = {
    "newsloom.articles": _CHANGED,
    "newsloom.article_contents": (*_CHANGED, "DELETE"),
    "newsloom.article_urls": (*_CHANGED, "DELETE"),
    "newsloom.related_articles": (*_CHANGED, "DELETE"),
    "newsloom.article_revisions": _CHANGED,
    "newsloom.article_signals": _CHANGED,
    "newsloom.ingest_offsets": _CHANGED,
    "newsloom.dead_letters": ("SELECT", "INSERT"),
    "newsloom.changes": ("INSERT",),
    "newsloom.changes_change_id_seq": ("USAGE",),
    "api.articles": ("SELECT",),
    "api.dead_letters": ("SELECT",),
    "api.ingest_progress": ("SELECT",),
}
"""What ingest and its status page need: `schema.relation` -> rights."""


@dataclass(frozen=True, slots=True)
class ParkedPartition:
    """A partition that waits for an operator."""

    topic: str
    partition: int
    reason: str


@dataclass(frozen=True, slots=True)
class PostgresFacts:
    """What was found. Times in seconds.

    `clock_offset_seconds`: the server's clock minus ours; within half of `round_trip_seconds`.
    `missing_rights`: "INSERT on newsloom.articles"; a relation that is missing is not in it.
    `parked` None: this role may not read the progress, or it is not there yet.
    """

    version: str
    version_number: int
    encoding: str
    user: str
    is_superuser: bool
    is_standby: bool
    is_pooled: bool
    tls_version: str | None
    clock_offset_seconds: float
    round_trip_seconds: float
    missing_rights: Sequence[str]
    excess_rights: Sequence[str]
    parked: Sequence[ParkedPartition] | None
    oldest_transaction_seconds: float
    free_connections: int


_SERVER = """
SELECT current_setting('server_version') AS version,
    current_setting('server_version_num')::integer AS version_number,
    current_setting('server_encoding') AS encoding,
    current_user::text AS user,
    (SELECT rolsuper FROM pg_roles WHERE rolname = current_user) AS is_superuser,
    pg_is_in_recovery() AS is_standby,
    pg_backend_pid() AS backend,
    current_setting('max_connections')::integer
        - current_setting('superuser_reserved_connections')::integer
        - (SELECT count(*)::integer FROM pg_stat_activity WHERE backend_type = 'client backend')
        AS free_connections,
    (SELECT coalesce(extract(epoch FROM now() - min(xact_start)), 0)::float
        FROM pg_stat_activity WHERE backend_type = 'client backend') AS oldest_transaction"""

# By names in the catalogue: to_regclass raises where the schema itself may not be used.
_MISSING = """
SELECT n.privilege || ' on ' || n.schema || '.' || n.relation AS missing
FROM unnest($1::text[], $2::text[], $3::text[]) AS n (schema, relation, privilege)
JOIN pg_namespace AS s ON s.nspname = n.schema
JOIN pg_class AS c ON c.relnamespace = s.oid AND c.relname = n.relation
WHERE NOT has_schema_privilege(s.oid, 'USAGE')
    OR NOT CASE c.relkind
        WHEN 'S' THEN has_sequence_privilege(c.oid, n.privilege)
        ELSE has_table_privilege(c.oid, n.privilege)
    END
UNION ALL
SELECT 'EXECUTE on ' || p.oid::regprocedure
FROM pg_proc AS p JOIN pg_namespace AS s ON s.oid = p.pronamespace
WHERE s.nspname = 'newsloom' AND p.proname IN ('search_config', 'search_vector')
    AND NOT has_function_privilege(p.oid, 'EXECUTE')
ORDER BY 1"""

_EXCESS = """
SELECT 'TRUNCATE on newsloom.' || c.relname AS excess
FROM pg_class AS c JOIN pg_namespace AS s ON s.oid = c.relnamespace
WHERE s.nspname = 'newsloom' AND c.relname IN ('articles', 'ingest_offsets', 'dead_letters')
    AND has_table_privilege(c.oid, 'TRUNCATE')
UNION ALL
SELECT 'CREATE in schema ' || nspname
FROM pg_namespace WHERE nspname IN ('newsloom', 'api') AND has_schema_privilege(oid, 'CREATE')
ORDER BY 1"""

_PARKED = """
SELECT kafka_topic, kafka_partition, parked_reason FROM api.ingest_progress
WHERE parked_reason IS NOT NULL ORDER BY 1, 2"""


async def inspect_postgres(settings: PostgresSettings, seconds: float) -> PostgresFacts:
    """Look at the server through one connection. Raises Unavailable: its code says what for."""
    if settings.dsn is None:
        raise ValueError("the address of Postgres is not known")
    try:
        connection = await asyncpg.connect(
            settings.dsn.get_secret_value(),
            timeout=seconds,
            command_timeout=seconds,
            statement_cache_size=0,
            server_settings={
                "application_name": "newsloom doctor",
                "default_transaction_read_only": "on",
            },
        )
    except asyncpg.PostgresError as error:
        raise Unavailable("postgres", error.sqlstate or type(error).__name__) from None
    except (*LINK_ERRORS, ValueError) as error:
        raise Unavailable("postgres", type(error).__name__) from None
    try:
        return await _facts(connection)
    finally:
        connection.terminate()


async def _facts(connection: asyncpg.Connection) -> PostgresFacts:
    before, started = time.time(), time.perf_counter()
    server_time = await connection.fetchval("SELECT extract(epoch FROM clock_timestamp())::float8")
    round_trip = time.perf_counter() - started
    (server,) = await connection.fetch(_SERVER)
    wanted = [
        (*relation.split("."), right)
        for relation, rights in INGEST_RIGHTS.items()
        for right in rights
    ]
    missing = await connection.fetch(_MISSING, *map(list, zip(*wanted, strict=True)))
    excess = await connection.fetch(_EXCESS)
    backend = await connection.fetchval("SELECT pg_backend_pid()")
    return PostgresFacts(
        version=server["version"].split(" ")[0],
        version_number=server["version_number"],
        encoding=server["encoding"],
        user=server["user"],
        is_superuser=server["is_superuser"],
        is_standby=server["is_standby"],
        is_pooled=server["backend"] != backend,
        tls_version=_tls_version(connection),
        clock_offset_seconds=server_time - (before + round_trip / 2),
        round_trip_seconds=round_trip,
        missing_rights=[row["missing"] for row in missing],
        excess_rights=[row["excess"] for row in excess],
        parked=await _parked(connection),
        oldest_transaction_seconds=server["oldest_transaction"],
        free_connections=server["free_connections"],
    )


def _tls_version(connection: asyncpg.Connection) -> str | None:
    """Tell what this link speaks; the server knows only the last hop, should there be a proxy."""
    # asyncpg shows it in no other way.
    tls = connection._transport.get_extra_info("ssl_object")  # type: ignore[attr-defined] # noqa: SLF001
    return tls.version() if tls is not None else None


async def _parked(connection: asyncpg.Connection) -> Sequence[ParkedPartition] | None:
    try:
        rows = await connection.fetch(_PARKED)
    except asyncpg.PostgresError:
        return None
    return [ParkedPartition(*row) for row in rows]
