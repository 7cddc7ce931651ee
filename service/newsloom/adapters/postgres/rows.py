"""Values of the core as rows of the tables, and back. Each row type beside its list of columns."""

import base64
from collections.abc import Iterable, Iterator, Mapping, Sequence
from operator import attrgetter
from typing import Any
from uuid import UUID

import asyncpg
import orjson

from newsloom.core.article import Image, Ratings, Signals
from newsloom.core.batch import (
    Alias,
    Archived,
    Change,
    Content,
    ContentWrite,
    DeadLetter,
    Head,
    SignalsRow,
)
from newsloom.ports import BatchRefused

_INVALID_TEXT_REPRESENTATION = "22P02"

Row = tuple[Any, ...]

VERSION_COLUMNS = (
    "observed_at", "published_at", "updated_at", "word_count", "reading_seconds", "language_score",
    "is_published", "is_removed", "canonical_url", "title", "excerpt", "body", "type", "category",
    "language", "declared_language", "locale", "provider_name", "provider_domain",
    "provider_images", "provider_extra", "lead_image_url", "images", "topics", "tags",
    "categories", "levels", "featured_content", "price", "length", "actions", "items",
    "extra", "changed_fields", "field_hashes",
)  # fmt: skip
"""What the current content and a superseded one have in common, in the order of `_version_row`."""

CONTENT_COLUMNS = ("article_id", "is_mention", *VERSION_COLUMNS)
REVISION_COLUMNS = ("article_id", "revision", *VERSION_COLUMNS)
EDGE_COLUMNS = ("article_id", "position", "related_article_id")
HEAD_COLUMNS = (
    "article_id", "version", "revision", "observed_at", "content_hash", "first_seen_at",
    "signals_at", "quality", "heat", "ratings", "secured", "merged_into", "article_key",
)  # fmt: skip
SIGNALS_COLUMNS = ("article_id", "observed_at", "quality", "heat", "ratings")
CHANGE_COLUMNS = (
    "article_id", "version", "kind", "observed_at", "changed_fields", "other_id",
)  # fmt: skip
ALIAS_COLUMNS = ("url_id", "article_id", "kind", "url", "canonical_url")


def content_row(write: ContentWrite) -> Row:
    """Make a row of `CONTENT_COLUMNS`."""
    content = write.content
    return (write.article_id, content.article.is_mention, *_version_row(content))


def revision_row(archived: Archived) -> Row:
    """Make a row of `REVISION_COLUMNS`."""
    return (archived.article_id, archived.revision, *_version_row(archived.content))


def edge_rows(write: ContentWrite) -> Iterator[Row]:
    """Make rows of `EDGE_COLUMNS`; positions run from 1 over the edges that there are."""
    targets = (target for target in write.content.related if target is not None)
    for position, target in enumerate(targets, start=1):
        yield write.article_id, position, target


def head_row(head: Head) -> Row:
    """Make a row of `HEAD_COLUMNS`; it is a mention's where `revision` is 0."""
    return (
        head.article_id,
        head.version,
        head.revision,
        head.observed_at,
        head.content_hash,
        head.first_seen_at,
        head.signals_at,
        *_signals(head.signals),
        head.secured,
        head.merged_into,
        head.article_key,
    )


def head_of(row: asyncpg.Record) -> Head:
    """Read a head back; the row has `HEAD_COLUMNS` and `erased_at`."""
    ratings = row["ratings"]
    return Head(
        article_id=row["article_id"],
        article_key=row["article_key"],
        version=row["version"],
        revision=row["revision"],
        is_mention=row["revision"] == 0,
        observed_at=row["observed_at"],
        content_hash=row["content_hash"],
        first_seen_at=row["first_seen_at"],
        signals=Signals(
            row["quality"],
            row["heat"],
            None if ratings is None else Ratings(**orjson.loads(ratings)),
        ),
        signals_at=row["signals_at"],
        secured=row["secured"],
        merged_into=row["merged_into"],
        is_erased=row["erased_at"] is not None,
    )


def signals_row(row: SignalsRow) -> Row:
    """Make a row of `SIGNALS_COLUMNS`."""
    return (row.article_id, row.observed_at, *_signals(row.signals))


def change_row(change: Change) -> Row:
    """Make a row of `CHANGE_COLUMNS`."""
    return (
        change.article_id,
        change.version,
        change.kind.value,
        change.observed_at,
        list(change.changed_fields) or None,
        change.other_id,
    )


def alias_row(url_id: UUID, alias: Alias) -> Row:
    """Make a row of `ALIAS_COLUMNS`."""
    return (url_id, alias.article_id, alias.kind, alias.given, alias.canonical_url)


def dead_letter_row(letter: DeadLetter) -> Row:
    """Make a row of offset, observed_at, reason, detail, key, value, headers."""
    headers = [
        [name, None if value is None else base64.b64encode(value).decode("ascii")]
        for name, value in letter.headers
    ]
    return (
        letter.offset,
        letter.observed_at,
        letter.reason,
        letter.detail,
        letter.key,
        letter.value,
        _json(headers),
    )


def columns_of(rows: Iterable[Row], width: int) -> list[list[Any]]:
    """Turn rows into one list a column, as unnest() takes them; `width` lists even of no rows."""
    columns = [list(column) for column in zip(*rows, strict=True)]
    return columns or [[] for _ in range(width)]


def _version_row(content: Content) -> Row:
    article = content.article
    provider = article.provider
    return (
        content.observed_at,
        article.published_at,
        article.updated_at,
        article.word_count,
        article.reading_seconds,
        article.language_score,
        article.is_published,
        article.is_removed,
        article.canonical_url,
        article.title,
        article.excerpt,
        article.body,
        article.type,
        article.category,
        article.language,
        article.declared_language,
        article.locale,
        provider.name,
        provider.domain,
        _images(provider.images),
        _json(provider.extra),
        article.lead_image_url,
        _images(article.images),
        article.topics or None,
        article.tags or None,
        article.categories or None,
        article.levels or None,
        article.featured_content,
        article.price,
        article.length,
        _json(article.actions),
        _json(article.items),
        _json(article.extra),
        content.changed_fields or None,
        None if article.is_mention else _json(article.field_hashes),
    )


def _signals(signals: Signals) -> tuple[int | None, int | None, str | None]:
    ratings = signals.ratings
    values = None
    if ratings is not None:
        values = orjson.dumps({"count": ratings.count, "average": ratings.average}).decode()
    return signals.quality, signals.heat, values


def _images(images: Sequence[Image]) -> str | None:
    return _json(
        [
            {
                name: value
                for name, value in zip(_IMAGE_FIELDS, _image_values(image), strict=True)
                if value is not None
            }
            for image in images
        ]
    )


_IMAGE_FIELDS = ("url", "width", "height", "is_cached", "title", "attribution")
_image_values = attrgetter(*_IMAGE_FIELDS)


def _json(value: Mapping[str, Any] | Sequence[Any]) -> str | None:
    """Give the JSON text; None for what is empty."""
    if not value:
        return None
    try:
        return orjson.dumps(value, default=_plain).decode()
    except TypeError:  # a lone surrogate, an integer beyond 64 bits
        raise BatchRefused(_INVALID_TEXT_REPRESENTATION) from None


def _plain(value: object) -> object:
    """Let orjson write a mapping or sequence that is no dict or list."""
    if isinstance(value, Mapping):
        return dict(value.items())
    if isinstance(value, Sequence):
        return list(value)
    raise TypeError(type(value).__name__)
