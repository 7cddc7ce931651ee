"""A TCP proxy that misbehaves on demand: what the fault tests put between the service and others.

It knows no protocol; a trigger is a sequence of bytes on their way from client to server. Nothing
is random here: who wants chance draws the numbers elsewhere, from the test's seed.
"""

import asyncio
import socket
import struct
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from enum import Enum, auto

_CHUNK = 1 << 16
_RESET_ON_CLOSE = struct.pack("ii", 1, 0)


class Cut(Enum):
    """On which side of a message the link breaks."""

    BEFORE = auto()
    """The server never sees the message."""
    AFTER = auto()
    """The server has acted on it; its answer never arrives."""


@dataclass(slots=True)
class Trigger:
    """Breaks a link at the `visit`-th message that contains `needle`, counted over all links."""

    needle: bytes
    cut: Cut
    visit: int = 1
    fired: asyncio.Event = field(default_factory=asyncio.Event)


@dataclass(slots=True, eq=False)
class _Link:
    client: asyncio.StreamWriter
    server: asyncio.StreamWriter
    tail: bytes = b""
    swallows: Trigger | None = None

    def reset(self) -> None:
        for writer in (self.client, self.server):
            sock: socket.socket | None = writer.get_extra_info("socket")
            if sock is not None:
                with suppress(OSError):
                    sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET_ON_CLOSE)
            writer.transport.abort()


class _BrokenError(Exception):
    """A trigger has broken this link."""


class Proxy:
    """Forwards connections to `upstream`. Its attributes may be changed while it runs.

    `latency_seconds`: before each chunk, either way. `slice_bytes`: chunks are cut into pieces of
    so many bytes. `bytes_per_second`: at most so many, on each link and way. `flips`: so many
    chunks from the server, of at least `flip_from` bytes, get one bit wrong.
    """

    def __init__(self, upstream: int, port: int) -> None:
        self.upstream = upstream
        self.port = port
        self.latency_seconds = 0.0
        self.slice_bytes: int | None = None
        self.bytes_per_second: int | None = None
        self.flips = 0
        self.flip_from = 2000
        self.flipped = 0
        self.accepted = 0
        self._open = asyncio.Event()
        self._open.set()
        self._trigger: Trigger | None = None
        self._links: set[_Link] = set()
        self._serving: set[asyncio.Task[None]] = set()

    def blackhole(self) -> None:
        """Let nothing through either way, and say nothing about it: a cable is out."""
        self._open.clear()

    def heal(self) -> None:
        """Let everything pass again, also what a blackhole held back."""
        self.latency_seconds, self.slice_bytes, self.bytes_per_second = 0.0, None, None
        self.flips, self._trigger = 0, None
        self._open.set()

    def reset_all(self) -> int:
        """Break every link with RST; return how many there were."""
        links = list(self._links)
        for link in links:
            link.reset()
        return len(links)

    def arm(self, trigger: Trigger) -> Trigger:
        """Make a trigger the one that is waited for."""
        self._trigger = trigger
        return trigger

    async def close(self) -> None:
        """Break what is open and wait until nothing runs any more."""
        self._open.set()
        self.reset_all()
        serving = list(self._serving)
        for task in serving:
            task.cancel()
        await asyncio.gather(*serving, return_exceptions=True)

    async def serve(self, reader: asyncio.StreamReader, client: asyncio.StreamWriter) -> None:
        """Handle one connection to its end."""
        task = asyncio.current_task()
        assert task is not None
        self._serving.add(task)
        self.accepted += 1
        try:
            await self._open.wait()
            answers, server = await asyncio.open_connection("127.0.0.1", self.upstream)
        except (OSError, asyncio.CancelledError):  # nobody listens: so we look the same
            client.transport.abort()
            self._serving.discard(task)
            return
        link = _Link(client, server)
        self._links.add(link)
        pumps = [
            asyncio.ensure_future(self._pump(link, reader, server, to_server=True)),
            asyncio.ensure_future(self._pump(link, answers, client, to_server=False)),
        ]
        try:
            await asyncio.wait(pumps, return_when=asyncio.FIRST_COMPLETED)
        except asyncio.CancelledError:
            pass  # the proxy closes; what follows is all there is to do
        finally:
            for pump in pumps:
                pump.cancel()
            link.reset()
            await asyncio.gather(*pumps, return_exceptions=True)
            self._links.discard(link)
            self._serving.discard(task)

    async def _pump(
        self,
        link: _Link,
        reader: asyncio.StreamReader,
        writer: asyncio.StreamWriter,
        *,
        to_server: bool,
    ) -> None:
        with suppress(OSError, _BrokenError):
            while data := await reader.read(_CHUNK):
                await self._open.wait()
                if self.latency_seconds:
                    await asyncio.sleep(self.latency_seconds)
                passing = self._from_client(link, data) if to_server else self._answer(link, data)
                size = self.slice_bytes or len(passing)
                for start in range(0, len(passing), size):
                    writer.write(passing[start : start + size])
                    await writer.drain()
                    if self.slice_bytes:
                        await asyncio.sleep(0)
                if self.bytes_per_second:
                    await asyncio.sleep(len(passing) / self.bytes_per_second)

    def _from_client(self, link: _Link, data: bytes) -> bytes:
        trigger = self._trigger
        if trigger is None:
            return data
        seen = link.tail + data
        link.tail = seen[-len(trigger.needle) + 1 :]
        trigger.visit -= seen.count(trigger.needle)
        if trigger.visit > 0 or trigger.needle not in seen:
            return data
        self._trigger = None
        if trigger.cut is Cut.AFTER:
            link.swallows = trigger
            return data
        link.reset()
        trigger.fired.set()
        raise _BrokenError

    def _answer(self, link: _Link, data: bytes) -> bytes:
        if link.swallows is not None:
            link.reset()
            link.swallows.fired.set()
            raise _BrokenError
        if self.flips and len(data) >= self.flip_from:
            self.flips -= 1
            self.flipped += 1
            middle = len(data) // 2
            return data[:middle] + bytes([data[middle] ^ 0x10]) + data[middle + 1 :]
        return data


@asynccontextmanager
async def open_proxy(upstream: int, port: int) -> AsyncIterator[Proxy]:
    """Listen on `port` of the loopback for the length of the block."""
    proxy = Proxy(upstream, port)
    server = await asyncio.start_server(proxy.serve, "127.0.0.1", port)
    try:
        yield proxy
    finally:
        server.close()
        await proxy.close()
        await server.wait_closed()
