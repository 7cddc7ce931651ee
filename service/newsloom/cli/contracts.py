"""`newsloom contracts`."""

from pathlib import Path

import click

from newsloom.cli.main import ExitCode
from newsloom.cli.support import tell


@click.command()
@click.option(
    "--folder",
    type=click.Path(file_okay=False, path_type=Path),
    default=Path("contracts"),
    show_default=True,
    help="Where the files are.",
)
@click.option("--check", is_flag=True, help="Write nothing; end with 1 when a file is not current.")
def contracts(folder: Path, *, check: bool) -> ExitCode:
    """Write the JSON Schema of a record and the AsyncAPI document of the Kafka topics."""
    from newsloom.core.contracts import contracts as generated  # noqa: PLC0415 - heavy

    stale = []
    for name, text in generated().items():
        path = folder / name
        if path.is_file() and path.read_text(encoding="utf-8") == text:
            continue
        stale.append(path)
        if not check:
            folder.mkdir(parents=True, exist_ok=True)
            path.write_text(text, encoding="utf-8")
    for path in stale:
        tell(f"{path} {'is not current: run `newsloom contracts`' if check else 'written'}")
    return ExitCode.RECORDS_REJECTED if check and stale else ExitCode.OK
