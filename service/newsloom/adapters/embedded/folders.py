"""Where the embedded services keep their data, and who owns it.

Postgres refuses to run as root, so as root both services run as `nobody`. Everything `nobody`
needs must then be reachable: the data lives under /var/lib/newsloom, and programs that live where
`nobody` cannot go (a checkout below /root) are copied there. The mode of a folder that we did not
make is never changed.
"""

import fcntl
import os
import pwd
import shutil
import stat
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Literal

from newsloom.adapters.embedded.errors import EmbeddedServiceError

FOLDER_VARIABLE: Final = "NEWSLOOM_SERVICES_DIR"
ROOT_FOLDER: Final = Path("/var/lib/newsloom")
LOCK_WAIT_SECONDS: Final = 180
NEEDED_BYTES: Final = 500 * 2**20
"""Free space asked for before a start: 90 MB of jars and fresh data, and room to be useful."""

Report = Callable[[str], None]
"""Takes one sentence of progress for a person."""


def be_quiet(sentence: str) -> None:
    """Be a `Report` that nobody reads."""


@dataclass(frozen=True, slots=True)
class Owner:
    """The unprivileged user that services run as when we are root."""

    name: str
    uid: int
    gid: int


def service_owner() -> Owner | None:
    """Return whom to run services as, or None for "as ourselves"."""
    if os.geteuid() != 0:
        return None
    entry = pwd.getpwnam("nobody")
    return Owner(entry.pw_name, entry.pw_uid, entry.pw_gid)


def default_folder(environment: Mapping[str, str]) -> Path:
    """Return the folder of the embedded services: NEWSLOOM_SERVICES_DIR, else the usual place."""
    if chosen := environment.get(FOLDER_VARIABLE):
        return Path(chosen).absolute()
    return ROOT_FOLDER if os.geteuid() == 0 else Path(".newsloom").absolute()


def default_cache(environment: Mapping[str, str], services: Path) -> Path:
    """Return where downloads are kept, shared by all service folders of one user.

    XDG_CACHE_HOME, else ~/.cache; without a usable home, below the services' own folder. Root's
    home is closed to `nobody`, hence its place under /var/lib.
    """
    if os.geteuid() == 0:
        return ROOT_FOLDER / "cache"
    home = environment.get("HOME", "")
    if base := environment.get("XDG_CACHE_HOME") or (home and f"{home}/.cache"):
        existing = next(folder for folder in (Path(base), *Path(base).parents) if folder.exists())
        if Path(base).is_absolute() and os.access(existing, os.W_OK):
            return Path(base) / "newsloom"
    return services / "cache"


def make_folder(path: Path, *, owner: Owner | None = None, mode: int = 0o755) -> None:
    """Create a folder and its parents, whatever the umask; leave existing ones as they are."""
    if path.is_dir():
        return
    if path.parent != path:
        make_folder(path.parent)
    path.mkdir(exist_ok=True)
    path.chmod(mode)
    if owner is not None:
        os.chown(path, owner.uid, owner.gid)


def write_private(path: Path, text: str, *, owner: Owner | None = None) -> None:
    """Replace a file in one step, readable by its owner only."""
    new = path.with_name(f"{path.name}.new")
    new.unlink(missing_ok=True)
    descriptor = os.open(new, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    with os.fdopen(descriptor, "w") as file:
        file.write(text)
    if owner is not None:
        os.chown(new, owner.uid, owner.gid)
    new.replace(path)


def prepare_service_folder(
    service: Literal["kafka", "postgres"], folder: Path, owner: Owner | None
) -> None:
    """Create the folder of one service, or check that it can be used; raise a sentence if not."""
    try:
        make_folder(folder, owner=owner, mode=0o700)
    except OSError as error:
        raise EmbeddedServiceError(
            service,
            "folder",
            f"The folder {folder} cannot be made ({error.strerror}); name another one with "
            f"{FOLDER_VARIABLE}.",
        ) from error
    if owner is not None and (closed := _closed_to_others(folder.parent)) is not None:
        raise EmbeddedServiceError(
            service,
            "folder",
            f"Started by root, the services run as the user {owner.name}, who cannot enter "
            f"{closed}; name an open folder with {FOLDER_VARIABLE}, {ROOT_FOLDER} for instance.",
        )
    expected = owner.uid if owner is not None else os.geteuid()
    if folder.stat().st_uid != expected:
        raise EmbeddedServiceError(
            service,
            "ownership",
            f"The folder {folder} belongs to another user; start the services as that user, or "
            f"name another folder with {FOLDER_VARIABLE}.",
        )
    if shutil.disk_usage(folder).free < NEEDED_BYTES:
        raise EmbeddedServiceError(
            service,
            "disk",
            f"The disk of {folder} has less than {NEEDED_BYTES // 2**20} MB free; make room, or "
            f"name a folder on another disk with {FOLDER_VARIABLE}.",
        )


def reachable_copy(tree: Path, parts: tuple[str, ...], name: str, folder: Path) -> Path:
    """Return a folder with `parts` of `tree` that every user may read: `tree` itself if it is so.

    Otherwise the parts are copied once to `folder`/programs/`name`; `name` carries the version.
    """
    if all(_closed_to_others(tree / part) is None for part in parts):
        return tree
    target = folder / "programs" / name
    if target.is_dir():
        return target
    new = target.with_name(f"{name}.new")
    shutil.rmtree(new, ignore_errors=True)
    make_folder(new)
    for part in parts:
        shutil.copytree(tree / part, new / part, symlinks=True)
    for path in (new, *new.rglob("*")):
        if not path.is_symlink():
            mode = path.stat().st_mode
            executable = mode & stat.S_IXUSR
            path.chmod(stat.S_IMODE(mode) | (0o055 if executable else 0o044))
    new.rename(target)
    return target


def _closed_to_others(path: Path) -> Path | None:
    """Return the first folder on the way down to `path` that other users may not enter."""
    resolved = path.resolve()
    for folder in (*reversed(resolved.parents), resolved):
        if not folder.stat().st_mode & stat.S_IXOTH:
            return folder
    return None


@contextmanager
def exclusive(folder: Path, report: Report) -> Iterator[None]:
    """Hold the folder's lock, so that two starters do not work on it at once.

    Waits for the other one, up to `LOCK_WAIT_SECONDS`. The kernel frees the lock of a process that
    died.
    """
    make_folder(folder)
    with (folder / "lock").open("w") as file:
        deadline = time.monotonic() + LOCK_WAIT_SECONDS
        told = False
        while True:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError as error:
                if time.monotonic() > deadline:
                    raise EmbeddedServiceError(
                        "kafka",
                        "lock",
                        f"Another newsloom has been starting or stopping the services in {folder} "
                        f"for {LOCK_WAIT_SECONDS} s; end that one and try again.",
                    ) from error
                if not told:
                    report("Waiting for another newsloom that starts or stops these services.")
                    told = True
                time.sleep(0.1)
        yield
