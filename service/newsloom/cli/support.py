"""What the commands share: settings from the environment, output formats."""

import json
import os
import sys
from collections.abc import Callable, Collection, Mapping
from typing import Any, Literal, TypeVar

import click

from newsloom.logs import configure_logging, log_uncaught_errors
from newsloom.settings import Settings

Format = Literal["text", "json"]
F = TypeVar("F", bound=Callable[..., Any])


def format_option(command: F) -> F:
    """Add `--format text|json` to a command."""
    option = click.option(
        "--format",
        "output",
        type=click.Choice(["text", "json"]),
        default="text",
        show_default=True,
        help="What stdout carries: text for people, or JSON Lines.",
    )
    return option(command)


def load_settings() -> Settings:
    """Read the environment once and set up logging. Raises SettingsError (exit 2)."""
    settings = Settings.from_env(os.environ)
    configure_logging(settings.logging, sys.stderr)
    log_uncaught_errors()
    return settings


def tell(message: str) -> None:
    """Say something to the person; data goes to stdout, talk to stderr."""
    click.echo(message, err=True)


def connected_settings(
    say: Callable[[str], None] = tell, needs: Collection[str] = ("kafka", "postgres")
) -> Settings:
    """Settings with addresses: the environment's, or those of the embedded services."""
    from newsloom.app import with_addresses  # noqa: PLC0415 - heavy, and --help must be quick

    return with_addresses(load_settings(), tell=say, needs=needs)


def emit(row: Mapping[str, object]) -> None:
    """Write one JSON line of data."""
    click.echo(json.dumps(row, ensure_ascii=False, default=str))
