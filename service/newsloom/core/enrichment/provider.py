"""Step: who published. One outlet has one domain, however a record names it.

The domain is the identity of a provider and the name is for people: `www.reuters.com`,
`https://reuters.com/` and no domain beside a Reuters URL are all `reuters.com`.
"""

from functools import lru_cache

from newsloom.core.article import Article, Image, Provider
from newsloom.core.domains import registered_domain
from newsloom.core.enrichment._changes import NOTHING, Changes
from newsloom.core.identity import absolute_url, host_of


def normalise_provider(article: Article) -> Changes:
    """Give the provider a registered domain, a name, and only images that can be fetched."""
    provider = article.provider
    domain = _domain(provider.domain) if provider.domain else None
    if domain is None and article.urls:
        domain = _domain(host_of(article.canonical_url))
    name = provider.name
    if not name or name.startswith(("http://", "https://", "www.")):
        name = domain
    images = provider.images
    if images:
        images = _usable(images)
    if (name, domain, images) == (provider.name, provider.domain, provider.images):
        return NOTHING
    return {"provider": Provider(name, domain, images, provider.extra)}


@lru_cache(maxsize=8192)
def _domain(written: str) -> str | None:
    """Registered domain of a host or URL; the host itself where nobody can register one."""
    written = written.strip().lstrip("@./").strip()
    host = host_of(written if "://" in written else f"https://{written}")
    if "." in host.removeprefix("www."):
        host = host.removeprefix("www.")
        return registered_domain(host) or host
    return host if host.startswith("[") else None


def _usable(images: tuple[Image, ...]) -> tuple[Image, ...]:
    return tuple(image for image in images if absolute_url(image.url))
