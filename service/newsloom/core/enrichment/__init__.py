"""Enrichment: what is worked out about an article before it is stored.

One step a file, in the order of `STEPS`. A step is a pure function Article -> Article that never
raises and changes nothing the second time; identity and hashes are never touched by one.
"""

from collections.abc import Callable

from newsloom.core.article import Article
from newsloom.core.enrichment._changes import changed
from newsloom.core.enrichment.language import detect_language
from newsloom.core.enrichment.lead_image import choose_lead_image
from newsloom.core.enrichment.provider import normalise_provider
from newsloom.core.enrichment.reading import measure_reading
from newsloom.core.enrichment.text import clean_text
from newsloom.core.enrichment.topics import normalise_topics

STEPS: tuple[Callable[[Article], Article], ...] = (
    clean_text,  # first: the others read clean text
    normalise_provider,
    normalise_topics,
    detect_language,
    choose_lead_image,
    measure_reading,
)


def enrich(article: Article) -> Article:
    """Run every step over the article, and over its mentions."""
    article = enrich_alone(article)
    if not article.related:
        return article
    return changed(article, related=tuple(map(enrich, article.related)))


def enrich_alone(article: Article) -> Article:
    """Run every step over the article; its mentions stay as they are."""
    for step in STEPS:
        article = step(article)
    return article
