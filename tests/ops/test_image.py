"""The Dockerfile without a container engine: linted, and its steps carried out in a plain folder.

The folder is then read-only and owned by somebody else, and newsloom runs from it as a user without
any rights, as in the container: each role with the rights that are its own.
"""

import os
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit, urlunsplit

import asyncpg
import pytest

from tests.ops.tools import ROOT, program, run
from tests.support.blackbox import Line, send
from tests.support.generator import Stream
from tests.support.kafka import MakeTopic

DOCKERFILE = (ROOT / "Dockerfile").read_text()
STAGES = re.split(r"(?m)^FROM ", DOCKERFILE)[1:]
UID = 65532

pytestmark = pytest.mark.timeout(240)


def test_the_linter_has_nothing_to_say() -> None:
    run(program("hadolint"), "--no-color", ROOT / "Dockerfile")


def test_the_last_stage_runs_without_root_and_has_a_health_check_in_exec_form() -> None:
    last = STAGES[-1]
    assert re.search(r"(?m)^USER [1-9]\d*:[1-9]\d*$", last)
    assert re.search(r'(?ms)^HEALTHCHECK .*?CMD \["', last)
    assert 'ENTRYPOINT ["newsloom"]' in last
    assert "uninstall" in last
    assert not re.search(r"apt-get|pip install|COPY (?!--from=build)", last)


def test_both_stages_have_the_same_python_and_it_can_be_pinned() -> None:
    assert {stage.split()[0] for stage in STAGES} == {"${PYTHON_IMAGE}"}
    (version,) = re.findall(r"(?m)^ARG PYTHON_IMAGE=python:(\d\.\d+)-", DOCKERFILE)
    assert f"/usr/local/lib/python{version}/ensurepip" in DOCKERFILE


def test_all_that_is_copied_passes_the_dockerignore_file() -> None:
    lines = (ROOT / ".dockerignore").read_text().splitlines()
    allowed = {line[1:] for line in lines if line.startswith("!")}
    for arguments in re.findall(r"(?m)^COPY (?!--from)(.+)$", DOCKERFILE):
        for source in arguments.split()[:-1]:
            assert (ROOT / source).exists()
            assert source in allowed or str(Path(source).parent) in allowed


# -- the steps -------------------------------------------------------------------------------------


def python_for_everyone() -> str:
    """Return a Python that a user without rights can start: ours may live in somebody's home."""
    ours = str(Path(sys.executable).resolve())
    for candidate in (ours, "/usr/bin/python3", "/usr/local/bin/python3"):
        with suppress(OSError):
            if as_nobody([candidate, "-c", "import venv"]).returncode == 0:
                return candidate
    pytest.fail("no Python that an unprivileged user can start: install Debian's python3-venv")


def as_nobody(
    command: list[str | Path], env: dict[str, str] | None = None
) -> subprocess.CompletedProcess[str]:
    """Run a command as in the container: no rights, no home, a bare environment."""
    switch: dict[str, Any] = {}
    if os.geteuid() == 0:
        switch = {"user": UID, "group": UID, "extra_groups": []}
    return subprocess.run(
        command,
        capture_output=True,
        text=True,
        check=False,
        cwd="/",
        timeout=120,
        env={"PATH": "/usr/bin:/bin", "HOME": "/nonexistent", **(env or {})},
        **switch,
    )


@pytest.fixture(scope="module")
def image() -> Iterator[Path]:
    """The folder /opt/newsloom of the image, made by the command that the Dockerfile runs."""
    (command,) = re.findall(r"(?m)^RUN (ops/image/install) /opt/newsloom$", STAGES[0])
    folder = Path(tempfile.mkdtemp(prefix="newsloom-image-"))
    folder.chmod(0o755)
    source = folder / "src"
    prefix = folder / "newsloom"
    for arguments in re.findall(r"(?m)^COPY (?!--from)(.+)$", STAGES[0]):
        *names, _ = arguments.split()
        for name in names:
            target = source / name
            target.parent.mkdir(parents=True, exist_ok=True)
            if (ROOT / name).is_dir():
                shutil.copytree(ROOT / name, target, symlinks=True)
            else:
                shutil.copy2(ROOT / name, target)
    environment = {
        **os.environ,
        "PYTHON": python_for_everyone(),
        "PIP": f"{sys.executable} -m pip",
    }
    try:
        run(source / command, prefix, cwd=source, env=environment)
        for path in [prefix, *prefix.rglob("*")]:
            if not path.is_symlink():
                path.chmod(path.stat().st_mode & 0o555 | 0o444 | (0o111 if path.is_dir() else 0))
        yield prefix
    finally:
        subprocess.run(["chmod", "-R", "u+w", folder], check=False)
        shutil.rmtree(folder)


def test_the_tree_has_no_pip_no_setuptools_and_no_way_back_to_the_sources(image: Path) -> None:
    site = next((image / "lib").glob("python3.*/site-packages"))
    assert not [
        p.name for p in site.iterdir() if re.match(r"pip|setuptools|wheel\b|__editable", p.name)
    ]
    assert not list((image / "bin").glob("pip*"))
    assert not [path for path in image.rglob("*.pth") if "newsloom" in path.read_text()]
    assert (site / "newsloom" / "migrations" / "SHA256SUMS").exists()
    names = {path.name for path in (ROOT / "migrations").glob("*.sql")}
    assert {path.name for path in (site / "newsloom" / "migrations").glob("*.sql")} == names


def test_a_user_without_rights_runs_it_and_can_change_nothing(image: Path) -> None:
    command = image / "bin" / "newsloom"
    assert as_nobody([command, "--version"]).stdout.strip()
    assert as_nobody([command, "doctor", "--help"]).returncode == 0
    done = as_nobody([image / "bin" / "python", "-c", f"open({str(image / 'x')!r}, 'w')"])
    assert "PermissionError" in done.stderr or "Read-only" in done.stderr
    # The health check of the image: its answer when nothing listens.
    (check,) = re.findall(r'CMD \["python", "-c", "(.*)"\]', DOCKERFILE)
    dead = as_nobody([image / "bin" / "python", "-c", check.replace(":9108", ":9")])
    assert dead.returncode == 1


async def test_each_role_works_with_the_rights_that_are_its_own(
    image: Path, kafka_bootstrap: str, database: str, make_topic: MakeTopic
) -> None:
    line = Line(kafka_bootstrap, database, await make_topic(1, name="image"))
    await send(line.bootstrap, line.topic, Stream(5, deliveries=200))
    for role in ("ingest", "link"):
        async with login(database, f"newsloom_{role}") as dsn:
            done = as_nobody(
                [image / "bin" / "newsloom", role, "--exit-when-idle", "3"],
                env={
                    "NEWSLOOM_KAFKA_BOOTSTRAP_SERVERS": line.bootstrap,
                    "NEWSLOOM_POSTGRES_DSN": dsn,
                    "NEWSLOOM_KAFKA_ARTICLES_TOPIC": line.topic,
                    "NEWSLOOM_INGEST_CONSUMER_GROUP": line.group,
                    "NEWSLOOM_ADMIN_PORT": "0",
                },
            )
        assert done.returncode == 0, done.stderr[-3000:]
    assert sum((await line.outcomes()).values()) == 200


@asynccontextmanager
async def login(database: str, role: str) -> AsyncIterator[str]:
    """Let a role log in, as ops/compose/logins.sql does, and return its DSN."""
    parts = urlsplit(database)
    password = "of-this-test"  # noqa: S105 - for some seconds
    superuser = await asyncpg.connect(database)
    try:
        await superuser.execute(f"ALTER ROLE {role} LOGIN PASSWORD '{password}'")
        netloc = f"{role}:{password}@{parts.hostname}:{parts.port}"
        yield urlunsplit(parts._replace(netloc=netloc))
    finally:
        await superuser.execute(f"ALTER ROLE {role} NOLOGIN PASSWORD NULL")
        await superuser.close()
