"""Enrichment: what is worked out about an article before it is stored.

One step a file, in the order of `STEPS`. A step is a pure function Article -> Article that never
raises and changes nothing the second time; identity and hashes are never touched by one.
"""

from collections.abc import Callable

from newsloom.core.article import Article

STEPS: tuple[Callable[[Article], Article], ...] = ()


def enrich(article: Article) -> Article:
    """Run every step over the article and over its mentions."""
    for step in STEPS:
        article = step(article)
    return article
