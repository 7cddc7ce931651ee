"""Stories: do two texts tell the same event? Similarity of a pair, and how a few texts group.

The similarity of two articles is the cosine of their terms, weighted by rarity in the window, moved
by evidence beside the text: publication times far apart speak against one story, a `related` edge
given by the source speaks for it. Where articles sit densely (each has close neighbours), a pair
has to be closer to count the same.

A few articles are grouped by average linkage: the two groups with the highest mean similarity are
joined as long as it is above a threshold, which is higher where there are few pairs to take the
mean of. And two groups that hold together well are joined only if they resemble each other nearly
as much as themselves: two events of one kind (the same place, the same person, another year) have
much in common, but each of them has more.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Any, Final, TypeAlias

import numpy as np
from numpy.typing import NDArray

from newsloom.core.text_features import Features

STORY_VERSION: Final = 2
"""Version of features and assignment; stored with results, raised when a result can change."""

Floats: TypeAlias = NDArray[np.float64]
Rarity: TypeAlias = Callable[[NDArray[Any]], Floats]


@dataclass(frozen=True, slots=True)
class StoryConfig:
    """Parameters of similarity and grouping, and bounds of the index.

    `threshold` is the mean similarity from which groups are joined, `few_pairs` what is added to it
    where the mean is over one pair (and less with more). Two groups also have to resemble each
    other `closeness` times as much as the looser of them resembles itself; a group of n articles
    counts (n - 1) / (n + `few_articles`) of its own mean, because few pairs say little. `density`
    and `dense_from` lower the similarity of articles whose `neighbours` best similarities have a
    mean above `dense_from`.
    Articles published up to `free_days` apart are not told apart by time; each further day costs
    `day_cost`, at most `most_time_cost`. A related edge adds `related_gain`.

    `bucket_bits` sizes the index, `chain_cap` postings are read of a term, `candidates` articles
    looked at, `pool_stories` stories and about `pool_articles` articles grouped anew; of a story
    with more than `story_sample` articles the newest stand for all and stay together.
    """

    threshold: float = 0.10
    few_pairs: float = 0.14
    closeness: float = 0.8
    few_articles: float = 2.0
    density: float = 0.5
    dense_from: float = 0.3
    neighbours: int = 4
    free_days: float = 3.0
    day_cost: float = 0.02
    most_time_cost: float = 0.2
    related_gain: float = 0.15
    assumed_articles: int = 10
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
    cosine = float(products(cosine_table([a, b], weigh))[0, 1])
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


def cosine_table(articles: Sequence[Features], rarity: Rarity) -> Floats:
    """Return one row an article, so that the product of two rows is their cosine.

    Terms are weighted by rarity and every article has length one; columns are the terms that at
    least two of the articles have: the others make up length and no product.
    """
    return weighted_table(
        np.concatenate([article.terms for article in articles]),
        np.concatenate([article.weights for article in articles]),
        np.array([len(article.terms) for article in articles]),
        rarity,
    )


def weighted_table(
    terms: NDArray[np.uint32], weights: NDArray[np.uint8], sizes: NDArray[np.int64], rarity: Rarity
) -> Floats:
    """Do what `cosine_table` does with texts one after the other, of `sizes` terms each."""
    count = len(sizes)
    values = weights * rarity(terms)
    owners = np.repeat(np.arange(count), sizes)
    lengths = np.sqrt(np.bincount(owners, values * values, minlength=count))
    lengths[lengths == 0] = 1.0
    order = terms.argsort()
    terms = terms[order]
    again = terms[1:] == terms[:-1]
    shared = np.zeros(len(terms), np.bool_)
    shared[1:] = again
    shared[:-1] |= again
    column = np.ones(len(terms), np.int64)
    column[1:] = ~again
    column = column[shared].cumsum() - 1
    kept = order[shared]
    rows = owners[kept]
    table = np.zeros((count, int(column[-1]) + 1 if len(column) else 0))
    table[rows, column] = values[kept] / lengths[rows]
    return table


def products(table: Floats) -> Floats:
    """Return the products of all pairs of rows."""
    # Not `@`: a threaded product of so small a matrix costs more than it saves.
    made: Floats = np.einsum("ik,jk->ij", table, table)
    return made


def adjusted_for_density(similarities: Floats, config: StoryConfig) -> Floats:
    """Lower the similarities of articles that have close neighbours anyway."""
    count = len(similarities)
    best = min(config.neighbours, count - 1)
    others = similarities.copy()
    np.fill_diagonal(others, -1.0)
    others.partition(count - best, axis=1)
    nearest = np.add.reduce(others[:, count - best :], axis=1) / best
    excess = np.maximum(nearest - config.dense_from, 0.0)
    if not excess.any():
        return similarities
    lowered: Floats = similarities - config.density * (excess[:, None] + excess[None, :]) / 2
    return lowered


def grouped(similarities: Floats, blocks: list[list[int]], config: StoryConfig) -> list[list[int]]:
    """Group articles by average linkage; each block starts as one group and stays together.

    Of equal pairs the one with the lowest numbers is joined first.
    """
    means = _block_means(similarities, blocks)
    sizes = np.array([len(block) for block in blocks], np.float64)
    groups = [list(block) for block in blocks]
    within = _within(similarities, blocks)
    wanted = _wanted(within, sizes, config)
    spare = means - _least(np.outer(sizes, sizes), np.minimum.outer(wanted, wanted), config)
    np.fill_diagonal(spare, -np.inf)
    while True:
        best = int(spare.argmax())
        i, j = divmod(best, len(groups))
        if spare[i, j] < 0:
            return [group for group in groups if group]
        # The matrix is symmetric: i < j.
        within[i] += within[j] + means[i, j] * sizes[i] * sizes[j]
        whole = sizes[i] + sizes[j]
        row = (means[i] * sizes[i] + means[j] * sizes[j]) / whole
        means[i], means[:, i], sizes[i] = row, row, whole
        wanted[i] = _wanted(within[i], whole, config)
        row = row - _least(whole * sizes, np.minimum(wanted[i], wanted), config)
        row[np.isneginf(spare[i])] = -np.inf
        row[j] = -np.inf
        spare[i], spare[:, i] = row, row
        spare[j], spare[:, j] = -np.inf, -np.inf
        groups[i] += groups[j]
        groups[j] = []


def _wanted(within: Any, size: Any, config: StoryConfig) -> Any:
    """Return how much a group wants of another: a share of its own mean similarity.

    `within` is the sum over the pairs of its `size` articles, so this is `closeness` times the mean
    times (n - 1) / (n + few_articles), and 0 for one article alone.
    """
    return config.closeness * 2 * within / (size * (size + config.few_articles))


def _least(pairs: Any, wanted: Any, config: StoryConfig) -> Any:
    """Return the mean similarity from which two groups with so many pairs are joined."""
    return np.maximum(config.threshold + config.few_pairs / np.sqrt(pairs), wanted)


def _within(similarities: Floats, blocks: list[list[int]]) -> Floats:
    """Return the sum of similarities over the pairs inside each block."""
    sums = [_pairs_sum(similarities, block) if len(block) > 1 else 0.0 for block in blocks]
    return np.array(sums) / 2


def _pairs_sum(similarities: Floats, block: list[int]) -> float:
    return float(similarities[np.ix_(block, block)].sum() - similarities[block, block].sum())


def _block_means(similarities: Floats, blocks: list[list[int]]) -> Floats:
    order = [at for block in blocks for at in block]
    means: Floats = similarities[np.ix_(order, order)]
    if len(order) == len(blocks):
        return means
    sizes = np.array([len(block) for block in blocks])
    starts = np.cumsum(sizes) - sizes
    means = np.add.reduceat(np.add.reduceat(means, starts, axis=0), starts, axis=1)
    means /= np.outer(sizes, sizes)
    return means
