"""A receipt: what became of an event, for the publisher that asked for it in a header.

Sent after COMMIT and best effort: a receipt that does not come says nothing.
"""

import re
from collections.abc import Iterable
from typing import Final

from pydantic import BaseModel, ConfigDict, Field, ValidationError
from pydantic.alias_generators import to_camel

from newsloom.core.batch import Outcome
from newsloom.core.event import Outgoing

RECEIPT_TO: Final = "newsloom-receipt-to"
"""The header that asks for a receipt. Its value comes back as the receipt's key."""

_ADDRESS: Final = re.compile(rb"[0-9A-Za-z._-]{1,64}\Z")
_MAX_BYTES: Final = 10_000


class ReceiptMessage(BaseModel):
    """The value of a message on the receipts' Kafka topic."""

    model_config = ConfigDict(frozen=True, alias_generator=to_camel, populate_by_name=True)

    event_id: str | None = Field(description="The event's ce_id; null where it had none.")
    kafka_topic: str
    partition: int
    offset: int
    outcome: Outcome
    reason: str | None = Field(None, description="Why it was rejected: the dead letter's reason.")


def asked_by(headers: Iterable[tuple[str, bytes | None]]) -> bytes | None:
    """Return whom an event's receipt goes to; None where nobody asked, or not in a proper form."""
    for name, value in headers:
        if name == RECEIPT_TO:
            return value if value is not None and _ADDRESS.match(value) else None
    return None


def encode_receipt(address: bytes, receipt: ReceiptMessage) -> Outgoing:
    """Put a receipt into a message."""
    place = f"{receipt.kafka_topic}/{receipt.partition}/{receipt.offset}"
    headers: list[tuple[str, bytes | None]] = [("content-type", b"application/json")]
    return Outgoing(address, receipt.model_dump_json(by_alias=True).encode(), headers, place)


def decode_receipt(value: bytes | None) -> ReceiptMessage | None:
    """Read a receipt; None for what is none. Anybody may write to a Kafka topic."""
    if value is None or len(value) > _MAX_BYTES:
        return None
    try:
        return ReceiptMessage.model_validate_json(value)
    except ValidationError:
        return None
