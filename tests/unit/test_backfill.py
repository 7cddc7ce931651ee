"""Bulk imports are read only while nothing live waits."""

from math import inf
from sys import getsizeof

from newsloom.backfill import LiveLag
from newsloom.ports import TopicPartition

ONE, TWO = TopicPartition("live", 0), TopicPartition("live", 1)


def test_before_the_first_end_is_reached_the_lag_counts_as_for_ever() -> None:
    lag = LiveLag()
    assert lag.seconds(0, {ONE: 10}, {ONE: 4}) == inf
    assert lag.seconds(1, {ONE: 12}, {ONE: 9}) == inf
    assert lag.seconds(2, {ONE: 12}, {ONE: 10}) == 1


def test_an_empty_log_has_no_lag() -> None:
    assert LiveLag().seconds(0, {ONE: 0, TWO: 0}, {}) == 0
    assert LiveLag().seconds(0, {}, {}) == 0


def test_a_steady_stream_that_is_kept_up_with_has_none() -> None:
    lag, seconds = LiveLag(), inf
    for now in range(100):  # at each look some have just arrived and wait
        seconds = lag.seconds(now, {ONE: 50 * now + 20}, {ONE: 50 * now})
    assert seconds == 0


def test_the_lag_is_the_age_of_the_oldest_end_that_was_not_reached() -> None:
    lag, seconds = LiveLag(), inf
    for now in range(10):
        seconds = lag.seconds(now, {ONE: 10 * now}, {ONE: 25})
    assert seconds == 9 - 3, "the end seen at 3 (30) is the first beyond 25"
    assert lag.seconds(10, {ONE: 90}, {ONE: 60}) == 3, "from 7 on (70)"
    assert lag.seconds(11, {ONE: 90}, {ONE: 90}) == 0


def test_the_latest_partition_counts() -> None:
    lag = LiveLag()
    lag.seconds(0, {ONE: 0, TWO: 0}, {})
    lag.seconds(1, {ONE: 5, TWO: 0}, {})
    assert lag.seconds(4, {ONE: 5, TWO: 7}, {}) == 3


def test_a_partition_that_comes_later_is_unknown_at_first() -> None:
    lag = LiveLag()
    lag.seconds(0, {ONE: 0}, {})
    assert lag.seconds(1, {ONE: 0, TWO: 3}, {}) == inf
    assert lag.seconds(2, {ONE: 0, TWO: 3}, {TWO: 3}) == 0


def test_an_outage_of_hours_does_not_fill_the_memory() -> None:
    lag = LiveLag()
    seconds = lag.seconds(0, {ONE: 0}, {})
    for now in range(1, 50_000):
        seconds = lag.seconds(now, {ONE: now}, {ONE: 0})
    assert seconds >= 900
    assert getsizeof(lag._ends[ONE]) < 50_000
