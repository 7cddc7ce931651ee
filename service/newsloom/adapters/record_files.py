"""Record files: what `newsloom publish` is pointed at, as documents, in order, in bounded memory.

Nothing here parses a record. A file that cannot be read gives one refused document that says why,
and its neighbours go on.
"""

import contextlib
import errno
import glob
import gzip
import os
import stat
import sys
import zlib
from collections.abc import Callable, Iterator, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import IO, Final, NamedTuple, Protocol

from newsloom.core.documents import Document, Form
from newsloom.errors import Rejected, RejectReason

MAX_FILE_BYTES: Final = 16 * 1024 * 1024
"""Of a front matter file; what parsing accepts is less, this bounds what is read to find out."""

MAX_LINE_BYTES: Final = 4 * 1024 * 1024
"""Of one line of NDJSON."""

MAX_CHUNK_DOCUMENTS: Final = 250
"""The more go together, the fewer and fuller the batches in Kafka."""

_MAX_SKIPPED_BYTES: Final = 16 * MAX_LINE_BYTES
_CHUNK_BYTES: Final = 512 * 1024
_STDIN: Final = "-"
_FRONT_MATTER: Final = frozenset((".md", ".txt", ".markdown"))
_YAML: Final = frozenset((".yaml", ".yml"))
_SUFFIXES: Final = (*sorted(_FRONT_MATTER | _YAML), ".ndjson", ".jsonl", ".ndjson.gz", ".jsonl.gz")


class _Lines(Protocol):
    def readline(self, size: int, /) -> bytes: ...


class NothingToReadError(Exception):
    """A path or pattern that names no record file at all: most likely a typing mistake."""


class FileState(NamedTuple):
    """Tells whether a file is the one that was seen before."""

    device: int
    inode: int
    modified_ns: int
    size: int


def record_paths(patterns: Sequence[str]) -> Iterator[str]:
    """Yield the record files that files, folders and globs name, folders sorted and recursive.

    Raises `NothingToReadError` for a pattern without any, before the first path is given out.
    """
    for pattern in patterns:
        if pattern != _STDIN and not os.path.lexists(pattern) and not _matches(pattern):
            raise NothingToReadError(pattern)
    return _expanded(patterns)


def _expanded(patterns: Sequence[str]) -> Iterator[str]:
    for pattern in patterns:
        if pattern == _STDIN:
            yield pattern
        elif os.path.lexists(pattern):
            yield from _within(pattern)
        else:
            for match in _matches(pattern):
                yield from _within(match)


def _matches(pattern: str) -> list[str]:
    return sorted(glob.glob(pattern, recursive=True))  # noqa: PTH207 - patterns may be absolute


def _within(path: str) -> Iterator[str]:
    if not os.path.isdir(path):  # noqa: PTH112 - a str in, a str out
        yield path
        return
    for folder, folders, names in os.walk(path):
        folders.sort()
        for name in sorted(names):
            if name.endswith(_SUFFIXES) and not name.startswith("."):
                yield os.path.join(folder, name)  # noqa: PTH118 - as above


def read_chunks(
    paths: Iterator[str], *, now: Callable[[], datetime], documents: int = MAX_CHUNK_DOCUMENTS
) -> Iterator[list[Document]]:
    """Yield the documents of all files, in order, no more than `documents` at a time.

    A chunk is also bounded in bytes.
    """
    chunk: list[Document] = []
    size = 0
    for path in paths:
        for document in read_documents(path, now=now):
            chunk.append(document)
            size += len(document.data)
            if len(chunk) >= documents or size >= _CHUNK_BYTES:
                yield chunk
                chunk, size = [], 0
    if chunk:
        yield chunk


def read_documents(path: str, *, now: Callable[[], datetime]) -> Iterator[Document]:
    """Yield the documents of one file: one of front matter, one for each line of NDJSON.

    Observed at the file's modification time; standard input now, and as NDJSON.
    """
    name = _printable(path)
    try:
        with contextlib.ExitStack() as stack:
            if path == _STDIN:
                yield from _lines("<stdin>", sys.stdin.buffer, now())
                return
            file, observed_at = _opened(path, stack)
            if path.endswith((".ndjson", ".jsonl")):
                yield from _lines(name, file, observed_at)
            elif path.endswith((".ndjson.gz", ".jsonl.gz")):
                yield from _lines(
                    name, stack.enter_context(gzip.GzipFile(fileobj=file)), observed_at
                )
            else:
                yield _whole_file(name, path, file, observed_at)
    except Rejected as rejected:
        yield _refused(name, rejected, now())
    except (OSError, EOFError, zlib.error) as error:
        yield _refused(name, Rejected(RejectReason.FILE_UNREADABLE, _said(error)), now())


def file_state(path: str) -> FileState | None:
    """Return what identifies a file's present content; None when it is not a regular file."""
    try:
        found = Path(path).lstat()
    except OSError:
        return None
    if not stat.S_ISREG(found.st_mode):
        return None
    return FileState(found.st_dev, found.st_ino, found.st_mtime_ns, found.st_size)


def _opened(path: str, stack: contextlib.ExitStack) -> tuple[IO[bytes], datetime]:
    """Open a regular file, never through a link, never waiting for a pipe's other end."""
    number = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    file = stack.enter_context(os.fdopen(number, "rb"))
    found = os.fstat(number)
    if not stat.S_ISREG(found.st_mode):
        raise Rejected(RejectReason.FILE_UNREADABLE, "not a regular file")
    return file, datetime.fromtimestamp(found.st_mtime, UTC)


def _whole_file(name: str, path: str, file: IO[bytes], observed_at: datetime) -> Document:
    data = file.read(MAX_FILE_BYTES + 1)
    if len(data) > MAX_FILE_BYTES:
        raise Rejected(RejectReason.FILE_SIZE, f"larger than {MAX_FILE_BYTES} bytes")
    form = Form.YAML if Path(path).suffix.lower() in _YAML else Form.FRONT_MATTER
    return Document(name, form, data, observed_at)


def _lines(name: str, file: _Lines, observed_at: datetime) -> Iterator[Document]:
    number = 0
    empty = True
    while line := file.readline(MAX_LINE_BYTES + 1):
        number += 1
        if len(line) > MAX_LINE_BYTES:
            detail = f"the line has more than {MAX_LINE_BYTES} bytes"
            empty = False
            yield _refused(name, Rejected(RejectReason.FILE_SIZE, detail), observed_at, number)
            if not _skipped(file):
                detail = f"the rest of the file: no line end within {_MAX_SKIPPED_BYTES} bytes"
                raise Rejected(RejectReason.FILE_SIZE, detail)
        elif line.strip():
            empty = False
            yield Document(name, Form.JSON_LINE, line, observed_at, number)
    if empty:
        raise Rejected(RejectReason.DECODE_EMPTY, "the file is empty")


def _skipped(file: _Lines) -> bool:
    """Go to the end of an overlong line; False when it has no end worth waiting for."""
    for _ in range(_MAX_SKIPPED_BYTES // MAX_LINE_BYTES):
        rest = file.readline(MAX_LINE_BYTES)
        if not rest or rest.endswith(b"\n"):
            return True
    return False


def _refused(name: str, rejected: Rejected, observed_at: datetime, line: int = 0) -> Document:
    return Document(name, Form.FRONT_MATTER, b"", observed_at, line, rejected)


def _printable(path: str) -> str:
    """Show a path on one line, whatever bytes it is made of."""
    text = os.fsencode(path).decode("utf-8", "backslashreplace")
    return "".join(c if c.isprintable() else repr(c)[1:-1] for c in text)


def _said(error: BaseException) -> str:
    if isinstance(error, OSError) and error.errno is not None:
        if error.errno == errno.ELOOP:
            return "a symbolic link"
        return os.strerror(error.errno).lower()
    return "not a complete gzip file"
