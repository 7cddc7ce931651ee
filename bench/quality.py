"""`make quality`: figures for identity, copies and stories, as a table and as JSON.

    python -m bench.quality [--output bench/results/quality.json] [--quick]

The labelled data are looked for in the folder NEWSLOOM_TEST_DATA; without it only synthetic texts
are measured. Parameters were chosen on odd topic numbers; the figures are those of even ones.
"""

import argparse
import json
import os
import platform
import sys
import time
from collections.abc import Callable
from itertools import count
from pathlib import Path
from typing import Any

from bench import quality_copies, quality_stories, quality_urls
from newsloom.core.article import Article
from newsloom.core.enrichment.text import clean_text
from newsloom.core.folding import fold
from newsloom.core.identity import canonicalise
from newsloom.core.signatures import signature

REPEATS = 3000
GOALS = {
    "stories full": (
        ("b_cubed", 0.92),
        ("ari", 0.87),
        ("hard_apart", 0.85),
        ("singles", 0.91),
        ("skew", 0.94),
    ),
    "stories excerpt": (
        ("b_cubed", 0.90),
        ("ari", 0.85),
        ("hard_apart", 0.89),
        ("singles", 0.94),
        ("skew", 0.92),
    ),
    "copies": (("precision", 0.99), ("recall_jaccard", 0.98), ("recall_containment", 0.95)),
}
SITE = "www.example.com/2024/05/01/business/bank-raises-rates-{}"
URLS = (
    f"https://{SITE}?utm_source=feed&id=20417",
    f"https://{SITE}",
    f"https://{SITE}/amp",
    f"https://www-example-com.cdn.ampproject.org/c/s/{SITE}/amp",
)
TEXT = (
    "The central bank raised its benchmark interest rate by a quarter point on Wednesday, saying "
    "inflation remained too high even as growth slows. Officials signalled that one more increase "
    "may follow this year, depending on wages, energy prices and the pace of hiring in the region."
)


def main() -> None:
    """Measure, print, write."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--output", type=Path, default=Path("bench/results/quality.json"))
    parser.add_argument("--quick", action="store_true", help="fewer draws and planted records")
    options = parser.parse_args()
    folder = os.environ.get("NEWSLOOM_TEST_DATA")
    results = measure(Path(folder) if folder else None, quick=options.quick)
    print(table(results))
    options.output.parent.mkdir(parents=True, exist_ok=True)
    options.output.write_text(json.dumps(results, indent=2) + "\n", encoding="utf-8")


def measure(folder: Path | None, *, quick: bool) -> dict[str, Any]:
    """Return all figures; `folder` None: only those that need no labelled data."""
    draws, count = (4, 1500) if quick else (quality_stories.DRAWS, 5000)
    results: dict[str, Any] = {
        "machine": {"python": platform.python_version(), "processor": platform.machine()},
        "labelled_data": folder is not None,
        "time": _times(),
        "urls": quality_urls.measure(folder),
        "copies": {
            f"planted, {name}": quality_copies.planted(count, 1, name)
            for name in quality_copies.SETTINGS
        },
    }
    if folder is None:
        print("NEWSLOOM_TEST_DATA is not set: synthetic texts only", file=sys.stderr)
        texts = quality_stories.synthetic()
        results["stories"] = {"synthetic": quality_stories.measure(texts, draws=draws)}
        return results
    texts = quality_stories.labelled(folder)
    odd = [text for text in texts if text.topic % 2]
    even = [text for text in texts if not text.topic % 2]
    results["copies"]["labelled"] = quality_copies.labelled(texts)
    results["stories"] = {
        "even topics": quality_stories.measure(even, draws=draws),
        "odd topics (chosen on)": quality_stories.measure(odd, draws=draws),
        "all topics": quality_stories.measure(texts, draws=draws),
        "centroid baseline, even topics": quality_stories.baseline(odd, even),
    }
    return results


def _times() -> dict[str, float]:
    """Processor time in microseconds for a 300-character article of plain text.

    Its four addresses are all canonicalised, as ingest does; each is new.
    """
    article = Article(
        urls=(), content_hash=b"", field_hashes={}, title="Bank raises rates", excerpt=TEXT
    )
    new = count()

    def canonical() -> None:
        for url in URLS:
            canonicalise(url.format(next(new)))

    def signed() -> None:
        signature(fold(article.title, TEXT, None))

    def whole() -> None:
        clean_text(article)
        canonical()
        signed()

    steps: dict[str, Callable[[], object]] = {
        "clean_up": lambda: clean_text(article),
        "one_canonical_url": lambda: canonicalise(URLS[0].format(next(new))),
        "four_canonical_urls": canonical,
        "signature": signed,
        "all_three_with_four_urls": whole,
    }
    return {f"{name}_microseconds": _micros(step) for name, step in steps.items()}


def _micros(step: Callable[[], object]) -> float:
    best = float("inf")
    for _ in range(5):
        started = time.process_time()
        for _ in range(REPEATS // 5):
            step()
        best = min(best, (time.process_time() - started) / (REPEATS // 5) * 1e6)
    return best


def table(results: dict[str, Any]) -> str:
    """Return the figures as Markdown, with the goal beside each figure that has one."""
    lines = ["| what | figure | reach |", "|---|---|---|", *_url_rows(results["urls"])]
    for name, figures in results["copies"].items():
        lines += _rows(f"copies, {name}", figures, GOALS["copies"])
        lines += _kind_rows(f"copies, {name}", figures)
    for half, kinds in results["stories"].items():
        for kind, figures in kinds.items():
            lines += _rows(f"stories, {half}, {kind}", figures, GOALS[f"stories {kind}"])
    for name, micros in results["time"].items():
        goal = "<= 60" if name.startswith("all") else ""
        lines.append(f"| {name.replace('_', ' ')}, 300 characters | {micros:.1f} | {goal} |")
    return "\n".join(lines)


def _url_rows(urls: dict[str, float]) -> list[str]:
    distinct = f"{urls['keys']} of {urls['urls']}"
    cases = f"{urls['cases_with_our_verdict']} of {urls['cases']}"
    worst, micros = f"{urls['variants_worst_form']:.4f}", f"{urls['microseconds_a_variant']:.1f}"
    return [
        f"| addresses: distinct ones with a key of their own | {distinct} | all |",
        f"| addresses: variants that reach the key, worst of eleven forms | {worst} | 0.99 |",
        f"| addresses: collected cases with our verdict | {cases} | all |",
        f"| addresses: microseconds a variant | {micros} | |",
    ]


def _kind_rows(name: str, figures: dict[str, float]) -> list[str]:
    """Rows of what the generator planted: each kind of copy, each kind of trap."""
    kinds = {
        "recall": [kind.value for kind in quality_copies.COPIES],
        "wrongly_linked": [kind.value for kind in quality_copies.TRAPS],
    }
    return [
        f"| {name}: {what.replace('_', ' ')}, {kind} | {figures[f'{what}_{kind}']:.3f} | |"
        for what, names in kinds.items()
        for kind in names
        if f"{what}_{kind}" in figures
    ]


def _rows(name: str, figures: dict[str, float], goals: tuple[tuple[str, float], ...]) -> list[str]:
    rows = [
        f"| {name}: {key.replace('_', ' ')} | {figures[key]:.3f} | {goal} |" for key, goal in goals
    ]
    micros = figures.get("microseconds_an_article")
    return rows + ([f"| {name}: microseconds an article | {micros:.0f} | |"] if micros else [])


if __name__ == "__main__":
    main()
