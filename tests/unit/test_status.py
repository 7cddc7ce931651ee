"""What the status page is told: rates, lag, means, and the newest rows while somebody looks."""

import asyncio
import json
from contextlib import suppress

import pytest
from prometheus_client import CollectorRegistry

from newsloom import status
from newsloom.adapters.postgres.news import News
from newsloom.core.batch import Outcome
from newsloom.errors import Unavailable
from newsloom.health import Health
from newsloom.metrics import Metrics, Relayed, Stage
from newsloom.status import SAMPLES, StatusBoard, keep_reading


class Clock:
    def __init__(self) -> None:
        self.now = 1_800_000_000.0

    def __call__(self) -> float:
        return self.now


class Bench:
    def __init__(self) -> None:
        self.metrics = Metrics(CollectorRegistry())
        self.clock = Clock()
        health = Health(needs=("kafka",), owns_partitions=False, stall_after_seconds=60)
        self.board = StatusBoard(self.metrics.registry, health, "1.2.3", self.clock)

    def count(self, outcome: Outcome, number: int) -> None:
        self.metrics._records[outcome].inc(number)

    def later(self, seconds: float = 2.0) -> None:
        self.clock.now += seconds
        self.board.sample()

    def page(self) -> dict[str, object]:
        shown = self.board.as_json()
        assert json.loads(json.dumps(shown, allow_nan=False)) == shown
        return dict(shown)


@pytest.fixture
def bench() -> Bench:
    return Bench()


def test_a_page_before_anything_happened_is_whole(bench: Bench) -> None:
    page = bench.page()
    assert page["ready"] is False
    assert page["reasons"] == ["kafka is not usable (not reached yet)"]
    assert page["outcomes"] == {outcome.value: 0 for outcome in Outcome}
    assert page["partitions"] == page["stages"] == []
    assert page["database"] == {
        "read_at": None,
        "problem": None,
        "outcomes": None,
        "articles": [],
        "dead_letters": [],
        "stories": [],
    }


def test_rates_are_what_was_counted_between_two_samples(bench: Bench) -> None:
    bench.count(Outcome.CREATED, 10)
    bench.later(2.0)
    bench.count(Outcome.CREATED, 5)
    bench.later(5.0)
    history = bench.page()["history"]
    assert isinstance(history, dict)
    assert history["rates"]["created"] == [5.0, 1.0]
    assert history["rates"]["stale"] == [0.0, 0.0]
    assert history["seconds"] == 7.0


def test_what_arrives_is_what_is_applied_and_what_more_waits(bench: Bench) -> None:
    bench.metrics.set_lag("articles", 0, records=10, seconds=1.0)
    bench.later()
    bench.metrics.set_lag("articles", 0, records=30, seconds=2.0)
    bench.count(Outcome.REVISED, 8)
    bench.later()
    flow = bench.page()["flow"]
    assert isinstance(flow, dict)
    assert (flow["applied"], flow["arriving"], flow["lag"]) == (4.0, 14.0, 30)


def test_what_follows_the_change_log_has_a_rate_and_is_so_far_behind(bench: Bench) -> None:
    assert bench.page()["link"] == {"total": 0, "rate": 0, "behind_seconds": 0}
    bench.metrics.relayed(Relayed.ARTICLE, 6)
    bench.metrics.relayed(Relayed.DEAD_LETTER, 2)
    bench.metrics.linked_articles.inc(3)
    bench.metrics.set_link(lag_seconds=7.5, window=3, size=100)
    bench.later(2.0)
    assert bench.page()["relay"] == {"total": 8, "rate": 4, "behind_seconds": 0}
    assert bench.page()["link"] == {"total": 3, "rate": 1.5, "behind_seconds": 7.5}


def test_partitions_are_in_order_and_parked_ones_are_marked(bench: Bench) -> None:
    for partition in (10, 2):
        bench.metrics.set_lag("articles", partition, records=partition, seconds=0.5)
        bench.metrics.set_parked("articles", partition, parked=partition == 2)
    bench.later()
    partitions = bench.page()["partitions"]
    assert isinstance(partitions, list)
    assert [(p["partition"], p["parked"]) for p in partitions] == [(2, True), (10, False)]


def test_a_mean_is_of_the_last_minute_only(bench: Bench) -> None:
    bench.metrics.observe_stage(Stage.FOLD, 100.0)
    for _ in range(status.MINUTE_SAMPLES + 1):
        bench.later()
    assert bench.page()["stages"] == []
    bench.metrics.observe_stage(Stage.FOLD, 0.25)
    bench.metrics.observe_stage(Stage.FOLD, 0.75)
    bench.later()
    assert bench.page()["stages"] == [{"stage": "fold", "seconds": 0.5}]


def test_history_is_bounded_and_a_clock_set_back_does_no_harm(bench: Bench) -> None:
    for _ in range(3 * SAMPLES):
        bench.later()
    bench.later(-1000.0)
    history = bench.page()["history"]
    assert isinstance(history, dict)
    assert len(history["lag"]) == SAMPLES - 1


class Reader:
    """Fails every second time."""

    def __init__(self) -> None:
        self.reads = 0

    async def read(self) -> News:
        self.reads += 1
        if self.reads % 2 == 0:
            raise Unavailable("postgres", "57P01")
        return News({"created": self.reads}, [{"title": "t"}], [], [])


async def test_postgres_is_read_only_while_somebody_looks(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(status, "SAMPLE_SECONDS", 0.01)
    reader = Reader()
    task = asyncio.create_task(keep_reading(bench.board, reader))
    await asyncio.sleep(0.1)
    assert reader.reads == 0, "nobody has looked yet"
    bench.page()
    await asyncio.sleep(0.1)
    assert reader.reads == 1
    assert bench.board.news_problem is None
    bench.page()
    await asyncio.sleep(0.1)
    database = bench.page()["database"]
    assert isinstance(database, dict)
    assert database["problem"] == "57P01", "and what was read before is still shown"
    assert database["articles"] == [{"title": "t"}]
    task.cancel()
    with suppress(asyncio.CancelledError):
        await task
