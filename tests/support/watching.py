"""A running ingest under observation: all that it says, its pages, its arguments; and a login."""

import asyncio
import re
from collections.abc import AsyncIterator, Iterable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import urlsplit, urlunsplit
from uuid import uuid4

import aiohttp
import asyncpg

from tests.support.blackbox import Line

PASSWORD = "canarypasswordx7f3q"  # noqa: S105 - of logins that live for one test
"""Of every login made here; nobody may print it."""


@asynccontextmanager
async def login_role(dsn: str, member_of: str) -> AsyncIterator[str]:
    """A login role that is a member of one role and nothing else; gives its DSN."""
    name = f"login_{uuid4().hex[:12]}"
    connection = await asyncpg.connect(dsn)
    try:
        await connection.execute(
            f"CREATE ROLE {name} LOGIN PASSWORD '{PASSWORD}' IN ROLE {member_of}"
        )
        parts = urlsplit(dsn)
        host = parts.netloc.rpartition("@")[2]
        yield urlunsplit(parts._replace(netloc=f"{name}:{PASSWORD}@{host}"))
        await connection.execute(
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE usename = $1", name
        )
        await connection.execute(f"DROP ROLE {name}")
    finally:
        await connection.close()


@dataclass
class Running:
    """An ingest process, everything it has said so far, and its admin port."""

    process: asyncio.subprocess.Process
    said: bytearray = field(default_factory=bytearray)
    port: int = 0

    async def get(self, path: str) -> str:
        """Fetch one of the admin port's pages."""
        async with (
            aiohttp.ClientSession() as session,
            session.get(f"http://127.0.0.1:{self.port}{path}") as answer,
        ):
            return await answer.text()


@asynccontextmanager
async def ingesting(line: Line, **extra: str) -> AsyncIterator[Running]:
    """Run ingest while the block runs; SIGTERM at its end. `extra`: more environment."""
    process = await line.start("ingest", "--format", "json", extra=extra)
    running = Running(process)
    stream = process.stderr
    assert stream is not None

    async def collect() -> None:
        while chunk := await stream.read(1 << 16):
            running.said += chunk

    collecting = asyncio.create_task(collect())
    try:
        async with asyncio.timeout(30):
            while not (found := re.search(rb'admin port open".*?"port": ?(\d+)', running.said)):
                assert process.returncode is None, running.said.decode()
                await asyncio.sleep(0.05)
        running.port = int(found[1])
        yield running
    finally:
        process.terminate()
        async with asyncio.timeout(30):
            await process.wait()
            await collecting


def arguments_of(pid: int) -> str:
    """Return what `ps` shows of a process."""
    return Path(f"/proc/{pid}/cmdline").read_bytes().decode()


def assert_no_canary(text: str, canaries: Iterable[str], *, where: str) -> None:
    """Fail with the surroundings of a canary, if there is one."""
    for canary in canaries:
        position = text.find(canary)
        near = text[max(0, position - 200) : position + 40]
        assert position < 0, f"{canary} in {where}: ...{near}"
