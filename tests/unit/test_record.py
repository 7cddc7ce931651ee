import json
import os
import pickle
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from newsloom.core.mapping import article_from_record
from newsloom.core.record import (
    MAX_WIRE_BYTES,
    Invalid,
    Parsed,
    Record,
    record_from_json,
    record_from_mapping,
    record_from_text,
)
from newsloom.errors import Rejected, RejectReason

NEEDED = {"title": "A title", "originalUrl": "https://a.example/1"}


def parsed(**values: Any) -> Parsed:
    return record_from_json(json.dumps(NEEDED | values).encode())


def rejected(value: bytes | dict[str, Any]) -> Rejected:
    with pytest.raises(Rejected) as caught:
        record_from_json(value if isinstance(value, bytes) else json.dumps(value).encode())
    return caught.value


def test_all_fields_of_the_family_are_read() -> None:
    text = """---
category: news
title: "One"
publishedDateTime: 2020-12-18T06:21:00Z
updatedDateTime: 2020-12-18 07:21:00.5+01:00
originalUrl: https://a.example/1
quality: 39
heat: -1
published: false
removed: yes
provider: {name: A, domain: a.example, images: [{url: /x.png, width: 50}], authors: [{name: B}]}
topics: [AI, 2024]
images: [{url: "https://a.example/i.jpg", width: 1280, height: 960, isCached: true}]
ratings: {count: 729, average: 4.6666665}
related: [{title: Two, webUrl: "https://b.example/2", quality: 87}]
secured: "abc;def"
unheard: [of, {it: is}]
---
The body
"""
    record, dropped, unknown = record_from_text(text)
    assert record.published_date_time == datetime(2020, 12, 18, 6, 21, tzinfo=UTC)
    assert record.updated_date_time == datetime(2020, 12, 18, 6, 21, 0, 500_000, tzinfo=UTC)
    assert (record.quality, record.heat) == (39, -1)
    assert (record.published, record.removed) == (False, True)
    assert record.topics == ["AI", "2024"]
    assert record.images is not None
    assert (record.images[0].width, record.images[0].is_cached) == (1280, True)
    assert record.ratings is not None
    assert (record.ratings.count, record.ratings.average) == (729, 4.6666665)
    assert record.related is not None
    assert record.related[0].quality == 87
    assert record.provider is not None
    assert record.provider.authors == [{"name": "B"}]
    assert record.body == "The body\n"
    assert record.__pydantic_extra__ == {"unheard": ["of", {"it": "is"}]}
    assert (dropped, unknown) == (("images.url",), 1)  # the relative one


def test_secured_is_kept_verbatim_and_never_shown() -> None:
    record = parsed(secured=" s3cr3t;iv\n").record
    assert record.secured == " s3cr3t;iv\n"
    assert "s3cr3t" not in repr(record)
    assert "s3cr3t" not in repr(article_from_record(record))
    error = rejected({"name": "x", "secured": "s3cr3t"})
    assert "s3cr3t" not in f"{error!r} {error.detail} {error.problems}"  # type: ignore[attr-defined]


@pytest.mark.parametrize(
    ("record", "detail"),
    [
        (
            {"name": "Robin"},
            "missing title, originalUrl (or webUrl, ampWebUrl, cdnAmpWebUrl)",
        ),
        ({"title": "x"}, "missing originalUrl (or webUrl, ampWebUrl, cdnAmpWebUrl)"),
        ({"title": "x", "webUrl": " "}, "missing originalUrl (or webUrl, ampWebUrl, cdnAmpWebUrl)"),
        ({"title": None, "webUrl": "https://a.example"}, "missing title"),
        ({"title": "\u200b \u00ad", "webUrl": "https://a.example"}, "missing title"),
        ({"webUrl": "https://a.example"}, "missing title"),
    ],
)
def test_what_is_no_article_is_refused_with_what_it_misses(
    record: dict[str, Any], detail: str
) -> None:
    error = rejected(record)
    assert (error.reason, error.detail) == (RejectReason.NOT_AN_ARTICLE, detail)


@pytest.mark.parametrize(
    ("urls", "reason"),
    [
        ({"originalUrl": "javascript:alert(1)"}, RejectReason.URL_SCHEME),
        ({"originalUrl": "java\nscript:alert(1)"}, RejectReason.URL_SCHEME),
        ({"originalUrl": "https://[::1", "webUrl": "ftp://a.example"}, RejectReason.URL_SCHEME),
        ({"webUrl": "https://a:99999/"}, RejectReason.URL_INVALID),
        ({"webUrl": "https://a.example/" + "x" * 2048}, RejectReason.URL_LENGTH),
        ({"webUrl": "https://a.example/\u0000"}, RejectReason.TEXT_CONTROL),
        ({"webUrl": "https://a.example/\ud800"}, RejectReason.TEXT_SURROGATE),
        ({"webUrl": ["https://a.example/"]}, RejectReason.SCHEMA_TYPE),
    ],
)
def test_a_record_without_one_usable_url_is_refused(
    urls: dict[str, Any], reason: RejectReason
) -> None:
    error = rejected({"title": "x", **urls})
    assert error.reason is reason
    assert isinstance(error, Invalid)
    assert {problem.path for problem in error.problems} == urls.keys()


def test_a_useless_url_beside_a_good_one_is_dropped_and_counted() -> None:
    record, dropped, _ = parsed(webUrl="mailto:a@b.example", ampWebUrl="")
    assert (record.web_url, record.amp_web_url) == (None, None)
    assert dropped == ("webUrl",)


@pytest.mark.parametrize(
    ("time", "reason"),
    [
        ("2024-13-45T00:00:00Z", RejectReason.TIME_INVALID),
        ("2024-02-30T00:00:00Z", RejectReason.TIME_INVALID),
        ("2024-02-03T24:00:00Z", RejectReason.TIME_INVALID),
        ("2024-02-03T10:00:60Z", RejectReason.TIME_INVALID),
        ("2024-02-03T10:00Z", RejectReason.TIME_INVALID),
        ("2024-02-03", RejectReason.TIME_INVALID),
        ("20240203T100000Z", RejectReason.TIME_INVALID),
        ("2024-W01-1", RejectReason.TIME_INVALID),
        ("2024-034T10:00:00Z", RejectReason.TIME_INVALID),
        ("1706954400", RejectReason.TIME_INVALID),
        (1706954400, RejectReason.TIME_INVALID),
        ("Sat, 03 Feb 2024 10:00:00 GMT", RejectReason.TIME_INVALID),
        ("٢٠٢٤-02-03T10:00:00Z", RejectReason.TIME_INVALID),
        (["2024-02-03T10:00:00Z"], RejectReason.TIME_INVALID),
        ("2024-02-03T10:00:00", RejectReason.TIME_ZONE),
        ("1899-12-31T23:59:59Z", RejectReason.TIME_RANGE),
        ("0001-01-01T00:00:00+14:00", RejectReason.TIME_RANGE),
        ("9999-12-31T23:59:59.999999Z", RejectReason.TIME_RANGE),
    ],
)
def test_an_invalid_published_time_refuses_the_record(time: Any, reason: RejectReason) -> None:
    error = rejected(NEEDED | {"publishedDateTime": time})
    assert error.reason is reason
    assert error.detail.startswith("publishedDateTime: ")


@pytest.mark.parametrize(
    "time",
    [
        "2024-02-03T10:00:00Z",
        "2024-02-03t10:00:00z",
        "2024-02-03 10:00:00+00:00",
        "2024-02-03T11:00:00.000+01:00",
        "2024-02-03T10:00:00.000000000Z",
    ],
)
def test_rfc_3339_times_mean_the_same_instant(time: str) -> None:
    record = parsed(publishedDateTime=time).record
    assert record.published_date_time == datetime(2024, 2, 3, 10, tzinfo=UTC)


@pytest.mark.parametrize("time", [None, "", "  "])
def test_a_blank_published_time_is_a_missing_one(time: str | None) -> None:
    assert parsed(publishedDateTime=time).record.published_date_time is None


@pytest.mark.parametrize(
    ("values", "dropped"),
    [
        ({"heat": " 5 "}, ["heat"]),
        ({"heat": "1_000"}, ["heat"]),
        ({"heat": "١٢٣"}, ["heat"]),
        ({"heat": True}, ["heat"]),
        ({"heat": 1.5}, ["heat"]),
        ({"quality": "99999999999"}, ["quality"]),
        ({"updatedDateTime": "yesterday"}, ["updatedDateTime"]),
        ({"language": False}, ["language"]),
        ({"published": "maybe"}, ["published"]),
        ({"provider": ["x"]}, ["provider"]),
        ({"type": "x" * 501}, ["type"]),
        ({"ratings": {"count": -1, "average": "4.5"}}, ["ratings.count"]),
        ({"images": [{"url": "https://a.example/i", "width": "wide"}]}, ["images.width"]),
        (
            {"images": [{"width": 5}, {"url": 7, "height": "x"}, 9]},
            ["images", "images", "images.height", "images.url"],
        ),
        ({"topics": ["a", None, {"b": "c"}, "d"]}, ["topics", "topics"]),
        ({"topics": [f"t{n}" for n in range(70)]}, ["topics"]),
        ({"related": [{"title": "x"}, {"webUrl": "https://b.example"}, 5]}, ["related"] * 3),
        ({"related": [NEEDED | {"publishedDateTime": "x"}]}, ["related.publishedDateTime"]),
        ({"related": [NEEDED | {"webUrl": "tel:1"}]}, ["related.webUrl"]),
        ({"excerpt": "x" * 20_001}, ["excerpt"]),
        ({"secured": {"a": "b"}}, ["secured"]),
        ({"actions": ["x"]}, []),
    ],
)
def test_an_invalid_value_that_is_no_identity_is_dropped_and_counted(
    values: dict[str, Any], dropped: list[str]
) -> None:
    found = parsed(**values)
    assert sorted(found.dropped) == dropped
    assert record_from_json(found.record.to_wire()).record == found.record


def test_what_is_kept_beside_a_dropped_value_stays_in_place() -> None:
    record = parsed(
        topics=["a", 1, None, "b", True, "c"],
        images=[{"url": "https://a.example/1"}, {}, {"url": "https://a.example/3", "width": -1}],
        related=[{"title": "x"}, NEEDED | {"heat": "?"}, NEEDED | {"title": 7}],
        provider="Reuters",
        tags="one",
        price=4.5,
    ).record
    assert record.topics == ["a", "1", "b", "c"]
    assert [image.url for image in record.images or ()] == [
        "https://a.example/1",
        "https://a.example/3",
    ]
    assert [entry.title for entry in record.related or ()] == ["A title", "7"]
    assert record.provider is not None
    assert (record.provider.name, record.tags, record.price) == ("Reuters", ["one"], "4.5")


def test_a_refused_record_lists_every_finding() -> None:
    error = rejected({"title": ["x"], "webUrl": "ftp://a", "publishedDateTime": "soon"})
    assert isinstance(error, Invalid)
    assert {(p.path, p.reason) for p in error.problems} == {
        ("title", RejectReason.SCHEMA_TYPE),
        ("webUrl", RejectReason.URL_SCHEME),
        ("publishedDateTime", RejectReason.TIME_INVALID),
    }
    assert error.reason is RejectReason.URL_SCHEME


@pytest.mark.parametrize(
    ("title", "reason"),
    [
        (["x"], RejectReason.SCHEMA_TYPE),
        ({"x": "y"}, RejectReason.SCHEMA_TYPE),
        (False, RejectReason.SCHEMA_TYPE),
        ("x" * 2001, RejectReason.SCHEMA_LENGTH),
    ],
)
def test_a_title_is_a_text_of_bounded_length(title: Any, reason: RejectReason) -> None:
    assert rejected(NEEDED | {"title": title}).reason is reason


@pytest.mark.parametrize(
    ("value", "reason"),
    [
        (b"", RejectReason.DECODE_EMPTY),
        (b" \n", RejectReason.DECODE_EMPTY),
        (b"\xff\xfe{\x00}\x00", RejectReason.DECODE_UTF8),
        (b'{"title": "\xc0\x80"}', RejectReason.DECODE_UTF8),
        (b'{"title": "\xed\xa0\x80"}', RejectReason.DECODE_UTF8),
        (b'{"title": "x"', RejectReason.PARSE_JSON),
        (b"{}x", RejectReason.PARSE_JSON),
        (b"{} {}", RejectReason.PARSE_JSON),
        (b"'a'", RejectReason.PARSE_JSON),
        (b"[1]", RejectReason.SCHEMA_NOT_OBJECT),
        (b'"x"', RejectReason.SCHEMA_NOT_OBJECT),
        (b"null", RejectReason.SCHEMA_NOT_OBJECT),
        (b"NaN", RejectReason.PARSE_NON_FINITE),
        (b"[" * 40 + b"]" * 40, RejectReason.PARSE_DEPTH),
        (b"[" * 100_000, RejectReason.PARSE_DEPTH),
        (b'{"a":' * 100_000, RejectReason.PARSE_DEPTH),
        (b"[" + b"1," * 30_000 + b"1]", RejectReason.PARSE_NODE_LIMIT),
        (b" " * (MAX_WIRE_BYTES + 1), RejectReason.KAFKA_OVERSIZE),
    ],
    ids=lambda value: repr(value)[:30],
)
def test_what_is_no_json_object_is_refused(value: bytes, reason: RejectReason) -> None:
    assert rejected(value).reason is reason


@pytest.mark.parametrize(
    ("json_value", "reason"),
    [
        ("NaN", RejectReason.PARSE_NON_FINITE),
        ("-Infinity", RejectReason.PARSE_NON_FINITE),
        ("1e400", RejectReason.PARSE_NON_FINITE),
        ("9" * 30, RejectReason.PARSE_NUMBER_RANGE),
        ("9" * 5000, RejectReason.PARSE_NUMBER_RANGE),
        ("[" * 31 + "]" * 31, None),
        ("[" * 32 + "]" * 32, RejectReason.PARSE_DEPTH),
        ("[" + "1," * 20_000 + "1]", RejectReason.PARSE_NODE_LIMIT),
    ],
    ids=lambda value: repr(value)[:20],
)
@pytest.mark.parametrize("place", ["unknown", "heat", "items", "title"])
def test_limits_hold_in_every_place(
    place: str, json_value: str, reason: RejectReason | None
) -> None:
    rest = {name: value for name, value in NEEDED.items() if name != place}
    text = json.dumps(rest)[:-1] + f', "{place}": {json_value}}}'
    if reason is None and place != "title":
        record_from_json(text.encode())
    else:
        assert rejected(text.encode()).reason is (reason or RejectReason.SCHEMA_TYPE)


@pytest.mark.parametrize("place", ["provider", "related"])
def test_depth_counts_from_the_outermost_object(place: str) -> None:
    deep: Any = []
    for _ in range(29):
        deep = [deep]
    inner = {"provider": {"x": deep}, "related": [NEEDED | {"x": deep}]}[place]
    if place == "provider":
        record_from_json(json.dumps(NEEDED | {place: inner}).encode())
        inner = {"x": [deep]}
    assert rejected(NEEDED | {place: inner}).reason is RejectReason.PARSE_DEPTH


def test_of_a_repeated_key_on_the_wire_the_last_one_counts() -> None:
    value = b'{"title": "a", "title": "b", "webUrl": "https://a.example"}'
    assert record_from_json(value).record.title == "b"


def test_texts_that_postgres_cannot_hold_are_mended() -> None:
    value = (
        b'{"title": "a\\u0000b\\ud800c \\ud83d\\ude00", "originalUrl": "https://a.example/1",'
        b' "x\\u0000": {"y\\udfff": ["\\u0000"]}}'
    )
    record = record_from_json(value).record
    assert record.title == "ab\ufffdc \U0001f600"
    assert record.__pydantic_extra__ == {"x": {"y\ufffd": [""]}}
    text = '---\ntitle: "a\\0b"\nwebUrl: https://a.example\n---\nbo\0dy\ud800'
    record = record_from_text(text).record
    assert (record.title, record.body) == ("ab", "body\ufffd")


def test_a_null_is_an_absent_field() -> None:
    nothing = dict.fromkeys(
        ("excerpt", "topics", "images", "provider", "ratings", "related", "unknown")
    )
    found = parsed(**nothing)
    assert tuple(found) == (record_from_json(json.dumps(NEEDED).encode()).record, (), 0)
    assert found.record.to_wire() == json.dumps(NEEDED, separators=(",", ":")).encode()


def test_a_record_given_as_python_values_may_hold_times() -> None:
    time = datetime(2024, 2, 3, 10, tzinfo=UTC)
    given_values = NEEDED | {"publishedDateTime": time, "excerpt": "\ud800"}
    record = record_from_mapping(given_values).record
    assert (record.published_date_time, record.excerpt) == (time, "\ufffd")
    with pytest.raises(TypeError):
        record_from_mapping(NEEDED | {"x": object()})


def test_errors_survive_the_way_back_from_a_worker_process() -> None:
    error = rejected({"title": ["x"], "webUrl": "ftp://a"})
    copy = pickle.loads(pickle.dumps(error))  # noqa: S301
    assert (copy.reason, copy.detail, copy.problems) == (
        error.reason,
        error.detail,
        error.problems,  # type: ignore[attr-defined]
    )


# -- properties ------------------------------------------------------------------------------------

JSON = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**63), 2**63 - 1)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(st.characters(codec="utf-8"), max_size=8),
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3)
    ),
    max_leaves=8,
)
NAMES = sorted(
    {field.alias or name for name, field in Record.model_fields.items()} | {"unknown", "__proto__"}
)


@given(st.dictionaries(st.sampled_from(NAMES), JSON, max_size=8))
def test_whatever_json_says_a_record_comes_back_from_its_wire_form(values: dict[str, Any]) -> None:
    try:
        found = record_from_mapping(NEEDED | values)
    except Rejected:
        return
    again = record_from_json(found.record.to_wire())
    assert again.record == found.record
    assert again.dropped in {(), ("images.url",) * len(again.dropped)}
    assert article_from_record(again.record) == article_from_record(found.record)


@given(st.binary(max_size=200))
def test_any_bytes_are_a_record_or_rejected(value: bytes) -> None:
    with suppress(Rejected):
        record_from_json(value)


# -- the real records, or our own ------------------------------------------------------------------


def record_files() -> list[Path]:
    data = os.environ.get("NEWSLOOM_TEST_DATA")
    folder = Path(data) / "records" if data else Path(__file__).parents[2] / "samples"
    return sorted(folder.glob("*.md"))


def accepted(path: Path) -> Parsed | None:
    try:
        return record_from_text(path.read_text(encoding="utf-8"))
    except Rejected as refusal:
        if refusal.reason is not RejectReason.NOT_AN_ARTICLE:
            raise
        return None


def test_every_record_is_accepted_but_those_that_are_no_articles() -> None:
    results = {path.name: accepted(path) for path in record_files()}
    refused = sorted(name for name, result in results.items() if result is None)
    if "NEWSLOOM_TEST_DATA" in os.environ:
        assert (len(results), len(refused)) == (40, 5)
    assert all(name.startswith(("people-", "person-", "learning-collections-")) for name in refused)


@settings(max_examples=60, deadline=None)  # the foreign loader is slow
@given(st.data())
def test_json_made_by_somebody_elses_yaml_loader_is_the_same_record(data: st.DataObject) -> None:
    path = data.draw(st.sampled_from(record_files()))
    ours = accepted(path)
    if ours is None:
        return
    front, _, body = path.read_text(encoding="utf-8").removeprefix("---\n").partition("\n---\n")
    theirs = yaml.safe_load(front)
    if body.strip():
        theirs["body"] = body
    parsed_theirs = record_from_json(json.dumps(theirs, default=str).encode())
    assert parsed_theirs == ours
    hashes = [article_from_record(p.record).content_hash for p in (ours, parsed_theirs)]
    assert hashes[0] == hashes[1]
