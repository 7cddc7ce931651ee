"""How long to wait for a dependency that is away: exponential, capped, with full jitter.

Full jitter (a delay is drawn evenly between zero and the exponential bound) keeps many processes
that lost the same database from returning to it in step.
"""

import asyncio
from collections.abc import Awaitable, Callable, Iterator
from typing import TypeVar

from newsloom.errors import Unavailable

T = TypeVar("T")


def delays(base_seconds: float, cap_seconds: float, jitter: Callable[[], float]) -> Iterator[float]:
    """Yield waits without end: each `jitter()` (0 to 1) times a bound that doubles up to the cap.

    `random.random` in production, a constant in tests.
    """
    bound = min(base_seconds, cap_seconds)
    while True:
        yield bound * jitter()
        bound = min(bound * 2, cap_seconds)


async def until_available(
    operation: Callable[[], Awaitable[T]],
    *,
    waits: Iterator[float],
    on_wait: Callable[[Unavailable, float], None],
    sleep: Callable[[float], Awaitable[object]] = asyncio.sleep,
) -> T:
    """Repeat `operation` while it raises Unavailable; any other error passes at once.

    `on_wait(error, seconds)` is called before each wait, to count and log it; raising there gives
    up. The operation must be safe to repeat. When `waits` ends, the last error is raised.
    """
    while True:
        try:
            return await operation()
        except Unavailable as error:
            seconds = next(waits, None)
            if seconds is None:
                raise
            on_wait(error, seconds)
        # Outside the handler, so that errors while waiting do not carry the old one along.
        await sleep(seconds)


async def wait_or_stop(seconds: float, stop: asyncio.Event) -> bool:
    """Wait, but not longer than until `stop` is set. Returns whether it is set."""
    try:
        async with asyncio.timeout(seconds):
            await stop.wait()
    except TimeoutError:
        return stop.is_set()
    return True
