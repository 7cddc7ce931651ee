"""`newsloom relink`."""

from datetime import timedelta
from typing import Any

import click

from newsloom.cli.support import Format, connected_settings, emit, format_option, tell

_HOUR_SECONDS = 3600.0


@click.command()
@click.option("--dry-run", is_flag=True, help="Show what would change; change nothing.")
@click.option(
    "--jaccard",
    type=click.FloatRange(0.05, 1),
    help="Share of all shingles from which two texts are copies.",
)
@click.option(
    "--containment",
    type=click.FloatRange(0.1, 1),
    help="Share of the shorter text's shingles from which two texts are copies.",
)
@click.option(
    "--story-threshold",
    type=click.FloatRange(0.01, 1),
    help="Mean similarity from which articles tell one story.",
)
@format_option
def relink(
    *,
    dry_run: bool,
    jaccard: float | None,
    containment: float | None,
    story_threshold: float | None,
    output: Format,
) -> None:
    """Compute copies and stories of all stored articles anew, with other thresholds if given.

    Without --dry-run the result replaces what is stored, in one transaction; no `newsloom link` or
    `run` may be active meanwhile. Their own thresholds stay what they are.
    """
    from newsloom import app  # noqa: PLC0415 - heavy, and --help must be quick

    settings = connected_settings(needs=("postgres",))
    thresholds = {"jaccard": jaccard, "containment": containment, "threshold": story_threshold}
    chosen = {name: value for name, value in thresholds.items() if value is not None}
    report: Any = app.run(
        app.relink_stored(
            settings,
            window=timedelta(hours=settings.link.window_hours),
            thresholds=chosen,
            dry_run=dry_run,
            on_progress=lambda seen: tell(f"{seen:,} articles") if seen % 10_000 == 0 else None,
        )
    )
    _print(report, output)


def _print(report: Any, output: Format) -> None:
    found = report.difference
    rows = {
        "articles": report.articles,
        "copies_gained": found.copies_gained,
        "copies_lost": found.copies_lost,
        "copies_changed": found.copies_changed,
        "joined_a_story": found.joined,
        "left_their_story": found.left,
        "changed_story": found.moved,
        "applied": report.is_applied,
    }
    if output == "json":
        emit(
            rows
            | {"samples": [[str(part) if part else None for part in s] for s in report.samples]}
        )
        return
    for name, value in rows.items():
        click.echo(f"{name.replace('_', ' '):18} {value}")
    for article_id, old, new in report.samples:
        click.echo(f"  {article_id}  copy of {old or 'nothing'} -> {new or 'nothing'}")
