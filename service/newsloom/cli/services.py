"""`newsloom services start | stop | status`: the embedded Kafka and Postgres."""

import json
import math
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Final

import click

if TYPE_CHECKING:
    from newsloom.adapters.embedded import EmbeddedServices, ServicesStatus

QUIET_SECONDS: Final = 10
"""Between two steps of the same thing in a log file."""

_folder = click.option(
    "--dir",
    "folder",
    type=click.Path(file_okay=False, path_type=Path),
    envvar="NEWSLOOM_SERVICES_DIR",
    show_envvar=True,
    help="Where the services keep their data.  [default: .newsloom, for root /var/lib/newsloom]",
)
_format = click.option(
    "--format", "output", type=click.Choice(["text", "json"]), default="text", show_default=True
)
_port = click.IntRange(1, 65535)


@click.group()
def services() -> None:
    """Start and stop a real Kafka and a real Postgres on this machine, without Docker.

    They keep running when the command returns, and keep their data when they are stopped. Other
    commands use them when NEWSLOOM_KAFKA_BOOTSTRAP_SERVERS and NEWSLOOM_POSTGRES_DSN are unset.
    """


@services.command()
@_folder
@_format
@click.option("--kafka-port", type=_port, help="Where Kafka listens on 127.0.0.1; remembered.")
@click.option("--postgres-port", type=_port, help="The same for Postgres.")
def start(
    folder: Path | None, output: str, kafka_port: int | None, postgres_port: int | None
) -> None:
    """Start both, or what of them does not run, and print where they are."""
    from newsloom.adapters.embedded import EmbeddedServices  # noqa: PLC0415 - keeps --help fast

    progress = ProgressLine()
    embedded = EmbeddedServices(
        folder, kafka_port=kafka_port, postgres_port=postgres_port, report=progress.tell
    )
    try:
        embedded.start()
    finally:
        progress.close()
    _print(embedded.status(), output)


@services.command()
@_folder
def stop(folder: Path | None) -> None:
    """Stop what `start` started. The data stays."""
    stopped = _services(folder).stop()
    click.echo(f"Stopped {' and '.join(stopped)}." if stopped else "Nothing was running.", err=True)


@services.command()
@_folder
@_format
def status(folder: Path | None, output: str) -> None:
    """Print what runs and where; the JSON has the keys that configuration uses."""
    _print(_services(folder).status(), output)


class ProgressLine:
    """Progress on stderr: one line that changes on a terminal, now and then a line elsewhere.

    Sentences that are alike up to their first colon are steps of one thing.
    """

    def __init__(self) -> None:
        self._live = sys.stderr.isatty()
        self._shown = ""
        self._told_at: dict[str, float] = {}

    def tell(self, sentence: str) -> None:
        """Show a sentence; on a terminal the next step of a thing takes the place of the last."""
        thing = sentence.partition(":")[0]
        if self._live:
            lead = "\r\x1b[K" if thing == self._shown else "\n" if self._shown else ""
            click.echo(f"{lead}{sentence}", err=True, nl=False)
            self._shown = thing
        elif time.monotonic() - self._told_at.get(thing, -math.inf) > QUIET_SECONDS:
            click.echo(sentence, err=True)
            self._told_at[thing] = time.monotonic()

    def close(self) -> None:
        """Leave the cursor on a fresh line."""
        if self._shown:
            click.echo(err=True)
        self._shown = ""


def _services(folder: Path | None) -> "EmbeddedServices":
    from newsloom.adapters.embedded import EmbeddedServices  # noqa: PLC0415 - keeps --help fast

    return EmbeddedServices(folder)


def _print(status: "ServicesStatus", output: str) -> None:
    addresses = status.addresses
    servers = addresses.kafka_bootstrap_servers if addresses else None
    dsn = addresses.postgres_dsn if addresses else None
    if output == "json":
        values = {
            "kafka": status.kafka,
            "postgres": status.postgres,
            "kafka_bootstrap_servers": servers,
            "postgres_dsn": dsn,
            "folder": str(status.folder),
        }
        click.echo(json.dumps(values))
        return
    click.echo(f"Kafka     {status.kafka:<10} {servers or ''}".rstrip())
    click.echo(f"Postgres  {status.postgres:<10} {dsn or ''}".rstrip())
    click.echo(f"Data in   {status.folder}")
