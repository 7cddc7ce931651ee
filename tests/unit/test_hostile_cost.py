"""Nothing that a record can say costs more than a moment, and only `Rejected` comes out of it.

The times are the thread's own CPU time, and the limits are wide: what is quadratic in a megabyte
takes hours, not tenths of a second.
"""

import importlib
import json
import pkgutil
import re
import sys
import time
from collections.abc import Iterator
from datetime import UTC, datetime

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import newsloom
from newsloom.core.documents import Document, Form, prepare
from newsloom.core.enrichment import enrich
from newsloom.core.event import decode
from newsloom.errors import Rejected
from tests.support.hostile import Message, messages

RECORD_SECONDS = 0.8
"""Of CPU, for a record at its limits, on a machine that is busy with other things."""

PATTERN_SECONDS = 0.3
"""Of CPU, for 20 KB, which takes milliseconds unless it is quadratic."""

NEVER_SEARCHED = {"newsloom.failpoints._FORM"}
"""A full match of what an operator wrote."""

FRAGMENTS = (
    *"a0-. \n&<\"\\[]{}/%_=?\t,:;'#@~*|>()+$^\0\x1b\x85",
    *("&amp;", "&#38;", "&#x26;", "&lt;", "&amp;lt;", "<a ", "</", "<b>", "</p>", "<!--"),
    "<![CDATA[",
    *("<table><tr>", "<svg>", "<script>", "<p><a href=x>", '\\"', "http://", "https://http://"),
    *("</a>", "%2", "%61", ";sid=", "T00:", "---\n", "- ", "\x1b[", "\x1b[0;", "x ", "x\u00a0"),
    *("\u00e9", "e\u0301", "a\u0301\u0323", "\u0301", "\u0f73", "\U0001d165", "\ufb01", "\ufdfa"),
    *("\u00c3\u00a9", "\u00e2\u20ac\u2122", "\u00c3", "\u200d", "\u200c", "\u202e", "\u2028"),
    *("\u6f22", "\U0001f600", "\ud800", "\ufffd", "\u0130", "a.", "//", "/c/s/", "&a=1", "amp/"),
)

fragments = st.lists(st.sampled_from(FRAGMENTS), min_size=1, max_size=4).map("".join)


def repeated(most: int) -> st.SearchStrategy[str]:
    """A few fragments, over and over, to the very limit, and something else at its end."""
    return st.builds(
        lambda part, end: (part * (most // len(part) + 1))[: most - len(end)] + end,
        fragments,
        fragments,
    )


def cost_of(value: bytes, row: Message | None = None) -> float:
    """Decode and enrich as ingest does; return the seconds of CPU."""
    started = time.thread_time()
    try:
        if row is None:
            enrich(decode(value, b"k", [], 0).article)
        else:
            enrich(decode(row.value, row.key, row.headers, row.timestamp_ms).article)
    except Rejected:
        pass
    return time.thread_time() - started


def encoded(record: object) -> bytes:
    return json.dumps(record).encode()


@pytest.fixture(scope="module", autouse=True)
def warm() -> None:
    """Load the model of languages, which happens once in a process."""
    cost_of(encoded({"title": "A title that is long enough", "webUrl": "https://a.example/1"}))


@settings(max_examples=60, deadline=None, suppress_health_check=list(HealthCheck))
@given(
    field=st.sampled_from(["body", "featuredContent", "unknown"]),
    text=repeated(170_000),
    title=repeated(2_000),
    excerpt=repeated(20_000),
    url=repeated(2_020),
)
def test_any_text_at_its_limit_is_decoded_and_cleaned_in_a_moment(
    field: str, text: str, title: str, excerpt: str, url: str
) -> None:
    record = {
        "title": title,
        "excerpt": excerpt,
        "originalUrl": f"https://a.example/{url}",
        "webUrl": url,
        "ampWebUrl": "https://a.example/1",
        "images": [{"url": url, "title": title[:500]}] * 5,
        "provider": {"name": title[:500], "domain": url[:500]},
        "topics": [title[:500]] * 64,
        field: text,
    }
    assert cost_of(encoded(record)) < RECORD_SECONDS


@pytest.mark.parametrize("fragment", FRAGMENTS, ids=ascii)
def test_a_body_of_a_mebibyte_of_anything_is_cleaned_in_a_moment(fragment: str) -> None:
    body = (fragment * (1024 * 1024 // len(fragment)))[: 1024 * 1024]
    text = json.dumps({"title": "t", "webUrl": "https://a.example/1", "body": body})
    if len(text) > 2 * 1024 * 1024:
        text = json.dumps(json.loads(text), ensure_ascii=False)
    assert cost_of(text.encode("utf-8", "replace")) < RECORD_SECONDS


def test_no_row_of_the_corpus_takes_long() -> None:
    slow = {
        row.name: seconds for row in messages() if (seconds := cost_of(b"", row)) > RECORD_SECONDS
    }
    assert not slow


FIELDS = ("title", "originalUrl", "webUrl", "images", "related", "provider", "topics", "x", "body")

values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text() | fragments,
    lambda inner: st.lists(inner, max_size=20) | st.dictionaries(st.text(max_size=9), inner),
    max_leaves=60,
)


@settings(max_examples=150, deadline=None, suppress_health_check=list(HealthCheck))
@given(
    record=st.dictionaries(
        st.sampled_from(
            [*FIELDS, "publishedDateTime", "heat", "ratings", "actions", "items", "removed"]
        ),
        values,
    ),
    times=st.sampled_from([1, 40, 190, 3000]),
    many=st.sampled_from(["images", "related", "topics", "items", "unknown", "actions"]),
)
def test_whatever_is_in_a_record_only_rejected_comes_out(
    record: dict[str, object], times: int, many: str
) -> None:
    good = {"title": "t", "originalUrl": "https://a.example/1"}
    for tree in (record, good | record, good | {many: [record.get("title", {})] * times}):
        assert cost_of(encoded(tree)) < RECORD_SECONDS


@settings(max_examples=100, deadline=None, suppress_health_check=list(HealthCheck))
@given(text=st.one_of(repeated(260_000), st.text(), fragments), form=st.sampled_from(Form))
def test_whatever_is_in_a_file_it_is_an_event_or_rejected_in_a_moment(
    text: str, form: Form
) -> None:
    for content in (text, f"---\ntitle: {text}\nwebUrl: https://a.example/1\n---\n{text[:9]}"):
        data = content.encode("utf-8", "surrogatepass")
        document = Document("x", form, data, datetime(2026, 1, 1, tzinfo=UTC))
        started = time.thread_time()
        prepared = prepare(document)
        assert (prepared.event is None) != (prepared.rejected is None)
        assert time.thread_time() - started < RECORD_SECONDS


def patterns() -> Iterator[tuple[str, re.Pattern[str]]]:
    """Every compiled text pattern of the package."""
    for module in pkgutil.walk_packages(newsloom.__path__, "newsloom."):
        importlib.import_module(module.name)
    for name in sorted(name for name in sys.modules if name.startswith("newsloom.")):
        for variable, value in vars(sys.modules[name]).items():
            full = f"{name}.{variable}"
            if not isinstance(value, re.Pattern) or isinstance(value.pattern, bytes):
                continue
            if full not in NEVER_SEARCHED:
                yield full, value


def test_every_pattern_of_the_package_is_linear() -> None:
    texts = [part * (20_000 // len(part)) + "\0" for part in FRAGMENTS]
    seen = 0
    for name, pattern in patterns():
        seen += 1
        for text in texts:
            started = time.thread_time()
            pattern.search(text)
            spent = time.thread_time() - started
            assert spent < PATTERN_SECONDS, (name, ascii(text[:20]), spent)
    assert seen > 40, "the package has patterns, and they were found"
