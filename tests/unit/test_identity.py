import os
import time
from hashlib import sha256
from importlib import resources
from pathlib import Path
from urllib.parse import urlsplit
from uuid import UUID

import can_ada
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from bench import quality_urls
from newsloom.core.domains import registered_domain
from newsloom.core.identity import (
    CANON_VERSION,
    MAX_URL_CHARACTERS,
    CanonicalUrl,
    article_id,
    canonicalise,
    url_problem,
)
from newsloom.errors import RejectReason


def labelled_data() -> Path | None:
    """The folder of labelled data, None where there is none."""
    folder = os.environ.get("NEWSLOOM_TEST_DATA")
    if not folder:
        print("NEWSLOOM_TEST_DATA is unset: made-up addresses instead of real ones")  # noqa: T201
    return Path(folder) if folder else None


def canonical(url: str) -> CanonicalUrl:
    found = canonicalise(url)
    assert found is not None, url
    return found


def key(url: str) -> str:
    return canonical(url).key


# --- The 54 cases ---


@pytest.mark.parametrize(("number", "given_url", "relation", "expected"), quality_urls.load_cases())
def test_each_of_the_collected_cases_has_our_verdict(
    number: str, given_url: str, relation: str, expected: str
) -> None:
    del number
    match relation:
        case "url":
            assert canonical(given_url).url == expected
        case "same":
            assert key(given_url) == key(expected)
        case "differs":
            assert key(given_url) != key(expected)
        case "none":
            assert canonicalise(given_url) is None
            assert url_problem(given_url) == expected
        case _:
            pytest.fail(f"unknown relation {relation}")


def test_no_case_is_left_out() -> None:
    assert {int(number) for number, *_ in quality_urls.load_cases()} == set(range(1, 55))


# --- What never holds an article's identity, and what always does ---

ARTICLE = "https://www.example.com/2020/05/25/some-story"

SAME = [
    "http://www.example.com/2020/05/25/some-story",
    "https://example.com/2020/05/25/some-story/",
    "HTTPS://WWW.EXAMPLE.COM:443/2020/05/25/some-story",
    "https://www.example.com/2020/05/25/some-story?fbclid=x&utm_source=y#top",
    "https://m.example.com/2020/05/25/some-story",
    "https://mobile.example.com/2020/05/25/some-story",
    "https://amp.example.com/2020/05/25/some-story",
    "https://www.example.com/amp/2020/05/25/some-story",
    "https://www.example.com/2020/05/25/some-story/amp/",
    "https://www.example.com/2020/05/25/some-story.amp",
    "https://www.example.com/2020/05/25/some-story?amp",
    "https://www.example.com/2020/05/25/some-story?amp=1",
    "https://www.example.com/2020/05/25/some-story?outputType=amp",
    "https://www.example.com/2020/05/25/some-story?context=amp",
    "https://www-example-com.cdn.ampproject.org/c/s/www.example.com/2020/05/25/some-story",
    "https://www-example-com.cdn.ampproject.org/v/s/www.example.com/2020/05/25/some-story?amp_js_v=1",
    "https://www.google.com/amp/s/www.example.com/2020/05/25/some-story/amp",
    "https://google.co.uk/amp/s/amp.example.com/2020/05/25/some-story",
    "https://www.google.com/url?q=https://www.example.com/2020/05/25/some-story&sa=U&usg=x",
    "https://www.google.com/url?a=http://other.org/x&q=https://example.com/2020/05/25/some-story",
    "https://www.google.com/amp/s/x.cdn.ampproject.org/c/s/example.com/2020/05/25/some-story",
    "https://www.example.com//2020/05//25/some-story",
    "https://www.example.com/2020/05/../05/25/%73ome-story",
]


@pytest.mark.parametrize("variant", SAME)
def test_a_variant_has_the_key_of_its_article(variant: str) -> None:
    assert key(variant) == key(ARTICLE)


DIFFERENT = [
    ("https://example.com/Story", "https://example.com/story"),
    ("https://example.com/tags/amp", "https://example.com/tags"),
    ("https://example.com/amp/", "https://example.com/"),
    ("https://news.example.com/a-1", "https://example.com/a-1"),
    ("https://m.blogspot.com/a-1", "https://blogspot.com/a-1"),
    ("https://m.co.uk/a-1", "https://co.uk/a-1"),
    ("https://amp.github.io/a-1", "https://github.io/a-1"),
    ("https://mobile.163.com/20/1218/a.html", "https://163.com/20/1218/a.html"),
    ("https://example.com/a?page=1", "https://example.com/a?page=2"),
    ("https://example.com/a?amp=50", "https://example.com/a"),
    ("https://example.com/a:8080", "https://example.com:8080/a"),
    ("https://a.cdn.ampproject.org/i/s/example.com/a.jpg", "https://example.com/a.jpg"),
    ("https://www.dailymail.co.uk/a?ito=1&id=1", "https://www.dailymail.co.uk/a?id=2"),
    ("https://example.com/a?ito=1", "https://example.com/a?ito=2"),
]


@pytest.mark.parametrize(("one", "other"), DIFFERENT)
def test_what_may_be_another_article_keeps_another_key(one: str, other: str) -> None:
    assert key(one) != key(other)


def test_the_key_is_the_address_without_scheme_www_and_trailing_slash() -> None:
    found = canonical("https://www.example.com/News/Story/?b=2&a=1")
    assert found.url == "https://www.example.com/News/Story/?a=1&b=2"
    assert found.key == "example.com/News/Story?a=1&b=2"


def test_amp_and_cache_forms_of_a_publisher_with_its_own_pattern_agree() -> None:
    amp = "https://mobile.reuters.com/article/amp/idUKKBN28R0IR"
    cache = (
        "https://mobile-reuters-com.cdn.ampproject.org/c/s/mobile.reuters.com"
        "/article/amp/idUKKBN28R0IR"
    )
    assert key(amp) == key(cache) == "reuters.com/article/idUKKBN28R0IR"


PROBLEMS = [
    ("javascript:alert(1)", RejectReason.URL_SCHEME),
    ("java\nscript:alert(1)", RejectReason.URL_SCHEME),
    ("data:text/html,x", RejectReason.URL_SCHEME),
    ("file:///etc/passwd", RejectReason.URL_SCHEME),
    ("vbscript:x", RejectReason.URL_SCHEME),
    ("", RejectReason.URL_INVALID),
    ("\ufeff", RejectReason.URL_INVALID),
    ("story", RejectReason.URL_INVALID),
    ("www.example.com/story", RejectReason.URL_INVALID),
    ("http://", RejectReason.URL_INVALID),
    ("http://[::1", RejectReason.URL_INVALID),
    ("http://a:99999/", RejectReason.URL_INVALID),
    ("http://exa mple.com/", RejectReason.URL_INVALID),
    ("http://a..b/", RejectReason.URL_INVALID),
    (f"http://{'a' * 64}.com/", RejectReason.URL_INVALID),
    (f"http://{'a.' * 130}com/", RejectReason.URL_INVALID),
    (f"http://{'a' * 20_000}.com/", RejectReason.URL_LENGTH),
    ("http://example.com/" + "a" * MAX_URL_CHARACTERS, RejectReason.URL_LENGTH),
    ("http://example.com/" + "щ" * 500, RejectReason.URL_LENGTH),
    ("http://example.com/\ud800", RejectReason.TEXT_SURROGATE),
    ("http://example.com/\0", RejectReason.TEXT_CONTROL),
    ("http://example.com/\x1b[31m", RejectReason.TEXT_CONTROL),
]


@pytest.mark.parametrize(("url", "reason"), PROBLEMS)
def test_an_unusable_url_says_what_is_wrong_with_it(url: str, reason: RejectReason) -> None:
    assert canonicalise(url) is None
    assert url_problem(url) is reason


def test_the_id_of_a_key_never_changes() -> None:
    assert article_id("example.com/story") == UUID(
        bytes=sha256(b"newsloom:1\0example.com/story").digest()[:16]
    )


def test_changed_rules_come_with_a_new_version() -> None:
    text = (resources.files("newsloom.core") / "url_rules.toml").read_bytes()
    lines = [line.partition(b"#")[0].strip() for line in text.splitlines()]
    digest = sha256(b"\n".join(filter(None, lines))).hexdigest()[:16]
    assert (CANON_VERSION, digest) == (1, "0e41734882966788"), "raise CANON_VERSION with the rules"


@pytest.mark.parametrize(
    ("host", "domain"),
    [
        ("news.bbc.co.uk", "bbc.co.uk"),
        ("a.github.io", "a.github.io"),
        ("github.io", None),
        ("co.uk", None),
        ("localhost", None),
        ("192.168.0.1", None),
        ("[::1]", None),
        ("", None),
        ("xn--mnchen-3ya.de", "xn--mnchen-3ya.de"),
    ],
)
def test_registered_domains(host: str, domain: str | None) -> None:
    assert registered_domain(host) == domain


# --- Properties ---

PIECES = [
    *"/?&=#%;:.@<>|\\",
    "http://", "https://", "//", "www.", "m.", "amp.", "mobile.", "example.com", "co.uk",
    "/amp", "/amp/", ".amp", ".amp.html", "amp=1", "amp;", "&amp;", "&#38;", "&#038;", "%61mp",
    "%2e", "%2E%2e", "/..", "/.", ";jsessionid=1", "utm_source=x", "id=5", "ref=rss",
    "https://a.cdn.ampproject.org/c/s/", "https://www.google.com/amp/s/",
    "https://www.google.com/url?q=", "http%3A%2F%2F", "#!/", "</a>", "<![CDATA[", "]]>",
    "щ", "\u200b", "\ud800", "\0", "\t", "a", "-", "1", "xn--", "[::1]", "www.google.com/url",
]  # fmt: skip
HOSTILE_URLS = st.one_of(
    st.text(),
    st.lists(st.sampled_from(PIECES), max_size=25).map("".join),
    st.lists(st.sampled_from(PIECES), max_size=25).map(lambda pieces: "http://" + "".join(pieces)),
    st.lists(st.sampled_from(PIECES), max_size=12).map(
        lambda pieces: "https://www.example.com/" + "".join(pieces)
    ),
)


@given(HOSTILE_URLS)
@example("http://amp.www.google.com/url?q=http://example.com/a")
@example("http://example.com/..;jsessionid=1/a")
@example("http://example.com/a&%61mp;b")
@example("http://www.google.com/url?q=http://b|b&q=http://a.com")
@example("http://foo.1../")
def test_a_canonical_url_is_its_own_canonical_form(url: str) -> None:
    found = canonicalise(url)
    if found is None:
        assert url_problem(url) in RejectReason
        return
    assert canonicalise(found.url) == found
    assert can_ada.parse(found.url).href == found.url
    assert found.url.isascii()
    assert found.url.isprintable()
    assert len(found.url) <= MAX_URL_CHARACTERS
    parts = urlsplit(found.url)
    assert parts.scheme in {"http", "https"}
    assert "@" not in parts.netloc


PLAIN_PATHS = st.text("abmp019-_./~!:,@()", max_size=30)


HOSTS = st.sampled_from(
    [
        "www.example.com",
        "amp.example.com",
        "amp.cnn.com",
        "camp.org",
        "www.google.com",
        "bbc.com",
        "www.bing-amp.com",
        "x.cdn.ampproject.org",
        "amp.cloudflare.com",
        "a.amp.cloudflare.com",
    ]
)


@given(HOSTS, PLAIN_PATHS)
@example("x.cdn.ampproject.org", "c/s/bbc.com/a")
@example("amp.example.com", "a")
@example("www.google.com", "amp/s/bbc.com/a")
@example("bbc.com", "news/amp/a")
def test_the_short_way_and_the_long_way_agree(host: str, path: str) -> None:
    # A fragment makes the plain form miss the short way, and changes nothing else.
    url = f"https://{host}/{path}"
    assert canonicalise(url) == canonicalise(url + "#x")


@given(st.permutations(["b=2", "a=1", "a=0", "c", "id=5", "d="]))
def test_the_order_of_parameters_does_not_matter(parameters: list[str]) -> None:
    url = "https://example.com/a?" + "&".join(parameters)
    assert canonical(url).url == "https://example.com/a?a=0&a=1&b=2&c&d=&id=5"


@pytest.mark.parametrize(
    "url",
    [
        "https://www.example.com" + "/amp" * 500,
        "https://www.example.com/" + "a</a" * 500,
        "https://www.example.com/?" + "amp;" * 500,
        "https://www.example.com/" + "&amp;" * 400,
        "https://www.example.com/?" + "&#38;" * 400,
        "http://" * 290,
        "https://www.example.com/" + ";jsessionid=" * 165,
        "https://www.google.com/url?q=" + "http://www.google.com/url?q=" * 70 + "http://a.com",
        "https://a.cdn.ampproject.org/c/s/" + "a.cdn.ampproject.org/c/s/" * 80,
        "https://www.example.com/" + "%FF" * 670,
        "https://" + "m." * 120 + "com/",
        "https://" + "\u0301" * 2000 + ".com/",
        "https://" + "ﷺ" * 2000 + ".com/",
        "https://" + "a" * 10_000_000,
        "<" * 2000,
        "https://www.example.com/" + "/." * 1000,
        "https://www.example.com/" + "//" * 1000 + "\n",
    ],
)
def test_hostile_urls_cost_little_time(url: str) -> None:
    canonicalise("https://m.example.com/")  # the suffix list is read at first use
    before = time.process_time()
    canonicalise(url)
    canonicalise(url[:MAX_URL_CHARACTERS])
    assert time.process_time() - before < 0.2


# --- Many distinct articles, and variants of each ---


def test_different_articles_never_share_a_key() -> None:
    urls = quality_urls.distinct_urls(labelled_data())
    assert len({key(url) for url in urls}) == len(urls)


def test_variants_of_an_article_reach_its_key() -> None:
    urls = quality_urls.distinct_urls(labelled_data())
    tried: dict[str, int] = {}
    missed: dict[str, list[str]] = {}
    for url in urls:
        for form, variant in quality_urls.variants(url).items():
            tried[form] = tried.get(form, 0) + 1
            if key(variant) != key(url):
                missed.setdefault(form, []).append(variant)
    figures = {form: 1 - len(missed.get(form, [])) / count for form, count in tried.items()}
    assert min(figures.values()) >= 0.99, (figures, {k: v[:5] for k, v in missed.items()})
