import asyncio
import json
import os
import signal
import subprocess
import sys
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from aiokafka import AIOKafkaConsumer

from newsloom import ArticlePublisher, Receipt, Rejected, Unavailable
from newsloom.adapters.kafka.producer import KafkaSink, open_sink
from newsloom.core.documents import event_of
from newsloom.core.event import Event, decode
from newsloom.core.record import record_from_mapping
from newsloom.errors import RejectReason
from newsloom.settings import KafkaSettings, PublishSettings
from tests.support.kafka import MakeTopic

pytestmark = pytest.mark.timeout(180)
NOON = datetime(2024, 2, 3, 12, tzinfo=UTC)
SAMPLES = Path(__file__).parents[2] / "samples"


def record(number: int, **values: object) -> dict[str, object]:
    return {"title": f"News {number}", "webUrl": f"https://a.example/{number}", **values}


def event(number: int, **values: object) -> Event:
    parsed = record_from_mapping(record(number, **values))
    return event_of(parsed, observed_at=NOON, source="test")


async def read(bootstrap: str, topic: str, count: int) -> list[Any]:
    """Read `count` messages, and make sure that there are no more."""
    consumer = AIOKafkaConsumer(
        topic, bootstrap_servers=bootstrap, auto_offset_reset="earliest", group_id=None
    )
    await consumer.start()
    found: list[Any] = []
    try:
        while len(found) < count:
            for messages in (await consumer.getmany(timeout_ms=20_000)).values():
                found += messages
        ends = await consumer.end_offsets(list(consumer.assignment()))
        assert sum(ends.values()) == count
    finally:
        await consumer.stop()
    return found


def settings(bootstrap: str, **publish: Any) -> tuple[KafkaSettings, PublishSettings]:
    return KafkaSettings(bootstrap_servers=bootstrap), PublishSettings(**publish)


async def test_a_receipt_says_where_the_event_is(
    kafka_bootstrap: str, make_topic: MakeTopic
) -> None:
    topic = await make_topic(3)
    async with ArticlePublisher(kafka_bootstrap, kafka_topic=topic) as publisher:
        receipts = [await publisher.publish(record(n), observed_at=NOON) for n in range(5)]
        receipts += await asyncio.gather(*(publisher.publish(record(n)) for n in range(5, 50)))
        async for result in publisher.publish_many(record(n) for n in range(50, 500)):
            assert isinstance(result, Receipt)
            receipts.append(result)
    messages = {(m.partition, m.offset): m for m in await read(kafka_bootstrap, topic, 500)}
    for number, receipt in enumerate(receipts):
        message = messages[receipt.partition, receipt.offset]
        found = decode(message.value, message.key, message.headers, message.timestamp)
        assert (found.event_id, found.article.title) == (receipt.event_id, f"News {number}")
    assert len({receipt.partition for receipt in receipts}) == 3


async def test_events_of_one_article_keep_their_order(
    kafka_bootstrap: str, make_topic: MakeTopic
) -> None:
    topic = await make_topic(4)
    async with open_sink(*settings(kafka_bootstrap)) as sink:
        versions = [[event(n % 7, heat=v) for n in range(70)] for v in range(20)]
        await asyncio.gather(*(sink.send(topic, batch) for batch in versions))
    heats: dict[bytes, list[int]] = {}
    for message in await read(kafka_bootstrap, topic, 1400):
        heats.setdefault(message.key, []).append(json.loads(message.value)["heat"])
    assert all(seen == sorted(seen) for seen in heats.values())


async def test_an_oversize_event_fails_alone(kafka_bootstrap: str, make_topic: MakeTopic) -> None:
    topic = await make_topic(1, config={"max.message.bytes": "20000"})
    noise = os.urandom(30_000).hex()  # nothing that compression could make fit
    events = [event(1), event(2, body=noise), event(3), event(4, body="x" * 1_000_000), event(5)]
    async with open_sink(*settings(kafka_bootstrap)) as sink:
        results = await sink.send(topic, events)
        after = await sink.send(topic, [event(6)])
    kinds = [r.reason if isinstance(r, Rejected) else "sent" for r in (*results, *after)]
    oversize = RejectReason.KAFKA_OVERSIZE
    assert kinds == ["sent", oversize, "sent", oversize, "sent", "sent"]
    assert len(await read(kafka_bootstrap, topic, 4)) == 4


async def test_a_producer_that_failed_is_replaced_and_the_rest_sent_again(
    kafka_bootstrap: str, make_topic: MakeTopic
) -> None:
    topic = await make_topic(1)
    async with open_sink(*settings(kafka_bootstrap)) as sink:
        assert isinstance((await sink.send(topic, [event(1)]))[0], Receipt)
        skip_a_sequence_number(sink)
        results = await asyncio.gather(*(sink.send(topic, [event(n)]) for n in range(2, 6)))
    assert all(isinstance(result, Receipt) for (result,) in results)
    ids = [dict(m.headers)["ce_id"].decode() for m in await read(kafka_bootstrap, topic, 5)]
    assert sorted(ids) == sorted(event(n).event_id for n in range(1, 6))


def skip_a_sequence_number(sink: KafkaSink) -> None:
    """Do what a batch does that expires without a leader: use a number up and send nothing."""
    manager = sink._producer._txn_manager
    for partition in list(manager._sequence_numbers):
        manager.increment_sequence_number(partition, 3)


async def test_kafka_that_is_not_there_is_unavailable_at_once() -> None:
    with pytest.raises(Unavailable):
        async with ArticlePublisher("127.0.0.1:1"):
            pass


async def test_a_delivery_that_takes_too_long_is_given_up(
    kafka_bootstrap: str, make_topic: MakeTopic
) -> None:
    topic = await make_topic(1)
    loop = asyncio.get_running_loop()
    async with open_sink(*settings(kafka_bootstrap, delivery_timeout_seconds=2)) as sink:
        real, sink._producer = sink._producer, NeverAnswers(sink._producer)
        started = loop.time()
        with pytest.raises(Unavailable, match="TimeoutError"):
            await sink.send(topic, [event(1)])
        assert loop.time() - started < 10
        sink._producer = real
        assert isinstance((await sink.send(topic, [event(1)]))[0], Receipt)


class NeverAnswers:
    """A producer whose batches are taken and never acknowledged, as by a frozen broker."""

    def __init__(self, producer: Any) -> None:
        self.create_batch = producer.create_batch
        self.partitions_for = producer.partitions_for

    async def send_batch(self, *_: object, **__: object) -> asyncio.Future[None]:
        return asyncio.get_running_loop().create_future()


async def test_a_kafka_topic_that_does_not_exist_is_named_with_what_to_do(
    kafka_bootstrap: str,
) -> None:
    code, _, said = await run(
        SAMPLES, KAFKA_BOOTSTRAP_SERVERS=kafka_bootstrap, KAFKA_ARTICLES_TOPIC="test.not-there"
    )
    assert code == 3
    assert "test.not-there does not exist" in said
    assert "newsloom topics apply" in said
    assert said.count("\n") < 5


# -- the command -----------------------------------------------------------------------------------


def environment(**variables: str) -> dict[str, str]:
    kept = {k: v for k, v in os.environ.items() if not k.startswith("NEWSLOOM_")}
    return kept | {f"NEWSLOOM_{name}": value for name, value in variables.items()}


def command(*arguments: object) -> list[str]:
    code = "import sys; from newsloom.cli.main import run; sys.exit(run(sys.argv[1:]))"
    return [sys.executable, "-c", code, *map(str, arguments)]


async def run(*arguments: object, **variables: str) -> tuple[int, dict[str, Any], str]:
    """Run the command; return its exit code, its summary and what it said."""
    done = await asyncio.to_thread(
        subprocess.run,
        command("publish", *arguments, "--format", "json"),
        env=environment(**variables),
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    summary = json.loads(done.stdout) if done.stdout else {}
    return done.returncode, summary, done.stderr


def rows(report: Path) -> Sequence[dict[str, Any]]:
    return [json.loads(line) for line in report.read_text(encoding="utf-8").splitlines()]


async def test_samples_are_published_and_the_report_says_where(
    kafka_bootstrap: str, make_topic: MakeTopic, tmp_path: Path
) -> None:
    topic, report = await make_topic(2), tmp_path / "report.ndjson"
    person = tmp_path / "person.md"
    person.write_text("---\nname: Robin\nbio: Writes.\n---\n")
    code, summary, said = await run(
        SAMPLES,
        person,
        "--report",
        report,
        KAFKA_BOOTSTRAP_SERVERS=kafka_bootstrap,
        KAFKA_ARTICLES_TOPIC=topic,
    )
    assert (code, summary["refused"]) == (1, 1), said
    verdicts = rows(report)
    assert len(verdicts) == summary["documents"]
    (refused,) = [row for row in verdicts if row["outcome"] == "refused"]
    assert refused["errors"][0]["detail"].startswith("missing title, originalUrl")
    messages = await read(kafka_bootstrap, topic, summary["accepted"])
    receipts = {(m.partition, m.offset, dict(m.headers)["ce_id"].decode()) for m in messages}
    assert receipts == {
        (row["receipt"]["partition"], row["receipt"]["offset"], row["receipt"]["event_id"])
        for row in verdicts
        if row["outcome"] == "accepted"
    }


async def test_the_update_stream_is_accepted_but_for_what_is_no_article(
    kafka_bootstrap: str, make_topic: MakeTopic, tmp_path: Path
) -> None:
    stream, expected = update_stream(tmp_path)
    topic = await make_topic(2)
    code, summary, said = await run(
        stream, KAFKA_BOOTSTRAP_SERVERS=kafka_bootstrap, KAFKA_ARTICLES_TOPIC=topic
    )
    assert code == 1, said
    assert (summary["accepted"], summary["reasons"]) == (
        expected[0],
        {"not-an-article": expected[1]},
    )
    await read(kafka_bootstrap, topic, expected[0])


def update_stream(folder: Path) -> tuple[Path, tuple[int, int]]:
    """Return the real stream, or one of our own of its kind; accepted and refused."""
    if data := os.environ.get("NEWSLOOM_TEST_DATA"):
        return Path(data) / "updates.ndjson.gz", (2868, 163)
    path = folder / "updates.ndjson"
    with path.open("w") as file:
        for n in range(1000):
            title = "" if n % 10 == 3 else f"title: News {n % 90}\n"
            text = f"---\n{title}webUrl: https://a.example/{n % 90}\nheat: {n}\n---\n"
            file.write(json.dumps({"text": text, "committed_at": 1_600_000_000 + n}) + "\n")
    return path, (900, 100)


async def test_a_dry_run_and_a_missing_file_need_no_kafka(tmp_path: Path) -> None:
    code, summary, _ = await run(SAMPLES / "solar-record.md", "--dry-run")
    assert (code, summary["accepted"], summary["kafka_topic"]) == (0, 1, None)
    code, _, said = await run(tmp_path / "none.md", "--dry-run")
    assert (code, "no such file" in said) == (2, True)


async def test_kafka_that_is_away_gives_exit_code_3_and_a_sentence() -> None:
    code, _, said = await run(SAMPLES, KAFKA_BOOTSTRAP_SERVERS="127.0.0.1:1")
    assert code == 3
    assert "newsloom: kafka unavailable" in said


async def test_fail_fast_sends_what_came_before_and_nothing_after(
    kafka_bootstrap: str, make_topic: MakeTopic, tmp_path: Path
) -> None:
    topic = await make_topic(1)
    good = "---\ntitle: x\nwebUrl: https://a.example/{}\n---\n"
    for name, text in (("a", good), ("b", "---\nname: x\n---\n"), ("c", good)):
        (tmp_path / f"{name}.md").write_text(text.format(name))
    code, summary, _ = await run(
        tmp_path,
        "--fail-fast",
        KAFKA_BOOTSTRAP_SERVERS=kafka_bootstrap,
        KAFKA_ARTICLES_TOPIC=topic,
    )
    assert (code, summary["accepted"], summary["refused"]) == (1, 1, 1)
    await read(kafka_bootstrap, topic, 1)


async def test_watching_publishes_what_is_new_and_what_changed(
    kafka_bootstrap: str, make_topic: MakeTopic, tmp_path: Path
) -> None:
    topic = await make_topic(1)
    text = "---\ntitle: {}\nwebUrl: https://a.example/{}\n---\n"
    (tmp_path / "a.md").write_text(text.format("first", 1))
    process = await asyncio.create_subprocess_exec(
        *command("publish", tmp_path, "--watch"),
        env=environment(KAFKA_BOOTSTRAP_SERVERS=kafka_bootstrap, KAFKA_ARTICLES_TOPIC=topic),
        stdout=subprocess.PIPE,
    )
    try:
        await read(kafka_bootstrap, topic, 1)
        (tmp_path / "b.md").write_text(text.format("second", 2))
        (tmp_path / "a.md").write_text(text.format("first, again", 1))
        messages = await read(kafka_bootstrap, topic, 3)
        process.send_signal(signal.SIGTERM)
        told, _ = await asyncio.wait_for(process.communicate(), 20)
    finally:
        if process.returncode is None:
            process.kill()
    assert process.returncode == 0
    assert b"3 of 3 records" in told
    titles = {json.loads(message.value)["title"] for message in messages}
    assert titles == {"first", "second", "first, again"}
