"""Step: the picture to show with an article."""

from newsloom.core.article import Article, Image
from newsloom.core.enrichment._changes import NOTHING, Changes
from newsloom.core.identity import absolute_url

MIN_PIXELS = 100
"""What is known to be smaller in either direction is an icon or a counting pixel."""


def choose_lead_image(article: Article) -> Changes:
    """Set `lead_image_url` to the first image with a usable URL that is not known to be tiny."""
    url = None
    for image in article.images:
        if not _is_tiny(image) and (url := absolute_url(image.url)):
            break
    return NOTHING if url == article.lead_image_url else {"lead_image_url": url}


def _is_tiny(image: Image) -> bool:
    return any(size is not None and size < MIN_PIXELS for size in (image.width, image.height))
