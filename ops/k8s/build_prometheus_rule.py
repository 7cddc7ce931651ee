"""Write base/prometheus-rule.yaml from ops/prometheus/rules.yml.

    python ops/k8s/build_prometheus_rule.py [RUNBOOK_BASE]

RUNBOOK_BASE goes before the runbook_url of each alert: where people can read this repository. The
committed file has none; a test keeps it equal to what this writes.
"""

import sys
from pathlib import Path
from typing import Any

import yaml

RULES = Path(__file__).parents[1] / "prometheus" / "rules.yml"
TARGET = Path(__file__).parent / "base" / "prometheus-rule.yaml"
HEADER = "# Written by ops/k8s/build_prometheus_rule.py from ops/prometheus/rules.yml: edit that.\n"


def rendered(runbook_base: str = "") -> str:
    """Return the text of the manifest."""
    groups: list[dict[str, Any]] = yaml.safe_load(RULES.read_text())["groups"]
    for group in groups:
        for rule in group["rules"]:
            rule["expr"] = " ".join(rule["expr"].split())
            if "annotations" in rule:
                rule["annotations"]["runbook_url"] = (
                    runbook_base + rule["annotations"]["runbook_url"]
                )
    manifest = {
        "apiVersion": "monitoring.coreos.com/v1",
        "kind": "PrometheusRule",
        "metadata": {"name": "newsloom"},
        "spec": {"groups": groups},
    }
    return HEADER + yaml.safe_dump(manifest, sort_keys=False, width=100, allow_unicode=True)


if __name__ == "__main__":
    TARGET.write_text(rendered(*sys.argv[1:2]))
