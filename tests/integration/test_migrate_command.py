"""`newsloom migrate` as a person or a deployment runs it."""

import asyncio
import json
import os
import subprocess
import sysconfig
from pathlib import Path

from newsloom.adapters.migrations import read_migrations


async def _newsloom(dsn: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    environment = {name: v for name, v in os.environ.items() if not name.startswith("NEWSLOOM_")}
    environment["NEWSLOOM_POSTGRES_DSN"] = dsn  # and no Kafka: it must not be needed

    def run() -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [Path(sysconfig.get_path("scripts")) / "newsloom", *arguments],
            env=environment,
            capture_output=True,
            text=True,
            timeout=50,
            check=False,
        )

    return await asyncio.to_thread(run)


async def test_it_says_what_is_missing_applies_it_and_says_so(empty_database: str) -> None:
    names = [migration.name for migration in read_migrations()]

    before = await _newsloom(empty_database, "migrate", "--status", "--format", "json")
    assert before.returncode == 1
    rows = [json.loads(line) for line in before.stdout.splitlines()]
    assert rows == [{"migration": n, "state": "pending", "is_edited": False} for n in names]

    applied = await _newsloom(empty_database, "migrate")
    assert applied.returncode == 0, applied.stderr
    assert applied.stdout.splitlines() == [f"applied   {name}" for name in names]

    again = await _newsloom(empty_database, "migrate")
    assert (again.returncode, again.stdout) == (0, "")
    assert "nothing to do" in again.stderr
    assert (await _newsloom(empty_database, "migrate", "--status")).returncode == 0


async def test_a_postgres_that_is_away_is_one_sentence_and_exit_code_3() -> None:
    done = await _newsloom("postgresql://nobody:secret@127.0.0.1:1/nothing", "migrate")
    assert done.returncode == 3
    assert len(done.stderr.splitlines()) == 1
    assert "secret" not in done.stderr
