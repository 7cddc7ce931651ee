"""What types cannot say: a record needs a usable URL, and all of it must be storable."""

from collections.abc import Iterable
from functools import lru_cache
from math import isfinite
from typing import Any, Final, NamedTuple

from newsloom.core.front_matter import MAX_DEPTH, MAX_NODES
from newsloom.core.identity import CanonicalUrl, canonicalise, url_problem
from newsloom.core.problems import Problem
from newsloom.core.record_models import URL_FIELDS, Fields, Record, RecordImage, RelatedRecord
from newsloom.errors import RejectReason

INT64: Final = 2**63
MISSING_URL: Final = "originalUrl (or webUrl, ampWebUrl, cdnAmpWebUrl)"

_ALIASES: Final = {name: Record.model_fields[name].alias or name for name in URL_FIELDS}
_FREE_FORM: Final = frozenset(("actions", "items", "authors"))
_SAID: Final = {
    RejectReason.URL_SCHEME: "neither http nor https",
    RejectReason.URL_LENGTH: "longer than 2048 characters",
    RejectReason.TEXT_CONTROL: "contains control characters",
    RejectReason.TEXT_SURROGATE: "contains half a surrogate pair",
}


class Findings(NamedTuple):
    """`problems` refuse the record; `dropped` names values that were left out; `unknown` counts."""

    problems: tuple[Problem, ...]
    dropped: tuple[str, ...]
    unknown: int


class NotPlainError(Exception):
    """A free-form value is too deep, too large, or a number that JSON and Postgres cannot keep."""


@lru_cache(maxsize=4096)
def canonical_or_none(url: str) -> CanonicalUrl | None:
    """`canonicalise`, remembered: a record is audited and mapped, and repeats its URLs."""
    return canonicalise(url)


def is_absolute(url: str) -> bool:
    """Tell whether an image can be shown from anywhere: its URL names http(s) and a host."""
    scheme, separator, rest = url[:12].partition("://")
    return separator != "" and scheme.lower() in ("http", "https") and rest[:1] not in ("", "/")


def audit(record: Record, *, plain: bool = False) -> Findings:
    """Judge a record that has passed its models, and take out of it what is not usable.

    `plain` says that the free-form parts are known to be good. Else raises `NotPlainError` for the
    first that is not; the caller then reads the input again with care, to name the reason.
    """
    dropped: list[str] = []
    problems = _audit_urls(record, "", dropped)
    if record.related:
        _audit_related(record, dropped)
    unknown = _audit_entry(record, 1, dropped, plain=plain)
    for entry in record.related or ():
        unknown += _audit_entry(entry, 3, dropped, plain=plain)
    return Findings(tuple(problems), tuple(dropped), unknown)


def _audit_entry(entry: RelatedRecord, depth: int, dropped: list[str], *, plain: bool) -> int:
    """Check all parts of one article that may carry unknown fields; return how many they carry."""
    unknown = _audit_part(entry, depth, plain=plain)
    if (provider := entry.provider) is not None:
        unknown += _audit_part(provider, depth + 1, plain=plain)
        if provider.images:
            unknown += _audit_images(provider.images, depth + 3, dropped, plain=plain)
    if entry.ratings is not None:
        unknown += _audit_part(entry.ratings, depth + 1, plain=plain)
    if entry.images:
        unknown += _audit_images(entry.images, depth + 2, dropped, plain=plain)
    return unknown


def _audit_images(
    images: Iterable[RecordImage], depth: int, dropped: list[str], *, plain: bool
) -> int:
    unknown = 0
    for image in images:
        if image.__pydantic_extra__:
            unknown += _audit_part(image, depth, plain=plain)
        if not is_absolute(image.url):
            dropped.append("images.url")
    return unknown


def _audit_part(part: Fields, depth: int, *, plain: bool) -> int:
    extra = part.__pydantic_extra__
    if extra:
        for name in [name for name, value in extra.items() if value is None]:
            del extra[name]  # null is JSON's word for absent, and the wire form leaves it out
    if not plain:
        if extra:
            _check_plain(extra, depth)
        for name in part.__pydantic_fields_set__ & _FREE_FORM:
            if value := part.__dict__[name]:
                _check_plain(value, depth + 1)
    return len(extra) if extra else 0


def _audit_urls(entry: RelatedRecord, prefix: str, dropped: list[str]) -> list[Problem]:
    """Take unusable URLs out of an entry; return why, when none is left."""
    values = entry.__dict__
    usable = False
    findings: list[Problem] = []
    for name in URL_FIELDS:
        url = values[name]
        if url is None:
            continue
        if canonical_or_none(url) is not None:
            usable = True
            continue
        setattr(entry, name, None)
        if url.strip():
            reason = url_problem(url)
            said = _SAID.get(reason, "not a usable URL")
            findings.append(Problem(prefix + _ALIASES[name], reason, said))
    if usable:
        dropped.extend(finding.path for finding in findings)
        return []
    return findings or [Problem(MISSING_URL, RejectReason.NOT_AN_ARTICLE, "missing")]


def _audit_related(record: Record, dropped: list[str]) -> None:
    kept = []
    for entry in record.related or ():
        if _audit_urls(entry, "related.", dropped):
            dropped.append("related")
        else:
            kept.append(entry)
    if len(kept) != len(record.related or ()):
        record.related = kept


def _check_plain(value: dict[str, Any] | list[Any], depth: int) -> None:
    nodes = 0
    open_ones: list[tuple[Any, int]] = [(value, depth)]
    while open_ones:
        container, depth = open_ones.pop()
        nodes += len(container)
        if nodes > MAX_NODES or depth > MAX_DEPTH:
            raise NotPlainError
        for item in container.values() if isinstance(container, dict) else container:
            if isinstance(item, dict | list):
                open_ones.append((item, depth + 1))
            elif isinstance(item, float):
                if not isfinite(item):
                    raise NotPlainError
            elif isinstance(item, int) and not -INT64 <= item < INT64:
                raise NotPlainError
