"""docker-compose.yml without a container engine: shape, references, hardening."""

import os
import re
import shutil
import signal
import stat
import subprocess
import time
from contextlib import suppress
from pathlib import Path
from typing import Any

import asyncpg
import psutil
import pytest

from newsloom.adapters.embedded import KAFKA_VERSION
from newsloom.settings import VARIABLES
from tests.ops.tools import OPS, ROOT, load_yaml, program, run

COMPOSE = ROOT / "docker-compose.yml"
NAMED = load_yaml(COMPOSE)
SERVICES: dict[str, dict[str, Any]] = NAMED["services"]
ROLES = {"ingest", "link", "relay"}
ONCE = {"migrate", "topics", "load", "cli", "doctor", "psql", "kafka-topics"}
"""Services that do one thing and end."""

CONFIG_FOLDERS = ("./ops/", "./migrations", "./samples")


each_service = pytest.mark.parametrize("name", SERVICES)


def test_it_is_a_compose_file() -> None:
    run(program("check-jsonschema"), "--builtin-schema", "vendor.compose-spec", COMPOSE)
    assert "version" not in NAMED, "obsolete"


def test_compose_itself_accepts_it_where_there_is_one(tmp_path: Path) -> None:
    command = shutil.which("docker-compose") or os.environ.get("NEWSLOOM_TEST_COMPOSE")
    if command is None:
        pytest.skip("no docker-compose (v2) here; the schema and the cross-checks ran")
    for name in NAMED["secrets"]:
        (tmp_path / name).touch()
    text = COMPOSE.read_text().replace("./secrets/", f"{tmp_path}/")
    (tmp_path / "docker-compose.yml").write_text(text)
    for profile in ("", "load", "tools"):
        run(
            *(command, "-f", tmp_path / "docker-compose.yml", "--project-directory", ROOT),
            *(("--profile", profile) if profile else ()),
            *("config", "--quiet"),
        )


@each_service
def test_what_a_service_refers_to_exists(name: str) -> None:
    service = SERVICES[name]
    for other, condition in service.get("depends_on", {}).items():
        depended = SERVICES[other]
        assert set(depended.get("profiles", [])) <= set(service.get("profiles", []))
        match condition["condition"]:
            case "service_healthy":
                assert "healthcheck" in depended
            case "service_completed_successfully":
                assert other in ONCE
            case started:
                assert started == "service_started"
    assert set(service.get("secrets", [])) <= set(NAMED["secrets"])
    assert set(service["networks"]) <= set(NAMED["networks"])
    for volume in service.get("volumes", []):
        source, target, *mode = volume.split(":")
        assert target.startswith("/")
        if source.startswith("."):
            assert source.startswith(CONFIG_FOLDERS), "data belongs into named volumes"
            assert (ROOT / source).exists()
            assert mode == ["ro"]
        else:
            assert source in NAMED["volumes"]


@each_service
def test_secrets_that_are_named_in_a_service_are_mounted_there(name: str) -> None:
    service = SERVICES[name]
    text = f"{service.get('environment')} {service.get('command')} {service.get('entrypoint')}"
    if name == "postgres":
        text += (OPS / "compose" / "logins.sql").read_text()
    if name == "grafana":
        text += (OPS / "grafana/provisioning/datasources/newsloom.yml").read_text()
    assert set(re.findall(r"/run/secrets/(\w+)", text)) == set(service.get("secrets", []))


def test_every_secret_volume_and_network_is_used() -> None:
    def used(kind: str) -> set[str]:
        return {
            item.split(":")[0] for service in SERVICES.values() for item in service.get(kind, [])
        }

    assert used("secrets") == set(NAMED["secrets"])
    assert used("networks") == set(NAMED["networks"])
    assert {item for item in used("volumes") if not item.startswith(".")} == set(NAMED["volumes"])


@each_service
def test_a_service_is_hardened_and_bounded(name: str) -> None:
    service = SERVICES[name]
    assert re.fullmatch(r"[1-9]\d*:\d+", service["user"]), "numeric, and not root"
    assert service["read_only"] is True
    assert service["cap_drop"] == ["ALL"]
    assert service["security_opt"] == ["no-new-privileges:true"]
    assert not {"privileged", "cap_add", "pid", "network_mode", "ipc"} & set(service)
    assert set(service["deploy"]["resources"]["limits"]) == {"memory", "cpus", "pids"}
    assert service["restart"] == ("no" if name in ONCE else "unless-stopped")
    assert service["logging"]["options"]["max-size"]
    for port in service.get("ports", []):
        assert port.startswith("127.0.0.1:")


@each_service
def test_images_are_pinned(name: str) -> None:
    image = SERVICES[name]["image"]
    assert re.search(r":(v?\d+(\.\d+)*|local)$", image), image


@each_service
def test_what_keeps_running_is_checked_in_exec_form(name: str) -> None:
    if name in ONCE:
        return
    if name in ROLES:
        assert "HEALTHCHECK" in (ROOT / "Dockerfile").read_text()
        return
    check = SERVICES[name]["healthcheck"]
    assert check["test"][0] == "CMD"
    assert {"interval", "timeout", "retries", "start_period"} <= set(check)


def test_kafka_is_the_version_that_the_embedded_services_start() -> None:
    images = {s["image"] for s in SERVICES.values() if s["image"].startswith("apache/kafka")}
    assert images == {f"apache/kafka:{KAFKA_VERSION}"}


def test_environment_variables_of_newsloom_exist() -> None:
    known = {v.name for v in VARIABLES} | {v.file_name for v in VARIABLES if v.is_secret}
    text = COMPOSE.read_text() + (ROOT / "Dockerfile").read_text()
    assert set(re.findall(r"^\s+(NEWSLOOM_\w+)[:=]", text, re.MULTILINE)) <= known


def test_a_stop_leaves_time_to_drain() -> None:
    defaults = {v.name: v.default_text() for v in VARIABLES}
    drain = float(defaults["NEWSLOOM_INGEST_DRAIN_SECONDS"].strip("`"))
    statement = float(defaults["NEWSLOOM_POSTGRES_STATEMENT_TIMEOUT_SECONDS"].strip("`"))
    for role in ROLES:
        assert int(SERVICES[role]["stop_grace_period"].removesuffix("s")) > drain + statement


def test_make_secrets_draws_every_secret_once_and_keeps_it(tmp_path: Path) -> None:
    script = OPS / "compose" / "make-secrets"
    for _ in range(2):
        run(script, cwd=tmp_path)
    folder = tmp_path / "secrets"
    before = {path.name: path.read_text() for path in folder.iterdir()}
    assert set(before) == set(NAMED["secrets"])
    run(script, cwd=tmp_path)
    assert {path.name: path.read_text() for path in folder.iterdir()} == before
    assert stat.S_IMODE(folder.stat().st_mode) == 0o700
    assert all(stat.S_IMODE(path.stat().st_mode) == 0o444 for path in folder.iterdir())
    for role in (*ROLES, "admin"):
        assert before[f"postgres_{role}_password"] in before[f"newsloom_{role}_dsn"]
    assert before["postgres_password"] in before["migrate_env"]
    passwords = [text for name, text in before.items() if name.endswith("password")]
    assert len(set(passwords)) == len(passwords)
    assert all(re.fullmatch(r"[0-9a-f]{48}", password) for password in passwords)


def test_maintenance_begins_at_once_and_ends_when_told(tmp_path: Path) -> None:
    (script,) = SERVICES["maintain"]["command"]
    done = tmp_path / "maintained"
    fake = tmp_path / "newsloom"
    fake.write_text(f"#!/bin/sh\necho $1 >> {tmp_path}/asked\n")
    fake.chmod(0o755)
    text = script.replace("$$", "$").replace("/tmp", str(tmp_path))  # noqa: S108
    process = subprocess.Popen(
        [*SERVICES["maintain"]["entrypoint"], text],
        env={"PATH": f"{tmp_path}:/usr/bin:/bin"},
        start_new_session=True,
    )
    try:
        deadline = time.monotonic() + 20
        while not done.exists() and time.monotonic() < deadline:
            time.sleep(0.02)
        time.sleep(0.1)
        process.terminate()
        assert process.wait(10) == 0
        left = [
            other
            for other in psutil.process_iter(["cmdline", "status"])
            if other.info["cmdline"] == ["sleep", "3600"]
            and other.info["status"] != psutil.STATUS_ZOMBIE
            and os.getpgid(other.pid) == process.pid
        ]
        assert left == []
    finally:
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
    assert (tmp_path / "asked").read_text() == "maintain\n"


def test_secrets_are_never_committed() -> None:
    assert "/secrets/" in (ROOT / ".gitignore").read_text().splitlines()


def test_prometheus_finds_every_role_by_the_name_of_its_service() -> None:
    (job, _) = load_yaml(OPS / "prometheus" / "prometheus.yml")["scrape_configs"]
    assert job["job_name"] == "newsloom"
    assert set(job["dns_sd_configs"][0]["names"]) == ROLES
    for role in ROLES:
        assert set(SERVICES[role]["networks"]) & set(SERVICES["prometheus"]["networks"])


async def test_the_migrate_service_does_what_it_should_on_a_real_postgres(
    empty_database: str, tmp_path: Path
) -> None:
    # dbmate speaks Go's dialect of DSN: no sslmode means that TLS is demanded.
    glue = "&" if "?" in empty_database else "?"
    environment = tmp_path / "migrate_env"
    environment.write_text(f"DATABASE_URL={empty_database}{glue}sslmode=disable\n")
    command = [
        argument.replace("/run/secrets/migrate_env", str(environment)).replace(
            "=/migrations", f"={ROOT / 'migrations'}"
        )
        for argument in SERVICES["migrate"]["command"]
    ]
    for _ in range(2):
        run(program("dbmate"), *command, env={"PATH": "/usr/bin:/bin"}, cwd=tmp_path)
    connection = await asyncpg.connect(empty_database)
    try:
        applied = await connection.fetchval("SELECT count(*) FROM schema_migrations")
        assert await connection.fetch("SELECT * FROM api.articles") == []
    finally:
        await connection.close()
    assert applied == len(list((ROOT / "migrations").glob("*.sql")))
