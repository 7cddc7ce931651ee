"""An article: what is to be stored of one record, or of one entry of its `related` list.

`Record` is what a publisher wrote; `Article` is what it means, in the types of the store. Both
forms share this one class: a mention is an article with `is_mention` set, no `related` of its own.
"""

from collections.abc import Mapping
from dataclasses import field
from datetime import datetime
from enum import StrEnum
from typing import NamedTuple
from uuid import UUID

from newsloom.core.identity import CanonicalUrl
from newsloom.core.values import value_class


class UrlKind(StrEnum):
    """Which of a record's URL fields an alias came from, in the order of trust."""

    ORIGINAL = "original"
    WEB = "web"
    AMP = "amp"
    CDN_AMP = "cdn_amp"


URL_KIND_RANK: Mapping[str, int] = {kind.value: rank for rank, kind in enumerate(UrlKind)}


@value_class(frozen=True, slots=True)
class ArticleUrl:
    """One address of an article: as it was given, and in canonical form."""

    kind: UrlKind
    given: str
    canonical: CanonicalUrl


@value_class(frozen=True, slots=True)
class Image:
    """A picture of an article. Sizes in pixels, None when unknown."""

    url: str
    width: int | None = None
    height: int | None = None
    is_cached: bool | None = None
    title: str | None = None
    attribution: str | None = None


@value_class(frozen=True, slots=True)
class Provider:
    """Who published. `domain` is the registered domain once enriched, else as the record says."""

    name: str | None = None
    domain: str | None = None
    images: tuple[Image, ...] = ()
    extra: Mapping[str, object] = field(default_factory=dict)


@value_class(frozen=True, slots=True)
class Ratings:
    """How readers rated a course or sample."""

    count: int | None = None
    average: float | None = None


class Signals(NamedTuple):
    """What changes hourly and no reader sees as an edit. `heat` and `quality` None = unknown."""

    quality: int | None = None
    heat: int | None = None
    ratings: Ratings | None = None


NO_SIGNALS = Signals()


class OrderKey(NamedTuple):
    """Decides which of two deliveries of one article is the newer. Compares as a tuple."""

    observed_at: datetime
    content_hash: bytes


@value_class(frozen=True, slots=True)
class Article:
    """One article as it is to be stored. All times aware UTC.

    `urls[0]` is the key URL. `field_hashes` holds 8 bytes for each content field that is set, over
    the record before enrichment; `content_hash` (32 bytes) is over all of them: they decide
    "revised" and `changed_fields`, and must not change when an enrichment step does.
    """

    urls: tuple[ArticleUrl, ...]
    content_hash: bytes
    field_hashes: Mapping[str, str]
    title: str
    is_mention: bool = False
    excerpt: str | None = None
    body: str | None = None
    type: str | None = None
    category: str | None = None
    declared_language: str | None = None
    locale: str | None = None
    published_at: datetime | None = None
    updated_at: datetime | None = None
    is_published: bool | None = None
    is_removed: bool = False
    provider: Provider = Provider()
    topics: tuple[str, ...] = ()
    tags: tuple[str, ...] = ()
    categories: tuple[str, ...] = ()
    levels: tuple[str, ...] = ()
    images: tuple[Image, ...] = ()
    featured_content: str | None = None
    price: str | None = None
    length: str | None = None
    actions: tuple[Mapping[str, object], ...] = ()
    items: tuple[object, ...] = ()
    extra: Mapping[str, object] = field(default_factory=dict)
    signals: Signals = NO_SIGNALS
    secured: str | None = field(default=None, repr=False)
    related: tuple["Article", ...] = ()
    # Not enriched yet: a fold does it for what it keeps. Says nothing about the article itself.
    is_raw: bool = field(default=False, compare=False, repr=False)
    # Filled by the enrichment steps.
    language: str | None = None
    language_score: float | None = None
    lead_image_url: str | None = None
    word_count: int | None = None
    reading_seconds: int | None = None

    @property
    def key(self) -> str:
        """The article key: what decides sameness, and the Kafka key of the record's event."""
        return self.urls[0].canonical.key

    @property
    def canonical_url(self) -> str:
        """The clickable form of the key URL."""
        return self.urls[0].canonical.url


class AliasRow(NamedTuple):
    """A stored URL key and the article that owns it."""

    url_id: UUID
    article_id: UUID
    kind: str
    given: str
