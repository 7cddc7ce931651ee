"""Half a million stored articles in a few minutes, for `make explain`: COPY past the service.

Two years of news, evenly spread: articles, twice as many mentions, addresses, edges, revisions,
signals, copies, stories, a month of the change log. Words follow Zipf's law over 20,000 of them,
the commonest English ones first; a few that the cookbook asks for stand at ranks of their own. The
newsroom of the tests is stored on top by the real store and linker, so that its addresses exist.
"""

import asyncio
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from hashlib import sha256
from typing import Any, Final
from uuid import UUID

import asyncpg
import numpy as np
from pydantic import SecretStr

from newsloom.settings import PostgresSettings
from tests.support.newsroom import fill, link_all

DAYS: Final = 730
CHUNK: Final = 10_000
VOCABULARY: Final = 20_000
PROVIDERS: Final = 2_000
TOPICS: Final = 400
MENTIONS_AN_ARTICLE: Final = 2
COPY_SHARE, REVISED_SHARE, BODY_SHARE = 0.15, 0.05, 0.6
ARTICLES_A_STORY: Final = 4
_COMMON: Final = (
    "the", "of", "to", "and", "in", "a", "for", "that", "on", "with", "said", "was", "by", "is",
    "at", "from", "as", "has", "were", "it", "after", "had", "its", "an", "be",
)  # fmt: skip
# Rank: one article in so many has the word, roughly 20 for rank 300.
_ASKED: Final = {150: "mayor", 300: "harbour", 500: "bridge", 800: "collapses", 1200: "soot"}

_MONTH: Final = """
SELECT newsloom.ensure_partition(parent::regclass, date_trunc('month', $1::timestamptz, 'UTC'),
    date_trunc('month', $1::timestamptz, 'UTC') + interval '1 month',
    to_char($1::timestamptz AT TIME ZONE 'UTC', 'YYYYMM'))
FROM unnest(ARRAY['newsloom.article_revisions', 'newsloom.article_signals']) AS parent"""

HEADS: Final = (
    "articles",
    "article_id first_seen_at observed_at signals_at version revision article_key content_hash",
)
_CONTENT_COLUMNS: Final = (
    "article_id observed_at published_at is_mention canonical_url title excerpt body language "
    "provider_name provider_domain topics changed_fields is_removed"
)
CONTENTS: Final = ("article_contents", _CONTENT_COLUMNS)
URLS: Final = ("article_urls", "url_id article_id kind url canonical_url")
RELATED: Final = ("related_articles", "article_id related_article_id position")
REVISIONS: Final = (
    "article_revisions",
    "article_id recorded_at observed_at revision is_removed canonical_url title excerpt",
)
SIGNALS: Final = ("article_signals", "article_id recorded_at observed_at quality heat")
CHANGES: Final = ("changes", "article_id recorded_at observed_at version kind")
COPIES: Final = ("copies", "article_id copy_of jaccard containment algorithm_version")
STORIES: Final = (
    "stories",
    "story_id version first_published_at last_published_at article_count provider_count title",
)
MEMBERS: Final = ("story_articles", "article_id story_id score")

Rows = list[tuple[Any, ...]]
Table = tuple[tuple[str, str], Rows]


class Words:
    """Draws texts; the same seed draws the same."""

    def __init__(self, seed: int) -> None:
        """Make the vocabulary."""
        self.draws = np.random.default_rng(seed)
        syllables = [c + v for c in "bcdfghklmnprstvwz" for v in "aeiou"]
        picks = self.draws.integers(0, len(syllables), (VOCABULARY, 4))
        lengths = self.draws.integers(2, 5, VOCABULARY)
        made = [
            "".join(syllables[i] for i in row[:length])
            for row, length in zip(picks.tolist(), lengths.tolist(), strict=True)
        ]
        made[: len(_COMMON)] = _COMMON
        for rank, word in _ASKED.items():
            made[rank] = word
        self._words = np.array(made, dtype=object)

    def text(self, words: int) -> str:
        """Draw a text; rank r comes up about 1/r as often as the first."""
        ranks = (VOCABULARY ** self.draws.random(words)).astype(np.int64) - 1
        return " ".join(self._words[ranks])

    def zipf(self, count: int, below: int) -> np.ndarray[Any, np.dtype[np.int64]]:
        """Draw numbers below `below`, small ones more often."""
        return (below ** self.draws.random(count)).astype(np.int64) - 1


def article_uuid(number: int) -> UUID:
    """Give the id of a made article; mentions have numbers below zero."""
    return UUID(bytes=sha256(b"made %d" % number).digest()[:16])


async def load(
    dsn: str, articles: int, *, tell: Callable[[str], None], now: datetime | None = None
) -> None:
    """Fill a migrated, empty database and leave it analysed."""
    now = now or datetime.now(UTC).replace(second=0, microsecond=0)
    owner = await asyncpg.connect(dsn, command_timeout=3600)
    try:
        await owner.execute("SET synchronous_commit = off; SET maintenance_work_mem = '512MB'")
        await owner.execute(
            "SELECT newsloom.ensure_partitions($1, 30, 1)", now - timedelta(days=30)
        )
        for ago in range(DAYS // 30 + 1):
            await owner.execute(_MONTH, now - timedelta(days=30 * ago))
        indexes = await _drop_indexes(owner)
        words = Words(1)
        for low in range(0, articles, CHUNK):
            await _copy_chunk(owner, words, range(low, min(low + CHUNK, articles)), articles, now)
            if low % (10 * CHUNK) == 0:
                tell(f"{low:,} articles")
        for definition in indexes:
            await owner.execute(definition)
        tell("indexes made")
        await _skip_change_log(owner)
        await fill(dsn, now, link=False)
        await link_all(PostgresSettings(dsn=SecretStr(dsn)))
        await owner.execute("SELECT newsloom.refresh_providers()")
        await owner.execute("VACUUM (ANALYZE, PARALLEL 0)")
    finally:
        await owner.close()


async def _drop_indexes(owner: asyncpg.Connection) -> list[str]:
    """Drop what is quicker made afterwards; return the statements that make it."""
    rows = await owner.fetch(
        "SELECT i.indexrelid::regclass::text AS name, pg_get_indexdef(i.indexrelid) AS definition"
        " FROM pg_index i JOIN pg_class t ON t.oid = i.indrelid"
        " WHERE t.relnamespace = 'newsloom'::regnamespace AND NOT t.relispartition"
        " AND t.relkind = 'r' AND NOT i.indisprimary"
    )
    for row in rows:
        await owner.execute(f"DROP INDEX {row['name']}")
    return [row["definition"] for row in rows]


async def _copy_chunk(
    owner: asyncpg.Connection, words: Words, numbers: range, articles: int, now: datetime
) -> None:
    # Making the rows takes as long as storing them: one in a thread, the other in Postgres.
    tables = await asyncio.to_thread(lambda: dict(_rows(words, numbers, articles, now)))
    for (table, columns), rows in tables.items():
        await owner.copy_records_to_table(
            table, schema_name="newsloom", columns=columns.split(), records=rows
        )


def _rows(words: Words, numbers: range, articles: int, now: datetime) -> Iterator[Table]:
    draws, count = words.draws, len(numbers)
    step = timedelta(days=DAYS) / articles
    times = [now - step * (articles - number) for number in numbers]
    delays = draws.lognormal(6.5, 1.2, count).tolist()
    seen = [at + timedelta(seconds=delay) for at, delay in zip(times, delays, strict=True)]
    providers = words.zipf(count, PROVIDERS).tolist()
    ids = [article_uuid(number) for number in numbers]
    keys = [f"outlet{p}.example/{n}" for p, n in zip(providers, numbers, strict=True)]
    chance = draws.random((3, count))
    dated = chance[0] > 1 / 8
    revised = chance[1] < REVISED_SHARE

    heads: Rows = []
    contents: Rows = []
    for i, number in enumerate(numbers):
        mentions = [-(number * MENTIONS_AN_ARTICLE + m) - 1 for m in range(MENTIONS_AN_ARTICLE)]
        heads.append((ids[i], seen[i], seen[i], seen[i], 1 + revised[i], 1 + revised[i], keys[i]))
        contents.append(
            (ids[i], seen[i], times[i] if dated[i] else None, False, f"https://{keys[i]}",
             words.text(9), words.text(28), words.text(120) if chance[2][i] < BODY_SHARE else None,
             "de" if number % 10 == 0 else "en", f"Outlet {providers[i]}",
             f"outlet{providers[i]}.example",
             [f"Topic {t}" for t in set(words.zipf(2, TOPICS).tolist())],
             ["title"] if revised[i] else None),
        )  # fmt: skip
        for mention in mentions:
            one = article_uuid(mention)
            heads.append((one, seen[i], seen[i], seen[i], 1, 0, f"other.example/{-mention}"))
            contents.append(
                (one, seen[i], times[i], True, f"https://other.example/{-mention}", words.text(9),
                 None, None, "und", None, "other.example", None, None),
            )  # fmt: skip
    yield HEADS, [(*row, b"\0" * 32) for row in heads]
    yield CONTENTS, [(*row, False) for row in contents]
    yield URLS, [(row[0], row[0], "original", row[4], row[4]) for row in contents]
    yield (
        RELATED,
        [
            (ids[i], article_uuid(-(number * MENTIONS_AN_ARTICLE + m) - 1), m + 1)
            for i, number in enumerate(numbers)
            for m in range(MENTIONS_AN_ARTICLE)
        ],
    )
    yield from _history(list(zip(ids, seen, keys, revised.tolist(), strict=True)), words, now)
    yield from _links(ids, numbers, times, words)


def _history(
    made: list[tuple[UUID, datetime, str, bool]], words: Words, now: datetime
) -> Iterator[Table]:
    hour, month = timedelta(hours=1), now - timedelta(days=30)
    yield (
        REVISIONS,
        [
            (one, at, at - hour, 1, False, f"https://{key}", words.text(9), words.text(28))
            for one, at, key, is_revised in made
            if is_revised
        ],
    )
    yield SIGNALS, [(one, at, at, 50, 10) for one, at, _, _ in made]
    yield CHANGES, [(one, at, at, 1, "created") for one, at, _, _ in made if at > month]


def _links(ids: list[UUID], numbers: range, times: list[datetime], words: Words) -> Iterator[Table]:
    copies = set(np.flatnonzero(words.draws.random(len(ids)) < COPY_SHARE).tolist())
    yield (
        COPIES,
        [(ids[i], ids[i - 1], 0.8, 0.9, 1) for i in sorted(copies) if i and i - 1 not in copies],
    )
    yield (
        STORIES,
        [
            (
                article_uuid(n + 10**12),
                1,
                times[i],
                times[min(i + ARTICLES_A_STORY, len(ids)) - 1],
                ARTICLES_A_STORY,
                3,
                words.text(9),
            )
            for i, n in enumerate(numbers)
            if n % ARTICLES_A_STORY == 0
        ],
    )
    yield (
        MEMBERS,
        [
            (ids[i], article_uuid(n - n % ARTICLES_A_STORY + 10**12), 0.8)
            for i, n in enumerate(numbers)
        ],
    )


async def _skip_change_log(owner: asyncpg.Connection) -> None:
    """Let the linker begin after what was loaded: its links were loaded too."""
    await owner.execute(
        "INSERT INTO newsloom.cursors (reader, xid, change_id)"
        " SELECT 'link', pg_current_xact_id(), coalesce(max(change_id), 0) FROM newsloom.changes"
    )
