"""From a document, as a file or a line of one holds it, to the event that is sent to Kafka.

Everything a worker process does for `publish` is here: it takes bytes and returns bytes, so that
what travels between the processes is small and the sending side has nothing left to compute.
"""

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from enum import Enum
from typing import Any, Final, NamedTuple

from newsloom.core.event import DEFAULT_SOURCE, Event, encode_event
from newsloom.core.mapping import identity_of
from newsloom.core.problems import Invalid, Problem
from newsloom.core.record import Parsed, record_from_json, record_from_mapping, record_from_text
from newsloom.core.record_types import EARLIEST, LATEST, TIME_PATTERN
from newsloom.errors import Rejected, RejectReason

_TIME: Final = re.compile(TIME_PATTERN.removesuffix("$") + r"\Z")
_TIME_KEYS: Final = ("observed_at", "committed_at")
_ENVELOPE: Final = re.compile(rb'"(?:text|observed_at|committed_at)"')
_MAX_NAME_CHARACTERS: Final = 500


class Form(Enum):
    """How a document is written down."""

    FRONT_MATTER = "front matter"
    YAML = "front matter whose --- lines may be missing"
    JSON_LINE = "one line: a record as JSON, or {text, observed_at, path}"


@dataclass(frozen=True, slots=True)
class Document:
    """One record as it was found. `observed_at` counts unless the document names its own time.

    `path` says where it was found, for reports, and `line` which line of it, from 1 (0: all of it).
    `refused` is set when it could not even be read.
    """

    path: str
    form: Form
    data: bytes = field(repr=False)
    observed_at: datetime
    line: int = 0
    refused: Rejected | None = None

    def __reduce__(self) -> tuple[Any, ...]:
        # Pickled for every record; what dataclasses do for it takes three times as long.
        values = (self.path, self.form, self.data, self.observed_at, self.line, self.refused)
        return Document, values


class Rules(NamedTuple):
    """What holds for all documents of one run. `own_time` refuses what names no observed time."""

    source: str = DEFAULT_SOURCE
    own_time: bool = False


@dataclass(frozen=True, slots=True)
class Prepared:
    """A document's event, or why it has none. `dropped` and `unknown` as in `Parsed`.

    `path` and `line` are the document's; `name` is what an NDJSON line itself calls its record.
    """

    path: str
    line: int = 0
    name: str | None = None
    event: Event | None = None
    rejected: Rejected | None = None
    dropped: tuple[str, ...] = ()
    unknown: int = 0

    def __reduce__(self) -> tuple[Any, ...]:
        # As in `Document`; the event's values too, or it would be a second object to pickle.
        event = self.event
        values = (event.key, event.value, event.headers, event.event_id) if event else None
        rest = (self.rejected, self.dropped, self.unknown)
        return _restored, (self.path, self.line, self.name, values, *rest)


def _restored(  # noqa: PLR0917 - as they are pickled
    path: str,
    line: int,
    name: str | None,
    event: tuple[bytes, bytes, list[tuple[str, bytes]], str] | None,
    rejected: Rejected | None,
    dropped: tuple[str, ...],
    unknown: int,
) -> Prepared:
    return Prepared(path, line, name, Event(*event) if event else None, rejected, dropped, unknown)


class Reading(NamedTuple):
    """A document that was understood: what it calls itself, its record, its own observed time."""

    name: str | None
    parsed: Parsed
    own_time: datetime | None


def prepare(document: Document, rules: Rules = Rules()) -> Prepared:  # noqa: B008 - immutable
    """Parse, identify and encode one document. Total: what is wrong with it is in the result."""
    path, line = document.path, document.line
    try:
        name, parsed, own_time = read_document(document)
        if rules.own_time and own_time is None:
            raise _bad_time("needed in every line of a backfill")
        observed_at = own_time or document.observed_at
        event = event_of(parsed, observed_at=observed_at, source=rules.source)
    except Rejected as rejected:
        return Prepared(path, line, _name_in(document), rejected=rejected)
    return Prepared(path, line, name, event, None, parsed.dropped, parsed.unknown)


def event_of(parsed: Parsed, *, observed_at: datetime, source: str) -> Event:
    """Give a parsed record its key, its id and its envelope."""
    identity = identity_of(parsed.record)
    return encode_event(parsed.record, identity, source=source, observed_at=observed_at)


def read_document(document: Document) -> Reading:
    """Parse one document, whatever its form. Raises `Rejected`."""
    if document.refused is not None:
        raise document.refused
    if document.form is Form.JSON_LINE:
        return _read_line(document.data)
    bare = document.form is Form.YAML
    return Reading(None, record_from_text(_decoded(document.data), bare=bare), None)


def _read_line(data: bytes) -> Reading:
    # Most lines are a record and nothing else: those are parsed once, by the models.
    line = _envelope(data) if _ENVELOPE.search(data) else None
    if line is None:
        return Reading(None, record_from_json(data), None)
    text, time = line.get("text"), _own_time(line)
    if isinstance(text, str) and "title" not in line:
        return Reading(_name(line), record_from_text(text), time)
    record = {key: value for key, value in line.items() if key not in _TIME_KEYS}
    return Reading(_name(line), record_from_mapping(record), time)


def _envelope(data: bytes) -> dict[str, Any] | None:
    """Return a line that says more than its record; None lets the record's parser complain."""
    try:
        line = json.loads(_decoded(data))
    except (ValueError, RecursionError):
        return None
    return line if isinstance(line, dict) else None


def _name_in(document: Document) -> str | None:
    """Return what a refused line calls itself, if it can be read that far."""
    if document.form is not Form.JSON_LINE or document.refused is not None:
        return None
    try:
        line = _envelope(document.data)
    except Rejected:
        return None
    return _name(line) if line else None


def _name(line: Mapping[str, Any]) -> str | None:
    path = line.get("path")
    return path[:_MAX_NAME_CHARACTERS] if isinstance(path, str) else None


def _decoded(data: bytes) -> str:
    try:
        return data.decode()
    except UnicodeDecodeError as error:
        raise Rejected(RejectReason.DECODE_UTF8, f"not UTF-8 at byte {error.start}") from None


def _own_time(line: Mapping[str, Any]) -> datetime | None:
    """Read a line's `observed_at` (RFC 3339) or `committed_at` (seconds since 1970)."""
    text, seconds = line.get("observed_at"), line.get("committed_at")
    if text is None and seconds is None:
        return None
    try:
        if text is not None:
            if not isinstance(text, str) or not _TIME.match(text):
                raise _bad_time("not an RFC 3339 time with a zone")
            time = datetime.fromisoformat(text.upper()).astimezone(UTC)
        else:
            if isinstance(seconds, bool) or not isinstance(seconds, int | float):
                raise _bad_time("committed_at is not a number of seconds")
            time = datetime.fromtimestamp(seconds, UTC)
    except (ValueError, OverflowError, OSError):
        raise _bad_time("not a time") from None
    if not EARLIEST <= time <= LATEST:
        raise _bad_time("not between 1900 and 2200")
    return time


def _bad_time(message: str) -> Invalid:
    return Invalid.of([Problem("observed_at", RejectReason.TIME_INVALID, message)])
