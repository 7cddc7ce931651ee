"""The admin port: status page, metrics, health. Small on purpose, and safe to leave open.

GET and HEAD only, one request a connection, nothing is read but a bounded head, and nothing a
client does can hold a place for long: when all places are taken, the oldest connection makes room,
so that health checks get through while a slow client is being timed out.

Handlers run on the event loop and must not wait.
"""

import asyncio
import errno
import json
import logging
import os
import socket
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from http import HTTPStatus
from typing import Final, TypeAlias

from prometheus_client import CollectorRegistry
from prometheus_client.exposition import choose_encoder

from newsloom.adapters.http.page import CONTENT_SECURITY_POLICY, STATUS_PAGE
from newsloom.health import Health, Verdict
from newsloom.settings import SettingsError, is_loopback

logger = logging.getLogger(__name__)

MAX_HEAD_BYTES: Final = 8 * 1024
_LINGER_SECONDS: Final = 0.5
_METHODS: Final = ("GET", "HEAD")

_HEADERS: Final = (
    "Cache-Control: no-store\r\n"
    "Connection: close\r\n"
    f"Content-Security-Policy: {CONTENT_SECURITY_POLICY}\r\n"
    "Cross-Origin-Resource-Policy: same-origin\r\n"
    "Referrer-Policy: no-referrer\r\n"
    "X-Content-Type-Options: nosniff\r\n"
    "X-Frame-Options: DENY\r\n"
)


@dataclass(frozen=True, slots=True)
class Request:
    """What a handler may know of a request. Header names are lower case."""

    method: str
    path: str
    headers: Mapping[str, str]


@dataclass(frozen=True, slots=True)
class Response:
    """A whole answer."""

    status: HTTPStatus
    content_type: str
    body: bytes


Handler: TypeAlias = Callable[[Request], Response]
StatusSource: TypeAlias = Callable[[], Mapping[str, object]]
"""What the status page shows; JSON by `json.dumps`. Must not wait."""


class _BadRequest(Exception):  # noqa: N818 - named after the status it becomes
    def __init__(self, status: HTTPStatus) -> None:
        super().__init__(status)
        self.status = status


def metrics_route(registry: CollectorRegistry) -> Handler:
    """Return what answers a scrape."""

    def metrics(request: Request) -> Response:
        encode, content_type = choose_encoder(request.headers.get("accept", ""))
        return Response(HTTPStatus.OK, content_type, encode(registry))

    return metrics


def admin_routes(
    *, registry: CollectorRegistry, health: Health, status: StatusSource
) -> dict[str, Handler]:
    """Return the routes of architecture.md: /, /metrics, /healthz, /readyz, and the page's data."""

    def figures(_: Request) -> Response:
        return Response(HTTPStatus.OK, "application/json", json.dumps(status()).encode() + b"\n")

    page = Response(HTTPStatus.OK, "text/html; charset=utf-8", STATUS_PAGE)
    return {
        "/": lambda _: page,
        "/status.json": figures,
        "/metrics": metrics_route(registry),
        "/healthz": lambda _: _verdict(health.live()),
        "/readyz": lambda _: _verdict(health.ready()),
    }


@asynccontextmanager
async def serve_admin(
    host: str,
    port: int,
    routes: Mapping[str, Handler],
    *,
    max_connections: int = 64,
    read_timeout_seconds: float = 5.0,
) -> AsyncIterator[int]:
    """Serve `routes` while the context is open; gives the bound port (`port` 0 takes a free one).

    Raises SettingsError, in one sentence, when the address cannot be bound.
    """
    site = _Site(
        routes,
        max_connections=max_connections,
        timeout_seconds=read_timeout_seconds,
        loopback=is_loopback(host),
    )
    try:
        server = await asyncio.start_server(site.serve, host, port, limit=MAX_HEAD_BYTES)
    except OSError as error:
        raise SettingsError(_bind_problem(host, port, error)) from error
    try:
        yield server.sockets[0].getsockname()[1]
    finally:
        server.close()
        await site.close()
        await server.wait_closed()


def _bind_problem(host: str, port: int, error: OSError) -> str:
    address = f"{host}:{port}"
    if error.errno == errno.EADDRINUSE:
        return (
            f"The admin port {address} is in use: stop the other process, or set "
            "NEWSLOOM_ADMIN_PORT (0 takes a free one)."
        )
    reason = "unknown host" if isinstance(error, socket.gaierror) else os.strerror(error.errno or 0)
    return (
        f"The admin port {address} cannot be opened ({reason}): set NEWSLOOM_ADMIN_HOST and "
        "NEWSLOOM_ADMIN_PORT to an address of this machine."
    )


@dataclass(slots=True)
class _Site:
    """The connections of one server."""

    routes: Mapping[str, Handler]
    max_connections: int
    timeout_seconds: float
    loopback: bool
    _open: dict[asyncio.StreamWriter, "asyncio.Task[None] | None"] = field(default_factory=dict)

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Answer one connection. Never raises: a client's mistake is not our error."""
        if len(self._open) >= self.max_connections:
            # An honest client is answered in milliseconds, so the oldest is a slow one.
            oldest = next(iter(self._open))
            del self._open[oldest]
            oldest.transport.abort()
        self._open[writer] = asyncio.current_task()
        try:
            async with asyncio.timeout(self.timeout_seconds):
                await self._answer(reader, writer)
        except (OSError, TimeoutError, asyncio.IncompleteReadError):
            logger.debug("admin connection given up")
        finally:
            self._open.pop(writer, None)
            writer.transport.abort()

    async def close(self) -> None:
        """End what is still open."""
        tasks = [task for task in self._open.values() if task is not None]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    async def _answer(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.transport.set_write_buffer_limits(0)  # drain then waits until all is sent
        method = "GET"
        try:
            request = _parse_head(await reader.readuntil(b"\r\n\r\n"))
            method = request.method
            response = self._respond(request)
        except asyncio.LimitOverrunError:
            response = _plain(HTTPStatus.REQUEST_HEADER_FIELDS_TOO_LARGE)
        except _BadRequest as error:
            response = _plain(error.status)
        writer.write(_head(response) + (b"" if method == "HEAD" else response.body))
        await writer.drain()
        writer.write_eof()
        # Closing while the client still sends (a body, an endless head) would reset the connection
        # and destroy our answer on its way.
        with suppress(TimeoutError):
            async with asyncio.timeout(_LINGER_SECONDS):
                while await reader.read(MAX_HEAD_BYTES):
                    pass

    def _respond(self, request: Request) -> Response:
        if request.method not in _METHODS:
            raise _BadRequest(HTTPStatus.METHOD_NOT_ALLOWED)
        host = _host_name(request.headers.get("host", "localhost"))
        if self.loopback and not is_loopback(host):
            # A foreign page whose name was rebound to 127.0.0.1 must not read this.
            raise _BadRequest(HTTPStatus.MISDIRECTED_REQUEST)
        handler = self.routes.get(request.path)
        if handler is None:
            raise _BadRequest(HTTPStatus.NOT_FOUND)
        try:
            return handler(request)
        except Exception:
            # The admin port reports on the process; it must not be what ends it.
            logger.exception("admin page failed", extra={"path": request.path})
            return _plain(HTTPStatus.INTERNAL_SERVER_ERROR)


def _parse_head(head: bytes) -> Request:
    line, *rest = head.decode("latin-1").removesuffix("\r\n\r\n").split("\r\n")
    words = line.split(" ")
    if len(words) != 3 or not words[2].startswith("HTTP/1.") or not words[1].startswith("/"):  # noqa: PLR2004 - method, target, version
        raise _BadRequest(HTTPStatus.BAD_REQUEST)
    headers = {}
    for item in rest:
        name, colon, value = item.partition(":")
        if not colon or not name or name != name.strip():
            raise _BadRequest(HTTPStatus.BAD_REQUEST)
        headers[name.lower()] = value.strip()
    return Request(method=words[0], path=words[1].partition("?")[0], headers=headers)


def _host_name(host: str) -> str:
    if host.startswith("["):
        return host[1:].partition("]")[0]
    return host.partition(":")[0].lower()


def _head(response: Response) -> bytes:
    allow = "Allow: GET, HEAD\r\n" if response.status is HTTPStatus.METHOD_NOT_ALLOWED else ""
    return (
        f"HTTP/1.1 {response.status.value} {response.status.phrase}\r\n"
        f"Content-Type: {response.content_type}\r\nContent-Length: {len(response.body)}\r\n"
        f"{allow}{_HEADERS}\r\n"
    ).encode("latin-1")


def _plain(status: HTTPStatus) -> Response:
    return Response(status, "text/plain; charset=utf-8", f"{status.phrase}\n".encode())


def _verdict(verdict: Verdict) -> Response:
    status = HTTPStatus.OK if verdict.ok else HTTPStatus.SERVICE_UNAVAILABLE
    return Response(status, "application/json", json.dumps(verdict.as_json()).encode() + b"\n")
