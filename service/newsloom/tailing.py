"""Metrics that only Postgres knows: what holds the change log back, and how many are silent.

The linker and the relay read the change log up to the oldest transaction that still runs. One that
is left open, in any database of the server, stops both without an error; so its age is measured
here, beside them and not by them: a reader that waits cannot tell what it waits for.
"""

import asyncio
import logging
from typing import NamedTuple, Protocol

from newsloom.backoff import wait_or_stop
from newsloom.errors import Unavailable
from newsloom.metrics import Metrics

logger = logging.getLogger(__name__)

LOOK_SECONDS = 1.0
"""Between two looks at the horizon."""

SILENCE_LOOKS = 60
"""Looks at the horizon for each count of the silent providers, which reads more."""


class Running(NamedTuple):
    """Transaction numbers of one moment: the oldest that still runs, and one past the newest ended.

    The same when none has ended that began after one which still runs: then nothing is hidden.
    """

    oldest: int
    past_ended: int


class HorizonStore(Protocol):
    """What is asked. Both may raise `Unavailable`."""

    async def running(self) -> Running:
        """Return which transactions run, in all databases of the server."""

    async def silent_providers(self) -> int:
        """Count the providers that `api.provider_silence` calls silent."""


class HorizonAge:
    """How long the change log's horizon has stood still, as far as it was watched."""

    def __init__(self) -> None:
        self._oldest: int | None = None
        self._since = 0.0

    def observe(self, running: Running, now: float) -> float:
        """Return for how many seconds one open transaction has hidden what came after it."""
        if running.oldest != self._oldest or running.oldest >= running.past_ended:
            self._oldest, self._since = running.oldest, now
        return now - self._since


async def watch_tailing(store: HorizonStore, metrics: Metrics, stop: asyncio.Event) -> None:
    """Keep both figures up to date until `stop` is set; while Postgres is away they stay."""
    loop = asyncio.get_running_loop()
    age = HorizonAge()
    looks = 0
    while not stop.is_set():
        try:
            metrics.horizon_age.set(age.observe(await store.running(), loop.time()))
            if looks % SILENCE_LOOKS == 0:
                metrics.silent_providers.set(await store.silent_providers())
            looks += 1
        except Unavailable as error:
            # Whoever reads the change log waits for it, and says so.
            logger.debug("cannot look at the horizon", extra={"code": error.code})
        await wait_or_stop(LOOK_SECONDS, stop)
