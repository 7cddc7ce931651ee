"""From text or JSON to a `Record`, with what had to be left out of it and why it may be refused."""

import json
import re
from collections.abc import Mapping
from datetime import date, datetime
from typing import Any, Final, NamedTuple, NoReturn

from pydantic import ValidationError

from newsloom.core.audit import INT64, NotPlainError, audit
from newsloom.core.front_matter import MAX_DEPTH, MAX_NODES, load_mapping, split_front_matter
from newsloom.core.problems import Invalid, Problem, problems_of
from newsloom.core.record_models import (
    Record,
    RecordImage,
    RecordProvider,
    RecordRatings,
    RelatedRecord,
)
from newsloom.core.salvage import Salvage
from newsloom.errors import Rejected, RejectReason

__all__ = [
    "MAX_WIRE_BYTES",
    "Invalid",
    "Parsed",
    "Problem",
    "Record",
    "RecordImage",
    "RecordProvider",
    "RecordRatings",
    "RelatedRecord",
    "problems_of",
    "record_from_json",
    "record_from_mapping",
    "record_from_text",
]

MAX_WIRE_BYTES: Final = 2 * 1024 * 1024
"""Of a record as JSON: the largest text form, with room for what JSON has to escape."""

_MAX_INT_DIGITS = 20
_NUL_ESCAPE = re.compile(r"\\(?:0|x00|u0000|U00000000)")
_JSON_STRINGS = re.compile(r'"[^"\\]*+(?:\\.[^"\\]*+)*+"?', re.DOTALL)
_BRACKETS = re.compile(r"[\[{\]}]")


class Parsed(NamedTuple):
    """A record that can be stored.

    `dropped`: names of values left out because they were invalid (a closed set, fit for a metric).
    `unknown`: how many fields the models do not know; they are kept.
    """

    record: Record
    dropped: tuple[str, ...] = ()
    unknown: int = 0


def record_from_text(text: str, *, bare: bool = False) -> Parsed:
    """Read front matter and body. `bare`: the `---` lines may be missing, as in a .yaml file.

    Raises `Rejected`; an `Invalid` one lists every finding in `problems`.
    """
    front, body = split_front_matter(text, bare=bare)
    tree = load_mapping(front)
    if body.strip():
        tree["body"] = body
    if "\0" not in body and not ("\\" in front and _NUL_ESCAPE.search(front)):
        try:
            return _accepted(Record.model_validate(tree))
        except (ValidationError, NotPlainError):
            pass
    return _salvaged(tree)


def record_from_json(value: bytes) -> Parsed:
    """Read the one JSON object of the wire form, with numbers and times as JSON or as text.

    Raises `Rejected` like `record_from_text`. Of a repeated key the last one counts.
    """
    if len(value) > MAX_WIRE_BYTES:
        detail = f"the record has {len(value)} bytes, at most {MAX_WIRE_BYTES} are allowed"
        raise Rejected(RejectReason.KAFKA_OVERSIZE, detail)
    try:
        text = value.decode()
    except UnicodeDecodeError as error:
        detail = f"not UTF-8 at byte {error.start}"
        raise Rejected(RejectReason.DECODE_UTF8, detail) from None
    text = text.removeprefix("\ufeff")
    # So many commas are either in texts or too many values: the careful way tells, and it bounds
    # what is built before building it.
    few = len(text) <= MAX_NODES or text.count(",") <= MAX_NODES
    if few and "\\u0000" not in text:
        try:
            return _accepted(Record.model_validate_json(text))
        except (ValidationError, NotPlainError):
            pass
    return _salvaged(_load_json(text))


def record_from_mapping(mapping: Mapping[str, Any]) -> Parsed:
    """Read a record given as Python values; dates and times may be `datetime` objects."""
    text = json.dumps(dict(mapping), ensure_ascii=False, default=_as_json)
    return record_from_json(
        text.encode("utf-8", "surrogatepass") if _is_utf8(text) else _ascii(text)
    )


def _is_utf8(text: str) -> bool:
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def _ascii(text: str) -> bytes:
    """Write half surrogate pairs as JSON escapes, which `record_from_json` knows how to mend."""
    return re.sub(r"[\ud800-\udfff]", lambda half: f"\\u{ord(half[0]):04x}", text).encode()


def _as_json(value: object) -> str:
    if isinstance(value, datetime | date):
        return value.isoformat()
    raise TypeError(f"a record cannot hold a {type(value).__name__}")


def _accepted(record: Record) -> Parsed:
    findings = audit(record)
    if findings.problems:
        raise Invalid.of(findings.problems)
    return Parsed(record, findings.dropped, findings.unknown)


def _salvaged(tree: object) -> Parsed:
    salvage = Salvage(tree)
    record = salvage.record()
    findings = audit(record, plain=True)
    problems = list(findings.problems)
    if salvage.lost_urls and problems and problems[0].reason is RejectReason.NOT_AN_ARTICLE:
        problems = salvage.lost_urls
    problems = [*salvage.problems, *problems]
    if problems:
        raise Invalid.of(problems)
    return Parsed(record, (*salvage.dropped, *findings.dropped), findings.unknown)


def _load_json(text: str) -> object:
    """Parse with the standard library, which is slower and says what exactly is wrong."""
    if not text.strip():
        raise Rejected(RejectReason.DECODE_EMPTY, "the record is empty")
    _check_size(text)
    try:
        return json.loads(
            text, parse_constant=_refuse_constant, parse_float=_finite, parse_int=_bounded
        )
    except json.JSONDecodeError as error:
        detail = f"not valid JSON at character {error.pos}"
        raise Rejected(RejectReason.PARSE_JSON, detail) from None


def _check_size(text: str) -> None:
    """Bound depth and number of values before anything is built, by what is outside of strings."""
    structure = _JSON_STRINGS.sub("", text)
    depth = 0
    for bracket in _BRACKETS.finditer(structure):
        depth += 1 if bracket[0] in "[{" else -1
        if depth > MAX_DEPTH:
            raise Rejected(RejectReason.PARSE_DEPTH, f"nested deeper than {MAX_DEPTH}")
    if structure.count(",") + structure.count("[") + structure.count("{") > MAX_NODES:
        raise Rejected(RejectReason.PARSE_NODE_LIMIT, f"more than {MAX_NODES} values")


def _refuse_constant(_name: str) -> NoReturn:
    raise Rejected(RejectReason.PARSE_NON_FINITE, "NaN or Infinity is not JSON")


def _finite(digits: str) -> float:
    number = float(digits)
    if number in (float("inf"), float("-inf")):
        raise Rejected(RejectReason.PARSE_NON_FINITE, "a number too large for a double")
    return number


def _bounded(digits: str) -> int:
    if len(digits) <= _MAX_INT_DIGITS and -INT64 <= (number := int(digits)) < INT64:
        return number
    raise Rejected(RejectReason.PARSE_NUMBER_RANGE, "a whole number of more than 64 bits")
