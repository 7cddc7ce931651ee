"""Metrics: their names, their bounds, and that they add up."""

import asyncio
import re
import shutil
import subprocess
import time
from collections.abc import Mapping
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from prometheus_client import CollectorRegistry, generate_latest

from newsloom.core.batch import BatchReport, Outcome
from newsloom.errors import RejectReason
from newsloom.metrics import (
    OTHER,
    Dependency,
    Metrics,
    PublishResult,
    Stage,
    process_registry,
    reason_label,
    reference_table,
    watch_loop_lag,
)

NAME = re.compile(r"newsloom_[a-z]+(_[a-z]+)*\Z")
ALLOWED_LABELS = {
    "outcome", "reason", "stage", "topic", "partition", "dependency", "state", "result", "field",
    "version", "le", "kind", "entity",
}  # fmt: skip
CONTRACT = {
    "newsloom_records_total",
    "newsloom_rejected_total",
    "newsloom_consumer_lag_records",
    "newsloom_consumer_lag_seconds",
    "newsloom_batch_duration_seconds",
    "newsloom_end_to_end_seconds",
}


def new() -> Metrics:
    return Metrics(CollectorRegistry())


def value(metrics: Metrics, name: str, **labels: str) -> float | None:
    return metrics.registry.get_sample_value(name, labels)


def series(metrics: Metrics) -> int:
    return sum(len(list(family.samples)) for family in metrics.registry.collect())


def report(outcomes: Mapping[Outcome, int], reasons: Mapping[str, int]) -> BatchReport:
    return BatchReport(
        consumed=sum(outcomes.values()), outcomes=outcomes, reasons=reasons, mentions=2
    )


def test_every_name_has_the_prefix_a_base_unit_and_a_help_text() -> None:
    metrics = new()
    metrics.set_lag("t", 0, records=1, seconds=1)
    for family in metrics.registry.collect():
        assert NAME.match(family.name), family.name
        assert not re.search(r"_(ms|millis\w*|kb|mb|minutes|hours|percent)\b", family.name)
        assert len(family.documentation) > 40, family.name
        assert family.documentation.endswith("."), family.name
        for sample in family.samples:
            assert set(sample.labels) <= ALLOWED_LABELS, family.name


def test_nothing_is_defined_that_no_flow_observes() -> None:
    folder = Path(__file__).resolve().parents[2] / "service" / "newsloom"
    texts = {path: path.read_text() for path in folder.rglob("*.py")}
    inside = texts.pop(folder / "metrics.py")
    names = {name for name in (*vars(new()), *vars(Metrics)) if not name.startswith("_")}
    used = set(re.findall(r"metrics\.(\w+)", "\n".join(texts.values()) + inside))
    used |= set(re.findall(r"self\.(\w+)\.(?:inc|set|observe)", inside))  # by a method
    assert names - used - {"registry"} == set()


def test_the_names_that_others_rely_on_exist() -> None:
    table = reference_table(new().registry)
    assert all(f"`{name}`" in table for name in CONTRACT)


def test_no_created_series_double_the_output() -> None:
    assert b"_created" not in generate_latest(new().registry)


def test_series_of_closed_sets_exist_from_the_start_at_zero() -> None:
    metrics = new()
    for outcome in Outcome:
        assert value(metrics, "newsloom_records_total", outcome=outcome.value) == 0
    for reason in RejectReason:
        assert value(metrics, "newsloom_rejected_total", reason=reason.value) == 0
    for dependency in Dependency:
        assert value(metrics, "newsloom_retries_total", dependency=dependency.value) == 0


@given(
    st.lists(
        st.tuples(
            st.dictionaries(
                st.sampled_from([o for o in Outcome if o is not Outcome.REJECTED]),
                st.integers(0, 500),
            ),
            st.dictionaries(st.sampled_from([r.value for r in RejectReason]), st.integers(0, 9)),
        ),
        max_size=5,
    )
)
def test_outcomes_add_up_to_the_deliveries_and_reasons_to_the_rejected(
    batches: list[tuple[dict[Outcome, int], dict[str, int]]],
) -> None:
    metrics = new()
    for outcomes, reasons in batches:
        metrics.observe_batch(report(outcomes | {Outcome.REJECTED: sum(reasons.values())}, reasons))
    names = [o.value for o in Outcome]
    counted = [value(metrics, "newsloom_records_total", outcome=name) or 0 for name in names]
    rejected = [
        value(metrics, "newsloom_rejected_total", reason=reason.value) or 0
        for reason in RejectReason
    ]
    assert sum(counted) == value(metrics, "newsloom_deliveries_consumed_total")
    assert sum(rejected) == value(metrics, "newsloom_records_total", outcome="rejected")
    assert value(metrics, "newsloom_mentions_total") == 2 * len(batches)
    assert value(metrics, "newsloom_batch_records_count") == len(batches)


@pytest.mark.parametrize(
    ("reason", "label"),
    [("parse.json", "parse.json"), ("db.22003", "db.data"), ("db.data", "db.data"), ("x", OTHER)],
)
def test_reasons_fold_into_a_closed_set(reason: str, label: str) -> None:
    assert reason_label(reason) == label


def test_hostile_input_does_not_grow_the_number_of_series() -> None:
    metrics = new()
    before = series(metrics)
    for number in range(10_000):
        metrics.observe_parsed([f"field{number}", f"https://evil/{number}\n"], unknown=1)
        metrics.observe_batch(report({Outcome.REJECTED: 1}, {f"made up {number}": 1}))
        metrics.observe_batch(report({Outcome.REJECTED: 1}, {f"db.{number:05}": 1}))
    assert series(metrics) - before <= 101
    assert value(metrics, "newsloom_dropped_values_total", field=OTHER) == 10_000 + 9_900
    assert value(metrics, "newsloom_unknown_fields_total") == 10_000


def test_a_partition_that_is_given_up_takes_its_series_along() -> None:
    metrics = new()
    before = series(metrics)
    for partition in range(20):
        metrics.set_lag("t", partition, records=-1, seconds=-0.5)
        metrics.set_parked("t", partition, parked=True)
    assert value(metrics, "newsloom_consumer_lag_records", topic="t", partition="3") == 0
    assert value(metrics, "newsloom_partition_parked", topic="t", partition="3") == 1
    for partition in range(20):
        metrics.forget_partition("t", partition)
    metrics.forget_partition("t", 99)
    assert series(metrics) == before


def test_a_stage_is_measured_also_when_it_fails() -> None:
    metrics = new()
    with pytest.raises(KeyError), metrics.time(Stage.WRITE):
        raise KeyError
    assert value(metrics, "newsloom_batch_duration_seconds_count", stage="write") == 1


def test_a_commit_leaves_its_time() -> None:
    metrics = new()
    assert value(metrics, "newsloom_last_commit_timestamp_seconds") == 0
    metrics.observe_batch(report({Outcome.CREATED: 1}, {}))
    assert abs((value(metrics, "newsloom_last_commit_timestamp_seconds") or 0) - time.time()) < 60


def test_the_smaller_helpers_set_what_they_say() -> None:
    metrics = new()
    metrics.retry("postgres")
    metrics.set_usable("kafka", usable=True)
    metrics.set_pool(in_use=3, idle=1, limit=8)
    metrics.published(PublishResult.REFUSED, 4)
    metrics.observe_end_to_end(-5)
    metrics.observe_stage(Stage.QUEUE, 0.5)
    assert value(metrics, "newsloom_retries_total", dependency="postgres") == 1
    assert value(metrics, "newsloom_dependency_usable", dependency="kafka") == 1
    assert value(metrics, "newsloom_database_pool_connections", state="in_use") == 3
    assert value(metrics, "newsloom_published_records_total", result="refused") == 4
    assert value(metrics, "newsloom_end_to_end_seconds_sum") == 0
    assert value(metrics, "newsloom_batch_duration_seconds_sum", stage="queue") == 0.5


async def test_a_blocked_event_loop_shows_as_lag() -> None:
    metrics = new()
    stop = asyncio.Event()
    watcher = asyncio.create_task(watch_loop_lag(metrics, stop, interval_seconds=0.01))
    await asyncio.sleep(0)
    time.sleep(0.15)  # noqa: ASYNC251 - blocking is the point
    await asyncio.sleep(0.02)
    stop.set()
    await watcher
    assert (value(metrics, "newsloom_event_loop_lag_seconds_sum") or 0) > 0.1


def test_promtool_finds_nothing_to_mend() -> None:
    promtool = shutil.which("promtool")
    if promtool is None:
        pytest.skip("promtool is not installed")
    registry = process_registry()
    metrics = Metrics(registry)
    metrics.set_lag("t", 0, records=1, seconds=1)
    metrics.set_parked("t", 0, parked=False)
    metrics.observe_parsed(["images"], 1)
    checked = subprocess.run(
        [promtool, "check", "metrics"],
        input=generate_latest(registry),
        capture_output=True,
        check=False,
    )
    assert (checked.stdout + checked.stderr).decode() == ""
    assert checked.returncode == 0
