"""The dashboards: current, readable by Grafana, complete, and speaking only of what exists."""

import json
import re
from collections.abc import Iterator
from typing import Any, NamedTuple

import pytest

from ops.grafana.build_dashboards import FOLDER, rendered
from tests.ops.promql import FOREIGN, fill, metrics_of, our_series, range_selectors
from tests.ops.tools import OPS, load_yaml, rules

RECORDED = frozenset(rule["record"] for rule in rules() if "record" in rule)
BUILT_IN = frozenset({"ALERTS"})
LOOKS_ONLY = frozenset({"palette-classic", "fixed"})
"""Colour modes that say nothing about good or bad."""


class Query(NamedTuple):
    """One query of one panel."""

    dashboard: str
    panel: str
    text: str

    def __str__(self) -> str:
        return f"{self.dashboard} / {self.panel}"


def dashboards() -> dict[str, dict[str, Any]]:
    return {path.stem: json.loads(path.read_text()) for path in sorted(FOLDER.glob("*.json"))}


def panels() -> Iterator[tuple[str, dict[str, Any]]]:
    for name, dashboard in dashboards().items():
        for panel in dashboard["panels"]:
            if panel["type"] != "row":
                yield name, panel


def promql_queries() -> list[Query]:
    return [
        Query(name, panel["title"], target["expr"])
        for name, panel in panels()
        for target in panel["targets"]
        if "expr" in target
    ]


def sql_queries() -> list[Query]:
    return [
        Query(name, panel["title"], target["rawSql"])
        for name, panel in panels()
        for target in panel["targets"]
        if "rawSql" in target
    ]


def test_the_committed_files_are_what_the_builder_writes() -> None:
    committed = {path.name: path.read_text() for path in FOLDER.iterdir()}
    assert committed == rendered(), "run: python ops/grafana/build_dashboards.py"


@pytest.mark.parametrize("name", dashboards())
def test_a_dashboard_has_a_name_of_its_own_and_cannot_be_edited(name: str) -> None:
    dashboard = dashboards()[name]
    assert dashboard["uid"] == f"newsloom-{name}"
    assert dashboard["editable"] is False
    assert dashboard["description"].endswith(".")
    assert "newsloom" in dashboard["tags"]
    ids = [panel["id"] for panel in dashboard["panels"]]
    assert len(set(ids)) == len(ids)
    assert "id" not in dashboard, "an id belongs to one Grafana"


@pytest.mark.parametrize("name", dashboards())
def test_panels_lie_in_the_grid_and_do_not_overlap(name: str) -> None:
    taken: set[tuple[int, int]] = set()
    for panel in dashboards()[name]["panels"]:
        place = panel["gridPos"]
        assert place["x"] + place["w"] <= 24
        cells = {
            (place["x"] + dx, place["y"] + dy)
            for dx in range(place["w"])
            for dy in range(place["h"])
        }
        assert not cells & taken, panel["title"]
        taken |= cells


@pytest.mark.parametrize(
    ("name", "panel"), [pytest.param(n, p, id=f"{n}-{p['title']}") for n, p in panels()]
)
def test_a_panel_explains_itself(name: str, panel: dict[str, Any]) -> None:
    variables = {v["name"]: v for v in dashboards()[name]["templating"]["list"]}
    assert panel["title"]
    assert panel["description"].endswith(".")
    defaults = panel["fieldConfig"]["defaults"]
    assert defaults["unit"]
    for source in (panel["datasource"], *(target["datasource"] for target in panel["targets"])):
        assert variables[source["uid"].strip("${}")]["query"] == source["type"]
    if defaults["color"]["mode"] not in LOOKS_ONLY:
        assert len(defaults["thresholds"]["steps"]) > 1, "a colour must mean something"
    for override in panel["fieldConfig"]["overrides"]:
        properties = {p["id"]: p["value"] for p in override["properties"]}
        assert ("custom.cellOptions" in properties) == ("thresholds" in properties)


def test_no_two_panels_of_a_dashboard_have_one_title() -> None:
    titles = [(name, panel["title"]) for name, panel in panels()]
    assert len(set(titles)) == len(titles)


@pytest.mark.parametrize("query", promql_queries(), ids=str)
def test_promql_reads_series_that_exist(query: Query) -> None:
    known = set(our_series()) | FOREIGN | RECORDED | BUILT_IN
    assert metrics_of(fill(query.text)) <= known


@pytest.mark.parametrize("query", promql_queries(), ids=str)
def test_ranges_follow_the_dashboard_and_never_a_fixed_time(query: Query) -> None:
    allowed = {"$__rate_interval", "$__range"}
    assert set(range_selectors(query.text)) <= allowed
    for function in re.findall(r"(\w+)\([^()]*\[\$__rate_interval\]", query.text):
        assert function == "rate", "increase over $__rate_interval depends on the zoom"


@pytest.mark.parametrize("query", promql_queries(), ids=str)
def test_promql_is_limited_to_the_chosen_deployment(query: Query) -> None:
    for selector in re.findall(r"\{[^{}]*\}", query.text):
        assert 'job=~"$job"' in selector or "alertname" in selector, selector


def test_every_metric_is_on_a_panel_or_behind_a_recorded_series() -> None:
    series = our_series()
    shown = {name for query in promql_queries() for name in metrics_of(fill(query.text))}
    on_panels = {series[name] for name in shown if name in series}
    ours = {metric for metric in series.values() if metric.startswith("newsloom_")}
    assert ours - on_panels == set()


@pytest.mark.parametrize("query", sql_queries(), ids=str)
def test_sql_reads_the_public_views_only(query: Query) -> None:
    ctes = set(re.findall(r"(\w+) AS \(", query.text))
    for name in re.findall(r"(?:FROM|JOIN)\s+([\w.]+)", query.text):
        if name in ctes or name in {"now", "first_seen_at"}:  # extract(epoch FROM ...)
            continue
        assert name.startswith("api."), name
    assert ";" not in query.text


def test_grafana_is_provisioned_read_only_with_both_data_sources() -> None:
    folder = OPS / "grafana" / "provisioning"
    sources = {
        source["type"]: source
        for source in load_yaml(folder / "datasources" / "newsloom.yml")["datasources"]
    }
    kinds = {t["datasource"]["type"] for _, panel in panels() for t in panel["targets"]}
    assert set(sources) == kinds
    assert all(source["editable"] is False for source in sources.values())
    assert "$__file{" in sources["grafana-postgresql-datasource"]["secureJsonData"]["password"]
    (provider,) = load_yaml(folder / "dashboards" / "newsloom.yml")["providers"]
    assert provider["allowUiUpdates"] is False
    interval = load_yaml(OPS / "prometheus" / "prometheus.yml")["global"]["scrape_interval"]
    assert sources["prometheus"]["jsonData"]["timeInterval"] == interval
