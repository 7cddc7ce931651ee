"""Which bytes carry an article: the addresses in a dead letter, compared by their ids.

An erased article keeps no address in clear, only the ids of its URL keys; that is enough to
recognise a delivery that has one of them, whatever its shape.
"""

import re
from collections.abc import Collection, Iterable, Iterator
from uuid import UUID

import orjson

from newsloom.core.identity import article_id, canonicalise

_URL = re.compile(r"""https?:/[^\s"'<>\\^`{|}]+""", re.IGNORECASE)
_ESCAPES = re.compile(r"\\u([0-9a-fA-F]{4})")
_TAIL = ".,;:!?)]"


def carries(
    url_ids: Collection[UUID],
    *,
    key: bytes | None,
    value: bytes | None,
    headers: Iterable[bytes | None] = (),
) -> bool:
    """Tell whether a message's key, value or a header names one of the URL keys.

    `url_ids` are ids as `newsloom.core.identity.article_id` makes them of URL keys. The value may
    be JSON, front matter or anything else. Total.
    """
    if key is not None and article_id(key.decode(errors="replace")) in url_ids:
        return True
    texts = [part.decode(errors="replace") for part in (key, value, *headers) if part]
    # Events name their article by its id.
    if any(str(url_id) in text for url_id in url_ids for text in texts):
        return True
    return any(
        (canonical := canonicalise(url)) is not None and article_id(canonical.key) in url_ids
        for text in texts
        for url in _addresses(text)
    )


def _addresses(text: str) -> Iterator[str]:
    """Find what may be an address, also in JSON that escapes what it need not."""
    try:
        strings = list(_strings(orjson.loads(text)))
    except ValueError:
        strings = [_ESCAPES.sub(_unescaped, text).replace("\\/", "/")]
    for string in strings:
        if "\n" not in string:
            yield string  # a field that is an address as a whole, spaces and all
        for found in _URL.findall(string):
            yield found
            yield found.rstrip(_TAIL)


def _unescaped(match: re.Match[str]) -> str:
    return chr(int(match[1], 16))


def _strings(value: object) -> Iterator[str]:
    waiting = [value]
    while waiting:
        one = waiting.pop()
        if isinstance(one, str):
            yield one
        elif isinstance(one, dict):
            waiting += one.values()
        elif isinstance(one, list):
            waiting += one
