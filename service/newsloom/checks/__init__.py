"""What `newsloom doctor` looks at: everything that a deployment needs, each within seconds.

`this_machine` checks what needs no connection; adapters collect facts about Kafka and Postgres,
`judging` says what they mean. No check raises, waits for long, or shows a secret.
"""

import asyncio
import logging
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from contextlib import suppress
from datetime import UTC, datetime

from newsloom.adapters import migrations
from newsloom.adapters.embedded import EmbeddedServices, ServicesStatus
from newsloom.adapters.kafka.client import client_options
from newsloom.adapters.kafka.inspection import inspect_kafka
from newsloom.adapters.kafka.topics import topic_specs
from newsloom.adapters.network import probe, resolves
from newsloom.adapters.postgres.inspection import inspect_postgres
from newsloom.checks import judging
from newsloom.checks.findings import Fault, Finding, State, exit_code, fail, ok, warn
from newsloom.checks.this_machine import check_admin_port, check_python, check_settings
from newsloom.errors import Unavailable
from newsloom.settings import Settings, is_loopback
from newsloom.settings.addresses import parse_dsn, split_servers

__all__ = ["Fault", "Finding", "State", "examine", "exit_code"]

CONNECT_SECONDS = 3.0
"""Longest wait for one connection."""

CHECK_SECONDS = 10.0
"""Longest wait for all that is asked of one dependency."""


async def examine(env: Mapping[str, str], roles: Sequence[str]) -> AsyncIterator[Finding]:
    """Yield every finding, as it comes. `roles`: what the user of Postgres is meant to do."""
    # What they would say is in the findings, in words for people.
    logging.getLogger("aiokafka").setLevel(logging.CRITICAL)
    logging.getLogger("asyncio").setLevel(logging.CRITICAL)
    for finding in check_python():
        yield finding
    settings, findings = check_settings(env)
    for finding in findings:
        yield finding
    if settings is None:
        return
    services = await asyncio.to_thread(EmbeddedServices(settings.services_dir).status)
    for finding in _services(settings, services):
        yield finding
    if services.addresses is not None:
        settings = settings.with_services(
            kafka_bootstrap_servers=services.addresses.kafka_bootstrap_servers,
            postgres_dsn=services.addresses.postgres_dsn,
        )
    embedded_dsn = services.addresses.postgres_dsn if services.addresses else None
    checks: list[Awaitable[list[Finding]]] = [
        _bounded(lambda: _kafka(settings), judging.kafka_away("TimeoutError")),
        _bounded(lambda: _postgres(settings, roles, embedded_dsn), _postgres_silent(settings)),
        _admin_port(settings),
    ]
    for done in [asyncio.ensure_future(check) for check in checks]:
        for finding in await done:
            yield finding


def _services(settings: Settings, found: ServicesStatus) -> Sequence[Finding]:
    names = {
        "NEWSLOOM_KAFKA_BOOTSTRAP_SERVERS": settings.kafka.bootstrap_servers,
        "NEWSLOOM_POSTGRES_DSN": settings.postgres.dsn,
    }
    missing = [name for name, value in names.items() if value is None]
    state = f"Kafka {found.kafka}, Postgres {found.postgres} in {found.folder}"
    if not missing:
        return [ok("embedded services", f"not used; {state}")]
    if found.addresses is None:
        return [
            fail(
                "embedded services",
                f"{' and '.join(missing)} not set, and the embedded services do not run ({state})",
                "set them, or run `newsloom services start`",
                Fault.CONFIGURATION,
            )
        ]
    return [ok("embedded services", f"used, because {' and '.join(missing)} not set; {state}")]


async def _bounded(
    check: Callable[[], Awaitable[list[Finding]]], when_late: Finding
) -> list[Finding]:
    """Run a check that must be over in time, whatever its client library does with a cancel."""
    task = asyncio.ensure_future(check())
    done, _ = await asyncio.wait({task}, timeout=CHECK_SECONDS)
    if not done:
        task.cancel()
        return [when_late]
    try:
        return task.result()
    except Exception as error:  # noqa: BLE001 - a doctor that dies of what it finds helps nobody
        name = type(error).__name__
        return [fail(when_late.check, f"the check itself failed ({name})", "report this as a bug")]


async def _kafka(settings: Settings) -> list[Finding]:
    kafka, now = settings.kafka, datetime.now(UTC)
    if kafka.bootstrap_servers is None:
        return []
    kafka = kafka.model_copy(update={"request_timeout_seconds": CONNECT_SECONDS})
    try:
        context = client_options(kafka).get("ssl_context")
    except OSError as error:
        return [
            fail(
                "kafka tls",
                f"a certificate or key file cannot be read ({type(error).__name__})",
                "correct NEWSLOOM_KAFKA_SSL_CA_FILE, _CERTIFICATE_FILE and _KEY_FILE",
                Fault.CONFIGURATION,
            )
        ]
    servers = list(split_servers(settings.kafka.bootstrap_servers or ""))
    probes = [probe(host, port, CONNECT_SECONDS, context=context) for host, port in servers]
    found = await asyncio.gather(*probes)
    findings = [judging.endpoint(endpoint, now) for endpoint in found]
    usable = [endpoint.address for endpoint in found if endpoint.problem is None]
    if not usable:
        return findings
    kafka = kafka.model_copy(update={"bootstrap_servers": ",".join(usable)})
    group = settings.ingest.consumer_group
    try:
        facts = await inspect_kafka(kafka, topic_specs(kafka, 1), group)
    except Unavailable as error:
        return [*findings, judging.kafka_away(error.code, uses_sasl=kafka.uses_sasl)]
    return [*findings, *judging.kafka(facts, group, datetime.now(UTC))]


async def _postgres(
    settings: Settings, roles: Sequence[str], embedded_dsn: str | None
) -> list[Finding]:
    postgres = settings.postgres
    if postgres.dsn is None:
        return []
    dsn, shown = postgres.dsn.get_secret_value(), postgres.masked_dsn()
    hosts = parse_dsn(dsn).hosts
    for host in hosts:
        if not host.startswith("/") and not await resolves(host, CONNECT_SECONDS):
            return [judging.postgres_away("gaierror", shown)]
    try:
        facts = await inspect_postgres(postgres, roles, CONNECT_SECONDS)
    except Unavailable as error:
        return [judging.postgres_away(error.code, shown)]
    findings = list(
        judging.postgres(
            facts,
            roles,
            is_loopback=all(map(is_loopback, hosts)),
            is_embedded=dsn == embedded_dsn,
        )
    )
    return [*await _schema(dsn), *findings]


async def _schema(dsn: str) -> list[Finding]:
    edited: Sequence[str] = ()
    with suppress(OSError):  # an installation without the list of hashes
        edited = migrations.edited_migrations()
    try:
        async with asyncio.timeout(CONNECT_SECONDS):
            found = await migrations.status(dsn)
    except TimeoutError:
        return [warn("schema", "not known: Postgres took too long", "run doctor again")]
    except Exception as error:  # noqa: BLE001 - by its class, whatever it is
        code = getattr(error, "sqlstate", None) or type(error).__name__
        return [
            warn(
                "schema",
                f"this user may not read schema_migrations ({code})",
                "run `newsloom migrate --status` as the owner",
            )
        ]
    return list(judging.schema(found, edited))


def _postgres_silent(settings: Settings) -> Finding:
    return judging.postgres_away("TimeoutError", settings.postgres.masked_dsn())


async def _admin_port(settings: Settings) -> list[Finding]:
    return [await check_admin_port(settings.admin, CONNECT_SECONDS)]
