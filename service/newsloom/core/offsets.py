"""What an operator may do to a stored position, decided without touching it."""

from dataclasses import dataclass, replace
from typing import Literal

Target = int | Literal["earliest", "latest"]


@dataclass(frozen=True, slots=True)
class StoredPosition:
    """A partition's row, as operators look at it. `skipped`: offsets passed over so far."""

    consumer_group: str
    kafka_topic: str
    partition: int
    incarnation: int
    next_offset: int
    owner_epoch: int
    owner_id: str | None
    parked_reason: str | None
    strikes: int
    skipped: int
    anchor_offset: int | None


@dataclass(frozen=True, slots=True)
class Rebase:
    """What is asked for. `expect`: the position as the operator last saw it."""

    to: Target
    expect: int
    new_incarnation: bool = False
    allow_rewind: bool = False


class RebaseRefused(Exception):  # noqa: N818 - an answer, not a fault
    """The position may not be moved like that; the message tells the operator why."""


def rebased(position: StoredPosition, asked: Rebase, log: tuple[int, int]) -> StoredPosition:
    """Return the row as it would be. Raises RebaseRefused.

    `log`: start and end of the Kafka log. Whoever owns the partition is fenced by the epoch; parked
    reason, strikes and anchor are cleared. What lies between is counted as skipped: between the old
    and the new position or, in a new incarnation, between the log's start and the new position.
    """
    start, end = log
    if position.next_offset != asked.expect:
        raise RebaseRefused(
            f"the position is {position.next_offset} by now, not {asked.expect}: look again"
        )
    to = {"earliest": start, "latest": end}.get(asked.to) if isinstance(asked.to, str) else asked.to
    if to is None or not start <= to <= end:
        raise RebaseRefused(f"{asked.to} is outside of the log, which has offsets {start} to {end}")
    if to < position.next_offset and not (asked.new_incarnation or asked.allow_rewind):
        raise RebaseRefused(
            f"{to} is below the position {position.next_offset}, so deliveries would be taken "
            "again: --new-incarnation if the Kafka topic was made anew, else --allow-rewind"
        )
    passed_from = start if asked.new_incarnation else position.next_offset
    return replace(
        position,
        incarnation=position.incarnation + asked.new_incarnation,
        next_offset=to,
        owner_epoch=position.owner_epoch + 1,
        parked_reason=None,
        strikes=0,
        skipped=position.skipped + max(0, to - passed_from),
        anchor_offset=None,
    )
