"""The alerting rules: promtool accepts them, each fires and stays silent as it should, each can be
looked up, and they speak of metrics that exist.
"""

import re
import shlex
from collections import Counter
from pathlib import Path

import asyncpg
import click
import pytest

from newsloom.cli.main import COMMANDS, newsloom
from newsloom.settings import VARIABLES
from tests.ops.promql import FOREIGN, metrics_of, our_series
from tests.ops.test_dashboards import panels
from tests.ops.tools import OPS, ROOT, alerts, load_yaml, program, rules, run

PROMETHEUS = OPS / "prometheus"
ALERTMANAGER = PROMETHEUS / "alertmanager.example.yml"
TEST_FILES = sorted(PROMETHEUS.glob("rules*_test.yml"))


def test_promtool_accepts_configuration_and_rules() -> None:
    promtool = program("promtool")
    run(promtool, "check", "rules", "--lint=all", "--lint-fatal", PROMETHEUS / "rules.yml")
    run(promtool, "check", "config", "--lint=all", "--lint-fatal", PROMETHEUS / "prometheus.yml")


@pytest.mark.parametrize("name", alerts())
def test_each_alert_reaches_whom_its_severity_says(name: str) -> None:
    severity = alerts()[name]["labels"]["severity"]
    labels = (f"alertname={name}", f"severity={severity}", "job=newsloom")
    arguments = ("config", "routes", "test", f"--config.file={ALERTMANAGER}")
    said = run(program("amtool"), *arguments, f"--verify.receivers={severity}s", *labels)
    assert f"{severity}s" in said


def test_what_keeps_an_alert_quiet_is_an_alert_too() -> None:
    run(program("amtool"), "check-config", ALERTMANAGER)
    named = re.findall(r"Newsloom\w+", re.sub(r'"Newsloom\.\+"', "", ALERTMANAGER.read_text()))
    assert set(named) <= set(alerts())


@pytest.mark.timeout(300)
@pytest.mark.parametrize("path", TEST_FILES, ids=lambda path: path.stem)
def test_alerts_fire_and_stay_silent_as_their_cases_say(path: Path) -> None:
    run(program("promtool"), "test", "rules", path.name, cwd=PROMETHEUS)


def test_every_alert_has_a_firing_and_a_silent_case() -> None:
    firing, silent = Counter[str](), Counter[str]()
    for path in TEST_FILES:
        for case in load_yaml(path)["tests"]:
            for expected in case["alert_rule_test"]:
                (firing if expected.get("exp_alerts") else silent)[expected["alertname"]] += 1
    names = set(alerts())
    assert set(firing) == names
    assert set(silent) == names


def test_the_test_files_know_all_groups_in_their_order() -> None:
    groups = [group["name"] for group in load_yaml(PROMETHEUS / "rules.yml")["groups"]]
    for path in TEST_FILES:
        assert load_yaml(path)["group_eval_order"] == groups


def test_rules_read_only_series_that_exist() -> None:
    known = set(our_series()) | FOREIGN | {rule["record"] for rule in rules() if "record" in rule}
    for rule in rules():
        assert metrics_of(rule["expr"]) <= known, rule


def test_every_recorded_series_is_used_somewhere() -> None:
    text = "\n".join(rule["expr"] for rule in rules())
    text += "".join(path.read_text() for path in (OPS / "grafana" / "dashboards").glob("*.json"))
    for rule in rules():
        if "record" in rule:
            assert re.search(re.escape(rule["record"]) + r"(?![a-z0-9_])", text), rule["record"]


@pytest.mark.parametrize("name", alerts())
def test_an_alert_says_what_it_is_how_bad_and_where_to_read_on(name: str) -> None:
    rule = alerts()[name]
    assert re.fullmatch(r"Newsloom[A-Z][A-Za-z]+", name)
    assert rule["labels"]["severity"] in ("page", "ticket")
    annotations = rule["annotations"]
    assert set(annotations) == {"summary", "description", "runbook_url"}
    assert annotations["runbook_url"] == f"ops/runbook.md#{name.lower()}"
    assert annotations["summary"].endswith(".")
    assert annotations["description"].endswith(".")


def test_the_runbook_has_a_section_for_each_alert_and_no_other() -> None:
    text = (OPS / "runbook.md").read_text()
    sections = dict(re.findall(r"(?ms)^### (Newsloom\w+)\n(.*?)(?=^##|\Z)", text))
    assert list(sections) == list(alerts()), "the runbook follows the order of the rules"
    for name, section in sections.items():
        for part in ("**Means.**", "**Look.**", "**Fix.**", "**Done.**"):
            assert section.count(part) == 1, f"{name}: {part}"


def test_the_runbook_names_commands_settings_panels_and_alerts_that_exist() -> None:
    text = " ".join((OPS / "runbook.md").read_text().split())
    assert set(re.findall(r"`newsloom ([a-z-]+)", text)) <= set(COMMANDS)
    settings = {variable.name for variable in VARIABLES}
    assert set(re.findall(r"NEWSLOOM_[A-Z_]+[A-Z]", text)) <= settings
    assert set(re.findall(r"\bNewsloom[A-Z]\w+", text)) <= set(alerts())
    titles = {panel["title"] for _, panel in panels()}
    log_lines = {"waiting for a dependency", "poll failed"}
    for named in re.findall(r"(?<!\*)\*([A-Z][^*]+?)\*(?!\*)", text):
        assert named in titles or any(title.startswith(named) for title in titles), named
    for named in re.findall(r"(?<!\*)\*([a-z][^*]+?)\*(?!\*)", text):
        assert named in log_lines, named


@pytest.mark.parametrize("page", ["ops/runbook.md", "docs/deployment.md", "docs/backup.md"])
def test_the_commands_of_a_page_have_the_options_that_it_gives_them(page: str) -> None:
    text = " ".join((ROOT / page).read_text().split())
    commands = re.findall(r"`newsloom ([a-z][^`]*)`", text)
    assert commands
    for words in map(shlex.split, commands):
        command: click.Command | None = newsloom
        rest = list(words)
        while isinstance(command, click.Group) and rest and not rest[0].startswith("-"):
            command = command.get_command(click.Context(command), rest.pop(0))
        assert command is not None, words
        known = {option for parameter in command.params for option in parameter.opts} | {"--help"}
        assert {word for word in rest if word.startswith("--")} <= known, words


async def test_the_runbook_reads_columns_that_exist(database: str) -> None:
    connection = await asyncpg.connect(database)
    try:
        text = " ".join((OPS / "runbook.md").read_text().split())
        for query in re.findall(r"`+(?:sql )?(SELECT .*?)[;`]", text):
            await connection.prepare(query)
    finally:
        await connection.close()
