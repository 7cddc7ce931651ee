"""Functions of `api` about one article or story, and the providers."""

from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from uuid import UUID, uuid4

import asyncpg
import pytest

from newsloom.core.identity import article_id, canonicalise
from tests.support.newsroom import reading

BRIDGE = article_id("dailypost.example/bridge")
STORM, MOBILE_STORM = article_id("dailypost.example/storm"), article_id("dailypost.example/m/storm")
BOTH = "Mayor [-denies-] {+admits+} blame for harbour bridge [-collapse-] {+collapse, resigns+}"
MENTION = article_id("uni.example/cables")


@pytest.fixture
async def owner(database: str) -> AsyncIterator[asyncpg.Connection]:
    connection = await asyncpg.connect(database)
    yield connection
    await connection.close()


async def test_every_parameter_but_ids_and_query_has_a_default(reader: asyncpg.Connection) -> None:
    rows = await reader.fetch(
        "SELECT p.proname, p.pronargs - p.pronargdefaults AS needed, p.provolatile, p.prosecdef,"
        " p.proconfig, obj_description(p.oid, 'pg_proc') AS comment FROM pg_proc p"
        " WHERE p.pronamespace = 'api'::regnamespace"
    )
    assert {row["proname"]: row["needed"] for row in rows} == {
        "search": 1, "story": 1, "changed_since": 0, "changes_cursor": 0, "article_at": 1,
        "diff": 1, "why": 2, "current_id": 1, "current_story_id": 1, "counted_providers": 0,
        "provider_silence_counted": 0,
        "article_of_url": 1, "provider_hours": 0,
    }  # fmt: skip
    for row in rows:
        assert row["provolatile"] == b"s", f"{row['proname']} may change something"
        assert "search_path=pg_catalog, pg_temp" in row["proconfig"], row["proname"]
        if row["prosecdef"] and row["proname"] != "current_id":
            assert "SECURITY DEFINER: " in row["comment"], "say why it runs as the owner"


# Addresses


@pytest.mark.parametrize(
    ("url", "key"),
    [
        ("https://dailypost.example/bridge", "dailypost.example/bridge"),
        ("http://www.DailyPost.example/bridge/?utm_source=x&utm_medium=y#top",
            "dailypost.example/bridge"),
        (" dailypost.example/m/storm?fbclid=1 ", "dailypost.example/storm"),
        ("//kystwire.example/noordlijn/amp/", "kystwire.example/noordlijn"),
        ("https://dailypost.example/Bridge", None),
        ("https://dailypost.example/bridge?page=2", None),
        ("https://", None),
        ("", None),
        (None, None),
        ("x" * 1_000_000, None),
    ],
)  # fmt: skip
async def test_an_article_is_found_by_any_of_its_addresses(
    reader: asyncpg.Connection, url: str | None, key: str | None
) -> None:
    found = await reader.fetchval("SELECT api.article_of_url($1)", url)
    assert found == (None if key is None else article_id(key))


@pytest.mark.parametrize(
    "url",
    ["https://a.example/x?b=2&a=1", "https://a.example/?q=1", "https://a.example:8443/é/%C3%A9",
        "https://www.a.example/",
        "https://a.example/x/?q=1/", "https://a.example/x?utm_source=1&b=2&fbclid=3"],
)  # fmt: skip
async def test_its_keys_of_canonical_addresses_are_those_of_ingest(
    owner: asyncpg.Connection, url: str
) -> None:
    canonical = canonicalise(url)
    assert canonical is not None
    await owner.execute(
        "INSERT INTO newsloom.articles (article_id, first_seen_at, observed_at, signals_at,"
        " version, revision, article_key, content_hash)"
        " VALUES ($1, now(), now(), now(), 1, 1, 'k', '')",
        article_id(canonical.key),
    )
    await owner.execute(
        "INSERT INTO newsloom.article_urls VALUES ($1, $1, 'original', $2, $3)",
        article_id(canonical.key),
        url,
        canonical.url,
    )
    bare = canonical.url.removeprefix("https://").removeprefix("www.")
    for asked in (canonical.url, f"http://www.{bare}", bare):
        found = await owner.fetchval("SELECT api.article_of_url($1)", asked)
        assert found == article_id(canonical.key)


# Stories


async def test_a_story_is_a_timeline(reader: asyncpg.Connection) -> None:
    story = await reader.fetchval("SELECT story_id FROM api.articles WHERE article_id = $1", BRIDGE)
    rows = await reader.fetch("SELECT * FROM api.story($1)", story)
    assert [(row["provider_name"], row["after_first"]) for row in rows] == [
        ("Kystwire", timedelta(0)),
        ("Metro Herald", timedelta(hours=1)),
        ("The Daily Post", timedelta(hours=6)),
    ]
    assert [row["copy_of"] for row in rows] == [None, rows[0]["article_id"], None]
    assert {row["story_id"] for row in rows} == {story}


async def test_there_is_no_timeline_of_what_is_no_story(reader: asyncpg.Connection) -> None:
    assert await reader.fetch("SELECT * FROM api.story($1)", uuid4()) == []


# The past


@pytest.mark.parametrize(
    ("hours_ago", "title"),
    [
        (43.95, None),
        (43.85, "Mayor denies blame for harbour bridge collapse"),
        (40, "Mayor admits blame for harbour bridge collapse"),
        (35.01, "Mayor admits blame for harbour bridge collapse"),
        (0, "Mayor admits blame for harbour bridge collapse, resigns"),
    ],
)
async def test_an_article_reads_as_it_did_then(
    reader: asyncpg.Connection, newsroom_now: datetime, hours_ago: float, title: str | None
) -> None:
    at = newsroom_now - timedelta(hours=hours_ago)
    found = await reader.fetchval("SELECT title FROM api.article_at($1, $2)", BRIDGE, at)
    assert found == title


async def test_by_default_an_article_reads_as_now(reader: asyncpg.Connection) -> None:
    (row,) = await reader.fetch("SELECT * FROM api.article_at($1)", BRIDGE)
    assert row["is_current"]
    assert row["revision"] == 3


# Differences


async def differences(
    connection: asyncpg.Connection, *arguments: UUID | int | None
) -> dict[str, str]:
    places = ", ".join(f"${number + 1}" for number in range(len(arguments)))
    rows = await connection.fetch(
        f"SELECT field, change FROM api.diff({places})",  # noqa: S608 - numbers
        *arguments,
    )
    return {row["field"]: row["change"] for row in rows}


@pytest.mark.parametrize(
    ("revisions", "change"),
    [
        ((), "Mayor admits blame for harbour bridge [-collapse-] {+collapse, resigns+}"),
        ((2,), "Mayor admits blame for harbour bridge [-collapse-] {+collapse, resigns+}"),
        ((1, 2), "Mayor [-denies-] {+admits+} blame for harbour bridge collapse"),
        ((2, 1), "Mayor [-admits-] {+denies+} blame for harbour bridge collapse"),
        ((None, 2), "Mayor [-denies-] {+admits+} blame for harbour bridge collapse"),
        ((1, 3), BOTH),
    ],
)  # fmt: skip
async def test_a_difference_shows_what_was_taken_out_and_put_in(
    reader: asyncpg.Connection, revisions: tuple[int | None, ...], change: str
) -> None:
    assert await differences(reader, BRIDGE, *revisions) == {"title": change}


async def test_what_is_no_text_is_shown_before_and_after(reader: asyncpg.Connection) -> None:
    removed = article_id("metroherald.example/oops")
    (row,) = await reader.fetch("SELECT * FROM api.diff($1)", removed)
    assert tuple(row) == ("is_removed", "false", "true", None)


async def test_one_revision_alone_differs_from_nothing(reader: asyncpg.Connection) -> None:
    assert await differences(reader, article_id("kystwire.example/bridge")) == {}
    assert await differences(reader, BRIDGE, 3, 3) == {}
    assert await differences(reader, MENTION) == {}
    assert await differences(reader, uuid4()) == {}


async def test_a_revision_that_is_not_kept_is_an_error_and_no_difference(
    reader: asyncpg.Connection,
) -> None:
    for revisions in ((1, 9), (0, 1), (-1,)):
        with pytest.raises(asyncpg.NoDataFoundError):
            await differences(reader, BRIDGE, *revisions)


@pytest.mark.parametrize(
    ("old", "new", "change"),
    [
        ("a b c", "a b c", "a b c"),
        ("a b c", "a x c", "a [-b-] {+x+} c"),
        ("a b", "a b c", "a b {+c+}"),
        ("a b", "b", "[-a-] b"),
        ("a a a", "a a", "a a [-a-]"),
        (None, "a", "{+a+}"),
        ("a", None, "[-a-]"),
        ("one two three four five six", "one 2 three four 5 six",
            "one [-two-] {+2+} three four [-five-] {+5+} six"),
        ("k " * 20 + "a" + " z" * 20, "k " * 20 + "b" + " z" * 20,
            "... k k k k k k k k [-a-] {+b+} z z z z z z z z ..."),
    ],
)  # fmt: skip
async def test_words_that_stay_are_outside_the_marks(
    owner: asyncpg.Connection, old: str | None, new: str | None, change: str
) -> None:
    assert await owner.fetchval("SELECT newsloom.changed_words($1, $2)", old, new) == change


async def test_long_texts_are_compared_in_no_time(owner: asyncpg.Connection) -> None:
    old = " ".join(f"a{number}" for number in range(20_000))
    new = " ".join(f"b{number}" for number in range(20_000))
    change = await owner.fetchval("SELECT newsloom.changed_words($1, $2)", old, new, timeout=5)
    assert change.startswith("[-a0 a1 ")


# Merged articles


async def test_the_id_of_a_merged_article_is_as_good_as_the_other(
    reader: asyncpg.Connection,
) -> None:
    ids = {await reader.fetchval("SELECT api.current_id($1)", one) for one in (STORM, MOBILE_STORM)}
    assert len(ids) == 1
    for query in (
        "SELECT revision, title FROM api.article_at($1)",
        "SELECT field, change FROM api.diff($1)",
        "SELECT answer FROM api.why($1, $1)",
    ):
        one, two = [await reader.fetch(query, article) for article in (STORM, MOBILE_STORM)]
        assert one == two, query
    (row,) = await reader.fetch("SELECT * FROM api.why($1, $2)", STORM, MOBILE_STORM)
    assert row["reason"] == "same-article"


async def test_the_id_of_a_merged_story_gives_the_other(database: str) -> None:
    gone, kept, member = uuid4(), uuid4(), uuid4()
    owner = await asyncpg.connect(database)
    await owner.execute(
        "INSERT INTO newsloom.stories (story_id, version, article_count, provider_count,"
        " merged_into, title) VALUES ($1, 2, 0, 0, $2, ''), ($2, 2, 1, 1, NULL, 'A')",
        gone,
        kept,
    )
    await owner.execute(
        "INSERT INTO newsloom.articles (article_id, first_seen_at, observed_at, signals_at,"
        " version, revision, article_key, content_hash)"
        " VALUES ($1, now(), now(), now(), 1, 1, 'k', '')",
        member,
    )
    await owner.execute(
        "INSERT INTO newsloom.article_contents (article_id, observed_at, is_mention, is_removed,"
        " canonical_url, title) VALUES ($1, now(), false, false, 'https://k', 'A')",
        member,
    )
    await owner.execute("INSERT INTO newsloom.story_articles VALUES ($1, $2, 1)", member, kept)
    await owner.close()
    async with reading(database) as connection:
        for story in (gone, kept):
            (row,) = await connection.fetch("SELECT * FROM api.story($1)", story)
            assert (row["story_id"], row["article_id"]) == (kept, member)


# Providers


PROVIDERS = "SELECT provider_domain, name, article_count FROM api.providers ORDER BY 1"
ADD = """
INSERT INTO newsloom.article_contents (article_id, observed_at, is_mention, is_removed,
    canonical_url, title, provider_domain, provider_name)
SELECT gen_random_uuid(), now() - n * interval '1 hour', n > $3, false, 'https://k', 'A', $1,
    $2 || ' ' || n
FROM generate_series(1, $3 + 1) AS n"""


async def test_providers_are_counted_when_asked_unless_they_were_lately(
    owner: asyncpg.Connection, database: str
) -> None:
    await owner.execute(ADD, "a.example", "A", 3)
    await owner.execute(ADD, "b.example", "B", 1)
    async with reading(database) as connection:
        counted = [("a.example", "A 1", 3), ("b.example", "B 1", 1)]
        assert [tuple(row) for row in await connection.fetch(PROVIDERS)] == counted
        assert await owner.fetchval("SELECT newsloom.refresh_providers()") == 2
        await owner.execute(ADD, "c.example", "C", 2)
        await owner.execute(
            "DELETE FROM newsloom.article_contents WHERE provider_domain = 'b.example'"
        )
        assert [tuple(row) for row in await connection.fetch(PROVIDERS)] == counted
        now = [("a.example", "A 1", 3), ("c.example", "C 1", 2)]
        # Nobody refreshes them any more.
        await owner.execute("UPDATE newsloom.provider_totals SET counted_at = '2020-01-01'")
        assert [tuple(row) for row in await connection.fetch(PROVIDERS)] == now
        await owner.execute("SELECT newsloom.refresh_providers()")
        assert [tuple(row) for row in await connection.fetch(PROVIDERS)] == now
        assert await owner.fetchval("SELECT count(*) FROM newsloom.provider_totals") == 2


HOURLY = """
INSERT INTO newsloom.article_contents (article_id, observed_at, is_mention, is_removed,
    canonical_url, title, excerpt, body, lead_image_url, published_at, provider_domain,
    provider_name)
SELECT gen_random_uuid(), $2::timestamptz + n * interval '10 minutes', false, false, 'https://k',
    'A', CASE WHEN n % 2 = 0 THEN 'words' ELSE '' END, CASE WHEN n = 0 THEN 'words' END,
    CASE WHEN n < 3 THEN 'https://i' END, CASE WHEN n <> 5 THEN now() END, $1, 'Name of ' || $1
FROM generate_series(0, 8) AS n"""


async def test_a_provider_s_hours_tell_what_came_and_what_it_lacked(
    owner: asyncpg.Connection, database: str
) -> None:
    start = datetime(2026, 3, 1, 8, tzinfo=UTC)
    await owner.execute(HOURLY, "a.example", start)
    await owner.execute(HOURLY, None, start + timedelta(hours=1))
    await owner.execute(
        "UPDATE newsloom.article_contents SET is_mention = true WHERE observed_at = $1"
        " AND provider_domain = 'a.example'",
        start,
    )
    (first,) = await owner.fetch(
        "SELECT article_id FROM newsloom.article_contents WHERE observed_at = $1",
        start + timedelta(minutes=10),
    )
    await owner.execute(
        "INSERT INTO newsloom.copies (article_id, copy_of, jaccard, containment, algorithm_version)"
        " VALUES ($1, gen_random_uuid(), 1, 1, 1)",
        first["article_id"],
    )
    async with reading(database) as connection:
        rows = await connection.fetch(
            "SELECT * FROM api.provider_hours($1, $2) ORDER BY hour, provider_domain",
            start,
            start + timedelta(hours=2),
        )
        (row,) = await connection.fetch("SELECT count(*) FROM api.provider_hours()")
    hour, name = timedelta(hours=1), "Name of a.example"
    assert [tuple(row) for row in rows] == [
        (start, "a.example", name, 5, 1, 1, 3, 5, 3),
        (start + hour, "a.example", name, 3, 0, 0, 1, 3, 3),
        (start + hour, None, None, 6, 0, 1, 3, 5, 3),
    ]
    assert row["count"] == 0, "nothing came within the last day"


async def test_a_provider_s_hours_are_found_by_the_index(owner: asyncpg.Connection) -> None:
    await owner.execute(ADD, "a.example", "A", 5000)
    await owner.execute("ANALYZE newsloom.article_contents")
    query: str = await owner.fetchval(
        "SELECT prosrc FROM pg_proc WHERE oid = 'api.provider_hours'::regproc"
    )
    query = query.replace("since", "now() - interval '1 hour'").replace("until", "now()")
    plan = await owner.fetch(f"EXPLAIN {query}")
    assert "article_contents_observed_idx" in "\n".join(row[0] for row in plan)
