"""`make bench-linker`: the linker end to end, change log to links and stories in a real Postgres.

    python -m bench.linking [--articles 20000] [--text excerpt|body|boilerplate|apart] [--new SHARE]
                            [--rate N] [--keep FOLDER] [--fill-only] [--output FILE]

`--articles` and `--text` may be given more than once. The window is filled first, with the states
that the linker would have stored; what is measured is the last `--new` of it (a tenth). `--keep`
leaves filled databases in a folder, and takes those that are there: filling takes longer than
measuring. With `--rate` the articles come at that rate, and the lag is measured: how long ago the
oldest change behind a commit was written.
"""

import argparse
import asyncio
import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Final
from urllib.parse import urlsplit, urlunsplit

import asyncpg

from bench.linking_data import Text, articles, fill
from bench.stage import POSTGRES
from newsloom.adapters.embedded import EmbeddedPostgres
from newsloom.adapters.migrations import migrate
from newsloom.core.linking import DEFAULT_WINDOW

_RUN: Final = "bench_linking_run"


def main() -> None:
    """Fill, measure, print, write."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--articles", type=int, action="append", help="in the window; 20000")
    parser.add_argument("--text", type=Text, action="append", choices=list(Text), help="excerpt")
    parser.add_argument("--new", type=float, default=0.1, help="share that is linked; 0.1")
    parser.add_argument("--rate", type=int, default=0, help="new articles a second; 0: all at once")
    parser.add_argument("--keep", type=Path, help="folder of filled databases, made and reused")
    parser.add_argument("--fill-only", action="store_true", help="measure nothing")
    parser.add_argument("--output", type=Path, default=Path("bench/results/linking.json"))
    options = parser.parse_args()
    load = os.getloadavg()
    with _postgres(options.keep) as dsn:
        cases = [
            _case(dsn, text, count, options)
            for text in options.text or [Text.EXCERPT]
            for count in options.articles or [20_000]
        ]
    if options.fill_only:
        return
    print(table(cases))
    options.output.parent.mkdir(parents=True, exist_ok=True)
    results = {"load": load, "cpus": os.cpu_count(), "cases": cases}
    options.output.write_text(json.dumps(results, indent=2) + "\n", encoding="utf-8")


@contextmanager
def _postgres(keep: Path | None) -> Iterator[str]:
    with TemporaryDirectory(prefix="newsloom-bench-") as name:
        folder = keep or Path(name)
        folder.mkdir(parents=True, exist_ok=True)
        folder.chmod(0o711)  # as root, Postgres runs as another user
        server = EmbeddedPostgres(folder / "postgres", config=POSTGRES)
        try:
            yield server.start()
        finally:
            server.stop()


def _case(dsn: str, text: Text, count: int, options: argparse.Namespace) -> dict[str, Any]:
    new = max(1, round(count * options.new))
    filled = asyncio.run(_filled(dsn, text, count, new))
    if options.fill_only:
        return {}
    asyncio.run(_server(dsn, f"CREATE DATABASE {_RUN} TEMPLATE {filled}", "CHECKPOINT"))
    try:
        child = subprocess.run(  # noqa: S603 - this very interpreter
            [sys.executable, "-m", "bench.linking_run", _address(dsn, _RUN), str(options.rate)],
            check=True,
            stdout=subprocess.PIPE,
        )
    finally:
        asyncio.run(_server(dsn, f"DROP DATABASE {_RUN} WITH (FORCE)"))
    figures = json.loads(child.stdout)
    if figures["linked"] != new:
        raise RuntimeError(f"linked {figures['linked']} articles instead of {new}")
    held = figures["resident_linked"] - figures["resident_before"]
    return {"text": text.value, "articles": count, **figures, "bytes_an_article": held / count}


async def _filled(dsn: str, text: Text, count: int, new: int) -> str:
    """Return the name of a filled database, made where it is missing."""
    name = f"linking_{text.value}_{count}_{new}"
    owner = await asyncpg.connect(dsn)
    try:
        if await owner.fetchval("SELECT 1 FROM pg_database WHERE datname = $1", name):
            return name
    finally:
        await owner.close()
    began = time.monotonic()
    await _server(dsn, f"DROP DATABASE IF EXISTS {name}_new", f"CREATE DATABASE {name}_new")
    await migrate(_address(dsn, f"{name}_new"))
    await fill(_address(dsn, f"{name}_new"), articles(text, count), new, DEFAULT_WINDOW)
    await _server(dsn, f"ALTER DATABASE {name}_new RENAME TO {name}")
    print(f"{name}: filled in {time.monotonic() - began:.0f} s", file=sys.stderr)
    return name


async def _server(dsn: str, *statements: str) -> None:
    owner = await asyncpg.connect(dsn, command_timeout=600)
    try:
        for statement in statements:
            await owner.execute(statement)
    finally:
        await owner.close()


def _address(dsn: str, database: str) -> str:
    return urlunsplit(urlsplit(dsn)._replace(path=f"/{database}"))


def table(cases: list[dict[str, Any]]) -> str:
    """Return the figures as lines: one column a case."""
    rows: list[tuple[str, list[str]]] = [
        ("", [f"{case['text']} {case['articles']:,}" for case in cases]),
        ("articles linked", [f"{case['linked']:,}" for case in cases]),
        ("articles/s", [f"{case['rate']:,.0f}" for case in cases]),
    ]
    for kind, unit in (("cpu_us_an_article", "CPU us"), ("wall_us_an_article", "us")):
        rows += [
            (f"{stage}, {unit}", [f"{case[kind][stage]:,.0f}" for case in cases])
            for stage in cases[0][kind]
        ]
    rows += [
        ("rebuild, s", [f"{sum(case['rebuild_seconds'].values()):.1f}" for case in cases]),
        ("bytes an article", [f"{case['bytes_an_article']:,.0f}" for case in cases]),
        ("peak memory, MB", [f"{case['resident_peak'] / 1e6:,.0f}" for case in cases]),
    ]
    if "lag_seconds" in cases[0]:
        rows += [
            (f"lag, {share}, ms", [f"{1000 * case['lag_seconds'][share]:,.0f}" for case in cases])
            for share in cases[0]["lag_seconds"]
        ]
    return "\n".join(f"{name:36}" + "".join(f"{v:>20}" for v in of) for name, of in rows)


if __name__ == "__main__":
    main()
