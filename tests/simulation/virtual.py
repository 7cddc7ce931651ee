"""An event loop without a clock and without threads: time passes only when all else waits.

The same program with the same random numbers takes the same steps. A day takes as long as what
happens in it, and a program in which everybody waits for somebody else is found out at once.
"""

import asyncio
import random
import selectors
from collections.abc import Callable, Coroutine
from typing import Any, TypeVar

T = TypeVar("T")


class DeadlockError(Exception):
    """Nothing is ready, no timer runs: nothing will ever happen again."""


class _NoWaiting(selectors.SelectSelector):
    """Moves the clock on instead of waiting."""

    now = 0.0

    def select(self, timeout: float | None = None) -> list[Any]:
        if timeout is None:
            raise DeadlockError
        self.now += max(0.0, timeout)
        return []


class VirtualLoop(asyncio.SelectorEventLoop):
    """See the module. What goes to a thread elsewhere runs here, after a random while."""

    def __init__(self, rng: random.Random) -> None:
        self._virtual = _NoWaiting()
        self._rng = rng
        super().__init__(self._virtual)

    def time(self) -> float:
        """Seconds since the loop was made."""
        return self._virtual.now

    def run_in_executor(  # type: ignore[override] # the arguments after `func` are typed by nobody
        self, executor: object, func: Callable[..., T], *args: Any
    ) -> asyncio.Future[T]:
        """Run a function at a later time, and on the loop."""
        assert executor is None
        future: asyncio.Future[T] = self.create_future()

        def work() -> None:
            if future.cancelled():
                return
            try:
                future.set_result(func(*args))
            except Exception as error:  # noqa: BLE001 - handed on, as a thread would
                future.set_exception(error)

        self.call_later(self._rng.random() * 0.05, work)
        return future


def run_virtually(main: Coroutine[Any, Any, T], rng: random.Random) -> T:
    """Run a coroutine to its end on a loop of its own."""
    with asyncio.Runner(loop_factory=lambda: VirtualLoop(rng)) as runner:
        return runner.run(main)
