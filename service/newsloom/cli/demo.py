"""`newsloom demo`: the whole line on one machine, from record files to rows."""

import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from newsloom.cli.support import load_settings, tell

if TYPE_CHECKING:
    from newsloom.settings import Settings

SAMPLES = Path("samples")
_IDLE_SECONDS = 0.5


@click.command()
@click.argument("paths", nargs=-1, type=click.Path(exists=True, path_type=Path))
@click.option("--exit", "exits", is_flag=True, help="End when everything is stored.")
def demo(paths: Sequence[Path], *, exits: bool) -> int:
    """Start a real Kafka and Postgres, publish PATHS (default: samples/), ingest them, show it all.

    Runs until Ctrl-C; the services and their data stay (`newsloom services stop` ends them), so
    that the next run starts in seconds. Publishing the same records again changes nothing.
    """
    from newsloom import app  # noqa: PLC0415 - heavy, and --help must be quick

    chosen = list(paths) or [SAMPLES]
    if not paths and not SAMPLES.is_dir():
        raise click.UsageError("no samples/ here: name some record files or folders")
    settings = load_settings()
    settings = _with_services(settings)
    bad = app.run(_prepare_and_publish(settings, chosen))
    app.run(
        app.run_roles(
            settings,
            os.environ,
            exit_when_idle_seconds=_IDLE_SECONDS if exits else None,
            on_idle=lambda port: _show(settings, port, stays=not exits),
        )
    )
    return 1 if bad else 0


def _with_services(settings: "Settings") -> "Settings":
    if settings.kafka.bootstrap_servers is not None and settings.postgres.dsn is not None:
        return settings
    from newsloom.adapters.embedded import EmbeddedServices  # noqa: PLC0415 - as above
    from newsloom.cli.services import ProgressLine  # noqa: PLC0415

    progress = ProgressLine()
    try:
        addresses = EmbeddedServices(settings.services_dir, report=progress.tell).start()
    finally:
        progress.close()
    return settings.with_services(
        kafka_bootstrap_servers=addresses.kafka_bootstrap_servers,
        postgres_dsn=addresses.postgres_dsn,
    )


async def _prepare_and_publish(settings: "Settings", paths: Sequence[Path]) -> int:
    """Bring schema and Kafka topics up to date, publish; return how many records were refused."""
    from newsloom import demo as steps  # noqa: PLC0415

    return await steps.prepare_and_publish(settings, [str(path) for path in paths], tell=tell)


async def _show(settings: "Settings", admin_port: int, *, stays: bool) -> None:
    from newsloom import demo as steps  # noqa: PLC0415

    summary: Any = await steps.read_summary(settings)
    _print_summary(summary, settings, admin_port, stays=stays)


def _print_summary(summary: Any, settings: "Settings", admin_port: int, *, stays: bool) -> None:
    from rich.console import Console  # noqa: PLC0415
    from rich.table import Table  # noqa: PLC0415

    console = Console(file=sys.stdout, highlight=False)
    outcomes = Table(title="What became of every delivery", title_justify="left")
    for column in ("outcome", "deliveries"):
        outcomes.add_column(column, justify="right" if column == "deliveries" else "left")
    for name, count in summary.outcomes.items():
        outcomes.add_row(name, f"{count:,}")
    outcomes.add_section()
    outcomes.add_row("consumed", f"{sum(summary.outcomes.values()):,}")
    console.print(outcomes)
    console.print(
        f"{summary.articles:,} articles, {summary.mentions:,} known only from others' related "
        f"lists, {summary.revisions:,} revisions, {summary.dead_letters:,} dead letters\n"
    )
    newest = Table(title="The ten newest articles", title_justify="left")
    for column in ("published", "provider", "title", "topics"):
        newest.add_column(column, overflow="fold" if column == "title" else "ellipsis")
    for row in summary.newest:
        newest.add_row(row.published, row.provider, row.title, row.topics)
    console.print(newest)
    dsn = settings.postgres.dsn
    assert dsn is not None  # noqa: S101 - filled in above
    console.print("Look around:")
    console.print(f"  psql '{dsn.get_secret_value()}'", soft_wrap=True)
    console.print("  select * from api.articles;   \\d+ api.*   for every view and its comments")
    if stays:
        host = settings.admin.host
        console.print(f"  http://{host}:{admin_port}/   status, /metrics, /healthz, /readyz")
        console.print("Ctrl-C ends newsloom; `newsloom services stop` ends Kafka and Postgres.")


