"""`newsloom publish` that dies in the middle of a file, and whose broker does."""

import asyncio
import re
from pathlib import Path

import pytest

from tests.faults.process_scenarios import publish_killed, receipts_of, sent_so_far, write_stream
from tests.faults.rig import Bench, open_rig
from tests.faults.test_faults import chosen_seed
from tests.support.blackbox import finish
from tests.support.checker import read_topic

pytestmark = [pytest.mark.timeout(240), pytest.mark.faults]

SLOW_BYTES_PER_SECOND = 200_000
"""Of the link to Kafka, so that there is a middle of the file."""


async def test_killed_in_the_middle_of_a_file_and_run_again_every_line_is_stored_once(
    bench: Bench, tmp_path: Path
) -> None:
    async with open_rig(bench, tmp_path, chosen_seed()) as rig:
        await publish_killed(rig)
        await rig.drained(120)
        verdict = await rig.verdict()
        assert verdict.holds, verdict.told()
        assert verdict.dead_letters == 0


async def test_a_broker_that_goes_away_ends_it_with_3_and_a_count_of_what_was_acknowledged(
    bench: Bench, tmp_path: Path
) -> None:
    seed = chosen_seed()
    file, report = tmp_path / "stream.ndjson", tmp_path / "report.ndjson"
    write_stream(file, seed, 2000)
    async with open_rig(bench, tmp_path, seed) as rig:
        rig.kafka.bytes_per_second = SLOW_BYTES_PER_SECOND
        process = await rig.line.start(
            "publish",
            file,
            "--report",
            report,
            extra={
                "NEWSLOOM_PUBLISH_DELIVERY_TIMEOUT_SECONDS": "5",
                "NEWSLOOM_PUBLISH_MAX_IN_FLIGHT_RECORDS": "200",
            },
        )
        await sent_so_far(rig, 600)
        await asyncio.to_thread(bench.kafka.kill)
        done = await finish(process, 60)
        assert done.code == 3, done.told()
        told = re.search(r"(\d+) records were acknowledged before", done.err)
        assert told, done.told()
        await asyncio.to_thread(bench.kafka.start)
        rig.kafka.heal()
        raw = await read_topic(rig.line.bootstrap, rig.line.topic, rig.line.partitions)
        held = {(record.partition, record.offset): record.headers["ce_id"] for record in raw}
        receipts = receipts_of(report)
        assert len(receipts) == int(told[1]) > 0
        for receipt in receipts:
            assert held[receipt["partition"], receipt["offset"]] == receipt["event_id"].encode()
