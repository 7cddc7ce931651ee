"""Terms in flat arrays: the cosines that a table gives, the same terms after a renumbering."""

import random

import numpy as np
import pytest

from newsloom.core.stories import Floats, cosine_table, products
from newsloom.core.term_store import TermOverlap, TermStore
from newsloom.core.text_features import NO_FEATURES, Features


def made(rng: random.Random, terms: list[int]) -> Features:
    weights = [rng.randint(1, 255) for _ in terms]
    return Features(np.array(terms, np.uint32), np.array(weights, np.uint8))


def rarity(terms: np.ndarray) -> Floats:
    weights: Floats = (terms % 7) / 3.0  # nothing for some
    return weights


@pytest.mark.parametrize("seed", range(20))
def test_cosines_are_those_of_the_table_whatever_places_terms_share(seed: int) -> None:
    rng = random.Random(seed)
    # Few lower halves, so that up to a dozen terms of one text want the same place.
    lower = rng.sample(range(1 << 16), 8)
    pool = [high << 16 | low for high in range(1, 13) for low in lower]
    texts = [made(rng, rng.sample(pool, rng.randint(1, 60))) for _ in range(12)]
    store, overlap = TermStore(16), TermOverlap()
    store.add(0, texts)
    for own in range(12):
        others = [at for at in range(12) if at != own]
        wanted = products(cosine_table([texts[at] for at in (own, *others)], rarity))[0, 1:]
        found = overlap.cosines(store.texts([own, *others]), rarity)
        assert found == pytest.approx(wanted, abs=1e-12)
    assert not overlap._table.any()


def test_terms_are_found_again_when_the_store_grows_and_is_renumbered() -> None:
    rng = random.Random(1)
    texts = [made(rng, rng.sample(range(1, 10_000), rng.randint(1, 90))) for _ in range(300)]
    texts[7] = NO_FEATURES
    store = TermStore(200)
    store.add(0, texts[:100])
    store.add(100, texts[100:200])
    store.renumber(50, 200, 400)  # the first fifty are gone
    store.add(150, texts[200:])
    assert [store.at(at) for at in range(250)] == texts[50:]
    groups = [np.array([at, (at * 7) % 250, 249]) for at in range(250)]
    for group, found in zip(groups, store.each(groups), strict=True):
        assert found.sizes.tolist() == [len(store.at(at).terms) for at in group]
        assert found.terms.tolist() == [t for at in group for t in store.at(at).terms.tolist()]
        assert found.weights.tolist() == [w for at in group for w in store.at(at).weights.tolist()]
    assert store.has_terms([6, 0]) == [True, True]


def test_an_article_without_terms_has_none() -> None:
    store = TermStore(4)
    store.add(0, [NO_FEATURES, made(random.Random(1), [3])])
    assert store.has_terms([0, 1]) == [False, True]
    assert store.at(0) == NO_FEATURES
