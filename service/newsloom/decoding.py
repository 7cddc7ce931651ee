"""From Kafka's bytes to what the store can apply: pure, total, and off the event loop."""

from collections.abc import Sequence
from typing import NamedTuple

from newsloom.core.batch import DeadLetter, Item, Observation
from newsloom.core.event import decode, observed_time
from newsloom.errors import Rejected
from newsloom.ports import Delivery


class Decoded(NamedTuple):
    """A batch's deliveries as items, and what the lenient fields of its records lost."""

    items: Sequence[Item]
    dropped: Sequence[str]
    unknown: int


def decode_deliveries(deliveries: Sequence[Delivery]) -> Decoded:
    """Decode deliveries in order; what cannot be decoded becomes a dead letter.

    The articles are raw: the fold enriches those that it keeps. Of a stream of updates those are
    one in fifty.
    """
    items: list[Item] = []
    dropped: list[str] = []
    unknown = 0
    for delivery in deliveries:
        try:
            decoded = decode(delivery.value, delivery.key, delivery.headers, delivery.timestamp_ms)
        except Rejected as rejected:
            items.append(_dead_letter(delivery, rejected))
            continue
        items.append(Observation(delivery.offset, decoded.observed_at, decoded.article))
        dropped += decoded.dropped
        unknown += decoded.unknown
    return Decoded(items, dropped, unknown)


def _dead_letter(delivery: Delivery, rejected: Rejected) -> DeadLetter:
    return DeadLetter(
        offset=delivery.offset,
        reason=rejected.reason.value,
        detail=rejected.detail,
        observed_at=observed_time(delivery.headers, delivery.timestamp_ms),
        key=delivery.key,
        value=delivery.value,
        headers=delivery.headers,
    )
