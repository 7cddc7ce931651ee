"""The embedded Kafka and Postgres, as `make demo` and every other integration test use them."""

import hashlib
import json
import os
import shutil
import socket
import stat
import subprocess
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import asyncpg
import pytest
from aiokafka import AIOKafkaProducer

from newsloom.adapters.embedded import (
    EmbeddedKafka,
    EmbeddedPostgres,
    EmbeddedServiceError,
    EmbeddedServices,
    ServiceState,
    default_cache,
    default_folder,
)
from newsloom.adapters.embedded.folders import reachable_copy
from newsloom.adapters.embedded.jars import Jar, class_path, committed_jars, jar_folder
from newsloom.adapters.embedded.processes import ProcessIdentity
from tests.support.kafka import create_topic
from tests.support.services import open_folder, run_apart

pytestmark = pytest.mark.timeout(180)


@pytest.fixture
def folder() -> Iterator[Path]:
    path = open_folder()
    yield path
    shutil.rmtree(path)


@pytest.fixture
def postgres(folder: Path) -> Iterator[EmbeddedPostgres]:
    server = EmbeddedPostgres(folder / "postgres", config={"fsync": "off"})
    yield server
    server.kill()


async def answer(dsn: str, question: str) -> object:
    connection = await asyncpg.connect(dsn)
    try:
        return await connection.fetchval(question)
    finally:
        await connection.close()


def run_newsloom(*arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-c", "from newsloom.cli.main import main; main()", *arguments]
    path = os.pathsep.join(sys.path)
    environment = {**os.environ, "PYTHONPATH": path}
    return subprocess.run(command, capture_output=True, text=True, check=False, env=environment)


# -- both together --------------------------------------------------------------------------------


async def send(bootstrap: str, topic: str) -> int:
    async with AIOKafkaProducer(bootstrap_servers=bootstrap, acks="all") as producer:
        return int((await producer.send_and_wait(topic, b"one")).offset)


@pytest.fixture
def services(folder: Path, kafka_cache: Path) -> Iterator[EmbeddedServices]:
    embedded = EmbeddedServices(folder, cache=kafka_cache)
    yield embedded
    embedded.stop()


def test_two_starters_at_once_start_one_of_each_and_the_data_outlives_a_stop(
    services: EmbeddedServices, folder: Path, kafka_cache: Path
) -> None:
    other = EmbeddedServices(folder, cache=kafka_cache)
    with ThreadPoolExecutor(2) as pool:
        first, second = pool.map(EmbeddedServices.start, (services, other))
    assert first == second
    assert services.kafka.pid == other.kafka.pid

    shown = run_newsloom("services", "status", "--dir", str(folder), "--format", "json")
    assert shown.returncode == 0, shown.stderr
    status = json.loads(shown.stdout)
    assert status["kafka"] == status["postgres"] == "running"
    assert status["kafka_bootstrap_servers"] == first.kafka_bootstrap_servers
    assert status["postgres_dsn"] == first.postgres_dsn

    began = time.monotonic()
    assert services.start() == first
    assert time.monotonic() - began < 5, "what runs is not started again"

    run_apart(create_topic(first.kafka_bootstrap_servers, "kept"))
    assert run_apart(send(first.kafka_bootstrap_servers, "kept")) == 0
    run_apart(answer(first.postgres_dsn, "CREATE TABLE kept ()"))

    stopped = run_newsloom("services", "stop", "--dir", str(folder))
    assert stopped.returncode == 0, stopped.stderr
    assert services.status().kafka == services.status().postgres == ServiceState.STOPPED
    assert services.status().addresses is None
    assert services.stop() == ()

    assert services.start() == first, "the addresses are kept"
    assert run_apart(send(first.kafka_bootstrap_servers, "kept")) == 1, "and so is what was sent"
    assert run_apart(answer(first.postgres_dsn, "SELECT count(*) FROM kept")) == 0

    services.kafka.freeze()
    assert services.status().kafka == ServiceState.NOT_READY
    services.kafka.thaw()
    services.kafka.start()
    assert services.status().kafka == ServiceState.RUNNING


def test_a_broken_start_leaves_nothing_running(folder: Path, kafka_cache: Path) -> None:
    with socket.socket() as squatter:
        squatter.bind(("127.0.0.1", 0))
        squatter.listen()
        port = squatter.getsockname()[1]
        services = EmbeddedServices(folder, kafka_port=port, cache=kafka_cache)
        with pytest.raises(EmbeddedServiceError, match=f"Port {port}.*--kafka-port"):
            services.start()
    assert not services.postgres.running


def test_command_says_in_one_line_what_to_do_and_exits_with_3(folder: Path) -> None:
    with socket.socket() as squatter:
        squatter.bind(("127.0.0.1", 0))
        squatter.listen()
        port = str(squatter.getsockname()[1])
        result = run_newsloom("services", "start", "--dir", str(folder), "--kafka-port", port)
    assert result.returncode == 3
    assert "--kafka-port" in result.stderr.splitlines()[-1]
    assert "Traceback" not in result.stderr


# -- Postgres: the cheaper one stands for both where the code is shared ---------------------------


def test_killed_server_starts_again_with_its_data(postgres: EmbeddedPostgres) -> None:
    dsn = postgres.start()
    run_apart(answer(dsn, "CREATE TABLE kept ()"))
    postgres.kill()
    assert not postgres.running
    assert postgres.start() == dsn
    assert run_apart(answer(dsn, "SELECT count(*) FROM kept")) == 0


def test_frozen_server_can_be_stopped(postgres: EmbeddedPostgres) -> None:
    postgres.start()
    postgres.freeze()
    assert not postgres.ready()
    began = time.monotonic()
    assert postgres.stop()
    assert time.monotonic() - began < 10, "it was woken up, not waited for"
    assert not postgres.running


def test_process_id_that_is_now_somebody_elses_is_neither_trusted_nor_signalled(
    postgres: EmbeddedPostgres, folder: Path
) -> None:
    postgres.start()
    postgres.kill()
    with subprocess.Popen(["sleep", "60"]) as stranger:
        identity = ProcessIdentity.of(stranger.pid)
        assert identity is not None
        record = {"pid": stranger.pid, "started": identity.started - 1, "boot": identity.boot}
        (folder / "postgres/process.json").write_text(json.dumps(record))
        # Postgres itself would take the stranger for a running server.
        (folder / "postgres/data/postmaster.pid").write_text(f"{stranger.pid}\n")
        assert not postgres.running
        assert not postgres.stop()
        postgres.start()
        assert stranger.poll() is None
        stranger.kill()


def test_server_that_newsloom_did_not_start_is_left_alone(
    postgres: EmbeddedPostgres, folder: Path
) -> None:
    postgres.start()
    (folder / "postgres/process.json").rename(folder / "postgres/elsewhere.json")
    other = EmbeddedPostgres(folder / "postgres", port=free())
    with pytest.raises(EmbeddedServiceError, match="did not start"):
        other.start()
    (folder / "postgres/elsewhere.json").rename(folder / "postgres/process.json")
    assert postgres.ready()


def free() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def test_half_made_data_folder_is_made_anew(postgres: EmbeddedPostgres, folder: Path) -> None:
    for half in ("data", "data.new"):
        (folder / "postgres" / half).mkdir(parents=True)
        (folder / "postgres" / half / "PG_VERSION").write_text("18\n")
    if os.geteuid() == 0:
        shutil.chown(folder / "postgres", "nobody")
    assert run_apart(answer(postgres.start(), "SELECT 1")) == 1


def test_data_of_another_version_is_refused(postgres: EmbeddedPostgres, folder: Path) -> None:
    postgres.start()
    postgres.stop()
    state = folder / "postgres/state.json"
    state.write_text(state.read_text().replace('"18"', '"17"'))
    with pytest.raises(EmbeddedServiceError, match="is of PostgreSQL 17"):
        postgres.start()


def test_damaged_state_is_named(postgres: EmbeddedPostgres, folder: Path) -> None:
    (folder / "postgres").mkdir()
    (folder / "postgres/state.json").write_text('{"port": 1')
    with pytest.raises(EmbeddedServiceError, match="is damaged; delete"):
        _ = postgres.dsn


def test_taken_port_is_named(postgres: EmbeddedPostgres, folder: Path) -> None:
    with socket.socket() as squatter:
        squatter.bind(("127.0.0.1", 0))
        squatter.listen()
        other = EmbeddedPostgres(folder / "postgres", port=squatter.getsockname()[1])
        with pytest.raises(EmbeddedServiceError, match="taken by another program") as caught:
            other.start()
    assert caught.value.code == "port_in_use"
    del postgres


def test_full_disk_is_named(postgres: EmbeddedPostgres, monkeypatch: pytest.MonkeyPatch) -> None:
    usage = shutil.disk_usage("/")
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage._replace(free=1_000_000))
    with pytest.raises(EmbeddedServiceError, match="less than 500 MB free"):
        postgres.start()


def test_password_file_is_gone_and_the_state_is_private(
    postgres: EmbeddedPostgres, folder: Path
) -> None:
    postgres.start()
    assert not (folder / "postgres/password").exists()
    assert stat.S_IMODE((folder / "postgres/state.json").stat().st_mode) == 0o600


def test_closed_folder_is_named_and_stays_closed(folder: Path) -> None:
    closed = folder / "closed"
    closed.mkdir(mode=0o700)
    postgres = EmbeddedPostgres(closed / "postgres")
    if os.geteuid() == 0:
        with pytest.raises(EmbeddedServiceError, match="cannot enter"):
            postgres.start()
    else:  # for ourselves it is open
        postgres.start()
        postgres.kill()
    assert stat.S_IMODE(closed.stat().st_mode) == 0o700


def test_programs_below_a_closed_folder_are_copied_not_opened(folder: Path) -> None:
    closed = folder / "closed"
    program = closed / "tree" / "bin" / "program"
    program.parent.mkdir(parents=True)
    program.write_text("#!/bin/sh\n")
    program.chmod(0o700)
    closed.chmod(0o700)
    copy = reachable_copy(closed / "tree", ("bin",), "tree-1", folder)
    assert copy == folder / "programs" / "tree-1"
    assert stat.S_IMODE((copy / "bin" / "program").stat().st_mode) == 0o755
    assert stat.S_IMODE(closed.stat().st_mode) == 0o700


# -- Kafka's jars ---------------------------------------------------------------------------------


def made_up_jar(cache: Path, content: bytes = b"a jar") -> tuple[Jar, Path]:
    """Put a jar where `class_path` looks for it; only the default content has the right sum."""
    jar = Jar(hashlib.sha256(b"a jar").hexdigest(), 5, "org.example", "made-up", "1.0")
    path = jar_folder((jar,), cache) / jar.file_name
    path.parent.mkdir()
    path.write_bytes(content)
    return jar, path


def test_untouched_jar_is_taken(tmp_path: Path) -> None:
    jar, path = made_up_jar(tmp_path)
    assert class_path((jar,), tmp_path, print) == str(path)


def test_tampered_jar_is_refused(tmp_path: Path) -> None:
    jar, path = made_up_jar(tmp_path, b"A jar")
    with pytest.raises(EmbeddedServiceError, match="SHA-256 differs") as caught:
        class_path((jar,), tmp_path, print)
    assert str(path) in str(caught.value)


def test_unlisted_jar_is_refused(tmp_path: Path) -> None:
    jar, path = made_up_jar(tmp_path)
    path.with_name("extra.jar").write_bytes(b"")
    with pytest.raises(EmbeddedServiceError, match="not on newsloom's list"):
        class_path((jar,), tmp_path, print)


def test_jars_without_a_network_are_one_sentence_and_leave_no_halves(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("HTTPS_PROXY", "https_proxy"):
        monkeypatch.setenv(name, f"http://127.0.0.1:{free()}")
    with pytest.raises(EmbeddedServiceError, match="check the network"):
        class_path(committed_jars()[:2], tmp_path, print)
    assert [path for path in tmp_path.rglob("*") if path.is_file()] == []


def test_committed_list_is_of_one_kafka() -> None:
    jars = committed_jars()
    assert {jar.version for jar in jars if jar.group == "org.apache.kafka"} == {"4.4.0"}
    assert len({jar.file_name for jar in jars}) == len(jars)
    assert all(len(jar.sha256) == 64 for jar in jars)


# -- places ---------------------------------------------------------------------------------------


def test_places_follow_the_environment(tmp_path: Path) -> None:
    assert default_folder({"NEWSLOOM_SERVICES_DIR": str(tmp_path)}) == tmp_path
    if os.geteuid() == 0:
        assert default_folder({}) == Path("/var/lib/newsloom")
        assert default_cache({}, tmp_path) == Path("/var/lib/newsloom/cache")
    else:
        assert default_folder({}) == Path.cwd() / ".newsloom"
        assert default_cache({"XDG_CACHE_HOME": str(tmp_path)}, tmp_path) == tmp_path / "newsloom"
        assert default_cache({"HOME": ""}, tmp_path) == tmp_path / "cache"
        assert default_cache({"HOME": "/nonexistent"}, tmp_path) == tmp_path / "cache"


def test_kafka_can_advertise_a_proxy(folder: Path) -> None:
    kafka = EmbeddedKafka(folder / "kafka", cache=folder, port=20_001, advertised_port=20_002)
    assert kafka.bootstrap_servers == "127.0.0.1:20002"
