"""Which article a URL names: canonical URLs, article keys, article ids.

Everything here is conservative: two articles never get one key, even if that leaves one article
with two keys now and then (its aliases and the linker bring those together). What is taken off an
address is either meaningless by the URL standard, or listed in `url_rules.toml`.
"""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache
from hashlib import sha256
from typing import Final
from urllib.parse import unquote_plus
from uuid import UUID

import can_ada
from publicsuffixlist import PublicSuffixList

from newsloom.core.url_rules import RULES
from newsloom.errors import RejectReason

CANON_VERSION: Final = 1
"""Raised whenever the code or the data here would give some URL another key. Stored with keys."""

MAX_URL_CHARACTERS: Final = 2048
"""Of the URL as given and of its canonical form."""

_MAX_HOST_CHARACTERS = 253
_MAX_LABEL_CHARACTERS = 63
_SCHEMES = ("http:", "https:")
_NAMESPACE = b"newsloom:1\0"

_DOUBLED_SCHEME = re.compile(r"(?:https?:/*)+(?=https?://)", re.IGNORECASE)
_MARKUP_TAIL = re.compile(r"(?:</[A-Za-z0-9]{1,10}>?)+\Z")
_AMPERSAND_ENTITY = re.compile(r"&(?:(?:amp|#0{0,3}38|#x0{0,3}26);)+", re.IGNORECASE)
_ESCAPE = re.compile(r"%[0-9A-Fa-f]{2}")
_SLASHES = re.compile(r"//+")
_SESSION = re.compile(
    f";(?:{'|'.join(map(re.escape, RULES.session_parameters))})=[^/;]*",
    re.IGNORECASE,
)
_CONTROLS = re.compile(r"[\x00-\x08\x0b\x0c\x0e-\x1f\x7f]")
_SURROGATES = re.compile(r"[\ud800-\udfff]")
_INVISIBLE_EDGE = "\ufeff\u00ad\u200b\u200c\u200d\u200e\u200f\u2060\u202a\u202b\u202c\u202d\u202e"
_UNRESERVED = {
    f"%{byte:02X}": chr(byte)
    for byte in b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-._~"
}
_PUBLIC_SUFFIXES = PublicSuffixList()


@dataclass(frozen=True, slots=True)
class CanonicalUrl:
    """One address in canonical form; both values are ASCII.

    `url` can be clicked and is its own canonical form; `key` decides sameness: `url` without
    scheme, `www.`, mobile prefix, empty path segments and trailing slash.
    """

    url: str
    key: str


def canonicalise(url: str) -> CanonicalUrl | None:
    """Canonical form of an http(s) URL, None when it is not usable (`url_problem` says why).

    Total: any str, lone surrogates included. Linear in the length, which is bounded.
    """
    if len(url) > MAX_URL_CHARACTERS:
        return None
    canonical = _resolve(_repaired(url))
    if canonical is None or len(canonical.url) > MAX_URL_CHARACTERS:
        return None
    return canonical


def url_problem(url: str) -> RejectReason:
    """Say why `canonicalise` gives None for this URL."""
    if len(url) > MAX_URL_CHARACTERS:
        return RejectReason.URL_LENGTH
    if _SURROGATES.search(url):
        return RejectReason.TEXT_SURROGATE
    repaired = _repaired(url)
    if not repaired:
        return RejectReason.TEXT_CONTROL if url.strip() else RejectReason.URL_INVALID
    parsed = _parse(repaired)
    if parsed is None:
        return RejectReason.URL_INVALID
    if parsed.protocol not in _SCHEMES:
        return RejectReason.URL_SCHEME
    if _resolve(repaired) is not None:
        return RejectReason.URL_LENGTH
    return RejectReason.URL_INVALID


def article_id(key: str) -> UUID:
    """Give the id of an article first seen under this key."""
    return UUID(bytes=sha256(_NAMESPACE + key.encode()).digest()[:16])


def _repaired(url: str) -> str:
    """Undo what feeds do to addresses on the way. Empty when there is nothing usable in it."""
    if not url.isprintable():
        if _CONTROLS.search(url.strip()):
            return ""
        url = url.strip().strip(_INVISIBLE_EDGE)
    if "<" in url:
        url = url.strip().removeprefix("<![CDATA[").removesuffix("]]>")
        url = _MARKUP_TAIL.sub("", url)
    if "&" in url and ";" in url:
        url = _AMPERSAND_ENTITY.sub("&", url)
    if url.startswith("//"):
        return "https:" + url
    if url.count("//") > 1 and (doubled := _DOUBLED_SCHEME.match(url)):
        url = url[doubled.end() :]
    return url


def _parse(url: str) -> can_ada.URL | None:
    try:
        return can_ada.parse(url)
    except (ValueError, TypeError):  # TypeError: lone surrogates have no UTF-8 form
        return None


def _resolve(url: str) -> CanonicalUrl | None:
    """Parse, unwrap as often as there are wrappings, and put the canonical form together."""
    found = None
    while (parsed := _parse(url)) is not None and parsed.protocol in _SCHEMES:
        host = _host(parsed.hostname)
        if host is None:
            break
        path = parsed.pathname
        if "%" in path:
            path = _ESCAPE.sub(_unescape, path)
        search = parsed.search
        wrapped = _wrapped(host, path, search)
        if wrapped is None or wrapped == url:
            return _assembled(parsed, host, path, search)
        found = found or (parsed, host, path, search)
        url = wrapped
    return _assembled(*found) if found else None


def _assembled(parsed: can_ada.URL, host: str, path: str, search: str) -> CanonicalUrl:
    if ";" in path:
        path = _SESSION.sub("", path) or "/"
    if "amp" in host or "amp" in path:
        host, path = _without_amp(host, path)
    if search:
        search = _query(host, search)
    port = parsed.port
    if port:
        port = f":{port}"
    fragment = parsed.hash
    fragment = fragment if fragment.startswith("#!/") else ""
    folded = _folded_host(host)
    slim = _SLASHES.sub("/", path) if "//" in path else path
    return CanonicalUrl(
        f"{parsed.protocol}//{host}{port}{path}{search}{fragment}",
        f"{folded}{port}{slim.rstrip('/')}{search}{fragment}",
    )


def _host(host: str) -> str | None:
    """Host without its trailing dot; None when no such host can exist."""
    if host.endswith("."):
        host = host[:-1]
    if not host or host.startswith(".") or ".." in host or len(host) > _MAX_HOST_CHARACTERS:
        return None
    if len(host) > _MAX_LABEL_CHARACTERS and any(
        len(label) > _MAX_LABEL_CHARACTERS for label in host.split(".")
    ):
        return None
    return host


def _unescape(escape: re.Match[str]) -> str:
    """Unreserved characters plain, the rest with upper-case digits (RFC 3986, 6.2.2)."""
    upper = escape[0].upper()
    return _UNRESERVED.get(upper, upper)


# --- Query ---


def _query(host: str, search: str) -> str:
    """Query with its "?", trackers removed and the rest sorted; empty when nothing is left."""
    if "%" in search:
        search = _ESCAPE.sub(_unescape, search)
    host_names: frozenset[str] | None = None
    kept = []
    for parameter in search[1:].split("&"):
        name, _, value = parameter.partition("=")
        name = name.lower()
        while name.startswith("amp;"):
            name, parameter = name[4:], parameter[4:]  # noqa: PLW2901 - the parameter, unescaped
        if not parameter or _is_tracker(name, value, host):
            continue
        if host_names is None:
            host_names = _host_parameters(host)
        if name not in host_names:
            kept.append(parameter)
    if not kept:
        return ""
    kept.sort()
    return "?" + "&".join(kept)


def _is_tracker(name: str, value: str, host: str) -> bool:
    if name in RULES.parameter_names or name.startswith(RULES.parameter_prefixes):
        return True
    values = RULES.parameter_values.get(name)
    if values is None:
        return False
    value = value.lower()
    return value in values or (name == "ref" and value.removeprefix("www.") == _bare(host))


def _bare(host: str) -> str:
    return host.removeprefix("www.")


@lru_cache(maxsize=4096)
def _host_parameters(host: str) -> frozenset[str]:
    """Every name that the rules of this host and the domains above it remove."""
    return frozenset[str]().union(
        *(RULES.parameters_by_host.get(domain, ()) for domain in _domains(host)),
    )


def _domains(host: str) -> Iterator[str]:
    """Host, then each domain above it."""
    while host:
        yield host
        host = host.partition(".")[2]


# --- AMP, mobile hosts, wrappers ---


def _wrapped(host: str, path: str, search: str) -> str | None:
    """Give the address that this one merely leads to, None when it stands for itself."""
    if host.endswith(RULES.amp_caches) and path.startswith(("/c/", "/v/")):
        return _amp_target(path[3:], search)
    if path.startswith("/amp/") and "google." in host and _is_google(host):
        return _amp_target(path[5:], search)
    names = RULES.wrappers.get(host + path.rstrip("/")) if search else None
    if names is None:
        return None
    values = dict(
        reversed([parameter.split("=", 1) for parameter in search[1:].split("&") if "=" in parameter])
    )
    for name in names:
        target = unquote_plus(values.get(name, ""))
        if target.startswith(("http://", "https://")):
            return target
    return None


def _amp_target(rest: str, search: str) -> str | None:
    scheme = "http://"
    if rest.startswith("s/"):
        scheme, rest = "https://", rest[2:]
    return f"{scheme}{rest}{search}" if "." in rest.partition("/")[0] else None


def _is_google(host: str) -> bool:
    labels = _bare(host).split(".")
    return labels[0] == "google" and len(labels) <= 3  # noqa: PLR2004 - google.com, google.co.uk


def _without_amp(host: str, path: str) -> tuple[str, str]:
    if host.startswith("amp."):
        rest = RULES.amp_hosts.get(host) or host[4:]
        if _has_owner(rest):
            host = rest
    marked = None
    while marked != path:
        marked = path
        path = _without_amp_marker(host, path)
    return host, path


def _without_amp_marker(host: str, path: str) -> str:
    """Take one AMP marker off the path, where what remains is plainly an article's path."""
    if path.startswith("/amp/") and _names_an_article(path[4:]):
        return path[4:]
    stem = path.rstrip("/")
    for ending, replacement in ((".amp.html", ".html"), (".amp", ""), ("/amp", "")):
        if stem.endswith(ending) and _names_an_article(stem[: -len(ending)]):
            return stem[: -len(ending)] + replacement
    for domain in _domains(host):
        written, meant = RULES.amp_paths.get(domain, ("", ""))
        if written and path.startswith(written):
            return meant + path[len(written) :]
    return path


def _names_an_article(path: str) -> bool:
    """Tell `/2020/05/25/slug` from `/tags`, which has a page `/tags/amp` of its own."""
    return "-" in path or "_" in path or any(map(str.isdigit, path)) or len(path) > 30  # noqa: PLR2004


@lru_cache(maxsize=4096)
def _folded_host(host: str) -> str:
    """Host without `www.` and the prefix of a mobile edition."""
    folded = None
    while folded != host:
        folded = host
        rest = host.removeprefix("www.")
        if "." in rest:
            host = rest
        if host.startswith(RULES.mobile_prefixes) and host not in RULES.mobile_sections:
            rest = host.partition(".")[2]
            if _has_owner(rest):
                host = rest
    return host


def _has_owner(host: str) -> bool:
    """Tell a registrable domain, or one below it, from a public suffix such as `co.uk`."""
    return "." in host and _PUBLIC_SUFFIXES.privatesuffix(host) is not None
