"""What a process knows about itself: is its loop alive, can it do its work. State only, no IO.

The flows set it; the admin server turns it into /healthz and /readyz. Liveness asks only whether
the loop still moves: a database that is away must never make a supervisor restart us. Readiness
asks whether work gets done.
"""

import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field


@dataclass(frozen=True, slots=True)
class Verdict:
    """An answer and its reasons: short sentences without secrets, empty when all is well."""

    ok: bool
    reasons: tuple[str, ...] = ()

    def as_json(self) -> Mapping[str, object]:
        """Return the body of a health answer."""
        return {"status": "ok" if self.ok else "unavailable", "reasons": list(self.reasons)}


@dataclass(slots=True)
class Health:
    """Mutable health of one process; used from the event loop's thread.

    `needs` are the dependencies that this role cannot work without; they count as away until the
    first `usable` call. `owns_partitions` is False for roles without a consumer group.
    """

    needs: Iterable[str]
    owns_partitions: bool
    stall_after_seconds: float
    clock: Callable[[], float] = time.monotonic
    _away: dict[str, str] = field(init=False)
    _parked: dict[tuple[str, int], str] = field(init=False, default_factory=dict)
    _ownership: int | None = field(init=False, default=None)
    _progress_at: float = field(init=False)
    _draining: bool = field(init=False, default=False)

    def __post_init__(self) -> None:
        """Start the progress clock: a process that never begins is as stuck as one that stops."""
        self._away = dict.fromkeys(self.needs, "not reached yet")
        self._progress_at = self.clock()

    def beat(self) -> None:
        """Note that the main loop has gone round, whether or not there was work."""
        self._progress_at = self.clock()

    def usable(self, dependency: str) -> None:
        """Note that a dependency answered."""
        self._away.pop(dependency, None)

    def away(self, dependency: str, code: str) -> None:
        """Note that a dependency failed. `code`: SQLSTATE or error class, never a message."""
        self._away[dependency] = code

    def owned(self, partitions: int) -> None:
        """Note how many partitions we were given; 0 means known to be idle, which is fine."""
        self._ownership = partitions

    def unassigned(self) -> None:
        """Note that partitions are being given out anew."""
        self._ownership = None

    def park(self, topic: str, partition: int, reason: str) -> None:
        """Note a partition that waits for an operator. `reason` is a code."""
        self._parked[topic, partition] = reason

    def unpark(self, topic: str, partition: int) -> None:
        """Note that a partition goes on, or is no longer ours."""
        self._parked.pop((topic, partition), None)

    def drain(self) -> None:
        """Note that the process is shutting down: not ready from now on."""
        self._draining = True

    @property
    def progress_age_seconds(self) -> float:
        """Seconds since the last `beat`."""
        return self.clock() - self._progress_at

    def live(self) -> Verdict:
        """Tell whether the main loop moves."""
        age = self.progress_age_seconds
        if age <= self.stall_after_seconds:
            return Verdict(ok=True)
        return Verdict(ok=False, reasons=(f"the main loop has not moved for {age:.0f} seconds",))

    def ready(self) -> Verdict:
        """Tell whether work gets done, and what stands in the way."""
        reasons = list(self.live().reasons)
        if self._draining:
            reasons.append("shutting down")
        reasons += [f"{name} is not usable ({code})" for name, code in sorted(self._away.items())]
        if self.owns_partitions and self._ownership is None:
            reasons.append("partitions are not assigned yet")
        reasons += [
            f"{topic}/{partition} is parked ({reason})"
            for (topic, partition), reason in sorted(self._parked.items())
        ]
        return Verdict(ok=not reasons, reasons=tuple(reasons))
