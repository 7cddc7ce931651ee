"""The composition root: the only file that names concrete adapters and puts a process together."""

import asyncio
import logging
import os
import random
import signal
import socket
import uuid
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine, Iterator, Mapping
from contextlib import (
    AbstractAsyncContextManager,
    AsyncExitStack,
    asynccontextmanager,
    contextmanager,
    suppress,
)
from dataclasses import dataclass
from enum import StrEnum
from importlib.metadata import version
from typing import Any, TypeVar

from newsloom.adapters.embedded import EmbeddedServices
from newsloom.adapters.http import admin_routes, serve_admin
from newsloom.adapters.kafka.consumer import open_source
from newsloom.adapters.migrations import status as schema_status
from newsloom.adapters.postgres import PostgresStore, open_store
from newsloom.backoff import delays, wait_or_stop
from newsloom.decoding import decode_deliveries
from newsloom.errors import Unavailable
from newsloom.failpoints import checkpoint_from_env
from newsloom.health import Health
from newsloom.ingest import Ingest
from newsloom.metrics import Metrics, process_registry, watch_loop_lag
from newsloom.partition_owner import PartitionOwner
from newsloom.settings import Settings, SettingsError
from newsloom.status import open_status
from newsloom.watchdog import start_watchdog

logger = logging.getLogger(__name__)

T = TypeVar("T")

START_PATIENCE_SECONDS = 30.0
"""How long a starting role waits for a dependency before it exits with 3."""


class Role(StrEnum):
    """What a process does. `newsloom run` does all of it."""

    INGEST = "ingest"


@dataclass(frozen=True, slots=True)
class RunSummary:
    """What a process did between start and stop."""

    committed: int


@dataclass(frozen=True, slots=True)
class Process:
    """What every role of one process shares."""

    settings: Settings
    metrics: Metrics
    health: Health
    stop: asyncio.Event
    admin_port: int


def run(main: Coroutine[Any, Any, Any]) -> Any:
    """Run a coroutine on the fastest event loop that is installed."""
    try:
        import uvloop  # noqa: PLC0415 - not on every platform
    except ImportError:
        factory: Callable[[], asyncio.AbstractEventLoop] | None = None
    else:
        factory = uvloop.new_event_loop
    with asyncio.Runner(loop_factory=factory) as runner:
        return runner.run(main)


def with_addresses(settings: Settings, *, tell: Callable[[str], None]) -> Settings:
    """Fill in the embedded services' addresses where none are set, and say so.

    Raises SettingsError when something is missing and the embedded services do not run.
    """
    missing = [
        name
        for name, value in (
            ("NEWSLOOM_KAFKA_BOOTSTRAP_SERVERS", settings.kafka.bootstrap_servers),
            ("NEWSLOOM_POSTGRES_DSN", settings.postgres.dsn),
        )
        if value is None
    ]
    if not missing:
        return settings
    services = EmbeddedServices(settings.services_dir)
    addresses = services.status().addresses
    if addresses is None:
        message = (
            f"{' and '.join(missing)} not set, and the embedded services do not run: "
            "set them, or start `newsloom services start`."
        )
        raise SettingsError(message)
    tell(f"using the embedded services in {services.folder}")
    return settings.with_services(
        kafka_bootstrap_servers=addresses.kafka_bootstrap_servers,
        postgres_dsn=addresses.postgres_dsn,
    )


async def run_roles(
    settings: Settings,
    env: Mapping[str, str],
    *,
    exit_when_idle_seconds: float | None = None,
    on_idle: Callable[[int], Awaitable[None]] | None = None,
) -> RunSummary:
    """Run the roles of a process until a signal or (if asked for) idleness.

    `on_idle(admin port)` is called once, when all that Kafka held has been applied. Raises
    Unavailable when a dependency cannot be reached at the start.
    """
    stop = asyncio.Event()
    with stop_on_signals(stop):
        async with _process(settings, stop) as process:
            idle = _Idle(exit_when_idle_seconds, on_idle)
            return await _run_ingest(process, env, idle)


async def _run_ingest(process: Process, env: Mapping[str, str], idle: "_Idle") -> RunSummary:
    settings, health, metrics = process.settings, process.health, process.metrics
    checkpoint = checkpoint_from_env(env, settings)
    async with _patiently(
        process, "postgres", lambda: _open_current_store(process, checkpoint)
    ) as store:
        owner = PartitionOwner(
            store=store,
            decode=decode_deliveries,
            settings=settings.ingest,
            metrics=metrics,
            health=health,
            owner_id=owner_id(),
            jitter=random.random,
        )
        ingest = Ingest(owner, settings=settings.ingest, metrics=metrics, health=health)
        topics = [settings.kafka.articles_topic]
        async with (
            _patiently(
                process,
                "kafka",
                lambda: open_source(settings.kafka, settings.ingest, topics, ingest),
            ) as source,
            asyncio.TaskGroup() as tasks,
        ):
            helpers = [
                tasks.create_task(watch_loop_lag(metrics, process.stop), name="loop-lag"),
            ]
            if idle.is_wanted:
                helpers.append(tasks.create_task(idle.watch(ingest, process), name="idle"))
            await ingest.run(source, process.stop)
            for helper in helpers:
                helper.cancel()
        return RunSummary(committed=ingest.committed)


@asynccontextmanager
async def _process(settings: Settings, stop: asyncio.Event) -> AsyncIterator[Process]:
    """Open the admin port and the watchdog: they are up before the consumer joins."""
    health = Health(
        needs=("kafka", "postgres"),
        owns_partitions=True,
        stall_after_seconds=settings.ingest.watchdog_seconds,
    )
    metrics = Metrics(process_registry(), version=version("newsloom"))
    admin = settings.admin
    async with (
        open_status(
            metrics.registry, health, settings.postgres, version=version("newsloom")
        ) as status,
        serve_admin(
            admin.host,
            admin.port,
            admin_routes(registry=metrics.registry, health=health, status=status),
            max_connections=admin.max_connections,
            read_timeout_seconds=admin.read_timeout_seconds,
        ) as port,
    ):
        logger.info("admin port open", extra={"host": admin.host, "port": port})
        start_watchdog(lambda: health.progress_age_seconds, settings.ingest.watchdog_seconds)
        yield Process(settings, metrics, health, stop, port)


@asynccontextmanager
async def _open_current_store(
    process: Process, checkpoint: Callable[[str], Any] | None
) -> AsyncIterator[PostgresStore]:
    settings = process.settings
    postgres = settings.postgres
    assert postgres.dsn is not None  # noqa: S101 - `with_addresses` has seen to it
    async with open_store(
        postgres,
        consumer_group=settings.ingest.consumer_group,
        metrics=process.metrics,
        checkpoint=checkpoint,
    ) as store:
        pending = [
            step.name
            for step in await schema_status(postgres.dsn.get_secret_value())
            if not step.is_applied
        ]
        if pending:
            message = f"{len(pending)} migrations are missing in Postgres: run `newsloom migrate`."
            raise SettingsError(message)
        yield store


@asynccontextmanager
async def _patiently(
    process: Process, dependency: str, open_it: Callable[[], AbstractAsyncContextManager[T]]
) -> AsyncIterator[T]:
    """Open a dependency, waiting for it for a while: in a deployment all start at once."""
    loop = asyncio.get_running_loop()
    deadline = loop.time() + START_PATIENCE_SECONDS
    waits = delays(0.2, 3.0, random.random)
    async with AsyncExitStack() as stack:
        opened: T | None = None
        while opened is None:
            try:
                opened = await stack.enter_async_context(open_it())
            except Unavailable as error:
                code = error.code
                process.health.away(dependency, code)
                if error.systemic or loop.time() > deadline or process.stop.is_set():
                    raise
            else:
                break
            logger.warning("waiting", extra={"dependency": dependency, "code": code})
            process.health.beat()
            await wait_or_stop(next(waits), process.stop)
        process.health.usable(dependency)
        yield opened


@dataclass(frozen=True, slots=True)
class _Idle:
    """What to do once everything in Kafka has been applied and nothing more came for a while."""

    exit_after_seconds: float | None
    then: Callable[[int], Awaitable[None]] | None

    @property
    def is_wanted(self) -> bool:
        return self.exit_after_seconds is not None or self.then is not None

    async def watch(self, ingest: Ingest, process: Process) -> None:
        await _until_idle(ingest, self.exit_after_seconds or 0.0, process.stop)
        if self.then is not None and not process.stop.is_set():
            await self.then(process.admin_port)
        if self.exit_after_seconds is not None:
            process.stop.set()


async def _until_idle(ingest: Ingest, seconds: float, stop: asyncio.Event) -> None:
    loop = asyncio.get_running_loop()
    idle_since: float | None = None
    committed = -1
    while not await wait_or_stop(min(0.2, max(seconds, 0.05)), stop):
        try:
            is_idle = await ingest.is_idle()
        except Unavailable:
            is_idle = False
        if not is_idle or ingest.committed != committed:
            idle_since, committed = None, ingest.committed
        elif idle_since is None:
            idle_since = loop.time()
        if idle_since is not None and loop.time() - idle_since >= seconds:
            return


@contextmanager
def stop_on_signals(stop: asyncio.Event) -> Iterator[None]:
    """Set `stop` on SIGTERM and SIGINT; a second one ends the process at once."""
    loop = asyncio.get_running_loop()
    signals = (signal.SIGTERM, signal.SIGINT)

    def asked(number: int) -> None:
        if stop.is_set():
            os._exit(128 + number)
        logger.info("stopping", extra={"signal": signal.Signals(number).name})
        stop.set()

    installed = []
    for number in signals:
        # Only the main thread may; tests run roles elsewhere too.
        with suppress(ValueError, RuntimeError, NotImplementedError):
            loop.add_signal_handler(number, asked, number)
            installed.append(number)
    try:
        yield
    finally:
        for number in installed:
            loop.remove_signal_handler(number)


def owner_id() -> str:
    """Name this process in the offset rows: for people who ask who owns a partition."""
    return f"{socket.gethostname()[:40]}/{os.getpid()}/{uuid.uuid4().hex[:8]}"
