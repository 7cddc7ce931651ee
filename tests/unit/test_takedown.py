"""Which messages carry an erased article: by any spelling of its addresses, in any shape."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from newsloom.core.identity import article_id
from newsloom.core.takedown import carries

IDS = {article_id("a.example/news/1")}

CARRYING = {
    "JSON": b'{"originalUrl": "https://www.a.example/news/1/?utm_source=x"}',
    "JSON with escapes": rb'{"x": ["http:\/\/A.example\/news\/1"]}',
    "more escapes": rb'{"x": "\u0068ttps://a.example/news/1"}',
    "in a text": b'{"body": "see (https://a.example/news/1), or not"}',
    "spaces around": b'{"originalUrl": "  https://a.example/news/1  "}',
    "cut off": rb'{"title": "x", "webUrl": "https:\/\/a.example\/news\/1", "bo',
    "front matter": b"---\noriginalUrl: https://a.example/news/1\ntitle: x\n---\nbody\n",
    "not UTF-8": b"\xff\xfe https://a.example/news/1 \xff",
}
OTHERS = {
    "longer": b'{"originalUrl": "https://a.example/news/12"}',
    "below it": b'{"originalUrl": "https://a.example/news/1/comments"}',
    "elsewhere": b'{"originalUrl": "https://b.example/a.example/news/1"}',
    "nothing": b"",
}


@pytest.mark.parametrize("value", CARRYING.values(), ids=CARRYING)
def test_an_address_is_found(value: bytes) -> None:
    assert carries(IDS, key=None, value=value)


@pytest.mark.parametrize("value", OTHERS.values(), ids=OTHERS)
def test_other_addresses_are_other_articles(value: bytes) -> None:
    assert not carries(IDS, key=b"a.example/news/12", value=value)


def test_key_and_headers_count_too() -> None:
    assert carries(IDS, key=b"a.example/news/1", value=None)
    (name,) = IDS
    assert carries(IDS, key=None, value=b"{}", headers=[b"other", str(name).encode()])
    assert not carries(IDS, key=None, value=None, headers=[None, b"other"])


@given(st.binary(), st.none() | st.binary())
def test_it_is_total(value: bytes, key: bytes | None) -> None:
    carries(IDS, key=key, value=value, headers=[value])
