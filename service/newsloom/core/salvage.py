"""Getting what is good out of a record whose values are not all as they should be.

Only records that fail the models come here, so this may take its time. Each pass asks the models
what is wrong and mends it (a number where a text belongs, one name where a list of names belongs)
or drops the value; what cannot be dropped without losing the article becomes a `Problem`.
"""

import re
from collections.abc import Iterable
from typing import Any, Final

from pydantic import ValidationError
from pydantic_core import ErrorDetails

from newsloom.core.problems import Invalid, Problem
from newsloom.core.record_models import URL_FIELDS, Record
from newsloom.core.record_types import EARLIEST, LATEST, MAX_EXCERPT_CHARACTERS, TIME_PATTERN
from newsloom.errors import Rejected, RejectReason

Path = tuple[int | str, ...]

_MAX_PASSES: Final = 10
_URLS: Final = frozenset(Record.model_fields[name].alias or name for name in URL_FIELDS)
_TIMES: Final = frozenset(("publishedDateTime", "updatedDateTime"))
_TIME: Final = re.compile(TIME_PATTERN)
_ZONELESS: Final = re.compile(
    r"[0-9]{4}-[0-9]{2}-[0-9]{2}[Tt ][0-9]{2}:[0-9]{2}:[0-9]{2}(\.[0-9]+)?\Z"
)
_SURROGATES: Final = re.compile(r"[\ud800-\udfff]")
_PLACEHOLDER: Final = "-"
_MISSING: Final = object()


class Salvage:
    """One record being mended. `dropped`: values left out. `problems`: why it is refused."""

    def __init__(self, tree: object) -> None:
        if not isinstance(tree, dict):
            raise Rejected(RejectReason.SCHEMA_NOT_OBJECT, "the record is not an object")
        self.tree: dict[str, Any] = _cleaned_record(tree)
        self.dropped: list[str] = []
        self.problems: list[Problem] = []
        self.lost_urls: list[Problem] = []

    def record(self) -> Record:
        """Return what the models accept of it. Look at `problems` afterwards."""
        for _ in range(_MAX_PASSES):
            try:
                return Record.model_validate(self.tree)
            except ValidationError as invalid:
                self._mend(invalid.errors(include_url=False, include_context=True))
        problem = Problem("", RejectReason.SCHEMA_TYPE, "cannot be read as a record")
        raise Invalid.of([*self.problems, problem])

    def _mend(self, errors: Iterable[ErrorDetails]) -> None:
        """Repair in place, then drop from the back, so that positions in lists stay true."""
        doomed: set[Path] = set()
        for error in errors:
            path = error["loc"]
            value = _at(self.tree, path)
            if not (self._refused(path, error, value) or self._repaired(path, error, value)):
                doomed.add(_victim(path))
        for path in sorted(doomed, key=_from_the_back):
            if not any(path[:length] in doomed for length in range(1, len(path))):
                self._drop(path)

    def _refused(self, path: Path, error: ErrorDetails, value: object) -> bool:
        """Note a problem that decides over the record, and put something valid in its place."""
        if path == ("title",):
            if isinstance(value, int | float) and not isinstance(value, bool):
                return False
            self.problems.append(_title_problem(error, value))
            self.tree["title"] = _PLACEHOLDER
            return True
        if path == ("publishedDateTime",) and not _is_blank(value):
            reason, message = _time_problem(value)
            self.problems.append(Problem("publishedDateTime", reason, message))
            del self.tree["publishedDateTime"]
            return True
        if path == ("body",) and error["type"] == "string_too_long":
            message = "longer than 1 MiB"
            self.problems.append(Problem("body", RejectReason.SCHEMA_LENGTH, message))
            del self.tree["body"]
            return True
        return False

    def _repaired(self, path: Path, error: ErrorDetails, value: object) -> bool:
        if value is None or (path[-1] in _TIMES and _is_blank(value)):
            return self._forget(path)
        kind = error["type"]
        if kind == "too_long" and isinstance(value, list):
            del value[error["ctx"]["max_length"] :]
        elif kind == "string_too_long" and path[-1] == "excerpt" and isinstance(value, str):
            _put(self.tree, path, value[:MAX_EXCERPT_CHARACTERS])
        else:
            mended = _mended(kind, value)
            if mended is None:
                return False
            _put(self.tree, path, mended)
            return True
        self.dropped.append(_name(path))
        return True

    def _forget(self, path: Path) -> bool:
        """Remove a null without counting it, where the rest is valid without it."""
        container = _at(self.tree, path[:-1])
        if isinstance(container, dict) and _victim(path) == path:
            container.pop(path[-1], None)
            return True
        return False

    def _drop(self, path: Path) -> None:
        container = _at(self.tree, path[:-1])
        value = _at(self.tree, path)
        if len(path) == 1 and path[0] in _URLS:
            reason, message = RejectReason.SCHEMA_TYPE, "not a text"
            if isinstance(value, str):
                reason, message = RejectReason.TEXT_SURROGATE, "contains half a surrogate pair"
            self.lost_urls.append(Problem(str(path[0]), reason, message))
        if isinstance(container, dict):
            container.pop(path[-1], None)
        elif isinstance(container, list) and isinstance(path[-1], int):
            del container[path[-1]]
        self.dropped.append(_name(path))


def _victim(path: Path) -> Path:
    """Say what goes when the value at `path` is wrong: itself, or what is nothing without it."""
    related_title = len(path) == 3 and path[0] == "related" and path[2] == "title"  # noqa: PLR2004
    return path[:-1] if related_title or (path[-1] == "url" and len(path) > 1) else path


def _mended(kind: str, value: object) -> object:
    """Give a value the type it should have had, where there is one way to; else None."""
    scalar = isinstance(value, str | int | float) and not isinstance(value, bool)
    if not scalar:
        return None
    if kind == "string_type":
        return str(value)
    if kind == "list_type":
        return [str(value)]
    if kind in ("model_type", "model_attributes_type", "dict_type") and isinstance(value, str):
        return {"name": value} if value.strip() else None
    return None


def _title_problem(error: ErrorDetails, value: object) -> Problem:
    blank = value is None or value is _MISSING or error["type"] == "string_pattern_mismatch"
    if blank:
        return Problem("title", RejectReason.NOT_AN_ARTICLE, "missing")
    if error["type"] == "string_too_long":
        return Problem("title", RejectReason.SCHEMA_LENGTH, "longer than 2000 characters")
    return Problem("title", RejectReason.SCHEMA_TYPE, "not a text")


def _time_problem(value: object) -> tuple[RejectReason, str]:
    if isinstance(value, str):
        if _ZONELESS.match(value):
            return RejectReason.TIME_ZONE, "a time without a zone"
        if _TIME.match(value) and not EARLIEST.year <= int(value[:4]) < LATEST.year:
            return RejectReason.TIME_RANGE, "not between 1900 and 2200"
    return RejectReason.TIME_INVALID, "not an RFC 3339 time with a zone"


def _is_blank(value: object) -> bool:
    return value is None or (isinstance(value, str) and not value.strip())


def _name(path: Path) -> str:
    """Name a value without its position; all parts come from the models, so the set is closed."""
    return ".".join(part for part in path if isinstance(part, str))


def _from_the_back(path: Path) -> list[tuple[int, str]]:
    return [(-part, "") if isinstance(part, int) else (0, part) for part in path]


def _at(tree: Any, path: Path) -> Any:
    for part in path:
        try:
            tree = tree[part]
        except (KeyError, IndexError, TypeError):
            return _MISSING
    return tree


def _put(tree: Any, path: Path, value: object) -> None:
    _at(tree, path[:-1])[path[-1]] = value


def _cleaned_record(tree: dict[Any, Any]) -> dict[str, Any]:
    cleaned: dict[str, Any] = {}
    for name, value in tree.items():
        keep = name in _URLS and isinstance(value, str)
        # A URL is an identity: what is broken in it must not be mended into another address.
        cleaned[_clean_text(str(name))] = value if keep else _cleaned(value)
    return cleaned


def _cleaned(value: object) -> Any:
    """Copy free-form data with every text storable: no NUL, no half surrogate pairs."""
    if isinstance(value, str):
        return _clean_text(value)
    if isinstance(value, dict):
        return _cleaned_record(value)
    if isinstance(value, list):
        return [_cleaned(item) for item in value]
    return value


def _clean_text(text: str) -> str:
    return _SURROGATES.sub("\ufffd", text.replace("\0", ""))
