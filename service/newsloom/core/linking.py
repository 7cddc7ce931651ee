"""What the linker decides: change-log rows in, links and stories out, restorable at any row.

Results depend on the order of the change log alone, never on how many rows are read at a time: runs
of articles are handed to the indexes together only where that gives what one by one would, and the
window moves at fixed moments (when an article is first seen in a later hour than all before it).
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from typing import NamedTuple
from uuid import UUID

from newsloom.core.change_log import StoryChangeKind
from newsloom.core.copies import COPY_VERSION, DEFAULT_COPY_CONFIG, CopyConfig
from newsloom.core.copy_groups import CopyEdge, CopyLinked, CopyUnlinked, RootKey, RootMoved
from newsloom.core.copy_index import CopyIndex, CopyInput, CopyState
from newsloom.core.folding import fold as fold_text
from newsloom.core.signatures import Signature, signature
from newsloom.core.stories import DEFAULT_STORY_CONFIG, STORY_VERSION, StoryConfig
from newsloom.core.story_index import (
    StoryChange,
    StoryIndex,
    StoryInput,
    StoryState,
)
from newsloom.core.text_features import Features, features

DEFAULT_WINDOW = timedelta(days=7)
ALGORITHM_VERSION = 100 * COPY_VERSION + STORY_VERSION
"""Stored with each link: which rules decided it."""


@dataclass(frozen=True, slots=True)
class LinkableArticle:
    """An article's present text and times, as far as links and stories look at them."""

    article_id: UUID
    version: int
    title: str
    excerpt: str | None
    body: str | None
    first_seen_at: datetime
    published_at: datetime | None
    related: frozenset[UUID] = frozenset()


@dataclass(frozen=True, slots=True)
class LinkChange:
    """One row of the change log that may matter to links.

    `article` None: there is no such article any more; `merged_into` says where it went, if
    anywhere. `linked_version`: the version that was looked at before this read, 0 for none.
    """

    article_id: UUID
    version: int
    article: LinkableArticle | None
    merged_into: UUID | None = None
    linked_version: int = 0


@dataclass(frozen=True, slots=True)
class LinkState:
    """What is stored of one article, so that the indexes can be restored."""

    article_id: UUID
    sequence: int
    version: int
    first_seen_at: datetime
    published_at: datetime | None
    is_counted: bool
    related: frozenset[UUID]
    edges: tuple[CopyEdge, ...]
    signature: Signature = field(repr=False)
    features: Features = field(repr=False)
    root: RootKey | None = None
    story_id: UUID | None = None


@dataclass(frozen=True, slots=True)
class LinkWindow:
    """Where the window stands: it reaches from `since`; see `LinkIndex`."""

    sequence: int = 0
    since: datetime | None = None
    trim_sequence: int = 0


class Membership(NamedTuple):
    """The story of an article, and how well it fits (0 to 1)."""

    story_id: UUID
    score: float


@dataclass(slots=True)
class LinkResults:
    """What changed, as rows. A store carries it out in one transaction with the cursor.

    Order: `root_moves` (what was a copy of the one is a copy of the other, and the other itself of
    none) and `story_merges` in their order, then the rest. A None takes the row away. Articles in
    `fresh` have no stored state yet.
    """

    window: LinkWindow
    root_moves: list[tuple[UUID, UUID]] = field(default_factory=list)
    copies: dict[UUID, CopyLinked | None] = field(default_factory=dict)
    story_merges: list[tuple[UUID, UUID]] = field(default_factory=list)
    memberships: dict[UUID, Membership | None] = field(default_factory=dict)
    story_kinds: dict[UUID, StoryChangeKind] = field(default_factory=dict)
    states: dict[UUID, LinkState] = field(default_factory=dict)
    pairs: dict[UUID, tuple[CopyEdge, ...]] = field(default_factory=dict)
    removed: list[UUID] = field(default_factory=list)
    fresh: set[UUID] = field(default_factory=set)
    observed: int = 0

    @property
    def is_empty(self) -> bool:
        """Whether nothing but the position has to be stored."""
        return not (self.states or self.removed)

    def before(self, changes: Sequence[LinkChange]) -> list[LinkChange]:
        """Return changes that were read before these results were stored as if read after."""
        removed = set(self.removed)
        return [
            replace(change, linked_version=state.version)
            if (state := self.states.get(change.article_id)) is not None
            else replace(change, linked_version=0)
            if change.article_id in removed
            else change
            for change in changes
        ]


class LinkIndex:
    """The copies and stories of a moving window of articles, by first_seen_at.

    An article older than the window is looked at when it comes (its sequence is above the trim's),
    and leaves when the window next moves.
    """

    def __init__(
        self,
        window: timedelta = DEFAULT_WINDOW,
        copies: CopyConfig = DEFAULT_COPY_CONFIG,
        stories: StoryConfig = DEFAULT_STORY_CONFIG,
    ) -> None:
        """Start with an empty window of this length."""
        self._length = window
        self._copies = CopyIndex(copies)
        self._stories = StoryIndex(stories)
        self._window = LinkWindow()

    def __len__(self) -> int:
        """Articles in the window."""
        return len(self._copies)

    @property
    def nbytes(self) -> int:
        """Bytes of the indexes' arrays."""
        return self._copies.nbytes + self._stories.nbytes

    def restore(self, window: LinkWindow, states: Sequence[LinkState]) -> None:
        """Fill an empty index with the stored states of the window, in order of sequence."""
        self._window = window
        self._copies.restore(
            CopyState(_copy_input(state), state.root, state.is_counted, state.edges)
            for state in states
        )
        self._stories.restore(StoryState(_story_input(state), state.story_id) for state in states)

    def apply(self, changes: Sequence[LinkChange]) -> LinkResults:
        """Take the next rows of the change log; return all that they change."""
        results = LinkResults(self._window)
        seen: dict[UUID, int] = {}
        run: list[LinkableArticle] = []
        for change in changes:
            known = max(change.linked_version, seen.get(change.article_id, 0))
            if change.version <= known:
                continue  # what it says was already looked at
            article = change.article
            seen[change.article_id] = article.version if article else change.version
            if article is None:
                self._observe(run, results)
                run = []
                self._remove(change, results)
                continue
            if self._moves_window(article):
                self._observe(run, results)
                run = []
                self._trim(article.first_seen_at)
            run.append(article)
            if not change.linked_version:
                results.fresh.add(article.article_id)
        self._observe(run, results)
        results.window = self._window
        self._collect(results)
        return results

    def _moves_window(self, article: LinkableArticle) -> bool:
        start = _hour(article.first_seen_at) - self._length
        return self._window.since is None or start > self._window.since

    def _trim(self, first_seen_at: datetime) -> None:
        since = _hour(first_seen_at) - self._length
        self._copies.forget_before(since)
        self._stories.forget_before(since)
        self._window = LinkWindow(self._window.sequence, since, self._window.sequence)

    def _observe(self, run: Sequence[LinkableArticle], results: LinkResults) -> None:
        if not run:
            return
        states = [self._state(article, n) for n, article in enumerate(run, 1)]
        self._window = LinkWindow(
            self._window.sequence + len(run), self._window.since, self._window.trim_sequence
        )
        self._note_pairs((state.article_id for state in states), results)
        for copy_changes in self._copies.observe_all([_copy_input(state) for state in states]):
            for copy_change in copy_changes:
                _note_copy(copy_change, results)
        for story_changes in self._stories.observe_all([_story_input(state) for state in states]):
            for story_change in story_changes:
                _note_story(story_change, results)
        for state in states:
            results.states[state.article_id] = state
        self._note_pairs((state.article_id for state in states), results)
        results.observed += len(run)

    def _state(self, article: LinkableArticle, number: int) -> LinkState:
        text = fold_text(article.title, article.excerpt, article.body)
        return LinkState(
            article_id=article.article_id,
            sequence=self._window.sequence + number,
            version=article.version,
            first_seen_at=article.first_seen_at,
            published_at=article.published_at,
            is_counted=False,
            related=article.related,
            edges=(),
            signature=signature(text),
            features=features(article.title, article.excerpt, article.body),
        )

    def _remove(self, change: LinkChange, results: LinkResults) -> None:
        article_id = change.article_id
        self._note_pairs([article_id], results)
        for copy_change in self._copies.remove(article_id):
            _note_copy(copy_change, results)
        for story_change in self._stories.remove(article_id):
            _note_story(story_change, results)
        if change.merged_into is not None:
            # Copies that left the window know their root only by its id.
            _note_copy(RootMoved(article_id, change.merged_into), results)
        results.copies[article_id] = None
        results.memberships[article_id] = None
        results.states.pop(article_id, None)
        results.removed.append(article_id)

    def _note_pairs(self, articles: Iterable[UUID], results: LinkResults) -> None:
        """Remember whose pairs may change with these articles: theirs, and the other ends'."""
        for article_id in articles:
            if article_id in self._copies:
                results.pairs[article_id] = ()
                for edge in self._copies.state_of(article_id).edges:
                    results.pairs[edge.other_id] = ()

    def _collect(self, results: LinkResults) -> None:
        """Read the final pairs and counts of every article that was touched."""
        for article_id in list(results.pairs):
            if article_id not in self._copies:
                del results.pairs[article_id]
                continue
            state = self._copies.state_of(article_id)
            results.pairs[article_id] = state.edges
            if (own := results.states.get(article_id)) is not None:
                results.states[article_id] = replace(
                    own, is_counted=state.counted, edges=state.edges
                )


def _note_copy(change: CopyLinked | CopyUnlinked | RootMoved, results: LinkResults) -> None:
    if isinstance(change, CopyLinked):
        results.copies[change.article_id] = change
    elif isinstance(change, CopyUnlinked):
        results.copies[change.article_id] = None
    else:
        results.root_moves.append((change.old_root, change.new_root))
        for article_id, link in results.copies.items():
            if link is not None and link.copy_of == change.old_root:
                results.copies[article_id] = (
                    None
                    if article_id == change.new_root
                    else replace(link, copy_of=change.new_root)
                )


_FOUNDED = (StoryChangeKind.CREATED, StoryChangeKind.SPLIT)


def _note_story(change: StoryChange, results: LinkResults) -> None:
    if change.kind is StoryChangeKind.MERGED and change.other is None:
        # Dissolved: what has left the window stays in it, the others have left it one by one.
        results.story_kinds[change.story_id] = StoryChangeKind.LEFT
        return
    is_new = results.story_kinds.get(change.story_id) in _FOUNDED
    if not (is_new and change.kind is StoryChangeKind.GROWN):  # to readers it is new, and larger
        results.story_kinds[change.story_id] = change.kind
    if change.kind is StoryChangeKind.MERGED and change.other is not None:
        results.story_merges.append((change.story_id, change.other))
        results.story_kinds.setdefault(change.other, StoryChangeKind.GROWN)
        for article_id, held in results.memberships.items():
            if held is not None and held.story_id == change.story_id:
                results.memberships[article_id] = Membership(change.other, held.score)
        return
    if change.other is not None:
        results.story_kinds.setdefault(change.other, StoryChangeKind.SPLIT)
    for member in change.members:
        left = change.kind is StoryChangeKind.LEFT
        results.memberships[member.article_id] = (
            None if left else Membership(change.story_id, member.score)
        )


def _copy_input(state: LinkState) -> CopyInput:
    return CopyInput(state.article_id, state.signature, state.first_seen_at, state.published_at)


def _story_input(state: LinkState) -> StoryInput:
    return StoryInput(
        state.article_id,
        state.sequence,
        state.features,
        state.first_seen_at,
        state.published_at,
        state.related,
    )


def root_key(article_id: UUID, first_seen_at: datetime, published_at: datetime | None) -> RootKey:
    """Return what decides whether an article is the root of its copies."""
    empty = signature("")
    return CopyInput(article_id, empty, first_seen_at, published_at).root_key()


def _hour(moment: datetime) -> datetime:
    return moment.replace(minute=0, second=0, microsecond=0)
