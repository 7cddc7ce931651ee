"""Publishing put together: record files, parse workers and Kafka around the flow of `publisher`.

Beside `app`, which does the same for the roles that run for ever. Home of `ArticlePublisher`, the
same thing as a library.
"""

import asyncio
import os
import secrets
import time
from collections import Counter
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from contextlib import AsyncExitStack, aclosing, suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime
from importlib.metadata import version
from types import TracebackType
from typing import Final, Self

from prometheus_client import CollectorRegistry

from newsloom.adapters.embedded import EmbeddedServices
from newsloom.adapters.http import metrics_route, serve_admin
from newsloom.adapters.kafka.producer import open_sink
from newsloom.adapters.kafka.receipts import open_receipt_inbox
from newsloom.adapters.parse_workers import prepare_all
from newsloom.adapters.record_files import (
    MAX_CHUNK_DOCUMENTS,
    FileState,
    file_state,
    read_chunks,
    record_paths,
)
from newsloom.core.documents import Prepared, Rules
from newsloom.core.event import DEFAULT_SOURCE
from newsloom.errors import Rejected
from newsloom.metrics import Metrics, process_registry
from newsloom.ports import Receipt
from newsloom.publisher import DEFAULT_TOPIC, Publisher
from newsloom.receipts import ReceiptDesk
from newsloom.settings import KafkaSettings, PublishSettings, Settings, SettingsError

_WATCH_SECONDS: Final = 1.0

Result = Receipt | Rejected | None
"""What became of a document; None in a dry run, for one that would have been sent."""

Observer = Callable[[Sequence[Prepared], Sequence[Result]], None]


def _now() -> datetime:
    return datetime.now(UTC)


class ArticlePublisher(Publisher):
    """Publishes records to Kafka: `async with ArticlePublisher() as p: await p.publish(record)`.

    `bootstrap_servers` None: those of NEWSLOOM_KAFKA_BOOTSTRAP_SERVERS, else the embedded services.
    Security settings always come from the environment. `source` names the publisher in its events
    (a URI reference); it is part of the event id. A record not acknowledged after
    `delivery_timeout_seconds` raises `Unavailable`; entering does too when Kafka cannot be reached.
    `registry`: where its metrics go (`newsloom_published_records_total`, ...), for your own scrape.
    """

    def __init__(
        self,
        bootstrap_servers: str | None = None,
        *,
        kafka_topic: str | None = None,
        source: str = DEFAULT_SOURCE,
        delivery_timeout_seconds: float | None = None,
        max_in_flight_records: int | None = None,
        registry: CollectorRegistry | None = None,
    ) -> None:
        env = dict(os.environ)
        if bootstrap_servers is not None:
            env["NEWSLOOM_KAFKA_BOOTSTRAP_SERVERS"] = bootstrap_servers
        settings = Settings.from_env(env)
        self._kafka = kafka_settings(settings)
        chosen = {
            "delivery_timeout_seconds": delivery_timeout_seconds,
            "max_in_flight_records": max_in_flight_records,
        }
        given = {name: value for name, value in chosen.items() if value is not None}
        self._settings = settings.publish.model_copy(update=given)
        self._stack = AsyncExitStack()
        self._opening = asyncio.Lock()
        self._desk: ReceiptDesk | None = None
        self._topic = kafka_topic or settings.kafka.articles_topic
        self._source_name = source
        self._registry = registry or CollectorRegistry()

    async def __aenter__(self) -> Self:
        sink = await self._stack.enter_async_context(open_sink(self._kafka, self._settings))
        super().__init__(
            sink,
            now=_now,
            kafka_topic=self._topic,
            source=self._source_name,
            max_in_flight_records=self._settings.max_in_flight_records,
            receipts=self._receipts,
            metrics=Metrics(self._registry),
        )
        return self

    async def _receipts(self) -> ReceiptDesk:
        """Open the inbox once somebody wants a receipt; most never do."""
        async with self._opening:
            if self._desk is None:
                inbox = open_receipt_inbox(self._kafka, secrets.token_hex(16))
                self._desk = await self._stack.enter_async_context(inbox)
        return self._desk

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        await self._stack.aclose()


@dataclass(frozen=True, slots=True)
class PublishOptions:
    """What `newsloom publish` was asked for."""

    dry_run: bool = False
    watch: bool = False
    fail_fast: bool = False
    backfill: bool = False
    source: str = DEFAULT_SOURCE
    metrics_port: int | None = None
    """Where /metrics is served meanwhile, on `metrics_host`; None: nowhere."""
    metrics_host: str = "127.0.0.1"


@dataclass(slots=True)
class PublishSummary:
    """What became of all documents. `bytes_sent`: of the values, before compression."""

    accepted: int = 0
    rejected: Counter[str] = field(default_factory=Counter)
    dropped: Counter[str] = field(default_factory=Counter)
    unknown_fields: int = 0
    bytes_sent: int = 0
    seconds: float = 0.0
    kafka_topic: str = DEFAULT_TOPIC

    @property
    def refused(self) -> int:
        """Documents that were not accepted, whatever the reason."""
        return self.rejected.total()

    def count(self, prepared: Sequence[Prepared], results: Sequence[Result]) -> None:
        """Add the results of a chunk."""
        for document, result in zip(prepared, results, strict=True):
            if isinstance(result, Rejected):
                self.rejected[result.reason.value] += 1
                continue
            self.accepted += 1
            self.dropped.update(document.dropped)
            self.unknown_fields += document.unknown
            self.bytes_sent += len(document.event.value) if document.event else 0


def kafka_settings(settings: Settings, tell: Callable[[str], None] | None = None) -> KafkaSettings:
    """Return where Kafka is, falling back to the embedded services when they run.

    Raises SettingsError when there is neither.
    """
    if settings.kafka.bootstrap_servers is not None:
        return settings.kafka
    services = EmbeddedServices(settings.services_dir)
    addresses = services.status().addresses
    if addresses is None:
        message = (
            "NEWSLOOM_KAFKA_BOOTSTRAP_SERVERS is not set, and the embedded services do not run: "
            "set it, or start them with `newsloom services start`."
        )
        raise SettingsError(message)
    if tell is not None:
        tell(f"using the embedded services in {services.folder}")
    servers = {"bootstrap_servers": addresses.kafka_bootstrap_servers}
    return settings.kafka.model_copy(update=servers)


async def publish_files(
    patterns: Sequence[str],
    options: PublishOptions,
    *,
    settings: PublishSettings,
    kafka: KafkaSettings | None,
    observe: Observer,
    stop: asyncio.Event | None = None,
) -> PublishSummary:
    """Publish every record that `patterns` name; `observe` sees each chunk when it is durable.

    `kafka` None is a dry run. Setting `stop` ends it after what is in flight. Raises `Unavailable`
    and, for a pattern that names nothing, `NothingToReadError`.
    """
    stop = stop or asyncio.Event()
    started = time.monotonic()
    topic = DEFAULT_TOPIC
    if kafka is not None:
        topic = kafka.backfill_topic if options.backfill else kafka.articles_topic
    summary = PublishSummary(kafka_topic=topic)
    most = min(MAX_CHUNK_DOCUMENTS, settings.max_in_flight_records)
    paths = _watched(patterns, stop) if options.watch else _listed(patterns)
    async with AsyncExitStack() as stack:
        publisher: Publisher | None = None
        registry = process_registry()
        metrics = Metrics(registry, version=version("newsloom"))
        if options.metrics_port is not None:
            routes = {"/metrics": metrics_route(registry)}
            await stack.enter_async_context(
                serve_admin(options.metrics_host, options.metrics_port, routes)
            )
        if kafka is not None:
            sink = await stack.enter_async_context(open_sink(kafka, settings))
            publisher = Publisher(
                sink,
                now=_now,
                kafka_topic=topic,
                max_in_flight_records=settings.max_in_flight_records,
                metrics=metrics,
            )
        async for some in paths:
            rules = Rules(source=options.source, own_time=options.backfill)
            parsed = prepare_all(
                read_chunks(some, now=_now, documents=most),
                rules,
                timeout_seconds=settings.parse_timeout_seconds,
            )
            async with aclosing(parsed):
                chunks = _until(stop, parsed, fail_fast=options.fail_fast)
                async for prepared, results in _sent(publisher, chunks):
                    summary.count(prepared, results)
                    observe(prepared, results)
    summary.seconds = time.monotonic() - started
    return summary


async def _sent(
    publisher: Publisher | None, chunks: AsyncIterator[Sequence[Prepared]]
) -> AsyncIterator[tuple[Sequence[Prepared], Sequence[Result]]]:
    if publisher is not None:
        async for prepared, results in publisher.publish_prepared(chunks):
            yield prepared, results
    else:
        async for prepared in chunks:
            yield prepared, [document.rejected for document in prepared]


async def _until(
    stop: asyncio.Event, chunks: AsyncIterator[Sequence[Prepared]], *, fail_fast: bool
) -> AsyncIterator[Sequence[Prepared]]:
    """Pass chunks on; end at `stop`, and with `fail_fast` at the first refused document."""
    async for chunk in chunks:
        if stop.is_set():
            return
        bad = next((n for n, one in enumerate(chunk) if one.rejected is not None), None)
        if fail_fast and bad is not None:
            stop.set()
            yield chunk[: bad + 1]
            return
        yield chunk


async def _listed(patterns: Sequence[str]) -> AsyncIterator[Iterator[str]]:
    yield await asyncio.to_thread(record_paths, patterns)


async def _watched(patterns: Sequence[str], stop: asyncio.Event) -> AsyncIterator[Iterator[str]]:
    """Yield what is new or changed, once it has kept still from one look to the next."""
    published: dict[str, FileState] = {}
    before: dict[str, FileState] = {}
    while not stop.is_set():
        present = await asyncio.to_thread(_states, patterns)
        whole = [
            path
            for path, state in present.items()
            if before.get(path) == state and published.get(path) != state
        ]
        if whole:
            yield iter(whole)
            published |= {path: present[path] for path in whole}
        published = {path: state for path, state in published.items() if path in present}
        before = present
        with suppress(TimeoutError):
            await asyncio.wait_for(stop.wait(), _WATCH_SECONDS)


def _states(patterns: Sequence[str]) -> dict[str, FileState]:
    states = ((path, file_state(path)) for path in record_paths(patterns))
    return {path: state for path, state in states if state is not None}
