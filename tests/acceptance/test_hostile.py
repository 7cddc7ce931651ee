"""The hostile corpus through real Kafka and a real ingest into real Postgres: each its outcome."""

from collections import Counter

import pytest

from tests.support.blackbox import Line
from tests.support.hostile import TOPIC_CONFIG, Message, messages, send_messages
from tests.support.kafka import MakeTopic

pytestmark = pytest.mark.timeout(300)


@pytest.fixture
async def roomy_line(kafka_bootstrap: str, make_topic: MakeTopic, database: str) -> Line:
    """A line whose Kafka topic takes everything."""
    topic = await make_topic(1, name="articles", config=TOPIC_CONFIG)
    return Line(kafka_bootstrap, database, topic)


async def wrongly_stored(line: Line, row: Message) -> list[str]:
    """Say what is wrong with the article of a row that was to be stored."""
    found = await line.fetch(
        "SELECT a.* FROM api.articles a WHERE article_id IN"
        " (SELECT article_id FROM api.article_urls WHERE"
        " regexp_replace(canonical_url, '^https?://|/$', '', 'g')"
        " = regexp_replace($1, '^https?://|/$', '', 'g'))",
        row.address,
    )
    if len(found) != 1:
        return [f"{row.name}: {len(found)} articles"]
    wrong = {name: found[0][name] for name, value in row.stored.items() if found[0][name] != value}
    return [f"{row.name}: {name} is {value!a:.200}" for name, value in wrong.items()]


async def test_each_hostile_message_has_its_outcome(roomy_line: Line) -> None:
    line, rows = roomy_line, messages()
    offsets = await send_messages(line.bootstrap, line.topic, rows)
    assert offsets == list(range(len(rows)))
    await line.ingest()

    letters = await line.fetch("SELECT kafka_offset, reason FROM api.dead_letters")
    reasons = {row["kafka_offset"]: row["reason"] for row in letters}
    wrong = [
        f"{row.name}: {reasons.get(offset, 'stored')} instead of {row.reason or row.outcome}"
        for offset, row in enumerate(rows)
        if reasons.get(offset, "") != row.reason
    ]
    for row in rows:
        if row.outcome != "rejected" and row.address:
            wrong += await wrongly_stored(line, row)
    assert not wrong, "\n".join(wrong)
    outcomes = await line.outcomes()
    assert {k: n for k, n in outcomes.items() if n} == Counter(row.outcome for row in rows)
    kept = await line.fetch("SELECT kafka_offset, key, value FROM newsloom.dead_letters")
    for letter in kept:
        row = rows[letter["kafka_offset"]]
        assert (letter["key"], letter["value"]) == (row.key, row.value), row.name
