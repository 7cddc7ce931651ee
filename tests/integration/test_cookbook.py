"""Every query of the cookbook, run as a reader on the newsroom, gives the expected answer."""

import asyncio
import os
import re
import sys
from collections.abc import Callable
from datetime import datetime, timedelta
from decimal import Decimal
from pathlib import Path
from typing import Any

import asyncpg
import pytest

from newsloom.core.identity import article_id
from tests.support.blackbox import finish

COOKBOOK = (Path(__file__).parents[2] / "docs" / "cookbook.md").read_text(encoding="utf-8")
QUESTIONS = {
    int(number): (question, sql)
    for number, question, sql in re.findall(
        r"^### (\d+)\. (.*?)$.*?^```sql\n(.*?)^```$", COOKBOOK, re.MULTILINE | re.DOTALL
    )
}

Rows = list[tuple[Any, ...]]
BRIDGE = article_id("dailypost.example/bridge")
COLLAPSES = "Harbour bridge in Marenfjord collapses"
BOTH = "Mayor [-denies-] {+admits+} blame for harbour bridge [-collapse-] {+collapse, resigns+}"
RESIGNS = "Mayor admits blame for harbour bridge collapse, resigns"


def ago(now: datetime, hours: float) -> datetime:
    return now - timedelta(hours=hours)


# Of each row as many columns as are named: what follows (a moment, a sentence) may vary.
EXPECTED: dict[int, Callable[[datetime], Rows]] = {
    1: lambda now: [
        (ago(now, 10), "The Daily Post", "Storm closes the tunnel", "https://dailypost.example/storm"),
        (ago(now, 12), "The Daily Post", "AT&T &", "https://dailypost.example/markup"),
    ],
    2: lambda now: [
        (ago(now, 50), "Kystwire", COLLAPSES, 1, "words"),
        (ago(now, 44), "The Daily Post", RESIGNS, 0, "words"),
    ],
    3: lambda _: [
        (timedelta(0), "Kystwire", COLLAPSES, False),
        (timedelta(hours=1), "Metro Herald", "Marenfjord harbour bridge collapses", True),
        (timedelta(hours=6), "The Daily Post", RESIGNS, False),
    ],
    4: lambda now: [(ago(now, 50), 3, 2, 3)],
    5: lambda now: [
        (COLLAPSES, 3, 3, ago(now, 50), ago(now, 44)),
    ],
    6: lambda _: [("kystwire.example", 2, timedelta(hours=1.5))],
    7: lambda now: [(ago(now, 35), "The Daily Post", 3, RESIGNS, BRIDGE)],
    8: lambda _: [("title", BOTH)],
    9: lambda now: [(2, ago(now, 40), "Mayor admits blame for harbour bridge collapse")],
    10: lambda now: [
        (ago(now, 16), "Metro Herald", "Mayor Solberg arrested", "https://metroherald.example/oops"),
    ],
    11: lambda _: [
        ("kystwire.example", "metroherald.example", 2, timedelta(hours=1.5), Decimal("0.96")),
        ("kystwire.example", "dailypost.example", 1, timedelta(hours=5), Decimal("0.95")),
    ],
    12: lambda _: [
        ("metroherald.example", 3, 33),
        ("dailypost.example", 8, 88),
        ("eldiario.example", 1, 100),
        ("kystwire.example", 2, 100),
        ("quietgazette.example", 2, 100),
    ],
    13: lambda _: [
        ("Bridges", 4, 0),
        ("Shipping", 3, Decimal("0.75")),
        ("Politics", 1, 0),
        ("Weather", 1, 0),
    ],
    14: lambda now: [("quietgazette.example", "The Quiet Gazette", 2, ago(now, 24 * 11 - 0.1))],
    15: lambda _: [
        ("dailypost.example", 3, timedelta(minutes=6), timedelta(minutes=6)),
        ("eldiario.example", 1, timedelta(minutes=6), timedelta(minutes=6)),
        ("kystwire.example", 1, timedelta(minutes=6), timedelta(minutes=6)),
        ("metroherald.example", 2, timedelta(minutes=6), timedelta(minutes=6)),
    ],
    16: lambda now: [
        (ago(now, 49.9), 10, None, False),
        (ago(now, 38), 90, None, True),
    ],
    17: lambda _: [("Rust in the cables", "https://uni.example/cables", 1)],
    19: lambda _: [
        ("same article", False, "other-article"),
        ("copy", True, "b-copies-a"),
        ("same story", True, "same-story"),
    ],
    20: lambda _: [
        ("amp", "https://kystwire.example/noordlijn/amp", "https://kystwire.example/noordlijn/amp"),
        ("original", "https://kystwire.example/noordlijn", "https://kystwire.example/noordlijn"),
    ],
    21: lambda _: [("parse.json", 1, "byte 17")],
    22: lambda _: [("newsloom.articles.v1", 25, 19, 4, 1, 0, 0, 1, False)],
}  # fmt: skip


def test_there_are_at_least_twenty_questions_and_an_answer_to_each() -> None:
    assert list(QUESTIONS) == list(range(1, len(QUESTIONS) + 1))
    assert len(QUESTIONS) >= 20
    assert COOKBOOK.count("```sql") == len(QUESTIONS)
    assert set(QUESTIONS) - set(EXPECTED) == {18}  # its answer is checked below


@pytest.mark.parametrize("number", EXPECTED)
async def test_the_answer_is(
    reader: asyncpg.Connection, newsroom_now: datetime, number: int
) -> None:
    question, sql = QUESTIONS[number]
    expected = EXPECTED[number](newsroom_now)
    rows = await reader.fetch(sql)
    width = len(expected[0])
    assert [tuple(row)[:width] for row in rows] == expected, question


async def test_changes_can_be_followed(reader: asyncpg.Connection) -> None:
    _, sql = QUESTIONS[18]
    rows = await reader.fetch(sql)
    assert rows[0]["kind"] == "created"
    go_on = sql.replace("NULL", "$1")
    assert go_on != sql
    assert await reader.fetch(go_on, rows[-1]["cursor"]) == []
    assert await reader.fetch(go_on, rows[0]["cursor"]) == rows[1:]


async def test_the_python_example_runs(newsroom_database: str, tmp_path: Path) -> None:
    (script,) = re.findall(r"^```python\n(.*?)^```$", COOKBOOK, re.MULTILINE | re.DOTALL)
    (tmp_path / "example.py").write_text(script)
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        "example.py",
        cwd=tmp_path,
        env={**os.environ, "NEWSLOOM_POSTGRES_DSN": newsroom_database},
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
        start_new_session=True,
    )
    done = await finish(process, 30)
    assert done.code == 0, done.told()
    assert COLLAPSES in done.out
    assert re.search(r"dailypost\.example +\S \d+ +\S \d\.\d+", done.out)
    assert f"The Daily Post: {RESIGNS}" in done.out


async def test_none_of_the_queries_needs_more_than_a_reader_may(
    reader: asyncpg.Connection,
) -> None:
    (row,) = await reader.fetch("SELECT current_user, current_setting('transaction_read_only')")
    assert tuple(row) == ("newsloom_reader", "on")
    for _, sql in QUESTIONS.values():
        assert "newsloom." not in sql


async def test_the_web_role_sees_what_the_page_on_postgrest_names_and_nothing_else(
    newsroom_database: str,
) -> None:
    page = (Path(__file__).parents[2] / "docs" / "postgrest.md").read_text(encoding="utf-8")
    (setup,) = re.findall(r"^```sql\n(.*?)^```$", page, re.MULTILINE | re.DOTALL)
    owner = await asyncpg.connect(newsroom_database)
    transaction = owner.transaction()
    await transaction.start()
    try:
        await owner.execute(setup)
        await owner.execute("SET LOCAL ROLE newsloom_http; SET LOCAL ROLE newsloom_web")
        assert await owner.fetch("SELECT * FROM api.search('bridge')")
        assert await owner.fetch("SELECT * FROM api.providers")
        assert await owner.fetch("SELECT * FROM api.changed_since()")
        for view in ("api.dead_letters", "api.ingest_progress", "newsloom.articles"):
            point = owner.transaction()
            await point.start()
            with pytest.raises(asyncpg.InsufficientPrivilegeError):
                await owner.execute(f"SELECT * FROM {view}")  # noqa: S608 - listed above
            await point.rollback()
    finally:
        await transaction.rollback()
        await owner.close()
