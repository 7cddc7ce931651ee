"""Articles, observations and whole random streams of them, for tests of a store."""

import hashlib
import json
import random
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from typing import Any

from newsloom.core.article import Article, ArticleUrl, Image, Provider, Ratings, Signals, UrlKind
from newsloom.core.batch import DeadLetter, Item, Observation
from newsloom.core.identity import canonicalise

T0 = datetime(2024, 1, 1, tzinfo=UTC)
KINDS = tuple(UrlKind)


def url(name: str, kind: UrlKind = UrlKind.ORIGINAL) -> ArticleUrl:
    """One address; the same name is the same address."""
    given = f"https://{name}.example/{name}-story"
    canonical = canonicalise(given)
    assert canonical is not None
    return ArticleUrl(kind, given, canonical)


def article(*names: str, title: str = "Bees", **fields: Any) -> Article:
    """Make a full article at these addresses, kinds in their order, hashed over what is given."""
    content = {"title": title} | {
        name: repr(value)
        for name, value in fields.items()
        if name not in ("signals", "secured", "related", "is_mention")
    }
    hashes = {
        name: hashlib.sha256(value.encode("utf-8", "surrogatepass")).hexdigest()[:16]
        for name, value in content.items()
    }
    return Article(
        urls=tuple(url(name, kind) for name, kind in zip(names, KINDS, strict=False)),
        content_hash=hashlib.sha256(json.dumps(sorted(hashes.items())).encode()).digest(),
        field_hashes=hashes,
        title=title,
        **fields,
    )


def mention(*names: str, title: str = "Wasps", **fields: Any) -> Article:
    """Make an entry of a related list."""
    return article(*names, title=title, is_mention=True, **fields)


def rich_article() -> Article:
    """Make an article that sets every field there is."""
    return article(
        "rich",
        "richer",
        title="Bees \u2014 \U0001f41d",
        excerpt="Of bees.",
        body="Bees sting. " * 50,
        type="video",
        category="news",
        declared_language="EN",
        locale="en-us",
        language="en",
        language_score=0.5,
        published_at=T0,
        updated_at=T0 + timedelta(seconds=1, microseconds=7),
        is_published=True,
        is_removed=False,
        provider=Provider(
            name="Hive",
            domain="hive.example",
            images=(Image("https://hive.example/i.png", 50, 50),),
            extra={"motto": "buzz"},
        ),
        topics=("Bees", "Honey"),
        tags=("a",),
        categories=("b",),
        levels=("beginner",),
        images=(
            Image("https://hive.example/1.png", 640, 480, is_cached=True, title="t"),
            Image("https://hive.example/2.png", attribution="me"),
        ),
        featured_content="<b>bees</b>",
        price="free",
        length="5 minutes",
        actions=({"label": "Read"},),
        items=("one", {"two": 2}),
        extra={"unknown": [1, 2.5, None, True], "nested": {"deep": "yes"}},
        signals=Signals(5, 7, Ratings(3, 4.5)),
        secured="c2VjcmV0;aXY=",
        lead_image_url="https://hive.example/1.png",
        word_count=100,
        reading_seconds=30,
    )


def observations(*stream: tuple[int, Article], start: int = 0) -> list[Item]:
    """Make deliveries from (minute observed, article), at offsets that count up from `start`."""
    return [
        Observation(offset, T0 + timedelta(minutes=minute), item)
        for offset, (minute, item) in enumerate(stream, start=start)
    ]


def dead_letter(offset: int, reason: str = "parse.json") -> DeadLetter:
    """Make a delivery that can never succeed."""
    return DeadLetter(
        offset,
        reason,
        "byte 3",
        T0,
        key=b"\0k",
        value=b"\xff\x00{",
        headers=(("h", b"\x00\x01"), ("h", None), ("\u00fc", b"")),
    )


def random_stream(seed: int, length: int) -> list[Item]:
    """Make deliveries over so few addresses that nearly everything collides."""
    chance = random.Random(seed)
    names = [f"n{number}" for number in range(chance.choice((4, 12, 40)))]
    minutes = chance.choice((3, 1000))

    def names_of_one() -> Sequence[str]:
        return chance.sample(names, chance.choice((1, 1, 1, 2, 3)))

    def one() -> Article:
        return article(
            *names_of_one(),
            title=chance.choice(("Bees", "Wasps", "Ants")),
            excerpt=chance.choice((None, "Short.")),
            is_removed=chance.random() < 0.1,
            signals=chance.choice((Signals(), Signals(1, 2), Signals(3, None, Ratings(1, 2.5)))),
            secured=chance.choice((None, "a;b", "c;d")),
            images=chance.choice(((), (Image("https://i.example/i.png", 1, 2),))),
            related=tuple(some_mention() for _ in range(chance.choice((0, 0, 1, 3)))),
        )

    def some_mention() -> Article:
        return mention(*names_of_one(), title=chance.choice(("Bees", "Wasps", "Flies")))

    stream: list[Item] = []
    for offset in range(length):
        luck = chance.random()
        seen = [item for item in stream if isinstance(item, Observation)]
        if luck < 0.05:
            stream.append(dead_letter(offset))
        elif seen and luck < 0.3:  # once more, perhaps observed later
            late = timedelta(minutes=chance.choice((0, 0, 1)))
            again = chance.choice(seen)
            stream.append(Observation(offset, again.observed_at + late, again.article))
        else:
            minute = timedelta(minutes=chance.randrange(minutes))
            stream.append(Observation(offset, T0 + minute, one()))
    return stream
