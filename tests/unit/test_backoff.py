"""Waits: their bounds, and which errors are waited out."""

import asyncio
from itertools import islice

import pytest
from hypothesis import given
from hypothesis import strategies as st

from newsloom.backoff import delays, until_available, wait_or_stop
from newsloom.errors import Unavailable

AWAY = Unavailable("postgres", "57P03")


def test_the_bound_doubles_up_to_the_cap() -> None:
    assert list(islice(delays(0.5, 3, lambda: 1.0), 5)) == [0.5, 1, 2, 3, 3]


@given(
    st.floats(0.001, 100),
    st.floats(0.001, 100),
    st.lists(st.floats(0, 1), min_size=40, max_size=40),
)
def test_a_wait_is_never_negative_and_never_above_the_cap(
    base: float, cap: float, draws: list[float]
) -> None:
    jitter = iter(draws)
    waits = list(islice(delays(base, cap, lambda: next(jitter)), 40))
    assert all(0 <= wait <= cap for wait in waits)


def test_the_bound_stays_finite_for_ever() -> None:
    assert next(islice(delays(1, 30, lambda: 1.0), 5000, None)) == 30


async def test_an_operation_is_repeated_until_its_dependency_is_back() -> None:
    results = [AWAY, AWAY, "stored"]
    slept: list[float] = []
    noted: list[tuple[str, float]] = []

    async def operation() -> str:
        result = results.pop(0)
        if isinstance(result, Unavailable):
            raise result
        return str(result)

    async def sleep(seconds: float) -> None:
        slept.append(seconds)

    stored = await until_available(
        operation,
        waits=delays(1, 9, lambda: 1.0),
        on_wait=lambda error, seconds: noted.append((error.code, seconds)),
        sleep=sleep,
    )
    assert stored == "stored"
    assert slept == [1, 2]
    assert noted == [("57P03", 1), ("57P03", 2)]


async def test_any_other_error_passes_at_once() -> None:
    async def operation() -> None:
        raise KeyError

    with pytest.raises(KeyError):
        await until_available(operation, waits=delays(1, 1, lambda: 1.0), on_wait=lambda *_: None)


async def test_the_last_error_is_raised_when_the_waits_end_or_the_caller_gives_up() -> None:
    async def operation() -> None:
        raise Unavailable("kafka", "NodeNotReadyError", systemic=True)

    def give_up(error: Unavailable, _: float) -> None:
        raise error

    with pytest.raises(Unavailable):
        await until_available(operation, waits=iter([0.0]), on_wait=lambda *_: None)
    with pytest.raises(Unavailable):
        await until_available(operation, waits=delays(9, 9, lambda: 1.0), on_wait=give_up)


async def test_a_stop_ends_a_wait() -> None:
    stop = asyncio.Event()
    assert not await wait_or_stop(0.001, stop)
    asyncio.get_running_loop().call_soon(stop.set)
    async with asyncio.timeout(5):
        assert await wait_or_stop(60, stop)
