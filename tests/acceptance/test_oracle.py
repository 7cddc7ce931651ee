"""The judge itself on small cases worked out by hand: nobody else checks it."""

import random
from datetime import UTC, datetime, timedelta
from uuid import UUID

import pytest

from tests.support.generator import Message, Stream, front_matter
from tests.support.oracle import (
    Delivery,
    Oracle,
    TieError,
    article_id,
    article_key,
    content_of,
    record_of_text,
    refusal,
    signals_of,
)

T0 = datetime(2024, 1, 1, tzinfo=UTC)
A, B, C = "https://a.example/1", "https://b.example/2", "https://c.example/3"


def record(**changes: object) -> dict[str, object]:
    """Build a small full record; a None takes a field away."""
    base: dict[str, object] = {"title": "Bees", "originalUrl": A, "heat": 5, "secured": "x;y"}
    return {name: value for name, value in {**base, **changes}.items() if value is not None}


def feed(*steps: tuple[int, dict[str, object] | None]) -> tuple[Oracle, list[str]]:
    """Apply (minute, record) steps; returns the judge and the outcomes."""
    oracle = Oracle()
    outcomes = oracle.feed_all(
        Delivery("t", 0, offset, value, T0 + timedelta(minutes=minute))
        for offset, (minute, value) in enumerate(steps)
    )
    return oracle, outcomes


@pytest.mark.parametrize(
    ("second", "outcome"),
    [
        (record(), "unchanged"),
        (record(secured="x;z"), "refreshed"),
        (record(secured=None), "refreshed"),
        (record(heat=6), "refreshed"),
        (record(heat="5"), "unchanged"),
        (record(heat=-1), "refreshed"),
        (record(quality=-1), "unchanged"),
        (record(ratings={"average": "4.5"}), "refreshed"),
        (record(title="Wasps"), "revised"),
        (record(title="  Bees \n"), "unchanged"),
        (record(desk="night"), "revised"),
        (record(body="Text."), "revised"),
        (record(topics=["x"]), "revised"),
        (record(originalUrl="http://www.a.example:80/1/?utm_source=x#top"), "unchanged"),
        (record(webUrl=B), "revised"),
        (record(related=[{"title": "Other", "webUrl": B}]), "revised"),
        (record(originalUrl=B), "created"),
        (record(title=None), "rejected"),
        (None, "rejected"),
    ],
)
def test_a_second_delivery_gets_its_outcome(second: dict[str, object], outcome: str) -> None:
    assert feed((0, record()), (1, second))[1] == ["created", outcome]


def test_topics_are_a_set_and_signals_of_related_entries_do_not_count() -> None:
    one = record(topics=["x", "y"], related=[{"title": "O", "webUrl": B, "quality": 1}])
    two = record(topics=["y", "x"], related=[{"title": "O", "webUrl": B, "quality": 2}])
    assert feed((0, one), (1, two))[1] == ["created", "unchanged"]


def test_an_older_delivery_is_stale_and_an_unchanged_one_moves_the_order_on() -> None:
    steps = ((0, record()), (10, record()), (5, record(title="Wasps")), (10, record()))
    oracle, outcomes = feed(*steps)
    assert outcomes == ["created", "unchanged", "stale", "unchanged"]
    assert oracle.revisions == 1
    assert oracle.full_articles[0].observed_at == T0 + timedelta(minutes=10)


def test_an_older_delivery_still_lowers_first_seen_and_tells_urls_and_mentions() -> None:
    late = record(webUrl=B, title="Old", related=[{"title": "Other", "webUrl": C}])
    oracle, outcomes = feed((10, record()), (0, late))
    assert outcomes == ["created", "stale"]
    assert oracle.full_articles[0].first_seen_at == T0
    assert set(oracle.owner) == {"a.example/1", "b.example/2", "c.example/3"}
    assert [m.record["title"] for m in oracle.mentions] == ["Other"]
    assert oracle.edges() == {}


def test_a_mention_becomes_a_full_article_and_never_overwrites_one() -> None:
    mentions_b = record(related=[{"title": "Heard of B", "webUrl": B}])
    full_b = record(originalUrl=B, title="B itself")
    oracle, outcomes = feed((5, mentions_b), (1, full_b), (9, mentions_b))
    assert outcomes == ["created", "created", "unchanged"]
    assert [(a.record["title"], a.observed_at) for a in oracle.full_articles] == [
        ("Bees", T0 + timedelta(minutes=9)),
        ("B itself", T0 + timedelta(minutes=1)),
    ]
    assert oracle.edges() == {article_id("a.example/1"): [article_id("b.example/2")]}


@pytest.mark.parametrize(("first", "second"), [(1, 2), (2, 1)])
def test_of_two_mentions_the_later_observed_wins(first: int, second: int) -> None:
    def naming(minute: int, url: str) -> tuple[int, dict[str, object]]:
        entry = {"title": f"At {minute}", "webUrl": C}
        return minute, record(originalUrl=url, related=[entry])

    oracle, _ = feed(naming(first, A), naming(second, B))
    assert [m.record["title"] for m in oracle.mentions] == ["At 2"]


def test_a_related_entry_that_is_the_record_itself_makes_no_edge() -> None:
    entries = [
        {"title": "O", "webUrl": B},
        {"title": "I", "webUrl": A},
        {"title": "P", "webUrl": C},
    ]
    oracle, _ = feed((0, record(related=entries)))
    targets = [article_id("b.example/2"), article_id("c.example/3")]
    assert oracle.edges() == {article_id("a.example/1"): targets}


def test_a_bridging_record_merges_and_is_judged_against_the_winner() -> None:
    one, two = record(), record(originalUrl=B, title="B says")
    bridge = record(originalUrl=B, webUrl=A, title="B says")
    oracle, outcomes = feed((3, one), (5, two), (7, bridge))
    assert outcomes == ["created", "created", "revised"]
    older, newer = article_id("a.example/1"), article_id("b.example/2")
    assert set(oracle.articles) == {older}
    assert oracle.moved == {newer: older}
    assert oracle.revisions == 3
    assert oracle.urls() == {older: {"a.example/1", "b.example/2"}}
    assert oracle.articles[older].first_seen_at == T0 + timedelta(minutes=3)


def test_a_merge_prefers_full_content_to_a_later_mention() -> None:
    mention = record(originalUrl=C, related=[{"title": "Heard", "webUrl": B}])
    stale_bridge = record(webUrl=B, title="Late", heat=1)
    oracle, outcomes = feed((3, record()), (9, mention), (1, stale_bridge))
    assert outcomes == ["created", "created", "stale"]
    assert oracle.articles[article_id("a.example/1")].record["title"] == "Bees"
    assert not oracle.mentions


def test_equal_ages_are_decided_by_the_smaller_id() -> None:
    bridge = record(webUrl=B)
    one, two = record(), record(originalUrl=B)
    oracle, _ = feed((3, one), (3, two), (4, two), (7, bridge))
    assert set(oracle.articles) == {min(article_id("a.example/1"), article_id("b.example/2"))}


def test_what_only_the_services_hash_could_order_is_not_judged() -> None:
    with pytest.raises(TieError):
        feed((0, record()), (0, record(title="Wasps")))


def test_records_that_are_no_articles_are_refused_with_what_they_miss() -> None:
    assert refusal({"name": "Robin", "bio": "..."}) == ("not-an-article", ("title", "url"))
    assert refusal(record(originalUrl=None)) == ("not-an-article", ("url",))
    assert refusal(record(publishedDateTime="2024-13-45")) == ("time.invalid", ())
    assert refusal(record(originalUrl="ftp://a.example")) == (None, ())
    assert refusal(record(originalUrl="ftp://a.example", webUrl=B)) is None


@pytest.mark.parametrize(
    ("url", "key"),
    [
        ("https://WWW.A.example/Path/", "a.example/Path"),
        ("http://a.example:443/p", "a.example:443/p"),
        ("https://a.example:443/p", "a.example/p"),
        ("https://a.example/?b=2&a=1&fbclid=3#x", "a.example?a=1&b=2"),
        ("https://a.example./p?v=Ab", "a.example/p?v=Ab"),
        ("mailto:x@a.example", None),
        ("https://[::1", None),
        ("/relative", None),
        (7, None),
    ],
)
def test_urls_are_folded_as_the_rules_say(url: object, key: str | None) -> None:
    assert article_key(url) == key


def test_ids_are_the_first_half_of_a_sha256() -> None:
    assert article_id("a.example/1") == UUID("939ac7e3-115e-356e-7ea9-09319ed1b848")


# --- the generator and the judge together ---------------------------------------------------------


def _deliveries(messages: list[Message]) -> list[Delivery]:
    return [Delivery("t", 0, n, m.record, m.observed_at) for n, m in enumerate(messages)]


def test_a_made_up_stream_has_all_outcomes_in_about_the_real_proportions() -> None:
    oracle = Oracle()
    oracle.feed_all(_deliveries(list(Stream(11, deliveries=4000))))
    total = oracle.outcomes.total()
    assert all(oracle.outcomes[name] for name in ("unchanged", "stale", "rejected"))
    assert oracle.outcomes["refreshed"] > 0.7 * total
    assert 0.02 * total < oracle.outcomes["revised"] < 0.08 * total
    assert oracle.moved
    assert oracle.mentions
    assert oracle.edges()


def test_a_made_up_stream_is_the_same_for_the_same_seed() -> None:
    one, two, other = (list(Stream(seed, deliveries=300)) for seed in (5, 5, 6))
    assert one == two != other
    assert len({m.observed_at for m in one}) == len(one)


def test_front_matter_says_what_the_wire_says() -> None:
    for message in Stream(3, deliveries=400):
        read = record_of_text(front_matter(message.record))
        assert content_of(read) == content_of(message.record)
        assert signals_of(read) == signals_of(message.record)


@pytest.mark.parametrize("seed", range(5))
def test_the_final_world_does_not_depend_on_how_partitions_interleave(seed: int) -> None:
    deliveries = _deliveries(list(Stream(seed, deliveries=1500, related=0.5)))
    worlds = []
    for shuffle in range(3):
        oracle = Oracle()
        oracle.feed_all(_interleaved(deliveries, random.Random(shuffle)))
        worlds.append(oracle.world())
    assert worlds[0] == worlds[1] == worlds[2]


def _interleaved(deliveries: list[Delivery], rng: random.Random) -> list[Delivery]:
    """Split over four partitions at random and take from them at random, each in order."""
    queues: list[list[Delivery]] = [[], [], [], []]
    for delivery in deliveries:
        rng.choice(queues).append(delivery)
    mixed = []
    while queues := [queue for queue in queues if queue]:
        mixed.append(rng.choice(queues).pop(0))
    return mixed
