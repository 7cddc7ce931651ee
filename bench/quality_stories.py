"""Stories against labelled texts: the parameters were chosen on odd topic numbers only."""

import json
import math
import random
import time
from collections import Counter
from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from uuid import UUID

from bench.quality_metrics import adjusted_rand, b_cubed, hard_negatives_apart
from newsloom.core.folding import split_words
from newsloom.core.generate import GenerateConfig, Generator
from newsloom.core.stories import DEFAULT_STORY_CONFIG, StoryConfig
from newsloom.core.story_index import StoryIndex, StoryInput
from newsloom.core.text_features import features

EXCERPT = 300
ORDERS = 3
DRAWS = 20
SKEW = (1, 1, 1, 2, 2, 3, 5, 8, None)
START = datetime(2024, 1, 1, tzinfo=UTC)

Clustering = Callable[[Sequence["Text"]], list[Hashable]]


@dataclass(frozen=True, slots=True)
class Text:
    """A labelled text; `event` is `N-core` or `N-plus` in the labelled file."""

    event: str
    title: str
    body: str

    @property
    def topic(self) -> int:
        """The number before the dash; core and plus of one number are hard negatives."""
        return int(self.event.split("-")[0])

    def cut(self) -> "Text":
        """The same with 300 characters of text."""
        return Text(self.event, self.title, self.body[:EXCERPT])


def labelled(folder: Path) -> list[Text]:
    """Read the labelled texts."""
    lines = (folder / "stories-ecbplus.ndjson").read_text(encoding="utf-8").splitlines()
    rows = [json.loads(line) for line in lines]
    return [Text(row["event"], row["title"], row["body"] or "") for row in rows]


def synthetic(count: int = 600) -> list[Text]:
    """Made-up events; an event and the latest of its kind (its rival) stand for core and plus."""
    config = GenerateConfig(copies=0.0, duplicates=0.0, revisions=0.0, traps=0.0, rivals=0.4)
    made = list(Generator(random.Random(11), config).records(count))
    rival_of = {one.event: one.rival_of for one in made}
    topic: dict[int, str] = {}
    taken: set[int] = set()
    for event, rival in rival_of.items():
        if rival is not None and rival not in taken and topic.get(rival) == f"{rival}-core":
            topic[event] = f"{rival}-plus"
            taken.add(rival)
        else:
            topic[event] = f"{event}-core"
    return [Text(topic[one.event], one.record["title"], one.record["body"]) for one in made]


def by_index(config: StoryConfig = DEFAULT_STORY_CONFIG) -> Clustering:
    """Cluster as the service does."""

    def cluster(texts: Sequence[Text]) -> list[Hashable]:
        index = StoryIndex(config)
        inputs = [
            StoryInput(UUID(int=at), at, features(text.title, None, text.body), START)
            for at, text in enumerate(texts)
        ]
        index.observe_all(inputs)
        return [index.story_of(UUID(int=at)) or at for at in range(len(texts))]

    return cluster


def by_centroid(threshold: float) -> Clustering:
    """The baseline: one pass, plain tf-idf learned online, nearest centroid."""

    def cluster(texts: Sequence[Text]) -> list[Hashable]:
        frequency: Counter[bytes] = Counter()
        centroids: list[Counter[bytes]] = []
        labels: list[Hashable] = []
        for seen, text in enumerate(texts, 1):
            counts = Counter(split_words(f"{text.title} {text.body}"))
            frequency.update(counts.keys())
            vector = {w: n * math.log((seen + 1) / (frequency[w] + 0.5)) for w, n in counts.items()}
            length = math.sqrt(sum(v * v for v in vector.values())) or 1.0
            best, at = 0.0, -1
            for number, centroid in enumerate(centroids):
                norm = math.sqrt(sum(v * v for v in centroid.values())) or 1.0
                score = sum(v * centroid.get(w, 0.0) for w, v in vector.items()) / length / norm
                best, at = (score, number) if score > best else (best, at)
            if best < threshold:
                at = len(centroids)
                centroids.append(Counter())
            for word, value in vector.items():
                centroids[at][word] += value / length  # type: ignore[assignment]
            labels.append(at)
        return labels

    return cluster


def whole_figures(texts: list[Text], cluster: Clustering) -> dict[str, float]:
    """Mean over seeded arrival orders of B-cubed F1, ARI and hard negatives apart."""
    sums = Counter[str]()
    for seed in range(ORDERS):
        order = list(texts)
        random.Random(seed).shuffle(order)
        found, events = cluster(order), [text.event for text in order]
        sums["b_cubed"] += b_cubed(found, events)  # type: ignore[assignment]
        sums["ari"] += adjusted_rand(found, events)  # type: ignore[assignment]
        sums["hard_apart"] += hard_negatives_apart(found, events)  # type: ignore[assignment]
    return {name: value / ORDERS for name, value in sums.items()}


def drawn_figures(texts: list[Text], cluster: Clustering, draws: int) -> dict[str, float]:
    """Mean B-cubed F1 over seeded draws: one text an event, and random event sizes."""
    by_event: dict[str, list[Text]] = {}
    for text in texts:
        by_event.setdefault(text.event, []).append(text)
    singles = skew = 0.0
    for seed in range(draws):
        rng = random.Random(seed)
        one_each = [rng.choice(members) for _, members in sorted(by_event.items())]
        rng.shuffle(one_each)
        singles += b_cubed(cluster(one_each), [text.event for text in one_each])
        some: list[Text] = []
        for _, members in sorted(by_event.items()):
            size = rng.choice(SKEW) or len(members)
            some += rng.sample(members, min(size, len(members)))
        rng.shuffle(some)
        skew += b_cubed(cluster(some), [text.event for text in some])
    return {"singles": singles / draws, "skew": skew / draws}


def measure(texts: list[Text], *, draws: int = DRAWS) -> dict[str, dict[str, float]]:
    """All figures of one set of texts, in full and cut to title + 300 characters."""
    results: dict[str, dict[str, float]] = {}
    for name, chosen in (("full", texts), ("excerpt", [text.cut() for text in texts])):
        started = time.process_time()
        figures = whole_figures(chosen, by_index())
        micros = (time.process_time() - started) / (ORDERS * len(chosen)) * 1e6
        figures |= drawn_figures(chosen, by_index(), draws)
        results[name] = figures | {"microseconds_an_article": micros}
    return results


def baseline(choose: list[Text], report: list[Text]) -> dict[str, dict[str, float]]:
    """The centroid baseline, its threshold chosen on one half, its figures from the other."""
    results = {}
    for name in ("full", "excerpt"):
        halves = (
            [choose, report] if name == "full" else [[t.cut() for t in h] for h in (choose, report)]
        )
        thresholds = [0.15, 0.2, 0.25, 0.3]
        best = max(thresholds, key=lambda t: whole_figures(halves[0], by_centroid(t))["b_cubed"])
        results[name] = whole_figures(halves[1], by_centroid(best)) | {"threshold": best}
        results[name] |= drawn_figures(halves[1], by_centroid(best), DRAWS)
    return results
