"""Dead letters on Kafka: as other tools expect them, and back to where they came from.

A relayed letter is the original message, byte for byte, with the headers of both conventions: Kafka
Connect's (`__connect.errors.*`, text) and Spring's (`kafka_dlt-*`, big-endian numbers). Their
message is the reason code: never a body, an SQL statement, a stack trace.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from hashlib import sha256
from typing import Final

import orjson

from newsloom.core.event import Event, Outgoing, encode_event
from newsloom.core.mapping import article_from_record
from newsloom.core.record import record_from_json, record_from_text
from newsloom.errors import RejectReason

REPLAY_COUNT: Final = "x-newsloom-replay-count"
MAX_REPLAYS: Final = 3
"""A letter that was tried so often is final: whatever refuses it will go on doing so."""

_RESERVED: Final = ("__connect.errors.", "kafka_dlt-", "x-newsloom-dead-letter-")
_FORGED: Final = "x-orig-"
_COMPONENT: Final = "newsloom"
_EXCEPTION: Final = "newsloom.errors.Rejected"
_MAX_COUNT_DIGITS: Final = 4

Headers = tuple[tuple[str, bytes | None], ...]


@dataclass(frozen=True, slots=True)
class LetterId:
    """Where a letter came from; as text `topic/incarnation/partition/offset`, its Kafka key."""

    kafka_topic: str
    incarnation: int
    partition: int
    offset: int

    def __str__(self) -> str:
        return f"{self.kafka_topic}/{self.incarnation}/{self.partition}/{self.offset}"

    @classmethod
    def parse(cls, text: str) -> "LetterId":
        """Read the text form back. Raises ValueError."""
        topic, *numbers = text.split("/")
        if not topic or len(numbers) != 3 or not all(n.isascii() and n.isdigit() for n in numbers):  # noqa: PLR2004 - see the text form
            raise ValueError("a dead letter is named topic/incarnation/partition/offset")
        return cls(topic, *map(int, numbers))


@dataclass(frozen=True, slots=True)
class StoredLetter:
    """A dead letter as it is kept. Times are aware; key, value and headers are the original's."""

    id: LetterId
    consumer_group: str
    reason: str
    detail: str
    observed_at: datetime
    created_at: datetime
    relayed_at: datetime | None
    replayed_at: datetime | None
    replay_count: int
    value_bytes: int | None
    key: bytes | None = field(default=None, repr=False)
    value: bytes | None = field(default=None, repr=False)
    headers: Headers = field(default=(), repr=False)

    @property
    def replays(self) -> int:
        """How often this record was tried again: as this letter, or before it became this one."""
        return max(self.replay_count, _counted(self.headers))


def relay_message(letter: StoredLetter) -> Outgoing:
    """Make the message for the Kafka topic of dead letters: the original, and why it is there."""
    originals = [
        (f"{_FORGED}{name}" if name.startswith(_RESERVED) else name, value)
        for name, value in letter.headers
    ]
    return _message(letter, letter.value, [*originals, *_reasons(letter)])


def reduced_relay_message(letter: StoredLetter) -> Outgoing:
    """The same for a letter that is too large for its topic: digest and length, not the bytes."""
    value = letter.value or b""
    payload = {"sha256": sha256(value).hexdigest(), "length": len(value)}
    marks = [("x-newsloom-dead-letter-payload", b"replaced"), ("content-type", b"application/json")]
    return _message(letter, orjson.dumps(payload), [*_reasons(letter), *marks])


def replay_message(letter: StoredLetter) -> Outgoing | None:
    """Make the message that tries a letter again: original bytes, first observed when they were.

    None when there is nothing to send: an erased letter keeps no bytes, a tombstone never had any.
    """
    if letter.value is None or letter.reason == RejectReason.ERASED:
        return None
    kept = [(n, v) for n, v in letter.headers if n not in ("ce_time", REPLAY_COUNT)]
    headers = [*kept, ("ce_time", _time(letter.observed_at)), _count_header(letter)]
    return Outgoing(letter.key, letter.value, headers, str(letter.id))


def repaired_message(letter: StoredLetter, repaired: bytes) -> Outgoing:
    """Make the message that tries a mended record in the letter's place.

    `repaired` is one record: the JSON object of the wire, or front matter. Raises `Rejected` when
    it would be refused again.
    """
    if repaired.lstrip()[:1] == b"{":
        record = record_from_json(repaired).record
    else:
        record = record_from_text(repaired.decode("utf-8", "replace")).record
    event: Event = encode_event(record, article_from_record(record), observed_at=letter.observed_at)
    headers = [*event.headers, _count_header(letter)]
    return Outgoing(event.key, event.value, headers, event.event_id)


def _message(
    letter: StoredLetter, value: bytes | None, headers: Sequence[tuple[str, bytes | None]]
) -> Outgoing:
    name = str(letter.id)
    return Outgoing(name.encode(), value, headers, name)


def _reasons(letter: StoredLetter) -> list[tuple[str, bytes | None]]:
    place = letter.id
    reason = letter.reason.encode()
    observed_ms = int(letter.observed_at.timestamp() * 1000)
    return [
        ("__connect.errors.topic", place.kafka_topic.encode()),
        ("__connect.errors.partition", str(place.partition).encode()),
        ("__connect.errors.offset", str(place.offset).encode()),
        ("__connect.errors.connector.name", _COMPONENT.encode()),
        ("__connect.errors.task.id", str(place.partition).encode()),
        ("__connect.errors.stage", b"TASK_PUT"),
        ("__connect.errors.class.name", _COMPONENT.encode()),
        ("__connect.errors.exception.class.name", _EXCEPTION.encode()),
        ("__connect.errors.exception.message", reason),
        ("kafka_dlt-original-topic", place.kafka_topic.encode()),
        ("kafka_dlt-original-partition", place.partition.to_bytes(4, "big")),
        ("kafka_dlt-original-offset", place.offset.to_bytes(8, "big")),
        ("kafka_dlt-original-timestamp", observed_ms.to_bytes(8, "big", signed=True)),
        ("kafka_dlt-original-consumer-group", letter.consumer_group.encode()),
        ("kafka_dlt-exception-fqcn", _EXCEPTION.encode()),
        ("kafka_dlt-exception-message", reason),
        ("x-newsloom-dead-letter-incarnation", str(place.incarnation).encode()),
        ("x-newsloom-dead-letter-observed-at", _time(letter.observed_at)),
    ]


def _time(moment: datetime) -> bytes:
    return (moment.astimezone(UTC).isoformat().removesuffix("+00:00") + "Z").encode()


def _count_header(letter: StoredLetter) -> tuple[str, bytes]:
    return REPLAY_COUNT, str(letter.replays + 1).encode()


def _counted(headers: Headers) -> int:
    """Read the count off the headers; what is no number counts as none."""
    counts = [
        int(value)
        for name, value in headers
        if name == REPLAY_COUNT and value and len(value) <= _MAX_COUNT_DIGITS and value.isdigit()
    ]
    return max(counts, default=0)
