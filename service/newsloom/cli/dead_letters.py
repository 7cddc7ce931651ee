"""`newsloom dead-letters`: what could never be stored, why, and another try."""

import base64
import re
from collections.abc import Sequence
from dataclasses import asdict
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import click

from newsloom.cli.main import ExitCode
from newsloom.cli.support import Format, connected_settings, emit, format_option, tell

if TYPE_CHECKING:
    from newsloom.adapters.postgres.administration import ReasonCount
    from newsloom.core.dead_letters import LetterId, StoredLetter
    from newsloom.ports import LetterFilter
    from newsloom.relay import ReplaySummary
    from newsloom.settings import Settings

_AGE: Final = re.compile(r"(\d{1,6})([smhdw])\Z", re.ASCII)
_UNITS: Final = {"s": "seconds", "m": "minutes", "h": "hours", "d": "days", "w": "weeks"}


def _moment(
    _context: click.Context, _parameter: click.Parameter, text: str | None
) -> datetime | None:
    """Read an age or a time; without a zone it is UTC."""
    if text is None:
        return None
    if match := _AGE.match(text):
        return datetime.now(UTC) - timedelta(**{_UNITS[match[2]]: int(match[1])})
    try:
        moment = datetime.fromisoformat(text)
    except ValueError:
        raise click.BadParameter("an RFC 3339 time or an age (90m, 2h, 7d) is needed") from None
    return moment if moment.tzinfo else moment.replace(tzinfo=UTC)


def _filters(command: Any) -> Any:
    for option in (
        click.option("--topic", help="Only those of this Kafka topic."),
        click.option(
            "--until", callback=_moment, metavar="TIME", help="Only those set aside before then."
        ),
        click.option(
            "--since",
            callback=_moment,
            metavar="TIME",
            help="Only those set aside since then: 2h, 7d, RFC 3339.",
        ),
        click.option("--reason", help="Only those with this reason code."),
    ):
        command = option(command)
    return command


@click.group("dead-letters")
def dead_letters() -> None:
    """List, show and replay the deliveries that could not be stored."""


@dead_letters.command("list")
@_filters
@click.option("--limit", type=click.IntRange(1, 1_000_000), default=50, show_default=True)
@click.option("--counts", is_flag=True, help="Only how many there are of each reason.")
@format_option
def list_(*, limit: int, output: Format, counts: bool, **wanted: Any) -> None:
    """List dead letters, the newest first, without their contents."""
    from newsloom import app  # noqa: PLC0415 - heavy, and --help must be quick

    settings = connected_settings(needs=("postgres",))
    letters, numbers = app.run(_list(settings, _filter(wanted), 0 if counts else limit))
    for letter in letters:
        if output == "json":
            emit(_summary(letter))
        else:
            click.echo(
                f"{letter.id}  {letter.reason}  {letter.created_at:%Y-%m-%d %H:%M:%S}Z"
                f"{_replayed(letter)}  {letter.detail}"
            )
    if counts and output == "json":
        for number in numbers:
            emit(asdict(number))
    elif counts:
        for number in numbers:
            click.echo(f"{number.letters:8,}  {number.reason}  ({number.replayed:,} replayed)")
    else:
        found = ", ".join(f"{n.reason} {n.letters:,}" for n in numbers) or "none"
        tell(f"{len(letters):,} of {sum(n.letters for n in numbers):,} dead letters: {found}")


@dead_letters.command()
@click.argument("letter_id", metavar="ID")
@click.option("--value", "with_value", is_flag=True, help="Write the original bytes to stdout.")
@format_option
def show(letter_id: str, output: Format, *, with_value: bool) -> int:
    """Show one dead letter (ID as `list` has it), without its contents unless --value is given.

    To mend it: show ID --value > record.json, edit that, replay ID --value-file record.json.
    """
    from newsloom import app  # noqa: PLC0415 - as above

    letter = app.run(_one(connected_settings(needs=("postgres",)), _letter_id(letter_id)))
    if output == "json":
        emit(_summary(letter) | (_contents(letter) if with_value else {}))
    elif with_value:
        click.echo(letter.value or b"", nl=False)
    else:
        for name, value in _summary(letter).items():
            click.echo(f"{name:14} {value}")
        if letter.value is not None:
            tell(
                f"to mend it: newsloom dead-letters show {letter.id} --value > record.json, edit "
                f"that, newsloom dead-letters replay {letter.id} --value-file record.json"
            )
    return ExitCode.OK


@dead_letters.command()
@click.argument("letter_ids", metavar="[ID]...", nargs=-1)
@_filters
@click.option("--all", "everything", is_flag=True, help="All of them, where no filter is given.")
@click.option("--again", is_flag=True, help="Those that were replayed before too.")
@click.option("--limit", type=click.IntRange(1, 10_000_000), default=1_000_000, show_default=True)
@click.option("--dry-run", is_flag=True, help="Send nothing; count what would be sent.")
@click.option(
    "--value-file",
    type=click.Path(exists=True, dir_okay=False, path_type=Path),
    help="A mended record (JSON or front matter) to send in the place of the one ID.",
)
@format_option
def replay(
    *,
    letter_ids: Sequence[str],
    everything: bool,
    again: bool,
    limit: int,
    dry_run: bool,
    value_file: Path | None,
    output: Format,
    **wanted: Any,
) -> int:
    """Send dead letters to the articles topic again, first observed when they were at first.

    For when their cause is mended: a newer release, or a record mended by hand. Each is tried three
    times at most. Interrupted, the same command goes on where it was. Exit code 1: some could not
    be sent.
    """
    from newsloom import app  # noqa: PLC0415 - as above

    names = [_letter_id(text) for text in letter_ids]
    if bool(names) == (any(wanted.values()) or everything):
        raise click.UsageError("name letters by ID, or by filters, or all of them by --all")
    if value_file is not None and len(names) != 1:
        raise click.UsageError("--value-file mends exactly one letter: name its ID")
    settings = connected_settings()
    if value_file is not None:
        work = _replay_mended(settings, names[0], value_file.read_bytes(), dry_run=dry_run)
    elif names:
        work = _replay_named(settings, names, dry_run=dry_run)
    else:
        work = _replay_found(settings, _filter(wanted), limit, again=again, dry_run=dry_run)
    return _print_replay(app.run(work), output, dry_run=dry_run)


def _filter(wanted: dict[str, Any]) -> "LetterFilter":
    from newsloom.ports import LetterFilter  # noqa: PLC0415 - as above

    return LetterFilter(wanted["reason"], wanted["since"], wanted["until"], wanted["topic"])


def _letter_id(text: str) -> "LetterId":
    from newsloom.core.dead_letters import LetterId  # noqa: PLC0415 - as above

    try:
        return LetterId.parse(text)
    except ValueError as error:
        raise click.BadParameter(str(error)) from None


def _administration(settings: "Settings") -> Any:
    from newsloom.adapters.postgres.administration import open_administration  # noqa: PLC0415
    from newsloom.cli.offsets import os_user  # noqa: PLC0415

    return open_administration(settings.postgres, os_user=os_user())


async def _list(
    settings: "Settings", wanted: "LetterFilter", limit: int
) -> tuple[Sequence["StoredLetter"], Sequence["ReasonCount"]]:
    async with _administration(settings) as administration:
        letters = await administration.letters(wanted, limit) if limit else []
        return letters, await administration.counts(wanted)


async def _one(settings: "Settings", name: "LetterId") -> "StoredLetter":
    async with _administration(settings) as administration:
        return await _found(administration, name)


async def _found(administration: Any, name: "LetterId") -> "StoredLetter":
    letter: StoredLetter | None = await administration.letter(name)
    if letter is None:
        raise click.ClickException(f"there is no dead letter {name}")
    return letter


async def _replay_found(
    settings: "Settings", wanted: "LetterFilter", limit: int, *, again: bool, dry_run: bool
) -> "ReplaySummary":
    from newsloom.relay import replay as replay_all  # noqa: PLC0415 - as above

    topic = settings.kafka.articles_topic
    async with _administration(settings) as administration:
        if dry_run:
            return await replay_all(administration, None, topic, wanted, limit=limit, again=again)
        async with _sink(settings) as sink:
            return await replay_all(administration, sink, topic, wanted, limit=limit, again=again)


async def _replay_named(
    settings: "Settings", names: Sequence["LetterId"], *, dry_run: bool
) -> "ReplaySummary":
    from newsloom.relay import ReplaySummary, replay_letters  # noqa: PLC0415 - as above

    summary = ReplaySummary()
    topic = settings.kafka.articles_topic
    async with _administration(settings) as administration:
        letters = [await _found(administration, name) for name in names]
        if dry_run:
            await replay_letters(administration, None, topic, letters, summary)
            return summary
        async with _sink(settings) as sink:
            await replay_letters(administration, sink, topic, letters, summary)
    return summary


async def _replay_mended(
    settings: "Settings", name: "LetterId", mended: bytes, *, dry_run: bool
) -> "ReplaySummary":
    from newsloom.core.dead_letters import MAX_REPLAYS, repaired_message  # noqa: PLC0415 - as above
    from newsloom.errors import Rejected  # noqa: PLC0415
    from newsloom.relay import ReplaySummary  # noqa: PLC0415

    async with _administration(settings) as administration:
        letter = await _found(administration, name)
        if letter.replays >= MAX_REPLAYS:
            return ReplaySummary(final=1)
        try:
            message = repaired_message(letter, mended)
        except Rejected as rejected:
            raise click.ClickException(
                f"it would be refused again: {rejected.reason.value}: {rejected.detail}"
            ) from None
        if dry_run:
            return ReplaySummary(sent=1)
        async with _sink(settings) as sink:
            (result,) = await sink.send(settings.kafka.articles_topic, [message])
            if isinstance(result, Rejected):
                return ReplaySummary(too_large=1)
        await administration.mark_replayed([letter])
    return ReplaySummary(sent=1)


def _sink(settings: "Settings") -> Any:
    from newsloom.adapters.kafka.producer import open_sink  # noqa: PLC0415 - as above

    return open_sink(settings.kafka, settings.publish)


def _summary(letter: "StoredLetter") -> dict[str, object]:
    return {
        "id": str(letter.id),
        "reason": letter.reason,
        "detail": letter.detail,
        "consumer_group": letter.consumer_group,
        "observed_at": _text(letter.observed_at),
        "created_at": _text(letter.created_at),
        "relayed_at": _text(letter.relayed_at),
        "replayed_at": _text(letter.replayed_at),
        "replays": letter.replays,
        "value_bytes": letter.value_bytes,
        "headers": sorted({name for name, _ in letter.headers}),
    }


def _contents(letter: "StoredLetter") -> dict[str, object]:
    return {
        "key_base64": _base64(letter.key),
        "value_base64": _base64(letter.value),
        "header_values_base64": [[name, _base64(value)] for name, value in letter.headers],
    }


def _base64(value: bytes | None) -> str | None:
    return None if value is None else base64.b64encode(value).decode("ascii")


def _text(moment: datetime | None) -> str | None:
    return None if moment is None else moment.astimezone(UTC).isoformat()


def _replayed(letter: "StoredLetter") -> str:
    return f"  replayed {letter.replays}x" if letter.replays else ""


def _print_replay(summary: "ReplaySummary", output: Format, *, dry_run: bool) -> int:
    if output == "json":
        emit(asdict(summary) | {"dry_run": dry_run})
    else:
        click.echo(f"{summary.sent:,} {'would be sent' if dry_run else 'sent'}")
        for count, why in (
            (summary.final, "were tried three times already"),
            (summary.empty, "have nothing to send: erased, or without a value"),
            (summary.too_large, "are too large for the Kafka topic"),
        ):
            if count:
                tell(f"{count:,} {why}")
    left = summary.final + summary.empty + summary.too_large
    return ExitCode.RECORDS_REJECTED if left else ExitCode.OK
