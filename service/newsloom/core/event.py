"""A record in its envelope on Kafka: CloudEvents 1.0 in the Kafka protocol binding's binary mode.

Written by hand because the SDK invents an id or a time where one is missing, which would make
deliveries look new; the tests use it as the oracle. A plain message without any header is an event
too: it was observed when Kafka says it was.
"""

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from functools import lru_cache
from hashlib import sha256
from typing import Final

from newsloom.core.article import Article
from newsloom.core.identity import article_id
from newsloom.core.mapping import Identity, article_from_record
from newsloom.core.record import Record, record_from_json
from newsloom.core.record_types import EARLIEST, LATEST, TIME_PATTERN
from newsloom.core.values import value_class
from newsloom.errors import Rejected, RejectReason

SPEC_VERSION: Final = "1.0"
EVENT_TYPE: Final = "newsloom.article.parsed.v1"
CONTENT_TYPE: Final = "application/json"
DEFAULT_SOURCE: Final = "newsloom/publish"
MAX_KEY_BYTES: Final = 4096

Headers = Iterable[tuple[str, bytes | None]]

_EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)
_LATEST_MS: Final = (LATEST - _EPOCH) // timedelta(milliseconds=1)
_SOURCE: Final = re.compile(r"[!-~]{1,255}\Z", re.ASCII)
_TIME: Final = re.compile(TIME_PATTERN.removesuffix("$") + r"\Z")
_TRACEPARENT: Final = re.compile(r"[0-9a-f]{2}-[0-9a-f]{32}-[0-9a-f]{16}-[0-9a-f]{2}\Z")
_EVENT_ID: Final = re.compile(r"[!-~]{1,255}\Z", re.ASCII)
_READ: Final = frozenset(
    ("ce_specversion", "ce_type", "ce_time", "ce_id", "content-type", "traceparent")
)


@dataclass(frozen=True, slots=True)
class Event:
    """What is produced to Kafka for one record. `event_id` is the value of `ce_id`."""

    key: bytes
    value: bytes = field(repr=False)
    headers: list[tuple[str, bytes]] = field(repr=False)
    event_id: str


@dataclass(frozen=True, slots=True)
class Outgoing:
    """Any message for Kafka. `event_id` goes into the receipt: the same again, the same id."""

    key: bytes | None
    value: bytes | None = field(repr=False)
    headers: Sequence[tuple[str, bytes | None]] = field(repr=False)
    event_id: str


@value_class(frozen=True, slots=True)
class Decoded:
    """What a delivery says. `dropped` and `unknown` as in `Parsed`, with `ce_time` if unusable."""

    article: Article
    observed_at: datetime
    event_id: str | None = None
    traceparent: str | None = None
    dropped: tuple[str, ...] = ()
    unknown: int = 0


def encode_event(
    record: Record,
    article: Article | Identity,
    *,
    source: str = DEFAULT_SOURCE,
    observed_at: datetime,
    traceparent: str | None = None,
) -> Event:
    """Wrap a record up. The same arguments give the same event, so that a repeat can be recognised.

    Raises ValueError for what no caller should pass: a `source` that is no URI reference, a naive
    or absurd `observed_at`, a malformed `traceparent`.
    """
    if not _SOURCE.match(source):
        raise ValueError("source: 1 to 255 visible ASCII characters are needed")
    if observed_at.tzinfo is None or not EARLIEST <= observed_at <= LATEST:
        raise ValueError("observed_at: an aware time between 1900 and 2200 is needed")
    if traceparent is not None and not _TRACEPARENT.match(traceparent):
        raise ValueError("traceparent: not in the form of W3C Trace Context")
    time, key = _written(observed_at.astimezone(UTC)), article.key.encode()
    event_id = _event_id(source.encode(), key, article.content_hash, time)
    headers = [
        ("ce_specversion", SPEC_VERSION.encode()),
        ("ce_id", event_id.encode()),
        ("ce_source", source.encode()),
        ("ce_type", EVENT_TYPE.encode()),
        ("ce_time", time),
        ("ce_subject", str(article_id(article.key)).encode()),
        ("content-type", CONTENT_TYPE.encode()),
    ]
    if traceparent is not None:
        headers.append(("traceparent", traceparent.encode()))
    return Event(key, record.to_wire(), headers, event_id)


def decode(value: bytes | None, key: bytes | None, headers: Headers, timestamp_ms: int) -> Decoded:
    """Read a delivery. Identity comes from the value; the key is only ever a hint to Kafka.

    Raises `Rejected` for everything that can never become an article, and nothing else.
    """
    if value is None:
        raise Rejected(RejectReason.KAFKA_TOMBSTONE, "the message has no value")
    if key is not None and len(key) > MAX_KEY_BYTES:
        detail = f"the key has {len(key)} bytes, at most {MAX_KEY_BYTES} are allowed"
        raise Rejected(RejectReason.KAFKA_KEY_SIZE, detail)
    attributes = _attributes(headers)
    _check_version(attributes)
    parsed = record_from_json(value)
    time = _time(attributes)
    dropped = parsed.dropped
    if time is None and "ce_time" in attributes:
        dropped = (*dropped, "ce_time")
    return Decoded(
        article=article_from_record(parsed.record),
        observed_at=time or _kafka_time(timestamp_ms),
        event_id=_matching(_EVENT_ID, attributes.get("ce_id")),
        traceparent=_matching(_TRACEPARENT, attributes.get("traceparent")),
        dropped=dropped,
        unknown=parsed.unknown,
    )


def observed_time(headers: Headers, timestamp_ms: int) -> datetime:
    """When the event was observed: `ce_time`, else Kafka's timestamp, else 1970. Never raises."""
    return _time(_attributes(headers)) or _kafka_time(timestamp_ms)


def _attributes(headers: Headers) -> Mapping[str, str]:
    """Return the headers we read, as text. Of a repeated one the last counts, as Kafka does it."""
    found: dict[str, str] = {}
    for name, value in headers:
        if name in _READ and value is not None:
            found[name] = value.decode("utf-8", "replace")
    return found


def _check_version(attributes: Mapping[str, str]) -> None:
    if attributes.get("ce_type", EVENT_TYPE) != EVENT_TYPE:
        raise Rejected(RejectReason.SCHEMA_VERSION, f"ce_type is not {EVENT_TYPE}")
    if attributes.get("ce_specversion", SPEC_VERSION) != SPEC_VERSION:
        raise Rejected(RejectReason.SCHEMA_VERSION, f"ce_specversion is not {SPEC_VERSION}")
    if attributes.get("content-type", "").lower().startswith("application/cloudevents"):
        detail = "CloudEvents in structured mode; send them in binary mode"
        raise Rejected(RejectReason.SCHEMA_VERSION, detail)


def _time(attributes: Mapping[str, str]) -> datetime | None:
    text = attributes.get("ce_time", "")
    if not _TIME.match(text):
        return None
    try:
        time = datetime.fromisoformat(text.upper()).astimezone(UTC)
    except (ValueError, OverflowError):
        return None
    return time if EARLIEST <= time <= LATEST else None


def _kafka_time(timestamp_ms: int) -> datetime:
    """Kafka stores any 64-bit number; what is no time counts as the oldest there is."""
    if 0 <= timestamp_ms <= _LATEST_MS:
        return _EPOCH + timedelta(milliseconds=timestamp_ms)
    return _EPOCH


def _matching(pattern: re.Pattern[str], text: str | None) -> str | None:
    return text if text is not None and pattern.match(text) else None


@lru_cache(maxsize=256)
def _written(time: datetime) -> bytes:
    """Give a time in UTC as `ce_time` has it, remembered: all lines of a file share theirs."""
    return time.isoformat().removesuffix("+00:00").encode() + b"Z"


def _event_id(*parts: bytes) -> str:
    # With its length in front, no part can be read as the end of the one before.
    return sha256(b"".join([len(part).to_bytes(4, "big") + part for part in parts])).hexdigest()
