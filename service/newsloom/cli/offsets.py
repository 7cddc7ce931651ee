"""`newsloom offsets`: how far ingest is, and the way out of a parked partition."""

import getpass
import socket
from collections.abc import Mapping
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

import click

from newsloom.cli.main import ExitCode
from newsloom.cli.support import Format, connected_settings, emit, format_option, tell
from newsloom.core.offsets import Rebase, RebaseRefused, StoredPosition
from newsloom.errors import Unavailable

if TYPE_CHECKING:
    from newsloom.core.offsets import Target
    from newsloom.settings import Settings

_GROUP = click.option("--group", help="Consumer group. Default: NEWSLOOM_INGEST_CONSUMER_GROUP.")


def _target(_context: click.Context, _parameter: click.Parameter, text: str) -> "Target":
    if text == "earliest":
        return "earliest"
    if text == "latest":
        return "latest"
    if not (text.isascii() and text.isdigit()):
        raise click.BadParameter("earliest, latest or an offset is needed")
    return int(text)


@click.group()
def offsets() -> None:
    """How far ingest is in each partition; move a position by hand."""


@offsets.command()
@_GROUP
@format_option
def show(group: str | None, output: Format) -> int:
    """Show each partition: position, lag, owner, and why it is parked (then exit code 1)."""
    from newsloom import app  # noqa: PLC0415 - heavy, and --help must be quick

    settings = connected_settings()
    positions, bounds = app.run(_look(settings, group or settings.ingest.consumer_group))
    for position in positions:
        log = bounds.get((position.kafka_topic, position.partition))
        row = asdict(position) | {
            "log_start": log[0] if log else None,
            "log_end": log[1] if log else None,
            "lag": log[1] - position.next_offset if log else None,
        }
        if output == "json":
            emit(row)
        else:
            click.echo(_line(row))
    if not positions:
        tell("no partition of this consumer group was ever claimed")
    return ExitCode.RECORDS_REJECTED if any(p.parked_reason for p in positions) else ExitCode.OK


@offsets.command()
@click.argument("topic")
@click.argument("partition", type=click.IntRange(min=0))
@click.option(
    "--to",
    "target",
    callback=_target,
    required=True,
    metavar="earliest|latest|OFFSET",
    help="Where to go on.",
)
@click.option(
    "--expect",
    type=click.IntRange(min=0),
    required=True,
    metavar="OFFSET",
    help="The position as `offsets show` has it: refused if it is another one by then.",
)
@click.option("--new-incarnation", is_flag=True, help="The Kafka topic was made anew.")
@click.option("--allow-rewind", is_flag=True, help="Take deliveries again that have an outcome.")
@click.option("--reason", required=True, help="Why; kept in newsloom.audit_log.")
@click.option("--yes", is_flag=True, help="Do it. Without it, only tell what would happen.")
@_GROUP
@format_option
def rebase(
    *,
    topic: str,
    partition: int,
    target: Any,
    expect: int,
    reason: str,
    group: str | None,
    output: Format,
    new_incarnation: bool,
    allow_rewind: bool,
    yes: bool,
) -> int:
    """Move the position of PARTITION of TOPIC by hand: the way out of a parked partition.

    Its owner is fenced and goes on from there within seconds. What is passed over is counted as
    skipped. `--to` the present position only clears the reason why it was parked.
    """
    from newsloom import app  # noqa: PLC0415 - as above

    settings = connected_settings()
    asked = Rebase(target, expect, new_incarnation, allow_rewind)
    group = group or settings.ingest.consumer_group
    try:
        before, after = app.run(
            _rebase(settings, group, (topic, partition), asked, reason, does_it=yes)
        )
    except RebaseRefused as refused:
        tell(f"newsloom: nothing was changed: {refused}")
        return ExitCode.USAGE
    if output == "json":
        emit({"done": yes, "before": asdict(before), "after": asdict(after)})
    else:
        click.echo(_told(before, after))
    if not yes:
        tell("nothing was changed: add --yes to do it")
        return ExitCode.USAGE
    return ExitCode.OK


async def _look(
    settings: "Settings", group: str
) -> tuple[list[StoredPosition], Mapping[tuple[str, int], tuple[int, int]]]:
    from newsloom.adapters.kafka.bounds import log_bounds  # noqa: PLC0415 - as above
    from newsloom.adapters.postgres.administration import open_administration  # noqa: PLC0415

    async with open_administration(settings.postgres, os_user=os_user()) as administration:
        positions = list(await administration.positions(group))
    try:
        bounds = await log_bounds(settings.kafka, {p.kafka_topic for p in positions})
    except Unavailable as error:
        tell(f"no lag: {error}")
        return positions, {}
    return positions, {(place.topic, place.partition): log for place, log in bounds.items()}


async def _rebase(
    settings: "Settings",
    group: str,
    place: tuple[str, int],
    asked: Rebase,
    reason: str,
    *,
    does_it: bool,
) -> tuple[StoredPosition, StoredPosition]:
    from newsloom.adapters.kafka.bounds import log_bounds  # noqa: PLC0415 - as above
    from newsloom.adapters.postgres.administration import open_administration  # noqa: PLC0415
    from newsloom.ports import TopicPartition  # noqa: PLC0415

    partition = TopicPartition(*place)
    log = (await log_bounds(settings.kafka, [partition.topic])).get(partition)
    if log is None:
        raise RebaseRefused("Kafka has no such partition")
    async with open_administration(settings.postgres, os_user=os_user()) as administration:
        return await administration.rebase(
            group, partition, asked, log, reason=reason, does_it=does_it
        )


def os_user() -> str:
    """Name who runs the command, for the audit log."""
    try:
        user = getpass.getuser()
    except (KeyError, OSError):  # a container's user without a name
        user = "?"
    return f"{user}@{socket.gethostname()}"


def _line(row: Mapping[str, Any]) -> str:
    place = f"{row['kafka_topic']}/{row['partition']}"
    lag = "?" if row["lag"] is None else f"{row['lag']:,}"
    text = f"{place:32} at {row['next_offset']}  lag {lag}  owner {row['owner_id'] or '-'}"
    if row["incarnation"]:
        text += f"  incarnation {row['incarnation']}"
    if row["skipped"]:
        text += f"  skipped {row['skipped']}"
    if row["strikes"]:
        text += f"  strikes {row['strikes']}"
    return f"{text}  PARKED {row['parked_reason']}" if row["parked_reason"] else text


def _told(before: StoredPosition, after: StoredPosition) -> str:
    place = f"{before.kafka_topic}/{before.partition}"
    parts = [f"{place}: position {before.next_offset} -> {after.next_offset}"]
    if after.incarnation != before.incarnation:
        parts.append(f"incarnation {before.incarnation} -> {after.incarnation}")
    if after.skipped != before.skipped:
        parts.append(f"{after.skipped - before.skipped} offsets skipped")
    if before.parked_reason:
        parts.append(f"no longer parked ({before.parked_reason})")
    parts.append(f"owner {before.owner_id or '-'} fenced")
    return ", ".join(parts)
