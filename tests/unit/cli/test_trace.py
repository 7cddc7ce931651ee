"""`newsloom trace`: three questions about two records, each with its evidence."""

import json
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from newsloom.cli.trace import trace

SAMPLES = Path(__file__).parents[3] / "samples"


def traced(*names: str) -> list[dict[str, Any]]:
    paths = [str(SAMPLES / f"{name}.md") for name in names]
    result = CliRunner().invoke(trace, [*paths, "--format", "json"], catch_exceptions=False)
    return [json.loads(line) for line in result.stdout.splitlines()]


def test_one_record_is_shown_with_its_keys_and_without_its_secret() -> None:
    (side,) = traced("solar-record")
    assert side["outcome"] == "accepted"
    assert side["urls"][0]["key"] == side["article_key"]
    assert "secured" in (SAMPLES / "solar-record.md").read_text() or side["secured"] == "none"
    assert side["secured"] in ("none", "kept, not shown")


@pytest.mark.parametrize(
    ("other", "same_article", "is_copy", "same_story"),
    [
        pytest.param("electric-ferries-wire", True, True, True, id="itself"),
        pytest.param("electric-ferries-syndicated", False, True, True, id="a copy"),
        pytest.param("ferry-protest", False, False, True, id="the same story"),
        pytest.param("harbour-bridge-reopens", False, False, False, id="something else"),
    ],
)
def test_two_records_are_the_same_a_copy_or_one_story(
    other: str, *, same_article: bool, is_copy: bool, same_story: bool
) -> None:
    *_, verdict = traced("electric-ferries-wire", other)
    assert verdict["same_article"] is same_article
    assert verdict["copy"] is is_copy
    assert verdict["same_story"] is same_story
    assert (verdict["containment"] >= 0.5) is is_copy
    assert (verdict["story_score"] >= verdict["story_threshold"]) is same_story


def test_a_record_that_is_no_article_is_refused_with_the_missing_fields() -> None:
    path = Path(__file__).parents[2] / "data" / "records" / "person-ilse-verhage.md"
    result = CliRunner().invoke(trace, [str(path), "--format", "json"], standalone_mode=False)
    (side,) = [json.loads(line) for line in result.stdout.splitlines()]
    assert (side["outcome"], side["reason"]) == ("refused", "not-an-article")
    assert "title" in side["errors"][0]["detail"]
