"""The steps of `newsloom demo` around the roles: prepare, publish, and read the result back."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import asyncpg

from newsloom.adapters.kafka.topics import apply_topics, topic_specs
from newsloom.adapters.migrations import migrate
from newsloom.core.documents import Prepared
from newsloom.publishing import PublishOptions, Result, publish_files
from newsloom.settings import Settings

PARTITIONS = 4


@dataclass(frozen=True, slots=True)
class Newest:
    """One of the newest articles, as text for a table."""

    published: str
    provider: str
    title: str


@dataclass(frozen=True, slots=True)
class Summary:
    """What Postgres holds after the drain."""

    outcomes: Mapping[str, int]
    articles: int
    mentions: int
    revisions: int
    dead_letters: int
    copies: int
    stories: int
    newest: Sequence[Newest]


async def prepare_and_publish(
    settings: Settings, paths: Sequence[str], *, tell: Callable[[str], None]
) -> int:
    """Bring schema and Kafka topics up to date, publish; return how many records were refused."""
    dsn = settings.postgres.dsn
    assert dsn is not None  # noqa: S101 - the caller has filled it in
    applied = await migrate(dsn.get_secret_value())
    tell(f"schema: {len(applied)} migrations applied" if applied else "schema: up to date")
    specs = topic_specs(settings.kafka, PARTITIONS)
    states = await apply_topics(settings.kafka, specs, replication_factor=None)
    created = sum(state.created for state in states)
    tell(f"Kafka topics: {created} created" if created else "Kafka topics: up to date")

    def observe(prepared: Sequence[Prepared], results: Sequence[Result]) -> None:
        for document in prepared:
            if document.rejected is not None:
                tell(f"refused {document.path}: {document.rejected.detail}")
        del results

    summary = await publish_files(
        paths,
        PublishOptions(),
        settings=settings.publish,
        kafka=settings.kafka,
        observe=observe,
    )
    tell(
        f"published {summary.accepted:,} records in {summary.seconds:.1f} s"
        + (f", refused {summary.refused:,}" if summary.refused else "")
    )
    return summary.refused


async def read_summary(settings: Settings) -> Summary:
    """Ask schema `api` what there is now."""
    dsn = settings.postgres.dsn
    assert dsn is not None  # noqa: S101 - as above
    connection = await asyncpg.connect(dsn.get_secret_value(), timeout=10)
    try:
        (outcomes,) = await connection.fetch(_OUTCOMES)
        (counts,) = await connection.fetch(_COUNTS)
        newest = await connection.fetch(_NEWEST)
    finally:
        await connection.close(timeout=5)
    return Summary(
        outcomes={name: int(count or 0) for name, count in outcomes.items()},
        **{name: int(count or 0) for name, count in counts.items()},
        newest=[Newest(*row) for row in newest],
    )


_OUTCOMES = """
SELECT sum(created) AS created, sum(revised) AS revised, sum(refreshed) AS refreshed,
    sum(unchanged) AS unchanged, sum(stale) AS stale, sum(rejected) AS rejected
FROM api.ingest_progress"""

_COUNTS = """
SELECT count(*) FILTER (WHERE NOT is_mention) AS articles,
    count(*) FILTER (WHERE is_mention) AS mentions,
    sum(revision) AS revisions,
    (SELECT count(*) FROM api.dead_letters) AS dead_letters,
    (SELECT count(*) FROM api.copies) AS copies,
    (SELECT count(*) FROM api.stories) AS stories
FROM api.articles"""

_NEWEST = """
SELECT coalesce(to_char(published_at AT TIME ZONE 'UTC', 'YYYY-MM-DD HH24:MI'), ''),
    coalesce(provider_name, provider_domain, ''), title
FROM api.articles WHERE NOT is_mention
ORDER BY published_at DESC NULLS LAST, article_id LIMIT 10"""
