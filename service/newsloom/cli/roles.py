"""`newsloom run` and `newsloom ingest`."""

import os
from typing import Any

import click

from newsloom.cli.support import Format, connected_settings, emit, format_option, tell

_IDLE = click.option(
    "--exit-when-idle",
    "idle_seconds",
    type=click.FloatRange(min=0),
    metavar="SECONDS",
    help="End with 0 once all that Kafka holds is stored and nothing came for SECONDS.",
)


def _run_roles(idle_seconds: float | None, output: Format) -> None:
    from newsloom import app  # noqa: PLC0415 - heavy, and --help must be quick

    settings = connected_settings()
    summary: Any = app.run(app.run_roles(settings, os.environ, exit_when_idle_seconds=idle_seconds))
    if output == "json":
        emit({"committed": summary.committed})
    else:
        tell(f"{summary.committed} deliveries committed")


@click.command()
@_IDLE
@format_option
def run(idle_seconds: float | None, output: Format) -> None:
    """Run all roles in one process: Kafka to Postgres, until SIGTERM or Ctrl-C.

    Both end it cleanly: running transactions finish, the rest is taken up by the next start.
    """
    _run_roles(idle_seconds, output)


@click.command()
@_IDLE
@format_option
def ingest(idle_seconds: float | None, output: Format) -> None:
    """Take records from Kafka; enrich, deduplicate and store them in Postgres.

    Start as many as there are partitions: they share them out by themselves.
    """
    _run_roles(idle_seconds, output)
