"""`newsloom publish`."""

import asyncio
import json
import signal
import sys
from collections.abc import Coroutine, Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import asdict
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any, TypeVar

import click

from newsloom.cli.main import ExitCode
from newsloom.cli.support import Format, emit, format_option, load_settings, tell
from newsloom.errors import Rejected, Unavailable

if TYPE_CHECKING:
    from newsloom.core.documents import Prepared
    from newsloom.publishing import PublishSummary, Result

_SHOWN_REJECTS = 20
T = TypeVar("T")


@click.command()
@click.argument("paths", nargs=-1, required=True)
@click.option("--dry-run", is_flag=True, help="Validate and count; needs no Kafka.")
@click.option("--watch", is_flag=True, help="Go on: publish what is new or changed, until Ctrl-C.")
@click.option("--fail-fast", is_flag=True, help="Stop at the first record that is refused.")
@click.option(
    "--report",
    "report_file",
    type=click.Path(dir_okay=False, path_type=Path),
    metavar="FILE",
    help="Write one JSON line a record: its receipt, or every error with its path.",
)
@click.option(
    "--backfill",
    is_flag=True,
    help="A bulk import: to its own Kafka topic; every line needs its observed_at.",
)
@click.option(
    "--metrics-port",
    type=click.IntRange(0, 65535),
    metavar="PORT",
    help="Serve /metrics there meanwhile, on NEWSLOOM_ADMIN_HOST; for --watch.",
)
@format_option
def publish(  # noqa: PLR0917 - click passes them by name
    paths: tuple[str, ...],
    dry_run: bool,  # noqa: FBT001
    watch: bool,  # noqa: FBT001
    fail_fast: bool,  # noqa: FBT001
    report_file: Path | None,
    backfill: bool,  # noqa: FBT001
    metrics_port: int | None,
    output: Format,
) -> ExitCode:
    """Validate record files and send them to Kafka.

    PATHS are files, folders, globs, or - for NDJSON on standard input. Records are front matter
    (.md, .txt, .yaml) or NDJSON (.ndjson, .ndjson.gz): a record a line, or {"text": "<front
    matter>", "observed_at": "<RFC 3339>"}.

    Ends with 0 when all were accepted, 1 when some were refused, 3 when Kafka is away. Publishing
    again is harmless: what is already stored stays as it is.
    """
    # Heavy, and --help must be quick.
    from newsloom.adapters.record_files import NothingToReadError  # noqa: PLC0415
    from newsloom.publishing import PublishOptions, kafka_settings, publish_files  # noqa: PLC0415

    settings = load_settings()
    options = PublishOptions(
        dry_run=dry_run,
        watch=watch,
        fail_fast=fail_fast,
        backfill=backfill,
        metrics_port=metrics_port,
        metrics_host=settings.admin.host,
    )
    kafka = None if dry_run else kafka_settings(settings, tell)
    asked: list[int] = []
    view = _View()

    async def main() -> "PublishSummary":
        stop = asyncio.Event()
        with view.open(report_file), _stop_on_signals(stop, asked):
            return await publish_files(
                paths,
                options,
                settings=settings.publish,
                kafka=kafka,
                observe=view.observe,
                stop=stop,
            )

    try:
        summary = _run(main())
    except Unavailable as error:
        if kafka is not None and error.code == "UnknownTopicOrPartitionError":
            topic = kafka.backfill_topic if backfill else kafka.articles_topic
            tell(f"the Kafka topic {topic} does not exist: `newsloom topics apply` creates it")
        if view.accepted:
            tell(f"{view.accepted} records were acknowledged before; publish again for the rest")
        raise
    except NothingToReadError as error:
        raise click.UsageError(f"{error}: no such file, and no record matches it") from None
    _show(summary, output, dry_run=dry_run)
    if asked and not watch:
        return ExitCode.INTERRUPTED
    return ExitCode.RECORDS_REJECTED if summary.refused else ExitCode.OK


def _run(main: Coroutine[Any, Any, T]) -> T:
    try:
        import uvloop  # noqa: PLC0415 - not on every platform
    except ImportError:
        return asyncio.run(main)
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        return runner.run(main)


class _View:
    """What a person sees while it runs, and the report: one line for each document."""

    def __init__(self) -> None:
        self.accepted = 0
        self._rejects = 0
        self._report: IO[str] | None = None
        self._progress: Any = None
        self._task: Any = None

    @contextmanager
    def open(self, report_file: Path | None) -> Iterator[None]:
        with ExitStack() as stack:
            if report_file is not None:
                self._report = stack.enter_context(report_file.open("w"))
            if sys.stderr.isatty():
                self._progress = stack.enter_context(_progress())
                self._task = self._progress.add_task("publishing", total=None)
            yield

    def observe(self, prepared: Sequence["Prepared"], results: Sequence["Result"]) -> None:
        for document, result in zip(prepared, results, strict=True):
            refused = isinstance(result, Rejected)
            self.accepted += not refused
            if self._report is None and not refused:
                continue
            row = _row(document, result)
            if self._report is not None:
                self._report.write(json.dumps(row, ensure_ascii=False) + "\n")
            if refused:
                self._tell_reject(row)
        if self._progress is not None:
            self._progress.advance(self._task, len(prepared))

    def _tell_reject(self, row: dict[str, Any]) -> None:
        self._rejects += 1
        if self._rejects <= _SHOWN_REJECTS:
            place = f"{row['path']}:{row['line']}" if "line" in row else row["path"]
            tell(f"refused {place}: {row['reason']}: {row['detail']}")
        elif self._rejects == _SHOWN_REJECTS + 1:
            tell("... and more; --report FILE lists all of them")


def _row(document: "Prepared", result: "Result") -> dict[str, Any]:
    """Return a document's line of the report. It quotes no record text."""
    from newsloom.core.problems import problems_of  # noqa: PLC0415 - loaded with the flow

    row: dict[str, Any] = {"path": document.path}
    if document.line:
        row["line"] = document.line
    if document.name:
        row["name"] = document.name
    if isinstance(result, Rejected):
        row |= {"outcome": "refused", "reason": result.reason.value, "detail": result.detail}
        row["errors"] = [
            {"path": p.path, "reason": p.reason.value, "detail": p.message}
            for p in problems_of(result)
        ]
        return row
    row["outcome"] = "accepted"
    row["receipt"] = asdict(result) if result is not None else None
    row |= {"dropped": list(document.dropped), "unknown_fields": document.unknown}
    return row


def _progress() -> Any:
    from rich.console import Console  # noqa: PLC0415 - only on a terminal
    from rich.progress import (  # noqa: PLC0415
        BarColumn,
        MofNCompleteColumn,
        Progress,
        TextColumn,
        TimeElapsedColumn,
    )

    return Progress(
        TextColumn("[progress.description]{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("records"),
        TimeElapsedColumn(),
        console=Console(stderr=True),
        transient=True,
    )


@contextmanager
def _stop_on_signals(stop: asyncio.Event, seen: list[int]) -> Iterator[None]:
    """Set `stop` at the first SIGINT or SIGTERM and note it; a second one ends at once."""
    loop = asyncio.get_running_loop()

    def asked(number: int) -> None:
        seen.append(number)
        stop.set()
        # From here on the default applies again: KeyboardInterrupt, or the end.
        with suppress(ValueError, NotImplementedError):
            loop.remove_signal_handler(number)

    for number in (signal.SIGINT, signal.SIGTERM):
        with suppress(ValueError, RuntimeError, NotImplementedError):
            loop.add_signal_handler(number, asked, number)
    try:
        yield
    finally:
        for number in (signal.SIGINT, signal.SIGTERM):
            with suppress(ValueError, RuntimeError, NotImplementedError):
                loop.remove_signal_handler(number)


def _show(summary: "PublishSummary", output: Format, *, dry_run: bool) -> None:
    total = summary.accepted + summary.refused
    if output == "json":
        emit(
            {
                "documents": total,
                "accepted": summary.accepted,
                "refused": summary.refused,
                "reasons": dict(summary.rejected.most_common()),
                "dropped": dict(summary.dropped.most_common()),
                "unknown_fields": summary.unknown_fields,
                "bytes": summary.bytes_sent,
                "seconds": round(summary.seconds, 3),
                "kafka_topic": None if dry_run else summary.kafka_topic,
            }
        )
        return
    done = "would be sent" if dry_run else f"sent to {summary.kafka_topic}"
    rate = total / summary.seconds if summary.seconds else 0
    click.echo(
        f"{summary.accepted} of {total} records {done}, in {summary.seconds:.1f} s ({rate:,.0f}/s)"
    )
    for reason, count in summary.rejected.most_common():
        click.echo(f"{count} refused: {reason}")
    for name, count in summary.dropped.most_common():
        click.echo(f"{count} values left out: {name}")
    if summary.unknown_fields:
        click.echo(f"{summary.unknown_fields} unknown fields kept")
