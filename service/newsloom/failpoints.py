"""Crash points for the fault tests: die, freeze or fail at a named step, on the n-th visit.

One switch, `NEWSLOOM_TEST_FAILPOINT=<name>:<n>:<kill9|stop|raise>`, and it is refused unless both
Kafka and Postgres are on this machine: no deployment can be made to crash by a variable.
"""

import os
import signal
from collections.abc import Awaitable, Callable, Mapping

from newsloom.settings import Settings, SettingsError, is_loopback
from newsloom.settings.addresses import parse_dsn

VARIABLE = "NEWSLOOM_TEST_FAILPOINT"

Checkpoint = Callable[[str], Awaitable[None]]
"""Awaited by an adapter at each named step, with the name of the step."""


class FailpointError(Exception):
    """Raised by `raise` failpoints; nothing catches it."""


def checkpoint_from_env(env: Mapping[str, str], settings: Settings) -> Checkpoint | None:
    """Return the asked-for failpoint, or None. Raises SettingsError off loopback."""
    text = env.get(VARIABLE)
    if not text:
        return None
    dsn = settings.postgres.dsn
    hosts = [*settings.kafka.hosts(), *(parse_dsn(dsn.get_secret_value()).hosts if dsn else ())]
    if not all(map(is_loopback, hosts)):
        message = f"{VARIABLE} is for tests on one machine; unset it."
        raise SettingsError(message)
    name, count, action = text.split(":")
    left = int(count)

    async def checkpoint(step: str) -> None:
        nonlocal left
        if step != name:
            return
        left -= 1
        if left == 0:
            _act(action)

    return checkpoint


def _act(action: str) -> None:
    if action == "raise":
        raise FailpointError(action)
    os.kill(os.getpid(), signal.SIGKILL if action == "kill9" else signal.SIGSTOP)
