"""`newsloom doctor` as an operator meets it: what it finds, what it exits with, what it hides."""

import asyncio
import socket
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from urllib.parse import urlsplit, urlunsplit

import pytest
from pydantic import SecretStr

from newsloom.adapters.postgres.inspection import inspect_postgres
from newsloom.settings import PostgresSettings
from tests.support.blackbox import Finished, Line
from tests.support.kafka import MakeTopic
from tests.support.watching import PASSWORD as CANARY
from tests.support.watching import login_role


@pytest.fixture
async def line(kafka_bootstrap: str, make_topic: MakeTopic, database: str) -> Line:
    return Line(kafka_bootstrap, database, await make_topic(2, name="articles"), 2)


async def doctor(
    line: Line, *arguments: str, **extra: str
) -> tuple[Finished, dict[str, list[dict[str, str]]]]:
    """Run it; returns what it said by check. Whatever happens, it shows no secret."""
    done = await line.run("doctor", *arguments, "--format", "json", extra=extra)
    assert CANARY not in done.out + done.err
    assert done.code in (0, 1, 2, 3), done.told()
    findings: dict[str, list[dict[str, str]]] = {}
    for finding in done.lines():
        assert (finding["state"] == "ok") == (finding["advice"] == ""), finding
        findings.setdefault(finding["check"], []).append(finding)
    return done, findings


def states(findings: dict[str, list[dict[str, str]]], check: str) -> set[str]:
    return {finding["state"] for finding in findings[check]}


def text(findings: dict[str, list[dict[str, str]]], check: str) -> str:
    return " | ".join(finding["message"] for finding in findings[check])


async def test_a_deployment_that_is_well_exits_0(line: Line) -> None:
    done, findings = await doctor(line)
    assert done.code == 0, done.out
    for check in ("python", "libyaml", "kafka", "kafka read", "kafka group", "schema", "postgres"):
        assert states(findings, check) == {"ok"}, findings[check]
    assert "2 partitions" in text(findings, "kafka topic")
    # A test broker checks no rights, and a superuser may do too much: to know, not to stop for.
    assert states(findings, "kafka rights") == {"warn"}
    assert states(findings, "postgres rights") == {"warn"}


async def test_text_has_a_line_a_finding_and_the_advice_below_it(line: Line) -> None:
    done = await line.run("doctor")
    assert done.code == 0, done.told()
    assert "ok    libyaml" in done.out
    assert "-> outside of a test machine" in done.out


@pytest.mark.parametrize("role", ["ingest", "link", "relay", "admin", "reader"])
async def test_a_login_that_is_only_a_member_of_its_role_has_all_it_needs(
    line: Line, role: str
) -> None:
    async with login_role(line.dsn, f"newsloom_{role}") as dsn:
        done, findings = await doctor(line, "--role", role, NEWSLOOM_POSTGRES_DSN=dsn)
    assert done.code == 0, done.out
    assert text(findings, "postgres rights").endswith(f"has what {role} needs, and no more")
    expected = {"warn"} if role == "reader" else {"ok"}  # a reader has no business with migrations
    assert states(findings, "schema") == expected


@pytest.mark.parametrize(
    ("role", "other", "lacks"),
    [
        ("ingest", "reader", "INSERT on newsloom.articles"),
        ("link", "ingest", "INSERT on newsloom.copies"),
        ("relay", "link", "UPDATE(relayed_at) on newsloom.dead_letters"),
        ("admin", "relay", "INSERT on newsloom.audit_log"),
        ("reader", None, "SELECT on api.articles"),
    ],
)
async def test_a_login_is_told_which_rights_its_role_would_lack(
    line: Line, role: str, other: str | None, lacks: str
) -> None:
    member_of = f"newsloom_{other}" if other else "pg_read_all_settings"
    async with login_role(line.dsn, member_of) as dsn:
        done, findings = await doctor(line, "--role", role, NEWSLOOM_POSTGRES_DSN=dsn)
        missing = await rights_missing(dsn, role)
    assert done.code == 1
    (finding,) = findings["postgres rights"]
    assert finding["state"] == "fail"
    assert f"GRANT newsloom_{role} TO login_" in finding["advice"]
    assert lacks in missing


async def rights_missing(dsn: str, role: str) -> Sequence[str]:
    """All of them: the message names the first few."""
    facts = await inspect_postgres(PostgresSettings(dsn=SecretStr(dsn)), [role], 5.0)
    return facts.missing_rights


async def test_one_login_for_all_roles_needs_the_rights_of_each(line: Line) -> None:
    everything = ("--role", "ingest", "--role", "link", "--role", "relay")
    async with login_role(line.dsn, "newsloom_ingest, newsloom_link") as dsn:
        done, findings = await doctor(line, *everything, NEWSLOOM_POSTGRES_DSN=dsn)
        assert done.code == 1
        (finding,) = findings["postgres rights"]
        assert "for ingest and link and relay" in finding["message"]
        assert "UPDATE(relayed_at) on newsloom.dead_letters" in finding["message"]


async def test_a_database_without_migrations_is_told_to_migrate(
    line: Line, empty_database: str
) -> None:
    done, findings = await doctor(line, NEWSLOOM_POSTGRES_DSN=empty_database)
    assert done.code == 1
    (finding,) = findings["schema"]
    assert finding["state"] == "fail"
    assert "newsloom migrate" in finding["advice"]


async def test_a_missing_topic_is_told_how_to_be_made(line: Line) -> None:
    done, findings = await doctor(line, NEWSLOOM_KAFKA_ARTICLES_TOPIC="not.there.v1")
    assert done.code == 1
    finding = findings["kafka topic"][0]
    assert finding["state"] == "fail"
    assert "newsloom topics apply" in finding["advice"]


async def test_a_parked_partition_is_named(line: Line) -> None:
    await line.fetch(
        "INSERT INTO newsloom.ingest_offsets (consumer_group, kafka_topic, kafka_partition,"
        " next_offset, parked_reason) VALUES ('g', 'made-up', 3, 0, 'offset.gap') RETURNING 1"
    )
    _, findings = await doctor(line)
    assert "made-up/3" in text(findings, "parked")


async def test_nothing_reachable_is_said_in_time(line: Line) -> None:
    began = time.monotonic()
    done, findings = await doctor(
        line,
        NEWSLOOM_KAFKA_BOOTSTRAP_SERVERS="127.0.0.1:1,nowhere.invalid:9092",
        NEWSLOOM_POSTGRES_DSN=f"postgresql://u:{CANARY}@127.0.0.1:1/x",
        NEWSLOOM_ALLOW_INSECURE="1",
    )
    assert done.code == 3
    assert time.monotonic() - began < 25
    assert states(findings, "kafka address") == {"fail"}
    assert states(findings, "postgres") == {"fail"}
    assert "***" in text(findings, "postgres")


@contextmanager
def silent_listener() -> Iterator[int]:
    """Accepts connections, by the kernel's hand, and never says a word."""
    with socket.create_server(("127.0.0.1", 0), backlog=50) as listener:
        yield listener.getsockname()[1]


async def test_servers_that_accept_and_say_nothing_do_not_hold_it_up(line: Line) -> None:
    began = time.monotonic()
    with silent_listener() as kafka, silent_listener() as postgres:
        done, findings = await doctor(
            line,
            NEWSLOOM_KAFKA_BOOTSTRAP_SERVERS=f"127.0.0.1:{kafka}",
            NEWSLOOM_POSTGRES_DSN=f"postgresql://u:{CANARY}@127.0.0.1:{postgres}/x",
        )
    assert done.code == 3, done.told()
    assert time.monotonic() - began < 30
    assert states(findings, "kafka") == {"fail"}
    assert states(findings, "postgres") == {"fail"}


async def test_a_wrong_password_is_said_without_it(line: Line) -> None:
    parts = urlsplit(line.dsn)
    host = parts.netloc.rpartition("@")[2]
    dsn = urlunsplit(parts._replace(netloc=f"postgres:{CANARY}@{host}"))
    done, findings = await doctor(line, NEWSLOOM_POSTGRES_DSN=dsn)
    assert done.code == 3
    assert "28P01" in text(findings, "postgres")


@pytest.mark.parametrize(
    "extra",
    [
        pytest.param({"NEWSLOOM_POSTGRES_DNS": CANARY}, id="unknown name"),
        pytest.param({"NEWSLOOM_ADMIN_PORT": CANARY}, id="not a number"),
        pytest.param({"NEWSLOOM_POSTGRES_DSN": f"mysql://{CANARY}"}, id="another database"),
        pytest.param({"NEWSLOOM_POSTGRES_DSN_FILE": "/nonexistent"}, id="set twice"),
        pytest.param(
            {"NEWSLOOM_KAFKA_SECURITY_PROTOCOL": "SSL", "NEWSLOOM_KAFKA_SSL_CA_FILE": "/none"},
            id="missing certificate file",
        ),
    ],
)
async def test_a_wrong_configuration_exits_2(line: Line, extra: dict[str, str]) -> None:
    done, _ = await doctor(line, **extra)
    assert done.code == 2, done.told()
    assert '"state": "fail"' in done.out


async def test_unset_addresses_without_embedded_services_exit_2(line: Line, tmp_path: Path) -> None:
    done, findings = await doctor(
        line,
        NEWSLOOM_KAFKA_BOOTSTRAP_SERVERS="",
        NEWSLOOM_SERVICES_DIR=str(tmp_path / "none"),
    )
    assert done.code == 2
    assert "newsloom services start" in findings["embedded services"][0]["advice"]
    assert states(findings, "postgres") == {"ok"}, "what is configured is checked all the same"


async def test_an_admin_port_of_somebody_else_is_not_ours(line: Line) -> None:
    with silent_listener() as port:
        done, findings = await doctor(line, NEWSLOOM_ADMIN_PORT=str(port))
    assert done.code == 2
    assert "another program" in text(findings, "admin port")


async def test_a_running_newsloom_is_recognised_by_its_admin_port(line: Line) -> None:
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = str(free.getsockname()[1])
    ingest = await line.start("ingest", extra={"NEWSLOOM_ADMIN_PORT": port})
    try:
        async with asyncio.timeout(40):
            while True:
                done, findings = await doctor(line, NEWSLOOM_ADMIN_PORT=port)
                if "which is ready" in text(findings, "admin port"):
                    break
    finally:
        ingest.terminate()
        await ingest.communicate()
    assert done.code == 0
    assert "1 members" in text(findings, "kafka group")
