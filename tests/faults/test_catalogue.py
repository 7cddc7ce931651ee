"""`make chaos` can run every fault of docs/delivery.md, by its number."""

import re
from pathlib import Path

import pytest

from tests.faults.catalogue import ALL, SHORT, named

PAGE = Path(__file__).parents[2] / "docs/delivery.md"
FAULTS = range(1, 43)


@pytest.mark.parametrize("number", FAULTS)
def test_each_fault_can_be_run(number: int) -> None:
    assert named(f"F{number}")


def test_the_faults_that_every_test_run_must_meet() -> None:
    assert {"F1", "F4", "F10", "F14-before", "F14-after", "F23", "F33"} <= set(SHORT) <= set(ALL)


def test_names_and_numbers() -> None:
    assert named("F14") == ["F14-before", "F14-after"]
    assert named("F19") == ["F18-F20"]
    assert named("F30-longer") == ["F30-longer"]
    assert named("F99") == named("F") == named("x") == []


def test_the_page_has_a_row_for_each_fault() -> None:
    told: list[int] = []
    _, _, section = PAGE.read_text(encoding="utf-8").partition("\n## Faults\n")
    section, _, _ = section.partition("\n## ")
    for row in re.findall(r"^\| ([0-9, -]+) \|", section, re.MULTILINE):
        for part in row.split(","):
            first, _, last = part.strip().partition("-")
            told += range(int(first), int(last or first) + 1)
    assert told == [*FAULTS]
