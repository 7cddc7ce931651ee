"""What goes into a batch, what comes out of it, and the law that nothing gets lost between.

`Observation`s and `DeadLetter`s go in, one for each delivery; `Writes` come out: rows, not
statements. `newsloom.core.fold` turns the one into the other; a store gathers the input and carries
out the result.
"""

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from enum import StrEnum
from typing import NamedTuple
from uuid import UUID

from newsloom.core.article import Article, OrderKey, Signals
from newsloom.core.values import value_class


class Outcome(StrEnum):
    """What became of a delivery: exactly one each. Label, receipt and column say the same."""

    CREATED = "created"
    REVISED = "revised"
    REFRESHED = "refreshed"
    UNCHANGED = "unchanged"
    STALE = "stale"
    REJECTED = "rejected"


class ChangeKind(StrEnum):
    """What a row of the change log says. `mentioned`: a mention came into being or changed.

    `refreshed` (only signals changed) is written where it was asked for, and nowhere else.
    """

    CREATED = "created"
    MENTIONED = "mentioned"
    REVISED = "revised"
    REMOVED = "removed"
    ALIASED = "aliased"
    MERGED = "merged"
    ERASED = "erased"
    REFRESHED = "refreshed"


@value_class(frozen=True, slots=True)
class Observation:
    """A delivery that can be stored: its enriched article and when the publisher saw it (UTC)."""

    offset: int
    observed_at: datetime
    article: Article


@dataclass(frozen=True, slots=True)
class DeadLetter:
    """A delivery that can never succeed, kept with its original bytes and its reason.

    `reason` is a `RejectReason` value or `db.<SQLSTATE>`. `detail` is at most 500 characters and
    quotes no article text. `headers` are as Kafka had them: repeated names are allowed.
    """

    offset: int
    reason: str
    detail: str
    observed_at: datetime
    key: bytes | None = field(default=None, repr=False)
    value: bytes | None = field(default=None, repr=False)
    headers: tuple[tuple[str, bytes | None], ...] = field(default=(), repr=False)


Item = Observation | DeadLetter
"""One delivery of a batch, decoded: it can be stored, or it never will be."""


@dataclass(slots=True)
class Head:
    """The narrow, lockable row of an article: identity, order, signals. Mutable inside a fold.

    `revision` 0 means that only a mention is known. `version` rises with each public change.
    `signals_at` is when the present signals were first observed.
    """

    article_id: UUID
    article_key: str
    version: int
    revision: int
    is_mention: bool
    observed_at: datetime
    content_hash: bytes
    first_seen_at: datetime
    signals: Signals
    signals_at: datetime
    secured: str | None = field(default=None, repr=False)
    merged_into: UUID | None = None
    is_erased: bool = False

    @property
    def order_key(self) -> OrderKey:
        """The highest order key applied to this article's content."""
        return OrderKey(self.observed_at, self.content_hash)


class Alias(NamedTuple):
    """Who owns a URL key, and the address as it was given. `kind` is a `UrlKind` value."""

    article_id: UUID
    kind: str
    given: str
    canonical_url: str


@dataclass(slots=True)
class StoredState:
    """What a store knows about a batch's keys, gathered under lock.

    `aliases`: the URL keys that were there before the batch. `heads`: the articles that own them.
    `field_hashes`: of the articles that `newsloom.core.fold.contents_needed` asked for.
    """

    aliases: Mapping[str, Alias]
    heads: Mapping[UUID, Head]
    field_hashes: Mapping[UUID, Mapping[str, str]] = field(default_factory=dict)


@value_class(frozen=True, slots=True)
class Content:
    """One version of an article's content: the current one, or one that was superseded.

    `related` are article ids in the order of the record's list (position 1 first). `changed_fields`
    compares with the revision before; empty for the first. `observed_at`: when it was first seen.
    """

    article: Article
    observed_at: datetime
    changed_fields: tuple[str, ...] = ()
    related: tuple[UUID | None, ...] = ()


class ContentWrite(NamedTuple):
    """The current content of an article, to be written whole with its images and edges."""

    article_id: UUID
    content: Content


class Archived(NamedTuple):
    """A superseded version that never became a row: it came and went inside this batch."""

    article_id: UUID
    revision: int
    content: Content


class ArchiveStored(NamedTuple):
    """Copy the stored content row of `stored_id` into the revisions of `article_id`.

    `changed_fields` replaces the row's own when not None (a merge gave the row a new predecessor).
    """

    stored_id: UUID
    article_id: UUID
    revision: int
    changed_fields: tuple[str, ...] | None


class ContentMove(NamedTuple):
    """The stored content row of `stored_id` becomes `article_id`'s, with its images and edges.

    Both ids are the same where a merge only gives the row new `changed_fields` (None: unchanged).
    """

    stored_id: UUID
    article_id: UUID
    changed_fields: tuple[str, ...] | None


class SignalsRow(NamedTuple):
    """Signals that were replaced, and since when they had been valid."""

    article_id: UUID
    observed_at: datetime
    signals: Signals


class Change(NamedTuple):
    """One row of the change log. `other_id`: the other article of a merge."""

    article_id: UUID
    version: int
    kind: ChangeKind
    observed_at: datetime
    changed_fields: tuple[str, ...] = ()
    other_id: UUID | None = None


class Merge(NamedTuple):
    """All that is stored under `loser` moves to `winner`; revision numbers rise by the offset."""

    loser: UUID
    winner: UUID
    revision_offset: int


class ConservationError(AssertionError):
    """The outcomes of a batch do not add up to its deliveries: a bug that must stop the process."""


@dataclass(frozen=True, slots=True)
class BatchReport:
    """What became of the deliveries of one batch. Building one checks the conservation law."""

    consumed: int
    outcomes: Mapping[Outcome, int]
    reasons: Mapping[str, int]
    mentions: int = 0
    """Related entries observed; they have no outcome of their own."""
    each: Sequence[tuple[int, Outcome]] = field(default=(), repr=False)
    """The outcome of each delivery, by offset."""
    rejected: Mapping[int, str] = field(default_factory=dict, repr=False)
    """The reason of each rejected delivery, by offset."""

    def __post_init__(self) -> None:
        """Refuse a report that loses or invents a delivery."""
        if sum(self.outcomes.values()) != self.consumed:
            message = f"{dict(self.outcomes)} does not add up to {self.consumed} deliveries"
            raise ConservationError(message)
        if sum(self.reasons.values()) != self.outcomes.get(Outcome.REJECTED, 0):
            message = f"reasons {dict(self.reasons)} do not add up to the rejected deliveries"
            raise ConservationError(message)

    @classmethod
    def of(
        cls,
        outcomes: Sequence[tuple[int, Outcome]],
        dead_letters: Iterable[DeadLetter],
        consumed: int,
        mentions: int,
    ) -> "BatchReport":
        """Count the outcomes of `consumed` deliveries."""
        rejected = {letter.offset: letter.reason for letter in dead_letters}
        return cls(
            consumed=consumed,
            outcomes=Counter(outcome for _, outcome in outcomes),
            reasons=Counter(rejected.values()),
            mentions=mentions,
            each=outcomes,
            rejected=rejected,
        )


@dataclass(slots=True)
class Writes:
    """All that one batch changes, as rows. A store carries it out in one transaction.

    Order matters where merges are: `merges` (move what was stored), then `archive_stored`, then
    `content_drops`, `content_moves`, and the rest in any order.
    """

    report: BatchReport
    dead_letters: list[DeadLetter]
    changes: list[Change]
    merges: list[Merge]
    new_heads: list[Head] = field(default_factory=list)
    changed_heads: list[Head] = field(default_factory=list)
    new_contents: list[ContentWrite] = field(default_factory=list)
    replaced_contents: list[ContentWrite] = field(default_factory=list)
    content_moves: list[ContentMove] = field(default_factory=list)
    content_drops: list[UUID] = field(default_factory=list)
    archive_stored: list[ArchiveStored] = field(default_factory=list)
    archived: list[Archived] = field(default_factory=list)
    signals_history: list[SignalsRow] = field(default_factory=list)
    new_aliases: dict[str, Alias] = field(default_factory=dict)
    changed_aliases: dict[str, Alias] = field(default_factory=dict)
