"""`newsloom doctor`: look at everything a deployment needs, and say what to do."""

import os
from typing import TYPE_CHECKING, Any

import click

from newsloom.cli.support import Format, emit, format_option

if TYPE_CHECKING:
    from newsloom.checks import Finding

ROLES = ("ingest", "link", "relay", "admin", "reader")
_COLOURS = {"ok": "green", "warn": "yellow", "fail": "red"}


@click.command()
@click.option(
    "--role",
    "roles",
    multiple=True,
    type=click.Choice(ROLES),
    default=("ingest",),
    show_default=True,
    help="What the user of Postgres is for: its rights are checked. May be repeated; `newsloom run`"
    " is ingest, link and relay, `maintain`, `erase` and `dead-letters` are admin.",
)
@format_option
def doctor(roles: tuple[str, ...], output: Format) -> int:
    """Check configuration, Kafka, Postgres, schema, rights and clocks; change nothing.

    Secrets are never shown. Exit code 0: all is well, warnings apart; 2: the configuration is
    wrong; 3: Kafka or Postgres is away; 1: something else has to be mended.
    """
    from newsloom import app, checks  # noqa: PLC0415 - heavy, and --help must be quick

    findings: Any = app.run(_report(roles, output))
    return checks.exit_code(findings)


async def _report(roles: tuple[str, ...], output: Format) -> list["Finding"]:
    from newsloom.checks import examine  # noqa: PLC0415 - as above

    findings = []
    async for finding in examine(os.environ, roles):
        findings.append(finding)
        if output == "json":
            emit(
                {
                    "check": finding.check,
                    "state": finding.state.value,
                    "message": finding.message,
                    "advice": finding.advice,
                }
            )
        else:
            _print(finding)
    return findings


def _print(finding: "Finding") -> None:
    state = click.style(f"{finding.state.value:5}", fg=_COLOURS[finding.state.value])
    click.echo(f"{state} {finding.check:18} {finding.message}")
    if finding.advice:
        click.echo(f"{'':24} -> {finding.advice}")
