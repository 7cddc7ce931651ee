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
_OWNED: Final = (*_CHANGED, "DELETE")
_TAIL: Final = {
    "newsloom.changes": ("SELECT",),
    "newsloom.cursors": _CHANGED,
    "newsloom.change_log_state": ("SELECT",),
}
_STATUS_PAGE: Final = dict.fromkeys(
    ("api.articles", "api.stories", "api.dead_letters", "api.ingest_progress"), ("SELECT",)
)
RIGHTS: Final[dict[str, dict[str, tuple[str, ...]]]] = {
    "ingest": {
        "newsloom.articles": _CHANGED,
        "newsloom.article_contents": _OWNED,
        "newsloom.article_urls": _OWNED,
        "newsloom.related_articles": _OWNED,
        "newsloom.article_revisions": _CHANGED,
        "newsloom.article_signals": _CHANGED,
        "newsloom.ingest_offsets": _CHANGED,
        "newsloom.dead_letters": ("SELECT", "INSERT"),
        "newsloom.changes": ("INSERT",),
        "newsloom.changes_change_id_seq": ("USAGE",),
        "newsloom.search_config": ("EXECUTE",),
        "newsloom.search_vector": ("EXECUTE",),
        **_STATUS_PAGE,
    },
    "link": {
        **_TAIL,
        "newsloom.articles": ("SELECT", "UPDATE(version)"),
        "newsloom.article_contents": ("SELECT",),
        "newsloom.copies": _OWNED,
        "newsloom.stories": _OWNED,
        "newsloom.story_articles": _OWNED,
        "newsloom.link_states": _OWNED,
        "newsloom.changes": ("SELECT", "INSERT"),
        "newsloom.changes_change_id_seq": ("USAGE",),
        "newsloom.change_log_is_foreign": ("EXECUTE",),
        **_STATUS_PAGE,
    },
    "relay": {
        **_TAIL,
        "newsloom.articles": ("SELECT",),
        "newsloom.article_contents": ("SELECT",),
        "newsloom.dead_letters": ("SELECT", "UPDATE(relayed_at)"),
        "newsloom.change_log_is_foreign": ("EXECUTE",),
        **_STATUS_PAGE,
    },
    "admin": {
        "newsloom.articles": _OWNED,
        "newsloom.article_contents": _OWNED,
        "newsloom.changes": _OWNED,
        "newsloom.dead_letters": _OWNED,
        "newsloom.ingest_offsets": _OWNED,
        "newsloom.audit_log": ("SELECT", "INSERT"),
        "newsloom.ensure_partitions": ("EXECUTE",),
        "newsloom.retire_changes": ("EXECUTE",),
        "newsloom.retire_partition": ("EXECUTE",),
        "newsloom.refresh_providers": ("EXECUTE",),
    },
    "reader": {
        **_STATUS_PAGE,
        "api.related_articles": ("SELECT",),
        "api.provider_silence": ("SELECT",),
        "api.search": ("EXECUTE",),
    },
}
"""What each Postgres role newsloom_ROLE needs, by `schema.name` of relations and functions."""


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
    `missing_rights`: "INSERT on newsloom.articles"; what does not exist is not in it.
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
SELECT n.privilege || ' on ' || n.schema || '.' || n.name AS missing
FROM unnest($1::text[], $2::text[], $3::text[]) AS n (schema, name, privilege)
JOIN pg_namespace AS s ON s.nspname = n.schema
LEFT JOIN pg_class AS c ON c.relnamespace = s.oid AND c.relname = n.name
    AND n.privilege <> 'EXECUTE'
LEFT JOIN pg_proc AS p ON p.pronamespace = s.oid AND p.proname = n.name AND n.privilege = 'EXECUTE'
CROSS JOIN LATERAL (SELECT substring(n.privilege FROM '\\((.*)\\)') AS name) AS k
WHERE coalesce(c.oid, p.oid) IS NOT NULL AND (
    NOT has_schema_privilege(s.oid, 'USAGE')
    OR NOT CASE
        WHEN p.oid IS NOT NULL THEN has_function_privilege(p.oid, 'EXECUTE')
        WHEN c.relkind = 'S' THEN has_sequence_privilege(c.oid, n.privilege)
        WHEN k.name IS NOT NULL
            THEN has_column_privilege(c.oid, k.name, split_part(n.privilege, '(', 1))
        ELSE has_table_privilege(c.oid, n.privilege)
    END
)
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


async def inspect_postgres(
    settings: PostgresSettings, roles: Sequence[str], seconds: float
) -> PostgresFacts:
    """Look at the server through one connection, and for what `roles` of `RIGHTS` need.

    Raises Unavailable: its code says what for.
    """
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
        return await _facts(connection, roles)
    finally:
        connection.terminate()


async def _facts(connection: asyncpg.Connection, roles: Sequence[str]) -> PostgresFacts:
    before, started = time.time(), time.perf_counter()
    server_time = await connection.fetchval("SELECT extract(epoch FROM clock_timestamp())::float8")
    round_trip = time.perf_counter() - started
    (server,) = await connection.fetch(_SERVER)
    wanted = {
        (*name.split("."), right)
        for role in roles
        for name, rights in RIGHTS[role].items()
        for right in rights
    }
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
