"""What the tests of ops/ share: where things are, and programs that may be missing."""

import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

ROOT = Path(__file__).resolve().parents[2]
OPS = ROOT / "ops"
RULES = OPS / "prometheus" / "rules.yml"

DEBIAN_PACKAGES = {
    "promtool": "prometheus",
    "prometheus": "prometheus",
    "amtool": "prometheus-alertmanager",
}


def program(name: str) -> str:
    """Return the path of a program, from beside this Python or from the system.

    Without it the test is skipped, but in continuous integration it fails.
    """
    beside = Path(sys.executable).with_name(name)
    found = str(beside) if beside.exists() else shutil.which(name)
    if found is None:
        package = DEBIAN_PACKAGES.get(name, name)
        message = f"{name} is not installed (Debian: apt-get install {package})"
        if os.environ.get("CI") == "true":
            pytest.fail(message)
        pytest.skip(message)
    return found


def run(*arguments: str | Path, **options: Any) -> str:
    """Run a program that must succeed, and return what it said."""
    done = subprocess.run(arguments, capture_output=True, text=True, check=False, **options)
    said: str = done.stdout + done.stderr
    assert done.returncode == 0, said
    return said


def load_yaml(path: Path) -> Any:
    """Read a YAML file of one document."""
    return yaml.safe_load(path.read_text())


def rules() -> list[dict[str, Any]]:
    """Return every rule, recording and alerting, in order."""
    return [rule for group in load_yaml(RULES)["groups"] for rule in group["rules"]]


def alerts() -> dict[str, dict[str, Any]]:
    """Return the alerting rules by name."""
    return {rule["alert"]: rule for rule in rules() if "alert" in rule}
