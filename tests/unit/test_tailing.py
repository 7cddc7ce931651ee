"""How long the horizon stands still, from what is seen of it."""

import asyncio

from prometheus_client import CollectorRegistry

from newsloom import tailing
from newsloom.errors import Unavailable
from newsloom.metrics import Metrics
from newsloom.tailing import HorizonAge, Running, watch_tailing


def test_the_age_grows_only_while_one_transaction_stays_the_oldest() -> None:
    age = HorizonAge()
    seen = [
        (Running(7, 7), 0.0, 0.0),  # none runs
        (Running(7, 7), 60.0, 0.0),  # and still none: a quiet server is not a held one
        (Running(7, 9), 61.0, 1.0),  # 8 has ended before 7
        (Running(7, 30), 75.0, 15.0),
        (Running(12, 31), 76.0, 0.0),  # 7 has ended; 12 may be older, but it holds since now
        (Running(12, 31), 80.0, 4.0),
        (Running(31, 31), 81.0, 0.0),
    ]
    assert [age.observe(running, now) for running, now, _ in seen] == [held for *_, held in seen]


class Store:
    """Answers, but is away every other time."""

    def __init__(self, stop: asyncio.Event) -> None:
        self.stop, self.asked, self.counted = stop, 0, 0

    async def running(self) -> Running:
        self.asked += 1
        if self.asked % 2 == 0:
            raise Unavailable("postgres", "57P01")
        if self.asked > 6:
            self.stop.set()
        return Running(3, 9)

    async def silent_providers(self) -> int:
        self.counted += 1
        return 4


async def test_the_figures_survive_that_postgres_is_away() -> None:
    stop = asyncio.Event()
    store, metrics = Store(stop), Metrics(CollectorRegistry())
    before, tailing.LOOK_SECONDS = tailing.LOOK_SECONDS, 0.01
    try:
        await watch_tailing(store, metrics, stop)
    finally:
        tailing.LOOK_SECONDS = before
    held = metrics.registry.get_sample_value("newsloom_change_horizon_age_seconds")
    assert held is not None
    assert held > 0
    assert metrics.registry.get_sample_value("newsloom_silent_providers") == 4
    assert (store.asked, store.counted) == (7, 1)
