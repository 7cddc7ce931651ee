"""Flow 3: change log -> copies and stories.

One linker is active; the others wait. It rebuilds its index from stored states, then follows the
change log: read, decide, write results and position in one transaction. Results are written while
the next rows are read and decided. A crash at any point leaves the last position with its results;
the next linker goes on there and decides the same.
"""

import asyncio
import logging
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import timedelta

from newsloom.backoff import delays, wait_or_stop
from newsloom.core.linking import LinkIndex, LinkResults
from newsloom.errors import Unavailable
from newsloom.health import Health
from newsloom.metrics import Metrics
from newsloom.ports import Fenced, LinkLease, LinkStore

logger = logging.getLogger(__name__)

READ_ROWS = 1000
"""Rows of the change log taken at a time: one transaction of results."""

IDLE_SECONDS = 0.2
"""Wait before asking again when the log had nothing new: the lag that this adds."""


class Linker:
    """The link role over a `LinkStore`."""

    def __init__(
        self,
        store: LinkStore,
        *,
        window: timedelta,
        metrics: Metrics,
        health: Health,
        owner_id: str,
        jitter: Callable[[], float],
        beat: Callable[[], None],
    ) -> None:
        self._store = store
        self._window = window
        self._metrics = metrics
        self._health = health
        self._owner_id = owner_id
        self._jitter = jitter
        self._beat = beat
        self.empty_read_at = -1.0
        """Loop time of the last look at the change log that found nothing new."""
        self.linked = 0

    async def run(self, stop: asyncio.Event) -> None:
        """Link until `stop` is set; wait out what is away, start anew when fenced."""
        waits = self._waits()
        while not stop.is_set():
            try:
                async with self._store.lead(self._stand_by):
                    waits = self._waits()
                    await self._follow(stop)
            except Fenced:
                logger.info("the linker was fenced")
                await wait_or_stop(next(waits), stop)
            except Unavailable as error:
                self._health.away(error.dependency, error.code)
                self._metrics.retry(error.dependency)
                logger.warning("waiting for a dependency", extra={"code": error.code})
                self._beat()  # a database that is away is no reason to restart
                await wait_or_stop(next(waits), stop)

    def _stand_by(self) -> None:
        """Another links: we are well, and so is Postgres."""
        self._health.usable("postgres")
        self._beat()

    async def _follow(self, stop: asyncio.Event) -> None:
        """Be the linker: restore the index, then read, decide and write until told to stop."""
        lease = await self._store.take_over(self._owner_id)
        index = LinkIndex(self._window)
        states = await self._store.states(lease.window)
        await asyncio.to_thread(index.restore, lease.window, states)
        logger.info("linking", extra={"articles": len(index)})
        writing: _Writing | None = None
        try:
            while not stop.is_set():
                lease, writing = await self._step(index, lease, writing, stop)
            await self._settle(index, writing)
        except BaseException:
            if writing:
                writing.done.cancel()
                await asyncio.gather(writing.done, return_exceptions=True)
            raise

    async def _step(
        self, index: LinkIndex, lease: LinkLease, writing: "_Writing | None", stop: asyncio.Event
    ) -> tuple[LinkLease, "_Writing | None"]:
        """Read and decide while the results before are written; then begin to write these.

        A write that fails takes the index with it: whoever links next restores one from what is
        stored, which is at most these two steps behind.
        """
        read = await self._store.read(lease.position, READ_ROWS)
        self._health.usable("postgres")
        self._beat()
        changes = writing.results.before(read.changes) if writing else read.changes
        results = await asyncio.to_thread(index.apply, changes) if read.rows else None
        await self._settle(index, writing)
        if results is None and writing is not None:
            return lease, None  # read before that was stored: its own rows are still to be read
        if results is None:
            self.empty_read_at = asyncio.get_running_loop().time()
            self._show(index, read.recorded_at)
            await wait_or_stop(IDLE_SECONDS, stop)
            return lease, None
        done = asyncio.create_task(self._store.write(lease, read.position, results))
        after = LinkLease(lease.epoch, read.position, results.window)
        return after, _Writing(done, results, read.recorded_at)

    async def _settle(self, index: LinkIndex, writing: "_Writing | None") -> None:
        """Wait until results are stored, and count them."""
        if writing is None:
            return
        await writing.done
        self.linked += writing.results.observed
        self._metrics.observe_linked(writing.results)
        self._show(index, writing.recorded_at)

    def _show(self, index: LinkIndex, oldest_at: float | None) -> None:
        """Tell how late the linker is, from when the oldest row that waits was written."""
        lag = time.time() - oldest_at if oldest_at is not None else 0.0
        self._metrics.set_link(lag_seconds=lag, window=len(index), size=index.nbytes)

    def _waits(self) -> Iterator[float]:
        return delays(0.1, 3.0, self._jitter)


@dataclass(frozen=True, slots=True)
class _Writing:
    """Results on their way to the store; `recorded_at` is that of the oldest row behind them."""

    done: asyncio.Task[None]
    results: LinkResults
    recorded_at: float | None
