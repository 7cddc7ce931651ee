"""Copies and stories of everything stored, computed anew: after a change of thresholds or rules."""

import asyncio
from collections.abc import Callable
from contextlib import AsyncExitStack
from dataclasses import dataclass
from datetime import timedelta
from uuid import UUID

from newsloom.core.copies import CopyConfig
from newsloom.core.link_tables import LinkDifference, LinkTables, difference
from newsloom.core.linking import LinkIndex
from newsloom.core.stories import StoryConfig
from newsloom.ports import LinkLease, RelinkStore

PAGE_ARTICLES = 1000

_SAMPLE = 10


@dataclass(frozen=True, slots=True)
class RelinkReport:
    """What relinking changed, or would change; `samples` are a few (article, old, new) copies."""

    articles: int
    difference: LinkDifference
    samples: tuple[tuple[UUID, UUID | None, UUID | None], ...]
    is_applied: bool


async def relink(
    store: RelinkStore,
    *,
    owner_id: str,
    window: timedelta,
    copies: CopyConfig,
    stories: StoryConfig,
    dry_run: bool,
    on_progress: Callable[[int], None],
) -> RelinkReport:
    """Look at every stored article in the order of first_seen_at; store what differs, at once.

    Without `dry_run` no linker may be running: it would be fenced, and fence us in turn. Changes
    that come meanwhile are behind the position that is stored, and linked by the next linker.
    """
    async with AsyncExitStack() as stack:
        if not dry_run:
            await stack.enter_async_context(store.lead_or_refuse())
        lease = await store.take_over(owner_id) if not dry_run else None
        position = await store.horizon()
        tables, index, seen = LinkTables(), LinkIndex(window, copies, stories), 0
        async for page in store.articles(PAGE_ARTICLES):
            results = await asyncio.to_thread(index.apply, page)
            tables.write(results)
            seen += len(page)
            on_progress(seen)
        old_copies, old_stories = await store.links()
        found = await asyncio.to_thread(difference, tables, old_copies, old_stories)
        if lease is not None:
            await store.write(
                LinkLease(lease.epoch, lease.position, lease.window), position, found.results
            )
    samples = tuple(
        (article_id, old_copies.get(article_id), link.copy_of if link else None)
        for article_id, link in list(found.results.copies.items())[:_SAMPLE]
    )
    return RelinkReport(seen, found, samples, is_applied=not dry_run)
