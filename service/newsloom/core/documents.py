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
from newsloom.core.mapping import article_from_record
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


def prepare(document: Document, rules: Rules = Rules()) -> Prepared:  # noqa: B008 - immutable
    """Parse, identify and encode one document. Total: what is wrong with it is in the result."""
    path, line = document.path, document.line
    name = None
    try:
        if document.refused is not None:
            raise document.refused
        name, parsed, own_time = _parsed(document)
        if rules.own_time and own_time is None:
            raise _bad_time("needed in every line of a backfill")
        observed_at = own_time or document.observed_at
        event = event_of(parsed, observed_at=observed_at, source=rules.source)
    except Rejected as rejected:
        return Prepared(path, line, name, rejected=rejected)
    return Prepared(path, line, name, event, None, parsed.dropped, parsed.unknown)


def event_of(parsed: Parsed, *, observed_at: datetime, source: str) -> Event:
    """Give a parsed record its key, its id and its envelope."""
    article = article_from_record(parsed.record)
    return encode_event(parsed.record, article, source=source, observed_at=observed_at)


_Line = tuple[str | None, Parsed, datetime | None]


def _parsed(document: Document) -> _Line:
    if document.form is Form.JSON_LINE:
        return _parsed_line(document)
    parsed = record_from_text(_decoded(document.data), bare=document.form is Form.YAML)
    return None, parsed, None


def _parsed_line(document: Document) -> _Line:
    # Most lines are a record and nothing else: those are parsed once, by the models.
    if not _ENVELOPE.search(document.data):
        return None, record_from_json(document.data), None
    try:
        line = json.loads(_decoded(document.data))
    except (ValueError, RecursionError):
        line = None
    if not isinstance(line, dict):
        return None, record_from_json(document.data), None  # raises, and says why
    path = line.get("path")
    name = path[:_MAX_NAME_CHARACTERS] if isinstance(path, str) else None
    text = line.get("text")
    if isinstance(text, str) and "title" not in line:
        return name, record_from_text(text), _own_time(line)
    time = _own_time(line)
    record = {key: value for key, value in line.items() if key not in _TIME_KEYS}
    return name, record_from_mapping(record), time


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
