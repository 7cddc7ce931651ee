"""What bounds newsloom: the same rows into the same tables with as little around it as can be."""

import asyncio
import gc
import time
from collections.abc import Iterable, Sequence
from dataclasses import replace
from typing import Any

import asyncpg
from aiokafka import AIOKafkaConsumer

from bench.stage import Stage
from bench.workloads import START, Made
from newsloom.adapters.postgres import open_store
from newsloom.adapters.postgres import rows as r
from newsloom.core.article import Article
from newsloom.core.batch import Item, Observation, StoredState
from newsloom.core.enrichment import enrich
from newsloom.core.event import decode
from newsloom.core.fold import fold
from newsloom.core.identity import article_id
from newsloom.decoding import decode_deliveries
from newsloom.ports import Batch, Delivery, TopicPartition
from newsloom.settings.groups import PostgresSettings

BATCH = 500

Table = tuple[str, Sequence[str], list[tuple[Any, ...]]]


def deliveries_of(made: Sequence[Made], partition: int = 0) -> list[Delivery]:
    """Return the deliveries as Kafka would hand them over."""
    stamp = int(START.timestamp() * 1000)
    return [
        Delivery("bench", partition, n, stamp, event.key, event.value, tuple(event.headers))
        for n, event in enumerate(one.event() for one in made)
    ]


class Finished:
    """A workload made ready for the limits, once for all rounds."""

    def __init__(self, made: Sequence[Made], *, connections: Iterable[int] = (1, 2)) -> None:
        """Decode, enrich and fold: nothing of that is in the limits' time."""
        self.count = len(made)
        self.chunks = finished(made)
        self.parts = {
            many: [_enriched(deliveries_of(made[n::many], n)) for n in range(many)]
            for many in connections
        }


async def copy(stage: Stage, ready: Finished, connections: int) -> float:
    """Limit A: COPY finished rows, in the same transactions; return records a second."""
    chunks = ready.chunks
    dsn = await stage.database()
    links = [await asyncpg.connect(dsn) for _ in range(connections)]

    async def work(link: asyncpg.Connection, own: Sequence[Sequence[Table]]) -> None:
        for chunk in own:
            async with link.transaction():
                for table, columns, records in chunk:
                    await link.copy_records_to_table(
                        table, schema_name="newsloom", columns=columns, records=records
                    )

    started = time.perf_counter()
    await asyncio.gather(*(work(link, chunks[n::connections]) for n, link in enumerate(links)))
    rate = ready.count / (time.perf_counter() - started)
    for link in links:
        await link.close()
    await stage.drop(dsn)
    return rate


def finished(made: Sequence[Made]) -> list[list[Table]]:
    """Fold everything at once, and cut the rows into as many transactions as ingest would use."""
    writes = fold(decode_deliveries(deliveries_of(made)).items, StoredState({}, {}))
    contents = writes.new_contents
    tables: list[Table] = [
        ("article_contents", r.CONTENT_COLUMNS, list(map(r.content_row, contents))),
        ("articles", r.HEAD_COLUMNS, list(map(r.head_row, writes.new_heads))),
        ("related_articles", r.EDGE_COLUMNS, [e for c in contents for e in r.edge_rows(c)]),
        (
            "article_urls",
            r.ALIAS_COLUMNS,
            [r.alias_row(article_id(key), alias) for key, alias in writes.new_aliases.items()],
        ),
        ("changes", r.CHANGE_COLUMNS, list(map(r.change_row, writes.changes))),
    ]
    count = max(1, round(len(made) / BATCH))
    return [
        [
            (name, columns, records[len(records) * n // count : len(records) * (n + 1) // count])
            for name, columns, records in tables
        ]
        for n in range(count)
    ]


async def own_sql(stage: Stage, ready: Finished, connections: int) -> float:
    """Replay decoded and enriched batches through the store: no Kafka, no decoding."""
    parts = ready.parts[connections]
    dsn = await stage.database()
    settings = PostgresSettings(dsn=dsn)  # type: ignore[arg-type]
    async with open_store(settings, consumer_group="bench") as store:

        async def replay(partition: int, items: Sequence[Item]) -> None:
            place = TopicPartition("bench", partition)
            claim = await store.claim(place, "bench", 0)
            for at in range(0, len(items), BATCH):
                part = items[at : at + BATCH]
                await store.apply(
                    Batch(place, claim.epoch, claim.incarnation, at, at + len(part), part)
                )

        started = time.perf_counter()
        await asyncio.gather(*(replay(n, items) for n, items in enumerate(parts)))
        rate = ready.count / (time.perf_counter() - started)
    await stage.drop(dsn)
    return rate


def _enriched(deliveries: Sequence[Delivery]) -> Sequence[Item]:
    """Decode, and enrich ahead what the fold would enrich."""
    return [
        replace(item, article=_finished_article(enrich(item.article)))
        if isinstance(item, Observation)
        else item
        for item in decode_deliveries(deliveries).items
    ]


def _finished_article(article: Article) -> Article:
    dict(article.field_hashes)
    return replace(article, is_raw=False, related=tuple(map(_finished_article, article.related)))


async def consume(stage: Stage, topic: str, count: int) -> float:
    """Limit B: consume the Kafka topic and decode each record, and no more."""
    consumer = AIOKafkaConsumer(
        topic, bootstrap_servers=stage.servers, auto_offset_reset="earliest", group_id=None
    )
    await consumer.start()
    seen, started = 0, 0.0
    while seen < count:
        fetched = await consumer.getmany(timeout_ms=500, max_records=BATCH)
        started = started or time.perf_counter()
        for records in fetched.values():
            for record in records:
                decode(record.value, record.key, record.headers, record.timestamp)
            seen += len(records)
    rate = seen / (time.perf_counter() - started)
    await consumer.stop()
    return rate


def quiet_garbage() -> None:
    """Treat the bench's own objects, the workloads, as ingest treats its own: see `app.process`."""
    gc.collect()
    gc.freeze()
    gc.set_threshold(100_000)


_BARE_UPDATE = """
UPDATE newsloom.articles AS a SET observed_at = n.observed_at, heat = n.heat, secured = n.secured
FROM unnest($1::uuid[], $2::timestamptz[], $3::integer[], $4::text[])
    AS n (article_id, observed_at, heat, secured)
WHERE a.article_id = n.article_id"""


async def update(stage: Stage, made: Sequence[Made]) -> float:
    """Limit B of updates: bare batched UPDATEs of the narrow rows, by one connection."""
    dsn = await stage.database()
    link = await asyncpg.connect(dsn)
    firsts = {one.record["originalUrl"]: one for one in made}
    items = decode_deliveries(deliveries_of(list(firsts.values()))).items
    heads = fold(items, StoredState({}, {})).new_heads
    await link.copy_records_to_table(
        "articles", schema_name="newsloom", columns=r.HEAD_COLUMNS, records=map(r.head_row, heads)
    )
    ids = dict(zip(firsts, (head.article_id for head in heads), strict=True))
    rows = [
        (ids[m.record["originalUrl"]], m.observed_at, m.record["heat"], m.record["secured"])
        for m in made
    ]
    started = time.perf_counter()
    for at in range(0, len(rows), BATCH):
        part = rows[at : at + BATCH]
        tag = await link.execute(_BARE_UPDATE, *r.columns_of(part, 4))
        if tag != f"UPDATE {len({row[0] for row in part})}":
            raise RuntimeError(f"{tag} of {len(part)} rows")
    rate = len(rows) / (time.perf_counter() - started)
    await link.close()
    await stage.drop(dsn)
    return rate
