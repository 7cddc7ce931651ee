"""`newsloom generate`: records that publish accepts, and the truth beside them."""

import gzip
import json
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result

from newsloom.cli.generate import WORKLOADS, generate
from newsloom.cli.publish import publish
from newsloom.core.workloads import Workload


def generated(*arguments: str) -> Result:
    return CliRunner().invoke(generate, arguments, catch_exceptions=False)


def lines(text: str) -> list[dict[str, Any]]:
    return [json.loads(line) for line in text.splitlines()]


def test_the_help_names_every_workload() -> None:
    assert set(WORKLOADS) == set(Workload)
    assert all(f"\n  {name} " in generated("--help").stdout for name in WORKLOADS)


@pytest.mark.parametrize("workload", WORKLOADS)
def test_publish_accepts_what_is_generated_as_lines_and_as_files(
    workload: str, tmp_path: Path
) -> None:
    for place in ("records.ndjson", "folder"):
        generated(workload, "--records", "20", "--output", str(tmp_path / place))
        result = CliRunner().invoke(publish, ["--dry-run", str(tmp_path / place)])
        assert result.exit_code == 0, result.output
        assert "20 of 20 records would be sent" in result.output
        truth = tmp_path / f"{place.removesuffix('.ndjson')}.truth.jsonl"
        assert len(lines(truth.read_text())) == 20


def test_the_seed_decides(tmp_path: Path) -> None:
    first, same, other = (
        generated("--records", "30", "--seed", seed).stdout for seed in ("7", "7", "8")
    )
    assert first == same != other
    generated("--records", "30", "--seed", "7", "--output", str(tmp_path / "r.ndjson.gz"))
    with gzip.open(tmp_path / "r.ndjson.gz", "rt", encoding="utf-8") as file:
        assert file.read() == first


def test_the_truth_goes_with_the_records_line_by_line(tmp_path: Path) -> None:
    result = generated("--records", "400", "--truth", str(tmp_path / "truth"))
    records, truths = lines(result.stdout), lines((tmp_path / "truth").read_text())
    for record, truth in zip(records, truths, strict=True):
        assert record["originalUrl"] == truth["url"]
    planted = Counter(truth["planted"] for truth in truths)
    assert {"original", "duplicate", "revision", "edited", "abridged", "template"} <= set(planted)


def test_updates_change_what_their_truth_says(tmp_path: Path) -> None:
    result = generated("updates", "--records", "2000", "--truth", str(tmp_path / "truth"))
    seen: dict[str, dict[str, Any]] = {}
    changed = Counter[str]()
    truths = lines((tmp_path / "truth").read_text())
    for record, truth in zip(lines(result.stdout), truths, strict=True):
        before = seen.get(truth["url"], {})
        differing = {name for name in record if record[name] != before.get(name)}
        expected = {"secured": set[str](), "signals": {"heat"}, "content": {"title"}}
        if before:
            assert differing - {"secured", "observed_at"} <= expected[truth["changed"]]
            changed[truth["changed"]] += 1
        seen[truth["url"]] = record
    assert changed["secured"] / changed.total() == pytest.approx(0.69, abs=0.04)
    assert changed["signals"] / changed.total() == pytest.approx(0.29, abs=0.04)


def test_a_folder_with_files_in_it_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "mine.md").write_text("mine")
    result = generated("--output", str(tmp_path))
    assert result.exit_code == 2
    assert "is not empty" in result.output
    assert [path.name for path in tmp_path.iterdir()] == ["mine.md"]
