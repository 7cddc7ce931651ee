"""Registered domains: who is behind a host, by the public suffix list.

The list comes with the `publicsuffixlist` package, its private part included: `a.github.io` and
`b.github.io` are two publishers. Nothing is fetched.
"""

from functools import cache, lru_cache

from publicsuffixlist import PublicSuffixList


@cache
def _suffixes() -> PublicSuffixList:
    """Read the list at first use: it costs about 30 ms, and not every command needs it."""
    return PublicSuffixList(accept_unknown=True)


@lru_cache(maxsize=8192)
def registered_domain(host: str) -> str | None:
    """Give the registered domain of a lower-case host name: `news.bbc.co.uk`: `bbc.co.uk`.

    None for what nobody registers: a public suffix (`co.uk`, `github.io`), a single label. An IP
    address is not a name: it has no registered domain either.
    """
    if "." not in host or host[-1].isdigit() or host.startswith("["):
        return None
    domain: str | None = _suffixes().privatesuffix(host)
    return domain
