"""What a record's types cannot say: it needs a usable URL, and its free-form parts must be storable."""

from collections.abc import Iterator
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

_ALIASES: Final = {
    name: Record.model_fields[name].alias or name
    for name in (*URL_FIELDS, "actions", "items", "authors")
    if name in Record.model_fields
}
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
    unknown = 0
    for part, depth in _parts(record):
        if extra := part.__pydantic_extra__:
            unknown += _audit_extra(extra, depth, plain=plain)
        if isinstance(part, RecordImage):
            if not is_absolute(part.url):
                dropped.append("images.url")
        elif not plain:
            _check_lists(part, depth)
    return Findings(tuple(problems), tuple(dropped), unknown)


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


def _parts(record: Record) -> Iterator[tuple[Fields, int]]:
    """Yield every part of a record that may carry unknown fields, with its depth in the document."""
    yield from _parts_of_entry(record, 1)
    for entry in record.related or ():
        yield from _parts_of_entry(entry, 3)


def _parts_of_entry(entry: RelatedRecord, depth: int) -> Iterator[tuple[Fields, int]]:
    yield entry, depth
    if (provider := entry.provider) is not None:
        yield provider, depth + 1
        for image in provider.images or ():
            yield image, depth + 3
    if entry.ratings is not None:
        yield entry.ratings, depth + 1
    for image in entry.images or ():
        yield image, depth + 2


def _audit_extra(extra: dict[str, Any], depth: int, *, plain: bool) -> int:
    for name in [name for name, value in extra.items() if value is None]:
        del extra[name]  # null is JSON's word for absent, and the wire form leaves it out
    if not plain:
        _check_plain(extra, depth)
    return len(extra)


def _check_lists(part: Fields, depth: int) -> None:
    values = part.__dict__
    for name in ("actions", "items", "authors"):
        if value := values.get(name):
            _check_plain(value, depth + 1)


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
