"""Receipts: made for who asked, read with suspicion."""

import json
from datetime import UTC, datetime

import pytest

from newsloom.core.batch import BatchReport, DeadLetter, Outcome
from newsloom.core.receipts import decode_receipt
from newsloom.ports import Delivery
from newsloom.receipts import receipts_of


def delivery(offset: int, *headers: tuple[str, bytes | None]) -> Delivery:
    return Delivery("articles", 3, offset, 0, b"key", b"{}", headers)


def letter(offset: int) -> DeadLetter:
    return DeadLetter(
        offset, "parse.json", "not JSON", datetime(2024, 2, 3, tzinfo=UTC), b"key", b"{", ()
    )


def test_whoever_asked_is_told_and_nobody_else() -> None:
    deliveries = [
        delivery(5, ("ce_id", b"five"), ("newsloom-receipt-to", b"desk-1")),
        delivery(6, ("ce_id", b"six")),
        delivery(7, ("newsloom-receipt-to", b"desk-2")),
    ]
    outcomes = [(5, Outcome.REVISED), (6, Outcome.CREATED), (7, Outcome.REJECTED)]
    first, second = receipts_of(deliveries, BatchReport.of(outcomes, [letter(7)], 3, 0))
    assert (first.key, second.key) == (b"desk-1", b"desk-2")
    assert json.loads(first.value or b"") == {
        "eventId": "five",
        "kafkaTopic": "articles",
        "partition": 3,
        "offset": 5,
        "outcome": "revised",
        "reason": None,
    }
    told = decode_receipt(second.value)
    assert told is not None
    assert (told.event_id, told.outcome, told.reason) == (None, "rejected", "parse.json")


@pytest.mark.parametrize("address", [None, b"", b"a b", b"\xff", b"x" * 65, b"a\n", b"a\r\nb: c"])
def test_an_improper_address_gets_none(address: bytes | None) -> None:
    deliveries = [delivery(0, ("newsloom-receipt-to", address))]
    assert receipts_of(deliveries, BatchReport.of([(0, Outcome.CREATED)], [], 1, 0)) == []


@pytest.mark.parametrize(
    "value",
    [
        None,
        b"",
        b"{",
        b"[]",
        b'{"outcome": "created"}',
        b'{"kafkaTopic": "t", "partition": 0, "offset": 0, "outcome": "splendid"}',
        b" " * 20_000,
    ],
)
def test_what_is_no_receipt_is_passed_over(value: bytes | None) -> None:
    assert decode_receipt(value) is None
