"""The embedded Kafka and Postgres as one thing: what `newsloom services` and `demo` start."""

import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from enum import StrEnum
from pathlib import Path
from typing import Final

from newsloom.adapters.embedded.folders import (
    Report,
    be_quiet,
    default_cache,
    default_folder,
    exclusive,
)
from newsloom.adapters.embedded.kafka import EmbeddedKafka
from newsloom.adapters.embedded.postgres import EmbeddedPostgres

KAFKA_PORT: Final = 19192
POSTGRES_PORT: Final = 15432
"""First choices, off the usual ports: the machine's own Kafka or Postgres may have those."""


class ServiceState(StrEnum):
    """What `status` says of one service."""

    RUNNING = "running"
    NOT_READY = "not ready"
    STOPPED = "stopped"


@dataclass(frozen=True, slots=True)
class ServiceAddresses:
    """Where clients connect. The DSN has the password in it, hence no repr."""

    kafka_bootstrap_servers: str
    postgres_dsn: str = field(repr=False)


@dataclass(frozen=True, slots=True)
class ServicesStatus:
    """The state of both services; `addresses` only if both run."""

    folder: Path
    kafka: ServiceState
    postgres: ServiceState
    addresses: ServiceAddresses | None


class EmbeddedServices:
    """Kafka and Postgres with their data below one folder; they outlive the process.

    Every method blocks; from async code call it through `asyncio.to_thread`. `start` and `stop` of
    several processes on one folder wait for each other. Each raises `EmbeddedServiceError`, an
    `Unavailable` whose text says what to do.
    """

    def __init__(
        self,
        folder: Path | None = None,
        *,
        kafka_port: int | None = None,
        postgres_port: int | None = None,
        cache: Path | None = None,
        report: Report = be_quiet,
    ) -> None:
        self.folder = (folder or default_folder(os.environ)).absolute()
        self._report = report
        self.kafka = EmbeddedKafka(
            self.folder / "kafka",
            cache=cache or default_cache(os.environ, self.folder),
            port=kafka_port,
            preferred_port=KAFKA_PORT,
            report=report,
        )
        self.postgres = EmbeddedPostgres(
            self.folder / "postgres",
            port=postgres_port,
            preferred_port=POSTGRES_PORT,
            report=report,
        )

    def start(self) -> ServiceAddresses:
        """Start what does not run, side by side; return when both answer.

        If one cannot be started, what this call started is stopped again.
        """
        with exclusive(self.folder, self._report):
            before = {service: service.running for service in (self.kafka, self.postgres)}
            with ThreadPoolExecutor(2, "start-service") as pool:
                kafka = pool.submit(self.kafka.start)
                postgres = pool.submit(self.postgres.start)
            try:
                return ServiceAddresses(kafka.result(), postgres.result())
            except BaseException:
                for service, was_running in before.items():
                    if not was_running:
                        service.stop()
                raise

    def stop(self) -> tuple[str, ...]:
        """Stop what runs; return the titles of what was stopped. Data stays."""
        if not self.folder.is_dir():
            return ()
        with exclusive(self.folder, self._report):
            stops: dict[str, Callable[[], bool]] = {
                self.kafka.title: self.kafka.stop,
                self.postgres.title: self.postgres.stop,
            }
            with ThreadPoolExecutor(2, "stop-service") as pool:
                results = {title: pool.submit(stop) for title, stop in stops.items()}
            return tuple(title for title, result in results.items() if result.result())

    def status(self) -> ServicesStatus:
        """Look, without waiting for anybody."""
        kafka, postgres = _state_of(self.kafka), _state_of(self.postgres)
        servers, dsn = self.kafka.bootstrap_servers, self.postgres.dsn
        addresses = None
        if kafka == postgres == ServiceState.RUNNING and servers is not None and dsn is not None:
            addresses = ServiceAddresses(servers, dsn)
        return ServicesStatus(self.folder, kafka, postgres, addresses)


def _state_of(service: EmbeddedKafka | EmbeddedPostgres) -> ServiceState:
    if not service.running:
        return ServiceState.STOPPED
    return ServiceState.RUNNING if service.ready() else ServiceState.NOT_READY
