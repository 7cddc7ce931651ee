"""Dead letters on the real services: relayed, listed, shown, tried again."""

import json
from datetime import UTC, datetime
from pathlib import Path

import asyncpg
import pytest

from tests.support.blackbox import Finished, Line, producer, send_raw
from tests.support.kafka import MakeTopic
from tests.support.mirror import read_topic

pytestmark = pytest.mark.timeout(240)

SECRET = "c2VjcmV0LWNhbmFyeQ==;aXY="  # noqa: S105 - of nobody
FIRST_SEEN = datetime(2026, 3, 1, 12, tzinfo=UTC)
BAD = json.dumps({"title": "No address", "secured": SECRET}).encode()


@pytest.fixture
async def line(kafka_bootstrap: str, database: str, make_topic: MakeTopic) -> Line:
    return Line(kafka_bootstrap, database, await make_topic(name="articles"))


async def send_bad(line: Line) -> None:
    """Send a record without an address, and one that is no JSON, observed when they were."""
    headers = [("ce_time", b"2026-03-01T12:00:00Z"), ("kafka_dlt-exception-message", b"forged")]
    async with producer(line.bootstrap) as sender:
        await sender.send_and_wait(line.topic, BAD, key=b"k", headers=headers, partition=0)
        await sender.send_and_wait(line.topic, b"\xff{", partition=0, headers=[("h", None)])


async def only(line: Line, query: str) -> asyncpg.Record:
    (row,) = await line.fetch(query)
    return row


async def letters(line: Line, *arguments: str | Path) -> Finished:
    return await line.run("dead-letters", *arguments)


async def test_letters_are_relayed_once_with_their_bytes_and_reasons(
    line: Line, make_topic: MakeTopic
) -> None:
    topics = {
        "NEWSLOOM_KAFKA_CHANGES_TOPIC": await make_topic(name="changes"),
        "NEWSLOOM_KAFKA_DEAD_LETTERS_TOPIC": await make_topic(name="letters"),
    }
    await send_bad(line)
    await line.ingest()
    for expected in (2, 0):
        done = await line.run("relay", "--exit-when-idle", "0.3", "--format", "json", extra=topics)
        assert done.code == 0, done.told()
        assert done.lines()[-1]["relayed"] == expected
    one, two = await read_topic(line.bootstrap, topics["NEWSLOOM_KAFKA_DEAD_LETTERS_TOPIC"])
    assert [one.key, two.key] == [f"{line.topic}/0/0/{n}".encode() for n in (0, 1)]
    assert [one.value, two.value] == [BAD, b"\xff{"]
    headers = dict(one.headers)
    assert headers["kafka_dlt-exception-message"] == b"not-an-article"
    assert headers["x-orig-kafka_dlt-exception-message"] == b"forged"
    assert headers["__connect.errors.topic"] == line.topic.encode()
    assert headers["ce_time"] == b"2026-03-01T12:00:00Z"
    assert dict(two.headers)["h"] is None
    assert dict(two.headers)["__connect.errors.exception.message"] == b"decode.utf8"


async def test_listing_and_showing_tell_what_is_needed_and_no_secret(line: Line) -> None:
    await send_bad(line)
    await line.ingest()
    listed = await letters(line, "list")
    assert listed.code == 0, listed.told()
    assert len(listed.out.splitlines()) == 2
    assert "2 of 2 dead letters" in listed.err
    assert "not-an-article 1" in listed.err
    for arguments, expected in (
        (("--reason", "decode.utf8"), 1),
        (("--since", "1h"), 2),
        (("--until", "2026-03-01T00:00:00Z"), 0),
        (("--topic", "other"), 0),
        (("--limit", "1"), 1),
    ):
        found = await letters(line, "list", "--format", "json", *arguments)
        assert len(found.lines()) == expected, arguments
    counts = await letters(line, "list", "--counts", "--format", "json")
    assert {row["reason"]: row["letters"] for row in counts.lines()} == {
        "decode.utf8": 1, "not-an-article": 1,
    }  # fmt: skip

    name = f"{line.topic}/0/0/0"
    shown = await letters(line, "show", name)
    assert "not-an-article" in shown.out
    assert "--value-file" in shown.err
    for done in (listed, counts, shown):
        assert SECRET not in done.out + done.err
        assert "No address" not in done.out + done.err
    assert (await letters(line, "show", name, "--value")).out.encode() == BAD
    missing = await letters(line, "show", f"{line.topic}/0/0/99")
    assert missing.code == 1
    assert "there is no dead letter" in missing.err


async def test_a_mended_record_is_stored_once_as_of_when_it_was_first_observed(
    line: Line, tmp_path: Path
) -> None:
    await send_bad(line)
    await line.ingest()
    name = f"{line.topic}/0/0/0"
    mended = tmp_path / "record.json"
    mended.write_bytes(BAD)
    refused = await letters(line, "replay", name, "--value-file", mended)
    assert refused.code == 1
    assert "not-an-article" in refused.err
    mended.write_text(json.dumps({**json.loads(BAD), "originalUrl": "https://a.example/mended"}))
    for _ in range(2):  # twice, as after a crash between sending and marking
        done = await letters(line, "replay", name, "--value-file", mended)
        assert done.code == 0, done.told()
    await line.ingest()
    row = await only(line, "SELECT * FROM api.articles")
    assert row["title"] == "No address"
    assert row["observed_at"] == row["first_seen_at"] == FIRST_SEEN
    assert row["revision"] == 1
    outcomes = await line.outcomes()
    assert (outcomes["created"], outcomes["unchanged"], outcomes["rejected"]) == (1, 1, 2)
    audit = await line.fetch("SELECT subject FROM newsloom.audit_log")
    assert [row["subject"] for row in audit] == [f"{line.topic}/0"] * 2


async def test_letters_that_a_newer_release_can_store_arrive_in_order_and_once(line: Line) -> None:
    """Two versions of one article were rejected; meanwhile a third, between them, was stored."""
    address = "https://a.example/one"

    def version(title: str) -> bytes:
        return json.dumps({"title": title, "originalUrl": address}).encode()

    connection = await asyncpg.connect(line.dsn)
    for offset, (title, hour) in enumerate((("oldest", 1), ("newest", 3))):
        await connection.execute(
            "INSERT INTO newsloom.dead_letters (consumer_group, kafka_topic, kafka_partition,"
            " incarnation, kafka_offset, observed_at, reason, detail, key, value, headers)"
            " VALUES ('g', $1, 0, 0, $2, $3, 'parse.json', '', 'k', $4, '[]')",
            line.topic,
            offset,
            datetime(2026, 3, 1, hour, tzinfo=UTC),
            version(title),
        )
    await connection.close()
    async with producer(line.bootstrap) as sender:
        headers = [("ce_time", b"2026-03-01T02:00:00Z")]
        await sender.send_and_wait(line.topic, version("between"), headers=headers, partition=0)
    trial = await letters(line, "replay", "--reason", "parse.json", "--dry-run", "--format", "json")
    assert trial.lines()[0]["sent"] == 2
    done = await letters(line, "replay", "--reason", "parse.json", "--format", "json")
    assert done.lines()[0]["sent"] == 2, done.told()
    nothing = await letters(line, "replay", "--reason", "parse.json", "--format", "json")
    assert nothing.lines()[0]["sent"] == 0
    await line.ingest()
    row = await only(line, "SELECT title, revision, first_seen_at FROM api.articles")
    assert (row["title"], row["revision"]) == ("newest", 2)
    assert row["first_seen_at"] == datetime(2026, 3, 1, 1, tzinfo=UTC)
    outcomes = await line.outcomes()
    assert (outcomes["created"], outcomes["stale"], outcomes["revised"]) == (1, 1, 1)


async def test_what_is_refused_again_and_again_is_final_after_three_tries(line: Line) -> None:
    await send_raw(line.bootstrap, line.topic, [b"\xff{"], timestamp_ms=1_772_366_400_000)
    await line.ingest()
    for tries in (1, 2, 3):
        done = await letters(line, "replay", "--all", "--format", "json")
        assert done.lines()[0]["sent"] == 1, done.told()
        await line.ingest()
        rows = await line.fetch(
            "SELECT observed_at, replay_count FROM newsloom.dead_letters ORDER BY kafka_offset"
        )
        assert len(rows) == tries + 1
        assert {row["observed_at"] for row in rows} == {FIRST_SEEN}
    done = await letters(line, "replay", "--all", "--format", "json")
    assert done.code == 1
    assert (done.lines()[0]["sent"], done.lines()[0]["final"]) == (0, 1)


async def test_a_replay_says_which_letters_it_means(line: Line) -> None:
    for arguments in ((), ("--all", f"{line.topic}/0/0/0"), ("--value-file", __file__, "--all")):
        done = await letters(line, "replay", *arguments)
        assert done.code == 2, done.told()
    unknown = await letters(line, "replay", "not-a-name")
    assert unknown.code == 2
