"""Service processes that outlive the command that started them.

A process is known by its id, its start time and the boot it belongs to, kept in a file: an id alone
may by now be somebody else's process, which must never be signalled. Linux only (/proc).
"""

import errno
import json
import os
import random
import signal
import socket
import subprocess
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Final, Literal, Self, TypedDict

from newsloom.adapters.embedded.errors import EmbeddedServiceError
from newsloom.adapters.embedded.folders import Owner, write_private

POLL_SECONDS: Final = 0.02
_PREPARE_SECONDS: Final = 120
_LOWEST_RANDOM_PORT: Final = 20_000
_HIGHEST_RANDOM_PORT: Final = 32_000
"""Below the range from which Linux takes ports for outgoing connections: a service that is down for
a moment finds its port free when it comes back."""

_children: Final[dict[int, subprocess.Popen[bytes]]] = {}
"""What this very process launched: it must also collect their exit, or they stay as zombies."""


@dataclass(frozen=True, slots=True)
class ProcessIdentity:
    """One process of one boot. `started` is in clock ticks since that boot."""

    pid: int
    started: int
    boot: str

    @classmethod
    def of(cls, pid: int) -> Self | None:
        """Return the identity of a living process, None if there is none with that id."""
        if (child := _children.get(pid)) is not None and child.poll() is not None:
            del _children[pid]
        try:
            # The second field is the program's name in brackets, which may hold blanks.
            fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
            boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
        except (FileNotFoundError, ProcessLookupError):
            return None
        state, started = fields[0], int(fields[19])
        return None if state in {"Z", "X"} else cls(pid, started, boot)


class ServiceProcess:
    """What Kafka and Postgres have in common: one process, a folder, a log file, signals."""

    service: Literal["kafka", "postgres"]
    title: str

    def __init__(self, folder: Path, owner: Owner | None) -> None:
        self.folder = folder
        self.owner = owner
        self.log = folder / f"{self.service}.log"
        self._record = folder / "process.json"

    @property
    def pid(self) -> int | None:
        """The id of the running process, None if it does not run."""
        identity = self._identity()
        return identity.pid if identity is not None else None

    @property
    def running(self) -> bool:
        """Whether the process exists, be it frozen or still starting."""
        return self.pid is not None

    def kill(self) -> None:
        """End the process and its children at once, with no chance to tidy up (SIGKILL)."""
        identity = self._identity()
        if identity is None:
            return
        family = _family(identity.pid)
        for pid in family:
            _signal(pid, signal.SIGKILL)
        _wait(lambda: all(ProcessIdentity.of(pid) is None for pid in family), seconds=10)
        self._record.unlink(missing_ok=True)

    def freeze(self) -> None:
        """Stop the process and its children in their tracks (SIGSTOP), as a hung machine would."""
        family = _family(self._living().pid)
        for pid in family:
            _signal(pid, signal.SIGSTOP)
        # Threads stop one by one, each when it next meets the signal: until then it may answer.
        _wait(lambda: all(_is_frozen(pid) for pid in family), seconds=10)

    def thaw(self) -> None:
        """Let a frozen process go on."""
        for pid in reversed(_family(self._living().pid)):
            _signal(pid, signal.SIGCONT)

    def ready(self) -> bool:
        """Tell whether the service answers."""
        raise NotImplementedError

    def error(self, code: str, sentence: str) -> EmbeddedServiceError:
        """Return the error that says this sentence about this service."""
        return EmbeddedServiceError(self.service, code, sentence)

    def _launch(self, command: Sequence[str], environment: dict[str, str]) -> None:
        """Start the process in its own session, its output going to a fresh log file."""
        if self.log.exists():
            self.log.replace(self.log.with_suffix(".previous.log"))
        with self.log.open("wb") as log:
            child = subprocess.Popen(  # noqa: S603 - the command is built by us
                list(command),
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                cwd=self.folder,
                env=environment,
                start_new_session=True,
                **_run_as(self.owner),
            )
        _children[child.pid] = child
        identity = ProcessIdentity.of(child.pid)
        if identity is not None:
            write_private(self._record, json.dumps(asdict(identity)))

    def _run(self, command: Sequence[str], environment: dict[str, str], *, text: str = "") -> None:
        """Run a preparing program to its end, `text` on its stdin; raise if it fails."""
        try:
            result = subprocess.run(  # noqa: S603 - the command is built by us
                list(command),
                input=text,
                capture_output=True,
                text=True,
                check=False,
                cwd=self.folder,
                env=environment,
                timeout=_PREPARE_SECONDS,
                **_run_as(self.owner),
            )
        except (OSError, subprocess.TimeoutExpired) as error:
            raise self.error(
                "start",
                f"{self.title} could not prepare its data folder {self.folder} "
                f"({type(error).__name__} of {command[0]}).",
            ) from error
        if result.returncode != 0:
            self.log.write_text(result.stdout + result.stderr)
            raise self.error(
                "start", f"{self.title} could not prepare its data folder: {self._last_words()}"
            )

    def _await_ready(self, seconds: float) -> None:
        """Return when the service answers; kill it and raise if it ends or takes too long."""
        deadline = time.monotonic() + seconds
        while not self.ready():
            if not self.running:
                raise self.error(
                    "start", f"{self.title} ended while starting: {self._last_words()}"
                )
            if time.monotonic() > deadline:
                self.kill()
                raise self.error(
                    "start",
                    f"{self.title} did not answer within {seconds:.0f} s and was ended; its log is "
                    f"{self.log}.",
                )
            time.sleep(POLL_SECONDS)

    def _end(self, polite: Sequence[tuple[signal.Signals, float]]) -> bool:
        """Signal the process, each signal with its patience in seconds, then kill it."""
        identity = self._identity()
        if identity is None:
            self._record.unlink(missing_ok=True)
            return False
        for number, seconds in polite:
            _signal(identity.pid, number)
            for pid in reversed(_family(identity.pid)):
                _signal(pid, signal.SIGCONT)  # the frozen must wake up to hear it
            if _wait(lambda: ProcessIdentity.of(identity.pid) is None, seconds=seconds):
                self._record.unlink(missing_ok=True)
                return True
        self.kill()
        return True

    def _last_words(self) -> str:
        lines = self.log.read_text(errors="replace").splitlines() if self.log.exists() else []
        telling = [line for line in lines if "FATAL" in line or "ERROR" in line]
        last = (telling or lines or ["(nothing)"])[-1].strip()
        return f"{last} (its log is {self.log})"

    def _identity(self) -> ProcessIdentity | None:
        try:
            recorded = ProcessIdentity(**json.loads(self._record.read_text()))
        except (FileNotFoundError, NotADirectoryError):
            return None
        except (ValueError, TypeError):
            return None  # half-written by a machine that went down
        return recorded if ProcessIdentity.of(recorded.pid) == recorded else None

    def _living(self) -> ProcessIdentity:
        identity = self._identity()
        if identity is None:
            raise self.error("start", f"{self.title} does not run.")
        return identity


class _RunAs(TypedDict, total=False):
    user: int
    group: int
    extra_groups: list[str | int]


def _run_as(owner: Owner | None) -> _RunAs:
    """Return the arguments that make subprocess change to that user, without extra groups."""
    if owner is None:
        return {}
    return {"user": owner.uid, "group": owner.gid, "extra_groups": []}


def port_is_free(port: int) -> bool:
    """Tell whether a server could listen on this port of the loopback address."""
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", port))
        except OSError as error:
            if error.errno in {errno.EADDRINUSE, errno.EACCES}:
                return False
            raise
    return True


def free_port(preferred: int | None = None) -> int:
    """Return a free port: the preferred one or one soon after it; without a wish, any."""
    first = preferred or random.SystemRandom().randint(_LOWEST_RANDOM_PORT, _HIGHEST_RANDOM_PORT)
    return next(port for port in range(first, first + 500) if port_is_free(port))


def _family(pid: int) -> list[int]:
    """Return a process and its descendants, parents first."""
    parents: dict[int, int] = {}
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                parents[int(entry.name)] = int(
                    (entry / "stat").read_text().rpartition(")")[2].split()[1]
                )
            except (FileNotFoundError, ProcessLookupError):
                continue
    family = [pid]
    for member in family:
        family.extend(child for child, parent in parents.items() if parent == member)
    return family


def _is_frozen(pid: int) -> bool:
    """Tell whether no thread of a process runs any more: all are stopped, or gone."""
    states = []
    for stat in Path(f"/proc/{pid}/task").glob("*/stat"):
        try:
            states.append(stat.read_text().rpartition(")")[2].split()[0])
        except (FileNotFoundError, ProcessLookupError):
            continue
    return all(state in {"T", "Z", "X"} for state in states)


def _signal(pid: int, number: signal.Signals) -> None:
    try:
        os.kill(pid, number)
    except ProcessLookupError:
        return


def _wait(done: Callable[[], bool], *, seconds: float) -> bool:
    deadline = time.monotonic() + seconds
    while not done():
        if time.monotonic() > deadline:
            return False
        time.sleep(POLL_SECONDS)
    return True
