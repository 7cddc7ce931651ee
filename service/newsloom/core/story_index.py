"""The stories of a moving window: one article after the other finds, founds or rearranges them.

For each article: candidates by shared rare terms, their exact similarities, the nearest stories;
then all articles of those stories and the new one are grouped again (local repair), so that early
mistakes are undone when more is known. A new grouping keeps the ids of the stories it came from,
by greatest overlap. An article alone is no story; the second one founds it.

Everything here is a function of the window's articles, in the order of observation, with their
stored stories: an index restored from `StoryState`s behaves as the one that produced them. How
rare a term is, is counted in the window.
"""

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from hashlib import sha256
from itertools import islice
from typing import Any, Final, NamedTuple
from uuid import UUID

import numpy as np
from numpy.typing import NDArray

from newsloom.core.change_log import StoryChangeKind
from newsloom.core.postings import FOREVER, Hashes, Postings, Window, moved, summed
from newsloom.core.stories import (
    DEFAULT_STORY_CONFIG,
    Floats,
    StoryConfig,
    adjusted_for_density,
    grouped,
    products,
    weighted_table,
)
from newsloom.core.term_store import TermOverlap, TermStore, Texts
from newsloom.core.text_features import NO_FEATURES, Features

_PLACES: Final = 64
_LOGS: Final = np.log(np.arange(1 << 18) + 1.5)
_BATCH: Final = 512
_POSITION_BITS: Final = 26
"""A posting is 32 bits: 64 places of fewer than 2**26 positions."""
_POSITIONS: Final = (1 << _POSITION_BITS) - 1
_SCORE_BITS: Final = 17
_MOST_SCORE: Final = (1 << _SCORE_BITS) - 1
_EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)
_MICROSECOND: Final = timedelta(microseconds=1)
_DAY: Final = timedelta(days=1)
_MIX: Final = np.uint64(0x9E3779B97F4A7C15)
_FOLD: Final = np.uint64(29)


@dataclass(frozen=True, slots=True)
class StoryInput:
    """One article as the story index sees it.

    `sequence` is any number that grows with every observation (the change log's); `seen_at` places
    the article in the window; `related` are articles that the source itself names as related.
    """

    article_id: UUID
    sequence: int
    features: Features
    seen_at: datetime
    published_at: datetime | None = None
    related: frozenset[UUID] = frozenset()


@dataclass(frozen=True, slots=True)
class StoryState:
    """What has to be stored of one article so that the index can be restored at any point.

    `story_id` is None for an article that is in no story. Restored in the order of observation.
    """

    article: StoryInput
    story_id: UUID | None


@dataclass(frozen=True, slots=True)
class StoryMember:
    """An article with its mean similarity to the others of its story, as far as looked at."""

    article_id: UUID
    score: float


@dataclass(frozen=True, slots=True)
class StoryChange:
    """One change; applied in order they lead from one state to the next.

    created: `members` found `story_id`. grown: `members` join it (they leave where they were).
    left: `members` are in no story now. merged: `story_id` is gone, its articles (also those
    outside the window) belong to `other`. split: `members` leave `other` and found `story_id`.
    """

    kind: StoryChangeKind
    story_id: UUID
    members: tuple[StoryMember, ...] = ()
    other: UUID | None = None


class StoryIndex:
    """See the module's docstring. Mutable state, no IO, no clock; not thread-safe."""

    def __init__(self, config: StoryConfig = DEFAULT_STORY_CONFIG) -> None:
        """Start with an empty window."""
        self._config = config
        self._window = Window()
        self._postings = Postings(_PLACES, config.bucket_bits, self._window.capacity)
        self._terms = TermStore(self._window.capacity)
        self._overlap = TermOverlap()
        self._frequency = np.zeros(1 << config.bucket_bits, np.int32)
        self._seen_us = np.zeros(self._window.capacity, np.int64)
        self._published_days = np.zeros(self._window.capacity, np.float64)
        self._articles: list[StoryInput | None] = [None] * self._window.capacity
        self._story_at: list[UUID | None] = [None] * self._window.capacity
        self._positions: dict[UUID, int] = {}
        self._stories: dict[UUID, list[int]] = {}
        self._named_by: dict[UUID, set[UUID]] = {}

    def __len__(self) -> int:
        """Articles in the window."""
        return len(self._positions)

    def __contains__(self, article_id: UUID) -> bool:
        """Whether the article is in the window."""
        return article_id in self._positions

    @property
    def nbytes(self) -> int:
        """Bytes of the arrays and stored terms, without Python's objects around them."""
        arrays = self._frequency.nbytes + self._seen_us.nbytes + self._published_days.nbytes
        return self._postings.nbytes + arrays + self._terms.nbytes

    def rarity(self, terms: NDArray[Any]) -> Floats:
        """Return the idf weight of terms: log of articles in the window by those that have it."""
        counts = self._frequency.take(self._buckets(terms))
        whole = len(self._positions) + self._config.assumed_articles
        weights: Floats = math.log(whole) - _LOGS.take(counts, mode="clip")
        return np.maximum(weights, 0.0, out=weights)

    def observe(self, article: StoryInput) -> list[StoryChange]:
        """Add an article, or replace it when it is known, and say what changed."""
        return self.observe_all([article])[0]

    def observe_all(self, articles: Sequence[StoryInput]) -> list[list[StoryChange]]:
        """Do what `observe` would do with one after the other, faster."""
        first = self._take(articles)
        hashes = _hashes([article.features for article in articles], first)
        self._postings.add(hashes)
        candidates = self._candidates(hashes, first, len(articles))
        groups = [
            np.concatenate(([position], found))
            for position, found in enumerate(candidates, first)
            if len(found)
        ]
        texts = self._terms.each(groups)
        return [
            self._observe(
                article, first + at, candidates[at], next(texts) if len(candidates[at]) else None
            )
            for at, article in enumerate(articles)
        ]

    def remove(self, article_id: UUID) -> list[StoryChange]:
        """Take an article out because it changed or was erased; [] when it is not there."""
        position = self._positions.get(article_id)
        if position is None:
            return []
        self._window.end(position, self._window.high)
        return self._release(position, leaves=True)

    def forget_before(self, moment: datetime) -> int:
        """Let the window begin at `moment` (by seen_at); return how many articles left it.

        They stay in their stories; a story is closed when its last article has left.
        """
        low, high = self._window.low, self._window.high
        old = self._seen_us[low:high] < (moment - _EPOCH) // _MICROSECOND
        leaving = np.flatnonzero(old & (self._window.ends[low:high] == FOREVER)) + low
        for position in leaving.tolist():
            self._window.end(position, high)
            self._release(position, leaves=False)
        self._window.trim()
        return len(leaving)

    def story_of(self, article_id: UUID) -> UUID | None:
        """Return the story of an article of the window; None when it is in none."""
        return self._story_at[self._positions[article_id]]

    def state_of(self, article_id: UUID) -> StoryState:
        """Return what is to be stored of an article of the window. KeyError when it is not."""
        position = self._positions[article_id]
        article = replace(self._at(position), features=self._terms.at(position).copy())
        return StoryState(article, self._story_at[position])

    def export(self) -> list[StoryState]:
        """Return the states of the whole window in the order that `restore` wants."""
        return [self.state_of(article_id) for article_id in self._positions]

    def restore(self, states: Iterable[StoryState]) -> None:
        """Fill an empty index with stored states, deciding nothing."""
        source = iter(states)
        while batch := list(islice(source, _BATCH)):
            articles = [state.article for state in batch]
            first = self._take(articles)
            self._postings.add(_hashes([article.features for article in articles], first))
            for position, state in enumerate(batch, first):
                self._hold(position, state.article)
                if state.story_id is not None:
                    self._put(position, state.story_id)

    # -- one article ---------------------------------------------------------------------------

    def _observe(
        self, article: StoryInput, position: int, found: NDArray[np.int64], texts: Texts | None
    ) -> list[StoryChange]:
        """Place one article; `texts` are its terms and those of what was found, if anything was."""
        before = self._positions.get(article.article_id)
        changes = [] if before is None else self._release(before, leaves=True)
        self._hold(position, article)
        candidates = found.tolist()
        also = self._related(article, position).difference(candidates)
        if also:
            candidates, texts = sorted([*candidates, *also]), None
        if not candidates:
            return changes
        near = self._nearest(candidates, position, self._cosines(candidates, position, texts))
        if near:
            changes += self._regroup(self._pool(near, position), article)
        return changes

    def _related(self, article: StoryInput, position: int) -> set[int]:
        """Return the positions of the articles that this one names, or that name it."""
        related = article.related
        if self._named_by:
            related = related | self._named_by.get(article.article_id, set())
        also = {self._positions[other] for other in related if other in self._positions}
        also.discard(position)
        return also

    def _cosines(self, candidates: list[int], position: int, texts: Texts | None) -> Floats:
        """Return the similarity of the texts; one without terms resembles none."""
        if texts is not None:
            return self._overlap.cosines(texts, self.rarity)
        cosines = np.zeros(len(candidates))
        own, *has_terms = self._terms.has_terms([position, *candidates])
        with_terms = [at for at, has in enumerate(has_terms) if has]
        if own and with_terms:
            texts = self._terms.texts([position, *(candidates[at] for at in with_terms)])
            cosines[with_terms] = self._overlap.cosines(texts, self.rarity)
        return cosines

    def _nearest(self, candidates: list[int], position: int, cosines: Floats) -> list["_Near"]:
        """Return the stories (or single articles) that the article may belong to, nearest first."""
        config = self._config
        similarities = cosines + self._evidence(candidates, [position])[:, 0]
        best: dict[UUID | int, float] = {}
        likely = np.flatnonzero(similarities > config.threshold).tolist()
        for at, similarity in zip(likely, similarities[likely].tolist(), strict=True):
            key = self._story_at[candidates[at]] or candidates[at]
            if similarity > best.get(key, config.threshold):
                best[key] = similarity
        near = []
        for key, similarity in best.items():
            members = [key] if isinstance(key, int) else self._stories[key]
            # No mean over the group can be higher than its highest similarity.
            if similarity >= config.threshold + config.few_pairs / math.sqrt(len(members)):
                near.append(_Near(-similarity, -members[-1], members))
        return sorted(near)

    def _pool(self, near: list["_Near"], position: int) -> list[int]:
        """Return the positions of the nearest stories' articles and this one, oldest first."""
        config = self._config
        pool = [position]
        for story in near[: config.pool_stories]:
            members = story.members[-config.story_sample :]
            if len(pool) == 1 or len(pool) + len(members) <= config.pool_articles:
                pool += members
        return sorted(pool)

    def _evidence(self, rows: list[int], columns: list[int]) -> Floats:
        """Return what times and related edges add to the similarity of each pair."""
        evidence = np.zeros((len(rows), len(columns)))
        config = self._config
        across, down = self._published_days.take(rows), self._published_days.take(columns)
        apart = np.abs(across[:, None] - down[None, :]) - config.free_days
        # Not a number where a time is unknown; such a pair is not "above".
        if np.fmax.reduce(apart, axis=None) > 0:
            cost = np.minimum(apart * config.day_cost, config.most_time_cost)
            evidence -= np.where(apart > 0, cost, 0.0)
        if self._named_by:
            self._add_related(evidence, rows, columns)
        return evidence

    def _add_related(self, evidence: Floats, rows: list[int], columns: list[int]) -> None:
        row_of = {self._at(at).article_id: row for row, at in enumerate(rows)}
        for column, at in enumerate(columns):
            article = self._at(at)
            named = self._named_by.get(article.article_id, set()) | article.related
            for other in named & row_of.keys():
                evidence[row_of[other], column] += self._config.related_gain

    def _regroup(self, pool: list[int], article: StoryInput) -> list[StoryChange]:
        """Group the pool anew and turn the difference into changes."""
        config = self._config
        texts = self._terms.texts(pool)
        table = weighted_table(texts.terms, texts.weights, texts.sizes, self.rarity)
        similarities = products(table) + self._evidence(pool, pool)
        np.fill_diagonal(similarities, 0.0)
        adjusted = adjusted_for_density(similarities, config)
        parts = grouped(adjusted, self._blocks(pool), config)
        scores = _scores(similarities, parts, pool)
        placed = [[pool[at] for at in sorted(part)] for part in parts]
        return self._apply(placed, scores, pool, article)

    def _blocks(self, pool: list[int]) -> list[list[int]]:
        """Return what stays together: the sample of a story too large to be looked at whole."""
        blocks: list[list[int]] = []
        large: dict[UUID, list[int]] = {}
        for at, position in enumerate(pool):
            story = self._story_at[position]
            if story is not None and len(self._stories[story]) > self._config.story_sample:
                if story in large:
                    large[story].append(at)
                    continue
                large[story] = [at]
                blocks.append(large[story])
            else:
                blocks.append([at])
        return blocks

    # -- from a grouping to changes ------------------------------------------------------------

    def _apply(
        self,
        parts: list[list[int]],
        scores: dict[int, float],
        pool: list[int],
        article: StoryInput,
    ) -> list[StoryChange]:
        before = {position: self._story_at[position] for position in pool}
        ids = self._inherited(parts, before)
        changes: list[StoryChange] = []
        gone = {story for story in before.values() if story is not None} - set(ids)
        for at, part in enumerate(parts):
            story, origin = ids[at], None
            if story is None and len(part) > 1:
                origin = next((before[p] for p in part if before[p] is not None), None)
                story = _story_id(self._at(part[0]).article_id, article.sequence)
                ids[at] = story
            changes += self._move(part, story, origin, before, scores)
        for story in sorted(gone):
            changes.append(self._absorb(story, parts, ids, before))
        return changes

    def _inherited(
        self, parts: list[list[int]], before: dict[int, UUID | None]
    ) -> list[UUID | None]:
        """Give each story's id to the part that holds most of its articles."""
        claims = []
        for at, part in enumerate(parts):
            counts: dict[UUID, int] = {}
            for position in part:
                story = before[position]
                if story is not None:
                    counts[story] = counts.get(story, 0) + 1
            for story, count in counts.items():
                claims.append((-count, -len(self._stories[story]), story, at))
        ids: list[UUID | None] = [None] * len(parts)
        taken: set[UUID] = set()
        for _, _, story, at in sorted(claims):
            if ids[at] is None and story not in taken:
                ids[at] = story
                taken.add(story)
        return ids

    def _move(
        self,
        part: list[int],
        story: UUID | None,
        origin: UUID | None,
        before: dict[int, UUID | None],
        scores: dict[int, float],
    ) -> list[StoryChange]:
        """Put a part's articles into its story and say so."""
        moving = [position for position in part if before[position] != story]
        if not moving:
            return []
        changes = []
        founded = story is not None and story not in self._stories
        for position in moving:
            old = before[position]
            self._take_out(position)
            if story is not None:
                self._put(position, story)
            elif old is not None:
                changes.append(
                    StoryChange(StoryChangeKind.LEFT, old, self._members([position], {}))
                )
        if story is not None:
            kind = StoryChangeKind.GROWN
            if founded:
                kind = StoryChangeKind.SPLIT if origin else StoryChangeKind.CREATED
            members = self._members(moving, scores)
            changes.append(StoryChange(kind, story, members, origin if founded else None))
        return changes

    def _absorb(
        self,
        story: UUID,
        parts: list[list[int]],
        ids: list[UUID | None],
        before: dict[int, UUID | None],
    ) -> StoryChange:
        """Say where a story went that no part inherited: to whom most of its articles went.

        The articles that were not looked at (a large story's older ones) follow.
        """
        counts = [sum(before[position] == story for position in part) for part in parts]
        heir = ids[int(np.argmax(counts))]
        if heir is None:
            return StoryChange(StoryChangeKind.MERGED, story)
        for position in list(self._stories.get(story, ())):
            self._take_out(position)
            self._put(position, heir)
        return StoryChange(StoryChangeKind.MERGED, story, (), heir)

    def _members(self, positions: list[int], scores: dict[int, float]) -> tuple[StoryMember, ...]:
        return tuple(
            StoryMember(self._at(position).article_id, scores.get(position, 0.0))
            for position in positions
        )

    # -- bookkeeping ---------------------------------------------------------------------------

    def _take(self, articles: Sequence[StoryInput]) -> int:
        """Give positions to articles; earlier positions of the same articles end there."""
        if not self._window.has_room(len(articles)):
            self._make_room(len(articles))
        first = self._window.take(len(articles))
        self._terms.add(first, [article.features for article in articles])
        last: dict[UUID, int] = {}
        for position, article in enumerate(articles, first):
            before = last.get(article.article_id, self._positions.get(article.article_id))
            if before is not None:
                self._window.end(before, position)
            last[article.article_id] = position
            self._seen_us[position] = (article.seen_at - _EPOCH) // _MICROSECOND
            published = article.published_at
            self._published_days[position] = (
                math.nan if published is None else (published - _EPOCH) / _DAY
            )
        return first

    def _candidates(self, hashes: Hashes, first: int, count: int) -> list[NDArray[np.int64]]:
        """Return for each article the positions that share most with it in rare terms."""
        config = self._config
        positions, which = self._postings.walk(hashes, self._window, config.chain_cap)
        if not len(positions):
            return [_NONE] * count
        # Whole numbers, so that sums do not depend on the order of what is summed.
        weights = _rarity_by_matches(config.chain_cap)[np.bincount(which)[which]]
        pairs = (hashes.owner[which] - first) << _POSITION_BITS | positions
        pairs, scores = summed(pairs, weights)
        owners = pairs >> _POSITION_BITS
        # One number a pair, so that one sort puts the best of each article first, then the newest.
        ranked = owners << _SCORE_BITS | (_MOST_SCORE - scores)
        ranked = ranked << _POSITION_BITS | (_POSITIONS - (pairs & _POSITIONS))
        ranked.sort()
        counts = np.bincount(owners, minlength=count)
        rank = np.arange(len(ranked)) - np.repeat(np.cumsum(counts) - counts, counts)
        positions = _POSITIONS - (ranked[rank < config.candidates] & _POSITIONS)
        bounds = np.cumsum(np.minimum(counts, config.candidates))
        return [np.sort(found) for found in np.split(positions, bounds[:-1])]

    def _hold(self, position: int, article: StoryInput) -> None:
        self._positions.pop(article.article_id, None)
        self._positions[article.article_id] = position
        self._articles[position] = replace(article, features=NO_FEATURES)
        self._frequency[self._buckets(article.features.terms)] += 1
        for other in article.related:
            self._named_by.setdefault(other, set()).add(article.article_id)

    def _release(self, position: int, *, leaves: bool) -> list[StoryChange]:
        """Drop an article from the window; `leaves`: from its story as well."""
        article = self._at(position)
        story = self._story_at[position]
        self._take_out(position)
        self._articles[position] = None
        del self._positions[article.article_id]
        self._frequency[self._buckets(self._terms.at(position).terms)] -= 1
        for other in article.related:
            namers = self._named_by[other]
            namers.discard(article.article_id)
            if not namers:
                del self._named_by[other]
        if story is None or not leaves:
            return []
        member = StoryMember(article.article_id, 0.0)
        return [StoryChange(StoryChangeKind.LEFT, story, (member,))]

    def _take_out(self, position: int) -> None:
        story = self._story_at[position]
        if story is not None:
            members = self._stories[story]
            members.remove(position)
            if not members:
                del self._stories[story]
            self._story_at[position] = None

    def _put(self, position: int, story: UUID) -> None:
        members = self._stories.setdefault(story, [])
        members.append(position)
        if len(members) > 1 and members[-2] > position:
            members.sort()
        self._story_at[position] = story

    def _at(self, position: int) -> StoryInput:
        article = self._articles[position]
        if article is None:
            raise KeyError(position)
        return article

    def _buckets(self, terms: NDArray[Any]) -> NDArray[Any]:
        # Terms are uniform 32-bit hashes: their lower bits are a bucket.
        return terms & np.uint32(len(self._frequency) - 1)

    def _make_room(self, count: int) -> None:
        low, high = self._window.low, self._window.high
        shift, capacity = self._window.make_room(count)
        self._postings.renumber(shift, high, capacity)
        self._terms.renumber(shift, high, capacity)
        self._seen_us = moved(self._seen_us, low, high, capacity)
        self._published_days = moved(self._published_days, low, high, capacity)
        spare = [None] * (capacity - (high - low))
        self._articles = [*self._articles[low:high], *spare]
        self._story_at = [*self._story_at[low:high], *spare]
        self._positions = {key: at - shift for key, at in self._positions.items()}
        for story, members in self._stories.items():
            self._stories[story] = [at - shift for at in members]


_NONE: Final = np.zeros(0, np.int64)


class _Near(NamedTuple):
    """A story, or an article alone, near a new article; ordered nearest first, then newest."""

    distance: float
    newest: int
    members: list[int]


def _rarity_by_matches(cap: int) -> NDArray[np.int64]:
    """Return what a shared term is worth by how many matches were read for it."""
    matches = np.arange(cap + 1)
    worth: NDArray[np.int64] = np.rint(100 * np.log((2 * cap + 1) / (matches + 0.5))).astype(
        np.int64
    )
    return worth


def _scores(similarities: Floats, parts: list[list[int]], pool: list[int]) -> dict[int, float]:
    """Return by position the mean similarity to the other articles of the part."""
    scores: dict[int, float] = {}
    for part in parts:
        if len(part) > 1:
            means = similarities[np.ix_(part, part)].sum(axis=1) / (len(part) - 1)
            scores.update(zip((pool[at] for at in part), means.tolist(), strict=True))
    return scores


def _story_id(founder: UUID, sequence: int) -> UUID:
    """Return an id never given twice: one observation lets an article found one story only."""
    digest = sha256(b"newsloom:story:1\0" + founder.bytes + str(sequence).encode())
    return UUID(bytes=digest.digest()[:16])


def _hashes(articles: Sequence[Features], first: int) -> Hashes:
    """Return the index entries: the 64 heaviest terms of each article."""
    terms = [article.terms[:_PLACES] for article in articles]
    sizes = np.array([len(part) for part in terms])
    values = np.concatenate(terms).astype(np.uint64) * _MIX
    values ^= values >> _FOLD
    values *= _MIX
    place = np.arange(len(values)) - np.repeat(np.cumsum(sizes) - sizes, sizes)
    return Hashes(values, first + np.repeat(np.arange(len(sizes)), sizes), place)
