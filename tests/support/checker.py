"""Decides after a fault test whether what was promised held: from the raw topic and the database.

It shares no code with the service. What it knows comes from three places: what a producer was told
(acknowledgements), what Kafka holds (an own read of every partition), and what Postgres holds, with
an audit that a trigger of the tests keeps of every change of a position. The invariants:

I1 no loss: each readable record below a position has one outcome, transaction by transaction.
I2 no double: one article for an address, one dead letter for a coordinate.
I3 positions only rise, and each transaction begins where the one before it ended.
I4 only the owner writes: who moves a position is who claimed the partition last.
I5 what was acknowledged is in Kafka; what is in Kafka, and nothing else, is in the tables.
I7 the lag is gone in time (`Rig.drained`). I8 the longest stall is reported.
I9 the content of an article is that of its newest delivery.

(I6, a replay into an empty database, needs the service: the scenarios do that.)
"""

import hashlib
import json
from bisect import bisect_left
from collections import Counter
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from itertools import pairwise

import asyncpg
from aiokafka import AIOKafkaConsumer, ConsumerRecord, TopicPartition

from tests.support import compare
from tests.support.blackbox import Line
from tests.support.oracle import Delivery, Oracle

AUDIT = """
CREATE SCHEMA fault_audit;
CREATE TABLE fault_audit.steps (
    step bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    kafka_topic text NOT NULL,
    kafka_partition integer NOT NULL,
    xid xid8 NOT NULL DEFAULT pg_current_xact_id(),
    login text NOT NULL DEFAULT session_user,
    old_offset bigint,
    new_offset bigint NOT NULL,
    old_epoch bigint,
    new_epoch bigint NOT NULL,
    outcomes bigint NOT NULL,
    parked_reason text,
    at timestamptz NOT NULL DEFAULT clock_timestamp()
);
CREATE FUNCTION fault_audit.note() RETURNS trigger LANGUAGE plpgsql SECURITY DEFINER AS $$
DECLARE
    told bigint := NEW.created + NEW.revised + NEW.refreshed + NEW.unchanged + NEW.stale
        + NEW.rejected;
BEGIN
    IF TG_OP = 'UPDATE' THEN
        told := told - (OLD.created + OLD.revised + OLD.refreshed + OLD.unchanged + OLD.stale
            + OLD.rejected);
        IF told = 0 AND (OLD.next_offset, OLD.owner_epoch, OLD.parked_reason)
            IS NOT DISTINCT FROM (NEW.next_offset, NEW.owner_epoch, NEW.parked_reason) THEN
            RETURN NULL;
        END IF;
        INSERT INTO fault_audit.steps (kafka_topic, kafka_partition, old_offset, new_offset,
            old_epoch, new_epoch, outcomes, parked_reason)
        VALUES (NEW.kafka_topic, NEW.kafka_partition, OLD.next_offset, NEW.next_offset,
            OLD.owner_epoch, NEW.owner_epoch, told, NEW.parked_reason);
    ELSE
        INSERT INTO fault_audit.steps (kafka_topic, kafka_partition, new_offset, new_epoch,
            outcomes)
        VALUES (NEW.kafka_topic, NEW.kafka_partition, NEW.next_offset, NEW.owner_epoch, told);
    END IF;
    RETURN NULL;
END $$;
CREATE TRIGGER fault_audit AFTER INSERT OR UPDATE ON newsloom.ingest_offsets
    FOR EACH ROW EXECUTE FUNCTION fault_audit.note();
"""
"""Every change of a position, by whom (each process of a test logs in under a name of its own)."""


@dataclass(frozen=True, slots=True)
class Acknowledged:
    """What a producer was told about one record: where it is, and what it was."""

    partition: int
    offset: int
    sha256: bytes


@dataclass(frozen=True, slots=True)
class Raw:
    """A record as Kafka holds it."""

    partition: int
    offset: int
    timestamp_ms: int
    value: bytes | None
    headers: Mapping[str, bytes]

    @property
    def observed_at(self) -> datetime:
        """The event's own time, else Kafka's."""
        if time := self.headers.get("ce_time"):
            return datetime.fromisoformat(time.decode()).astimezone(UTC)
        return datetime.fromtimestamp(self.timestamp_ms / 1000, UTC)

    def record(self) -> dict[str, object] | None:
        """The value as an object; None if it is none."""
        try:
            value = json.loads(self.value or b"")
        except ValueError:
            return None
        return value if isinstance(value, dict) else None


@dataclass(slots=True)
class Verdict:
    """What was found: sentences by invariant, none if it held. And figures for the report."""

    violations: dict[str, list[str]] = field(default_factory=dict)
    records: int = 0
    acknowledged: int = 0
    transactions: int = 0
    claims: int = 0
    dead_letters: int = 0
    outcomes: Counter[str] = field(default_factory=Counter)
    longest_stall_seconds: float = 0.0

    def add(self, invariant: str, sentence: str) -> None:
        """Note a violation."""
        self.violations.setdefault(invariant, []).append(sentence)

    @property
    def holds(self) -> bool:
        """Whether nothing was found."""
        return not self.violations

    def summary(self) -> str:
        """The figures, in a few words."""
        return (
            f"{self.records} records, {self.transactions} transactions, {self.claims} claims, "
            f"stall {self.longest_stall_seconds:.1f} s"
        )

    def told(self) -> str:
        """Everything that was found, a few sentences for each invariant."""
        return "\n".join(
            f"{name}: {sentence}"
            for name, sentences in sorted(self.violations.items())
            for sentence in sentences[:5]
        )


def digest(value: bytes | None) -> bytes:
    """Recognise a value."""
    return hashlib.sha256(value or b"").digest()


async def read_topic(
    bootstrap: str,
    topic: str,
    partitions: int,
    *,
    unreadable: Collection[tuple[int, int]] = (),
) -> list[Raw]:
    """Read all that consumers may see of a Kafka topic, partition by partition.

    `unreadable`: (partition, offset) of records that no client can parse; they are passed over.
    """
    consumer = AIOKafkaConsumer(
        bootstrap_servers=bootstrap, isolation_level="read_committed", auto_offset_reset="earliest"
    )
    await consumer.start()
    try:
        places = [TopicPartition(topic, number) for number in range(partitions)]
        consumer.assign(places)
        await consumer.seek_to_beginning(*places)
        ends = await consumer.end_offsets(places)
        found: list[Raw] = []
        for place in places:
            holes = [offset for partition, offset in unreadable if partition == place.partition]
            while (at := await consumer.position(place)) < ends[place]:
                if at in holes:
                    consumer.seek(place, at + 1)
                    continue
                try:
                    # One by one, an unreadable record is met with the position upon it.
                    limit = 1 if any(at < hole for hole in holes) else None
                    fetched = await consumer.getmany(place, timeout_ms=1000, max_records=limit)
                except UnicodeDecodeError:
                    assert await consumer.position(place) in holes
                    continue
                found += [_raw(record) for batch in fetched.values() for record in batch]
        return found
    finally:
        await consumer.stop()


def _raw(record: ConsumerRecord) -> Raw:
    headers = {name: value or b"" for name, value in record.headers}
    return Raw(record.partition, record.offset, record.timestamp, record.value, headers)


async def check(
    line: Line,
    acknowledged: Iterable[Acknowledged],
    killers: Collection[tuple[int, int]] = (),
) -> Verdict:
    """Judge a line that has been drained.

    `killers`: (partition, offset) of records that kill who reads them: each must be a dead letter.
    """
    verdict = Verdict()
    raw = await read_topic(line.bootstrap, line.topic, line.partitions)
    verdict.records = len(raw)
    _check_acknowledged(verdict, raw, list(acknowledged))
    offsets = {number: [r.offset for r in raw if r.partition == number] for number in _numbers(raw)}
    steps = await line.fetch(
        "SELECT * FROM fault_audit.steps WHERE kafka_topic = $1 ORDER BY kafka_partition, step",
        line.topic,
    )
    for number in _numbers(raw):
        mine = [step for step in steps if step["kafka_partition"] == number]
        _check_steps(verdict, number, mine, offsets[number])
    verdict.claims = sum(step["new_epoch"] != step["old_epoch"] for step in steps)
    verdict.longest_stall_seconds = _longest_stall(steps)
    await _check_progress(verdict, line, offsets)
    await _check_tables(verdict, line, raw, killers)
    return verdict


def _numbers(raw: Sequence[Raw]) -> list[int]:
    return sorted({record.partition for record in raw})


def _check_acknowledged(
    verdict: Verdict, raw: Sequence[Raw], acknowledged: Sequence[Acknowledged]
) -> None:
    held = {(record.partition, record.offset): digest(record.value) for record in raw}
    verdict.acknowledged = len(acknowledged)
    for ack in acknowledged:
        if held.get((ack.partition, ack.offset)) != ack.sha256:
            verdict.add("I5", f"acknowledged, not in Kafka: {ack.partition}/{ack.offset}")


def _check_steps(
    verdict: Verdict, number: int, steps: Sequence[asyncpg.Record], offsets: Sequence[int]
) -> None:
    """Follow one partition from its first row to its last, step by step."""
    owner: str | None = None
    for last, step in pairwise(steps):
        here = f"partition {number}, step {step['step']}"
        for name, invariant in (("offset", "I3"), ("epoch", "I4")):
            if step[f"old_{name}"] != last[f"new_{name}"]:
                verdict.add(invariant, f"{here} does not begin at the {name} of the last one")
            if step[f"new_{name}"] < last[f"new_{name}"]:
                verdict.add(invariant, f"{here}: the {name} went back")
        if step["new_epoch"] > last["new_epoch"]:
            owner = step["login"]
        elif step["login"] != owner:
            verdict.add("I4", f"{here}: {step['login']} wrote, {owner} is the owner")
    _check_transactions(verdict, number, steps[1:], offsets)


def _check_transactions(
    verdict: Verdict, number: int, steps: Sequence[asyncpg.Record], offsets: Sequence[int]
) -> None:
    """Each transaction must have told one outcome for each record that it passed."""
    passed, told = Counter[object](), Counter[object]()
    for step in steps:
        begin = bisect_left(offsets, step["old_offset"])
        passed[step["xid"]] += bisect_left(offsets, step["new_offset"]) - begin
        told[step["xid"]] += step["outcomes"]
    verdict.transactions += len(+passed)
    for xid in passed.keys() | told.keys():
        if passed[xid] != told[xid]:
            verdict.add(
                "I1",
                f"partition {number}, transaction {xid}: {passed[xid]} records, "
                f"{told[xid]} outcomes",
            )


def _longest_stall(steps: Sequence[asyncpg.Record]) -> float:
    """Return the longest time between two transactions of one partition, seconds."""
    longest = timedelta()
    last: dict[int, datetime] = {}
    for step in steps:
        number = step["kafka_partition"]
        if step["old_offset"] is None:
            last[number] = step["at"]
        elif step["new_offset"] > step["old_offset"]:
            longest = max(longest, step["at"] - last[number])
            last[number] = step["at"]
    return longest.total_seconds()


async def _check_progress(
    verdict: Verdict, line: Line, offsets: Mapping[int, Sequence[int]]
) -> None:
    rows = await line.fetch(
        "SELECT kafka_partition, next_offset, parked_reason,"
        " created + revised + refreshed + unchanged + stale + rejected AS told, rejected"
        " FROM newsloom.ingest_offsets WHERE kafka_topic = $1",
        line.topic,
    )
    progress = {row["kafka_partition"]: row for row in rows}
    for number, held in offsets.items():
        row = progress.get(number)
        if row is None:
            verdict.add("I1", f"partition {number} was never claimed")
            continue
        below = sum(offset < row["next_offset"] for offset in held)
        if row["told"] != below:
            verdict.add("I1", f"partition {number}: {below} records, {row['told']} outcomes")
        if below != len(held):
            verdict.add("I7", f"partition {number}: {len(held) - below} records left")
        if row["parked_reason"] is not None:
            verdict.add("I7", f"partition {number} is parked: {row['parked_reason']}")
        letters = await line.fetch(
            "SELECT count(*) AS n FROM newsloom.dead_letters"
            " WHERE kafka_topic = $1 AND kafka_partition = $2",
            line.topic,
            number,
        )
        if letters[0]["n"] != row["rejected"]:
            verdict.add("I2", f"partition {number}: {row['rejected']} refused, {letters[0]['n']}")


def _judge_of(line: Line, raw: Iterable[Raw], killers: Collection[tuple[int, int]]) -> Oracle:
    oracle = Oracle()
    for r in raw:
        record = None if (r.partition, r.offset) in killers else r.record()
        oracle.feed(Delivery(line.topic, r.partition, r.offset, record, r.observed_at))
    return oracle


async def world_problems(line: Line, raw: Iterable[Raw]) -> Sequence[str]:
    """Compare the articles with what the independent judge makes of these records (I2, I5, I9)."""
    expected = compare.expected_world(_judge_of(line, raw, ()))
    return list(compare.world_differences(expected, await compare.stored_world(line.dsn)))


async def _check_tables(
    verdict: Verdict, line: Line, raw: Sequence[Raw], killers: Collection[tuple[int, int]]
) -> None:
    """Compare the tables with what the independent judge makes of the raw topic."""
    oracle = _judge_of(line, raw, killers)
    verdict.outcomes = Counter(await line.outcomes())
    expected = Counter({n: oracle.outcomes[n] for n in verdict.outcomes})
    if line.partitions == 1 and +verdict.outcomes != +expected:
        verdict.add("I1", f"outcomes {+verdict.outcomes}, expected {+expected}")
    letters = await line.fetch(
        "SELECT kafka_partition, kafka_offset, reason FROM newsloom.dead_letters"
        " WHERE kafka_topic = $1",
        line.topic,
    )
    verdict.dead_letters = len(letters)
    found = Counter((row["kafka_partition"], row["kafka_offset"]) for row in letters)
    wanted = Counter((d.partition, d.offset) for d in oracle.dead_letters)
    for surplus, sentence in ((found - wanted, "healthy"), (wanted - found, "missing")):
        for place in sorted(surplus)[:5]:
            reason = [r["reason"] for r in letters if (r[0], r[1]) == place]
            verdict.add("I2", f"dead letter {place}: {sentence} {reason}")
    world = await compare.stored_world(line.dsn)
    (articles,) = await line.fetch("SELECT count(*) AS n FROM api.articles")
    if articles["n"] != len(world):
        verdict.add("I2", f"{articles['n']} articles, {len(world)} different ones")
    for sentence in compare.world_differences(compare.expected_world(oracle), world):
        verdict.add("I9" if "observed_at" in sentence else "I5", sentence)
