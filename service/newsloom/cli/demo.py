"""`newsloom demo`: the whole line on one machine, from record files to rows."""

import logging
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
    # The roles' log would bury the summary; NEWSLOOM_LOG_LEVEL=INFO brings it back.
    os.environ.setdefault("NEWSLOOM_LOG_LEVEL", "WARNING")
    settings = _with_services(load_settings())
    # Looking for a coordinator that does not exist yet is an error to aiokafka, not to us.
    logging.getLogger("aiokafka.consumer.group_coordinator").setLevel(logging.CRITICAL)
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
    from rich.box import SIMPLE_HEAD  # noqa: PLC0415
    from rich.console import Console  # noqa: PLC0415
    from rich.table import Table  # noqa: PLC0415
    from rich.text import Text  # noqa: PLC0415 - a title is text, never markup

    console = Console(file=sys.stdout, highlight=False)
    outcomes = Table(box=SIMPLE_HEAD, title="Deliveries", title_justify="left")
    outcomes.add_column("outcome")
    outcomes.add_column("deliveries", justify="right")
    for name, count in summary.outcomes.items():
        outcomes.add_row(name, f"{count:,}")
    outcomes.add_section()
    outcomes.add_row("consumed", f"{sum(summary.outcomes.values()):,}")
    console.print(outcomes)
    console.print(
        f"{summary.articles:,} articles, {summary.mentions:,} mentions (known from others' related "
        f"lists), {summary.revisions:,} revisions, {summary.dead_letters:,} dead letters\n"
        f"{summary.copies:,} of them repeat another's text, {summary.stories:,} stories are told "
        "by more than one",
        soft_wrap=True,
    )
    newest = Table(box=SIMPLE_HEAD, title="The ten newest articles", title_justify="left")
    newest.add_column("published", no_wrap=True, min_width=16)
    newest.add_column("provider", no_wrap=True, min_width=16, max_width=22)
    newest.add_column("title", no_wrap=True)
    for row in summary.newest:
        newest.add_row(row.published, Text(row.provider), Text(row.title))
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
