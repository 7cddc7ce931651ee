import json
import sys
from datetime import UTC, datetime
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from newsloom.core.article import Article, Image, Ratings, Signals, UrlKind
from newsloom.core.mapping import article_from_record, identity_of
from newsloom.core.record import Record, record_from_mapping, record_from_text
from newsloom.errors import Rejected, RejectReason

GOLDEN = "516b38d9dde63077a3e09a7e01277e713de90cb1ee4c99da71790f85624c7545"
GOLDEN_TITLE = "35b0cdc45e015081"
NEEDED = {"title": "A title", "originalUrl": "https://a.example/1"}
FULL = NEEDED | {
    "webUrl": "https://www.a.example/1/?utm_source=x",
    "excerpt": "Some words",
    "publishedDateTime": "2024-02-03T11:00:00+01:00",
    "topics": ["b", "a"],
    "heat": -1,
    "quality": 7,
    "ratings": {"count": 3, "average": 4.5},
    "secured": "x;y",
    "images": [{"url": "https://a.example/i.jpg", "width": 10}, {"url": "/relative.jpg"}],
    "provider": {"name": "P", "domain": "a.example", "authors": ["N"], "desk": "d"},
    "desk": {"floor": 3},
    "related": [
        {"title": "Other", "webUrl": "https://b.example/2", "heat": 4},
        {"title": "Third", "ampWebUrl": "https://c.example/3"},
    ],
}


def article(*changes: dict[str, Any]) -> Article:
    values: dict[str, Any] = dict(FULL)
    for change in changes:
        values |= change
    return article_from_record(record_from_mapping(values).record)


def test_a_record_becomes_an_article_in_the_types_of_the_store() -> None:
    found = article()
    assert found.published_at == datetime(2024, 2, 3, 10, tzinfo=UTC)
    assert found.published_at.tzinfo is UTC
    assert found.signals == Signals(quality=7, heat=None, ratings=Ratings(3, 4.5))
    assert found.images == (Image("https://a.example/i.jpg", 10),)
    assert (found.provider.name, found.provider.domain) == ("P", "a.example")
    assert found.provider.extra == {"authors": ["N"], "desk": "d"}
    assert found.topics == ("b", "a")
    assert found.extra == {"desk": {"floor": 3}}
    assert (found.is_mention, found.is_published, found.is_removed) == (False, None, False)


@pytest.mark.parametrize(
    "values",
    [NEEDED, FULL, FULL | {"related": []}, FULL | {"updatedDateTime": "2024-03-01T00:00:00Z"}],
)
def test_an_identity_is_that_of_the_article(values: dict[str, Any]) -> None:
    record = record_from_mapping(values).record
    whole = article_from_record(record)
    assert identity_of(record) == (whole.key, whole.content_hash)


def test_urls_stand_in_the_order_of_trust_the_first_of_each_key() -> None:
    found = article({"ampWebUrl": "https://other.example/x", "cdnAmpWebUrl": "https://a.example/1"})
    assert [(url.kind, url.canonical.key) for url in found.urls] == [
        (UrlKind.ORIGINAL, "a.example/1"),
        (UrlKind.AMP, "other.example/x"),
    ]
    assert (found.key, found.urls[0].given) == ("a.example/1", "https://a.example/1")


def test_related_entries_are_mentions_in_their_order() -> None:
    first, second = article().related
    assert (first.key, second.key) == ("b.example/2", "c.example/3")
    assert first.is_mention
    assert first.signals.heat == 4
    assert first.content_hash != second.content_hash
    assert second.urls[0].kind is UrlKind.AMP


def test_a_record_that_never_had_a_url_is_refused_here_too() -> None:
    with pytest.raises(Rejected) as caught:
        article_from_record(Record(title="x"))
    assert caught.value.reason is RejectReason.NOT_AN_ARTICLE


@pytest.mark.parametrize(
    "change",
    [
        {"heat": 99},
        {"quality": -1},
        {"ratings": {"count": 4}},
        {"ratings": None},
        {"secured": "z"},
        {"secured": None},
        {"title": " A\n title "},
        {"excerpt": "Some  words "},
        {"topics": ["a", "b", "a "]},
        {"publishedDateTime": "2024-02-03 10:00:00Z"},
        {"webUrl": "http://a.example/1?utm_campaign=y"},
        {"tags": []},
        {"unheard": None},
        {"desk": {"floor": "3", "heat": 5}},
        {"desk": {"floor": 3, "secured": "q"}},
        {
            "related": [
                {"title": "Other ", "webUrl": "http://b.example/2/", "heat": 5, "secured": "q"},
                {"title": "Third", "ampWebUrl": "https://c.example/3", "quality": 8},
            ]
        },
    ],
)
def test_what_no_reader_sees_leaves_the_content_hash_alone(change: dict[str, Any]) -> None:
    assert article(change).content_hash == article().content_hash
    assert article(change).field_hashes == article().field_hashes


@pytest.mark.parametrize(
    ("change", "field"),
    [
        ({"title": "a title"}, "title"),
        ({"excerpt": None}, "excerpt"),
        ({"body": "New"}, "body"),
        ({"originalUrl": "https://a.example/2"}, "original_url"),
        ({"webUrl": None}, "web_url"),
        ({"publishedDateTime": "2024-02-03T10:00:01Z"}, "published_date_time"),
        ({"updatedDateTime": "2024-02-03T10:00:01Z"}, "updated_date_time"),
        ({"published": False}, "published"),
        ({"removed": True}, "removed"),
        ({"topics": ["a"]}, "topics"),
        ({"tags": ["b", "a"]}, "tags"),
        ({"provider": {"name": "Q"}}, "provider"),
        ({"images": [{"url": "https://a.example/j.jpg"}]}, "images"),
        ({"desk": {"floor": 4}}, "extra"),
        ({"unheard": [1]}, "extra"),
        ({"actions": [{"url": "x"}]}, "actions"),
        ({"items": ["x"]}, "items"),
        ({"price": "9.5"}, "price"),
        ({"related": FULL["related"][::-1]}, "related"),  # type: ignore[index]
        ({"related": FULL["related"][:1]}, "related"),  # type: ignore[index]
    ],
)
def test_what_a_reader_sees_changes_its_field_and_the_content_hash(
    change: dict[str, Any], field: str
) -> None:
    before, after = article().field_hashes, article(change).field_hashes
    changed = {name for name in {*before, *after} if before.get(name) != after.get(name)}
    assert changed == {field}
    assert article(change).content_hash != article().content_hash
    assert len(after.get(field, "0" * 16)) == 16


def test_a_mention_is_hashed_like_the_record_it_would_be() -> None:
    entry = {"title": "Other", "webUrl": "https://b.example/2"}
    alone = article_from_record(record_from_mapping(entry).record)
    assert article().related[0].content_hash == alone.content_hash


@pytest.mark.parametrize("name", ["body", "featured_content", "published_date_time", "related"])
def test_an_unknown_field_of_a_mention_may_be_named_like_one_of_ours(name: str) -> None:
    entry = {"title": "Other", "webUrl": "https://b.example/2", name: "x"}
    (mention,) = article({"related": [entry]}).related
    assert mention.extra == {name: "x"}
    assert set(mention.field_hashes) == set()
    plain = {"title": "Other", "webUrl": "https://b.example/2"}
    assert mention.content_hash != article({"related": [plain]}).related[0].content_hash


def test_the_hashes_are_stored_and_must_not_change_between_releases() -> None:
    assert article().content_hash.hex() == GOLDEN
    assert article().field_hashes["title"] == GOLDEN_TITLE


SCALARS = (
    st.booleans()
    | st.integers(-1000, 1000)
    | st.floats(-1e6, 1e6).map(lambda number: round(number, 6))
    | st.text("abc ", min_size=1)
)


@given(st.dictionaries(st.text("xyz", min_size=1), SCALARS | st.lists(SCALARS)))
def test_unknown_fields_hash_alike_as_json_values_and_as_front_matter(
    extra: dict[str, Any],
) -> None:
    front = json.dumps(NEEDED | extra)  # JSON is YAML, and its scalars become texts there
    as_text = record_from_text(f"---\n{front}\n---\n").record
    as_json = record_from_mapping(NEEDED | extra).record
    hashes = [article_from_record(record).content_hash for record in (as_text, as_json)]
    assert hashes[0] == hashes[1]


def test_no_kind_of_white_space_makes_other_content() -> None:
    spaces = [chr(code) for code in range(sys.maxunicode + 1) if chr(code).isspace()]
    plain = article({"excerpt": "Two words"})
    for space in (*spaces, "  "):
        written = {"excerpt": f"{space}Two{space}words{space}"}
        assert article(written).content_hash == plain.content_hash, ascii(space)
