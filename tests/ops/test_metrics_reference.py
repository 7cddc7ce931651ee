"""docs/metrics.md says what the service says."""

from prometheus_client import CollectorRegistry

from newsloom.metrics import Metrics, reference_table
from tests.ops.tools import ROOT


def test_the_reference_page_is_current() -> None:
    registry = CollectorRegistry()
    Metrics(registry)
    page = (ROOT / "docs" / "metrics.md").read_text()
    written = page.split("<!-- metrics:begin -->\n")[1].split("\n<!-- metrics:end -->")[0]
    assert written == reference_table(registry), "run: .venv/bin/python tools/refresh-docs"
