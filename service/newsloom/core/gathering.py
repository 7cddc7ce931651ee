"""What a store has to look up before a batch can be folded."""

from collections.abc import Iterable, Iterator, Mapping
from uuid import UUID

from newsloom.core.article import Article, ArticleUrl, UrlKind
from newsloom.core.batch import Alias, Item, Observation, StoredState
from newsloom.core.identity import article_id

_KIND_TEXTS: Mapping[UrlKind, str] = {kind: kind.value for kind in UrlKind}


def tentative_aliases(items: Iterable[Item]) -> dict[str, Alias]:
    """Name an owner for every URL key of a batch, as if nothing were stored yet.

    A store inserts these first, ON CONFLICT DO NOTHING: the keys that were there already are the
    known ones, and two processes that meet the same new key are decided by the database, once.
    """
    aliases: dict[str, Alias] = {}
    for article in _articles(items):
        owner = None
        unknown = []
        for url in article.urls:
            known = aliases.get(url.canonical.key)
            if known is None:
                unknown.append(url)
            elif owner is None:
                owner = known.article_id
        if unknown:
            owner = owner or article_id(article.key)
            for url in unknown:
                aliases[url.canonical.key] = alias_of(owner, url)
    return aliases


def contents_needed(items: Iterable[Item], state: StoredState) -> set[UUID]:
    """Tell which stored articles' field hashes the fold may compare with.

    Those are the full articles that a record with another content hash touches, and all that a
    delivery may tie to another article. More than needed is harmless; the rest is never read.
    """
    needed: set[UUID] = set()
    if not state.aliases:
        return needed
    ties = _Ties(state)
    for article in _articles(items):
        ties.add(article)
        if article.is_mention:
            continue
        for url in article.urls:
            head = _full_head(state, url.canonical.key)
            if head is not None and state.heads[head].content_hash != article.content_hash:
                needed.add(head)
    return needed | ties.merging()


def alias_of(owner: UUID, url: ArticleUrl) -> Alias:
    """Make the alias row of one URL of an article."""
    return Alias(owner, _KIND_TEXTS[url.kind], url.given, url.canonical.url)


def _articles(items: Iterable[Item]) -> Iterator[Article]:
    for item in items:
        if isinstance(item, Observation):
            yield item.article
            yield from item.article.related


def _full_head(state: StoredState, key: str) -> UUID | None:
    alias = state.aliases.get(key)
    if alias is None or not state.heads[alias.article_id].revision:
        return None
    return alias.article_id


class _Ties:
    """Union-find over URL keys: the stored articles that one batch might merge."""

    def __init__(self, state: StoredState) -> None:
        self._state = state
        self._parents: dict[str, str] = {}

    def add(self, article: Article) -> None:
        """Tie the URL keys of one article together."""
        if len(article.urls) > 1:
            first = self._root(article.key)
            for url in article.urls[1:]:
                self._parents[self._root(url.canonical.key)] = first

    def merging(self) -> set[UUID]:
        """Return the full stored articles of each group that another article may join."""
        owners: dict[UUID, str] = {}
        for key in list(self._parents):
            if (alias := self._state.aliases.get(key)) is not None:
                # One stored article's keys are tied although this batch may not say so.
                self._parents[self._root(key)] = self._root(
                    owners.setdefault(alias.article_id, key)
                )
        members: dict[str, set[UUID | None]] = {}
        for key in self._parents:
            alias = self._state.aliases.get(key)
            members.setdefault(self._root(key), set()).add(alias.article_id if alias else None)
        return {
            owner
            for group in members.values()
            if len(group) > 1
            for owner in group
            if owner is not None and self._state.heads[owner].revision
        }

    def _root(self, key: str) -> str:
        while (parent := self._parents.setdefault(key, key)) != key:
            key = parent
        return key
