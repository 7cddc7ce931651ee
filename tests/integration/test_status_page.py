"""The status page in a real browser, over a real service: what a person sees, what cannot happen.

`NEWSLOOM_TEST_SCREENSHOTS=FOLDER` keeps what the browser saw, for people to look at.
"""

import asyncio
import json
import os
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path

import asyncpg
import pytest

from tests.support.blackbox import Line, finish, send_raw
from tests.support.browser import Page, browser
from tests.support.kafka import MakeTopic

HOSTILE = [
    "<script>window.owned = 1</script>",
    '"><img src=x onerror="window.owned = 2">',
    "</script><svg onload=window.owned=3>",
    "javascript:window.owned=4",
    "{{7*7}} ${window.owned=5} \u202egnirts",
]


@pytest.fixture
async def line(kafka_bootstrap: str, make_topic: MakeTopic, database: str) -> Line:
    return Line(kafka_bootstrap, database, await make_topic(1, name="articles"))


@asynccontextmanager
async def ingesting(line: Line) -> AsyncIterator[str]:
    """Run ingest; gives the address of its admin port."""
    process = await line.start("ingest")
    assert process.stderr is not None
    try:
        async with asyncio.timeout(30):
            while True:
                said = await process.stderr.readline()
                assert said, "ingest ended before its admin port was open"
                if b"admin port open" in said:
                    break
        yield f"http://127.0.0.1:{json.loads(said)['port']}"
    finally:
        process.terminate()
        await finish(process, 30)


def articles(titles: Sequence[str]) -> list[bytes]:
    return [
        json.dumps(
            {
                "title": title,
                "originalUrl": f"https://example.org/{number}",
                "publishedDateTime": f"2026-11-20T10:00:{number:02}Z",
                "provider": {"name": "The Example"},
                "topics": ["Energy"],
            }
        ).encode()
        for number, title in enumerate(titles)
    ]


async def make_hostile(line: Line, texts: Sequence[str]) -> None:
    """Put texts where ingest would not let them through: the page must not rely on that."""
    connection = await asyncpg.connect(line.dsn)
    try:
        for number, text in enumerate(texts):
            await connection.execute(
                "UPDATE newsloom.article_contents SET title = $1, provider_name = $1,"
                " topics = ARRAY[$1], canonical_url = $2 WHERE canonical_url LIKE $3",
                text,
                "javascript:window.owned=6",
                f"%/{number}",
            )
            await connection.execute("UPDATE newsloom.dead_letters SET detail = $1", text)
    finally:
        await connection.close()


async def keep(page: Page, name: str) -> None:
    if folder := os.environ.get("NEWSLOOM_TEST_SCREENSHOTS"):
        await page.screenshot(Path(folder) / f"status-{name}.png")


def count(selector: str) -> str:
    return f"document.querySelectorAll({json.dumps(selector)}).length"


async def test_a_person_sees_the_flow_and_the_news(line: Line, tmp_path: Path) -> None:
    titles = [f"Ferries <b>turn</b> electric, part {number}" for number in range(12)]
    async with ingesting(line) as address, browser(tmp_path) as page:
        await page.look(width=1280)
        await page.open(f"{address}/")
        await page.until("document.getElementById('state').textContent === 'ready'")
        await send_raw(line.bootstrap, line.topic, [*articles(titles), b"not JSON"])
        await page.until(f"{count('#articles tbody tr')} === 10")
        await page.until(f"{count('#letters tbody tr')} === 1")
        text = await page.evaluate("document.body.innerText")
        # The figures move by themselves, without a reload.
        await page.until("document.querySelector('#outcomes .tile b').textContent === '12'")
        await page.until(
            f"{count('#rates polygon')} === 6 && {count('#partitions tbody tr')} === 1"
        )
        assert "Ferries turn electric, part 11" in text
        assert "The Example" in text
        assert "parse.json" in text
        assert await page.evaluate("document.querySelector('#articles a').href") == (
            "https://example.org/11"
        )
        await keep(page, "light")
        await page.look(width=1280, dark=True)
        await keep(page, "dark")
        assert page.problems == []
        assert {url.removeprefix(address) for url in page.requested} == {"/", "/status.json"}


async def test_hostile_texts_show_as_text(line: Line, tmp_path: Path) -> None:
    async with ingesting(line) as address, browser(tmp_path) as page:
        await send_raw(line.bootstrap, line.topic, [*articles(["x"] * len(HOSTILE)), b"{}"])
        await line.reached(len(HOSTILE) + 1, 30)
        await make_hostile(line, HOSTILE)
        await page.look(width=1280)
        await page.open(f"{address}/")
        await page.until(f"{count('#articles tbody tr')} === {len(HOSTILE)}")
        await page.until(f"{count('#letters tbody tr')} === 1")
        shown = await page.evaluate(
            "[...document.querySelectorAll('#articles .title')].map((node) => node.textContent)"
        )
        assert sorted(shown) == sorted(HOSTILE)
        assert HOSTILE[-1] in await page.evaluate("document.getElementById('letters').textContent")
        assert await page.evaluate("typeof window.owned") == "undefined"
        inside = "main img, main script, main iframe, main [onload], main [onerror]"
        assert await page.evaluate(count(inside)) == 0
        assert await page.evaluate(count("#articles a")) == 0, "a javascript: URL is no link"
        await keep(page, "hostile")
        assert page.problems == []
        assert {url.removeprefix(address) for url in page.requested} == {"/", "/status.json"}


async def test_nothing_runs_that_the_policy_does_not_name(line: Line, tmp_path: Path) -> None:
    """The second wall: were a text to become markup after all, its script would not run."""
    async with ingesting(line) as address, browser(tmp_path) as page:
        await page.open(f"{address}/")
        await page.until("document.getElementById('state').textContent !== '…'")
        refused = await page.evaluate(
            "(() => { try { document.body.innerHTML = '<img src=x onerror=window.owned=1>';"
            " return false } catch (error) { return error instanceof TypeError } })()"
        )
        assert refused, "trusted types keep text from becoming markup"
        await page.evaluate(
            "(() => { const s = document.createElement('script');"
            " s.append('window.owned = 1'); document.body.append(s) })()"
        )
        assert await page.evaluate("typeof window.owned") == "undefined"
        await page.evaluate("void fetch('https://example.org/').catch(() => {})")
        await page.until("true")
        assert page.problems, "the browser has told of what it refused"


async def test_it_is_readable_on_a_phone_and_in_the_dark(line: Line, tmp_path: Path) -> None:
    long = "Extraordinarilylongwordwithoutanyspace" * 8
    async with ingesting(line) as address, browser(tmp_path) as page:
        await send_raw(line.bootstrap, line.topic, articles([long, "Short"]))
        await page.look(width=360)
        await page.open(f"{address}/")
        await page.until(f"{count('#articles tbody tr')} === 2")
        assert await page.evaluate("document.documentElement.scrollWidth") <= 360
        light = await page.evaluate("getComputedStyle(document.body).backgroundColor")
        await keep(page, "phone")
        await page.look(width=360, dark=True)
        dark = await page.evaluate("getComputedStyle(document.body).backgroundColor")
        assert light != dark


async def test_it_says_so_when_the_process_is_gone(line: Line, tmp_path: Path) -> None:
    async with browser(tmp_path) as page:
        async with ingesting(line) as address:
            await page.open(f"{address}/")
            await page.until("document.getElementById('state').textContent === 'ready'")
        await page.until("document.getElementById('state').textContent === 'no answer'")
        await page.until("document.getElementById('age').textContent.endsWith('old')")


async def test_each_section_says_so_when_postgres_cannot_be_read(
    line: Line, tmp_path: Path
) -> None:
    async with ingesting(line) as address, browser(tmp_path) as page:
        connection = await asyncpg.connect(line.dsn)
        await connection.execute("ALTER VIEW api.articles RENAME TO out_of_reach")
        await connection.close()
        await page.look(width=1280)
        await page.open(f"{address}/")
        for section in ("articles", "letters", "stories"):
            await page.until(
                f"document.getElementById('{section}').textContent"
                ".startsWith('Postgres cannot be read (42P01')"
            )
        await keep(page, "away")
