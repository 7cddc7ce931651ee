"""Copies: what a signature is, when two texts are copies, and what the index makes of a stream."""

import random
from datetime import UTC, datetime, timedelta
from uuid import UUID

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from newsloom.core.copies import CopyConfig, CopyReason, explain_copy
from newsloom.core.copy_groups import CopyChange, CopyLinked, CopyUnlinked, RootMoved
from newsloom.core.copy_index import CopyIndex, CopyInput, CopyState
from newsloom.core.folding import MAX_WORDS, fold, split_words
from newsloom.core.signatures import SIG_VERSION, Signature, signature

START = datetime(2024, 5, 1, 12, tzinfo=UTC)
SMALL = CopyConfig(bucket_bits=16)
VOCABULARY = [f"word{number}" for number in range(3000)]


def text_of(seed: int, words: int = 60) -> str:
    return " ".join(random.Random(seed).choices(VOCABULARY, k=words))


def edited(text: str, share: float, seed: int) -> str:
    rng = random.Random(seed)
    return " ".join(
        rng.choice(VOCABULARY) if rng.random() < share else word for word in text.split()
    )


def article(
    number: int,
    text: str,
    *,
    title: str | None = None,
    seconds: float = 0,
    published: datetime | None = None,
) -> CopyInput:
    headline = title if title is not None else text_of(10_000 + number, 6)
    return CopyInput(
        UUID(int=number),
        signature(fold(headline, None, text)),
        START + timedelta(seconds=seconds),
        published,
    )


def roots(index: CopyIndex) -> dict[UUID, UUID]:
    states = index.export()
    return {
        state.article.article_id: state.root.article_id
        for state in states
        if state.root and state.root.article_id != state.article.article_id
    }


# Folding and signatures


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("The Bank\u2019s cut", "the bank's CUT"),
        ("\ufb01rst \uff21\uff22\uff23", "first abc"),
        ("zero\u200bwidth soft\u00adhyphen", "zerowidth softhyphen"),
        ("Stra\u00dfe", "STRASSE"),
        ("caf\u00e9", "cafe\u0301"),
        ("\u201cquoted\u201d, text", '"quoted" text'),
    ],
)
def test_two_typings_of_the_same_words_fold_to_the_same_words(one: str, other: str) -> None:
    assert split_words(one) == split_words(other)


def test_scripts_without_spaces_give_one_word_a_character() -> None:
    assert len(split_words("東京で地震")) == 5
    assert split_words("Привет, мир") == ["привет".encode(), "мир".encode()]


def test_an_excerpt_that_the_body_begins_with_counts_once() -> None:
    body = text_of(1)
    assert fold("t", body[:50] + "...", body) == fold("t", None, body)
    assert fold("t", "something else", body) != fold("t", None, body)


@given(st.text(), st.text(), st.text())
def test_every_text_has_a_signature_that_survives_storage(a: str, b: str, c: str) -> None:
    made = signature(fold(a, b, c))
    assert Signature.from_bytes(made.to_bytes()) == made


def test_an_endless_text_costs_no_more_than_a_long_one() -> None:
    assert len(fold("title", None, "word " * 1_000_000).words) == MAX_WORDS
    assert len(signature("x" * 10_000_000).shingles) == 0


GOLDEN = {
    "": "01000000000000",
}
GOLDEN_SHINGLES = [
    3697724742,
    519412339,
    2294691531,
    381249091,
    3105398785,
    3344505294,
    4235989902,
    897251146,
]
GOLDEN_BANDS = [3315472171, 583013864, 1992369743, 557448784]
GOLDEN_NUMBERS = [[3562289147, 3053907311]]


def test_signatures_of_this_version_never_change() -> None:
    made = signature(fold("Rates rise", "The bank raised rates to 4.2 percent", None))
    assert SIG_VERSION == 1
    assert made.shingles.tolist() == GOLDEN_SHINGLES
    assert made.bands[:4].tolist() == GOLDEN_BANDS
    assert made.numbers.tolist() == GOLDEN_NUMBERS
    assert made.title_shingles == 2
    for text, stored in GOLDEN.items():
        assert signature(text).to_bytes().hex() == stored


@pytest.mark.parametrize("stored", [b"", b"\x02" + bytes(6), bytes([1, 0, 0, 0, 0, 9, 0])])
def test_a_stored_signature_of_another_version_or_length_is_refused(stored: bytes) -> None:
    with pytest.raises(ValueError, match="signature"):
        Signature.from_bytes(stored)


def test_bands_find_pairs_at_the_rate_that_minhash_promises() -> None:
    found = 0
    for seed in range(200):
        original = text_of(seed, 100)
        one, other = signature(original), signature(edited(original, 0.15, seed + 500))
        found += bool((one.bands == other.bands).any())
    assert found == 200


# One pair


def verdict_of(a: str, b: str, title_a: str = "One headline", title_b: str = "Other") -> CopyReason:
    return explain_copy(signature(fold(title_a, None, a)), signature(fold(title_b, None, b))).reason


BODY = text_of(7, 80)
ABOUT = text_of(8, 45)
TEMPLATE = (
    "Shares of the company {} rose {} percent to close at {} dollars on Tuesday after it reported "
    "quarterly sales of {} million dollars which was more than analysts had expected on average"
)


@pytest.mark.parametrize(
    ("a", "b", "reason"),
    [
        pytest.param(BODY, BODY, CopyReason.COPY, id="word for word"),
        pytest.param(BODY, edited(BODY, 0.2, 1), CopyReason.COPY, id="a fifth edited"),
        pytest.param(BODY, " ".join(BODY.split()[:25]), CopyReason.COPY, id="abridged to the lead"),
        pytest.param(BODY, BODY + " " + ABOUT, CopyReason.COPY, id="boilerplate added"),
        pytest.param(BODY, text_of(9, 80), CopyReason.DIFFERENT, id="another text"),
        pytest.param(
            text_of(11, 40) + " " + ABOUT,
            text_of(12, 40) + " " + ABOUT,
            CopyReason.BOILERPLATE,
            id="nothing but boilerplate in common",
        ),
        pytest.param(
            TEMPLATE.format("alpha", "4.2", "17.30", "310"),
            TEMPLATE.format("alpha", "1.9", "66.01", "1,240"),
            CopyReason.OTHER_NUMBERS,
            id="template with other numbers",
        ),
        pytest.param("too short to say", "too short to say", CopyReason.TOO_SHORT, id="short"),
        pytest.param("", "", CopyReason.TOO_SHORT, id="empty"),
    ],
)
def test_a_pair_of_texts_is_judged_with_its_reason(a: str, b: str, reason: CopyReason) -> None:
    assert verdict_of(a, b) is reason
    assert verdict_of(b, a) is reason


def test_a_shared_title_alone_is_never_a_copy() -> None:
    title = "Minister resigns after long dispute over the budget of the northern railway line"
    assert verdict_of(text_of(1, 9), text_of(2, 9), title, title) is CopyReason.TITLE_ONLY
    assert verdict_of("", "", title, title) is CopyReason.TOO_SHORT


def test_one_changed_number_in_a_long_text_is_an_edit() -> None:
    report = f"{text_of(1, 100)} at least 12 people {text_of(2, 100)}"
    assert verdict_of(report, report.replace("12", "14")) is CopyReason.COPY


@given(st.integers(0, 10_000), st.floats(0, 0.6), st.integers(20, 120))
def test_a_judgement_is_symmetric_and_its_numbers_are_shares(
    seed: int, share: float, words: int
) -> None:
    text = text_of(seed, words)
    a, b = signature(text), signature(edited(text, share, seed))
    one, other = explain_copy(a, b), explain_copy(b, a)
    assert one == other
    assert 0 <= one.jaccard <= one.containment <= 1


# The index


def test_the_earliest_article_is_the_root_whatever_the_order_of_arrival() -> None:
    text = text_of(1)
    for order in ([1, 2, 3], [3, 2, 1], [2, 3, 1]):
        index = CopyIndex(SMALL)
        for at, number in enumerate(order):
            published = START - timedelta(hours=10 - number)
            index.observe(article(number, text, seconds=at, published=published))
        assert roots(index) == {UUID(int=2): UUID(int=1), UUID(int=3): UUID(int=1)}


def test_a_publication_time_counts_back_48_hours_at_most() -> None:
    text = text_of(1)
    index = CopyIndex(SMALL)
    index.observe(article(1, text, title="same", published=START - timedelta(hours=47)))
    forged = article(2, text, title="same", seconds=7200, published=START - timedelta(days=4000))
    assert index.observe(forged)[0] == CopyLinked(UUID(int=2), UUID(int=1), UUID(int=1), 1.0, 1.0)


def test_an_earlier_article_that_arrives_late_takes_over_the_group() -> None:
    text = text_of(1)
    index = CopyIndex(SMALL)
    index.observe(article(1, text, title="same words here"))
    index.observe(article(2, text, title="same words here", seconds=1))
    early = article(3, text, title="same words here", seconds=2, published=START - timedelta(1))
    assert index.observe(early) == [
        RootMoved(UUID(int=1), UUID(int=3)),
        CopyLinked(UUID(int=1), UUID(int=3), UUID(int=3), 1.0, 1.0),
    ]
    assert roots(index) == {UUID(int=1): UUID(int=3), UUID(int=2): UUID(int=3)}


def test_a_revision_drops_and_gains_links() -> None:
    first, second = text_of(1), text_of(2)
    index = CopyIndex(SMALL)
    for number, text in ((1, first), (2, second), (3, first)):
        index.observe(article(number, text, seconds=number))
    changes = index.observe(article(3, second, seconds=3))
    assert changes[0] == CopyUnlinked(UUID(int=3))
    assert roots(index) == {UUID(int=3): UUID(int=2)}
    assert index.observe(article(3, text_of(3), seconds=3)) == [CopyUnlinked(UUID(int=3))]


def test_copies_of_an_erased_root_follow_the_earliest_that_is_left() -> None:
    index = CopyIndex(SMALL)
    for number in (1, 2, 3):
        index.observe(article(number, text_of(1), seconds=number))
    changes = index.remove(UUID(int=1))
    assert CopyUnlinked(UUID(int=2)) in changes
    assert roots(index) == {UUID(int=3): UUID(int=2)}
    assert index.remove(UUID(int=1)) == []


def test_a_root_stays_root_after_it_has_left_the_window() -> None:
    index = CopyIndex(SMALL)
    index.observe(article(1, text_of(1)))
    index.observe(article(2, text_of(1), seconds=100))
    assert index.forget_before(START + timedelta(seconds=50)) == 1
    changes = index.observe(article(3, text_of(1), seconds=200))
    assert [(type(c), c.copy_of) for c in changes if isinstance(c, CopyLinked)] == [
        (CopyLinked, UUID(int=1))
    ]


def test_an_abridged_text_is_found_in_a_long_one_whatever_came_between() -> None:
    index = CopyIndex(SMALL)
    originals = [text_of(seed, 400) for seed in range(30)]
    index.observe_all([article(1 + at, text) for at, text in enumerate(originals)])
    index.observe_all([article(1000 + at, text_of(5000 + at, 50)) for at in range(500)])
    leads = [" ".join(text.split()[:40]) for text in originals]
    index.observe_all([article(2000 + at, text, seconds=1) for at, text in enumerate(leads)])
    assert roots(index) == {UUID(int=2000 + at): UUID(int=1 + at) for at in range(30)}


def test_boilerplate_at_both_ends_is_learned_and_then_links_nothing() -> None:
    head, foot = text_of(1, 40), text_of(2, 40)
    index = CopyIndex(SMALL)
    articles = [
        article(at, f"{head} {text_of(100 + at, 40)} {foot}", seconds=at) for at in range(300)
    ]
    index.observe_all(articles)
    assert all(copy.int <= SMALL.common_after for copy in roots(index))
    copied = article(1000, f"{head} {text_of(350, 40)} {foot}", seconds=1000)
    assert index.observe(copied)[0].article_id == UUID(int=1000)  # type: ignore[union-attr]
    assert roots(index)[UUID(int=1000)] == UUID(int=250)


def test_two_copies_in_one_batch_are_linked() -> None:
    index = CopyIndex(SMALL)
    changes = index.observe_all([article(1, text_of(1)), article(2, text_of(1), seconds=1)])
    assert changes[0] == []
    assert isinstance(changes[1][0], CopyLinked)


# As if one by one, and as if never stopped


def stream(seed: int, count: int) -> list[CopyInput]:
    """Originals, copies of all kinds, revisions and shared boilerplate, in random order."""
    rng = random.Random(seed)
    boilerplate = text_of(seed + 77, 50)
    articles: list[CopyInput] = []
    texts = [text_of(seed * 1000 + at, rng.randint(8, 90)) for at in range(12)]
    for at in range(count):
        text = edited(rng.choice(texts), rng.choice([0, 0.1, 0.3, 0.5]), rng.randrange(1 << 30))
        if rng.random() < 0.3:
            text = " ".join(text.split()[: rng.randint(10, 40)])
        if rng.random() < 0.5:
            text = f"{text} {boilerplate}"
        published = START - timedelta(hours=rng.randint(0, 60)) if rng.random() < 0.5 else None
        number = rng.randrange(count)
        articles.append(article(number, text, seconds=at, published=published))
    return articles


def snapshot(index: CopyIndex) -> list[CopyState]:
    """The states with their edges in one order: the order of finding is not part of the state."""
    return [
        CopyState(s.article, s.root, s.counted, tuple(sorted(s.edges, key=lambda e: e.other_id)))
        for s in index.export()
    ]


LEARNING = CopyConfig(bucket_bits=16, common_after=4, chain_cap=3, verify_cap=5)


@settings(max_examples=12, deadline=None)
@given(st.integers(0, 10_000), st.lists(st.integers(1, 40), min_size=1, max_size=12))
def test_changes_do_not_depend_on_batches(seed: int, sizes: list[int]) -> None:
    articles = stream(seed, 60)
    single, batched = CopyIndex(LEARNING), CopyIndex(LEARNING)
    expected = [single.observe(one) for one in articles]
    got: list[list[CopyChange]] = []
    while len(got) < len(articles):
        size = sizes[len(got) % len(sizes)]
        got += batched.observe_all(articles[len(got) : len(got) + size])
    assert got == expected
    assert snapshot(single) == snapshot(batched)


@settings(max_examples=12, deadline=None)
@given(st.integers(0, 10_000), st.integers(1, 119), st.integers(0, 50))
@example(900, 1, 35)  # a root leaves the window, comes again, and joins another group
@example(2791, 22, 32)  # it comes again with another text, and its group falls apart
def test_an_index_restored_at_any_point_goes_on_the_same(seed: int, cut: int, kept: int) -> None:
    articles = stream(seed, 120)
    whole = CopyIndex(LEARNING)
    for one in articles[:cut]:
        whole.observe(one)
    whole.forget_before(START + timedelta(seconds=cut - kept))
    restored = CopyIndex(LEARNING)
    restored.restore(whole.export())
    assert snapshot(restored) == snapshot(whole)
    for at, one in enumerate(articles[cut:], cut):
        assert restored.observe(one) == whole.observe(one)
        if at % 20 == 0:
            moment = START + timedelta(seconds=at - kept)
            assert restored.forget_before(moment) == whole.forget_before(moment)
    assert snapshot(restored) == snapshot(whole)


def test_a_window_that_moves_on_does_not_grow() -> None:
    index = CopyIndex(SMALL)
    for batch in range(40):
        seconds = batch * 100
        index.observe_all(
            [article(seconds + at, text_of(seconds + at), seconds=seconds) for at in range(100)]
        )
        index.forget_before(START + timedelta(seconds=seconds - 300))
    assert len(index) == 400
    first = index.nbytes
    for batch in range(40, 60):
        seconds = batch * 100
        index.observe_all(
            [article(seconds + at, text_of(seconds + at), seconds=seconds) for at in range(100)]
        )
        index.forget_before(START + timedelta(seconds=seconds - 300))
    assert index.nbytes == first
