"""The workloads of `make bench`, as `newsloom generate` makes them, and as Kafka carries them."""

import json
from dataclasses import dataclass
from datetime import datetime
from random import Random
from typing import Any, Final

from newsloom.core.documents import event_of
from newsloom.core.event import Event
from newsloom.core.record import record_from_json
from newsloom.core.workloads import START, Load, Workload, deliveries

__all__ = ["SEED", "START", "Made", "make"]

SEED: Final = 1


@dataclass(frozen=True, slots=True)
class Made:
    """One delivery of a workload, and its truth."""

    record: dict[str, Any]
    observed_at: datetime
    truth: dict[str, Any]

    @classmethod
    def of(cls, load: Load) -> "Made":
        """Return a generated delivery as one that can be sent."""
        return cls(load.record, load.observed_at, load.truth)

    def value(self) -> bytes:
        """Return the record as JSON, as it would come from another producer."""
        return json.dumps(self.record, ensure_ascii=False, separators=(",", ":")).encode()

    def event(self) -> Event:
        """Return what `newsloom publish` sends for the record."""
        return event_of(
            record_from_json(self.value()), observed_at=self.observed_at, source="bench"
        )


def make(name: str, count: int, seed: int = SEED) -> list[Made]:
    """Make `count` deliveries of a workload. Equal arguments, equal deliveries."""
    workload = Workload(name)
    return [Made.of(load) for load in deliveries(workload, count, Random(f"{workload}-{seed}"))]
