"""Enrichment: what is worked out about an article before it is stored.

One step a file, in the order of `STEPS`. A step is a pure function Article -> `Changes`: the fields
that it wants otherwise. It never raises and has nothing to change the second time; identity and
hashes are never touched by one.
"""

from collections.abc import Callable, Iterable

from newsloom.core.article import Article
from newsloom.core.enrichment._changes import Changes, Draft
from newsloom.core.enrichment.language import detect_language
from newsloom.core.enrichment.lead_image import choose_lead_image
from newsloom.core.enrichment.provider import normalise_provider
from newsloom.core.enrichment.reading import measure_reading
from newsloom.core.enrichment.text import clean_text
from newsloom.core.enrichment.topics import normalise_topics

STEPS: tuple[Callable[[Article], Changes], ...] = (
    clean_text,  # first: the others read clean text
    normalise_provider,
    normalise_topics,
    detect_language,
    choose_lead_image,
    measure_reading,
)


def enrich(article: Article) -> Article:
    """Run every step over the article, and over its mentions."""
    (enriched,) = enrich_alone([article])
    if not article.related:
        return enriched
    draft = Draft(enriched)
    draft.change({"related": tuple(map(enrich, article.related))})
    return draft.article


def enrich_alone(articles: Iterable[Article]) -> list[Article]:
    """Run every step over the articles; their mentions stay as they are.

    Step by step: the language model, once in the processor's cache, answers a fifth faster.
    """
    drafts = [Draft(article) for article in articles]
    for step in STEPS:
        for draft in drafts:
            if changes := step(draft.article):
                draft.change(changes)
    return [draft.article for draft in drafts]
