"""Links and stories as plain tables: what `LinkResults` lead to, one after the other."""

from collections import Counter, defaultdict
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import TypeVar
from uuid import UUID

from newsloom.core.change_log import StoryChangeKind
from newsloom.core.copy_groups import CopyLinked
from newsloom.core.linking import LinkResults, LinkState, LinkWindow, Membership

T = TypeVar("T")


@dataclass(slots=True)
class LinkTables:
    """The rows that a store of links holds, in memory."""

    window: LinkWindow = field(default_factory=LinkWindow)
    copies: dict[UUID, CopyLinked] = field(default_factory=dict)
    members: dict[UUID, Membership] = field(default_factory=dict)
    states: dict[UUID, LinkState] = field(default_factory=dict)

    def write(self, results: LinkResults) -> None:
        """Carry results out in the order that they ask for."""
        self.window = results.window
        for old, new in results.root_moves:
            self._move_root(old, new)
        _put(self.copies, results.copies)
        for gone, other in results.story_merges:
            moved = {
                article_id: Membership(other, held.score)
                for article_id, held in self.members.items()
                if held.story_id == gone
            }
            self.members |= moved
        _put(self.members, results.memberships)
        for article_id in results.removed:
            self.states.pop(article_id, None)
        self.states |= results.states
        for article_id, edges in results.pairs.items():
            self.states[article_id] = replace(self.states[article_id], edges=edges)

    def _move_root(self, old: UUID, new: UUID) -> None:
        moved = {a: replace(k, copy_of=new) for a, k in self.copies.items() if k.copy_of == old}
        self.copies |= moved
        if new in self.copies and self.copies[new].copy_of == new:
            del self.copies[new]


def _put(rows: dict[UUID, T], changes: Mapping[UUID, T | None]) -> None:
    for key, value in changes.items():
        if value is None:
            rows.pop(key, None)
        else:
            rows[key] = value


def keep_story_ids(
    members: Mapping[UUID, Membership], old: Mapping[UUID, UUID]
) -> dict[UUID, Membership]:
    """Give stories found anew the ids they had: each the one that most of its articles were in.

    Largest stories choose first; an id that is taken is not given twice.
    """
    stories: defaultdict[UUID, list[UUID]] = defaultdict(list)
    for article_id, held in members.items():
        stories[held.story_id].append(article_id)
    taken: set[UUID] = set()
    names: dict[UUID, UUID] = {}
    for story_id, articles in sorted(stories.items(), key=lambda item: (-len(item[1]), item[0])):
        had = Counter(old[article_id] for article_id in articles if article_id in old)
        ranked = sorted(had.items(), key=lambda item: (-item[1], item[0]))
        name = next((known for known, _ in ranked if known not in taken), story_id)
        taken.add(name)
        names[story_id] = name
    return {a: Membership(names[held.story_id], held.score) for a, held in members.items()}


@dataclass(frozen=True, slots=True)
class LinkDifference:
    """What relinking changes: the results to store, and how much of each kind."""

    results: LinkResults
    copies_gained: int
    copies_lost: int
    copies_changed: int
    joined: int
    left: int
    moved: int


def difference(
    tables: LinkTables, old_copies: Mapping[UUID, UUID], old_stories: Mapping[UUID, UUID]
) -> LinkDifference:
    """Compare tables found anew with what is stored (article -> copy_of, article -> story)."""
    members = keep_story_ids(tables.members, old_stories)
    results = LinkResults(tables.window, states=dict(tables.states))
    gained, lost = (
        tables.copies.keys() - old_copies.keys(),
        old_copies.keys() - tables.copies.keys(),
    )
    changed = {a for a, old in old_copies.items() if _root(tables, a) not in (None, old)}
    results.copies |= {a: tables.copies[a] for a in sorted(gained | changed)}
    results.copies |= dict.fromkeys(sorted(lost))
    joined, left = members.keys() - old_stories.keys(), old_stories.keys() - members.keys()
    moved = {a for a, old in old_stories.items() if a in members and members[a].story_id != old}
    results.memberships |= {a: members[a] for a in sorted(joined | moved)}
    results.memberships |= dict.fromkeys(sorted(left))
    known = set(old_stories.values())
    for article_id in sorted(joined | moved):
        story_id = members[article_id].story_id
        kind = StoryChangeKind.GROWN if story_id in known else StoryChangeKind.CREATED
        results.story_kinds[story_id] = kind
    for article_id in sorted(left | moved):
        results.story_kinds.setdefault(old_stories[article_id], StoryChangeKind.LEFT)
    return LinkDifference(
        results, len(gained), len(lost), len(changed), len(joined), len(left), len(moved)
    )


def _root(tables: LinkTables, article_id: UUID) -> UUID | None:
    link = tables.copies.get(article_id)
    return link.copy_of if link else None
