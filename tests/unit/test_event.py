import json
from datetime import UTC, datetime, timedelta, timezone
from typing import Any

import pytest
from cloudevents.core.bindings.kafka import KafkaMessage, from_binary_event
from cloudevents.core.formats.json import JSONFormat
from hypothesis import given
from hypothesis import strategies as st

from newsloom.core.event import MAX_KEY_BYTES, Event, decode, encode_event, observed_time
from newsloom.core.mapping import article_from_record
from newsloom.core.record import record_from_mapping
from newsloom.errors import Rejected, RejectReason

NEEDED = {"title": "Ein Übermaß", "originalUrl": "https://a.example/1"}
NOON = datetime(2024, 2, 3, 12, tzinfo=UTC)
TRACE = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"
GOLDEN_ID = "21284c01f96502f1086f476ddf81a397e66046657483676c2268ee59bdd5c205"
EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


def event(
    values: dict[str, Any] | None = None, observed_at: datetime = NOON, **options: Any
) -> Event:
    record = record_from_mapping(NEEDED | (values or {})).record
    return encode_event(record, article_from_record(record), observed_at=observed_at, **options)


def test_the_sdk_reads_our_events() -> None:
    made = event(traceparent=TRACE, source="newsloom/test?x=1")
    message = KafkaMessage(headers=dict(made.headers), key=made.key, value=made.value)
    read = from_binary_event(message, JSONFormat())
    assert read.get_id() == made.event_id
    assert read.get_source() == "newsloom/test?x=1"
    assert read.get_type() == "newsloom.article.parsed.v1"
    assert read.get_specversion() == "1.0"
    assert read.get_time() == NOON
    assert read.get_datacontenttype() == "application/json"
    assert read.get_data() == NEEDED


def test_an_event_comes_back_as_it_was_sent() -> None:
    made = event({"heat": 3, "unheard": 1}, traceparent=TRACE)
    found = decode(made.value, made.key, made.headers, timestamp_ms=5)
    assert found.article == article_from_record(
        record_from_mapping(NEEDED | {"heat": 3, "unheard": 1}).record
    )
    assert (found.observed_at, found.event_id) == (NOON, made.event_id)
    assert (found.traceparent, found.dropped, found.unknown) == (TRACE, (), 1)
    assert made.key == b"a.example/1"


def test_a_plain_message_was_observed_when_kafka_says() -> None:
    found = decode(json.dumps(NEEDED).encode(), None, [], timestamp_ms=1_706_961_600_123)
    assert found.observed_at == datetime(2024, 2, 3, 12, 0, 0, 123_000, tzinfo=UTC)
    assert (found.event_id, found.traceparent) == (None, None)


@pytest.mark.parametrize(
    ("time", "text"),
    [
        (NOON, b"2024-02-03T12:00:00Z"),
        (NOON + timedelta(microseconds=7), b"2024-02-03T12:00:00.000007Z"),
        (NOON.astimezone(timezone(timedelta(hours=5, minutes=45))), b"2024-02-03T12:00:00Z"),
    ],
)
def test_times_are_utc_with_what_precision_there_is(time: datetime, text: bytes) -> None:
    assert dict(event(observed_at=time).headers)["ce_time"] == text


def test_the_id_repeats_with_its_event_and_differs_with_each_part() -> None:
    ids = [
        event().event_id,
        event(source="elsewhere").event_id,
        event(observed_at=NOON + timedelta(microseconds=1)).event_id,
        event({"originalUrl": "https://a.example/2"}).event_id,
        event({"title": "x"}).event_id,
    ]
    assert len(set(ids)) == len(ids)
    assert event({"heat": 9, "secured": "x"}).event_id == ids[0]
    assert ids[0] == GOLDEN_ID


@pytest.mark.parametrize(
    "options",
    [
        {"source": ""},
        {"source": "with space"},
        {"source": "ü"},
        {"source": "x" * 256},
        {"observed_at": NOON.replace(tzinfo=None)},
        {"observed_at": datetime(1, 1, 1, tzinfo=UTC)},
        {"traceparent": "00-x"},
        {"traceparent": TRACE + "\n"},
    ],
)
def test_what_no_caller_should_pass_is_an_error(options: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=r"^\w+: "):
        event(**options)


@pytest.mark.parametrize(
    ("value", "key", "headers", "reason"),
    [
        (None, b"k", [], RejectReason.KAFKA_TOMBSTONE),
        (None, None, [], RejectReason.KAFKA_TOMBSTONE),
        (b"", b"k", [], RejectReason.DECODE_EMPTY),
        (b"{}", b"k" * (MAX_KEY_BYTES + 1), [], RejectReason.KAFKA_KEY_SIZE),
        (b"{}", None, [("ce_type", b"newsloom.article.parsed.v2")], RejectReason.SCHEMA_VERSION),
        (b"{}", None, [("ce_type", b"\xff")], RejectReason.SCHEMA_VERSION),
        (b"{}", None, [("ce_specversion", b"0.3")], RejectReason.SCHEMA_VERSION),
        (
            b"{}",
            None,
            [("content-type", b"application/cloudevents+json; charset=UTF-8")],
            RejectReason.SCHEMA_VERSION,
        ),
        (b"{}", None, [], RejectReason.NOT_AN_ARTICLE),
    ],
)
def test_what_can_never_be_stored_is_rejected(
    value: bytes | None, key: bytes | None, headers: list[Any], reason: RejectReason
) -> None:
    with pytest.raises(Rejected) as caught:
        decode(value, key, headers, 0)
    assert caught.value.reason is reason


@pytest.mark.parametrize("key", [None, b"", b"\xff\xfe", b"k" * MAX_KEY_BYTES])
def test_the_key_is_never_trusted(key: bytes | None) -> None:
    assert decode(json.dumps(NEEDED).encode(), key, [], 0).article.key == "a.example/1"


@pytest.mark.parametrize(
    "time",
    [
        b"",
        b"yesterday",
        b"\xff",
        b"2024-02-03T12:00:00",
        b"2024-02-30T12:00:00Z",
        b"9999-01-01T00:00:00Z",
        b"0001-01-01T00:00:00+14:00",
        b"2024-02-03T12:00:00+25:00",
        None,
    ],
)
def test_an_unusable_ce_time_gives_way_to_the_kafka_timestamp(time: bytes | None) -> None:
    found = decode(json.dumps(NEEDED).encode(), None, [("ce_time", time)], 1000)
    assert found.observed_at == EPOCH + timedelta(seconds=1)
    assert found.dropped == (() if time is None else ("ce_time",))
    assert observed_time([("ce_time", time)], 1000) == found.observed_at


@pytest.mark.parametrize("timestamp", [-1, -(2**63), 2**62, 253_402_300_800_000])
def test_a_kafka_timestamp_that_is_no_time_counts_as_the_oldest(timestamp: int) -> None:
    assert observed_time([], timestamp) == EPOCH


def test_of_repeated_headers_the_last_counts_and_foreign_ones_are_ignored() -> None:
    headers = [
        ("ce_time", b"2023-01-01T00:00:00Z"),
        ("ce_time", b"2024-02-03T12:00:00Z"),
        ("__connect.errors.topic", b"\xff"),
        ("ce_id", b"with space"),
    ]
    found = decode(json.dumps(NEEDED).encode(), None, headers * 500, 0)
    assert (found.observed_at, found.event_id) == (NOON, None)


HEADERS = st.lists(
    st.tuples(
        st.sampled_from(["ce_time", "ce_id", "ce_type", "traceparent", "content-type", "x"]),
        st.none() | st.binary(max_size=40),
    ),
    max_size=6,
)


@given(
    st.none() | st.binary(max_size=60), st.none() | st.binary(max_size=9), HEADERS, st.integers()
)
def test_any_message_is_decoded_or_rejected(
    value: bytes | None, key: bytes | None, headers: list[Any], timestamp: int
) -> None:
    observed = observed_time(headers, timestamp)
    try:
        found = decode(value, key, headers, timestamp)
    except Rejected:
        return
    assert found.observed_at == observed
