"""From facts to findings: what is wrong with a Kafka or a Postgres, and what to do. Pure."""

from collections.abc import Callable, Iterator, Sequence
from datetime import datetime, timedelta

from newsloom.adapters.kafka.inspection import KafkaFacts
from newsloom.adapters.kafka.topics import TopicState
from newsloom.adapters.migrations import MigrationStatus
from newsloom.adapters.network import Endpoint
from newsloom.adapters.postgres.inspection import PostgresFacts
from newsloom.checks.findings import Fault, Finding, fail, ok, warn

OLDEST_POSTGRES = 160_000
WANTED_POSTGRES = 180_000
CLOCK_TOLERANCE_SECONDS = 2.0
OLD_TRANSACTION_SECONDS = 300.0
CERTIFICATE_NOTICE = timedelta(days=14)
FEW_CONNECTIONS = 5


def endpoint(found: Endpoint, now: datetime) -> Finding:
    """One bootstrap server."""
    check, address = "kafka address", found.address
    if found.problem is not None:
        return fail(
            check,
            f"{address}: {found.problem}",
            "start that broker, or correct NEWSLOOM_KAFKA_BOOTSTRAP_SERVERS and its TLS settings",
            Fault.DEPENDENCY,
        )
    if found.tls_version is None:
        return ok(check, f"{address} answers, without TLS")
    ends = found.certificate_ends_at
    if ends is not None and ends - now < CERTIFICATE_NOTICE:
        return warn(
            check,
            f"{address} answers ({found.tls_version}); its certificate ends {ends:%Y-%m-%d}",
            "renew the broker's certificate before then",
        )
    until = f", certificate until {ends:%Y-%m-%d}" if ends else ""
    return ok(check, f"{address} answers ({found.tls_version}{until})")


KAFKA_ADVICE = {
    "TopicAuthorizationFailedError": "grant this user READ and DESCRIBE on the Kafka topic",
    "GroupAuthorizationFailedError": "grant this user READ on the consumer group",
    "AuthenticationFailedError": "correct NEWSLOOM_KAFKA_SASL_USERNAME and _PASSWORD_FILE",
    "SaslAuthenticationFailed": "correct NEWSLOOM_KAFKA_SASL_USERNAME and _PASSWORD_FILE",
    "TimeoutError": "look at the broker: it accepts connections and does not answer",
}


def kafka_away(code: str, *, uses_sasl: bool = False) -> Finding:
    """Kafka could not be asked; `code` is the class of the error."""
    advice = "check that NEWSLOOM_KAFKA_SECURITY_PROTOCOL is what the listener speaks"
    if uses_sasl:
        # The client calls a refused password a failed connection, too.
        advice += ", and that NEWSLOOM_KAFKA_SASL_USERNAME and _PASSWORD_FILE are right"
    advice = KAFKA_ADVICE.get(code, advice)
    return fail("kafka", f"cannot be used ({code})", advice, Fault.DEPENDENCY)


def kafka(facts: KafkaFacts, group: str, now: datetime) -> Iterator[Finding]:
    """A cluster that answers. The first of its Kafka topics is the one that ingest reads."""
    brokers = "1 broker" if facts.brokers == 1 else f"{facts.brokers} brokers"
    yield ok("kafka", f"cluster {facts.cluster_id}, {brokers}")
    articles, *others = facts.topics
    yield topic(articles, facts.brokers, is_needed=True)
    yield from (topic(state, facts.brokers, is_needed=False) for state in others)
    if articles.partitions:
        yield from reading(facts, articles.name, now)
    yield consumer_group(facts, group)
    yield authorizer(facts)


def topic(state: TopicState, brokers: int, *, is_needed: bool) -> Finding:
    """One Kafka topic."""
    check = "kafka topic"
    size = f"{state.partitions} partitions x {state.replication_factor}"
    if not state.partitions:
        report: Callable[[str, str, str], Finding] = fail if is_needed else warn
        return report(
            check,
            f"{state.name} does not exist, or this user may not see it",
            "run `newsloom topics apply`, or grant DESCRIBE on it",
        )
    if state.problems:
        return warn(
            check,
            f"{state.name}: {'; '.join(state.problems)}",
            "change it with kafka-configs.sh; `newsloom topics show` tells when it is right",
        )
    if state.replication_factor < min(3, brokers):
        return warn(
            check,
            f"{state.name}: {size}; losing one broker loses records",
            "raise its replication factor to 3 with kafka-reassign-partitions.sh",
        )
    return ok(check, f"{state.name}: {size}")


def reading(facts: KafkaFacts, name: str, now: datetime) -> Iterator[Finding]:
    """Whether records come out, and what their timestamps tell of the broker's clock."""
    error = facts.reading.error
    if error is not None:
        advice = KAFKA_ADVICE.get(error, "look at the broker's log")
        yield fail("kafka read", f"{name} cannot be read ({error})", advice)
        return
    yield ok("kafka read", f"{name} can be read")
    if facts.reading.last_timestamp_ms is None:
        yield ok("kafka clock", "not known: the Kafka topic holds no record")
        return
    ahead = facts.reading.last_timestamp_ms / 1000 - now.timestamp()
    if ahead > CLOCK_TOLERANCE_SECONDS:
        yield warn(
            "kafka clock",
            f"the newest record is {ahead:.0f} s in our future",
            "let NTP set the clocks of brokers and of this machine; lag in seconds is wrong",
        )
    else:
        yield ok("kafka clock", "not ahead of ours, as far as the newest record tells")


def consumer_group(facts: KafkaFacts, group: str) -> Finding:
    """The consumer group."""
    found = facts.group
    if found.error is not None:
        advice = KAFKA_ADVICE.get(found.error, "look at the broker's log")
        return fail("kafka group", f"{group} cannot be read ({found.error})", advice)
    if not found.members:
        return ok("kafka group", f"{group} has no members: no ingest is running")
    return ok("kafka group", f"{group}: {found.members} members, {found.state.lower()}")


def authorizer(facts: KafkaFacts) -> Finding:
    """Whether the brokers ask who may do what."""
    if facts.has_authorizer is None:
        return ok("kafka rights", "the broker does not say whether it checks rights")
    if facts.has_authorizer:
        return ok("kafka rights", "the broker checks rights (ACLs)")
    return warn(
        "kafka rights",
        "the broker checks no rights: whoever reaches it may write articles",
        "outside of a test machine set authorizer.class.name and ACLs (SECURITY.md)",
    )


POSTGRES_ADVICE = {
    "28P01": ("user or password is wrong", "correct NEWSLOOM_POSTGRES_DSN"),
    "28000": ("this user may not connect", "let pg_hba.conf accept it, over TLS"),
    "3D000": ("the database does not exist", "create it, or correct NEWSLOOM_POSTGRES_DSN"),
    "53300": ("no connection is free", "raise max_connections or lower the pools"),
    "57P03": ("it is starting or stopping", "wait, then look at its log"),
    "ConnectionRefusedError": ("nothing listens there", "start it, or correct the DSN"),
    "TimeoutError": ("it does not answer", "look at the network and the server"),
    "gaierror": ("its name is unknown here", "correct the host in NEWSLOOM_POSTGRES_DSN"),
    "SSLCertVerificationError": (
        "its certificate is refused",
        "the DSN's host must be in the certificate, and sslrootcert must have signed it",
    ),
    "ConnectionError": ("it refuses TLS", "switch TLS on in the server (ssl = on)"),
    "42501": ("this user lacks a right", "grant it the role that it needs"),
}


def postgres_away(code: str, where: str) -> Finding:
    """Postgres could not be asked. `code`: SQLSTATE or class; `where`: the masked DSN."""
    meaning, advice = POSTGRES_ADVICE.get(code, ("it cannot be used", "look at the server's log"))
    return fail("postgres", f"{where}: {meaning} ({code})", advice, Fault.DEPENDENCY)


def postgres(
    facts: PostgresFacts, roles: Sequence[str], *, is_loopback: bool, is_embedded: bool
) -> Iterator[Finding]:
    """A server that answers; `roles` is what its user is meant to do."""
    yield _version(facts)
    if facts.encoding != "UTF8":
        yield fail(
            "postgres",
            f"the database is encoded as {facts.encoding}",
            "create it anew with ENCODING 'UTF8'",
        )
    if facts.is_standby:
        yield fail("postgres", "this server is a read-only standby", "name the primary in the DSN")
    if facts.is_pooled:
        yield fail(
            "postgres",
            "a pooler changes the connection between statements",
            "use session pooling, or connect directly",
        )
    yield _tls(facts, is_loopback=is_loopback)
    yield _clock(facts)
    yield from _rights(facts, roles, is_embedded=is_embedded)
    yield from _state(facts)


def _version(facts: PostgresFacts) -> Finding:
    if facts.version_number < OLDEST_POSTGRES:
        return fail("postgres", f"PostgreSQL {facts.version}", "upgrade it: 18 is what is tested")
    if facts.version_number < WANTED_POSTGRES:
        return warn(
            "postgres",
            f"PostgreSQL {facts.version} should do",
            "upgrade to 18 when you can: that is what newsloom is tested with",
        )
    return ok("postgres", f"PostgreSQL {facts.version}, {facts.encoding}, user {facts.user}")


def _tls(facts: PostgresFacts, *, is_loopback: bool) -> Finding:
    if facts.tls_version is not None:
        return ok("postgres tls", facts.tls_version)
    if is_loopback:
        return ok("postgres tls", "none, which is fine on this machine")
    return warn(
        "postgres tls",
        "none: password and articles cross the network unencrypted",
        "set sslmode=verify-full and sslrootcert in NEWSLOOM_POSTGRES_DSN",
    )


def _clock(facts: PostgresFacts) -> Finding:
    offset, doubt = facts.clock_offset_seconds, facts.round_trip_seconds / 2
    if abs(offset) - doubt > CLOCK_TOLERANCE_SECONDS:
        return warn(
            "postgres clock",
            f"{offset:+.1f} s against ours",
            "let NTP set both clocks; lag and end-to-end times are wrong",
        )
    return ok("postgres clock", f"{offset:+.3f} s against ours")


def _rights(facts: PostgresFacts, roles: Sequence[str], *, is_embedded: bool) -> Iterator[Finding]:
    check, job = "postgres rights", " and ".join(roles)
    groups = ", ".join(f"newsloom_{role}" for role in roles)
    need = "needs" if len(roles) == 1 else "need"
    if facts.missing_rights:
        yield fail(
            check,
            f"for {job} {facts.user} lacks {_some(facts.missing_rights)}",
            f"as an administrator: GRANT {groups} TO {facts.user};"
            " another role's login is checked with --role",
        )
    elif is_embedded:
        yield ok(check, "the embedded server's own user may do everything")
    elif facts.is_superuser or facts.excess_rights:
        what = "a superuser" if facts.is_superuser else f"allowed {_some(facts.excess_rights)}"
        yield warn(
            check,
            f"{facts.user} is {what}, more than {job} {need}",
            f"use a login role that is only a member of {groups}",
        )
    else:
        yield ok(check, f"{facts.user} has what {job} {need}, and no more")


def _some(names: Sequence[str]) -> str:
    shown = ", ".join(names[:4])
    more = len(names) - 4
    return f"{shown} and {more} more" if more > 0 else shown


def _state(facts: PostgresFacts) -> Iterator[Finding]:
    for parked in facts.parked or ():
        yield warn(
            "parked",
            f"{parked.topic}/{parked.partition} waits for an operator ({parked.reason})",
            "see ops/runbook.md, then `newsloom offsets show`",
        )
    if facts.oldest_transaction_seconds > OLD_TRANSACTION_SECONDS:
        yield warn(
            "postgres",
            f"a transaction is open for {facts.oldest_transaction_seconds:.0f} s",
            "end it (pg_stat_activity): it holds the change log's readers and vacuum back",
        )
    if facts.free_connections < FEW_CONNECTIONS:
        yield warn(
            "postgres",
            f"{max(0, facts.free_connections)} connections are free",
            "raise max_connections or lower NEWSLOOM_POSTGRES_POOL_MAX_CONNECTIONS",
        )


def schema(found: Sequence[MigrationStatus], edited: Sequence[str]) -> Iterator[Finding]:
    """The migrations."""
    pending = [migration.name for migration in found if not migration.is_applied]
    if pending:
        yield fail(
            "schema",
            f"{len(pending)} of {len(found)} migrations are missing, first {pending[0]}",
            "run `newsloom migrate`",
        )
    else:
        yield ok("schema", f"all {len(found)} migrations are applied")
    if edited:
        yield warn(
            "schema",
            f"edited after their release: {_some(edited)}",
            "restore these files; a change belongs in a new migration",
        )
