import json
from contextlib import suppress
from random import Random

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from newsloom.core.front_matter import (
    MAX_DEPTH,
    MAX_DOCUMENT_BYTES,
    MAX_NODES,
    load_by_events,
    load_mapping,
    split_front_matter,
)
from newsloom.core.plain_yaml import load_plain
from newsloom.core.workloads import Workload, deliveries, front_matter
from newsloom.errors import Rejected, RejectReason


def reason_of(front: str) -> RejectReason:
    with pytest.raises(Rejected) as caught:
        load_mapping(front)
    return caught.value.reason


@pytest.mark.parametrize(
    ("text", "front", "body"),
    [
        pytest.param("---\na: 1\n---\n", "a: 1\n", "", id="no body"),
        pytest.param("---\na: 1\n---", "a: 1\n", "", id="no last line end"),
        pytest.param("---\na: 1\n---\nx\n---\ny\n", "a: 1\n", "x\n---\ny\n", id="rule in body"),
        pytest.param("---\r\na: 1\r\n---\r\nx\r\n", "a: 1\r\n", "x\r\n", id="CRLF"),
        pytest.param("\ufeff---\na: 1\n---\nx", "a: 1\n", "x", id="byte order mark"),
        pytest.param("--- \na: 1\n---\t\nx", "a: 1\n", "x", id="space after the dashes"),
        pytest.param("---\n---\nx", "", "x", id="empty front"),
    ],
)
def test_a_record_is_split_at_its_first_two_dash_lines(text: str, front: str, body: str) -> None:
    assert split_front_matter(text) == (front, body)


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("", RejectReason.DECODE_EMPTY),
        ("\ufeff \n", RejectReason.DECODE_EMPTY),
        ("a: 1\n---\n", RejectReason.PARSE_FRONT_MATTER),
        ("---\na: 1\n", RejectReason.PARSE_FRONT_MATTER),
        ("---\na: 1\n ---\n", RejectReason.PARSE_FRONT_MATTER),
        ("---\na: 1\n---\n" + "é" * (MAX_DOCUMENT_BYTES // 2), RejectReason.SCHEMA_LENGTH),
    ],
)
def test_what_has_no_front_matter_is_refused(text: str, reason: RejectReason) -> None:
    with pytest.raises(Rejected) as caught:
        split_front_matter(text)
    assert caught.value.reason is reason


@pytest.mark.parametrize(
    ("text", "front", "body"),
    [("a: 1\n", "a: 1\n", ""), ("---\na: 1\n", "a: 1\n", ""), ("---\na: 1\n---\nb", "a: 1\n", "b")],
)
def test_a_yaml_file_needs_no_dash_lines(text: str, front: str, body: str) -> None:
    assert split_front_matter(text, bare=True) == (front, body)


@pytest.mark.parametrize(
    "scalar",
    [
        "NO",
        "yes",
        "on",
        "010",
        "2024",
        "12:30:45",
        "2024-02-30",
        "1_000",
        "0b11",
        "1e3",
        ".inf",
        "=",
    ],
)
def test_a_scalar_stays_the_text_that_was_written(scalar: str) -> None:
    assert load_mapping(f"title: {scalar}") == {"title": scalar}


@pytest.mark.parametrize(
    ("scalar", "value"),
    [("", None), ("~", None), ("null", None), ('"null"', "null"), ("''", ""), ('"~"', "~")],
)
def test_only_a_plain_null_is_none(scalar: str, value: str | None) -> None:
    assert load_mapping(f"a: {scalar}\nb: [{scalar or '~'}]") == {"a": value, "b": [value]}


def test_blocks_flows_and_folds_give_plain_containers() -> None:
    front = "a: {b: [c, {d: e}], f: []}\ng:\n  - h: |\n      two\n      lines\n"
    front += "  - >-\n    one\n    line\n"
    assert load_mapping(front) == {
        "a": {"b": ["c", {"d": "e"}], "f": []},
        "g": [{"h": "two\nlines\n"}, "one line"],
    }


@pytest.mark.parametrize(
    ("front", "reason"),
    [
        pytest.param("a: *b", RejectReason.PARSE_ALIAS, id="alias"),
        pytest.param("a: &b c", RejectReason.PARSE_ALIAS, id="anchor on a scalar"),
        pytest.param("a: &b [c]", RejectReason.PARSE_ALIAS, id="anchor on a list"),
        pytest.param("a: &b {c: d}", RejectReason.PARSE_ALIAS, id="anchor on a mapping"),
        pytest.param("&a [*a]", RejectReason.PARSE_ALIAS, id="cycle"),
        pytest.param("a: !!python/object/apply:os.system [x]", RejectReason.PARSE_TAG, id="python"),
        pytest.param("a: !!binary aGk=", RejectReason.PARSE_TAG, id="standard tag"),
        pytest.param("a: !own b", RejectReason.PARSE_TAG, id="local tag"),
        pytest.param("a: ! b", RejectReason.PARSE_TAG, id="non-specific tag"),
        pytest.param("!!map {a: b}", RejectReason.PARSE_TAG, id="tag on a mapping"),
        pytest.param("<<: {a: b}", RejectReason.PARSE_MERGE_KEY, id="merge key"),
        pytest.param("a: 1\nb: 2\na: 3", RejectReason.PARSE_DUPLICATE_KEY, id="duplicate key"),
        pytest.param("x: {a: 1, 'a': 2}", RejectReason.PARSE_DUPLICATE_KEY, id="nested duplicate"),
        pytest.param("? [a]\n: b", RejectReason.PARSE_KEY, id="list as key"),
        pytest.param("? {a: b}\n: c", RejectReason.PARSE_KEY, id="mapping as key"),
        pytest.param("~: a", RejectReason.PARSE_KEY, id="null key"),
        pytest.param("a: 1\n---\nb: 2", RejectReason.PARSE_MULTI_DOCUMENT, id="two documents"),
        pytest.param("a: " + "[" * 400, RejectReason.PARSE_DEPTH, id="deep flow"),
        pytest.param(
            "\n".join(" " * n + "a:" for n in range(100)), RejectReason.PARSE_DEPTH, id="deep block"
        ),
        pytest.param(
            "a: [" + "b," * MAX_NODES + "b]", RejectReason.PARSE_NODE_LIMIT, id="many values"
        ),
        pytest.param("- a", RejectReason.SCHEMA_NOT_OBJECT, id="list"),
        pytest.param("text", RejectReason.SCHEMA_NOT_OBJECT, id="scalar"),
        pytest.param("", RejectReason.SCHEMA_NOT_OBJECT, id="nothing"),
        pytest.param("a: [b, c", RejectReason.PARSE_YAML, id="unclosed"),
        pytest.param("a: b: c", RejectReason.PARSE_YAML, id="two colons"),
        pytest.param("\ta: b", RejectReason.PARSE_YAML, id="tab indentation"),
        pytest.param('a: "\\ud800"', RejectReason.PARSE_YAML, id="surrogate escape"),
        pytest.param('a: "\\U00110000"', RejectReason.PARSE_YAML, id="beyond Unicode"),
        pytest.param("a: \ufffe", RejectReason.PARSE_YAML, id="noncharacter"),
        pytest.param("a: x\x85b: y", RejectReason.TEXT_CONTROL, id="NEL"),
        pytest.param("a: \x1b[31m", RejectReason.TEXT_CONTROL, id="escape sequence"),
        pytest.param("a: \x00", RejectReason.TEXT_CONTROL, id="NUL"),
    ],
)
def test_what_yaml_can_do_beyond_plain_data_is_refused(front: str, reason: RejectReason) -> None:
    assert reason_of(front) is reason


def test_the_deepest_allowed_nesting_is_accepted() -> None:
    front = "a: " + "[" * (MAX_DEPTH - 1) + "]" * (MAX_DEPTH - 1)
    assert load_mapping(front).keys() == {"a"}
    assert reason_of(front.replace("[]", "[[]]")) is RejectReason.PARSE_DEPTH


def test_a_refusal_names_the_line_and_quotes_nothing() -> None:
    with pytest.raises(Rejected) as caught:
        load_mapping("title: secret words\nbody: *secret\n")
    assert "line 2" in caught.value.detail
    assert "secret" not in caught.value.detail


DATA = st.recursive(
    st.text(st.characters(codec="utf-8", exclude_categories=["Cs", "Cc"]), max_size=20),
    lambda inner: (
        st.lists(inner, max_size=4)
        | st.dictionaries(st.text("abcdefgh", min_size=1), inner, max_size=4)
    ),
    max_leaves=20,
)


@given(st.dictionaries(st.text("abcdefgh", min_size=1), DATA))
def test_what_a_yaml_writer_writes_is_read_as_the_base_loader_reads_it(
    data: dict[str, object],
) -> None:
    front = yaml.safe_dump(data, allow_unicode=True, default_style='"', width=60)
    front = front.replace("\x85", " ")
    expected = yaml.load(front, Loader=yaml.CBaseLoader)  # noqa: S506 - it builds texts only
    assert "&" in front or load_mapping(front) == expected


# -- the fast way says what libyaml says, or nothing ---------------------------------------------

STARTS = (
    "",
    "",
    "",
    "- ",
    "  ",
    "  ",
    "  - ",
    "  - ",
    "    ",
    "    - ",
    "   ",
    " - ",
    "-  ",
    "- - ",
)
KEYS = (
    "a: ",
    "b: ",
    "c:",
    "d:",
    "a:",
    "e:  ",
    "url: ",
    "null: ",
    "<<: ",
    "y: ",
    "1: ",
    "f :",
    '"g": ',
)
VALUES = (
    *(
        "",
        "",
        "",
        "x",
        "two words",
        "010",
        "-1",
        "1.5e3",
        "null",
        "~",
        "NULL",
        "true",
        "-",
        "- x",
        "é",
    ),
    *("2024-01-01T00:00:00+00:00", "https://a.example/?b=c&d=[e]", "/f", "//g", "---", "...", "h:"),
    *(
        '"quoted"',
        '"a: b"',
        '"\\"c\\" \\\\ \\n\\t\\/"',
        '"\\u00e9"',
        '"',
        '"a',
        '"a" b',
        '""',
        '"a\\"',
        '" x "',
    ),
    *("'single'", "'it''s'", "'", "''", ", '", "'a", "a'b", "'a' b", "'a''", "# c", "i #j", "i#j"),
    *(
        "&k l",
        "*k",
        "!m n",
        "[o, p]",
        "[",
        "{q: r}",
        "s, t",
        "u]",
        "|",
        ">-",
        "%v",
        "@w",
        "`x",
        "? y",
    ),
    *(
        "trailing ",
        " leading",
        "a: b",
        "a :b",
        "a:b",
        "a::b",
        "a: ",
        "x\ty",
        "\u00a0",
        "z\u00a0",
        "\u2028",
    ),
)
LINES = st.one_of(
    st.tuples(st.sampled_from(STARTS), st.sampled_from(KEYS), st.sampled_from(VALUES)).map("".join),
    st.tuples(st.sampled_from(STARTS), st.sampled_from(VALUES)).map("".join),
    st.tuples(st.sampled_from(STARTS), st.sampled_from(KEYS), st.text(max_size=8)).map("".join),
)


def same(found: object, expected: object) -> bool:
    """Compare with the order of keys, which the wire form of unknown fields keeps."""
    return json.dumps(found) == json.dumps(expected)


@given(st.lists(LINES, max_size=9))
def test_the_fast_way_never_differs_from_libyaml(lines: list[str]) -> None:
    front = "\n".join(lines)
    fast = load_plain(front)
    if fast is not None:
        assert same(fast, load_by_events(front)), front
    for text in (front, front.replace("\n", "\r\n")):
        with suppress(Rejected):
            assert same(load_mapping(text), load_by_events(text)), text


@pytest.mark.parametrize("line", [*VALUES, "x" * 1100, "x y" * 700])
@pytest.mark.parametrize("start", ["a: ", "a:\n  - ", "a:\n- ", "a:\n  - b: ", "a:\n  b: "])
def test_every_value_in_every_place_is_what_libyaml_says(start: str, line: str) -> None:
    for end in ("", "\n", "\nc: d", "\n  c: d", "\n    c: d", "\n\n    e", "\n  - f"):
        front = start + line + end
        fast = load_plain(front)
        assert fast is None or same(fast, load_by_events(front)), front


def test_what_our_writers_write_takes_the_fast_way() -> None:
    load = next(deliveries(Workload.FULL, 1, Random(1)))
    front, _ = split_front_matter(front_matter(load.record))
    assert load_plain(front) == load_by_events(front)
    written = (
        "a: 1\n\nb:\n  - Two words\n  - \"x\"\nc:\n- d: /e\n  f: 'g'\n  h:\n    - i: null\nj:\n"
    )
    assert load_plain(written) == load_by_events(written) == load_mapping(written)


@pytest.mark.parametrize(
    "front",
    [
        "a:\n" + "".join(f"  k{n}: v\n" for n in range(MAX_NODES - 3)),
        "".join(" " * n + "a:\n" for n in range(MAX_DEPTH)),
        "a:\n" + "".join("  " * n + "- a:\n" for n in range(MAX_DEPTH)),
    ],
)
def test_what_is_near_a_limit_is_left_to_the_parser_that_counts(front: str) -> None:
    assert load_plain(front) is None


@given(st.text(max_size=300))
def test_any_text_is_read_or_rejected_and_nothing_else(text: str) -> None:
    with suppress(Rejected):
        load_mapping(text)
    with suppress(Rejected):
        split_front_matter(text)
