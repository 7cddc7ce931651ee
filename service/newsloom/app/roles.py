"""The roles of a process, each put together from its flow and its adapters."""

import asyncio
import random
from collections.abc import AsyncIterator, Awaitable, Callable, Collection, Mapping
from contextlib import AbstractAsyncContextManager, AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field, replace
from datetime import timedelta
from enum import StrEnum
from typing import TYPE_CHECKING, Final

from prometheus_client import CollectorRegistry

from newsloom.adapters.kafka.consumer import open_source
from newsloom.adapters.kafka.producer import KafkaSink, open_sink
from newsloom.adapters.kafka.receipts import open_receipt_outbox
from newsloom.adapters.migrations import status as schema_status
from newsloom.adapters.postgres import PostgresStore, open_store
from newsloom.adapters.postgres.maintenance import change_log_is_foreign
from newsloom.adapters.postgres.relaying import PostgresRelayStore, open_relay_store
from newsloom.adapters.postgres.tailing import open_horizon_store
from newsloom.app.process import Process, open_process, owner_id, patiently, stop_on_signals
from newsloom.backfill import BackfillGate
from newsloom.backoff import wait_or_stop
from newsloom.decoding import decode_deliveries
from newsloom.errors import Unavailable
from newsloom.failpoints import Checkpoint, Failpoint, failpoint_from_env
from newsloom.health import Health
from newsloom.ingest import Ingest
from newsloom.metrics import Metrics, watch_loop_lag
from newsloom.partition_owner import PartitionOwner
from newsloom.ports import LinkerRunning
from newsloom.relay import Relay
from newsloom.settings import Settings, SettingsError

if TYPE_CHECKING:  # the linker loads numpy: only where it runs
    from newsloom.adapters.postgres.linking import PostgresLinkStore
    from newsloom.linker import Linker
    from newsloom.relinking import RelinkReport
from newsloom.tailing import watch_tailing

_RELINK_SECONDS = 6 * 3600.0
_RELINK_LIMITS = (
    "command_timeout_seconds",
    "statement_timeout_seconds",
    "transaction_timeout_seconds",
    "idle_in_transaction_timeout_seconds",
)


RELAY_LIMITS: Final = {"max_record_bytes": 2_000_000, "delivery_timeout_seconds": 30.0}
"""Of what the relay sends: its Kafka topics take twice what publish may send."""


class Role(StrEnum):
    """What a process does. `newsloom run` does all of it."""

    INGEST = "ingest"
    LINK = "link"
    RELAY = "relay"


@dataclass(frozen=True, slots=True)
class RunSummary:
    """What a process did: deliveries committed, articles linked, messages relayed."""

    committed: int
    linked: int
    relayed: int


@dataclass(slots=True)
class _Running:
    """The flows of this process, for whoever asks whether they have anything left to do."""

    ingest: Ingest | None = None
    linker: "Linker | None" = None
    relay: Relay | None = None
    tasks: list[asyncio.Task[None]] = field(default_factory=list)


async def run_roles(
    settings: Settings,
    env: Mapping[str, str],
    roles: Collection[Role] = tuple(Role),
    *,
    exit_when_idle_seconds: float | None = None,
    on_idle: Callable[[int], Awaitable[None]] | None = None,
) -> RunSummary:
    """Run the roles of a process until a signal or (if asked for) idleness.

    `on_idle(admin port)` is called once, when nothing is left to do. Raises Unavailable when a
    dependency cannot be reached at the start.
    """
    stop = asyncio.Event()
    ingests = Role.INGEST in roles
    needs = ("postgres",) if set(roles) == {Role.LINK} else ("kafka", "postgres")
    running = _Running()
    async with AsyncExitStack() as stack:
        stack.enter_context(stop_on_signals(stop))
        process = await stack.enter_async_context(
            open_process(settings, stop, needs=needs, owns_partitions=ingests)
        )
        failpoint = failpoint_from_env(env, settings)
        checkpoint = failpoint.checkpoint if failpoint else None
        async with asyncio.TaskGroup() as tasks:
            helpers = [
                tasks.create_task(watch_loop_lag(process.metrics, stop), name="loop-lag"),
            ]
            if exit_when_idle_seconds is not None or on_idle is not None:
                watching = _when_idle(process, running, roles, exit_when_idle_seconds, on_idle)
                helpers.append(tasks.create_task(watching, name="idle"))
            if set(roles) & {Role.LINK, Role.RELAY}:
                helpers.append(tasks.create_task(_watch_tailing(process), name="tailing"))
            work = []
            if ingests:
                work.append(tasks.create_task(_ingest(process, failpoint, running), name="ingest"))
            if Role.LINK in roles:
                beat = _nothing if ingests else process.health.beat
                linking = _link(process, checkpoint, running, beat)
                work.append(tasks.create_task(linking, name="link"))
            if Role.RELAY in roles:
                is_alone = set(roles) == {Role.RELAY}
                relaying = _relay(process, checkpoint, running, is_alone=is_alone)
                work.append(tasks.create_task(relaying, name="relay"))
            await asyncio.wait(work)
            for helper in helpers:
                helper.cancel()
    return RunSummary(
        committed=running.ingest.committed if running.ingest else 0,
        linked=running.linker.linked if running.linker else 0,
        relayed=running.relay.sent if running.relay else 0,
    )


async def _ingest(process: Process, failpoint: Failpoint | None, running: _Running) -> None:
    settings, health, metrics = process.settings, process.health, process.metrics
    checkpoint = failpoint.checkpoint if failpoint else None
    decode = failpoint.guarding(decode_deliveries) if failpoint else decode_deliveries
    opening = lambda: _open_current_store(process, checkpoint)  # noqa: E731 - used once, below
    async with (
        patiently(process, "postgres", opening) as store,
        open_receipt_outbox(settings.kafka, settings.publish, metrics) as receipts,
    ):
        owner = PartitionOwner(
            store=store,
            decode=decode,
            settings=settings.ingest,
            metrics=metrics,
            health=health,
            owner_id=owner_id(),
            jitter=random.random,
            receipts=receipts,
        )
        kafka = settings.kafka
        gate = BackfillGate(
            kafka.backfill_topic, kafka.articles_topic, store=store, metrics=metrics
        )
        ingest = Ingest(
            owner, settings=settings.ingest, metrics=metrics, health=health, backfill=gate
        )
        async with patiently(
            process, "kafka", lambda: open_source(kafka, settings.ingest, ingest)
        ) as source:
            running.ingest = ingest
            reporting = asyncio.create_task(_report_pool(store, process), name="pool")
            try:
                await ingest.run(source, process.stop)
            finally:
                reporting.cancel()


async def _report_pool(store: PostgresStore, process: Process) -> None:
    while not await wait_or_stop(1.0, process.stop):
        pool = store.pool_state()
        process.metrics.set_pool(in_use=pool.in_use, idle=pool.idle, limit=pool.limit)


async def _watch_tailing(process: Process) -> None:
    async with open_horizon_store(process.settings.postgres) as store:
        await watch_tailing(store, process.metrics, process.stop)


async def _link(
    process: Process,
    checkpoint: Checkpoint | None,
    running: _Running,
    beat: Callable[[], None],
) -> None:
    from newsloom.linker import Linker  # noqa: PLC0415 - see above

    opening = lambda: _open_current_link_store(process, checkpoint)  # noqa: E731 - as above
    async with patiently(process, "postgres", opening) as store:
        linker = running.linker = Linker(
            store,
            window=timedelta(hours=process.settings.link.window_hours),
            metrics=process.metrics,
            health=process.health,
            owner_id=owner_id(),
            jitter=random.random,
            beat=beat,
        )
        await linker.run(process.stop)


async def _relay(
    process: Process, checkpoint: Checkpoint | None, running: _Running, *, is_alone: bool
) -> None:
    """Relay; beside other roles its troubles are its own and do not touch the process's health."""
    settings = process.settings
    health = process.health if is_alone else Health((), False, 0.0)  # noqa: FBT003 - see Health
    sink = lambda: _open_relay_sink(settings)  # noqa: E731 - used twice, below
    opening = lambda: _open_current_relay_store(process, checkpoint)  # noqa: E731 - as above
    async with (
        patiently(process, "postgres", opening) as store,
        patiently(process, "kafka", sink) as changes,
        # One each: waiting for one Kafka topic must not hold up the other.
        patiently(process, "kafka", sink) as dead_letters,
    ):
        running.relay = Relay(
            store,
            changes=changes,
            dead_letters=dead_letters,
            changes_topic=settings.kafka.changes_topic,
            dead_letters_topic=settings.kafka.dead_letters_topic,
            metrics=process.metrics,
            health=health,
            owner_id=owner_id(),
            jitter=random.random,
            beat=health.beat,
        )
        await running.relay.run(process.stop)


async def snapshot_changes(settings: Settings, told: Callable[[int], None]) -> int:
    """Send the state of every article and story to the changes topic; return how many there are."""
    async with _open_relay_sink(settings) as sink, open_relay_store(settings.postgres) as store:
        await _require_current_schema(settings)
        relay = Relay(
            store,
            changes=sink,
            dead_letters=sink,
            changes_topic=settings.kafka.changes_topic,
            dead_letters_topic=settings.kafka.dead_letters_topic,
            metrics=Metrics(CollectorRegistry()),  # nobody scrapes a command
            health=Health((), False, 0.0),  # noqa: FBT003 - see Health
            owner_id=owner_id(),
            jitter=random.random,
            beat=_nothing,
        )
        return await relay.snapshot(told)


def _open_relay_sink(settings: Settings) -> AbstractAsyncContextManager[KafkaSink]:
    return open_sink(settings.kafka, settings.publish.model_copy(update=RELAY_LIMITS))


@asynccontextmanager
async def _open_current_relay_store(
    process: Process, checkpoint: Checkpoint | None
) -> AsyncIterator[PostgresRelayStore]:
    async with open_relay_store(process.settings.postgres, checkpoint) as store:
        await _require_current_schema(process.settings)
        yield store


@asynccontextmanager
async def _open_current_store(
    process: Process, checkpoint: Checkpoint | None
) -> AsyncIterator[PostgresStore]:
    settings = process.settings
    async with open_store(
        settings.postgres,
        consumer_group=settings.ingest.consumer_group,
        metrics=process.metrics,
        checkpoint=checkpoint,
        refreshed_changes=settings.ingest.refreshed_changes,
    ) as store:
        await _require_current_schema(settings)
        yield store


@asynccontextmanager
async def _open_current_link_store(
    process: Process, checkpoint: Checkpoint | None
) -> "AsyncIterator[PostgresLinkStore]":
    from newsloom.adapters.postgres.linking import open_link_store  # noqa: PLC0415 - see above

    async with open_link_store(process.settings.postgres, checkpoint) as store:
        await _require_current_schema(process.settings)
        yield store


async def relink_stored(
    settings: Settings,
    *,
    window: timedelta,
    thresholds: Mapping[str, float],
    dry_run: bool,
    on_progress: Callable[[int], None],
) -> "RelinkReport":
    """Recompute the copies and stories of everything stored; see `newsloom.relinking`.

    `thresholds`: any of jaccard, containment (of copies), threshold (of stories).
    """
    from newsloom.adapters.postgres.linking import open_link_store  # noqa: PLC0415 - see above
    from newsloom.core.copies import DEFAULT_COPY_CONFIG  # noqa: PLC0415
    from newsloom.core.stories import DEFAULT_STORY_CONFIG  # noqa: PLC0415
    from newsloom.relinking import relink  # noqa: PLC0415

    copies, stories = DEFAULT_COPY_CONFIG, DEFAULT_STORY_CONFIG
    # One statement reads everything, one transaction writes everything.
    patient = settings.postgres.model_copy(update=dict.fromkeys(_RELINK_LIMITS, _RELINK_SECONDS))
    async with open_link_store(patient) as store:
        await _require_current_schema(settings)
        try:
            return await relink(
                store,
                owner_id=owner_id(),
                window=window,
                copies=replace(
                    copies,
                    jaccard=thresholds.get("jaccard", copies.jaccard),
                    containment=thresholds.get("containment", copies.containment),
                ),
                stories=replace(stories, threshold=thresholds.get("threshold", stories.threshold)),
                dry_run=dry_run,
                on_progress=on_progress,
            )
        except LinkerRunning:
            message = "A linker is running: stop `newsloom link` or `newsloom run` first."
            raise SettingsError(message) from None


async def _require_current_schema(settings: Settings) -> None:
    dsn = settings.postgres.dsn
    assert dsn is not None  # noqa: S101 - `with_addresses` has seen to it
    steps = await schema_status(dsn.get_secret_value())
    missing = sum(not step.is_applied for step in steps)
    if missing:
        message = f"{missing} migrations are missing in Postgres: run `newsloom migrate`."
        raise SettingsError(message)
    if await change_log_is_foreign(settings.postgres):
        # Rows written now would sort before what its readers have read, and be missed.
        message = "This database was restored from a dump: run `newsloom maintain --after-restore`."
        raise SettingsError(message)


async def _when_idle(
    process: Process,
    running: _Running,
    roles: Collection[Role],
    exit_after_seconds: float | None,
    then: Callable[[int], Awaitable[None]] | None,
) -> None:
    """Wait until nothing is left to do and nothing more came for a while; then tell, then stop."""
    await _until_idle(running, roles, exit_after_seconds or 0.0, process.stop)
    if then is not None and not process.stop.is_set():
        await then(process.admin_port)
    if exit_after_seconds is not None:
        process.stop.set()


async def _until_idle(
    running: _Running, roles: Collection[Role], seconds: float, stop: asyncio.Event
) -> None:
    loop = asyncio.get_running_loop()
    busy_at = loop.time()
    committed = -1
    linked_at: float | None = None
    while not await wait_or_stop(min(0.2, max(seconds, 0.05)), stop):
        if Role.INGEST in roles:
            ingest = running.ingest
            if ingest is None or not await _is_idle(ingest) or ingest.committed != committed:
                busy_at, committed = loop.time(), ingest.committed if ingest else -1
                continue
        if Role.LINK in roles and (
            running.linker is None or running.linker.empty_read_at <= busy_at
        ):
            linked_at = None
            continue
        # What the linker wrote last may have come after the relay's last look.
        linked_at = linked_at or loop.time()
        if Role.RELAY in roles and (
            running.relay is None or running.relay.empty_read_at <= linked_at
        ):
            continue
        if loop.time() - busy_at >= seconds:
            return


async def _is_idle(ingest: Ingest) -> bool:
    try:
        return await ingest.is_idle()
    except Unavailable:
        return False


def _nothing() -> None:
    """Leave the watchdog to ingest, whose progress it watches."""
