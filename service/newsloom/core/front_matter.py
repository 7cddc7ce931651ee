"""Front matter: the YAML between two `---` lines, and the body after them.

What is plainly written is read line by line (`newsloom.core.plain_yaml`), all else is built from
libyaml's event stream, not by a YAML constructor: every scalar stays the text that was written (a
headline `NO` is no boolean, `010` no octal number), and what makes YAML dangerous (aliases, tags,
merge keys) is refused while it streams by, before anything is built from it.
"""

import re
from collections.abc import Callable
from typing import Any, Final, NamedTuple, NoReturn

import yaml
from yaml._yaml import CParser
from yaml.events import (
    AliasEvent,
    DocumentStartEvent,
    Event,
    MappingEndEvent,
    MappingStartEvent,
    NodeEvent,
    ScalarEvent,
    SequenceEndEvent,
    SequenceStartEvent,
)

from newsloom.core.plain_yaml import PLAIN_NULLS, load_plain
from newsloom.errors import Rejected, RejectReason

if not yaml.__with_libyaml__:
    message = "PyYAML was built without libyaml: install a wheel of PyYAML, or libyaml and rebuild"
    raise ImportError(message)

MAX_DOCUMENT_BYTES: Final = 1024 * 1024
"""Of one record as text, body included."""

MAX_DEPTH: Final = 32
"""Of mappings and lists inside each other, in front matter and in JSON."""

MAX_NODES: Final = 20_000
"""Of scalars, lists and mappings in one record."""

_UTF8_MAX_BYTES = 4
_SECOND_LINE = re.compile(r"\n---[ \t\r]*(?:\n|\Z)")
_FORBIDDEN_CONTROLS = re.compile(r"[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f]")
_SURROGATES = re.compile(r"[\ud800-\udfff]")


class FrontMatter(NamedTuple):
    """A record's two parts. `body` is verbatim, empty when there is none."""

    front: str
    body: str


def split_front_matter(text: str, *, bare: bool = False) -> FrontMatter:
    """Split a record at its `---` lines. CRLF and one byte order mark are accepted.

    `bare` also accepts a text without `---` lines as front matter alone, as in .yaml files.
    Raises `Rejected` when there is nothing in it, no front matter, or when it is too long.
    """
    text = text.removeprefix("\ufeff")
    if not text.strip():
        raise Rejected(RejectReason.DECODE_EMPTY, "the record is empty")
    _refuse_oversize(text)
    first, _, _ = text.partition("\n")
    if first.rstrip() != "---":
        if bare:
            return FrontMatter(text, "")
        raise Rejected(RejectReason.PARSE_FRONT_MATTER, "the first line is not ---")
    start = len(first) + 1
    end = _SECOND_LINE.search(text, len(first))
    if end is None:
        if bare:
            return FrontMatter(text[start:], "")
        raise Rejected(RejectReason.PARSE_FRONT_MATTER, "no second --- line")
    return FrontMatter(text[start : end.start() + 1], text[end.end() :])


def load_mapping(front: str) -> dict[str, object]:
    """Read YAML into dict, list and str alone; a plain empty, `~` or `null` scalar is None.

    Raises `Rejected` with the exact reason for anything else that YAML can say, and for limits.
    """
    tree = load_plain(front)
    return load_by_events(front) if tree is None else tree


def load_by_events(front: str) -> dict[str, object]:
    """`load_mapping` with libyaml alone."""
    if forbidden := _FORBIDDEN_CONTROLS.search(front):
        line = front.count("\n", 0, forbidden.start()) + 1
        raise Rejected(
            RejectReason.TEXT_CONTROL,
            f"control character U+{ord(forbidden[0]):04X} in line {line} of the front matter",
        )
    front = _SURROGATES.sub("\ufffd", front)
    try:
        root = _build(CParser(front))
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark
        where = f" in line {mark.line + 1} of the front matter" if mark else ""
        raise Rejected(RejectReason.PARSE_YAML, f"{_kind(error)}{where}") from None
    except (yaml.YAMLError, ValueError) as error:
        raise Rejected(RejectReason.PARSE_YAML, _kind(error)) from None
    if not isinstance(root, dict):
        raise Rejected(RejectReason.SCHEMA_NOT_OBJECT, "the front matter is not a mapping")
    return root


def _refuse_oversize(text: str) -> None:
    if len(text) * _UTF8_MAX_BYTES <= MAX_DOCUMENT_BYTES:
        return
    size = len(text.encode("utf-8", "surrogatepass"))
    if size > MAX_DOCUMENT_BYTES:
        detail = f"the record has {size} bytes, at most {MAX_DOCUMENT_BYTES} are allowed"
        raise Rejected(RejectReason.SCHEMA_LENGTH, detail)


def _kind(error: Exception) -> str:
    """Name a YAML error without its text, which quotes the record."""
    return f"not valid YAML ({type(error).__name__})"


_Container = dict[str, object] | list[object]


def _build(parser: CParser) -> object:  # noqa: C901, PLR0912, PLR0915 - one loop: calls cost
    """Turn events into values in one loop: no recursion, so that depth is a plain count."""
    root: list[object] = []
    container: _Container = root
    key: str | None = None
    outer: list[tuple[_Container, str | None]] = []
    nodes = documents = 0
    next_event: Callable[[], Any] = parser.get_event
    while (event := next_event()) is not None:
        kind = type(event)
        if kind is ScalarEvent:
            value: object = event.value
            if event.tag is not None or event.anchor is not None:
                _refuse_node(event)
            # `implicit[0]` is libyaml's word for "written plain, without quotes".
            plain_null = value in PLAIN_NULLS and event.implicit[0]
            if key is None and type(container) is dict:
                key = event.value
                if plain_null or key == "<<" or key in container:
                    _check_key(key, container, event)
                continue
            if plain_null:
                value = None
        elif kind is MappingStartEvent or kind is SequenceStartEvent:
            if event.tag is not None or event.anchor is not None:
                _refuse_node(event)
            value = {} if kind is MappingStartEvent else []
        elif kind is MappingEndEvent or kind is SequenceEndEvent:
            container, key = outer.pop()
            continue
        else:
            documents += kind is DocumentStartEvent
            _check_structure(event, documents)
            continue
        if type(container) is list:
            container.append(value)
        elif key is not None:
            container[key] = value  # type: ignore[call-overload]
            key = None
        else:
            _refuse(RejectReason.PARSE_KEY, "a list or mapping as a key", event)
        if kind is not ScalarEvent:
            outer.append((container, key))
            container, key = value, None  # type: ignore[assignment]
            if len(outer) > MAX_DEPTH:
                _refuse(RejectReason.PARSE_DEPTH, f"nested deeper than {MAX_DEPTH}", event)
        nodes += 1
        if nodes > MAX_NODES:
            _refuse(RejectReason.PARSE_NODE_LIMIT, f"more than {MAX_NODES} values", event)
    return root[0] if root else None


def _check_structure(event: Event, documents: int) -> None:
    if isinstance(event, AliasEvent):
        _refuse(RejectReason.PARSE_ALIAS, "an alias", event)
    if documents > 1:
        _refuse(RejectReason.PARSE_MULTI_DOCUMENT, "a second document", event)


def _check_key(key: str, container: _Container, event: ScalarEvent) -> None:
    plain = event.implicit[0]
    if plain and key in PLAIN_NULLS:
        _refuse(RejectReason.PARSE_KEY, "an empty key", event)
    if plain and key == "<<":
        _refuse(RejectReason.PARSE_MERGE_KEY, "a merge key", event)
    if key in container:
        _refuse(RejectReason.PARSE_DUPLICATE_KEY, "a key for the second time", event)


def _refuse_node(event: NodeEvent) -> NoReturn:
    if event.anchor is not None:
        _refuse(RejectReason.PARSE_ALIAS, "an anchor", event)
    _refuse(RejectReason.PARSE_TAG, "a tag", event)


def _refuse(reason: RejectReason, what: str, event: Event) -> NoReturn:
    mark = event.start_mark
    line = mark.line + 1 if mark else 1
    raise Rejected(reason, f"{what} in line {line} of the front matter")
