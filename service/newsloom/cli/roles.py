"""`newsloom run`, `newsloom ingest`, `newsloom link`, `newsloom relay`."""

import logging
import os
from collections.abc import Sequence
from typing import Any

import click

from newsloom.cli.support import Format, connected_settings, emit, format_option, tell

_TOLD_EVERY = 10_000

_IDLE = click.option(
    "--exit-when-idle",
    "idle_seconds",
    type=click.FloatRange(min=0),
    metavar="SECONDS",
    help="End with 0 once nothing is left to do and nothing came for SECONDS.",
)


def _run_roles(names: Sequence[str], idle_seconds: float | None, output: Format) -> None:
    from newsloom import app  # noqa: PLC0415 - heavy, and --help must be quick

    # stderr is the log here, one JSON object a line: nothing else may be written to it.
    settings = connected_settings(
        say=logging.getLogger("newsloom").info,
        needs=("postgres",) if names == ("link",) else ("kafka", "postgres"),
    )
    roles = [app.Role(name) for name in names]
    summary: Any = app.run(
        app.run_roles(settings, os.environ, roles, exit_when_idle_seconds=idle_seconds)
    )
    if output == "json":
        emit(
            {
                "committed": summary.committed,
                "linked": summary.linked,
                "relayed": summary.relayed,
            }
        )
    else:
        click.echo(
            f"{summary.committed} deliveries committed, {summary.linked} articles linked, "
            f"{summary.relayed} messages relayed"
        )


@click.command()
@_IDLE
@format_option
def run(idle_seconds: float | None, output: Format) -> None:
    """Run all roles in one process: ingest, link, relay, until SIGTERM or Ctrl-C.

    Both end it cleanly: running transactions finish, the rest is taken up by the next start.
    """
    _run_roles(("ingest", "link", "relay"), idle_seconds, output)


@click.command()
@_IDLE
@format_option
def ingest(idle_seconds: float | None, output: Format) -> None:
    """Take records from Kafka; enrich, deduplicate and store them in Postgres.

    Start as many as there are partitions: they share them out by themselves.
    """
    _run_roles(("ingest",), idle_seconds, output)


@click.command()
@_IDLE
@format_option
def link(idle_seconds: float | None, output: Format) -> None:
    """Find copies and stories among the stored articles, as they come and change.

    One process links; further ones stand by and take over when it ends.
    """
    _run_roles(("link",), idle_seconds, output)


@click.command()
@_IDLE
@click.option(
    "--snapshot",
    is_flag=True,
    help="Instead, send the present state of every article and story once, and end.",
)
@format_option
def relay(idle_seconds: float | None, *, snapshot: bool, output: Format) -> None:
    """Send every change of an article or story, and every dead letter, to its Kafka topic.

    One process relays; further ones stand by and take over when it ends.

    With --snapshot it fills a Kafka topic of changes that was made anew, or that lacks what changed
    before anybody relayed. It may run beside a relay; interrupted, start it again.
    """
    if not snapshot:
        _run_roles(("relay",), idle_seconds, output)
        return
    if idle_seconds is not None:
        raise click.UsageError("--snapshot ends by itself: leave --exit-when-idle out.")
    from newsloom import app  # noqa: PLC0415 - heavy, and --help must be quick

    reached = 0

    def told(so_far: int) -> None:
        nonlocal reached
        if so_far - reached >= _TOLD_EVERY:
            reached = so_far
            tell(f"{so_far:,} articles and stories")

    count: Any = app.run(app.snapshot_changes(connected_settings(), told))
    if output == "json":
        emit({"told": count})
    else:
        click.echo(f"the state of {count:,} articles and stories was sent")
