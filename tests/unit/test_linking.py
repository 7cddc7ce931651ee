"""The linker's decisions: the order of the change log alone counts, not how it is read."""

from collections.abc import Sequence
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from random import Random
from uuid import UUID

import pytest

from newsloom.core.copy_groups import RootKey
from newsloom.core.link_tables import LinkTables, difference
from newsloom.core.linking import (
    LinkableArticle,
    LinkChange,
    LinkIndex,
    LinkResults,
    LinkState,
    LinkWindow,
    Membership,
    root_key,
)

T0 = datetime(2026, 3, 1, 12, tzinfo=UTC)
WINDOW = timedelta(hours=6)
WORDS = [f"{a}{b}" for a in "bcdfghklmnprstvw" for b in ("arol", "entis", "igam", "ofur", "ulek")]


def text(random: Random, words: int) -> str:
    return " ".join(random.choice(WORDS) + str(random.randrange(40)) for _ in range(words))


def edited(random: Random, original: str) -> str:
    words = original.split()
    for _ in range(len(words) // 6):
        words[random.randrange(len(words))] = text(random, 1)
    return " ".join(words)


def stream(seed: int, length: int) -> list[LinkChange]:
    """Articles, some of which repeat or retell earlier ones; revisions, removals, merges."""
    random = Random(seed)
    alive: dict[UUID, LinkableArticle] = {}
    changes: list[LinkChange] = []
    for number in range(length):
        now = T0 + timedelta(minutes=9 * number + random.randrange(9))
        dice = random.random()
        if alive and dice < 0.1:
            gone = random.choice(sorted(alive))
            version = alive.pop(gone).version + 1
            into = random.choice(sorted(alive)) if alive and dice < 0.05 else None
            changes.append(LinkChange(gone, version, None, merged_into=into))
            continue
        if alive and dice < 0.25:
            old = alive[random.choice(sorted(alive))]
            article = replace(old, version=old.version + 1, body=edited(random, old.body or ""))
        else:
            body = text(random, 60)
            if alive and dice < 0.7:
                body = edited(random, alive[random.choice(sorted(alive))].body or "")
            article = LinkableArticle(
                article_id=UUID(int=random.getrandbits(128)),
                version=1,
                title=text(random, 6),
                excerpt=None,
                body=body,
                first_seen_at=now,
                published_at=now - timedelta(minutes=random.randrange(90)),
                related=frozenset(random.sample(sorted(alive), min(len(alive), 2))),
            )
        alive[article.article_id] = article
        changes.append(LinkChange(article.article_id, article.version, article))
    return changes


class Shelf(LinkTables):
    """The tables of links, and how a linker starts on them."""

    def restored(self) -> LinkIndex:
        """A new index, as a linker that starts on this store builds it."""
        index = LinkIndex(WINDOW)
        since = self.window.since
        held = [
            replace(
                state, root=self._root(state), story_id=_story(self.members.get(state.article_id))
            )
            for state in sorted(self.states.values(), key=lambda state: state.sequence)
            if since is not None
            and (state.first_seen_at >= since or state.sequence > self.window.trim_sequence)
        ]
        index.restore(self.window, held)
        return index

    def _root(self, state: LinkState) -> RootKey | None:
        link = self.copies.get(state.article_id)
        root = link.copy_of if link else state.article_id
        if link is None and all(held.copy_of != root for held in self.copies.values()):
            return None
        kept = self.states.get(root)
        return root_key(root, kept.first_seen_at, kept.published_at) if kept else None

    def answers(self) -> tuple[object, ...]:
        links = {a: (k.copy_of, k.jaccard, k.containment) for a, k in self.copies.items()}
        return links, self.members


def _story(held: Membership | None) -> UUID | None:
    return held.story_id if held else None


def linked(changes: Sequence[LinkChange], cuts: Sequence[int], *, restart: bool) -> Shelf:
    """Read the log in pieces that end at `cuts`; with `restart` each piece has a new process."""
    shelf = Shelf()
    index = LinkIndex(WINDOW)
    for low, high in zip((0, *cuts), (*cuts, len(changes)), strict=True):
        if restart and low:
            index = shelf.restored()
        piece = [
            replace(change, linked_version=_linked(shelf, change.article_id))
            for change in changes[low:high]
        ]
        shelf.write(index.apply(piece))
    return shelf


def _linked(shelf: Shelf, article_id: UUID) -> int:
    state = shelf.states.get(article_id)
    return state.version if state else 0


@pytest.mark.parametrize("seed", range(4))
def test_how_many_rows_are_read_at_a_time_changes_nothing(seed: int) -> None:
    changes = stream(seed, 160)
    whole = linked(changes, [], restart=False)
    singly = linked(changes, range(1, len(changes)), restart=False)
    assert whole.answers()[0], "the stream has no copies: it proves nothing"
    assert whole.answers() == singly.answers()


@pytest.mark.parametrize("seed", range(4))
def test_rows_that_are_read_before_the_last_results_are_stored_lead_to_the_same(seed: int) -> None:
    changes = stream(seed, 160)
    shelf, index, before = Shelf(), LinkIndex(WINDOW), LinkResults(LinkWindow())
    for low in range(0, len(changes), 3):
        piece = [
            replace(change, linked_version=_linked(shelf, change.article_id))
            for change in changes[low : low + 3]
        ]
        shelf.write(before)
        stored = set(shelf.states)
        before = index.apply(before.before(piece))
        assert before.fresh.isdisjoint(stored - set(before.removed))
        assert before.states.keys() - before.fresh <= stored
    shelf.write(before)
    assert shelf.answers() == linked(changes, [], restart=False).answers()


@pytest.mark.parametrize("seed", range(4))
def test_a_linker_restarted_at_any_row_decides_the_same(seed: int) -> None:
    changes = stream(seed, 160)
    cuts = sorted(Random(seed).sample(range(1, len(changes)), 25))
    steady = linked(changes, cuts, restart=False)
    restarted = linked(changes, cuts, restart=True)
    assert steady.answers() == restarted.answers()
    assert steady.states.keys() == restarted.states.keys()


def test_an_article_that_was_looked_at_in_this_version_is_not_looked_at_again() -> None:
    changes = stream(1, 30)
    results = LinkIndex(WINDOW).apply([*changes, *changes])
    assert results.observed == sum(change.article is not None for change in changes)


def test_two_articles_that_arrive_in_one_read_are_linked() -> None:
    random = Random(4)
    body = text(random, 80)
    pair = [
        LinkableArticle(UUID(int=n), 1, "A title", None, body, T0, T0 + timedelta(minutes=n))
        for n in (1, 2)
    ]
    results = LinkIndex(WINDOW).apply([LinkChange(a.article_id, 1, a) for a in pair])
    (link,) = (link for link in results.copies.values() if link)
    assert (link.article_id, link.copy_of) == (UUID(int=2), UUID(int=1))


def test_a_revision_to_another_text_takes_its_link_away() -> None:
    random = Random(5)
    body = text(random, 80)
    one = LinkableArticle(UUID(int=1), 1, "A", None, body, T0, T0)
    two = LinkableArticle(UUID(int=2), 1, "B", None, body, T0, T0 + timedelta(minutes=1))
    shelf, index = Shelf(), LinkIndex(WINDOW)
    shelf.write(index.apply([LinkChange(a.article_id, 1, a) for a in (one, two)]))
    assert set(shelf.copies) == {UUID(int=2)}
    other = replace(two, version=2, body=text(random, 80))
    shelf.write(index.apply([LinkChange(two.article_id, 2, other)]))
    assert shelf.copies == {}


def test_articles_leave_the_window_and_keep_their_links() -> None:
    random = Random(6)
    body = text(random, 80)
    shelf, index = Shelf(), LinkIndex(WINDOW)
    for number in range(3):
        seen = T0 + timedelta(hours=4 * number)
        article = LinkableArticle(UUID(int=number + 1), 1, "T", None, body, seen, seen)
        shelf.write(index.apply([LinkChange(article.article_id, 1, article)]))
    # The first has left when the third comes; the second is still there and names the first.
    assert {k: v.copy_of for k, v in shelf.copies.items()} == {
        UUID(int=2): UUID(int=1),
        UUID(int=3): UUID(int=1),
    }
    assert len(index) == 2


def test_relinking_what_was_linked_changes_nothing_and_keeps_story_ids() -> None:
    changes = [c for c in stream(7, 120) if c.article is not None and c.version == 1]
    shelf = linked(changes, [], restart=False)
    copies = {a: link.copy_of for a, link in shelf.copies.items()}
    stories = {a: held.story_id for a, held in shelf.members.items()}
    renamed = {story: UUID(int=n + 1) for n, story in enumerate(sorted(set(stories.values())))}
    found = difference(shelf, copies, {a: renamed[story] for a, story in stories.items()})
    assert found.results.copies == {}
    assert found.results.memberships == {}
    stricter = difference(shelf, {}, {})
    assert stricter.copies_gained == len(copies)
    assert stricter.joined == len(stories)
