"""How good a clustering is: B-cubed, adjusted Rand index, hard negatives kept apart."""

from collections import Counter
from collections.abc import Hashable, Sequence
from itertools import combinations

Labels = Sequence[Hashable]


def b_cubed(found: Labels, true: Labels) -> float:
    """Return the F1 of B-cubed precision and recall."""
    together = Counter(zip(found, true, strict=True))
    found_sizes, true_sizes = Counter(found), Counter(true)
    precision = sum(n * n / found_sizes[f] for (f, _), n in together.items()) / len(true)
    recall = sum(n * n / true_sizes[t] for (_, t), n in together.items()) / len(true)
    return 2 * precision * recall / (precision + recall)


def adjusted_rand(found: Labels, true: Labels) -> float:
    """Return the adjusted Rand index."""

    def pairs(counts: Counter[Hashable]) -> int:
        return sum(n * (n - 1) // 2 for n in counts.values())

    both = pairs(Counter(zip(found, true, strict=True)))
    ours, theirs = pairs(Counter(found)), pairs(Counter(true))
    expected = ours * theirs / (len(true) * (len(true) - 1) / 2)
    most = (ours + theirs) / 2
    return (both - expected) / (most - expected) if most != expected else 1.0


def hard_negatives_apart(found: Labels, events: Sequence[str]) -> float:
    """Return the share of text pairs of `N-core` with `N-plus` that are not put together."""
    by_topic: dict[str, list[int]] = {}
    for at, event in enumerate(events):
        by_topic.setdefault(event.split("-")[0], []).append(at)
    total = apart = 0
    for members in by_topic.values():
        for one, other in combinations(members, 2):
            if events[one] != events[other]:
                total += 1
                apart += found[one] != found[other]
    return apart / total if total else 1.0
