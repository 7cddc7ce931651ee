"""What every role runs in: event loop, signals, admin port, watchdog, patience at the start."""

import asyncio
import gc
import logging
import os
import random
import signal
import socket
import uuid
from collections.abc import AsyncIterator, Callable, Collection, Coroutine, Iterator, Sequence
from contextlib import (
    AbstractAsyncContextManager,
    AsyncExitStack,
    asynccontextmanager,
    contextmanager,
    suppress,
)
from dataclasses import dataclass
from importlib.metadata import version
from typing import Any, TypeVar

from newsloom.adapters.embedded import EmbeddedServices
from newsloom.adapters.http import admin_routes, serve_admin
from newsloom.backoff import delays, wait_or_stop
from newsloom.errors import Unavailable
from newsloom.health import Health
from newsloom.metrics import Metrics, process_registry
from newsloom.settings import Settings, SettingsError
from newsloom.status import open_status
from newsloom.watchdog import start_watchdog

logger = logging.getLogger(__name__)

T = TypeVar("T")

_GARBAGE_THRESHOLD = 100_000

START_PATIENCE_SECONDS = 30.0
"""How long a starting role waits for a dependency before it exits with 3."""


@dataclass(frozen=True, slots=True)
class Process:
    """What every role of one process shares."""

    settings: Settings
    metrics: Metrics
    health: Health
    stop: asyncio.Event
    admin_port: int


def run(main: Coroutine[Any, Any, Any]) -> Any:
    """Run a coroutine on the fastest event loop that is installed, and rarely look for garbage.

    What is imported stays for ever, and a batch is many thousand objects without a cycle among
    them: at Python's own pace, looking for cycles costs a fifth of ingest's time.
    """
    gc.freeze()
    gc.set_threshold(_GARBAGE_THRESHOLD)
    try:
        import uvloop  # noqa: PLC0415 - not on every platform
    except ImportError:
        factory: Callable[[], asyncio.AbstractEventLoop] | None = None
    else:
        factory = uvloop.new_event_loop
    with asyncio.Runner(loop_factory=factory) as runner:
        return runner.run(main)


def with_addresses(
    settings: Settings,
    *,
    tell: Callable[[str], None],
    needs: Collection[str] = ("kafka", "postgres"),
) -> Settings:
    """Fill in the embedded services' addresses where those of `needs` are not set, and say so.

    Raises SettingsError when something is missing and the embedded services do not run.
    """
    missing = [
        name
        for dependency, name, value in (
            ("kafka", "NEWSLOOM_KAFKA_BOOTSTRAP_SERVERS", settings.kafka.bootstrap_servers),
            ("postgres", "NEWSLOOM_POSTGRES_DSN", settings.postgres.dsn),
        )
        if dependency in needs and value is None
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


@asynccontextmanager
async def open_process(
    settings: Settings, stop: asyncio.Event, *, needs: Sequence[str], owns_partitions: bool
) -> AsyncIterator[Process]:
    """Open the admin port and the watchdog: they are up before any role begins."""
    health = Health(
        needs=needs,
        owns_partitions=owns_partitions,
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
async def patiently(
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
