"""An article store in dicts: for dry runs, for tests of the flow, and as the model of the real one.

It decides nothing: like the real store it gathers the state of a batch's keys, lets the core fold,
and carries out the `Writes`. It has no transactions to lose, for nothing awaits inside `apply`.
"""

from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from uuid import UUID

from newsloom.core.batch import (
    Alias,
    BatchReport,
    Change,
    Content,
    DeadLetter,
    Head,
    Merge,
    Outcome,
    SignalsRow,
    StoredState,
    Writes,
)
from newsloom.core.fold import fold
from newsloom.core.gathering import contents_needed, tentative_aliases
from newsloom.ports import Anchor, Batch, Claim, Fenced, TopicPartition


@dataclass(slots=True)
class Position:
    """How far a partition has got, as in `newsloom.ingest_offsets`."""

    next_offset: int
    owner_epoch: int = 0
    owner_id: str = ""
    incarnation: int = 0
    anchor: Anchor | None = None
    parked_reason: str | None = None
    strikes: int = 0
    is_marked: bool = False
    counts: Counter[Outcome] = field(default_factory=Counter)


class MemoryStore:
    """See `newsloom.ports.ArticleStore`. What is stored is public, to be looked at and compared."""

    def __init__(self, *, refreshed_changes: bool = False) -> None:
        self._refreshed_changes = refreshed_changes
        self.positions: dict[TopicPartition, Position] = {}
        self.heads: dict[UUID, Head] = {}
        self.contents: dict[UUID, Content] = {}
        self.aliases: dict[str, Alias] = {}
        self.revisions: defaultdict[UUID, dict[int, Content]] = defaultdict(dict)
        self.signals: list[SignalsRow] = []
        self.changes: list[Change] = []
        self.dead_letters: dict[tuple[TopicPartition, int, int], DeadLetter] = {}

    async def claim(
        self,
        partition: TopicPartition,
        owner_id: str,
        first_offset: int,
        *,
        after_error: bool = False,
    ) -> Claim:
        """Take a partition over; a partition never seen starts at `first_offset`."""
        position = self.positions.setdefault(partition, Position(first_offset))
        position.strikes += position.is_marked and not after_error
        position.is_marked = False
        position.owner_epoch += 1
        position.owner_id = owner_id
        return Claim(
            partition=partition,
            epoch=position.owner_epoch,
            incarnation=position.incarnation,
            next_offset=position.next_offset,
            anchor=position.anchor,
            parked_reason=position.parked_reason,
            strikes=position.strikes,
        )

    async def mark(self, partition: TopicPartition, epoch: int, *, started: bool) -> None:
        """Note that a batch is about to be decoded, or that it is not after all."""
        position = self.positions.get(partition)
        if position is not None and position.owner_epoch == epoch:
            position.is_marked = started

    async def apply(self, batch: Batch) -> BatchReport:
        """Apply a batch and advance the position."""
        position = self.positions.get(batch.partition)
        if position is None or (
            (position.incarnation, position.owner_epoch, position.next_offset)
            != (batch.incarnation, batch.epoch, batch.expected_offset)
        ):
            raise Fenced
        state = self._gather(batch)
        writes = fold(batch.items, state, refreshed_changes=self._refreshed_changes)
        self._write(writes)
        for letter in writes.dead_letters:
            place = (batch.partition, batch.incarnation, letter.offset)
            self.dead_letters.setdefault(place, letter)
        position.next_offset, position.anchor = batch.next_offset, batch.anchor
        position.strikes, position.is_marked = 0, batch.marks_next
        position.counts.update(writes.report.outcomes)
        return writes.report

    async def park(self, partition: TopicPartition, epoch: int, reason: str | None) -> None:
        """Set or clear the reason why a partition waits for an operator."""
        position = self.positions.get(partition)
        if position is None or position.owner_epoch != epoch:
            raise Fenced
        position.parked_reason = reason

    async def positions_of(self, kafka_topic: str) -> dict[TopicPartition, int]:
        """Return the stored positions of a Kafka topic."""
        return {p: at.next_offset for p, at in self.positions.items() if p.topic == kafka_topic}

    def _gather(self, batch: Batch) -> StoredState:
        keys = tentative_aliases(batch.items)
        aliases = {key: self.aliases[key] for key in keys if key in self.aliases}
        owners = {alias.article_id for alias in aliases.values()}
        state = StoredState(aliases, {owner: replace(self.heads[owner]) for owner in owners})
        state.field_hashes = {
            owner: self.contents[owner].article.field_hashes
            for owner in contents_needed(batch.items, state)
        }
        return state

    def _write(self, writes: Writes) -> None:
        for merge in writes.merges:
            self._merge(merge)
        for stored_id, owner, revision, changed in writes.archive_stored:
            self.revisions[owner][revision] = _with_changed(self.contents[stored_id], changed)
        for owner in writes.content_drops:
            del self.contents[owner]
        for stored_id, owner, changed in writes.content_moves:
            self.contents[owner] = _with_changed(self.contents.pop(stored_id), changed)
        for owner, content in (*writes.new_contents, *writes.replaced_contents):
            self.contents[owner] = content
        for archived in writes.archived:
            self.revisions[archived.article_id][archived.revision] = archived.content
        for head in (*writes.new_heads, *writes.changed_heads):
            self.heads[head.article_id] = head
        self.aliases |= writes.new_aliases | writes.changed_aliases
        self.signals += writes.signals_history
        self.changes += writes.changes
        self._drop_self_edges(writes.merges)

    def _merge(self, merge: Merge) -> None:
        """Move all that was stored under the loser, but its content, to the winner."""
        loser, winner, offset = merge
        for key, alias in self.aliases.items():
            if alias.article_id == loser:
                self.aliases[key] = alias._replace(article_id=winner)
        for number, content in self.revisions.pop(loser, {}).items():
            self.revisions[winner][number + offset] = content
        self.signals = [
            row._replace(article_id=winner) if row.article_id == loser else row
            for row in self.signals
        ]
        for head in self.heads.values():
            if head.merged_into == loser:
                head.merged_into = winner
        for owner, content in self.contents.items():
            if loser in content.related:
                related = tuple(winner if target == loser else target for target in content.related)
                self.contents[owner] = replace(content, related=related)

    def _drop_self_edges(self, merges: Sequence[Merge]) -> None:
        """Drop edges that a merge has turned upon their own article."""
        for _, winner, _ in merges:
            content = self.contents.get(winner)
            if content is not None and winner in content.related:
                related = tuple(target for target in content.related if target != winner)
                self.contents[winner] = replace(content, related=related)


def _with_changed(content: Content, changed_fields: tuple[str, ...] | None) -> Content:
    if changed_fields is None:
        return content
    return replace(content, changed_fields=changed_fields)
