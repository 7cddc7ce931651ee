"""squawk reads the migrations as a careful colleague would: locks, rewrites, lost data."""

import subprocess
import sysconfig
from pathlib import Path

import pytest

from newsloom.adapters import migrations

SQUAWK = Path(sysconfig.get_path("scripts")) / "squawk"

NOT_ASKED = {
    "require-statement-timeout": "`newsloom migrate` ends a file that takes ten minutes; filling a"
    " column may rightly take longer, and then dbmate runs it",
    "prefer-bigint-over-int": "small numbers in rows whose bytes count",
    "prefer-bigint-over-smallint": "a place in a list of at most 64",
}
NOT_ASKED_OUTSIDE_A_TRANSACTION = {
    "require-lock-timeout": "such a file is one statement; the tool's session has a lock_timeout",
    "prefer-robust-stmts": "IF NOT EXISTS would take the invalid index of a failed attempt for"
    " done; DROP INDEX it and migrate again",
}


def complaints(name: str, half: migrations.Half) -> list[str]:
    """Return what squawk has to say about the up half of a migration, a line each."""
    rules = {**NOT_ASKED, **({} if half.in_transaction else NOT_ASKED_OUTSIDE_A_TRANSACTION)}
    done = subprocess.run(
        [
            SQUAWK,
            *(["--assume-in-transaction"] if half.in_transaction else []),
            *("--pg-version", "18", "--reporter", "gcc", "--exclude", ",".join(rules)),
            *("--stdin-filepath", name),
        ],
        input=half.sql,
        capture_output=True,
        text=True,
        check=False,
        timeout=50,
    )
    assert done.returncode in (0, 1), done.stderr
    return [line for line in done.stdout.splitlines() if line.startswith(name)]


@pytest.mark.parametrize("migration", migrations.read_migrations(), ids=lambda m: m.name)
def test_squawk_has_no_complaint(migration: migrations.Migration) -> None:
    assert complaints(migration.name, migration.up) == []


@pytest.mark.parametrize(
    ("sql", "rule"),
    [
        ("CREATE INDEX i ON newsloom.articles (heat);", "require-concurrent-index-creation"),
        ("ALTER TABLE newsloom.articles ALTER heat TYPE bigint;", "changing-column-type"),
        ("ALTER TABLE newsloom.articles ADD CHECK (heat > 0);", "constraint-missing-not-valid"),
        ("ALTER TABLE newsloom.articles DROP COLUMN heat;", "ban-drop-column"),
        ("ALTER TABLE newsloom.articles ADD COLUMN a bigint;", "require-lock-timeout"),
        ("SELECT FROM WHERE;", "syntax-error"),
    ],
)
def test_squawk_would_notice(sql: str, rule: str) -> None:
    found = complaints("x.sql", migrations.Half(sql))
    assert any(rule in line for line in found), found
