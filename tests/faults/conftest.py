"""A bench of our own for the faults: services that may be killed."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.faults.rig import Bench


@pytest.fixture(scope="session")
def bench(services_folder: Path, kafka_cache: Path) -> Iterator[Bench]:
    """One broker and one server for all scenarios of a session; each leaves them running."""
    folder = services_folder / "faults"
    folder.mkdir(mode=0o711)
    bench = Bench(folder, kafka_cache)
    try:
        bench.start()
        yield bench
    finally:
        bench.stop()
