"""Stories: what is compared, when two texts tell one event, and what becomes of a stream."""

import random
import time
from collections import defaultdict
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from uuid import UUID

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from newsloom.core.change_log import StoryChangeKind
from newsloom.core.stories import StoryConfig, StoryReason, explain_story, grouped
from newsloom.core.story_index import (
    StoryChange,
    StoryIndex,
    StoryInput,
    StoryState,
)
from newsloom.core.text_features import MAX_TERMS, Features, features

START = datetime(2024, 5, 1, 12, tzinfo=UTC)
SMALL = StoryConfig(bucket_bits=16)
COMMON = [f"common{number}" for number in range(400)]


def telling(event: int, seed: int, words: int = 40) -> Features:
    """An article about an event: words of the event's own among words that all share."""
    rng = random.Random(f"{event}/{seed}")
    own = [f"event{event}word{number}" for number in range(12)]
    text = [rng.choice(own) if rng.random() < 0.5 else rng.choice(COMMON) for _ in range(words)]
    title = f"Minister{event} meets {rng.choice(own)} and {rng.choice(own)} again"
    return features(title, None, " ".join(text) + ".")


def article(
    number: int,
    told: Features,
    *,
    sequence: int | None = None,
    seconds: float = 0,
    published: datetime | None = None,
    related: frozenset[UUID] = frozenset(),
) -> StoryInput:
    return StoryInput(
        UUID(int=number),
        number if sequence is None else sequence,
        told,
        START + timedelta(seconds=seconds),
        published,
        related,
    )


def stories(index: StoryIndex) -> set[frozenset[int]]:
    """The stories of more than one article, as sets of article numbers."""
    found = defaultdict(set)
    for state in index.export():
        if state.story_id:
            found[state.story_id].add(state.article.article_id.int)
    return {frozenset(members) for members in found.values() if len(members) > 1}


# Terms


def test_names_numbers_and_stems_are_terms() -> None:
    one = features("", None, "Later in the day Tara Reid was in 1930 entering hospitals there.")
    for part in ("tara reid", "Tara Reid", "1930", "enters hospital", "x Tara"):
        assert np.isin(features("", None, part).terms, one.terms).any(), part


@pytest.mark.parametrize(
    "title",
    [
        "May 2, 2013, 1: 12 PM",
        "DECEMBER 16, 2008",
        "8 / 2 / 13 at 1: 30 PM",
        "Posted 12 / 19 / 2005",
    ],
)
def test_a_date_line_as_a_title_counts_for_nothing(title: str) -> None:
    assert features(title, None, "Something happened").terms.tolist() == (
        features("", None, "Something happened").terms.tolist()
    )


def test_scripts_without_spaces_have_terms_in_common() -> None:
    one, other = features("東京で大きな地震があった"), features("昨日の地震、東京")
    assert len(np.intersect1d(one.terms, other.terms)) >= 2


@given(st.text(), st.text())
def test_every_text_has_features_that_survive_storage(title: str, body: str) -> None:
    made = features(title, None, body)
    assert Features.from_bytes(made.to_bytes()) == made
    assert len(made.terms) == len(set(made.terms.tolist())) <= MAX_TERMS


@pytest.mark.parametrize(
    "hostile",
    ["1" * 99 + "x", "may " * 24 + "x", "a" * 1_000_000, "A b. " * 200_000, "\u0301" * 100_000],
)
def test_hostile_texts_cost_no_more_than_long_ones(hostile: str) -> None:
    started = time.process_time()
    features(hostile, hostile, hostile)
    assert time.process_time() - started < 0.5


@pytest.mark.parametrize("stored", [b"", b"\x02", b"\x01abc"])
def test_stored_features_of_another_version_or_length_are_refused(stored: bytes) -> None:
    with pytest.raises(ValueError, match="features"):
        Features.from_bytes(stored)


# One pair


def test_a_pair_is_judged_with_its_numbers() -> None:
    same = explain_story(telling(1, 1), telling(1, 2))
    other = explain_story(telling(1, 1), telling(2, 1))
    assert same.reason is StoryReason.SAME_STORY
    assert other.reason is StoryReason.DIFFERENT
    assert same.score > same.threshold > other.score
    assert explain_story(features(""), telling(1, 1)).reason is StoryReason.NO_TEXT


def test_publication_times_far_apart_speak_against_one_story() -> None:
    near = explain_story(telling(1, 1), telling(1, 2), days_apart=1)
    far = explain_story(telling(1, 1), telling(1, 2), days_apart=400)
    assert near.time_cost == 0
    assert far.score == pytest.approx(near.score - SMALL.most_time_cost)


def test_a_related_edge_speaks_for_one_story() -> None:
    without = explain_story(telling(1, 1), telling(2, 2))
    gain = explain_story(telling(1, 1), telling(2, 2), related=True).score - without.score
    assert gain == pytest.approx(SMALL.related_gain)


# Grouping


def test_groups_are_joined_by_their_mean_similarity() -> None:
    similarities = np.array([[0, 0.9, 0.5], [0.9, 0, 0.1], [0.5, 0.1, 0]], np.float64)
    singles = [[0], [1], [2]]
    strict, lenient = replace(SMALL, threshold=0.35), replace(SMALL, threshold=0.15)
    assert grouped(similarities, singles, strict) == [[0, 1], [2]]
    assert grouped(similarities, singles, lenient) == [[0, 1, 2]]
    assert grouped(similarities, [[0, 2], [1]], strict) == [[0, 2, 1]]


def test_groups_that_hold_together_are_not_joined_for_what_their_kind_has_in_common() -> None:
    """Two events of one kind, and one event that is no closer within than across."""
    members = np.arange(12)
    same = (members < 6)[:, None] == (members < 6)[None, :]
    singles = [[at] for at in members.tolist()]
    for within, count in ((0.6, 2), (0.28, 1)):
        similarities = np.where(same, within, 0.25)
        np.fill_diagonal(similarities, 0)
        assert len(grouped(similarities, singles, SMALL)) == count
        assert len(grouped(similarities, singles, replace(SMALL, closeness=0.0))) == 1
        # What stays together as a block is known by its own mean too.
        assert len(grouped(similarities, [[0, 1, 2, 3], *singles[4:]], SMALL)) == count


# The index


def test_articles_of_one_event_become_one_story() -> None:
    index = StoryIndex(SMALL)
    numbers = list(range(60))
    random.Random(1).shuffle(numbers)
    for at, number in enumerate(numbers):
        index.observe(article(number, telling(number % 12, number), sequence=at))
    assert stories(index) == {frozenset(range(event, 60, 12)) for event in range(12)}


def test_a_story_is_founded_by_its_second_article_and_then_grows() -> None:
    index = StoryIndex(SMALL)
    assert index.observe(article(1, telling(1, 1))) == []
    created = index.observe(article(2, telling(1, 2)))
    assert [change.kind for change in created] == [StoryChangeKind.CREATED]
    assert {member.article_id.int for member in created[0].members} == {1, 2}
    grown = index.observe(article(3, telling(1, 3)))
    assert [change.kind for change in grown] == [StoryChangeKind.GROWN]
    assert grown[0].story_id == created[0].story_id
    assert grown[0].members[0].score > SMALL.threshold


def test_publication_time_separates_the_same_kind_of_event_in_another_year() -> None:
    index = StoryIndex(replace(SMALL, most_time_cost=0.9, day_cost=0.1))
    # Other news around it: where all tell one event, none of its words is rare.
    index.observe_all([article(100 + event, telling(100 + event, 1)) for event in range(40)])
    for number in range(8):
        published = START - timedelta(days=365 * (number % 2))
        index.observe(article(number, telling(1, number), published=published))
    found = stories(index)
    assert len(found) == 2
    assert all(len({number % 2 for number in story}) == 1 for story in found)


def test_related_edges_join_what_the_words_leave_apart() -> None:
    config = replace(SMALL, related_gain=0.5)
    for named in (frozenset({UUID(int=2)}), frozenset[UUID]()):
        index = StoryIndex(config)
        index.observe(article(1, telling(1, 1), related=named))
        index.observe(article(2, telling(2, 2)))
        assert stories(index) == ({frozenset({1, 2})} if named else set())


def test_a_revised_article_leaves_its_story_for_the_one_it_tells_now() -> None:
    index = StoryIndex(SMALL)
    for number in range(8):
        index.observe(article(number, telling(number % 2, number)))
    changes = index.observe(article(7, telling(0, 7), sequence=100))
    assert [change.kind for change in changes] == [StoryChangeKind.LEFT, StoryChangeKind.GROWN]
    assert stories(index) == {frozenset({0, 2, 4, 6, 7}), frozenset({1, 3, 5})}


def test_an_article_between_two_stories_merges_them_and_one_id_survives() -> None:
    index = StoryIndex(replace(SMALL, threshold=0.05, few_pairs=0.05))
    half = [f"half{number}" for number in range(30)]
    texts = [half[:18], half[:18], half[12:], half[12:], half, half]
    kinds = []
    for number, words in enumerate(texts):
        told = features("", None, " ".join(words))
        kinds += [change.kind for change in index.observe(article(number, told))]
    assert len(stories(index)) == 1
    assert StoryChangeKind.CREATED in kinds


def test_a_story_outlives_the_articles_that_left_the_window() -> None:
    index = StoryIndex(SMALL)
    for number in range(4):
        index.observe(article(number, telling(1, number), seconds=number * 100))
    story = index.story_of(UUID(int=3))
    assert index.forget_before(START + timedelta(seconds=250)) == 3
    changes = index.observe(article(9, telling(1, 9), seconds=400))
    assert [(change.kind, change.story_id) for change in changes] == [
        (StoryChangeKind.GROWN, story)
    ]


def test_an_article_without_words_is_in_no_story() -> None:
    index = StoryIndex(SMALL)
    assert index.observe_all([article(number, features("")) for number in range(3)]) == [[]] * 3


# Changes lead from one state to the next


def apply_changes(known: dict[UUID, UUID], changes: list[StoryChange]) -> None:
    """What a reader of the changes knows: article -> story."""
    for change in changes:
        if change.kind is StoryChangeKind.LEFT:
            for member in change.members:
                known.pop(member.article_id, None)
        elif change.kind is StoryChangeKind.MERGED:
            for key, story in list(known.items()):
                if story == change.story_id and change.other:
                    known[key] = change.other
                elif story == change.story_id:
                    del known[key]
        else:
            known.update(dict.fromkeys((m.article_id for m in change.members), change.story_id))


def stream(seed: int, count: int) -> list[StoryInput]:
    """Few events with much in common, revisions, times and edges: much to merge and to split."""
    rng = random.Random(seed)
    articles = []
    for at in range(count):
        number = rng.randrange(count)
        words = [f"w{rng.randrange(8)}x{rng.randrange(12)}" for _ in range(rng.randint(0, 8))]
        event = rng.randrange(8)
        words += [f"w{event}x{rng.randrange(12)}" for _ in range(rng.randint(0, 10))]
        published = START - timedelta(days=rng.randint(0, 9)) if rng.random() < 0.5 else None
        related = frozenset({UUID(int=rng.randrange(count))} if rng.random() < 0.1 else ())
        told = features("", None, " ".join(words))
        articles.append(
            article(number, told, sequence=at, seconds=at, published=published, related=related)
        )
    return articles


TIGHT = StoryConfig(
    bucket_bits=12, threshold=0.2, chain_cap=3, candidates=5, pool_articles=12, story_sample=4
)


@settings(max_examples=15, deadline=None)
@given(st.integers(0, 10_000), st.lists(st.integers(1, 40), min_size=1, max_size=12))
def test_changes_do_not_depend_on_batches(seed: int, sizes: list[int]) -> None:
    articles = stream(seed, 80)
    single, batched = StoryIndex(TIGHT), StoryIndex(TIGHT)
    expected = [single.observe(one) for one in articles]
    got: list[list[StoryChange]] = []
    while len(got) < len(articles):
        size = sizes[len(got) % len(sizes)]
        got += batched.observe_all(articles[len(got) : len(got) + size])
    assert got == expected
    assert single.export() == batched.export()


@settings(max_examples=15, deadline=None)
@given(st.integers(0, 10_000))
def test_whoever_applies_the_changes_knows_the_stories(seed: int) -> None:
    index = StoryIndex(TIGHT)
    known: dict[UUID, UUID] = {}
    for one in stream(seed, 100):
        apply_changes(known, index.observe(one))
    states: list[StoryState] = index.export()
    assert known == {s.article.article_id: s.story_id for s in states if s.story_id}


@settings(max_examples=15, deadline=None)
@given(st.integers(0, 10_000), st.integers(1, 119), st.integers(5, 50))
def test_an_index_restored_at_any_point_goes_on_the_same(seed: int, cut: int, kept: int) -> None:
    articles = stream(seed, 120)
    whole = StoryIndex(TIGHT)
    for one in articles[:cut]:
        whole.observe(one)
    whole.forget_before(START + timedelta(seconds=cut - kept))
    restored = StoryIndex(TIGHT)
    restored.restore(whole.export())
    assert restored.export() == whole.export()
    for at, one in enumerate(articles[cut:], cut):
        assert restored.observe(one) == whole.observe(one)
        if at % 20 == 0:
            moment = START + timedelta(seconds=at - kept)
            assert restored.forget_before(moment) == whole.forget_before(moment)
    assert restored.export() == whole.export()


def test_a_window_that_moves_on_does_not_grow() -> None:
    index = StoryIndex(SMALL)
    sizes = []
    for batch in range(40):
        numbers = range(batch * 100, batch * 100 + 100)
        index.observe_all(
            [article(number, telling(number % 7, number, 20), seconds=batch) for number in numbers]
        )
        index.forget_before(START + timedelta(seconds=batch - 3))
        sizes.append(index.nbytes)
    assert len(index) == 400
    assert max(sizes[30:]) <= 1.02 * max(sizes[10:30])
