"""`make audit` and `make sbom`: what they say when the network or a component is missing."""

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest

from tests.ops.tools import ROOT

LOCK = (ROOT / "requirements.lock").read_text()


def program(folder: Path, name: str, text: str) -> None:
    path = folder / name
    path.write_text(text)
    path.chmod(0o755)


def said(*command: str | Path) -> tuple[int, str, str]:
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    return done.returncode, done.stdout, done.stderr


@pytest.mark.parametrize(
    ("output", "code", "expected"),
    [
        ("No known vulnerabilities found", 0, 0),
        ("aiokafka 0.1 GHSA-xxxx", 1, 1),
        ("requests.exceptions.ConnectionError: Failed to resolve", 1, 3),
    ],
)
def test_an_audit_tells_unsafe_from_not_audited(
    tmp_path: Path, output: str, code: int, expected: int
) -> None:
    program(tmp_path, "pip-audit", f"#!/bin/sh\necho '{output}' >&2\nexit {code}\n")
    found, out, err = said("tools/audit", tmp_path, "requirements.lock")
    assert found == expected
    if expected == 3:
        assert "nothing was audited" in err
        assert output not in out + err, "a traceback helps nobody"
    else:
        assert output in out


@pytest.mark.parametrize("forgotten", [None, "aiokafka"])
def test_a_bill_of_materials_must_name_all_that_is_locked(
    tmp_path: Path, forgotten: str | None
) -> None:
    demo = (ROOT / "requirements-demo.lock").read_text()
    pins = {tuple(pin) for pin in re.findall(r"(?m)^([\w.-]+)==([^\s\\]+)", LOCK + demo)}
    components = [{"name": n, "version": v} for n, v in sorted(pins) if n != forgotten]
    bill = json.dumps(json.dumps({"components": components}))
    made = f"#!{sys.executable}\nimport sys\nopen(sys.argv[-1], 'w').write({bill})\n"
    program(tmp_path, "cyclonedx-py", made)
    code, _, err = said(sys.executable, "tools/sbom", tmp_path, tmp_path / "bills")
    assert code == (0 if forgotten is None else 1)
    assert ("aiokafka==" in err) == (forgotten is not None)
