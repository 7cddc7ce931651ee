"""Real services for one test session, in a folder of its own that goes when the session ends.

Never skipped: a test that needs a service it cannot have fails with a sentence that says what to
do. To test against services that run already, name them in NEWSLOOM_TEST_KAFKA_BOOTSTRAP_SERVERS
and NEWSLOOM_TEST_POSTGRES_DSN (a superuser's).
"""

import asyncio
import json
import os
import shutil
import tempfile
from collections.abc import Coroutine, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict
from pathlib import Path
from typing import Final, TypeVar

import pytest

from newsloom.adapters.embedded import EmbeddedKafka, EmbeddedPostgres, EmbeddedServiceError
from newsloom.adapters.embedded.processes import ProcessIdentity

T = TypeVar("T")

FOLDER_PREFIX: Final = "newsloom-test-"
OWNER_FILE: Final = "session.json"


def open_folder() -> Path:
    """Make a temporary folder that the services' unprivileged user can enter.

    pytest's own `tmp_path` is closed to everybody else, and as root Postgres runs as `nobody`.
    """
    folder = Path(tempfile.mkdtemp(prefix=FOLDER_PREFIX))
    folder.chmod(0o711)
    return folder


def start_or_fail(service: EmbeddedKafka | EmbeddedPostgres) -> str:
    """Start a service and return its address; fail the test with the service's own sentence."""
    try:
        return service.start()
    except EmbeddedServiceError as error:
        pytest.fail(f"This test needs a real {service.title}. {error}", pytrace=False)


def run_apart(coroutine: Coroutine[object, object, T]) -> T:
    """Run a coroutine to its end from a fixture that is not async, whatever loop the test has."""
    with ThreadPoolExecutor(1) as pool:
        return pool.submit(asyncio.run, coroutine).result()


@pytest.fixture(scope="session")
def services_folder() -> Iterator[Path]:
    """Where the session's services keep their data."""
    _sweep()
    folder = open_folder()
    (folder / OWNER_FILE).write_text(json.dumps(asdict(_ourselves())))
    yield folder
    shutil.rmtree(folder, ignore_errors=True)


def _sweep() -> None:
    """End the services of sessions that were killed before they could do so."""
    for file in Path(tempfile.gettempdir()).glob(f"{FOLDER_PREFIX}*/{OWNER_FILE}"):
        try:
            owner = ProcessIdentity(**json.loads(file.read_text()))
        except (OSError, ValueError, TypeError):
            continue  # of another user, or being written
        if ProcessIdentity.of(owner.pid) == owner:
            continue
        EmbeddedKafka(file.parent / "kafka", cache=file.parent).kill()
        EmbeddedPostgres(file.parent / "postgres").kill()
        shutil.rmtree(file.parent, ignore_errors=True)


def _ourselves() -> ProcessIdentity:
    identity = ProcessIdentity.of(os.getpid())
    assert identity is not None
    return identity
