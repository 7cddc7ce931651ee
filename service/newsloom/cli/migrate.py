"""`newsloom migrate`: bring the schema of the database up to date."""

import click

from newsloom.cli.support import Format, connected_settings, emit, format_option, tell


@click.command()
@click.option(
    "--status", "only_status", is_flag=True, help="Show what is applied and what is not; no change."
)
@format_option
def migrate(only_status: bool, output: Format) -> int:  # noqa: FBT001 - click passes it by name
    """Apply the missing migrations, oldest first; the same files as dbmate applies.

    With --status, exit code 1 says that some are missing or were edited after they were released.
    """
    from newsloom import app  # noqa: PLC0415 - heavy, and --help must be quick
    from newsloom.adapters import migrations  # noqa: PLC0415

    dsn = connected_settings(needs=("postgres",)).postgres.dsn
    assert dsn is not None  # noqa: S101 - connected
    if only_status:
        found = app.run(migrations.status(dsn.get_secret_value()))
        edited = set(migrations.edited_migrations())
        for name, is_applied in found:
            _print(output, name, "applied" if is_applied else "pending", edited)
        return int(bool(edited) or not all(migration.is_applied for migration in found))
    applied = app.run(migrations.migrate(dsn.get_secret_value()))
    for name in applied:
        _print(output, name, "applied", set())
    if not applied:
        tell("nothing to do: every migration is applied")
    return 0


def _print(output: Format, name: str, state: str, edited: set[str]) -> None:
    is_edited = name in edited
    if output == "json":
        emit({"migration": name, "state": state, "is_edited": is_edited})
    else:
        click.echo(f"{state:8}  {name}{'  (edited)' if is_edited else ''}")
