"""The decision at the heart of ingest: deliveries folded one by one over the stored state.

The fold gives what applying each delivery singly in offset order would give, wherever the batch
boundaries fall ("as if one by one"). Three things commute on purpose, so that partitions agree too:
URL aliases are a union, `first_seen_at` is a minimum, and the highest order key wins the content.
So even a stale delivery contributes its aliases and its mentions; only its content is ignored.

Raw articles are enriched here, where it is known which contents will be written: enrichment touches
nothing that is decided by, and most deliveries bring no new content.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime
from uuid import UUID

from newsloom.core.article import URL_KIND_RANK, Article, ArticleUrl, OrderKey, Signals
from newsloom.core.batch import (
    Alias,
    Archived,
    ArchiveStored,
    BatchReport,
    Change,
    ChangeKind,
    Content,
    ContentMove,
    ContentWrite,
    DeadLetter,
    Head,
    Item,
    Merge,
    Observation,
    Outcome,
    SignalsRow,
    StoredState,
    Writes,
)
from newsloom.core.enrichment import enrich_alone
from newsloom.core.gathering import alias_of
from newsloom.core.identity import article_id
from newsloom.errors import RejectReason


def fold(items: Sequence[Item], state: StoredState, *, refreshed_changes: bool = False) -> Writes:
    """Apply deliveries in offset order over the stored state; return all that changes.

    `refreshed_changes`: a change of signals alone is a change for the log too.
    The heads of `state` are taken over and altered. KeyError means that the store did not gather
    what `newsloom.core.gathering.contents_needed` asked for: a bug, not bad data.
    """
    folding = _Fold(state, refreshed_changes=refreshed_changes)
    outcomes = [(item.offset, folding.apply(item)) for item in items]
    return folding.writes(outcomes)


@dataclass(slots=True, eq=False)
class _Version:
    """A version of an article's content: in memory, or (`content` None) the row of `stored_id`."""

    stored_id: UUID | None = None
    content: Content | None = None
    changed_fields: tuple[str, ...] | None = None
    """Of a stored version: replaces the row's own, after a merge gave it a new predecessor."""


@dataclass(slots=True, eq=False)
class _Entry:
    """One article while a batch is folded; `version` None until its first content is known."""

    head: Head
    is_stored: bool
    version: _Version | None
    is_dirty: bool = False
    superseded: list[tuple[int, _Version]] = field(default_factory=list)
    history: list[tuple[datetime, Signals]] = field(default_factory=list)


class _Fold:
    """The working set of one fold: entries by article id (merged ones stay, pointing onward)."""

    def __init__(self, state: StoredState, *, refreshed_changes: bool) -> None:
        self._state = state
        self._refreshed_changes = refreshed_changes
        self._entries: dict[UUID, _Entry] = {}
        self._aliases: dict[str, Alias] = {}
        self._dead_letters: list[DeadLetter] = []
        self._changes: list[Change] = []
        self._merges: list[Merge] = []
        self._mentions = 0

    def apply(self, item: Item) -> Outcome:
        """Apply one delivery: the record first, then its related entries in their order."""
        if isinstance(item, DeadLetter):
            self._dead_letters.append(item)
            return Outcome.REJECTED
        article, observed_at = item.article, item.observed_at
        entry = self._claim(article.urls, article, observed_at)
        if entry is None:
            self._dead_letters.append(_erased_letter(item))
            return Outcome.REJECTED
        outcome = self._apply_record(entry, article, observed_at)
        version = entry.version
        related = tuple(self._apply_mention(mention, observed_at) for mention in article.related)
        if related and outcome in (Outcome.CREATED, Outcome.REVISED):
            assert version is not None and version.content is not None  # noqa: S101, PT018 - just set
            version.content = replace(version.content, related=related)
        return outcome

    def _apply_record(self, entry: _Entry, article: Article, observed_at: datetime) -> Outcome:
        head = entry.head
        order_key = OrderKey(observed_at, article.content_hash)
        if not head.revision:
            head.revision, head.is_mention = 1, False
            self._replace(entry, article, order_key, changed_fields=())
            self._record_change(entry, ChangeKind.CREATED, observed_at)
            return Outcome.CREATED
        if order_key < head.order_key:
            return Outcome.STALE
        if article.content_hash != head.content_hash:
            self._revise(entry, article, order_key)
            return Outcome.REVISED
        has_new_signals = self._replace_signals(entry, article.signals, observed_at)
        has_new_secured = article.secured != head.secured
        head.secured = article.secured
        self._advance(entry, order_key)
        if has_new_signals:  # `secured` is no part of the public state
            self._record_refresh(entry, observed_at)
        if has_new_signals or has_new_secured:
            entry.is_dirty = True
            return Outcome.REFRESHED
        return Outcome.UNCHANGED

    def _revise(self, entry: _Entry, article: Article, order_key: OrderKey) -> None:
        head, old = entry.head, entry.version
        assert old is not None  # noqa: S101 - a full article has content
        changed = _changed_fields(self._field_hashes(old), article.field_hashes)
        entry.superseded.append((head.revision, old))
        head.revision += 1
        self._replace(entry, article, order_key, changed_fields=changed)
        is_removal = article.is_removed and "removed" in changed
        kind = ChangeKind.REMOVED if is_removal else ChangeKind.REVISED
        self._record_change(entry, kind, order_key.observed_at, changed)

    def _apply_mention(self, mention: Article, observed_at: datetime) -> UUID | None:
        """Apply one related entry; return the article it means, None for an erased one.

        Of a full article a mention tells nothing new; among mentions the highest order key wins.
        """
        self._mentions += 1
        entry = self._claim(mention.urls, mention, observed_at)
        if entry is None:
            return None
        head = entry.head
        order_key = OrderKey(observed_at, mention.content_hash)
        if head.revision or (entry.version is not None and order_key <= head.order_key):
            return head.article_id
        if entry.version is None or mention.content_hash != head.content_hash:
            self._replace(entry, mention, order_key, changed_fields=())
            self._record_change(entry, ChangeKind.MENTIONED, observed_at)
        else:
            self._advance(entry, order_key)
            if self._replace_signals(entry, mention.signals, observed_at):
                self._record_refresh(entry, observed_at)
        return head.article_id

    # Identity: which article do these URLs mean?

    def _claim(
        self, urls: Sequence[ArticleUrl], article: Article, observed_at: datetime
    ) -> _Entry | None:
        """Find or found the article of these URLs, merging the articles that they tie together.

        None when one of them belongs to an erased article: nothing is learnt from such a delivery.
        """
        entries: list[_Entry] = []
        for url in urls:
            owner = self._owner(url.canonical.key)
            if owner is not None and owner not in entries:
                if owner.head.is_erased:
                    return None
                entries.append(owner)
        entry = entries[0] if entries else self._found(article, observed_at)
        for other in entries[1:]:
            entry = self._merge(entry, other, observed_at)
        if observed_at < entry.head.first_seen_at:
            entry.head.first_seen_at = observed_at
            entry.is_dirty = True
        self._add_aliases(entry, urls, observed_at)
        return entry

    def _owner(self, key: str) -> _Entry | None:
        alias = self._aliases.get(key) or self._state.aliases.get(key)
        return None if alias is None else self._find(alias.article_id)

    def _find(self, owner: UUID) -> _Entry:
        entry = self._entries.get(owner)
        if entry is None:
            head = self._state.heads[owner]
            entry = _Entry(head, is_stored=True, version=_Version(stored_id=owner))
            self._entries[owner] = entry
        return entry if entry.head.merged_into is None else self._find(entry.head.merged_into)

    def _found(self, article: Article, observed_at: datetime) -> _Entry:
        head = Head(
            article_id=article_id(article.key),
            article_key=article.key,
            version=0,
            revision=0,
            is_mention=True,
            observed_at=observed_at,
            content_hash=article.content_hash,
            first_seen_at=observed_at,
            signals=article.signals,
            signals_at=observed_at,
        )
        entry = self._entries[head.article_id] = _Entry(head, is_stored=False, version=None)
        return entry

    def _add_aliases(
        self, entry: _Entry, urls: Sequence[ArticleUrl], observed_at: datetime
    ) -> None:
        has_gained = False
        for url in urls:
            key = url.canonical.key
            known = self._aliases.get(key) or self._state.aliases.get(key)
            if known is None:
                has_gained = entry.version is not None
            if known is None or _is_better(url, known):
                self._aliases[key] = alias_of(entry.head.article_id, url)
        if has_gained:
            self._record_change(entry, ChangeKind.ALIASED, observed_at)

    def _merge(self, one: _Entry, two: _Entry, observed_at: datetime) -> _Entry:
        """Make one article of two; the earlier id survives, the other keeps resolving to it."""
        winner, loser = sorted((one, two), key=lambda e: (e.head.first_seen_at, e.head.article_id))
        kept, lost = winner.head, loser.head
        offset = max(kept.revision - 1, 0)
        self._merges.append(Merge(lost.article_id, kept.article_id, offset))
        winner.superseded += [(number + offset, version) for number, version in loser.superseded]
        winner.history += loser.history
        self._merge_contents(winner, loser)
        loser.superseded, loser.history, loser.version = [], [], None
        for entry in self._entries.values():
            if entry.head.merged_into == lost.article_id:
                entry.head.merged_into = kept.article_id
        lost.merged_into = kept.article_id
        kept.version = lost.version = max(kept.version, lost.version)
        self._record_change(loser, ChangeKind.MERGED, observed_at, other_id=kept.article_id)
        self._record_change(winner, ChangeKind.MERGED, observed_at, other_id=lost.article_id)
        return winner

    def _merge_contents(self, winner: _Entry, loser: _Entry) -> None:
        """Keep the newer of two current contents, full over mention; archive the other if full."""
        kept, lost = winner.head, loser.head
        newer, older = (
            (winner, loser) if _content_rank(winner) > _content_rank(loser) else (loser, winner)
        )
        head, current, other = newer.head, newer.version, older.version
        assert current is not None and other is not None  # noqa: S101, PT018 - both are known
        if head.signals != older.head.signals:
            winner.history.append((older.head.signals_at, older.head.signals))
        total = kept.revision + lost.revision
        if kept.revision and lost.revision:
            changed = _changed_fields(self._field_hashes(other), self._field_hashes(current))
            winner.superseded.append((total - 1, other))
            if current.content is None:
                current.changed_fields = changed
            else:
                current.content = replace(current.content, changed_fields=changed)
        winner.version = current
        kept.first_seen_at = min(kept.first_seen_at, lost.first_seen_at)
        kept.revision, kept.is_mention = total, head.is_mention
        kept.observed_at, kept.content_hash = head.order_key
        kept.signals, kept.signals_at, kept.secured = head.signals, head.signals_at, head.secured

    # The content and the signals of one article.

    def _field_hashes(self, version: _Version) -> Mapping[str, str]:
        if version.content is not None:
            return version.content.article.field_hashes
        assert version.stored_id is not None  # noqa: S101 - in memory or stored, nothing else
        return self._state.field_hashes[version.stored_id]

    def _replace(
        self,
        entry: _Entry,
        article: Article,
        order_key: OrderKey,
        *,
        changed_fields: tuple[str, ...],
    ) -> None:
        content = Content(article, order_key.observed_at, changed_fields)
        entry.version = _Version(content=content)
        self._advance(entry, order_key)
        self._replace_signals(entry, article.signals, order_key.observed_at)
        entry.head.secured = article.secured
        entry.is_dirty = True

    def _replace_signals(self, entry: _Entry, signals: Signals, observed_at: datetime) -> bool:
        head = entry.head
        if signals == head.signals:
            return False
        entry.history.append((head.signals_at, head.signals))
        head.signals, head.signals_at = signals, observed_at
        entry.is_dirty = True
        return True

    def _advance(self, entry: _Entry, order_key: OrderKey) -> None:
        if order_key != entry.head.order_key:
            entry.head.observed_at, entry.head.content_hash = order_key
            entry.is_dirty = True

    def _record_refresh(self, entry: _Entry, observed_at: datetime) -> None:
        if self._refreshed_changes:
            self._record_change(entry, ChangeKind.REFRESHED, observed_at)
        else:
            entry.head.version += 1

    def _record_change(
        self,
        entry: _Entry,
        kind: ChangeKind,
        observed_at: datetime,
        changed_fields: tuple[str, ...] = (),
        other_id: UUID | None = None,
    ) -> None:
        head = entry.head
        head.version += 1
        entry.is_dirty = True
        self._changes.append(
            Change(head.article_id, head.version, kind, observed_at, changed_fields, other_id)
        )

    # The result, as rows.

    def writes(self, outcomes: Sequence[tuple[int, Outcome]]) -> Writes:
        """Turn the working set into rows, ids of merged articles replaced by their survivors."""
        writes = Writes(
            report=BatchReport.of(outcomes, self._dead_letters, len(outcomes), self._mentions),
            dead_letters=self._dead_letters,
            changes=self._changes,
            merges=self._merges,
        )
        self._enrich()
        for entry in self._entries.values():
            if entry.is_dirty:
                (writes.changed_heads if entry.is_stored else writes.new_heads).append(entry.head)
            self._write_content(entry, writes)
            self._write_history(entry, writes)
        for key, alias in self._aliases.items():
            owner = self._find(alias.article_id).head.article_id
            rows = writes.changed_aliases if key in self._state.aliases else writes.new_aliases
            rows[key] = alias if owner == alias.article_id else alias._replace(article_id=owner)
        return writes

    def _enrich(self) -> None:
        """Enrich the raw contents that will be written, all at once."""
        contents = {}
        for entry in self._entries.values():
            versions = [version for _, version in entry.superseded]
            for version in (entry.version, *versions):
                if version and version.content and version.content.article.is_raw:
                    contents[version] = version.content
        articles = enrich_alone(content.article for content in contents.values())
        for (version, content), article in zip(contents.items(), articles, strict=True):
            version.content = Content(
                article, content.observed_at, content.changed_fields, content.related
            )

    def _write_content(self, entry: _Entry, writes: Writes) -> None:
        """Say what becomes of the article's content row, which exists just where it was stored."""
        owner, version = entry.head.article_id, entry.version
        if version is None:  # merged: what its row held was archived, moved or but a mention
            if entry.is_stored and not self._is_current(owner):
                writes.content_drops.append(owner)
        elif version.content is not None:
            content = version.content
            if content.related:
                related = tuple(self._edge(owner, target) for target in content.related)
                content = replace(content, related=related)
            row = ContentWrite(owner, content)
            (writes.replaced_contents if entry.is_stored else writes.new_contents).append(row)
        elif version.stored_id != owner or version.changed_fields is not None:
            assert version.stored_id is not None  # noqa: S101 - in memory or stored, nothing else
            if version.stored_id != owner and entry.is_stored:
                writes.content_drops.append(owner)
            writes.content_moves.append(
                ContentMove(version.stored_id, owner, version.changed_fields)
            )

    def _is_current(self, stored_id: UUID) -> bool:
        version = self._find(stored_id).version
        return version is not None and version.content is None and version.stored_id == stored_id

    def _edge(self, owner: UUID, target: UUID | None) -> UUID | None:
        """Follow merges; an article is never related to itself."""
        if target is None:
            return None
        survivor = self._find(target).head.article_id
        return None if survivor == owner else survivor

    def _write_history(self, entry: _Entry, writes: Writes) -> None:
        owner = entry.head.article_id
        for number, version in entry.superseded:
            if version.content is not None:
                writes.archived.append(Archived(owner, number, version.content))
            else:
                assert version.stored_id is not None  # noqa: S101 - in memory or stored
                writes.archive_stored.append(
                    ArchiveStored(version.stored_id, owner, number, version.changed_fields)
                )
        writes.signals_history += [SignalsRow(owner, at, signals) for at, signals in entry.history]


def _erased_letter(item: Observation) -> DeadLetter:
    """An erased article's later deliveries leave no trace of what they said."""
    return DeadLetter(
        offset=item.offset,
        reason=RejectReason.ERASED.value,
        detail="the article was taken down; later deliveries stay refused",
        observed_at=item.observed_at,
    )


def _is_better(url: ArticleUrl, known: Alias) -> bool:
    """Tell whether an address goes before the one that is known for its key."""
    canonical = url.canonical.url
    if url.given == known.given and canonical == known.canonical_url:
        return URL_KIND_RANK[url.kind] < URL_KIND_RANK[known.kind]
    rank = URL_KIND_RANK[url.kind], url.given, canonical
    return rank < (URL_KIND_RANK[known.kind], known.given, known.canonical_url)


def _content_rank(entry: _Entry) -> tuple[bool, OrderKey]:
    return bool(entry.head.revision), entry.head.order_key


def _changed_fields(old: Mapping[str, str], new: Mapping[str, str]) -> tuple[str, ...]:
    return tuple(sorted(name for name in old.keys() | new.keys() if old.get(name) != new.get(name)))
