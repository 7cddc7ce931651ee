"""Step: topics, tags, categories and levels, each word once."""

from newsloom.core.article import Article
from newsloom.core.enrichment._changes import Changes
from newsloom.core.enrichment.text import clean_line

MAX_LABELS = 64
"""More are cut off: nobody files an article under so many."""


def normalise_topics(article: Article) -> Changes:
    """Clean every label and drop repetitions, whatever their case; the first form stays."""
    changes: dict[str, object] = {}
    for name in ("topics", "tags", "categories", "levels"):
        written: tuple[str, ...] = getattr(article, name)
        if written:
            labels = _labels(written)
            if labels != written:
                changes[name] = labels
    return changes


def _labels(written: tuple[str, ...]) -> tuple[str, ...]:
    labels: dict[str, str] = {}
    for text in written:
        label = clean_line(text)
        if label and len(labels) < MAX_LABELS:
            labels.setdefault(label.casefold(), label)
    return tuple(labels.values())
