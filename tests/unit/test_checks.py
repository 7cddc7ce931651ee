"""What doctor makes of the facts it is given."""

from collections.abc import Sequence
from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest

from newsloom.adapters.kafka.inspection import GroupFacts, KafkaFacts, ReadFacts
from newsloom.adapters.kafka.topics import TopicState
from newsloom.adapters.migrations import MigrationStatus
from newsloom.adapters.network import Endpoint
from newsloom.adapters.postgres.inspection import RIGHTS, PostgresFacts
from newsloom.checks import judging
from newsloom.checks.findings import Fault, Finding, State, exit_code, fail, ok, warn
from newsloom.cli.doctor import ROLES

NOW = datetime(2026, 11, 23, tzinfo=UTC)
POSTGRES = PostgresFacts(
    version="18.6",
    version_number=180_006,
    encoding="UTF8",
    user="ingest",
    is_superuser=False,
    is_standby=False,
    is_pooled=False,
    tls_version="TLSv1.3",
    clock_offset_seconds=0.01,
    round_trip_seconds=0.001,
    missing_rights=(),
    excess_rights=(),
    parked=(),
    oldest_transaction_seconds=0.0,
    free_connections=50,
)
KAFKA = KafkaFacts(
    cluster_id="c",
    brokers=3,
    topics=(TopicState("articles", 4, 3), TopicState("changes", 4, 3)),
    group=GroupFacts("Stable", 2),
    reading=ReadFacts(last_timestamp_ms=int(NOW.timestamp() * 1000)),
    has_authorizer=True,
)


def worst(findings: Sequence[Finding]) -> State:
    order = [State.OK, State.WARN, State.FAIL]
    return max((finding.state for finding in findings), key=order.index)


@pytest.mark.parametrize(
    ("facts", "state"),
    [
        (POSTGRES, State.OK),
        (replace(POSTGRES, version_number=160_004, version="16.4"), State.WARN),
        (replace(POSTGRES, version_number=150_000, version="15.0"), State.FAIL),
        (replace(POSTGRES, encoding="LATIN1"), State.FAIL),
        (replace(POSTGRES, is_standby=True), State.FAIL),
        (replace(POSTGRES, is_pooled=True), State.FAIL),
        (replace(POSTGRES, tls_version=None), State.WARN),
        (replace(POSTGRES, clock_offset_seconds=-30.0), State.WARN),
        # What a slow answer cannot tell is not held against the clock.
        (replace(POSTGRES, clock_offset_seconds=3.0, round_trip_seconds=4.0), State.OK),
        (replace(POSTGRES, missing_rights=["INSERT on newsloom.articles"]), State.FAIL),
        (replace(POSTGRES, excess_rights=["TRUNCATE on newsloom.articles"]), State.WARN),
        (replace(POSTGRES, is_superuser=True), State.WARN),
        (replace(POSTGRES, oldest_transaction_seconds=3600.0), State.WARN),
        (replace(POSTGRES, free_connections=0), State.WARN),
    ],
)
def test_what_is_wrong_with_postgres_is_found(facts: PostgresFacts, state: State) -> None:
    assert (
        worst(list(judging.postgres(facts, ["ingest"], is_loopback=False, is_embedded=False)))
        is state
    )


@pytest.mark.parametrize(
    ("facts", "state"),
    [
        (KAFKA, State.OK),
        (replace(KAFKA, has_authorizer=None), State.OK),
        (replace(KAFKA, has_authorizer=False), State.WARN),
        (replace(KAFKA, topics=(TopicState("articles", 0, 0),)), State.FAIL),
        (replace(KAFKA, topics=(TopicState("articles", 4, 1),)), State.WARN),
        (replace(KAFKA, topics=(TopicState("articles", 4, 1),), brokers=1), State.OK),
        (replace(KAFKA, topics=(*KAFKA.topics, TopicState("other", 0, 0))), State.WARN),
        (
            replace(KAFKA, topics=(TopicState("articles", 4, 3, problems=("is compacted",)),)),
            State.WARN,
        ),
        (replace(KAFKA, reading=ReadFacts("TopicAuthorizationFailedError")), State.FAIL),
        (replace(KAFKA, reading=ReadFacts(None, None)), State.OK),
        (
            replace(KAFKA, reading=ReadFacts(None, int(NOW.timestamp() * 1000) + 60_000)),
            State.WARN,
        ),
        (replace(KAFKA, group=GroupFacts(error="GroupAuthorizationFailedError")), State.FAIL),
        (replace(KAFKA, group=GroupFacts("Empty", 0)), State.OK),
    ],
)
def test_what_is_wrong_with_kafka_is_found(facts: KafkaFacts, state: State) -> None:
    assert worst(list(judging.kafka(facts, "newsloom", NOW))) is state


def test_a_certificate_that_soon_ends_is_told_in_time() -> None:
    found = Endpoint("broker", 9093, None, "TLSv1.3", NOW + timedelta(days=13))
    assert judging.endpoint(found, NOW).state is State.WARN
    later = replace(found, certificate_ends_at=NOW + timedelta(days=15))
    assert judging.endpoint(later, NOW).state is State.OK


def test_missing_and_edited_migrations_are_told_apart() -> None:
    applied = [MigrationStatus("1_a.sql", is_applied=True)]
    assert worst(list(judging.schema(applied, []))) is State.OK
    assert worst(list(judging.schema(applied, ["1_a.sql"]))) is State.WARN
    pending = [*applied, MigrationStatus("2_b.sql", is_applied=False)]
    assert worst(list(judging.schema(pending, []))) is State.FAIL


@pytest.mark.parametrize("code", ["28P01", "3D000", "ConnectionRefusedError", "XX000", "Whatever"])
def test_every_reason_for_an_absence_comes_with_advice(code: str) -> None:
    for finding in (judging.postgres_away(code, "postgresql://h/d"), judging.kafka_away(code)):
        assert finding.advice
        assert code in finding.message
        assert finding.fault is Fault.DEPENDENCY


@pytest.mark.parametrize(
    ("findings", "code"),
    [
        ([], 0),
        ([ok("a", ""), warn("b", "", "do")], 0),
        ([fail("a", "", "do")], 1),
        ([fail("a", "", "do"), fail("b", "", "do", Fault.DEPENDENCY)], 3),
        ([fail("b", "", "do", Fault.DEPENDENCY), fail("a", "", "do", Fault.CONFIGURATION)], 2),
    ],
)
def test_the_exit_code_names_what_has_to_be_mended_first(
    findings: list[Finding], code: int
) -> None:
    assert exit_code(findings) == code


def test_doctor_knows_the_rights_of_each_role_that_it_offers() -> None:
    assert set(ROLES) == set(RIGHTS)
