"""`publish(record, wait="stored")` over a real Kafka, a real ingest and a real Postgres."""

import asyncio

import pytest

from newsloom import ArticlePublisher, NotConfirmed, Receipt, Unavailable
from tests.support.blackbox import Line, finish, send_raw
from tests.support.kafka import MakeTopic, create_topic

pytestmark = pytest.mark.timeout(120)

HARBOUR = {"title": "Harbour bridge opens", "originalUrl": "https://tidewater.example/bridge"}


@pytest.fixture
async def line(kafka_bootstrap: str, make_topic: MakeTopic, database: str) -> Line:
    return Line(kafka_bootstrap, database, await make_topic(1, name="articles"))


@pytest.fixture
def publisher(line: Line, monkeypatch: pytest.MonkeyPatch) -> ArticlePublisher:
    monkeypatch.setenv("NEWSLOOM_KAFKA_RECEIPTS_TOPIC", f"{line.topic}.receipts")
    return ArticlePublisher(line.bootstrap, kafka_topic=line.topic)


async def test_the_outcome_comes_back_after_the_commit(
    line: Line, publisher: ArticlePublisher
) -> None:
    await create_topic(line.bootstrap, f"{line.topic}.receipts")
    await line.migrate()
    process = await line.start("ingest")
    try:
        async with publisher:
            await publisher.publish(HARBOUR | {"title": "Not asked"})
            async with asyncio.timeout(60):
                receipts = [
                    await publisher.publish(record, wait="stored")
                    for record in (HARBOUR, HARBOUR | {"heat": 7}, HARBOUR | {"title": "Opened"})
                ]
                many = await asyncio.gather(
                    *(publisher.publish(other(n), wait="stored") for n in range(200))
                )
            stored = await line.fetch("SELECT count(*) AS n FROM api.articles")
    finally:
        if process.returncode is None:
            process.terminate()
        done = await finish(process, 30)
    assert done.code == 0, done.told()
    assert [receipt.outcome for receipt in receipts] == ["revised", "refreshed", "revised"]
    assert [receipt.offset for receipt in receipts] == [1, 2, 3]
    assert {receipt.outcome for receipt in many} == {"created"}
    assert len({receipt.event_id for receipt in many}) == 200
    assert stored[0]["n"] == 201, "told before it was stored"


async def test_without_ingest_it_is_a_time_out_and_the_event_is_in_kafka(
    line: Line, publisher: ArticlePublisher
) -> None:
    await create_topic(line.bootstrap, f"{line.topic}.receipts")
    async with publisher:
        await send_raw(line.bootstrap, f"{line.topic}.receipts", [b"junk", None, b"{}"])
        with pytest.raises(NotConfirmed) as caught:
            await publisher.publish(HARBOUR, wait="stored", stored_timeout_seconds=0.5)
    assert isinstance(caught.value.receipt, Receipt)
    assert await line.log_end() == 1


async def test_without_their_kafka_topic_receipts_cannot_be_had_and_publishing_can(
    publisher: ArticlePublisher,
) -> None:
    async with publisher:
        with pytest.raises(Unavailable, match="kafka"):
            await publisher.publish(HARBOUR, wait="stored")
        assert (await publisher.publish(HARBOUR)).offset == 0


async def test_receipts_that_kafka_does_not_take_harm_nobody(
    line: Line, publisher: ArticlePublisher
) -> None:
    """Their topic goes away between the question and the answer."""
    asked = [("newsloom-receipt-to", b"somebody")]
    await line.migrate()
    async with publisher:
        event = publisher._event(HARBOUR, None)
        events = [event.__class__(event.key, event.value, [*event.headers, *asked], event.event_id)]
        await publisher._sink.send(line.topic, events)
    done = await line.ingest()
    assert (await line.outcomes())["created"] == 1
    assert "receipts lost" in done.err


def other(number: int) -> dict[str, str]:
    return {"title": f"Nr {number}", "originalUrl": f"https://tidewater.example/{number}"}
