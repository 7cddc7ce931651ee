"""Write dashboards/*.json.

    python ops/grafana/build_dashboards.py [--check]

The JSON files are committed, because Grafana reads them; a test keeps them equal to what this
writes.
"""

import json
import sys
from pathlib import Path
from typing import Any

if __package__:
    from ops.grafana import dead_letters, news, overview, pipeline
else:
    sys.path.insert(0, str(Path(__file__).resolve().parents[2]))
    from ops.grafana import dead_letters, news, overview, pipeline

FOLDER = Path(__file__).with_name("dashboards")


def dashboards() -> dict[str, dict[str, Any]]:
    """Return every dashboard by the name of its file."""
    return {
        "overview.json": overview.DASHBOARD,
        "pipeline.json": pipeline.DASHBOARD,
        "news.json": news.DASHBOARD,
        "dead-letters.json": dead_letters.DASHBOARD,
    }


def rendered() -> dict[str, str]:
    """Return the text of every file."""
    return {
        name: json.dumps(content, indent=1, ensure_ascii=False) + "\n"
        for name, content in dashboards().items()
    }


def main() -> int:
    """Write the files, or with --check tell whether they are current."""
    stale = 0
    for name, text in rendered().items():
        path = FOLDER / name
        if path.exists() and path.read_text() == text:
            continue
        stale += 1
        if "--check" not in sys.argv[1:]:
            path.write_text(text)
    return 1 if stale and "--check" in sys.argv[1:] else 0


if __name__ == "__main__":
    sys.exit(main())
