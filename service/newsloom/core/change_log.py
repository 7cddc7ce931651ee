"""The change log's words that other roles than the linker need: a place in it, a story's fate.

Apart from the linker's own modules, because those load numpy: publish and ingest do without.
"""

from enum import StrEnum
from typing import NamedTuple


class ChangePosition(NamedTuple):
    """A row of the change log. Compares in the order in which the log is read."""

    xid: int
    change_id: int


START = ChangePosition(0, 0)


class StoryChangeKind(StrEnum):
    """What became of a story. A closed set."""

    CREATED = "created"
    GROWN = "grown"
    LEFT = "left"
    MERGED = "merged"
    SPLIT = "split"
