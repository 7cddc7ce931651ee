"""What `make quality` measures, in short: planted truths hold, figures stay where they are."""

import os
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from random import Random
from uuid import UUID

import pytest

from bench import quality, quality_copies, quality_metrics, quality_stories
from newsloom.core.generate import GenerateConfig, Generated, Generator, Planted
from newsloom.core.identity import canonicalise


def generated(count: int, config: GenerateConfig | None = None, seed: int = 1) -> list[Generated]:
    return list(Generator(Random(seed), config or GenerateConfig()).records(count))


def key(one: Generated) -> str:
    found = canonicalise(one.record["originalUrl"])
    assert found is not None
    return found.key


# What the generator plants


def test_duplicates_and_revisions_have_the_key_of_their_article_and_nobody_else_has() -> None:
    made = generated(3000)
    keys = {one.article: key(one) for one in made if one.planted is not Planted.DUPLICATE}
    assert len(set(keys.values())) == len(keys)
    duplicates = [one for one in made if one.planted is Planted.DUPLICATE]
    assert all(key(one) == keys[one.article] for one in duplicates)
    forms = {one.record["originalUrl"].split("/news/")[0].split("outlet")[0] for one in duplicates}
    assert forms == {
        "https://www.",
        "https://www-",
        "http://m.",
    }


def test_edits_cover_the_whole_range_and_are_what_the_truth_says() -> None:
    made = generated(4000)
    bodies = {one.article: one.record["body"].split() for one in made}
    originals = {
        one.copy_group: one.record["body"].split()
        for one in made
        if one.planted is Planted.ORIGINAL
    }
    edited = [one for one in made if one.planted is Planted.EDITED]
    assert min(one.edits for one in edited) < 0.02
    assert max(one.edits for one in edited) > 0.55
    for one in edited:
        pairs = list(zip(originals[one.copy_group], bodies[one.article], strict=True))
        changed = sum(a != b for a, b in pairs) / len(pairs)
        assert changed == pytest.approx(one.edits, abs=0.25)


def test_a_rival_is_told_in_the_words_of_another_event_with_other_names() -> None:
    made = generated(2000, GenerateConfig(rivals=0.5))
    names: dict[int, Counter[str]] = {}
    for one in made:
        if one.planted is Planted.ORIGINAL:
            words = one.record["title"].split()
            names.setdefault(one.event, Counter()).update(w for w in words if w[0].isupper())
    rivals = {one.event: one.rival_of for one in made if one.rival_of is not None}
    assert len(rivals) > 100
    told = [(names[a], names[b]) for a, b in rivals.items() if a in names and b in names]
    assert not any(set(one) & set(other) for one, other in told)


# The measures


def test_a_clustering_is_judged_by_pairs_and_by_articles() -> None:
    true = ["1-core", "1-core", "1-plus", "1-plus"]
    perfect, merged = [1, 1, 2, 2], [1, 1, 1, 1]
    for measure in (quality_metrics.b_cubed, quality_metrics.adjusted_rand):
        assert measure(perfect, true) == 1
        assert measure(merged, true) < 0.7
    assert quality_metrics.hard_negatives_apart(perfect, true) == 1
    assert quality_metrics.hard_negatives_apart(merged, true) == 0


@pytest.mark.parametrize("setting", quality_copies.SETTINGS)
def test_planted_copies_are_found_and_traps_are_not(setting: str) -> None:
    figures = quality_copies.planted(700, 3, setting)
    assert figures["precision"] >= 0.99
    assert figures["recall_jaccard"] >= 0.98
    assert figures["recall_containment"] >= 0.95
    assert all(figures[f"pairs_{kind.value}"] > 5 for kind in quality_copies.COPIES)
    assert all(figures[f"articles_{kind.value}"] > 20 for kind in quality_copies.TRAPS)
    assert all(figures[f"wrongly_linked_{kind.value}"] < 0.02 for kind in quality_copies.TRAPS)


def test_a_linker_that_links_everything_would_be_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    def all_one(signatures: Sequence[object], order: object) -> tuple[list[UUID], float]:
        del order
        return [UUID(int=1)] * len(signatures), 1.0

    monkeypatch.setattr(quality_copies, "roots", all_one)
    figures = quality_copies.planted(300, 3, "short")
    assert figures["precision"] < 0.1
    assert figures["wrongly_linked_template"] == 1


def test_made_up_events_and_their_rivals_become_their_stories() -> None:
    texts = quality_stories.synthetic(250)
    assert len({text.event for text in texts if text.event.endswith("plus")}) >= 10
    figures = quality_stories.whole_figures(texts, quality_stories.by_index())
    assert figures["b_cubed"] > 0.95
    assert figures["hard_apart"] > 0.95
    short = [text.cut() for text in texts]
    assert quality_stories.whole_figures(short, quality_stories.by_index())["b_cubed"] > 0.88


@pytest.mark.skipif(not os.environ.get("NEWSLOOM_TEST_DATA"), reason="needs the labelled texts")
def test_stories_of_labelled_texts_are_as_good_as_they_were() -> None:
    """Floors a little below what `make quality` prints for the whole file."""
    texts = quality_stories.labelled(Path(os.environ["NEWSLOOM_TEST_DATA"]))
    Random(0).shuffle(texts)
    found = quality_stories.by_index()(texts)
    events = [text.event for text in texts]
    assert quality_metrics.b_cubed(found, events) > 0.87
    assert quality_metrics.hard_negatives_apart(found, events) > 0.75


def test_the_table_has_a_row_for_each_figure_with_a_goal(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(quality_copies, "SETTINGS", {"short": GenerateConfig(words=(25, 60))})
    monkeypatch.setattr(quality, "REPEATS", 50)
    monkeypatch.setattr(quality_stories, "ORDERS", 1)
    texts = quality_stories.synthetic(80)
    monkeypatch.setattr(quality_stories, "synthetic", lambda: texts)
    printed = quality.table(quality.measure(None, quick=True))
    for what in (
        "addresses: collected cases with our verdict | 54 of 54",
        "copies, planted, short: recall, abridged",
        "copies, planted, short: wrongly linked, template",
        "stories, synthetic, full: hard apart",
        "stories, synthetic, excerpt: skew",
        "all three with four urls microseconds",
    ):
        assert what in printed
