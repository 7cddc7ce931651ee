"""Panels and dashboards as Grafana's JSON model: only what newsloom's dashboards use of it.

A panel is a dict without a place; `dashboard` flows panels and rows into Grafana's grid of 24
columns and numbers them. Colours mean: green all is well, orange look today, red act now; a panel
without thresholds is drawn in the palette's colours, which mean nothing.
"""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Final

Panel = dict[str, Any]

WIDTH: Final = 24
SCHEMA_VERSION: Final = 41
PROMETHEUS: Final = {"type": "prometheus", "uid": "${prometheus}"}
POSTGRES: Final = {"type": "grafana-postgresql-datasource", "uid": "${postgres}"}

GREEN, ORANGE, RED = "green", "orange", "red"


def prom(expr: str, legend: str = "") -> dict[str, Any]:
    """Return a Prometheus query. `legend` is Grafana's template: {{label}}."""
    return {
        "datasource": PROMETHEUS,
        "expr": " ".join(expr.split()),
        "legendFormat": legend or "__auto",
        "editorMode": "code",
        "range": True,
    }


def sql(query: str, *, over_time: bool = False) -> dict[str, Any]:
    """Return a Postgres query as a table, or as series with a column `time`."""
    lines = [line for line in query.strip("\n").splitlines() if line.strip()]
    indent = min(len(line) - len(line.lstrip()) for line in lines)
    return {
        "datasource": POSTGRES,
        "rawSql": "\n".join(line[indent:] for line in lines),
        "rawQuery": True,
        "editorMode": "code",
        "format": "time_series" if over_time else "table",
    }


def steps(*pairs: tuple[float | None, str]) -> dict[str, Any]:
    """Return thresholds: from which value on which colour; the first starts at None."""
    return {
        "mode": "absolute",
        "steps": [{"value": value, "color": color} for value, color in pairs],
    }


def row(title: str) -> Panel:
    """Return a heading across the dashboard."""
    return {"type": "row", "title": title, "collapsed": False, "panels": []}


def _panel(
    kind: str,
    title: str,
    description: str,
    targets: Sequence[Mapping[str, Any]],
    *,
    unit: str,
    size: tuple[int, int],
    options: Mapping[str, Any],
    field: Mapping[str, Any],
    thresholds: Mapping[str, Any] | None,
    overrides: Sequence[Mapping[str, Any]] = (),
) -> Panel:
    defaults: dict[str, Any] = {"unit": unit, **field}
    if thresholds is None:
        defaults.setdefault("color", {"mode": "palette-classic"})
    else:
        defaults["thresholds"] = thresholds
        defaults.setdefault("color", {"mode": "thresholds"})
    return {
        "type": kind,
        "title": title,
        "description": " ".join(description.split()),
        "datasource": targets[0]["datasource"],
        "targets": [{**target, "refId": chr(65 + i)} for i, target in enumerate(targets)],
        "gridPos": {"w": size[0], "h": size[1]},
        "fieldConfig": {"defaults": defaults, "overrides": list(overrides)},
        "options": dict(options),
    }


def stat(
    title: str,
    description: str,
    target: Mapping[str, Any],
    *,
    unit: str,
    thresholds: Mapping[str, Any] | None = None,
    size: tuple[int, int] = (4, 5),
    decimals: int | None = None,
    field: str = "",
    no_value: str = "-",
) -> Panel:
    """Return one big figure: the newest value; coloured when there are thresholds."""
    extra: dict[str, Any] = {"noValue": no_value}
    if decimals is not None:
        extra["decimals"] = decimals
    if thresholds is None:
        extra["color"] = {"mode": "fixed", "fixedColor": "text"}
    return _panel(
        "stat",
        title,
        description,
        [target],
        unit=unit,
        size=size,
        thresholds=thresholds,
        field=extra,
        options={
            "colorMode": "background" if thresholds else "value",
            "graphMode": "none" if "rawSql" in target else "area",
            "justifyMode": "center",
            "textMode": "value",
            "reduceOptions": {"calcs": ["lastNotNull"], "fields": field, "values": False},
        },
    )


def series(
    title: str,
    description: str,
    *targets: Mapping[str, Any],
    unit: str,
    thresholds: Mapping[str, Any] | None = None,
    size: tuple[int, int] = (8, 8),
    stacked: bool = False,
    bars: bool = False,
    log: bool = False,
) -> Panel:
    """Return curves over time. Thresholds are drawn as dashed lines."""
    custom: dict[str, Any] = {
        "drawStyle": "bars" if bars else "line",
        "lineWidth": 1,
        "fillOpacity": 60 if stacked or bars else 8,
        "showPoints": "auto",
        "spanNulls": False,
        "axisSoftMin": 0,
        "stacking": {"mode": "normal" if stacked else "none", "group": "A"},
        "thresholdsStyle": {"mode": "dashed" if thresholds else "off"},
    }
    if log:
        custom["scaleDistribution"] = {"type": "log", "log": 10}
        del custom["axisSoftMin"]
    field: dict[str, Any] = {"custom": custom}
    if thresholds:
        field["color"] = {"mode": "palette-classic"}
    return _panel(
        "timeseries",
        title,
        description,
        targets,
        unit=unit,
        size=size,
        thresholds=thresholds,
        field=field,
        options={
            "legend": {"displayMode": "list", "placement": "bottom", "showLegend": True},
            "tooltip": {"mode": "multi", "sort": "desc"},
        },
    )


def table(
    title: str,
    description: str,
    target: Mapping[str, Any],
    *,
    size: tuple[int, int] = (12, 9),
    units: Mapping[str, str] | None = None,
    colored: Mapping[str, Mapping[str, Any]] | None = None,
) -> Panel:
    """Return rows and columns. `units`: of columns by name; `colored`: their thresholds.

    Cells are text: article text is never read as HTML or as a link.
    """
    overrides: list[dict[str, Any]] = [
        {
            "matcher": {"id": "byName", "options": column},
            "properties": [{"id": "unit", "value": unit}],
        }
        for column, unit in (units or {}).items()
    ]
    overrides += [
        {
            "matcher": {"id": "byName", "options": column},
            "properties": [
                {"id": "thresholds", "value": limits},
                {"id": "color", "value": {"mode": "thresholds"}},
                {"id": "custom.cellOptions", "value": {"type": "color-text"}},
            ],
        }
        for column, limits in (colored or {}).items()
    ]
    return _panel(
        "table",
        title,
        description,
        [target],
        unit="none",
        size=size,
        thresholds=None,
        overrides=overrides,
        field={"custom": {"cellOptions": {"type": "auto"}, "filterable": False}, "noValue": "-"},
        options={"cellHeight": "sm", "showHeader": True},
    )


def _datasource(name: str, kind: str, label: str) -> dict[str, Any]:
    return {"name": name, "type": "datasource", "query": kind, "label": label, "refresh": 1}


def _labels(name: str, query: str, label: str) -> dict[str, Any]:
    return {
        "name": name,
        "type": "query",
        "label": label,
        "datasource": PROMETHEUS,
        "query": {"query": query, "refId": name},
        "definition": query,
        "refresh": 2,
        "sort": 1,
        "multi": True,
        "includeAll": True,
        "allValue": ".+",
        "current": {"text": ["All"], "value": ["$__all"]},
    }


def dashboard(
    name: str,
    title: str,
    description: str,
    panels: Iterable[Panel],
    *,
    since: str = "now-1h",
    refresh: str = "10s",
) -> dict[str, Any]:
    """Return a dashboard of panels and rows, placed from left to right, row by row."""
    placed = _place(panels)
    kinds = {target["datasource"]["type"] for p in placed for target in p.get("targets", ())}
    variables = []
    if PROMETHEUS["type"] in kinds:
        variables += [
            _datasource("prometheus", PROMETHEUS["type"], "Prometheus"),
            _labels("job", "label_values(newsloom_build_info, job)", "Deployment"),
            _labels(
                "instance", 'label_values(newsloom_build_info{job=~"$job"}, instance)', "Process"
            ),
        ]
    if POSTGRES["type"] in kinds:
        variables.append(_datasource("postgres", POSTGRES["type"], "Postgres"))
    return {
        "uid": f"newsloom-{name}",
        "title": f"newsloom / {title}",
        "description": " ".join(description.split()),
        "tags": ["newsloom"],
        "editable": False,
        "graphTooltip": 1,
        "schemaVersion": SCHEMA_VERSION,
        "timezone": "browser",
        "time": {"from": since, "to": "now"},
        "refresh": refresh,
        "links": [
            {
                "type": "dashboards",
                "title": "newsloom",
                "tooltip": "",
                "icon": "external link",
                "targetBlank": False,
                "tags": ["newsloom"],
                "asDropdown": False,
                "includeVars": True,
                "keepTime": False,
            }
        ],
        "annotations": {"list": _annotations() if PROMETHEUS["type"] in kinds else []},
        "templating": {"list": variables},
        "panels": placed,
    }


def _annotations() -> list[dict[str, Any]]:
    return [
        {
            "name": "Processes started",
            "datasource": PROMETHEUS,
            "enable": True,
            "iconColor": "blue",
            "expr": 'changes(process_start_time_seconds{job=~"$job"}[$__rate_interval]) > 0',
            "titleFormat": "start",
            "textFormat": "{{instance}}",
        }
    ]


def _place(panels: Iterable[Panel]) -> list[Panel]:
    placed: list[Panel] = []
    x = y = height = 0
    for number, panel in enumerate(panels, start=1):
        is_row = panel["type"] == "row"
        w, h = (WIDTH, 1) if is_row else (panel["gridPos"]["w"], panel["gridPos"]["h"])
        if is_row or x + w > WIDTH:
            x, y, height = 0, y + height, 0
        placed.append({"id": number, **panel, "gridPos": {"x": x, "y": y, "w": w, "h": h}})
        x, height = x + w, max(height, h)
        if is_row:
            x, y, height = 0, y + 1, 0
    return placed
