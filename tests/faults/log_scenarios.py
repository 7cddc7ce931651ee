"""Faults of what Kafka holds: unreadable, made anew, deleted unread, aborted; dead letters."""

import asyncio
import struct
from collections.abc import Sequence
from uuid import uuid4

from aiokafka import AIOKafkaProducer, TopicPartition
from aiokafka.admin import AIOKafkaAdminClient, RecordsToDelete
from aiokafka.record.util import calc_crc32c

from tests.faults.process_scenarios import read_all
from tests.faults.rig import Rig
from tests.faults.scenarios import RATE
from tests.support.blackbox import finish, kill
from tests.support.checker import Raw, read_topic, world_problems
from tests.support.kafka import create_topic, delete_topic
from tests.support.mirror import read_topic as read_letters

_CRC_AT, _CHECKED_FROM = 17, 21


async def unreadable_batch(rig: Rig) -> None:
    """F29: a batch that the client cannot parse: its partition parks, the others go on.

    What lies behind the bad record in its batch cannot be read either: it parks there once more.
    """
    await rig.feed.send(400)
    poison = await send_unreadable(rig, 0)
    member = await rig.member()
    rig.flow(RATE)
    assert await parked(rig, 0) == "kafka.unreadable"
    await rig.progress(400)
    assert await position(rig, 0) == poison
    assert member.alive, member.told()[-3000:]
    for offset in (poison, poison + 1):
        assert await parked(rig, 0, at=offset) == "kafka.unreadable"
        await rebase(rig, 0, "--to", str(offset + 1))
    rig.figures["drained after s"] = round(await rig.drained(), 1)
    raw = await read_topic(
        rig.line.bootstrap,
        rig.line.topic,
        rig.line.partitions,
        unreadable={(0, poison), (0, poison + 1)},
    )
    await judge(rig, raw, skipped=2)


async def unread_deleted(rig: Rig) -> None:
    """F31: retention passes the consumer: the partition parks, the window is recorded."""
    member = await rig.member()
    await rig.feed.send(400)
    await rig.drained()
    assert await member.terminate() == 0
    await rig.feed.send(800)
    raw = await read_all(rig)
    begin = await position(rig, 0)
    gone = range(begin, begin + rig.rng.randrange(20, 100))
    await delete_before(rig, 0, gone.stop)
    await rig.member()
    assert await parked(rig, 0) == "offset.gap"
    await rebase(rig, 0, "--to", "earliest")
    rig.figures["drained after s"] = round(await rig.drained(), 1)
    left = [r for r in raw if not (r.partition == 0 and r.offset in gone)]
    await judge(rig, left, skipped=len(gone))


async def topic_made_anew_shorter(rig: Rig) -> None:
    """F30: the Kafka topic is deleted and made anew, with fewer records than had been read."""
    await _made_anew(rig, 800, 80, frozenset({"offset.past_end"}))


async def topic_made_anew_longer(rig: Rig) -> None:
    """F30: made anew, with more records than had been read: the last one read is another."""
    await _made_anew(rig, 200, 1600, frozenset({"topic.identity"}))


async def _made_anew(rig: Rig, before: int, after: int, reasons: frozenset[str]) -> None:
    """Make the topic anew under a running member; a person takes the new one whole."""
    member = await rig.member()
    await rig.feed.send(before)
    await rig.line.reached(before, 60)
    old = await read_all(rig)
    await delete_topic(rig.line.bootstrap, rig.line.topic)
    await create_topic(rig.line.bootstrap, rig.line.topic, rig.line.partitions)
    rig.feed.acknowledged.clear()
    await rig.feed.send(after)
    for number in range(rig.line.partitions):
        assert await parked(rig, number) in reasons
    assert member.alive, member.told()[-3000:]
    for number in range(rig.line.partitions):
        await rebase(rig, number, "--to", "earliest", "--new-incarnation")
    rig.figures["drained after s"] = round(await rig.drained(), 1)
    await judge(rig, [*old, *await read_all(rig)], skipped=0)


async def aborted_transactions(rig: Rig) -> None:
    """F37: transactions of other producers are aborted: their records are never seen."""
    await rig.member()
    rig.flow(RATE)
    producer = AIOKafkaProducer(
        bootstrap_servers=rig.line.bootstrap, transactional_id=f"faults-{uuid4().hex}"
    )
    await producer.start()
    try:
        for _ in range(8):
            await producer.begin_transaction()
            for _ in range(rig.rng.randrange(1, 20)):
                number = rig.rng.randrange(rig.line.partitions)
                await producer.send_and_wait(rig.line.topic, b'{"title": "x"}', partition=number)
            await producer.abort_transaction()
            await rig.progress(50)
    finally:
        await producer.stop()
    rows = await rig.line.fetch("SELECT count(*) AS n FROM api.dead_letters WHERE reason = $1", "x")
    assert rows[0]["n"] == 0


async def relay_in_trouble(rig: Rig, rounds: int = 3) -> None:
    """F35, F36: the dead letters' Kafka topic is missing; later the relay is killed often."""
    letters, changes = f"letters.{uuid4().hex}", f"changes.{uuid4().hex}"
    await create_topic(rig.line.bootstrap, changes)
    topics = {
        "NEWSLOOM_KAFKA_DEAD_LETTERS_TOPIC": letters,
        "NEWSLOOM_KAFKA_CHANGES_TOPIC": changes,
    }
    await rig.member()
    rig.flow(RATE)
    relay = await rig.line.start("relay", extra=topics)
    before = await rig.line.position()
    await asyncio.sleep(5)
    rig.figures["progress without the topic"] = await rig.line.position() - before
    assert rig.figures["progress without the topic"] > 0
    await create_topic(rig.line.bootstrap, letters)
    deadly = {"NEWSLOOM_TEST_FAILPOINT": "letters_sent:1:kill9"}
    for _ in range(rounds):
        await rig.progress(100)
        await asyncio.sleep(rig.rng.uniform(0.5, 2))
        kill(relay)
        await finish(relay, 10)
        # And one that dies by itself, between sending and writing down that it has sent.
        await finish(await rig.line.start("relay", extra=topics | deadly), 60)
        relay = await rig.line.start("relay", extra=topics)
    kill(relay)
    await finish(relay, 10)
    await rig.drained()
    done = await rig.line.run("relay", "--exit-when-idle", "1", extra=topics)
    assert done.code == 0, done.told()
    await _judge_letters(rig, letters)
    assert rig.figures["repeated"] > 0, "it never died between sending and marking"


async def _judge_letters(rig: Rig, letters: str) -> None:
    """Compare the dead letters' Kafka topic with the table: all are there, repeats are equal."""
    told = await read_letters(rig.line.bootstrap, letters)
    rows = await rig.line.fetch("SELECT * FROM api.dead_letters")
    keys = {
        f"{r['kafka_topic']}/0/{r['kafka_partition']}/{r['kafka_offset']}".encode() for r in rows
    }
    assert {letter.key for letter in told} == keys
    assert keys
    assert len({(letter.key, letter.value) for letter in told}) == len(keys)
    rig.figures |= {"dead letters": len(keys), "repeated": len(told) - len(keys)}


# -- by hand ---------------------------------------------------------------------------------------


async def send_unreadable(rig: Rig, partition: int) -> int:
    """Store three records, the second with a header whose name is no UTF-8; return its offset.

    No broker minds.
    """
    name = b"unreadable"
    producer = AIOKafkaProducer(bootstrap_servers=rig.line.bootstrap)
    await producer.start()
    try:
        batch = producer.create_batch()
        for headers in ([], [(name.decode(), b"")], []):
            batch.append(timestamp=None, key=b"k", value=b"{}", headers=headers)
        content = bytearray(batch._build())
        at = content.index(name)
        content[at : at + 2] = b"\xff\xfe"
        struct.pack_into(">I", content, _CRC_AT, calc_crc32c(bytes(content[_CHECKED_FROM:])))
        batch._buffer = bytes(content)
        future = await producer.send_batch(batch, rig.line.topic, partition=partition)
        return int((await future).offset) + 1
    finally:
        await producer.stop()


async def delete_before(rig: Rig, partition: int, offset: int) -> None:
    """Delete what lies below an offset, as retention does."""
    admin = AIOKafkaAdminClient(bootstrap_servers=rig.line.bootstrap)
    await admin.start()
    try:
        await admin.delete_records(
            {TopicPartition(rig.line.topic, partition): RecordsToDelete(offset)}
        )
    finally:
        await admin.close()


async def position(rig: Rig, partition: int) -> int:
    """Return a partition's stored position."""
    rows = await rig.line.fetch(
        "SELECT next_offset FROM newsloom.ingest_offsets WHERE kafka_partition = $1", partition
    )
    return int(rows[0]["next_offset"])


async def parked(rig: Rig, partition: int, *, at: int | None = None, patience: float = 90) -> str:
    """Wait until a partition is parked (at an offset); return why."""
    async with asyncio.timeout(patience):
        while True:
            rows = await rig.line.fetch(
                "SELECT parked_reason FROM newsloom.ingest_offsets"
                " WHERE kafka_partition = $1 AND next_offset = coalesce($2, next_offset)",
                partition,
                at,
            )
            if rows and rows[0]["parked_reason"]:
                return str(rows[0]["parked_reason"])
            await asyncio.sleep(0.2)


async def rebase(rig: Rig, partition: int, *arguments: str) -> None:
    """Do what the runbook says of a parked partition."""
    done = await rig.line.run(
        "offsets",
        "rebase",
        rig.line.topic,
        str(partition),
        "--reason",
        "a fault test",
        "--expect",
        str(await position(rig, partition)),
        "--yes",
        *arguments,
    )
    assert done.code == 0, done.told()


async def judge(rig: Rig, raw: Sequence[Raw], *, skipped: int) -> None:
    """Judge where an operator had to act: the tables are those of all that could be read."""
    problems = await world_problems(rig.line, raw)
    assert not problems, problems[:5]
    outcomes = sum((await rig.line.outcomes()).values())
    rows = await rig.line.fetch("SELECT sum(skipped)::int AS n FROM newsloom.ingest_offsets")
    assert (outcomes, rows[0]["n"]) == (len(raw), skipped)
    rig.judged = f"{len(raw)} records, {outcomes} outcomes, {skipped} skipped by the operator"
