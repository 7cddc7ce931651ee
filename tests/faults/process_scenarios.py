"""Faults of our own processes: late, slow, hung, with a wrong clock, killed by what they read."""

import asyncio
import json
import re
import signal
import urllib.request
from pathlib import Path
from typing import Any

from tests.faults.rig import Member, Rig
from tests.faults.scenarios import RATE, never_left, said
from tests.support.blackbox import kill
from tests.support.checker import Raw, read_topic
from tests.support.generator import Stream

FAILPOINT = "NEWSLOOM_TEST_FAILPOINT"
STRIKES = 6
"""Deaths after which a record is given up (docs/delivery.md)."""

CLOCK = '''
import time

real, began = time.time, time.monotonic()


def jumping():
    """A day ahead, right, a day behind, and so on, two seconds each."""
    return real() + 86_400 * (1, 0, -1)[int((time.monotonic() - began) / 2) % 3]


time.time = jumping
'''
"""What Python runs at its start in a process whose clock jumps."""


async def claims_late(rig: Rig, seconds: float = 8) -> None:
    """F6: a claim comes when the partition has long been somebody else's."""
    late = await rig.member(
        # Past the claims of its first assignment: all later ones dawdle.
        extra={FAILPOINT: f"before_claim:{rig.line.partitions + 1}:delay={seconds}"}
    )
    rig.flow(RATE)
    await rig.owned_by(late)
    second = await rig.member()
    await said(second, '"partitions assigned"')
    # Of the two partitions that it still has and dawdles over, one goes now.
    others = [await rig.member(), await rig.member()]
    for other in others:
        await said(other, '"partitions assigned"')
    await asyncio.sleep(seconds)
    await rig.owned_by(late, second, *others)
    await rig.progress(100)
    (row,) = await rig.line.fetch(
        "SELECT max(owner_epoch)::int AS most FROM newsloom.ingest_offsets"
    )
    rig.figures["fenced"] = sum(m.told().count('"fenced"') for m in (second, *others))
    rig.figures["claims of one partition"] = row["most"]
    assert rig.figures["fenced"] > 0, "no claim came late"
    assert row["most"] <= 12, "the partition went back and forth"


async def slow_work(rig: Rig) -> None:
    """F8: work takes longer than the longest time between polls; nobody is expelled for it."""
    member = await rig.member(
        extra={
            "NEWSLOOM_INGEST_MAX_POLL_INTERVAL_SECONDS": "5",
            FAILPOINT: f"decode@0/{rig.rng.randrange(20, 60)}:1:block=12",
        }
    )
    rig.flow(RATE)
    await rig.progress(3000)
    # And when nothing has room any more, so that there is nothing to poll for.
    rig.bench.postgres.freeze()
    await asyncio.sleep(15)
    rig.bench.postgres.thaw()
    rig.figures["resumed after s"] = await rig.progress(500)
    never_left(member)


async def loop_blocked(rig: Rig, seconds: float = 12) -> None:
    """F9: nothing moves in a process for longer than its session: expelled, fenced, back again."""
    heir = await rig.member()
    rig.flow(RATE)
    await rig.owned_by(heir)
    visit = rig.rng.randrange(3, 9)
    member = await rig.member(extra={FAILPOINT: f"before_cas:{visit}:block={seconds}"})
    await rig.owned_by(member, heir)
    await said(member, '"fenced"', 60)
    await rig.owned_by(member, heir)
    rig.figures["worst loop lag s, at least"] = lag = await _loop_lag(member)
    assert lag >= 5, "the metric did not show it"


async def _loop_lag(member: Member) -> float:
    """Return the lower bound of the slowest bucket of the lag's histogram, seconds."""
    (port,) = re.findall(r'"port": (\d+)', member.told())[:1]
    address = f"http://127.0.0.1:{port}/metrics"
    with await asyncio.to_thread(urllib.request.urlopen, address) as answer:
        text = (await asyncio.to_thread(answer.read)).decode()
    found = re.findall(r'event_loop_lag_seconds_bucket\{le="([^"]+)"\} ([0-9.]+)', text)
    most = max(float(count) for _, count in found)
    return max(float(bound) for bound, count in found if float(count) < most)


async def clock_jumps(rig: Rig) -> None:
    """F38: the wall clock of a process jumps by a day, forth and back."""
    (rig.folder / "sitecustomize.py").write_text(CLOCK)
    path = [str(rig.folder), *filter(None, [rig.environment("PYTHONPATH")])]
    member = await rig.member(extra={"PYTHONPATH": ":".join(path)})
    rig.flow(RATE)
    for _ in range(6):
        await rig.progress(RATE)
        await asyncio.sleep(1)
    never_left(member)


async def publish_killed(rig: Rig, lines: int = 2000) -> None:
    """F40: publish is killed in the middle of a file and run again: each line stored once."""
    file = rig.folder / "stream.ndjson"
    expected = write_stream(file, rig.seed, lines)
    rig.kafka.bytes_per_second = 200_000  # so that there is a middle
    process = await rig.line.start("publish", file)
    talk = asyncio.ensure_future(process.communicate())
    await sent_so_far(rig, rig.rng.randrange(100, lines // 2))
    kill(process)
    await talk
    assert process.returncode == -signal.SIGKILL
    rig.kafka.heal()
    done = await rig.line.run("publish", file)
    assert done.code == 0, done.told()
    raw = await read_all(rig)
    assert {record.observed_at.isoformat() for record in raw} == set(expected)
    assert len(raw) > lines
    rig.figures |= {"lines": lines, "in Kafka": len(raw)}
    await rig.member()


async def killed_by_a_record(rig: Rig) -> None:
    """F41: a record takes down every process that reads it, until it is given up."""
    offset = rig.rng.randrange(60, 200)
    rig.killers = frozenset({(0, offset)})
    await rig.feed.send(1500)
    deadly = {FAILPOINT: f"decode@0/{offset}:1:kill9"}
    deaths = 0
    while True:
        member = await rig.member(extra=deadly)
        ended = asyncio.ensure_future(member.process.wait())
        reached = asyncio.ensure_future(rig.line.reached(1500, 120))
        await asyncio.wait([ended, reached], return_when=asyncio.FIRST_COMPLETED)
        if not ended.done():
            await reached
            ended.cancel()
            break
        reached.cancel()
        await asyncio.gather(reached, return_exceptions=True)
        deaths += 1
        assert deaths <= 2 * STRIKES, member.told()[-3000:]
    rig.figures["deaths"] = deaths
    rows = await rig.line.fetch(
        "SELECT kafka_partition, kafka_offset FROM api.dead_letters WHERE reason = 'crash.loop'"
    )
    assert [tuple(row) for row in rows] == [(0, offset)]
    assert deaths >= STRIKES


def write_stream(path: Path, seed: int, lines: int) -> list[str]:
    """Write a file to publish; return the observed time of each line, which names it."""
    messages = list(Stream(seed, deliveries=lines, rejected=0))
    path.write_text("".join(message.line() + "\n" for message in messages))
    return [message.observed_at.isoformat() for message in messages]


async def sent_so_far(rig: Rig, records: int, patience: float = 60) -> None:
    """Wait until Kafka holds so many."""
    async with asyncio.timeout(patience):
        while await rig.line.log_end() < records:  # noqa: ASYNC110 - Kafka has no event for it
            await asyncio.sleep(0.05)


async def read_all(rig: Rig) -> list[Raw]:
    """Read all that Kafka holds of the scenario."""
    return await read_topic(rig.line.bootstrap, rig.line.topic, rig.line.partitions)


def receipts_of(report: Path) -> list[dict[str, Any]]:
    """Return what publish says it was told, line by line."""
    return [json.loads(line)["receipt"] for line in report.read_text().splitlines()]
