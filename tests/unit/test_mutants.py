"""The list of mutants fits the code, the tests and the page that explains it."""

import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
MUTANTS = tomllib.loads((ROOT / "tools/mutants.toml").read_text())["mutant"]


@pytest.mark.parametrize("mutant", MUTANTS, ids=[mutant["name"] for mutant in MUTANTS])
def test_a_mutant_can_be_applied_and_names_a_test_that_exists(mutant: dict[str, str]) -> None:
    assert (ROOT / mutant["file"]).read_text().count(mutant["old"]) == 1
    path, _, name = mutant["test"].partition("::")
    assert f"def {name}" in (ROOT / path).read_text()


def test_the_page_explains_each_mutant() -> None:
    page = (ROOT / "docs/delivery.md").read_text()
    rows = [line.split("|")[1].strip() for line in page.splitlines() if line.startswith("| `")]
    assert sorted(rows) == sorted(f"`{mutant['name']}`" for mutant in MUTANTS)
