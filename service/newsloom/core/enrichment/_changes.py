"""Change fields of an article, fast."""

from collections import deque
from collections.abc import Mapping
from dataclasses import fields
from itertools import repeat
from operator import attrgetter, call

from newsloom.core.article import Article

Changes = Mapping[str, object]
"""Fields of an article and what a step wants them to be; empty when there is nothing to do."""

NOTHING: Changes = {}

_NAMES = tuple(field.name for field in fields(Article))
_SETTERS = tuple(getattr(Article, name).__set__ for name in _NAMES)
_BY_NAME = dict(zip(_NAMES, _SETTERS, strict=True))
_values = attrgetter(*_NAMES)


class Draft:
    """An article and what becomes of it: copied at the first change, and never again.

    The steps run for every mention of every record, and `dataclasses.replace` on this many frozen
    fields costs more than the steps themselves.
    """

    __slots__ = ("_is_copy", "article")

    def __init__(self, article: Article) -> None:
        self.article = article
        self._is_copy = False

    def change(self, changes: Changes) -> None:
        """Set these fields of our copy. Raises KeyError for a name that is no field."""
        if not self._is_copy:
            self.article = _copied(self.article)
            self._is_copy = True
        for name, value in changes.items():
            _BY_NAME[name](self.article, value)


def _copied(article: Article) -> Article:
    copy = object.__new__(Article)
    deque(map(call, _SETTERS, repeat(copy), _values(article)), maxlen=0)
    return copy
