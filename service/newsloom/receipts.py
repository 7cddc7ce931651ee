"""Receipts on both sides: made after COMMIT by ingest, waited for by a publisher."""

import asyncio
from collections import deque
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from newsloom.core.batch import BatchReport
from newsloom.core.event import Outgoing
from newsloom.core.receipts import ReceiptMessage, asked_by, encode_receipt
from newsloom.ports import Delivery


def receipts_of(deliveries: Sequence[Delivery], report: BatchReport) -> list[Outgoing]:
    """Return the receipts that a committed batch owes: none, unless somebody asked."""
    asking = {d.offset: (a, d) for d in deliveries if (a := asked_by(d.headers)) is not None}
    if not asking:
        return []
    receipts = []
    for offset, outcome in report.each:
        if offset in asking:
            address, delivery = asking[offset]
            receipt = ReceiptMessage(
                event_id=_event_id(delivery),
                kafka_topic=delivery.topic,
                partition=delivery.partition,
                offset=offset,
                outcome=outcome,
                reason=report.rejected.get(offset),
            )
            receipts.append(encode_receipt(address, receipt))
    return receipts


def _event_id(delivery: Delivery) -> str | None:
    for name, value in delivery.headers:
        if name == "ce_id" and value is not None:
            return value.decode("utf-8", "replace")[:255]
    return None


class ReceiptDesk:
    """Hands each receipt that arrives to whoever waits for its event.

    The same event may be awaited more than once: first come, first served, which is the order of
    its deliveries. `address` is the header's value that makes receipts come here.
    """

    def __init__(self, address: str) -> None:
        self.address = address.encode()
        self._waiting: dict[str, deque[asyncio.Future[ReceiptMessage]]] = {}

    @contextmanager
    def expecting(self, event_id: str) -> Iterator[asyncio.Future[ReceiptMessage]]:
        """Give a future for the receipt of an event that is about to be sent."""
        future: asyncio.Future[ReceiptMessage] = asyncio.get_running_loop().create_future()
        waiting = self._waiting.setdefault(event_id, deque())
        waiting.append(future)
        try:
            yield future
        finally:
            future.cancel()
            if future in waiting:
                waiting.remove(future)
            if not waiting:
                self._waiting.pop(event_id, None)

    def arrived(self, receipt: ReceiptMessage) -> None:
        """Hand a receipt over; one that nobody waits for any more is dropped."""
        waiting = self._waiting.get(receipt.event_id or "")
        while waiting:
            future = waiting.popleft()
            if not future.done():
                future.set_result(receipt)
                return
