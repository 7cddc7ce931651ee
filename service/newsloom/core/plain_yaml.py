"""The part of YAML that publishers write, read line by line: a faster way, never another one.

Block mappings and lists of scalars that are plain or quoted and on one line. A text with anything
else in it (a comment, a flow list, a folded text, an odd indentation, a repeated key) has no answer
here: libyaml then reads it, or says what is wrong with it. An answer is what libyaml would have
given; the tests hold one against the other.
"""

import re
from functools import lru_cache
from typing import Any, Final, cast

PLAIN_NULLS: Final = frozenset(("", "~", "null", "Null", "NULL"))
"""What is no value at all when it is written plain."""

# A line makes three values at most (a list, a mapping in it, a scalar in that): far below what is
# allowed, and so is the depth. What is near a limit is for the parser that knows them exactly.
_MAX_LINES: Final = 6_000
_MAX_LEVELS: Final = 24
_MAX_HEAD_CHARACTERS: Final = 120

# The characters that YAML allows (1.2, 5.1), without tabs and without all line breaks but LF.
_USUAL: Final = re.compile(
    "[\n\x20-\x7e\xa0-\u2027\u202a-\ud7ff\ue000-\ufefe\uff00-\ufffd\U00010000-\U0010ffff]*+"
)
_HEAD: Final = re.compile(r"\A( *+(?:- )?+)([A-Za-z_][A-Za-z0-9_]*+)")
_ITEM: Final = re.compile(r"\A( *+- )([^ ].*+)")
_PLAIN: Final = re.compile(r"\A(?:[^\W_]|/|-[0-9])[^:#]*+(?::[^\s:#][^:#]*+)*+(?<! )")
_DOUBLE_QUOTED: Final = re.compile(r'\A"[^"\\]*+(?:\\["\\/nt][^"\\]*+)*+"')
_ESCAPE: Final = re.compile(r"\\(.)")
_ESCAPED: Final = {'"': '"', "\\": "\\", "/": "/", "n": "\n", "t": "\t"}

_Place = tuple[str, str | None, str | None]
"""Where a line stands: its indentation, with the dash if it begins an item of a list; its key, None
if the item is a scalar; and, when the item is a mapping, where the further keys of it stand."""


class _NotPlainError(Exception):
    """Not in the part of YAML that is read here."""


def load_plain(front: str) -> dict[str, object] | None:
    """Read plain block YAML as `load_by_events` does; None for anything else. Never raises."""
    if "\r" in front:
        front = front.replace("\r\n", "\n")
    if not _USUAL.fullmatch(front):
        return None
    lines = front.split("\n")
    if len(lines) > _MAX_LINES:
        return None
    try:
        return _read(lines) or None  # nothing at all is not a mapping
    except _NotPlainError:
        return None


def _read(lines: list[str]) -> dict[str, object]:  # noqa: C901, PLR0912, PLR0915 - one loop: calls cost
    """Build the tree. A level is known by its indentation, with the dash if it is a list."""
    root: dict[str, object] = {}
    level, here = "", cast("Any", root)
    outer: list[tuple[str, Any]] = []
    parent: str | None = None  # the key of the line before, if it has no value: one may follow
    for line in lines:
        head, colon, value = line.partition(": ")
        if not colon and line[-1:] == ":":
            head = line[:-1]
        place = _place(head) if len(head) <= _MAX_HEAD_CHARACTERS else None
        if place is None or head == line:
            if not line:
                continue
            place, value = _item(line)
        start, key, inner = place
        if start != level:
            if len(start) > len(level):
                if parent is None or len(outer) >= _MAX_LEVELS:
                    raise _NotPlainError
                outer.append((level, here))
                here[parent] = opened = _container(start, level)
                level, here = start, opened
            while level != start:
                if not outer:
                    raise _NotPlainError
                level, here = outer.pop()
        if inner is not None:
            outer.append((level, here))
            here.append({})
            level, here = inner, here[-1]
        first = value[:1]
        scalar: str | None = value
        if first == '"':
            closed = value.find('"', 1) == len(value) - 1 and "\\" not in value
            scalar = value[1:-1] if closed else _double_quoted(value)
        elif first == "'":
            scalar = _single_quoted(value)
        elif value in PLAIN_NULLS:
            scalar = None
        elif not (value.isalnum() or _PLAIN.fullmatch(value)):
            raise _NotPlainError
        if key is None:
            here.append(scalar)
        elif key in here:
            raise _NotPlainError
        else:
            here[key] = scalar
        parent = key if not value else None
    return root


@lru_cache(maxsize=4096)
def _place(head: str) -> _Place | None:
    """Read what stands before a colon; records say the same few things there again and again."""
    found = _HEAD.fullmatch(head)
    if found is None or found[2] in PLAIN_NULLS:
        return None
    start: str = found[1]
    return start, found[2], " " * len(start) if "-" in start else None


def _item(line: str) -> tuple[_Place, str]:
    found = _ITEM.fullmatch(line)
    if found is None:
        raise _NotPlainError
    return (found[1], None, None), found[2]


def _container(start: str, level: str) -> dict[str, object] | list[object]:
    """Begin what is indented more than `level`: a list's dash may stand right below its key."""
    if not start.endswith("- "):
        return {}
    if len(start) - len("- ") < len(level):
        raise _NotPlainError
    return []


def _double_quoted(value: str) -> str:
    if not _DOUBLE_QUOTED.fullmatch(value):
        raise _NotPlainError
    return _ESCAPE.sub(lambda escape: _ESCAPED[escape[1]], value[1:-1])


def _single_quoted(value: str) -> str:
    text = value[1:-1].replace("''", "")
    if len(value) < len("''") or not value.endswith("'") or "'" in text:
        raise _NotPlainError
    return value[1:-1].replace("''", "'")
