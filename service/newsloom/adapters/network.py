"""Can a host be found and does its port answer? Asked before a client library is let loose on it.

Client libraries resolve names in a thread pool that cannot be interrupted: with a name server that
is silent, a process that has long given up would hang at its end. Here a thread is left behind.
"""

import asyncio
import socket
import ssl
import threading
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime


@dataclass(frozen=True, slots=True)
class Endpoint:
    """What was found at one address. `problem`: what stands in the way, None when it answers."""

    host: str
    port: int
    problem: str | None = None
    tls_version: str | None = None
    certificate_ends_at: datetime | None = None

    @property
    def address(self) -> str:
        """Return `host:port`, IPv6 in brackets."""
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"{host}:{self.port}"


async def resolves(host: str, seconds: float) -> bool:
    """Tell whether the name of a host can be turned into an address in time."""
    loop = asyncio.get_running_loop()
    found: asyncio.Future[bool] = loop.create_future()

    def tell(*, is_found: bool) -> None:
        if not found.done():
            found.set_result(is_found)

    def look_up() -> None:
        try:
            is_found = bool(socket.getaddrinfo(host, None, type=socket.SOCK_STREAM))
        except (OSError, UnicodeError):
            is_found = False
        with suppress(RuntimeError):  # the loop may be gone by now
            loop.call_soon_threadsafe(lambda: tell(is_found=is_found))

    threading.Thread(target=look_up, name="look-up", daemon=True).start()
    with suppress(TimeoutError):
        async with asyncio.timeout(seconds):
            return await found
    return False


async def probe(
    host: str, port: int, seconds: float, *, context: ssl.SSLContext | None = None
) -> Endpoint:
    """Connect, shake hands if `context` is given, and hang up. Never raises, never waits longer."""
    if not await resolves(host, seconds):
        return Endpoint(host, port, "its name is unknown here")
    try:
        async with asyncio.timeout(seconds):
            _, writer = await asyncio.open_connection(
                host, port, ssl=context, server_hostname=host if context else None
            )
    except (OSError, TimeoutError) as error:
        return Endpoint(host, port, _problem(error))
    try:
        return _described(host, port, writer)
    finally:
        writer.transport.abort()


def _described(host: str, port: int, writer: asyncio.StreamWriter) -> Endpoint:
    tls: ssl.SSLObject | None = writer.get_extra_info("ssl_object")
    if tls is None:
        return Endpoint(host, port)
    ends_at = None
    certificate = tls.getpeercert() or {}
    if isinstance(text := certificate.get("notAfter"), str):
        ends_at = datetime.fromtimestamp(ssl.cert_time_to_seconds(text), UTC)
    return Endpoint(host, port, tls_version=tls.version(), certificate_ends_at=ends_at)


def _problem(error: OSError) -> str:
    match error:
        case TimeoutError():
            return "it does not answer"
        case ConnectionRefusedError():
            return "nothing listens there"
        case ssl.SSLCertVerificationError():
            return f"its certificate is refused ({error.verify_message})"
        case ssl.SSLError():
            return f"it does not speak our TLS ({error.reason})"
        case _:
            return f"it cannot be reached ({type(error).__name__})"
