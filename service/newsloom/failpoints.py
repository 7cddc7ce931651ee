"""Crash points for the fault tests: die, freeze, fail, hang or dawdle at a named step.

One switch, `NEWSLOOM_TEST_FAILPOINT=<step>:<n>:<action>`: at the n-th visit of the step, do it.

- step: one that an adapter names ("before_claim", "before_cas", "after_cas", "before_commit",
  "after_commit", "linked", "letters_sent", "changes_sent"), or "decode@<partition>/<offset>": the
  decoding of a batch that holds this delivery, as of a record that its parser does not survive.
- action: "kill9", "stop" (SIGSTOP), "raise", "block=<seconds>" (the whole event loop stands still),
  "delay=<seconds>" (this task alone; from the n-th visit on, each time).

The switch is refused unless both Kafka and Postgres are on this machine's loopback: no deployment
can be made to crash by a variable.
"""

import asyncio
import os
import re
import signal
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TypeVar

from newsloom.ports import Delivery
from newsloom.settings import Settings, SettingsError, is_loopback
from newsloom.settings.addresses import parse_dsn

VARIABLE = "NEWSLOOM_TEST_FAILPOINT"

Checkpoint = Callable[[str], Awaitable[None]]
"""Awaited by an adapter at each named step, with the name of the step."""

Decoded = TypeVar("Decoded")

_FORM = re.compile(
    r"(?P<step>[a-z_]+(?:@[0-9]+/[0-9]+)?):(?P<visit>[0-9]+):"
    r"(?P<action>kill9|stop|raise|block|delay)(?:=(?P<seconds>[0-9.]+))?",
    re.ASCII,
)


class FailpointError(Exception):
    """Raised by `raise` failpoints; nothing catches it."""


@dataclass(slots=True)
class Failpoint:
    """What is to happen, where, and after how many visits. Its `visit` counts down."""

    step: str
    visit: int
    action: str
    seconds: float

    async def checkpoint(self, step: str) -> None:
        """Act if this is the visit; a `Checkpoint`."""
        if not self._is_due(step):
            return
        if self.action == "delay":
            await asyncio.sleep(self.seconds)
        else:
            self._act()

    def guarding(
        self, decode: Callable[[Sequence[Delivery]], Decoded]
    ) -> Callable[[Sequence[Delivery]], Decoded]:
        """Return `decode`, preceded by what is to happen at a delivery of "decode@..."."""

        def guarded(deliveries: Sequence[Delivery]) -> Decoded:
            if any(self._is_due(f"decode@{d.partition}/{d.offset}") for d in deliveries):
                self._act()
            return decode(deliveries)

        return guarded

    def _is_due(self, step: str) -> bool:
        if step != self.step:
            return False
        self.visit -= 1
        return self.visit == 0 or (self.visit < 0 and self.action == "delay")

    def _act(self) -> None:
        if self.action == "raise":
            raise FailpointError(self.step)
        if self.action in ("block", "delay"):
            time.sleep(self.seconds)
        else:
            os.kill(os.getpid(), signal.SIGKILL if self.action == "kill9" else signal.SIGSTOP)


def failpoint_from_env(env: Mapping[str, str], settings: Settings) -> Failpoint | None:
    """Return the asked-for failpoint, or None. SettingsError: off loopback, or not understood."""
    text = env.get(VARIABLE)
    if not text:
        return None
    dsn = settings.postgres.dsn
    hosts = [*settings.kafka.hosts(), *(parse_dsn(dsn.get_secret_value()).hosts if dsn else ())]
    if not hosts or not all(map(is_loopback, hosts)):
        message = f"{VARIABLE} is for tests on one machine; unset it."
        raise SettingsError(message)
    form = _FORM.fullmatch(text)
    if form is None:
        message = f"{VARIABLE} must be <step>:<n>:<kill9|stop|raise|block=SECONDS|delay=SECONDS>."
        raise SettingsError(message)
    return Failpoint(form["step"], int(form["visit"]), form["action"], float(form["seconds"] or 0))
