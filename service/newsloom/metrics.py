"""Every metric of newsloom, defined in one class and observed by the flows.

No global registry: `Metrics(registry)` belongs to one process or one test. Labels come from closed
sets (outcomes, reasons, stages, Kafka topic and partition); never an address, a provider or a
title. The help texts say what to do: they are read by someone who has just been woken.

Adding one: define it here, observe it in a flow, show it on a panel.
"""

import asyncio
import re
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from enum import StrEnum
from typing import TYPE_CHECKING, Final

from prometheus_client import (
    CollectorRegistry,
    Counter,
    Gauge,
    Histogram,
    ProcessCollector,
    disable_created_metrics,
)

from newsloom.core.batch import BatchReport, Outcome
from newsloom.core.change_log import StoryChangeKind
from newsloom.errors import RejectReason

if TYPE_CHECKING:  # it loads numpy, which only the linker needs
    from newsloom.core.linking import LinkResults


class Stage(StrEnum):
    """The steps of a batch, in the order in which they happen."""

    DECODE = "decode"
    ENRICH = "enrich"
    QUEUE = "queue"
    OFFSET = "offset"
    KEYS = "keys"
    GATHER = "gather"
    FOLD = "fold"
    WRITE = "write"
    COMMIT = "commit"


class PublishResult(StrEnum):
    """What became of a record that was to be published."""

    ACCEPTED = "accepted"
    REFUSED = "refused"
    FAILED = "failed"


class Dependency(StrEnum):
    """The systems that newsloom waits for."""

    KAFKA = "kafka"
    POSTGRES = "postgres"


class PoolState(StrEnum):
    """What a connection of the pool is doing."""

    IDLE = "idle"
    IN_USE = "in_use"


class Relayed(StrEnum):
    """What the relay sends to Kafka."""

    ARTICLE = "article"
    STORY = "story"
    DEAD_LETTER = "dead_letter"


OTHER: Final = "other"
"""Label value for what is outside a closed set."""

_STAGE_BUCKETS: Final = (
    0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30,
)  # fmt: skip
_FRESHNESS_BUCKETS: Final = (
    0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 120, 300, 900, 3600, 21_600, 86_400,
)  # fmt: skip
_LOOP_BUCKETS: Final = (0.001, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10)
_SIZE_BUCKETS: Final = (1, 5, 10, 25, 50, 100, 250, 500, 1000, 2500, 5000)

_PARTITION: Final = ("topic", "partition")
_MAX_FIELDS: Final = 100
_FIELD: Final = re.compile(r"[A-Za-z0-9_.]{1,60}\Z", re.ASCII)
_REASONS: Final = frozenset(reason.value for reason in RejectReason)


def process_registry() -> CollectorRegistry:
    """Return a new registry that also shows memory, CPU and descriptors of this process."""
    registry = CollectorRegistry()
    ProcessCollector(registry=registry)
    return registry


class Metrics:
    """The metrics of one process.

    Series of closed sets exist from the start, at zero, so that rates and alerts never wait for a
    first event. Call it from the event loop's thread only: a scrape then sees whole batches.
    """

    def __init__(self, registry: CollectorRegistry, *, version: str = "unknown") -> None:
        disable_created_metrics()  # type: ignore[no-untyped-call]  # they would double the output
        self.registry = registry
        self._define_batch()
        self._define_kafka()
        self._define_postgres()
        self._define_publish()
        self._define_link()
        self._define_relay()
        self._define_tailing()
        self._define_process(version)

    # What a flow calls --------------------------------------------------------------------------

    def observe_batch(self, report: BatchReport) -> None:
        """Count a batch that has been committed."""
        self.deliveries_consumed.inc(report.consumed)
        self.batch_records.observe(report.consumed)
        self.mentions.inc(report.mentions)
        for outcome, count in report.outcomes.items():
            self._records[outcome].inc(count)
        for reason, count in report.reasons.items():
            self._rejected.labels(reason_label(reason)).inc(count)
        self.last_commit.set_to_current_time()

    def observe_parsed(self, dropped: Sequence[str], unknown: int) -> None:
        """Count what was left out of a record, by field, and fields that the model lacks."""
        for field in dropped:
            self._dropped.labels(self._field_label(field)).inc()
        if unknown:
            self.unknown_fields.inc(unknown)

    @contextmanager
    def time(self, stage: Stage) -> Iterator[None]:
        """Measure one stage of one batch, also when it fails."""
        started = time.perf_counter()
        try:
            yield
        finally:
            self._stages[stage].observe(time.perf_counter() - started)

    def observe_stage(self, stage: Stage, seconds: float) -> None:
        """Record the duration of a stage that was measured elsewhere."""
        self._stages[stage].observe(seconds)

    def observe_end_to_end(self, seconds: float) -> None:
        """Record the time from a delivery's Kafka timestamp to the commit; skew counts as 0."""
        self.end_to_end.observe(max(0.0, seconds))

    def set_lag(self, topic: str, partition: int, *, records: int, seconds: float) -> None:
        """Set how far the committed position of an owned partition is behind."""
        self._lag_records.labels(topic, partition).set(max(0, records))
        self._lag_seconds.labels(topic, partition).set(max(0.0, seconds))

    def set_parked(self, topic: str, partition: int, *, parked: bool) -> None:
        """Show whether an owned partition waits for an operator."""
        self._parked.labels(topic, partition).set(int(parked))

    def forget_partition(self, topic: str, partition: int) -> None:
        """Remove the series of a partition that this process no longer owns."""
        for gauge in (self._lag_records, self._lag_seconds, self._parked):
            gauge.remove(topic, str(partition))

    def retry(self, dependency: str) -> None:
        """Count one wait for a dependency ("kafka", "postgres")."""
        self._retries[Dependency(dependency)].inc()

    def set_usable(self, dependency: str, *, usable: bool) -> None:
        """Show whether a dependency answered last time."""
        self._usable[Dependency(dependency)].set(int(usable))

    def set_pool(self, *, in_use: int, idle: int, limit: int) -> None:
        """Show what the connections of the Postgres pool are doing."""
        self._pool[PoolState.IN_USE].set(in_use)
        self._pool[PoolState.IDLE].set(idle)
        self.pool_limit.set(limit)

    def observe_linked(self, results: "LinkResults") -> None:
        """Count what the linker made of some rows of the change log."""
        self.linked_articles.inc(results.observed)
        self.copies_linked.inc(sum(link is not None for link in results.copies.values()))
        for kind in results.story_kinds.values():
            self._story_changes[kind].inc()

    def set_link(self, *, lag_seconds: float, window: int, size: int) -> None:
        """Set how far the linker is behind, and how much it holds in memory (bytes)."""
        self.link_lag.set(max(0.0, lag_seconds))
        self.link_window.set(window)
        self.link_bytes.set(size)

    def relayed(self, what: Relayed, count: int = 1) -> None:
        """Count what Kafka has acknowledged and the database knows it has."""
        self._relayed[what].inc(count)

    def published(self, result: PublishResult, count: int = 1) -> None:
        """Count records that publish is done with."""
        self._published[result].inc(count)

    # Definitions --------------------------------------------------------------------------------

    def _define_batch(self) -> None:
        self.deliveries_consumed = self._counter(
            "newsloom_deliveries_consumed_total",
            "Deliveries applied in committed batches. Must equal the sum of "
            "newsloom_records_total; if not, stop ingest and report a bug.",
        )
        records = self._counter(
            "newsloom_records_total",
            "Deliveries by what became of them. A jump of rejected: see newsloom_rejected_total.",
            "outcome",
        )
        self._records = {outcome: records.labels(outcome.value) for outcome in Outcome}
        self._rejected = self._counter(
            "newsloom_rejected_total",
            "Dead letters by reason. To see them: newsloom dead-letters list --reason REASON.",
            "reason",
        )
        for reason in sorted(_REASONS | {OTHER}):
            self._rejected.labels(reason)
        self.mentions = self._counter(
            "newsloom_mentions_total",
            "Related entries observed in records. They have no outcome of their own.",
        )
        self._dropped = self._counter(
            "newsloom_dropped_values_total",
            "Invalid values left out of records that were kept, by field. A jump means that a "
            "publisher changed its format.",
            "field",
        )
        self._dropped_seen: set[str] = set()
        self.unknown_fields = self._counter(
            "newsloom_unknown_fields_total",
            "Fields of records that the model does not know; kept in extra. A jump means that a "
            "publisher added something.",
        )
        stages = self._histogram(
            "newsloom_batch_duration_seconds",
            "Time of one stage of one batch. The slowest stage says where to look: decode and fold "
            "are CPU, the rest is Postgres.",
            _STAGE_BUCKETS,
            "stage",
        )
        self._stages = {stage: stages.labels(stage.value) for stage in Stage}
        self.batch_records = self._histogram(
            "newsloom_batch_records",
            "Deliveries in a committed batch. Always at the limit: ingest is behind, add replicas.",
            _SIZE_BUCKETS,
        )
        self.end_to_end = self._histogram(
            "newsloom_end_to_end_seconds",
            "Time from a delivery's Kafka timestamp to the commit of its batch. High with low lag: "
            "look at newsloom_batch_duration_seconds.",
            _FRESHNESS_BUCKETS,
        )
        self.last_commit = self._gauge(
            "newsloom_last_commit_timestamp_seconds",
            "Unix time of the last committed batch, 0 before the first. Old while lag is not zero: "
            "ingest is stuck, see /readyz.",
        )
        self.batch_splits = self._counter(
            "newsloom_batch_splits_total",
            "Batches halved to find a record that Postgres refuses. Rising: see the dead letters "
            "with reason db.data.",
        )

    def _define_kafka(self) -> None:
        self._lag_records = self._gauge(
            "newsloom_consumer_lag_records",
            "Records between the committed position and the end of an owned partition. Growing: "
            "add ingest replicas. Absent when no process owns the partition.",
            *_PARTITION,
        )
        self._lag_seconds = self._gauge(
            "newsloom_consumer_lag_seconds",
            "Age of the last committed record of an owned partition, 0 when nothing waits. Growing "
            "with few records: a partition is stuck or parked.",
            *_PARTITION,
        )
        self._parked = self._gauge(
            "newsloom_partition_parked",
            "1 while an owned partition waits for an operator: see newsloom offsets show for the "
            "reason and newsloom offsets rebase for the way out.",
            *_PARTITION,
        )
        self.partitions_owned = self._gauge(
            "newsloom_partitions_owned",
            "Partitions that this process may write for. 0 for long on one replica is normal only "
            "when there are more replicas than partitions.",
        )
        self.rebalances = self._counter(
            "newsloom_rebalances_total",
            "Times that partitions were assigned anew. Steadily rising: a member is restarting or "
            "too slow, see newsloom_event_loop_lag_seconds.",
        )
        self.fenced = self._counter(
            "newsloom_fenced_total",
            "Batches given up because another process had claimed the partition. Some at a "
            "rebalance are normal; steady growth means two groups share one name.",
        )
        self.poll_errors = self._counter(
            "newsloom_poll_errors_total",
            "Polls of Kafka that raised; every partition was then set back to its committed "
            "position. Rising: the log names the class of the error.",
        )

    def _define_postgres(self) -> None:
        retries = self._counter(
            "newsloom_retries_total",
            "Waits before another attempt, by the dependency that was away. Rising: check that "
            "dependency; nothing is lost meanwhile.",
            "dependency",
        )
        self._retries = {item: retries.labels(item.value) for item in Dependency}
        usable = self._gauge(
            "newsloom_dependency_usable",
            "1 when the dependency answered last time. 0: newsloom doctor says what is wrong.",
            "dependency",
        )
        self._usable = {item: usable.labels(item.value) for item in Dependency}
        pool = self._gauge(
            "newsloom_database_pool_connections",
            "Connections of the Postgres pool by state. All in use for long: raise "
            "NEWSLOOM_POSTGRES_POOL_MAX_CONNECTIONS or look for slow statements.",
            "state",
        )
        self._pool = {state: pool.labels(state.value) for state in PoolState}
        self.pool_limit = self._gauge(
            "newsloom_database_pool_max_connections",
            "Most connections that the pool may open: NEWSLOOM_POSTGRES_POOL_MAX_CONNECTIONS.",
        )
        self.commit_unknown = self._counter(
            "newsloom_commit_unknown_total",
            "Commits whose answer was lost; the stored offset then told what had happened. Rising: "
            "the network to Postgres drops connections.",
        )

    def _define_publish(self) -> None:
        published = self._counter(
            "newsloom_published_records_total",
            "Records that publish is done with: accepted by Kafka, refused by validation, or "
            "failed to be delivered. Failed records must be published again.",
            "result",
        )
        self._published = {result: published.labels(result.value) for result in PublishResult}
        self.published_bytes = self._counter(
            "newsloom_published_bytes_total",
            "Bytes of event values that Kafka accepted, before compression.",
        )
        self.publish_duration = self._histogram(
            "newsloom_publish_duration_seconds",
            "Time from handing an event to the Kafka client until all replicas have it. High: look "
            "at the brokers.",
            _STAGE_BUCKETS,
        )

    def _define_link(self) -> None:
        self.link_lag = self._gauge(
            "newsloom_link_lag_seconds",
            "Age of the oldest change that the linker was working on, 0 when it has caught up. "
            "Growing: the linker is too slow for what comes, or a long transaction holds the "
            "change log back.",
        )
        self.linked_articles = self._counter(
            "newsloom_linked_articles_total",
            "Articles compared with the window. Flat while articles are created: the linker stands "
            "by or is stuck, see its log.",
        )
        self.copies_linked = self._counter(
            "newsloom_copies_linked_total",
            "Links from a copy to what it repeats, new or changed. A sudden rise: one outlet is "
            "republishing, or boilerplate is taken for text.",
        )
        changes = self._counter(
            "newsloom_story_changes_total",
            "Changes of stories by kind. Many merges and splits: stories are unsteady, look at "
            "newsloom trace of two of their articles.",
            "kind",
        )
        self._story_changes = {kind: changes.labels(kind.value) for kind in StoryChangeKind}
        self.link_window = self._gauge(
            "newsloom_link_window_articles",
            "Articles that the linker holds in memory. Sets its memory together with "
            "newsloom_link_index_bytes; NEWSLOOM_LINK_WINDOW_HOURS bounds it.",
        )
        self.link_bytes = self._gauge(
            "newsloom_link_index_bytes",
            "Bytes of the linker's index arrays. Too much: lower NEWSLOOM_LINK_WINDOW_HOURS.",
        )

    def _define_relay(self) -> None:
        relayed = self._counter(
            "newsloom_relayed_total",
            "Messages sent to the Kafka topics of changes and dead letters, by what they are "
            "about. Flat while articles change: the relay stands by or waits, see its log.",
            "entity",
        )
        self._relayed = {what: relayed.labels(what.value) for what in Relayed}
        self.relay_lag = self._gauge(
            "newsloom_relay_lag_seconds",
            "Age of the oldest change that is not in the changes topic yet, 0 when none waits. "
            "Growing: Kafka refuses, or a long transaction holds the change log back.",
        )
        self.relay_oldest_dead_letter = self._gauge(
            "newsloom_relay_oldest_dead_letter_seconds",
            "Age of the oldest dead letter that is not in its Kafka topic yet, 0 when none waits. "
            "Growing: see newsloom topics show; nothing is lost, they stay in Postgres.",
        )

    def _define_tailing(self) -> None:
        self.horizon_age = self._gauge(
            "newsloom_change_horizon_age_seconds",
            "How long the oldest open write transaction of the Postgres server has held the change "
            "log back, as long as it was watched. Growing: end that session, see the runbook.",
        )
        self.silent_providers = self._gauge(
            "newsloom_silent_providers",
            "Providers that have been silent for longer than is usual for them, now and within a "
            "week. Their names are in api.provider_silence and on the News dashboard.",
        )

    def _define_process(self, version: str) -> None:
        self.loop_lag = self._histogram(
            "newsloom_event_loop_lag_seconds",
            "How much later than asked the event loop woke a sleeper. Above 1 s heartbeats are at "
            "risk: smaller batches (NEWSLOOM_INGEST_MAX_BATCH_RECORDS) or more CPU.",
            _LOOP_BUCKETS,
        )
        self.progress_age = self._gauge(
            "newsloom_watchdog_progress_age_seconds",
            "Time since the main loop last made progress. The process ends itself at "
            "NEWSLOOM_INGEST_WATCHDOG_SECONDS; restarts in a row mean a hang, keep the logs.",
        )
        receipts = self._counter(
            "newsloom_receipts_total",
            "Receipts that publishers asked for. Lost ones are a time-out for who waits, and no "
            "more; many: see that the topic newsloom.receipts.v1 exists and ingest may write it.",
            "result",
        )
        self.receipts_sent, self.receipts_lost = receipts.labels("sent"), receipts.labels("lost")
        self.backfill_waiting = self._gauge(
            "newsloom_backfill_waiting_records",
            "Deliveries of bulk imports (newsloom publish --backfill) that this process has still "
            "to read. They wait while live ones do: that is normal, unless it lasts for hours.",
        )
        self.backfill_held = self._gauge(
            "newsloom_backfill_held",
            "1 while bulk imports wait because a live delivery has waited for 2 seconds. For "
            "hours: see why live ones are late, or add ingest processes.",
        )
        self._gauge(
            "newsloom_build_info",
            "1, with the version that runs as a label. Several versions at once: a rollout is on.",
            "version",
        ).labels(version).set(1)

    def _counter(self, name: str, text: str, *labels: str) -> Counter:
        return Counter(name, text, labels, registry=self.registry)

    def _gauge(self, name: str, text: str, *labels: str) -> Gauge:
        return Gauge(name, text, labels, registry=self.registry)

    def _histogram(self, name: str, text: str, buckets: Sequence[float], *labels: str) -> Histogram:
        return Histogram(name, text, labels, registry=self.registry, buckets=buckets)

    def _field_label(self, field: str) -> str:
        # Field names come from the model, so they are few. The bound holds if that ever changes.
        if field in self._dropped_seen:
            return field
        if not _FIELD.match(field) or len(self._dropped_seen) >= _MAX_FIELDS:
            return OTHER
        self._dropped_seen.add(field)
        return field


def reason_label(reason: str) -> str:
    """Return a reason as a label: SQLSTATEs fold into db.data, strangers into other."""
    if reason in _REASONS:
        return reason
    return RejectReason.DATABASE.value if reason.startswith("db.") else OTHER


async def watch_loop_lag(
    metrics: Metrics, stop: asyncio.Event, *, interval_seconds: float = 0.5
) -> None:
    """Sample how late the event loop runs, until `stop` is set."""
    loop = asyncio.get_running_loop()
    while not stop.is_set():
        due = loop.time() + interval_seconds
        try:
            async with asyncio.timeout_at(due):
                await stop.wait()
        except TimeoutError:
            metrics.loop_lag.observe(max(0.0, loop.time() - due))


def reference_table(registry: CollectorRegistry) -> str:
    """Markdown table of every newsloom metric: the reference page of the docs."""
    rows = []
    for family in sorted(registry.collect(), key=lambda family: family.name):
        if family.name.startswith("newsloom_"):
            name = f"{family.name}_total" if family.type == "counter" else family.name
            rows.append(f"| `{name}` | {family.type} | {family.documentation} |")
    return "\n".join(["| Name | Type | Meaning |", "|---|---|---|", *rows])
