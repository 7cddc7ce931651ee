"""What the status page shows: figures of this process and its last minutes, and the newest rows.

The page's requests must not wait, so they get what background tasks have left: one samples the
metrics every two seconds, one reads a few rows from Postgres, but only while somebody looks.
"""

import asyncio
import time
from collections import deque
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime
from itertools import pairwise
from typing import Any, Final, Protocol

from prometheus_client import CollectorRegistry

from newsloom.adapters.postgres.news import News, NewsReader
from newsloom.core.batch import Outcome
from newsloom.errors import Unavailable
from newsloom.health import Health
from newsloom.metrics import Stage
from newsloom.settings import PostgresSettings

SAMPLE_SECONDS: Final = 2.0
SAMPLES: Final = 151
"""Five minutes."""

MINUTE_SAMPLES: Final = 30

_OUTCOMES: Final = tuple(outcome.value for outcome in Outcome)
_METRICS: Final = (
    "newsloom_records_total",
    "newsloom_consumer_lag_records",
    "newsloom_consumer_lag_seconds",
    "newsloom_partition_parked",
    "newsloom_batch_duration_seconds_count",
    "newsloom_batch_duration_seconds_sum",
    "newsloom_end_to_end_seconds_count",
    "newsloom_end_to_end_seconds_sum",
    "newsloom_last_commit_timestamp_seconds",
    "newsloom_linked_articles_total",
    "newsloom_link_lag_seconds",
    "newsloom_relayed_total",
    "newsloom_relay_lag_seconds",
)

Figures = Mapping[tuple[str, tuple[str, ...]], float]
"""Samples of a registry: (name, label values) -> value."""

Sample = tuple[float, Figures]
"""Figures and when they were taken, in seconds since 1970."""


class Reader(Protocol):
    """Where the newest rows come from."""

    async def read(self) -> News:
        """Read them. Raises Unavailable."""


@dataclass(slots=True)
class StatusBoard:
    """Figures of one process, sampled; call it from the event loop's thread."""

    registry: CollectorRegistry
    health: Health
    version: str
    clock: Callable[[], float] = time.time
    looked_at: asyncio.Event = field(default_factory=asyncio.Event)
    """Set when somebody has asked since the last read."""
    news: News | None = None
    news_read_at: float | None = None
    news_problem: str | None = None
    _samples: deque[Sample] = field(default_factory=lambda: deque(maxlen=SAMPLES))
    _began: float = field(init=False)

    def __post_init__(self) -> None:
        """Start the clock, with a first sample."""
        self._began = self.clock()
        self.sample()

    def sample(self) -> None:
        """Remember the figures of now."""
        self._samples.append((self.clock(), _figures(self.registry)))

    def as_json(self) -> Mapping[str, object]:
        """Return everything that the page shows, as values for `json.dumps`."""
        self.looked_at.set()
        now = self.clock()
        verdict = self.health.ready()
        figures = self._samples[-1][1]
        history = self._history()
        return {
            "version": self.version,
            "now": _iso(now),
            "uptime_seconds": now - self._began,
            "ready": verdict.ok,
            "reasons": list(verdict.reasons),
            "outcomes": {name: _of(figures, "newsloom_records_total", name) for name in _OUTCOMES},
            "flow": self._flow(history),
            "link": self._follower("newsloom_linked_articles_total", "newsloom_link_lag_seconds"),
            "relay": self._follower("newsloom_relayed_total", "newsloom_relay_lag_seconds"),
            "partitions": _partitions(figures),
            "stages": self._stages(),
            "history": history,
            "database": self._database(),
        }

    def _history(self) -> dict[str, Any]:
        """Rates between samples, and lag at each; as many of both."""
        samples = list(self._samples)
        pairs = list(pairwise(samples))
        return {
            "seconds": samples[-1][0] - samples[0][0],
            "rates": {name: [_rate(pair, name) for pair in pairs] for name in _OUTCOMES},
            "lag": [_lag(figures) for _, figures in samples[1:]],
        }

    def _flow(self, history: Mapping[str, Any]) -> dict[str, object]:
        applied = sum(values[-1] if values else 0.0 for values in history["rates"].values())
        before, old = self._samples[max(0, len(self._samples) - 2)]
        after, new = self._samples[-1]
        growth = (_lag(new) - _lag(old)) / _apart(before, after)
        last_commit = _of(new, "newsloom_last_commit_timestamp_seconds")
        return {
            # What came in is what was applied, and what more is waiting than before.
            "arriving": round(max(0.0, applied + growth), 2),
            "applied": round(applied, 2),
            "lag": _lag(new),
            "end_to_end_seconds": self._mean("newsloom_end_to_end_seconds"),
            "last_commit_at": _iso(last_commit) if last_commit else None,
        }

    def _follower(self, counter: str, lag: str) -> dict[str, float]:
        """Of what follows the change log: done since the start, a second now, how late."""
        before, old = self._samples[max(0, len(self._samples) - 2)]
        after, new = self._samples[-1]
        total = _sum(new, counter)
        return {
            "total": total,
            "rate": round((total - _sum(old, counter)) / _apart(before, after), 2),
            "behind_seconds": _of(new, lag),
        }

    def _stages(self) -> list[dict[str, object]]:
        means = ((s.value, self._mean("newsloom_batch_duration_seconds", s.value)) for s in Stage)
        return [{"stage": name, "seconds": mean} for name, mean in means if mean is not None]

    def _mean(self, histogram: str, *labels: str) -> float | None:
        """Mean of what a histogram observed in the last minute; None when there was nothing."""
        new = self._samples[-1][1]
        old = self._samples[max(0, len(self._samples) - 1 - MINUTE_SAMPLES)][1]
        count, total = (
            _of(new, f"{histogram}_{part}", *labels) - _of(old, f"{histogram}_{part}", *labels)
            for part in ("count", "sum")
        )
        return total / count if count else None

    def _database(self) -> dict[str, object]:
        news = self.news
        return {
            "read_at": _iso(self.news_read_at) if self.news_read_at else None,
            "problem": self.news_problem,
            "outcomes": news.outcomes if news else None,
            "articles": news.articles if news else [],
            "dead_letters": news.dead_letters if news else [],
            "stories": news.stories if news else [],
        }


@asynccontextmanager
async def open_status(
    registry: CollectorRegistry, health: Health, postgres: PostgresSettings, *, version: str
) -> AsyncIterator[Callable[[], Mapping[str, object]]]:
    """Keep a board up to date while the context is open; gives what `/status.json` answers."""
    board = StatusBoard(registry, health, version)
    tasks = [asyncio.create_task(keep_sampling(board), name="status-samples")]
    reader = NewsReader(postgres) if postgres.dsn is not None else None
    if reader is not None:
        tasks.append(asyncio.create_task(keep_reading(board, reader), name="status-news"))
    try:
        yield board.as_json
    finally:
        for task in tasks:
            task.cancel()
        for task in tasks:
            with suppress(asyncio.CancelledError):
                await task
        if reader is not None:
            reader.close()


async def keep_sampling(board: StatusBoard) -> None:
    """Sample until cancelled."""
    while True:
        await asyncio.sleep(SAMPLE_SECONDS)
        board.sample()


async def keep_reading(board: StatusBoard, reader: Reader) -> None:
    """Read the newest rows while somebody looks, until cancelled."""
    while True:
        await board.looked_at.wait()
        board.looked_at.clear()
        try:
            board.news = await reader.read()
            board.news_read_at, board.news_problem = board.clock(), None
        except Unavailable as error:
            board.news_problem = error.code
        await asyncio.sleep(SAMPLE_SECONDS)


def _figures(registry: CollectorRegistry) -> Figures:
    return {
        (sample.name, tuple(sample.labels.values())): sample.value
        for metric in registry.restricted_registry(_METRICS).collect()
        for sample in metric.samples
    }


def _rate(pair: tuple[Sample, Sample], outcome: str) -> float:
    (before, old), (after, new) = pair
    grown = _of(new, "newsloom_records_total", outcome)
    grown -= _of(old, "newsloom_records_total", outcome)
    return round(grown / _apart(before, after), 2)


def _apart(before: float, after: float) -> float:
    return max(after - before, 1e-3)  # a clock may be set back


def _of(figures: Figures, name: str, *labels: str) -> float:
    return figures.get((name, labels), 0.0)


def _lag(figures: Figures) -> float:
    return _sum(figures, "newsloom_consumer_lag_records")


def _sum(figures: Figures, wanted: str) -> float:
    return sum(value for (name, _), value in figures.items() if name == wanted)


def _partitions(figures: Figures) -> list[dict[str, object]]:
    found = (labels for name, labels in figures if name == "newsloom_consumer_lag_records")
    return [
        {
            "topic": topic,
            "partition": int(partition),
            "lag_records": _of(figures, "newsloom_consumer_lag_records", topic, partition),
            "lag_seconds": _of(figures, "newsloom_consumer_lag_seconds", topic, partition),
            "parked": bool(_of(figures, "newsloom_partition_parked", topic, partition)),
        }
        for topic, partition in sorted(found, key=lambda labels: (labels[0], int(labels[1])))
    ]


def _iso(timestamp: float) -> str:
    return datetime.fromtimestamp(timestamp, UTC).isoformat(timespec="seconds")
