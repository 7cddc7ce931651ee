"""Groups of copies: who is the root, and what changes when links come and go.

Links between pairs are kept with their numbers; a group is what they connect. Its root is its
earliest article; that may be one which left the window since: the group remembers it.
"""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from typing import TypeAlias
from uuid import UUID


@dataclass(frozen=True, slots=True, order=True)
class RootKey:
    """What makes an article the root of its group: the smallest (earliest, article_id)."""

    earliest_us: int
    article_id: UUID


@dataclass(frozen=True, slots=True)
class CopyEdge:
    """A verified pair: `article_id` repeats, or is repeated by, `other_id`."""

    article_id: UUID
    other_id: UUID
    jaccard: float
    containment: float

    def reversed(self) -> "CopyEdge":
        """Return the same pair, seen from the other article."""
        return CopyEdge(self.other_id, self.article_id, self.jaccard, self.containment)


@dataclass(frozen=True, slots=True)
class CopyLinked:
    """`article_id` is now a copy of `copy_of`; replaces what was known of it.

    The numbers are those of the pair (`article_id`, `via`): the article of the group that it
    resembles most, which need not be the root.
    """

    article_id: UUID
    copy_of: UUID
    via: UUID
    jaccard: float
    containment: float


@dataclass(frozen=True, slots=True)
class CopyUnlinked:
    """`article_id` is no copy any more (revised, or its group fell apart)."""

    article_id: UUID


@dataclass(frozen=True, slots=True)
class RootMoved:
    """Whatever was a copy of `old_root` is now a copy of `new_root`, also outside the window.

    Emitted before the `CopyLinked` of the old root itself, which says why.
    """

    old_root: UUID
    new_root: UUID


CopyChange: TypeAlias = CopyLinked | CopyUnlinked | RootMoved


@dataclass(slots=True)
class Group:
    """Articles of the window that are copies of one another; the root may have left the window."""

    root: RootKey
    members: set[UUID] = field(default_factory=set)


class CopyGroups:
    """The links of the window's articles and the groups they form. Mutable; no IO, no clock."""

    def __init__(self) -> None:
        """Start without any link."""
        self._edges: dict[UUID, dict[UUID, CopyEdge]] = {}
        self._keys: dict[UUID, RootKey] = {}
        self._groups: dict[UUID, Group] = {}
        self._rooted: dict[UUID, Group] = {}

    def root_of(self, article_id: UUID) -> RootKey | None:
        """Return the root of the article's group; None when it is in no group."""
        group = self._groups.get(article_id)
        return group.root if group else None

    def edges_of(self, article_id: UUID) -> tuple[CopyEdge, ...]:
        """Return the article's verified pairs, in the order in which they were found."""
        return tuple(self._edges.get(article_id, {}).values())

    def add(self, key: RootKey, edges: Iterable[CopyEdge]) -> list[CopyChange]:
        """Add an article with its verified pairs, best first; every other end is in the window.

        Only the best few pairs and the best into each further group are kept.
        """
        self._keys[key.article_id] = key
        kept = list(self._worth_keeping(edges))
        if not kept:
            return []
        for edge in kept:
            self._connect(edge)
        return self._join(key, kept)

    def restore(self, key: RootKey, root: RootKey | None, edges: Iterable[CopyEdge]) -> None:
        """Add an article with its stored group and pairs, deciding nothing.

        `edges` are those of the article's own `edges_of`, in any order of articles.
        """
        self._keys[key.article_id] = key
        for edge in edges:
            self._edges.setdefault(key.article_id, {})[edge.other_id] = edge
        if root is not None:
            group = self._rooted.setdefault(root.article_id, Group(root))
            group.root = min(group.root, root)
            group.members.add(key.article_id)
            self._groups[key.article_id] = group

    def forget(self, article_id: UUID) -> None:
        """Drop an article that left the window. Nothing changes for the others."""
        del self._keys[article_id]
        self._edges.pop(article_id, None)
        group = self._groups.pop(article_id, None)
        if group:
            self._leave(group, article_id)

    def remove(self, article_id: UUID) -> list[CopyChange]:
        """Take an article back (revised or erased); its group may fall apart."""
        del self._keys[article_id]
        for other in self._edges.pop(article_id, {}):
            self._edges.get(other, {}).pop(article_id, None)
        group = self._groups.pop(article_id, None)
        if group is None:
            return []
        self._leave(group, article_id)
        changes: list[CopyChange] = []
        if group.root.article_id != article_id:
            changes.append(CopyUnlinked(article_id))
            if group.root.article_id not in self._keys:
                return changes
        return changes + self._regroup(group)

    def _leave(self, group: Group, article_id: UUID) -> None:
        group.members.discard(article_id)
        if not group.members:
            del self._rooted[group.root.article_id]

    def _worth_keeping(self, edges: Iterable[CopyEdge]) -> Iterator[CopyEdge]:
        seen: set[int] = set()
        for at, edge in enumerate(edges):
            group = self._groups.get(edge.other_id)
            mark = id(group) if group else edge.other_id.int
            if at < _EDGES_KEPT or mark not in seen:
                seen.add(mark)
                yield edge

    def _connect(self, edge: CopyEdge) -> None:
        self._edges.setdefault(edge.article_id, {})[edge.other_id] = edge
        self._edges.setdefault(edge.other_id, {})[edge.article_id] = edge.reversed()

    def _join(self, key: RootKey, edges: list[CopyEdge]) -> list[CopyChange]:
        """Unite the article with every group (or single article) that its pairs touch."""
        best_into: dict[UUID, CopyEdge] = {}
        groups: list[Group] = []
        for edge in edges:
            group = self._group_of(edge.other_id)
            if group.root.article_id not in best_into:
                best_into[group.root.article_id] = edge
                groups.append(group)
        own = self._rooted.get(key.article_id)
        if own is not None and key.article_id not in best_into:
            best_into[key.article_id] = edges[0]
            groups.append(own)  # it was their root before it left the window, and is back
        root = min([key, *(group.root for group in groups)])
        whole = max(groups, key=lambda group: (len(group.members), group.root))
        changes: list[CopyChange] = []
        old_roots = sorted(g.root for g in groups if g.root.article_id != root.article_id)
        for group in groups:
            self._rooted.pop(group.root.article_id, None)
            if group is not whole:
                whole.members |= group.members
                self._groups.update(dict.fromkeys(group.members, whole))
        whole.members |= {key.article_id}
        whole.root = root
        self._rooted[root.article_id] = whole
        self._groups[key.article_id] = whole
        for old in old_roots:
            changes += self._moved(old, root, best_into[old.article_id])
        if root.article_id != key.article_id:
            changes.append(_linked(edges[0], root))
        return changes

    def _group_of(self, article_id: UUID) -> Group:
        """Return the group of an article of the window: its own, or the one that it was root of.

        An article that left the window may come again. Whatever is stored as its copy is so still.
        """
        group = self._groups.get(article_id)
        if group is None:
            key = self._keys[article_id]
            group = self._rooted.get(article_id) or Group(key)
            group.root = min(group.root, key)
            group.members.add(article_id)
            self._groups[article_id] = group
        return group

    def _moved(self, old: RootKey, root: RootKey, edge: CopyEdge) -> list[CopyChange]:
        moved = RootMoved(old.article_id, root.article_id)
        own = self._edges.get(old.article_id)
        # The pair that brought the groups together, where the old root has none of its own left.
        best = max(own.values(), key=_quality) if own else edge.reversed()
        link = CopyLinked(
            old.article_id, root.article_id, best.other_id, best.jaccard, best.containment
        )
        return [moved, link]

    def _regroup(self, group: Group) -> list[CopyChange]:
        """Split a group into what its remaining pairs connect."""
        changes: list[CopyChange] = []
        old_root = group.root
        self._rooted.pop(old_root.article_id, None)
        for part in sorted(self._parts(group.members), key=min):
            root = min(self._keys[member] for member in part)
            fresh = Group(root, part)
            if len(part) > 1:
                self._rooted[root.article_id] = fresh
                self._groups.update(dict.fromkeys(part, fresh))
            else:
                del self._groups[root.article_id]
            for member in sorted(part):
                if member == root.article_id:
                    if root != old_root:
                        changes.append(CopyUnlinked(member))
                elif root != old_root:
                    best = max(self._edges[member].values(), key=_quality)
                    changes.append(_linked(best, root))
        return changes

    def _parts(self, members: set[UUID]) -> Iterator[set[UUID]]:
        left = set(members)
        # A pair with an article that left the window still connects those who have it in common;
        # so it does when that article has come again, with whatever text, and does not know of it.
        shared: dict[UUID, list[UUID]] = {}
        for member in sorted(members):
            for other in self._edges.get(member, {}):
                if not self._is_mutual(member, other):
                    shared.setdefault(other, []).append(member)
        while left:
            part, queue = set(), [min(left)]
            while queue:
                member = queue.pop()
                if member in part:
                    continue
                part.add(member)
                for other in self._edges.get(member, {}):
                    queue += [other] if self._is_mutual(member, other) else shared[other]
            left -= part
            yield part

    def _is_mutual(self, one: UUID, other: UUID) -> bool:
        return one in self._edges.get(other, {})


_EDGES_KEPT = 8


def _quality(edge: CopyEdge) -> tuple[float, float, UUID]:
    return edge.containment, edge.jaccard, edge.other_id


def _linked(edge: CopyEdge, root: RootKey) -> CopyLinked:
    return CopyLinked(
        edge.article_id, root.article_id, edge.other_id, edge.jaccard, edge.containment
    )
