"""What must never come out, grow or be allowed: tried on the running service."""

import asyncio
import json
from collections.abc import Iterable
from pathlib import Path
from urllib.parse import urlsplit

import pytest

from tests.support.blackbox import Line, finish, producer, send_raw
from tests.support.kafka import MakeTopic
from tests.support.watching import PASSWORD, arguments_of, ingesting, login_role
from tests.support.watching import assert_no_canary as no_canary

TITLE, BODY, URL, SECURED, KEY, HEADER = (f"canary{number}x7f3q" for number in range(6))
CANARIES = (TITLE, BODY, URL, SECURED, KEY, HEADER, PASSWORD)
SHOWN_ON_THE_STATUS_PAGE = (TITLE, URL)
"""A person wants to read titles and follow them."""


@pytest.fixture
async def line(kafka_bootstrap: str, make_topic: MakeTopic, database: str) -> Line:
    return Line(kafka_bootstrap, database, await make_topic(1, name="articles"))


def assert_no_canary(text: str, canaries: Iterable[str] = CANARIES, *, where: str) -> None:
    no_canary(text, canaries, where=where)


def article(**changes: object) -> bytes:
    fields: dict[str, object] = {
        "title": f"Title {TITLE}",
        "excerpt": BODY,
        "body": f"Text {BODY}",
        "originalUrl": f"https://example.org/{URL}",
        "publishedDateTime": "2026-11-20T10:00:00Z",
        "provider": {"name": "The Example", "domain": "example.org"},
        "secured": f"{SECURED};{SECURED}",
        "featuredContent": f"<p>{BODY}</p>",
    }
    return json.dumps(fields | changes).encode()


BAD = [
    article(title=None),
    article(originalUrl=f"javascript:{URL}", webUrl=f"https://{URL}:badport/"),
    article(originalUrl="https://example.org/" + URL * 300),
    article(publishedDateTime=f"{BODY} is no date"),
    article(title={"text": TITLE}),
    article(title=f"{TITLE}\ud800".encode("utf-8", "surrogatepass").decode("utf-8", "replace")),
    article().replace(b'"title"', b'"\\ud800title"'),
    article()[:-5],
    b'{"a": ' * 200 + BODY.encode() + b"}" * 200,
    f'["{BODY}"]'.encode(),
    BODY.encode(),
    b"\xff\xfe" + BODY.encode(),
    f'{{"name": "{BODY}", "bio": "{BODY}", "twitter": "{BODY}"}}'.encode(),
    f'{{"title": "{TITLE}", "price": 1e999, "{BODY}": NaN}}'.encode(),
]
ODD = [
    article(originalUrl=f"https://example.org/{URL}/1", heat=BODY, quality=[BODY]),
    article(originalUrl=f"https://example.org/{URL}/2", images=[{"url": BODY, BODY: BODY}]),
    article(originalUrl=f"https://example.org/{URL}/3", **{BODY: BODY}, language=BODY),
    article(originalUrl=f"https://example.org/{URL}/4", title=f"{TITLE}\nCRITICAL {TITLE}\u2028x"),
    article(originalUrl=f"https://example.org/{URL}/5", related=[{"title": TITLE, "url": BODY}]),
]


async def test_articles_and_secrets_leave_no_trace_where_they_do_not_belong(line: Line) -> None:
    """As a least-privileged login, at DEBUG, through good, odd and bad records and an outage."""
    messages = [article(), *BAD, *ODD, article(excerpt=f"{BODY} again")]
    async with login_role(line.dsn, "newsloom_ingest") as dsn:
        extra = {"NEWSLOOM_POSTGRES_DSN": dsn, "NEWSLOOM_LOG_LEVEL": "DEBUG"}
        async with ingesting(line, **extra) as ingest:
            async with producer(line.bootstrap) as sender:
                for message in messages:
                    await sender.send_and_wait(
                        line.topic,
                        message,
                        key=KEY.encode(),
                        partition=0,
                        headers=[("ce_source", HEADER.encode()), ("traceparent", HEADER.encode())],
                    )
            await line.reached(len(messages), 40)
            # The links break under it; then it goes on.
            await line.fetch(
                "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE usename = $1",
                urlsplit(dsn).username,
            )
            await send_raw(line.bootstrap, line.topic, [article(excerpt=f"{BODY} a third time")])
            await line.reached(len(messages) + 1, 40)
            await ingest.get("/status.json")
            await asyncio.sleep(3)
            pages = {path: await ingest.get(path) for path in ("/", "/metrics", "/readyz")}
            news = await ingest.get("/status.json")
            arguments = arguments_of(ingest.process.pid)
    assert (await line.outcomes())["created"] >= 1, "a member of newsloom_ingest can run ingest"
    assert (await line.outcomes())["rejected"] >= len(BAD) - 2

    assert ingest.said.count(b"\n") > 5
    for said in ingest.said.decode().splitlines():
        assert isinstance(json.loads(said), dict), "each line is one JSON object"
    assert_no_canary(ingest.said.decode(), where="the log")
    assert_no_canary(arguments, where="the process arguments")
    for path, text in pages.items():
        assert_no_canary(text, where=path)
    assert TITLE in news, "the status page has read the article"
    hidden = [canary for canary in CANARIES if canary not in SHOWN_ON_THE_STATUS_PAGE]
    assert_no_canary(news, hidden, where="/status.json")
    letters = await line.fetch("SELECT reason || ' ' || detail AS said FROM newsloom.dead_letters")
    assert letters
    assert_no_canary(" ".join(row["said"] for row in letters), where="dead-letter details")


@pytest.fixture
def hostile_files(tmp_path: Path) -> list[Path]:
    for number, message in enumerate([*BAD, *ODD]):
        (tmp_path / f"{number}.ndjson").write_bytes(message + b"\n")
    hostile = f"---\ntitle: [{BODY}\nsecured: &a {SECURED}\n---\n{BODY}"
    (tmp_path / "bad.md").write_text(hostile)
    return sorted(tmp_path.iterdir())


async def test_publish_says_nothing_of_what_it_refuses_but_why(
    line: Line, hostile_files: list[Path], tmp_path: Path
) -> None:
    report = tmp_path / "report.jsonl"
    extra = {"NEWSLOOM_LOG_LEVEL": "DEBUG"}
    done = await line.run("publish", *hostile_files, "--report", report, extra=extra)
    assert done.code == 1, done.told()
    assert_no_canary(done.out + done.err, where="publish's output")
    assert_no_canary(report.read_text(), where="publish's report")


async def test_a_reader_cannot_ingest_and_the_refusal_is_short(line: Line) -> None:
    await send_raw(line.bootstrap, line.topic, [article()])
    async with login_role(line.dsn, "newsloom_reader") as dsn:
        process = await line.start("ingest", extra={"NEWSLOOM_POSTGRES_DSN": dsn})
        done = await finish(process, 60)
    assert done.code == 3, done.told()
    assert_no_canary(done.out + done.err, where="the refusal")
    assert await line.fetch("SELECT 1 FROM newsloom.articles") == []


def series(exposition: str) -> set[str]:
    return {said.rpartition(" ")[0] for said in exposition.splitlines() if not said.startswith("#")}


async def test_no_publisher_can_make_series_grow(line: Line) -> None:
    """Ten thousand sources, languages, fields and reasons: the same series as one."""

    def hostile(number: int) -> bytes:
        name = f"hostile{number}"
        return json.dumps(
            {
                "title": f"Title {number}",
                "originalUrl": f"https://{name}.example/{number}",
                "provider": {"name": name, "domain": f"{name}.example", "images": [{name: name}]},
                "language": name,
                "category": name,
                "type": name,
                "topics": [name],
                name: name,
                "images": [{"url": name, name: name}],
                "heat": name,
            }
        ).encode()

    async with ingesting(line) as ingest:
        await send_raw(line.bootstrap, line.topic, [hostile(0), b"junk", b"{}"])
        await line.reached(3, 40)
        await asyncio.sleep(1.5)
        before = series(await ingest.get("/metrics"))
        await send_raw(line.bootstrap, line.topic, [hostile(n) for n in range(1, 10_001)])
        await line.reached(10_003, 50)
        after_text = await ingest.get("/metrics")
    assert series(after_text) == before
    assert "hostile" not in after_text
    assert len(before) < 700
