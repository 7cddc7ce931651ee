"""From a record to its article: types of the store, canonical URLs, hashes. Cleans nothing.

The hashes are over the record as it was published, so that a change in an enrichment step does not
make a revision of everything: white space folded, URLs as article keys, topics sorted, scalars as
text. Signals (heat, quality, ratings) and `secured` are left out at any depth.
"""

import re
from collections.abc import Callable, ItemsView, Iterable, Iterator, Mapping, Sequence
from datetime import UTC
from functools import lru_cache
from hashlib import sha256
from typing import Any, Final, NamedTuple

import orjson

from newsloom.core.article import Article, ArticleUrl, Image, Provider, Ratings, Signals, UrlKind
from newsloom.core.audit import MISSING_URL, canonical_or_none, is_absolute
from newsloom.core.problems import Invalid, Problem
from newsloom.core.record_models import (
    URL_FIELDS,
    Fields,
    Record,
    RecordImage,
    RecordProvider,
    RelatedRecord,
)
from newsloom.errors import RejectReason

CONTENT_VERSION: Final = b"newsloom.content:1"
"""Part of every hash. Raised when the rules here change; stored articles are then revised once."""

_UNKNOWN: Final = -1
_NOT_CONTENT: Final = frozenset(("heat", "quality", "ratings", "secured"))
_KINDS: Final = tuple(zip(UrlKind, URL_FIELDS, strict=True))
_FIELD_HASH_DIGITS: Final = 16

# Spellings that YAML 1.1 and JSON give one value; front matter carries them as they were written.
_BOOLEANS: Final = {
    spelling: value
    for value, words in (("true", ("true", "yes", "on")), ("false", ("false", "no", "off")))
    for word in words
    for spelling in (word, word.capitalize(), word.upper())
}
_DECIMAL: Final = re.compile(r"-?[0-9]{1,15}(?:\.[0-9]{1,15}(?:[eE][+-]?[0-9]{1,2})?)\Z")


class Identity(NamedTuple):
    """What an event has to say about its record: the `key` and `content_hash` of its article."""

    key: str
    content_hash: bytes


def identity_of(record: Record) -> Identity:
    """Return the identity of the article that a record means, without making the article.

    Raises as `article_from_record` does.
    """
    mentions = [_digest(_dated_content(entry)) for entry in record.related or ()]
    content = _dated_content(record)
    _relate(content, mentions)
    return Identity(_urls(record)[0].canonical.key, _digest(content))


def article_from_record(record: Record) -> Article:
    """Return the article that a record means, its related ones as mentions, in order.

    Raises `Rejected` only for a record without a usable URL, which parsing has refused before.
    """
    mentions = tuple(_article(entry, (), is_mention=True) for entry in record.related or ())
    return _article(record, mentions, is_mention=False)


def _article(entry: RelatedRecord, related: tuple[Article, ...], *, is_mention: bool) -> Article:
    content = _dated_content(entry)
    _relate(content, [mention.content_hash for mention in related])
    return Article(
        urls=_urls(entry),
        content_hash=_digest(content),
        # Only revisions of full records tell which fields changed.
        field_hashes={} if is_mention else FieldHashes(content),
        title=entry.title,
        is_mention=is_mention,
        excerpt=entry.excerpt,
        body=entry.body if isinstance(entry, Record) else None,
        type=entry.type,
        category=entry.category,
        declared_language=entry.language,
        locale=entry.locale,
        published_at=content.get("published_date_time"),
        updated_at=content.get("updated_date_time"),
        is_published=entry.published,
        is_removed=bool(entry.removed),
        provider=_provider(entry.provider) if entry.provider else Provider(),
        topics=tuple(entry.topics or ()),
        tags=tuple(entry.tags or ()),
        categories=tuple(entry.categories or ()),
        levels=tuple(entry.levels or ()),
        images=_images(entry.images or ()),
        featured_content=entry.featured_content,
        price=entry.price,
        length=entry.length,
        actions=tuple(entry.actions or ()),
        items=tuple(entry.items or ()),
        extra=entry.__pydantic_extra__ or {},
        signals=_signals(entry),
        secured=entry.secured,
        related=related,
        is_raw=True,
    )


def _urls(entry: RelatedRecord) -> tuple[ArticleUrl, ...]:
    """Return the usable URLs in the order of trust, the first of each key."""
    found: dict[str, ArticleUrl] = {}
    values = entry.__dict__
    for kind, name in _KINDS:
        given = values[name]
        if given is None:
            continue
        canonical = canonical_or_none(given)
        if canonical is not None and canonical.key not in found:
            found[canonical.key] = ArticleUrl(kind, given, canonical)
    if not found:
        raise Invalid.of([Problem(MISSING_URL, RejectReason.NOT_AN_ARTICLE, "missing")])
    return tuple(found.values())


def _images(images: Iterable[RecordImage]) -> tuple[Image, ...]:
    return tuple(
        Image(i.url, i.width, i.height, i.is_cached, i.title, i.attribution)
        for i in images
        if is_absolute(i.url)
    )


def _provider(provider: RecordProvider) -> Provider:
    extra = provider.__pydantic_extra__ or {}
    if provider.authors:
        extra = {**extra, "authors": provider.authors}
    return Provider(provider.name, provider.domain, _images(provider.images or ()), extra)


def _signals(entry: RelatedRecord) -> Signals:
    ratings = entry.ratings
    return Signals(
        quality=None if entry.quality == _UNKNOWN else entry.quality,
        heat=None if entry.heat == _UNKNOWN else entry.heat,
        ratings=Ratings(ratings.count, ratings.average) if ratings else None,
    )


# -- content hashes --------------------------------------------------------------------------------


def _dated_content(entry: RelatedRecord) -> dict[str, Any]:
    """Return the content of an entry with its times, in UTC."""
    content = _content(entry)
    if entry.published_date_time is not None:
        content["published_date_time"] = entry.published_date_time.astimezone(UTC)
    if entry.updated_date_time is not None:
        content["updated_date_time"] = entry.updated_date_time.astimezone(UTC)
    return content


def _relate(content: dict[str, Any], mentions: Sequence[bytes]) -> None:
    """Let the content hashes of its mentions be part of a record's content."""
    if mentions:
        content["related"] = [content_hash.hex() for content_hash in mentions]


def _content(entry: RelatedRecord) -> dict[str, Any]:
    """Return what a reader would see, folded: equal values mean equal content."""
    content: dict[str, Any] = {}
    values = entry.__dict__
    for name in entry.__pydantic_fields_set__ & _FOLDED:
        value = values.get(name)  # an unknown field is in the set, and may be named like one
        if value is not None:
            folded = _FOLDS[name](value)
            if folded or folded is False:
                content[name] = folded
    if entry.__pydantic_extra__ and (extra := _mapping(entry.__pydantic_extra__)):
        content["extra"] = extra
    return content


class FieldHashes(Mapping[str, str]):
    """The hash of each content field. Worked out when first asked: most deliveries never are."""

    __slots__ = ("_content", "_hashes")

    def __init__(self, content: Mapping[str, Any]) -> None:
        self._content = content
        self._hashes: dict[str, str] | None = None

    def _known(self) -> dict[str, str]:
        if self._hashes is None:
            self._hashes = {
                name: sha256(
                    _prefix(name) + orjson.dumps(value, None, orjson.OPT_SORT_KEYS)
                ).hexdigest()[:_FIELD_HASH_DIGITS]
                for name, value in self._content.items()
            }
        return self._hashes

    def __getitem__(self, name: str) -> str:
        return self._known()[name]

    def items(self) -> ItemsView[str, str]:
        """Return all of them at once, not by as many questions."""
        return self._known().items()

    def __iter__(self) -> Iterator[str]:
        return iter(self._content)

    def __len__(self) -> int:
        return len(self._content)


@lru_cache(maxsize=64)
def _prefix(name: str) -> bytes:
    return b"%b\0%b\0" % (CONTENT_VERSION, name.encode())


def _digest(value: object) -> bytes:
    serialised = orjson.dumps(value, None, orjson.OPT_SORT_KEYS)
    return sha256(_WHOLE + serialised).digest()


_WHOLE: Final = _prefix("")


def _text(value: str) -> str:
    # Of all white space only the space is printable: most text is seen to be folded already,
    # without being taken apart.
    if _is_printable(value) and "  " not in value and value.strip(" ") == value:
        return value
    return " ".join(value.split())


def _is_printable(text: str) -> bool:
    if len(text) > _SHORT and text.isascii():  # a quarter of the time
        return not text.encode().translate(None, _PRINTABLE)
    return text.isprintable()


_PRINTABLE: Final = bytes(range(0x20, 0x7F))
_SHORT: Final = 100


def _sorted_texts(values: Iterable[str]) -> list[str]:
    return sorted({_text(value) for value in values})


def _texts(values: Iterable[str]) -> list[str]:
    return [_text(value) for value in values]


def _key(url: str) -> str | None:
    canonical = canonical_or_none(url)
    return None if canonical is None else canonical.key


def _part(part: Fields) -> dict[str, Any]:
    """Fold the scalars and the unknown fields of a part; its typed values have one form already."""
    folded = {
        name: _text(value) if type(value) is str else value
        for name, value in part.__dict__.items()
        if value is not None and type(value) is not list
    }
    if part.__pydantic_extra__:
        folded.update(_mapping(part.__pydantic_extra__))
    return folded


def _image_list(images: Iterable[RecordImage]) -> list[dict[str, Any]]:
    return [_part(image) for image in images]


def _provider_part(provider: RecordProvider) -> dict[str, Any]:
    part = _part(provider)
    if provider.images:
        part["images"] = _image_list(provider.images)
    if provider.authors:
        part["authors"] = _free_form(provider.authors)
    return part


def _free_form(value: Any) -> Any:
    """Fold data of any shape; numbers and booleans become text, as front matter has them."""
    if isinstance(value, dict):
        return _mapping(value)
    if isinstance(value, list):
        return [item for item in map(_free_form, value) if item is not None]
    if isinstance(value, str):
        return _scalar(value)
    if isinstance(value, bool):
        return "true" if value else "false"
    return None if value is None else repr(value)


def _mapping(value: Mapping[str, Any]) -> dict[str, Any]:
    folded = {name: _free_form(item) for name, item in value.items() if name not in _NOT_CONTENT}
    return {name: item for name, item in folded.items() if item}


def _scalar(text: str) -> str:
    if text in _BOOLEANS:
        return _BOOLEANS[text]
    if _DECIMAL.match(text):
        return repr(float(text))
    return _text(text)


_FOLDS: Final[Mapping[str, Callable[[Any], Any]]] = {
    "category": _text,
    "title": _text,
    "excerpt": _text,
    "body": _text,
    "type": _text,
    "featured_content": _text,
    "price": _scalar,
    "length": _scalar,
    "locale": _text,
    "language": _text,
    "published": bool,
    "removed": bool,
    "provider": _provider_part,
    "topics": _sorted_texts,
    "tags": _texts,
    "categories": _texts,
    "levels": _texts,
    "images": _image_list,
    "actions": _free_form,
    "items": _free_form,
    **dict.fromkeys(URL_FIELDS, _key),
}
_FOLDED: Final = frozenset(_FOLDS)
