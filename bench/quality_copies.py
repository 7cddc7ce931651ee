"""Copies: planted ones, and the pairs of labelled texts by exact Jaccard and containment."""

import random
import time
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from itertools import combinations
from uuid import UUID

from bench.quality_stories import Text
from newsloom.core.copy_index import CopyIndex, CopyInput
from newsloom.core.folding import FoldedText, fold
from newsloom.core.generate import GenerateConfig, Generated, Generator, Planted
from newsloom.core.signatures import Signature, signature

START = datetime(2024, 1, 1, tzinfo=UTC)
SETTINGS = {
    "long": GenerateConfig(words=(40, 300)),
    "short": GenerateConfig(words=(25, 70), copies=0.4, traps=0.4),
}
JACCARD, CONTAINMENT = 0.3, 0.5
COPIES = (Planted.EDITED, Planted.ABRIDGED, Planted.HEADLINE, Planted.BOILERPLATE_ADDED)
TRAPS = (Planted.BOILERPLATE_SHARED, Planted.TEMPLATE, Planted.TITLE_SHARED)
Pairs = dict[tuple[int, int], tuple[float, float]]


def roots(signatures: Sequence[Signature], order: Sequence[int]) -> tuple[list[UUID], float]:
    """Return each text's group and the processor time an article took."""
    index = CopyIndex()
    inputs = [
        CopyInput(UUID(int=at), signatures[at], START + timedelta(seconds=seconds))
        for seconds, at in enumerate(order)
    ]
    started = time.process_time()
    for first in range(0, len(inputs), 500):
        index.observe_all(inputs[first : first + 500])
    micros = (time.process_time() - started) / len(inputs) * 1e6
    found = {UUID(int=at): UUID(int=at) for at in range(len(signatures))}
    for state in index.export():
        if state.root:
            found[state.article.article_id] = state.root.article_id
    return [found[UUID(int=at)] for at in range(len(signatures))], micros


def exact(texts: Sequence[FoldedText]) -> Pairs:
    """Return (Jaccard, containment) of all pairs that share a shingle, counted on words."""
    sets = [set(zip(t.words, t.words[1:], t.words[2:], strict=False)) for t in texts]
    holders: dict[tuple[bytes, bytes, bytes], list[int]] = {}
    for at, shingles in enumerate(sets):
        for shingle in shingles:
            holders.setdefault(shingle, []).append(at)
    shared: dict[tuple[int, int], int] = {}
    for held in holders.values():
        for pair in combinations(held, 2):
            shared[pair] = shared.get(pair, 0) + 1
    return {
        (a, b): (n / (len(sets[a]) + len(sets[b]) - n), n / min(len(sets[a]), len(sets[b])))
        for (a, b), n in shared.items()
    }


def planted(count: int, seed: int, setting: str) -> dict[str, float]:
    """Precision over all found pairs; recall over the true pairs that still share enough.

    By kind as well: of the copies the share that is linked where it shares enough with another
    text of its group; of the traps the share that is linked to a text of another group.
    """
    made = [
        one
        for one in Generator(random.Random(seed), SETTINGS[setting]).records(count)
        if one.planted not in {Planted.DUPLICATE, Planted.REVISION}
    ]
    random.Random(seed).shuffle(made)
    texts = [fold(m.record["title"], m.record["excerpt"], m.record["body"]) for m in made]
    groups, micros = roots([signature(text) for text in texts], range(len(texts)))
    pairs = exact(texts)
    figures = _figures([one.copy_group for one in made], groups, pairs)
    return (
        figures
        | _by_kind(made, groups, pairs)
        | {"articles": len(made), "microseconds_an_article": micros}
    )


def _by_kind(made: Sequence[Generated], groups: Sequence[UUID], pairs: Pairs) -> dict[str, float]:
    true = [pair for pair in pairs if made[pair[0]].copy_group == made[pair[1]].copy_group]
    enough = [p for p in true if pairs[p][0] >= JACCARD or pairs[p][1] >= CONTAINMENT]
    figures: dict[str, float] = {}
    for kind in COPIES:
        own = [pair for pair in enough if kind in {made[at].planted for at in pair}]
        figures[f"recall_{kind.value}"] = _share_together(own, groups)
        figures[f"pairs_{kind.value}"] = len(own)
    first: dict[UUID, set[int]] = {}
    for one, group in zip(made, groups, strict=True):
        first.setdefault(group, set()).add(one.copy_group)
    for kind in TRAPS:
        mixed = [
            len(first[group]) > 1
            for one, group in zip(made, groups, strict=True)
            if one.planted is kind
        ]
        figures[f"wrongly_linked_{kind.value}"] = sum(mixed) / len(mixed)
        figures[f"articles_{kind.value}"] = len(mixed)
    return figures


def labelled(texts: Sequence[Text]) -> dict[str, float]:
    """Every pair that shares enough is a copy; a found pair of two events is wrong."""
    folded = [fold(text.title, None, text.body) for text in texts]
    order = list(range(len(texts)))
    random.Random(1).shuffle(order)
    groups, micros = roots([signature(text) for text in folded], order)
    return _figures([text.event for text in texts], groups, exact(folded)) | {
        "articles": len(texts),
        "microseconds_an_article": micros,
    }


def _figures(truth: Sequence[object], groups: Sequence[UUID], pairs: Pairs) -> dict[str, float]:
    by_group: dict[UUID, list[int]] = {}
    for at, group in enumerate(groups):
        by_group.setdefault(group, []).append(at)
    found = [pair for members in by_group.values() for pair in combinations(members, 2)]
    right = sum(truth[a] == truth[b] for a, b in found)
    true = {pair: shares for pair, shares in pairs.items() if truth[pair[0]] == truth[pair[1]]}
    jaccard = [pair for pair, (share, _) in true.items() if share >= JACCARD]
    contained = [pair for pair, (_, share) in true.items() if share >= CONTAINMENT]
    return {
        "precision": right / len(found) if found else 1.0,
        "found": len(found),
        "recall_jaccard": _share_together(jaccard, groups),
        "recall_containment": _share_together(contained, groups),
        "jaccard_pairs": len(jaccard),
        "containment_pairs": len(contained),
    }


def _share_together(pairs: Sequence[tuple[int, int]], groups: Sequence[UUID]) -> float:
    return sum(groups[a] == groups[b] for a, b in pairs) / len(pairs) if pairs else 1.0
