"""`newsloom maintain`."""

import random
from collections.abc import Callable
from dataclasses import asdict
from typing import TYPE_CHECKING, Any, TypeVar

import click

from newsloom.cli.main import ExitCode
from newsloom.cli.support import Format, connected_settings, emit, format_option, tell

if TYPE_CHECKING:
    from newsloom.adapters.postgres.maintenance import Retention
    from newsloom.settings import Settings

F = TypeVar("F", bound=Callable[..., Any])

_RESTORED = {
    "renumbered": "The change log is this server's now; its readers go on where they were.",
    "read again": "The change log is this server's now. It had been written to since the restore, "
    "so its readers begin with the oldest change kept: the linker skips what it knows, the relay "
    "sends it again under the same ids.",
    "unchanged": "Nothing to do: the change log is this server's.",
    "foreign": "The change log is another server's: --after-restore would renumber it.",
}


def _keep(name: str, default: int, what: str) -> Callable[[F], F]:
    return click.option(
        f"--keep-{name}-days",
        type=click.IntRange(min=0, max=36_500),
        default=default,
        show_default=True,
        metavar="DAYS",
        help=f"{what} 0: for ever.",
    )


@click.command()
@click.option("--dry-run", is_flag=True, help="Show what would be done; change nothing.")
@_keep("changes", 7, "Change log, whole days; never what a reader has not read.")
@_keep("revisions", 0, "Superseded contents, whole months.")
@_keep("signals", 365, "Former quality, heat and ratings, whole months.")
@_keep("dead-letters", 90, "Dead letters that have been relayed.")
@_keep("link-states", 30, "The linker's memory of articles this long behind its window.")
@click.option(
    "--after-restore",
    is_flag=True,
    help="Once after restoring a dump, before any role starts: make its change log this server's.",
)
@format_option
def maintain(*, dry_run: bool, after_restore: bool, output: Format, **days: int) -> int:
    """Make partitions ahead, retire old ones, remove what was kept long enough.

    Safe beside running roles and at any time; once an hour is usual. Exit code 1: something has to
    be tried again, because a lock was not to be had or the database was restored from a dump.
    """
    from newsloom import app  # noqa: PLC0415 - heavy, and --help must be quick
    from newsloom.adapters.postgres.maintenance import OtherMaintenance, Retention  # noqa: PLC0415

    settings = connected_settings(needs=("postgres",))
    keep = Retention(**{name.removeprefix("keep_")[: -len("_days")]: n for name, n in days.items()})
    try:
        if after_restore:
            return int(app.run(_resume(settings, output, dry_run=dry_run)))
        return int(app.run(_maintain(settings, keep, output, dry_run=dry_run)))
    except OtherMaintenance:
        tell("another `newsloom maintain` is at work here; nothing was done")
        return ExitCode.OK


async def _maintain(
    settings: "Settings", keep: "Retention", output: Format, *, dry_run: bool
) -> int:
    from newsloom.adapters.postgres.maintenance import open_maintenance  # noqa: PLC0415 - as above

    left = False
    async with open_maintenance(
        settings.postgres, dry_run=dry_run, jitter=random.random
    ) as maintenance:
        async for step in maintenance.run(keep):
            left = left or step.is_left
            if output == "json":
                emit(asdict(step) | {"dry_run": dry_run})
            else:
                note = f"  {step.note}" if step.note else ""
                click.echo(f"{step.count:10,}  {step.name}{note}")
    if dry_run:
        tell("nothing was changed")
    return ExitCode.RECORDS_REJECTED if left else ExitCode.OK


async def _resume(settings: "Settings", output: Format, *, dry_run: bool) -> int:
    from newsloom.adapters.postgres.maintenance import open_maintenance  # noqa: PLC0415 - as above

    async with open_maintenance(
        settings.postgres, dry_run=dry_run, jitter=random.random
    ) as maintenance:
        outcome = await maintenance.resume_after_restore()
    if output == "json":
        emit({"after_restore": outcome})
    else:
        click.echo(_RESTORED[outcome])
    return ExitCode.OK
