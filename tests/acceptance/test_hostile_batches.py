"""Batches that no client library makes, as they lie on the wire: each in a partition of its own."""

import asyncio
import re
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.support.blackbox import Line
from tests.support.hostile import HEADER, KEY, record
from tests.support.watching import ingesting
from tests.support.wire import Raw, batch, bomb, produce

pytestmark = pytest.mark.timeout(300)

# H30-H36. What the broker says of
# it (0: stored, else its error code), and what becomes of the partition then.
INVALID_RECORD, CORRUPT, TOO_LARGE, UNEXPECTED = -87, -2, -10, -1
GOOD = Raw(record("h33"), KEY.encode())
LYING = Raw(b"{}", KEY.encode(), value_length=1_000_000)
COUNTLESS = Raw(b"{}", KEY.encode(), header_count=2**31 - 1)
NO_TEXT = Raw(b"{}", KEY.encode(), headers=[(b"\xff\xfe" + HEADER.encode(), b"")])
BATCHES: list[tuple[str, bytes, int, str | None]] = [
    ("H30 a wrong checksum", batch([GOOD])[:-1] + b"?", CORRUPT, None),
    ("H31 a header name that is no UTF-8", batch([NO_TEXT]), 0, "kafka.unreadable"),
    ("H32 a length that lies", batch([LYING]), INVALID_RECORD, None),
    ("H32 two thousand million headers", batch([COUNTLESS]), INVALID_RECORD, None),
    ("H33 gzip", batch([GOOD], codec="gzip"), 0, None),
    ("H33 snappy", batch([GOOD], codec="snappy"), 0, None),
    ("H33 lz4", batch([GOOD], codec="lz4"), 0, None),
    ("H33 zstd", batch([GOOD], codec="zstd"), 0, None),
    ("H33 an unknown codec", batch([GOOD], codec="unknown"), UNEXPECTED, None),
    ("H33 broken gzip", batch([GOOD], codec="gzip", damage=True), UNEXPECTED, None),
    ("H33 broken zstd", batch([GOOD], codec="zstd", damage=True), UNEXPECTED, None),
    ("H35 one byte too much", batch([Raw(bytes(1_048_588))]), TOO_LARGE, None),
    ("H36 a gigabyte in gzip", bomb(1 << 30, "gzip"), 0, "kafka.unreadable"),
    ("H36 a gigabyte in zstd", bomb(1 << 30, "zstd"), 0, "kafka.unreadable"),
    ("H36 60 MB in zstd", bomb(60_000_000, "zstd"), 0, None),
]
MOST_MEMORY = 700 * 1024 * 1024


def most_memory(pid: int) -> int:
    """Return the largest resident set of a process so far, bytes."""
    status = Path(f"/proc/{pid}/status").read_text()
    return int(re.search(r"VmHWM:\s+(\d+) kB", status)[1]) * 1024  # type: ignore[index]


@pytest.mark.parametrize("line", [len(BATCHES)], indirect=True)
async def test_a_hostile_batch_stops_its_own_partition_and_memory_stays_bounded(
    line: Line, record_property: Callable[[str, object], None]
) -> None:
    sends: list[tuple[int, bytes]] = []
    for place, (_, content, _, _) in enumerate(BATCHES):
        before, after = (batch([Raw(record(f"b{place}-{n}"))]) for n in range(2))
        sends += [(place, before), (place, content), (place, after)]
    said = await produce(line.bootstrap, line.topic, sends)
    verdicts = {name: min(0, said[3 * n + 1]) for n, (name, *_) in enumerate(BATCHES)}
    assert verdicts == {name: code for name, _, code, _ in BATCHES}

    async with ingesting(line) as ingest:
        rows = await settled(line)
        used = most_memory(ingest.process.pid)
        assert ingest.process.returncode is None
    record_property("largest resident set, MiB", used >> 20)
    print(f"largest resident set: {used >> 20} MiB")  # noqa: T201 - -s shows it
    assert used < MOST_MEMORY
    parked = {BATCHES[row["kafka_partition"]][0]: row["parked_reason"] for row in rows}
    assert parked == {name: reason for name, _, _, reason in BATCHES}
    found = await line.fetch("SELECT canonical_url FROM api.articles")
    stored = {row["canonical_url"].rpartition("/")[2] for row in found}
    for place, (name, _, _, reason) in enumerate(BATCHES):
        assert f"b{place}-0" in stored, f"what lies before {name}"
        assert (f"b{place}-1" in stored) == (reason is None), f"what lies behind {name}"
    letters = await line.fetch("SELECT kafka_partition, reason FROM api.dead_letters")
    assert [(BATCHES[row[0]][0], row[1]) for row in letters] == [
        ("H36 60 MB in zstd", "kafka.oversize")
    ]


async def settled(line: Line, patience: float = 45) -> list[Any]:
    """Wait until every partition was read to its end or has parked; return their progress."""
    query = "SELECT * FROM api.ingest_progress ORDER BY kafka_partition"
    rows: list[Any] = []
    deadline = time.monotonic() + patience
    while len(rows) < len(BATCHES) or not all(map(is_done, rows)):
        told = {BATCHES[r["kafka_partition"]][0]: r["next_offset"] for r in rows if not is_done(r)}
        assert time.monotonic() < deadline, f"neither done nor parked: {told} of {len(rows)}"
        await asyncio.sleep(0.3)
        rows = await line.fetch(query)
    return rows


def is_done(row: Any) -> bool:
    """Tell whether a partition was read to its end, or parked where it cannot be read."""
    stored = BATCHES[row["kafka_partition"]][2] == 0
    return row["parked_reason"] is not None or row["next_offset"] == 2 + stored
