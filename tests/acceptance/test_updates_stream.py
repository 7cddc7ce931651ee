"""An update stream through the whole line: every number is the independent judge's.

With NEWSLOOM_TEST_DATA set it is the real stream; without, one from the generator. The last lines
of the output say which.
"""

import gzip
import json
import os
from collections import Counter
from collections.abc import Iterator
from datetime import datetime
from pathlib import Path

import pytest

from tests.support import compare
from tests.support.blackbox import Line, send
from tests.support.generator import Message, Stream
from tests.support.oracle import Oracle, judge_updates, refusal, updates

pytestmark = pytest.mark.timeout(300)

SEED = 20240301
REAL = (3031, 163, 2868)
"""Lines of the real stream, refused by `publish`, sent."""


@pytest.fixture(scope="module")
def stream(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the path of the update stream, NDJSON.gz."""
    folder = os.environ.get("NEWSLOOM_TEST_DATA")
    if folder:
        return Path(folder) / "updates.ndjson.gz"
    path = tmp_path_factory.mktemp("data") / "updates.ndjson.gz"
    with gzip.open(path, "wt", encoding="utf-8") as file:
        file.writelines(message.line() + "\n" for message in Stream(SEED, deliveries=3000))
    return path


def is_real(stream: Path) -> bool:
    return stream.parent == Path(os.environ.get("NEWSLOOM_TEST_DATA", ""))


async def assert_as_judged(line: Line, oracle: Oracle) -> None:
    """Outcomes, articles, mentions, revisions, URLs, edges, current values."""
    wanted = {name: oracle.outcomes[name] for name in await line.outcomes()}
    assert await line.outcomes() == wanted
    stored = await compare.stored_world(line.dsn)
    assert compare.world_differences(compare.expected_world(oracle), stored) == []
    revisions = await line.fetch("SELECT count(*) AS n FROM api.article_revisions")
    assert revisions[0]["n"] == oracle.revisions
    if not oracle.moved and not oracle.mentions:  # both have signals that change, too
        history = await line.fetch(
            "SELECT count(*) AS n FROM api.article_signals WHERE NOT is_current"
        )
        assert history[0]["n"] == sum(a.signal_changes for a in oracle.full_articles)


async def test_publish_and_ingest_agree_with_the_judge_and_publishing_again_changes_nothing(
    line: Line, stream: Path
) -> None:
    oracle = judge_updates(stream, line.topic, refused_first=True)
    lines = sum(1 for _ in updates(stream))
    sent = oracle.outcomes.total()
    if is_real(stream):
        assert (lines, lines - sent, sent) == REAL

    published = await line.run("publish", stream, "--format", "json")
    assert published.code == 1, published.told()  # some records are bad, and said to be
    assert await line.log_end() == sent
    await line.ingest()
    await assert_as_judged(line, oracle)
    assert await line.fetch("SELECT * FROM api.dead_letters") == []

    aside = compare.PROGRESS | compare.CHANGE_LOG
    before = await compare.dump(line.dsn, without=aside)
    again = await line.run("publish", stream, "--format", "json")
    assert again.code == 1, again.told()
    assert await line.log_end() == 2 * sent
    await line.ingest()
    after = await compare.dump(line.dsn, without=aside)
    assert not compare.differences(before, after)
    assert sum((await line.outcomes()).values()) == 2 * sent


async def test_publish_says_why_it_refuses_each_record(
    line: Line, stream: Path, tmp_path: Path
) -> None:
    report = tmp_path / "report.ndjson"
    done = await line.run("publish", "--dry-run", "--report", report, stream)
    assert done.code == 1, done.told()
    verdicts = [json.loads(text) for text in report.read_text().splitlines()]
    refused = [refusal(record) is not None for _, record, _ in updates(stream)]
    assert len(verdicts) == len(refused)
    assert [is_refused(verdict) for verdict in verdicts] == refused
    assert await line.log_end() == 0


def is_refused(verdict: dict[str, object]) -> bool:
    return bool(verdict.get("errors"))


async def test_the_same_records_sent_raw_give_dead_letters_with_reasons(
    line: Line, stream: Path
) -> None:
    oracle = judge_updates(stream, line.topic, refused_first=False)
    messages = [Message(seen, record, "raw", str(n)) for n, (seen, record, _) in _numbered(stream)]
    await send(line.bootstrap, line.topic, messages)
    await line.ingest()

    await assert_as_judged(line, oracle)
    rows = await line.fetch(
        "SELECT kafka_partition, kafka_offset, reason, detail FROM api.dead_letters"
    )
    found = Counter((row["kafka_partition"], row["kafka_offset"], row["reason"]) for row in rows)
    wanted = [(d.partition, d.offset, d.reason) for d in oracle.dead_letters]
    assert found == Counter(wanted)
    details = {row["kafka_offset"]: row["detail"].lower() for row in rows}
    for letter in oracle.dead_letters:
        assert all(name in details[letter.offset] for name in letter.missing)


def _numbered(stream: Path) -> Iterator[tuple[int, tuple[datetime, dict[str, object], str]]]:
    return enumerate(updates(stream))
