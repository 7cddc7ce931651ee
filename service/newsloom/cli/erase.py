"""`newsloom erase`."""

from typing import TYPE_CHECKING
from uuid import UUID

import click

from newsloom.cli.main import ExitCode
from newsloom.cli.support import Format, connected_settings, emit, format_option, tell
from newsloom.core.identity import article_id, canonicalise

if TYPE_CHECKING:
    from newsloom.adapters.postgres.erasing import Erasure
    from newsloom.settings import Settings


@click.command()
@click.argument("article", metavar="URL-OR-ID")
@click.option("--reason", required=True, help="Why; kept in newsloom.audit_log.")
@click.option("--dry-run", is_flag=True, help="Count what would go; change nothing.")
@click.option("--yes", is_flag=True, help="Do it. There is no way back.")
@format_option
def erase(*, article: str, reason: str, dry_run: bool, yes: bool, output: Format) -> int:
    """Take one article down for good, by any of its addresses or ids.

    Its text, revisions, signals, copies, story and dead letters go; what stays refuses every later
    delivery. Kafka is told by the relay; what Kafka, backups and readers hold already is theirs
    to remove. Exit code 1: there is no such article.
    """
    from newsloom import app  # noqa: PLC0415 - heavy, and --help must be quick
    from newsloom.adapters.postgres.erasing import NotFound  # noqa: PLC0415

    name, is_url = _name(article)
    does_it = yes and not dry_run
    settings = connected_settings(needs=("postgres",))
    try:
        erasure = app.run(_erase(settings, name, reason, is_url=is_url, does_it=does_it))
    except NotFound:
        tell("no article has this address or id")
        return ExitCode.RECORDS_REJECTED
    _print(erasure, output)
    if does_it:
        return ExitCode.OK
    tell("nothing was changed" if dry_run else "nothing was changed: add --yes to do it")
    return ExitCode.OK if dry_run else ExitCode.USAGE


def _name(article: str) -> tuple[UUID, bool]:
    """Give the id of an article, or of a URL key."""
    try:
        return UUID(article), False
    except ValueError:
        canonical = canonicalise(article)
    if canonical is None:
        raise click.BadParameter("neither an article's id nor a URL", param_hint="URL-OR-ID")
    return article_id(canonical.key), True


async def _erase(
    settings: "Settings", name: UUID, reason: str, *, is_url: bool, does_it: bool
) -> "Erasure":
    from newsloom.adapters.postgres.erasing import open_erasing  # noqa: PLC0415 - as above
    from newsloom.cli.offsets import os_user  # noqa: PLC0415

    async with open_erasing(settings.postgres, os_user=os_user()) as erasing:
        return await erasing.erase(name, reason, is_url=is_url, does_it=does_it)


def _print(erasure: "Erasure", output: Format) -> None:
    if output == "json":
        emit(
            {
                "article_id": str(erasure.article_id),
                "was_erased": erasure.was_erased,
                "is_erased": erasure.is_done,
                "rows": erasure.rows,
            }
        )
        return
    note = " (was taken down before)" if erasure.was_erased else ""
    click.echo(f"{erasure.article_id}{note}")
    for name, count in erasure.rows.items():
        click.echo(f"{count:10,}  {name.replace('_', ' ')}")
