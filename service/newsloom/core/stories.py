"""Stories: do two texts tell the same event? Similarity of a pair, and how a few texts group.

The similarity of two articles is the cosine of their terms, weighted by rarity in the window, moved
by evidence beside the text: publication times far apart speak against one story, a `related` edge
given by the source speaks for it. Where articles sit densely (each has close neighbours), a pair
has to be closer to count the same.

A few articles are grouped by average linkage: the two groups with the highest mean similarity are
joined as long as it is above a threshold, which is higher where there are few pairs to take the
mean of.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Any, Final, TypeAlias

import numpy as np
from numpy.typing import NDArray

from newsloom.core.text_features import Features

STORY_VERSION: Final = 1
"""Version of features and assignment; stored with results, raised when a result can change."""

Floats: TypeAlias = NDArray[np.float64]
Rarity: TypeAlias = Callable[[NDArray[Any]], Floats]


@dataclass(frozen=True, slots=True)
class StoryConfig:
    """Parameters of similarity and grouping, and bounds of the index.

    `threshold` is the mean similarity from which groups are joined, `few_pairs` what is added to it
    where the mean is over one pair (and less with more). `density` and `dense_from` lower the
    similarity of articles whose `neighbours` best similarities have a mean above `dense_from`.
    Articles published up to `free_days` apart are not told apart by time; each further day costs
    `day_cost`, at most `most_time_cost`. A related edge adds `related_gain`.

    `bucket_bits` sizes the index, `chain_cap` postings are read of a term, `candidates` articles
    looked at, `pool_stories` stories and about `pool_articles` articles grouped anew; of a story
    with more than `story_sample` articles the newest stand for all and stay together.
    """

    threshold: float = 0.12
    few_pairs: float = 0.1
    density: float = 0.5
    dense_from: float = 0.3
    neighbours: int = 4
    free_days: float = 3.0
    day_cost: float = 0.02
    most_time_cost: float = 0.2
    related_gain: float = 0.15
    assumed_articles: int = 30
    bucket_bits: int = 22
    chain_cap: int = 16
    candidates: int = 24
    pool_stories: int = 4
    pool_articles: int = 32
    story_sample: int = 24


DEFAULT_STORY_CONFIG: Final = StoryConfig()


class StoryReason(StrEnum):
    """Why two articles are, or are not, taken for one story on their own. A closed set."""

    SAME_STORY = "same-story"
    DIFFERENT = "different"
    TIME_APART = "time-apart"
    NO_TEXT = "no-text"


@dataclass(frozen=True, slots=True)
class StoryVerdict:
    """The judgement of one pair with its numbers; the index also weighs what else it knows.

    `cosine` is the text's similarity, `time_cost` and `related_gain` what other evidence adds,
    `score` their sum, to be compared with `threshold`.
    """

    reason: StoryReason
    score: float
    cosine: float
    time_cost: float
    related_gain: float
    shared_terms: int
    threshold: float
    version: int = STORY_VERSION

    @property
    def is_same_story(self) -> bool:
        """Whether the two alone would make one story."""
        return self.reason is StoryReason.SAME_STORY


def explain_story(
    a: Features,
    b: Features,
    *,
    days_apart: float | None = None,
    related: bool = False,
    rarity: Rarity | None = None,
    config: StoryConfig = DEFAULT_STORY_CONFIG,
) -> StoryVerdict:
    """Judge one pair; symmetric.

    `rarity` maps terms to idf weights (`StoryIndex.rarity`); without a window every term counts the
    same, which makes unrelated texts look a little more alike than they are.
    """
    weigh = rarity or (lambda terms: np.ones(len(terms)))
    vectors = Vectors.of([a, b], weigh)
    cosine = float(vectors.cosines()[0, 1])
    time = time_cost(days_apart, config)
    gain = config.related_gain if related else 0.0
    score, threshold = cosine - time + gain, config.threshold + config.few_pairs
    reason = StoryReason.DIFFERENT
    if not len(a.terms) or not len(b.terms):
        reason = StoryReason.NO_TEXT
    elif score >= threshold:
        reason = StoryReason.SAME_STORY
    elif score + time >= threshold:
        reason = StoryReason.TIME_APART
    shared = len(np.intersect1d(a.terms, b.terms))
    return StoryVerdict(reason, score, cosine, time, gain, shared, threshold)


def time_cost(days_apart: float | None, config: StoryConfig) -> float:
    """Return what the distance of two publication times takes off their similarity."""
    if days_apart is None:
        return 0.0
    beyond = max(0.0, abs(days_apart) - config.free_days)
    return min(config.most_time_cost, config.day_cost * beyond)


@dataclass(frozen=True, slots=True, eq=False)
class Vectors:
    """Some articles' weighted terms in one flat array; `starts` has a last entry for the end."""

    terms: NDArray[np.uint32]
    values: Floats
    starts: NDArray[np.int64]

    @classmethod
    def of(cls, articles: Sequence[Features], rarity: Rarity) -> "Vectors":
        """Weigh terms by rarity and scale every article to length one."""
        starts = np.cumsum([0, *(len(article.terms) for article in articles)])
        terms = np.concatenate([article.terms for article in articles])
        values = np.concatenate([article.weights for article in articles]) * rarity(terms)
        owners = np.repeat(np.arange(len(articles)), np.diff(starts))
        squares = np.bincount(owners, values * values, minlength=len(articles))
        lengths = np.sqrt(squares)
        lengths[lengths == 0] = 1.0
        return cls(terms, values / lengths[owners], starts)

    def cosines(self) -> Floats:
        """Return the matrix of similarities, shape (articles, articles)."""
        count = len(self.starts) - 1
        owners = np.repeat(np.arange(count), np.diff(self.starts))
        distinct, columns = np.unique(self.terms, return_inverse=True)
        table = np.zeros((count, len(distinct)))
        table[owners, columns] = self.values
        return table @ table.T

    def cosines_with_last(self) -> Floats:
        """Return the similarity of every article but the last with the last."""
        last = int(self.starts[-2])
        order = np.argsort(self.terms[last:])
        wanted, values = self.terms[last:][order], self.values[last:][order]
        if not len(wanted):
            return np.zeros(len(self.starts) - 2, np.float64)
        at = np.searchsorted(wanted, self.terms[:last])
        at[at == len(wanted)] = 0
        products = np.where(wanted[at] == self.terms[:last], values[at], 0.0) * self.values[:last]
        owners = np.repeat(np.arange(len(self.starts) - 2), np.diff(self.starts[:-1]))
        sums = np.bincount(owners, products, minlength=len(self.starts) - 2)
        return sums.astype(np.float64, copy=False)


def adjusted_for_density(similarities: Floats, config: StoryConfig) -> Floats:
    """Lower the similarities of articles that have close neighbours anyway."""
    count = len(similarities)
    best = min(config.neighbours, count - 1)
    others = similarities.copy()
    np.fill_diagonal(others, -1.0)
    others.partition(count - best, axis=1)
    nearest = others[:, count - best :].mean(axis=1)
    excess = np.maximum(nearest - config.dense_from, 0.0)
    if not excess.any():
        return similarities
    lowered: Floats = similarities - config.density * (excess[:, None] + excess[None, :]) / 2
    return lowered


def grouped(similarities: Floats, blocks: list[list[int]], config: StoryConfig) -> list[list[int]]:
    """Group articles by average linkage; each block starts as one group and stays together."""
    sizes = [float(len(block)) for block in blocks]
    groups: list[list[int] | None] = [list(block) for block in blocks]
    if any(len(block) > 1 for block in blocks):
        member = np.zeros((len(blocks), len(similarities)))
        for at, block in enumerate(blocks):
            member[at, block] = 1.0 / len(block)
        similarities = member @ similarities @ member.T
    else:
        order = [block[0] for block in blocks]
        similarities = similarities[np.ix_(order, order)]
    links = similarities.tolist()
    threshold, few = config.threshold, config.few_pairs
    alive = list(range(len(blocks)))
    while len(alive) > 1:
        best, pair = 0.0, None
        for at, i in enumerate(alive):
            row, size = links[i], sizes[i]
            for j in alive[at + 1 :]:
                spare = row[j] - few / (size * sizes[j]) ** 0.5
                if spare >= threshold and (pair is None or spare > best):
                    best, pair = spare, (i, j)
        if pair is None:
            break
        _join(links, sizes, groups, alive, pair)
    return [group for group in groups if group]


def _join(
    links: list[list[float]],
    sizes: list[float],
    groups: list[list[int] | None],
    alive: list[int],
    pair: tuple[int, int],
) -> None:
    """Unite the second group of a pair with the first."""
    i, j = pair
    whole = sizes[i] + sizes[j]
    for k in alive:
        mean = (links[i][k] * sizes[i] + links[j][k] * sizes[j]) / whole
        links[i][k] = links[k][i] = mean
    sizes[i] = whole
    groups[i] = (groups[i] or []) + (groups[j] or [])
    groups[j] = None
    alive.remove(j)
