"""What the flows ask of the outside world. Adapters give it; contract tests hold them to it."""

from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass, field
from datetime import datetime
from enum import StrEnum
from typing import TYPE_CHECKING, NamedTuple, Protocol
from uuid import UUID

from newsloom.core.batch import BatchReport, Item
from newsloom.core.change_log import ChangePosition
from newsloom.core.changes import Changed, Entity
from newsloom.core.dead_letters import StoredLetter
from newsloom.core.event import Event, Outgoing
from newsloom.errors import Rejected

if TYPE_CHECKING:  # they load numpy, which only the linker needs
    from newsloom.core.linking import LinkChange, LinkResults, LinkState, LinkWindow


class TopicPartition(NamedTuple):
    """One partition of a Kafka topic."""

    topic: str
    partition: int


@dataclass(frozen=True, slots=True)
class Delivery:
    """An event as Kafka handed it over. `timestamp_ms`: Kafka's, milliseconds since 1970."""

    topic: str
    partition: int
    offset: int
    timestamp_ms: int
    key: bytes | None = field(repr=False)
    value: bytes | None = field(repr=False)
    headers: tuple[tuple[str, bytes | None], ...] = field(default=(), repr=False)


class Anchor(NamedTuple):
    """The last delivery applied, remembered to notice when a Kafka topic is another one."""

    offset: int
    timestamp_ms: int
    sha256: bytes


@dataclass(frozen=True, slots=True)
class Claim:
    """A partition's stored position, taken over by the caller: older owners are fenced."""

    partition: TopicPartition
    epoch: int
    incarnation: int
    next_offset: int
    anchor: Anchor | None = None
    parked_reason: str | None = None
    strikes: int = 0
    """Claims in a row that found a batch begun and never ended: something in it may kill us."""


@dataclass(frozen=True, slots=True)
class Batch:
    """Deliveries of one partition, decoded, in offset order, with the claim they are applied under.

    Valid just while the stored position is `expected_offset` and the owner `epoch` is still ours.
    `next_offset` is the position after the batch; `anchor` describes its last delivery.
    `marks_next`: the deliveries behind it are being decoded already, so that its COMMIT sets their
    mark instead of ending its own; see `ArticleStore.mark`.
    """

    partition: TopicPartition
    epoch: int
    incarnation: int
    expected_offset: int
    next_offset: int
    items: Sequence[Item]
    anchor: Anchor | None = None
    marks_next: bool = False


class Fenced(Exception):  # noqa: N818 - a state of the world, as `Unavailable` is
    """Somebody else owns the partition or has moved it: drop what you hold, claim again."""


class BatchRefused(Exception):  # noqa: N818 - as above
    """The store refuses rows (SQLSTATE class 22, 23, 54): halve the batch to find which."""

    def __init__(self, sqlstate: str) -> None:
        super().__init__(f"SQLSTATE {sqlstate}")
        self.sqlstate = sqlstate


class Unreadable(Exception):  # noqa: N818 - as above
    """What Kafka holds at a partition's position cannot be parsed; it may be a passing fault."""


class PositionLost(Exception):  # noqa: N818 - as above
    """A position is outside its partition's log: claim again, which tells why and parks."""


class ArticleStore(Protocol):
    """Where articles live, and how far each partition has got, in one transaction.

    Every method may raise `Unavailable`; then nothing is known to have happened, and the row of the
    partition says what did.
    """

    async def claim(
        self,
        partition: TopicPartition,
        owner_id: str,
        first_offset: int,
        *,
        after_error: bool = False,
    ) -> Claim:
        """Take a partition over; a partition never seen starts at `first_offset`. Fences others.

        A mark left behind counts as a strike, unless `after_error`: then this very process left it
        and lives.
        """

    async def mark(self, partition: TopicPartition, epoch: int, *, started: bool) -> None:
        """Note that a batch is about to be decoded; `started=False` or its COMMIT ends that.

        A COMMIT with `Batch.marks_next` leaves the note, for the deliveries behind it.

        Must survive the death of this process, not that of the database. Does nothing for an
        owner that has been fenced.
        """

    async def apply(self, batch: Batch) -> BatchReport:
        """Apply a batch and advance the position, both or neither.

        Raises `Fenced` when the position or the owner is another, `BatchRefused` when a row cannot
        be stored as it is.
        """

    async def park(self, partition: TopicPartition, epoch: int, reason: str | None) -> None:
        """Mark a partition as waiting for an operator (None: as running). Fenced."""

    async def positions_of(self, kafka_topic: str) -> Mapping[TopicPartition, int]:
        """Return the stored positions of a Kafka topic, whoever owns its partitions."""


class ReceiptSender(Protocol):
    """Where ingest's receipts go, after COMMIT. Best effort."""

    def tell(self, receipts: Sequence[Outgoing]) -> None:
        """Queue receipts for sending. Never waits and never raises; what has no room is lost."""


class OwnershipListener(Protocol):
    """Told which partitions are ours. Called on the event loop, between two polls."""

    def assigned(self, partitions: frozenset[TopicPartition]) -> None:
        """These, and only these, are ours from now on. Must not wait for anything."""

    async def revoked(self, partitions: frozenset[TopicPartition]) -> None:
        """These go away; may wait shortly for work in flight, and must not raise."""


class EventSource(Protocol):
    """Where deliveries come from: partitions assigned to this process by somebody else.

    A newly assigned partition gives nothing until `start_at` is called for it. `poll` raises
    `Unreadable`, `PositionLost` or `Unavailable`; any of them may have swallowed deliveries, of
    other partitions too: all that were named must be started again where they stood.
    Calls for a partition that is not ours any more do nothing.
    """

    async def poll(
        self, partitions: Sequence[TopicPartition], timeout_seconds: float, max_records: int
    ) -> Mapping[TopicPartition, Sequence[Delivery]]:
        """Return what has arrived for these; empty after `timeout_seconds`.

        The others keep what was fetched for them. With no partition named it fetches nothing and
        only keeps the membership alive.
        """

    def start_at(self, partition: TopicPartition, offset: int) -> None:
        """Go on from this offset."""

    def assignment(self) -> frozenset[TopicPartition]:
        """Return the partitions that are ours now."""

    def partitions(self, kafka_topic: str) -> frozenset[TopicPartition]:
        """Return all partitions of a Kafka topic that is read, ours or not; no question asked."""

    async def bounds(
        self, partitions: Sequence[TopicPartition]
    ) -> Mapping[TopicPartition, tuple[int, int]]:
        """Return log start and log end (the offset after the last readable delivery)."""

    def end_offset(self, partition: TopicPartition) -> int | None:
        """Return the log end as the last fetch saw it, without asking; None before the first."""

    async def mirror(self, positions: Mapping[TopicPartition, int]) -> None:
        """Copy positions to the consumer group, for lag tools only. Best effort, bounded wait."""


@dataclass(frozen=True, slots=True)
class Receipt:
    """Where Kafka keeps an event. `event_id` is the same each time the same record is sent."""

    kafka_topic: str
    partition: int
    offset: int
    event_id: str
    outcome: str | None = None
    """What became of it in Postgres, where that was waited for."""
    reason: str | None = None
    """Why it was rejected there, if it was."""


class EventSink(Protocol):
    """Where events go."""

    async def send(self, kafka_topic: str, events: Sequence[Event]) -> Sequence[Receipt | Rejected]:
        """Make events durable, those of one key in order; one result for each, in order.

        An event that can never be stored (too large) is `Rejected` without harm to the others.
        Raises `Unavailable` when Kafka has not acknowledged in time; then some may be stored, and
        sending them again is harmless.
        """


@dataclass(frozen=True, slots=True)
class LinkLease:
    """The linker's place in the change log, taken over by the caller: older ones are fenced."""

    epoch: int
    position: ChangePosition
    window: "LinkWindow"


@dataclass(frozen=True, slots=True)
class LinkRead:
    """Rows of the change log, decoded; `position` is that of the last row read, also if skipped.

    `recorded_at` (seconds since 1970) is when the oldest of them was written, or without rows the
    oldest that a running transaction still hides; None when nothing waits.
    """

    position: ChangePosition
    changes: "Sequence[LinkChange]"
    rows: int
    recorded_at: float | None


class LinkStore(Protocol):
    """The change log as the linker reads it, and where its results go.

    One linker is active; others wait in `lead`. A holder that was frozen is fenced by its epoch.
    Every method may raise `Unavailable`.
    """

    def lead(self, on_wait: Callable[[], None] = ...) -> AbstractAsyncContextManager[None]:
        """Wait until no other linker is active, and be it; `on_wait` is called now and then."""

    async def take_over(self, owner_id: str) -> LinkLease:
        """Raise the epoch and return where the last linker stopped."""

    async def states(self, window: "LinkWindow") -> "Sequence[LinkState]":
        """Return the stored states of the window, in order of sequence."""

    async def read(self, after: ChangePosition, limit: int) -> LinkRead:
        """Return the next rows below the horizon of running transactions, gap-free."""

    async def write(self, lease: LinkLease, to: ChangePosition, results: "LinkResults") -> None:
        """Store results and position in one transaction. Raises `Fenced`."""


class RelinkStore(LinkStore, Protocol):
    """A link store that can also be read as a whole."""

    def lead_or_refuse(self) -> AbstractAsyncContextManager[None]:
        """Be the only linker, or raise `LinkerRunning` at once."""

    async def horizon(self) -> ChangePosition:
        """Return the last position that a read could return now."""

    def articles(self, page: int) -> "AsyncIterator[Sequence[LinkChange]]":
        """Yield all articles in the order of (first_seen_at, article_id), as if never linked."""

    async def links(self) -> tuple[Mapping[UUID, UUID], Mapping[UUID, UUID]]:
        """Return what is stored: article -> copy_of, and article -> story."""


class LinkerRunning(Exception):  # noqa: N818 - a state of the world
    """Another process holds the linker's lock."""


class MessageSink(Protocol):
    """Where the relay's messages go; see `EventSink` for the promises."""

    async def send(
        self, kafka_topic: str, events: Sequence[Outgoing]
    ) -> Sequence[Receipt | Rejected]:
        """Make messages durable, those of one key in order; one result for each, in order."""


class RelayFeed(StrEnum):
    """What the relay sends. Each feed goes on by itself: trouble with one never holds the other."""

    CHANGES = "changes"
    DEAD_LETTERS = "dead_letters"


@dataclass(frozen=True, slots=True)
class RelayLease:
    """The relay's place in the change log, taken over by the caller: older ones are fenced."""

    epoch: int
    position: ChangePosition
    has_missed: bool = False
    """Whether changes after the position were retired before anybody relayed them."""


@dataclass(frozen=True, slots=True)
class RelayRead:
    """Rows of the change log by entity. `oldest_seconds`: age of the oldest row not yet sent.

    Without rows, an age above 0 says that some wait for a running transaction to end.
    """

    position: ChangePosition
    changed: Sequence[Changed]
    rows: int
    oldest_seconds: float


class UnsentLetters(NamedTuple):
    """Dead letters to send, oldest first, and the age of the oldest (0 without any)."""

    letters: Sequence[StoredLetter]
    oldest_seconds: float


class RelayStore(Protocol):
    """The change log and the dead letters as the relay reads them.

    One relay is active for each feed; others wait in `lead`. A holder that was frozen is fenced by
    its epoch. Every method may raise `Unavailable`.
    """

    def lead(
        self, feed: RelayFeed, on_wait: Callable[[], None] = ...
    ) -> AbstractAsyncContextManager[None]:
        """Wait until no other relay sends this feed, and be the one."""

    async def take_over(self, owner_id: str) -> RelayLease:
        """Raise the epoch and return where the last relay stopped."""

    async def read(self, after: ChangePosition, limit: int) -> RelayRead:
        """Return the next rows below the horizon of running transactions, gap-free.

        Rows and states are of one snapshot: a state includes what its rows tell.
        """

    async def advance(self, lease: RelayLease, to: ChangePosition) -> None:
        """Note that Kafka has everything up to here. Raises `Fenced`."""

    async def snapshot(self, entity: Entity, after: UUID, limit: int) -> Sequence[Changed]:
        """Return the present states of the next articles or stories by id; none: that was all.

        Merged and erased ones too: that they are is a state.
        """

    async def moved_on(self, entity: Entity, versions: Mapping[UUID, int]) -> Sequence[Changed]:
        """Return the present states of those that have another version by now."""

    async def unsent_letters(self, limit: int) -> UnsentLetters:
        """Return the oldest dead letters that Kafka may not have."""

    async def mark_sent(self, letters: Sequence[StoredLetter]) -> None:
        """Note that Kafka has these."""


class LetterFilter(NamedTuple):
    """Which dead letters are meant; None: any. Times are those at which they were set aside."""

    reason: str | None = None
    since: datetime | None = None
    until: datetime | None = None
    kafka_topic: str | None = None


class ReplayStore(Protocol):
    """Dead letters on their way back. Every method may raise `Unavailable`."""

    async def replayable(
        self, wanted: LetterFilter, after: StoredLetter | None, limit: int, *, again: bool
    ) -> Sequence[StoredLetter]:
        """Return the next letters after one, whole, in the order of their offsets.

        Those that were replayed before only if `again`.
        """

    async def mark_replayed(self, letters: Sequence[StoredLetter]) -> None:
        """Note that Kafka has these again."""
