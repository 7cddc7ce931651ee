"""`newsloom generate`."""

import gzip
import json
import sys
from collections.abc import Callable
from contextlib import ExitStack
from itertools import count
from pathlib import Path
from random import Random
from typing import IO, TYPE_CHECKING

import click

from newsloom.cli.support import tell

if TYPE_CHECKING:
    from newsloom.core.workloads import Load

WORKLOADS = ("mixed", "small", "full", "updates", "copies")
_SUFFIXES = (".ndjson.gz", ".ndjson")
_PROGRESS = 50_000
_STDOUT = Path("-")


@click.command()
@click.argument("workload", type=click.Choice(WORKLOADS), default="mixed")
@click.option(
    "--records", type=click.IntRange(1, 10_000_000), default=1000, show_default=True, metavar="N"
)
@click.option(
    "--seed", type=int, default=1, show_default=True, help="The same seed, the same records."
)
@click.option(
    "--output",
    type=click.Path(path_type=Path, allow_dash=True),
    default="-",
    show_default=True,
    metavar="PATH",
    help="FILE.ndjson or FILE.ndjson.gz: a record a line. Another name: a new folder of front "
    "matter files. -: NDJSON on standard output.",
)
@click.option(
    "--truth",
    "truth_file",
    type=click.Path(path_type=Path, dir_okay=False),
    metavar="FILE",
    help="Where the truth goes, a line a record. Default: beside PATH, as NAME.truth.jsonl.",
)
def generate(
    *, workload: str, records: int, seed: int, output: Path, truth_file: Path | None
) -> None:
    """Make records of which the truth is known: to fill a test system, to measure, to check.

    \b
    mixed    articles with duplicates, revisions, copies of all kinds, traps, stories
    small    news of about 1.4 KB, no two alike
    full     news of about 14 KB with 13 related entries
    updates  deliveries of a few documents: 69 % change only `secured`, 29 % a signal
    copies   small, with 30 % syndicated copies

    The truth says of each record what it is (planted), which article it is (article), whose text it
    repeats (copyGroup) and what it tells (event). Outlets and words are made up.
    """  # noqa: D301 - \b keeps click from joining the lines
    from newsloom.core.workloads import Workload, deliveries  # noqa: PLC0415 - --help is quick

    chosen = Workload(workload)
    truth_file = truth_file or _beside(output)
    with ExitStack() as stack:
        write = _writer(output, stack)
        truth = stack.enter_context(_opened(truth_file)) if truth_file else None
        rng = Random(f"{chosen}-{seed}")  # noqa: S311 - repeatable is what is wanted
        for number, load in enumerate(deliveries(chosen, records, rng), 1):
            write(load)
            if truth:
                truth.write(json.dumps(load.truth) + "\n")
            if number % _PROGRESS == 0:
                tell(f"{number:,} of {records:,} records")
    tell(f"{records:,} records" + (f", their truth in {truth_file}" if truth_file else ""))


def _beside(output: Path) -> Path | None:
    if output == _STDOUT:
        return None
    name = output.name
    for suffix in _SUFFIXES:
        name = name.removesuffix(suffix)
    return output.with_name(f"{name}.truth.jsonl")


def _writer(output: Path, stack: ExitStack) -> "Callable[[Load], object]":
    """Return what writes one delivery in the form that the name of `output` asks for."""
    from newsloom.core.workloads import front_matter, json_line  # noqa: PLC0415

    if output == _STDOUT or output.name.endswith(_SUFFIXES):
        file = sys.stdout if output == _STDOUT else stack.enter_context(_opened(output))
        return lambda load: file.write(json_line(load) + "\n")
    folder, numbers = _new_folder(output), count(1)
    return lambda load: (folder / f"{next(numbers):07}.md").write_text(
        front_matter(load.record), encoding="utf-8"
    )


def _opened(path: Path) -> IO[str]:
    try:
        if path.suffix == ".gz":
            return gzip.open(path, "wt", encoding="utf-8", compresslevel=1)
        return path.open("w", encoding="utf-8")
    except OSError as error:
        raise click.UsageError(f"cannot write {path}: {error.strerror}.") from None


def _new_folder(path: Path) -> Path:
    """Make a folder for one file a record. What is in it already would be published with them."""
    try:
        path.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise click.UsageError(f"cannot make the folder {path}: {error.strerror}.") from None
    if any(path.iterdir()):
        raise click.UsageError(f"{path} is not empty. Name a new folder, or FILE.ndjson.")
    return path
