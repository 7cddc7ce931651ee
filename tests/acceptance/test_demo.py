"""The demo as a newcomer runs it, twice; and a role that is told to stop in the middle."""

import asyncio
import os
import shutil
import signal
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.blackbox import Finished, Line, finish, send
from tests.support.generator import Stream
from tests.support.services import open_folder

pytestmark = pytest.mark.timeout(300)

ROOT = Path(__file__).parents[2]
DRAIN_SECONDS = 30


@pytest.fixture
def services() -> Iterator[dict[str, str]]:
    """An environment whose embedded services are this test's own, with the usual download cache."""
    folder = open_folder()
    clean = {n: v for n, v in os.environ.items() if not n.startswith("NEWSLOOM_")}
    yield clean | {
        "NEWSLOOM_SERVICES_DIR": str(folder / "services"),
        "NEWSLOOM_ADMIN_PORT": "0",
    }
    shutil.rmtree(folder, ignore_errors=True)


async def command(environment: dict[str, str], *arguments: str) -> Finished:
    process = await asyncio.create_subprocess_exec(
        Path(sys.executable).with_name("newsloom"),
        *arguments,
        cwd=ROOT,
        stdin=asyncio.subprocess.DEVNULL,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
        env=environment,
        start_new_session=True,
    )
    return await finish(process, 200)


def outcome(done: Finished, name: str) -> int:
    (line,) = (text for text in done.out.splitlines() if text.strip().startswith(f"{name} "))
    return int(line.split()[-1].replace(",", ""))


async def test_the_demo_ends_well_and_a_second_run_changes_nothing(
    services: dict[str, str],
) -> None:
    try:
        first = await command(services, "demo", "--exit")
        assert first.code == 0, first.told()
        created = outcome(first, "created")
        assert created >= 8
        assert outcome(first, "consumed") == created
        assert "stories are told by more than one" in first.out
        second = await command(services, "demo", "--exit")
        assert second.code == 0, second.told()
        assert outcome(second, "unchanged") == created
        assert outcome(second, "consumed") == 2 * created
    finally:
        stopped = await command(services, "services", "stop")
        assert stopped.code == 0, stopped.told()


async def test_a_term_signal_drains_and_ends_with_zero(line: Line) -> None:
    messages = list(Stream(11, deliveries=4000))
    await send(line.bootstrap, line.topic, messages)
    process = await line.start("ingest")
    try:
        async with asyncio.timeout(60):
            while not sum((await line.outcomes()).values()):  # noqa: ASYNC110 - no event tells
                await asyncio.sleep(0.05)
        began = time.monotonic()
        process.send_signal(signal.SIGTERM)
        done = await finish(process, DRAIN_SECONDS + 10)
    finally:
        if process.returncode is None:
            process.kill()
    assert done.code == 0, done.told()
    assert time.monotonic() - began < DRAIN_SECONDS
    stored = sum((await line.outcomes()).values())
    (row,) = await line.fetch("SELECT next_offset, owner_id FROM newsloom.ingest_offsets")
    assert 0 < stored == row["next_offset"] < len(messages)
    await line.ingest()  # what was left is taken up
    assert sum((await line.outcomes()).values()) == len(messages)
