"""Articles for `make bench-linker`, what the linker has stored of the older ones, and their rows.

Texts come from the generator of `newsloom generate`: words by Zipf's law over a million of them,
names of its own for each event, so that a window of any size has distinct vocabulary. Copies and
stories arrive among thousands of other articles. The older part of a window is stored as the linker
would have left it, by the generator's truth: filling a large window takes minutes, not an hour.
"""

import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from enum import StrEnum
from hashlib import sha256
from itertools import islice, repeat
from random import Random
from typing import Any, Final
from uuid import UUID

import asyncpg

from newsloom.core.copies import DEFAULT_COPY_CONFIG, explain_copy
from newsloom.core.copy_groups import CopyEdge
from newsloom.core.copy_index import CopyInput
from newsloom.core.folding import fold
from newsloom.core.generate import GenerateConfig, Generated, Generator
from newsloom.core.linking import ALGORITHM_VERSION, LinkState
from newsloom.core.signatures import signature
from newsloom.core.text_features import features

START: Final = datetime(2026, 3, 1, tzinfo=UTC)
SPAN: Final = timedelta(days=6)
"""In which all articles of a bench were first seen: less than the linker's window."""

_VOCABULARY: Final = 1_000_000
_SPREAD: Final = 2_000
"""Mean number of articles by which a copy or another article of an event comes later."""


Rows = list[tuple[Any, ...]]


class Text(StrEnum):
    """What the articles are like. A closed set.

    excerpt: 40 to 60 words. body: 60 to 300. boilerplate: 40 to 60 and the same sixty below each.
    apart: 40 to 60 and sixty of its own below each, to compare that with.
    """

    EXCERPT = "excerpt"
    BODY = "body"
    BOILERPLATE = "boilerplate"
    APART = "apart"


_CONFIGS: Final = {
    Text.EXCERPT: GenerateConfig(
        vocabulary=_VOCABULARY, words=(40, 60), duplicates=0.0, revisions=0.0, traps=0.02
    ),
    Text.BODY: GenerateConfig(
        vocabulary=_VOCABULARY, words=(60, 300), duplicates=0.0, revisions=0.0, traps=0.02
    ),
}
_CONFIGS[Text.BOILERPLATE] = _CONFIGS[Text.APART] = _CONFIGS[Text.EXCERPT]


@dataclass(frozen=True, slots=True)
class MadeArticle:
    """One article with its truth: the text that it repeats and the event that it tells."""

    article_id: UUID
    title: str
    body: str
    first_seen_at: datetime
    published_at: datetime
    copy_group: int
    event: int


def articles(text: Text, count: int, seed: int = 1) -> list[MadeArticle]:
    """Make articles in the order in which they were first seen. Equal arguments, equal articles."""
    rng = Random(f"{text}-{seed}")
    made = Generator(rng, _CONFIGS[text]).records(count)
    arrivals = sorted(
        ((number + rng.expovariate(1 / _SPREAD), number, one) for number, one in enumerate(made)),
        key=lambda arrival: arrival[:2],
    )
    notices = _notices(text, rng)
    return [
        _article(one, number, START + place * SPAN / count, rng, next(notices))
        for place, (_, number, one) in enumerate(arrivals)
    ]


def _article(
    made: Generated, number: int, first_seen_at: datetime, rng: Random, notice: str
) -> MadeArticle:
    return MadeArticle(
        UUID(bytes=sha256(b"bench %d" % number).digest()[:16]),
        made.record["title"],
        made.record["body"] + notice,
        first_seen_at,
        first_seen_at - timedelta(minutes=rng.expovariate(1 / 60)),
        made.copy_group,
        made.event,
    )


def _notices(text: Text, rng: Random) -> Iterator[str]:
    """Yield for each article the paragraph below it."""
    if text not in (Text.BOILERPLATE, Text.APART):
        yield from repeat("")
    generator = Generator(rng, replace(_CONFIGS[text], words=(60, 60), copies=0.0, traps=0.0))
    paragraphs = (f" {made.record['body']}" for made in generator.records(sys.maxsize))
    yield from repeat(next(paragraphs)) if text is Text.BOILERPLATE else paragraphs


def states(made: Sequence[MadeArticle]) -> Iterator[LinkState]:
    """Yield what the linker would have stored of articles, in their order, going by the truth."""
    roots: dict[int, LinkState] = {}
    events: dict[int, MadeArticle] = {}
    sizes: dict[int, int] = {}
    for article in made:
        sizes[article.event] = sizes.get(article.event, 0) + 1
    for number, article in enumerate(made, 1):
        own = _state(article, number)
        first = events.setdefault(article.event, article)
        if sizes[article.event] > 1:
            own = replace(own, story_id=UUID(int=first.article_id.int ^ 1))
        root = roots.setdefault(article.copy_group, own)
        yield own if root is own else _copy_of(own, root)


def _state(article: MadeArticle, sequence: int) -> LinkState:
    return LinkState(
        article_id=article.article_id,
        sequence=sequence,
        version=1,
        first_seen_at=article.first_seen_at,
        published_at=article.published_at,
        is_counted=True,
        related=frozenset(),
        edges=(),
        signature=signature(fold(article.title, None, article.body)),
        features=features(article.title, None, article.body),
    )


def _copy_of(own: LinkState, root: LinkState) -> LinkState:
    verdict = explain_copy(own.signature, root.signature)
    if not verdict.is_copy:
        return own
    edge = CopyEdge(own.article_id, root.article_id, verdict.jaccard, verdict.containment)
    key = CopyInput(root.article_id, root.signature, root.first_seen_at, root.published_at)
    return replace(
        own,
        edges=(edge,),
        root=key.root_key(),
        is_counted=verdict.containment < DEFAULT_COPY_CONFIG.strong,
    )


# -- in Postgres -------------------------------------------------------------------------------

_STATE_COLUMNS: Final = (
    "article_id sequence version first_seen_at published_at is_counted pair_ids pair_jaccard "
    "pair_containment signature features"
)
_CHUNK: Final = 5_000
_CHANGES_A_TRANSACTION: Final = 500
_PROVIDERS: Final = 200


_PAIRS_OF_ROOTS: Final = """
UPDATE newsloom.link_states AS root
SET pair_ids = p.ids, pair_jaccard = p.jaccard, pair_containment = p.containment
FROM (SELECT s.pair_ids[1] AS root_id, array_agg(s.article_id ORDER BY s.sequence) AS ids,
        array_agg(s.pair_jaccard[1] ORDER BY s.sequence) AS jaccard,
        array_agg(s.pair_containment[1] ORDER BY s.sequence) AS containment
    FROM newsloom.link_states AS s WHERE s.pair_ids IS NOT NULL GROUP BY s.pair_ids[1]) AS p
WHERE root.article_id = p.root_id"""


async def fill(dsn: str, made: Sequence[MadeArticle], new: int, window: timedelta) -> None:
    """Fill a migrated, empty database: all but the last `new` articles as if linked already.

    The change log holds the others only. Older articles are stored without their text, which the
    linker does not read again.
    """
    old = made[: len(made) - new]
    owner = await asyncpg.connect(dsn, command_timeout=3600)
    try:
        await owner.execute("SET synchronous_commit = off")
        await owner.execute("SELECT newsloom.ensure_partitions(now(), 1, 1)")
        for low in range(0, len(made), _CHUNK):
            await _copy_articles(owner, made[low : low + _CHUNK], max(len(old) - low, 0))
        linked = states(old)
        while chunk := list(islice(linked, _CHUNK)):
            await _copy_states(owner, chunk)
        await owner.execute(_PAIRS_OF_ROOTS)
        await _make_stories(owner)
        if old:
            since = old[-1].first_seen_at.replace(minute=0, second=0, microsecond=0) - window
            await owner.execute(
                "INSERT INTO newsloom.cursors (reader, sequence, window_from, trim_sequence)"
                " VALUES ('link', $1, $2, $1)",
                len(old),
                since,
            )
        await owner.execute("VACUUM (ANALYZE, PARALLEL 0)")
        for low in range(len(old), len(made), _CHANGES_A_TRANSACTION):
            rows = made[low : low + _CHANGES_A_TRANSACTION]
            await _copy(
                owner,
                "changes",
                "article_id observed_at version kind",
                [(one.article_id, one.first_seen_at, 1, "created") for one in rows],
            )
        await owner.execute("CHECKPOINT")
    finally:
        await owner.close()


async def _copy(owner: asyncpg.Connection, table: str, columns: str, rows: Rows) -> None:
    await owner.copy_records_to_table(
        table, schema_name="newsloom", columns=columns.split(), records=rows
    )


async def _copy_articles(owner: asyncpg.Connection, made: Sequence[MadeArticle], old: int) -> None:
    """Copy heads and contents; the first `old` are among those that are linked already."""
    await _copy(
        owner,
        "articles",
        "article_id first_seen_at observed_at signals_at version revision article_key content_hash",
        [
            (
                one.article_id,
                *(3 * [one.first_seen_at]),
                1,
                1,
                f"bench.example/{one.article_id.hex}",
                b"\0" * 32,
            )
            for one in made
        ],
    )
    await _copy(
        owner,
        "article_contents",
        "article_id observed_at published_at is_mention is_removed canonical_url title body"
        " language provider_domain",
        [
            (
                one.article_id,
                one.first_seen_at,
                one.published_at,
                False,
                False,
                f"https://bench.example/{one.article_id.hex}",
                one.title,
                None if at < old else one.body,
                "en",
                f"outlet{one.article_id.int % _PROVIDERS}.example",
            )
            for at, one in enumerate(made)
        ],
    )


async def _copy_states(owner: asyncpg.Connection, chunk: list[LinkState]) -> None:
    await _copy(
        owner,
        "link_states",
        _STATE_COLUMNS,
        [
            (
                one.article_id,
                one.sequence,
                one.version,
                one.first_seen_at,
                one.published_at,
                one.is_counted,
                [edge.other_id for edge in one.edges] or None,
                [edge.jaccard for edge in one.edges] or None,
                [edge.containment for edge in one.edges] or None,
                one.signature.to_bytes(),
                one.features.to_bytes(),
            )
            for one in chunk
        ],
    )
    await _copy(
        owner,
        "copies",
        "article_id copy_of jaccard containment algorithm_version",
        [
            (one.article_id, one.root.article_id, edge.jaccard, edge.containment, ALGORITHM_VERSION)
            for one in chunk
            for edge in one.edges
            if one.root is not None
        ],
    )
    await _copy(
        owner,
        "story_articles",
        "article_id story_id score",
        [(one.article_id, one.story_id, 0.5) for one in chunk if one.story_id is not None],
    )


async def _make_stories(owner: asyncpg.Connection) -> None:
    await owner.execute(
        "INSERT INTO newsloom.stories (story_id, version, first_published_at, last_published_at,"
        " article_count, provider_count, title)"
        " SELECT m.story_id, 1, min(c.published_at), max(c.published_at), count(*),"
        " count(DISTINCT c.provider_domain), min(c.title)"
        " FROM newsloom.story_articles AS m JOIN newsloom.article_contents AS c USING (article_id)"
        " GROUP BY m.story_id"
    )
