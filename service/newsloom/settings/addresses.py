"""Host lists and DSNs as text: which machines they name, and whether those are this machine. Pure.

A DSN is read exactly as asyncpg reads it, and every form that asyncpg would complete from elsewhere
(another host in the query, a service file, PGHOST) is refused: what is judged here must be what is
connected to.
"""

import ipaddress
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final
from urllib.parse import parse_qs, unquote, urlsplit

MASK: Final = "***"
MAX_PORT: Final = 65535

_REDIRECTING: Final = frozenset({"host", "port", "service", "user", "password", "passfile"})


def is_loopback(host: str) -> bool:
    """Tell whether `host` can only be this machine: 127.0.0.0/8, ::1, localhost, a Unix socket."""
    if host == "localhost" or host.startswith(("/", "@")):
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def split_servers(servers: str) -> Iterator[tuple[str, int]]:
    """Yield (host, port) of `host:port,[::1]:port`. Raises ValueError that does not quote them."""
    for server in filter(None, servers.split(",")):
        host, _, port = server.strip().rpartition(":")
        bracketed = host.startswith("[") and host.endswith("]")
        if not host or not _is_port(port) or (":" in host and not bracketed):
            msg = (
                "NEWSLOOM_KAFKA_BOOTSTRAP_SERVERS must be host:port, or several with commas "
                "between; IPv6 addresses in brackets."
            )
            raise ValueError(msg)
        yield host.strip("[]"), int(port)


@dataclass(frozen=True, slots=True)
class Dsn:
    """The parts of a DSN that may be shown, and those that decide whether it is safe."""

    hosts: tuple[str, ...]
    user: str
    database: str
    sslmode: str | None


def parse_dsn(dsn: str) -> Dsn:
    """Read a Postgres URI. Raises ValueError that does not quote it."""
    try:
        return _parse_dsn(dsn)
    except ValueError as error:
        # Messages of urllib quote what they could not read.
        reason = str(error) if isinstance(error, _DsnError) else "cannot be read as a URI"
        msg = f"NEWSLOOM_POSTGRES_DSN {reason}; it should be postgresql://USER:PASSWORD@HOST/DATABASE."
        raise ValueError(msg) from None


class _DsnError(ValueError):
    """What is wrong with a DSN, as the second half of a sentence."""


def _parse_dsn(dsn: str) -> Dsn:
    if not dsn.isprintable() or " " in dsn:
        raise _DsnError("holds a space or a control character")
    parts = urlsplit(dsn)
    if parts.scheme not in ("postgresql", "postgres"):
        raise _DsnError("does not start with postgresql://")
    auth, at, hostspec = parts.netloc.rpartition("@")
    if "@" in auth:
        # asyncpg ends the password at the first "@", libpq at the last.
        raise _DsnError("has an @ in its user or password (write it %40)")
    if parts.fragment:
        raise _DsnError("has a # in it (write it %23)")
    query = _query(parts.query, has_host=bool(hostspec))
    hosts = tuple(_hosts(hostspec or query.get("host", "")))
    if not hosts:
        raise _DsnError("names no host")
    user = unquote(auth.partition(":")[0]) if at else ""
    return Dsn(hosts, user, unquote(parts.path.lstrip("/")), query.get("sslmode"))


def _query(text: str, *, has_host: bool) -> dict[str, str]:
    query = parse_qs(text, strict_parsing=True) if text else {}
    if any(len(values) > 1 for values in query.values()):
        raise _DsnError("gives a parameter twice")
    # postgresql:///database?host=/path/of/socket is the usual way to name a Unix socket.
    allowed = set() if has_host or "host" not in query else {"host", "port"}
    for name in sorted((_REDIRECTING & set(query)) - allowed):
        raise _DsnError(f"has {name} as a parameter (its place is before the database)")
    return {name: values[0] for name, values in query.items()}


def _hosts(hostspec: str) -> Iterator[str]:
    for server in filter(None, hostspec.split(",")):
        text = unquote(server)
        if text.startswith("/"):
            yield text
            continue
        host, colon, port = text.rpartition(":")
        if text.endswith("]") or not colon:
            yield text.strip("[]")
        elif _is_port(port):
            yield host.strip("[]")
        else:
            raise _DsnError("has a port that is not a number")


def _is_port(text: str) -> bool:
    return text.isascii() and text.isdigit() and 0 < int(text[:6]) <= MAX_PORT
