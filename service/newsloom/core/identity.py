"""Which article a URL names: canonical URLs, article keys, article ids.

Everything here is conservative: two articles never get one key, even if that leaves one article
with two keys now and then (its aliases and the linker bring those together). What is taken off an
address is either meaningless by the URL standard, or listed in `url_rules.toml`.
"""

import re
from collections.abc import Iterator
from functools import lru_cache
from hashlib import sha256
from typing import Final, NamedTuple
from urllib.parse import unquote_plus
from uuid import UUID

import can_ada

from newsloom.core.domains import registered_domain
from newsloom.core.url_rules import RULES
from newsloom.core.values import value_class
from newsloom.errors import RejectReason

CANON_VERSION: Final = 1
"""Raised whenever the code or the data here would give some URL another key. Stored with keys."""

MAX_URL_CHARACTERS: Final = 2048
"""Of the URL as given and of its canonical form."""

_MAX_HOST_CHARACTERS = 253
_MAX_LABEL_CHARACTERS = 63
_SCHEMES = ("http:", "https:")
_ARTICLE_PATH = frozenset("-_.%0123456789")
_ARTICLE_PATH_CHARACTERS = 30
_NAMESPACE = b"newsloom:1\0"

_PLAIN = re.compile(
    r"https?://([a-z0-9.-]+)((?:/[A-Za-z0-9_~!$()*+,:=@-][A-Za-z0-9_~!$()*+,:=@.-]*)*+/?+)",
)
_DOUBLED_SCHEME = re.compile(r"(?:https?:/*+)+(?=https?://)", re.IGNORECASE)
_LAST_TAG = re.compile(r"</[A-Za-z0-9]{1,10}+>?\Z")
_NUMERIC_AMPERSAND = re.compile(r"&(?:(?:amp;)*+#(?:0{0,3}38|x0{0,3}26);)+", re.IGNORECASE)
_NAMED_AMPERSAND = re.compile(r"&(?:amp;)++")
_ESCAPE = re.compile(r"%[0-9A-Fa-f]{2}")
_SLASHES = re.compile(r"//++")
_SESSION = re.compile(
    f";(?:{'|'.join(map(re.escape, RULES.session_parameters))})=[^/;]*+",
    re.IGNORECASE,
)
_CONTROLS = re.compile(r"[\x00-\x08\x0b\x0c\x0e-\x1f\x7f]")
_SURROGATES = re.compile(r"[\ud800-\udfff]")
_INVISIBLE = "\ufeff\u00ad\u200b\u200c\u200d\u200e\u200f\u2060\u202a\u202b\u202c\u202d\u202e"
_UNRESERVED = {
    f"%{byte:02X}": chr(byte)
    for byte in b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-._~"
}


@value_class(frozen=True, slots=True)
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
    if plain := _PLAIN.fullmatch(url):
        # Most addresses are canonical as they stand; only the host needs a second look.
        host, path = plain.groups()
        site = None if _may_be_amp(host, path) else _site(host)
        if site is not None:
            return CanonicalUrl(url if path else url + "/", site + path.rstrip("/"))
    canonical = _resolved(_repaired(url))
    if canonical is None or len(canonical.url) > MAX_URL_CHARACTERS:
        return None
    return canonical


def url_problem(url: str) -> RejectReason:
    """Say why `canonicalise` gives None for this URL."""
    if len(url) > MAX_URL_CHARACTERS:
        return RejectReason.URL_LENGTH
    if _SURROGATES.search(url):
        return RejectReason.TEXT_SURROGATE
    if _CONTROLS.search(url.strip()):
        return RejectReason.TEXT_CONTROL
    parsed = _parsed(_repaired(url))
    if parsed is not None and parsed.protocol not in _SCHEMES:
        return RejectReason.URL_SCHEME
    if parsed is not None and _possible_host(parsed.hostname):
        return RejectReason.URL_LENGTH  # it is the canonical form that is too long
    return RejectReason.URL_INVALID


@lru_cache(maxsize=32_768)
def article_id(key: str) -> UUID:
    """Give the id of an article first seen under this key, remembered: a batch asks repeatedly."""
    return UUID(bytes=sha256(_NAMESPACE + key.encode()).digest()[:16])


def absolute_url(url: str) -> str | None:
    """Give an http(s) URL that is no article's (an image) in its parsed form, None if unusable.

    Nothing is sorted or removed: image services sign and order their parameters.
    """
    if len(url) > MAX_URL_CHARACTERS or _CONTROLS.search(url):
        return None
    parsed = _parsed("https:" + url if url.startswith("//") else url)
    if parsed is None or parsed.protocol not in _SCHEMES or parsed.has_credentials():
        return None
    absolute: str = parsed.href
    return absolute if len(absolute) <= MAX_URL_CHARACTERS else None


def host_of(url: str) -> str:
    """Give the host of an http(s) URL, lower case and punycode; empty when there is none."""
    parsed = _parsed(url) if len(url) <= MAX_URL_CHARACTERS else None
    if parsed is None or parsed.protocol not in _SCHEMES:
        return ""
    return _possible_host(parsed.hostname) or ""


def _without_markup_tail(url: str) -> str:
    """Cut closing tags off the end, one by one: as one pattern, rows of them cost their square."""
    end = len(url)
    while (at := url.rfind("</", 0, end)) >= 0 and _LAST_TAG.match(url, at, end):
        end = at
    return url[:end]


def _repaired(url: str) -> str:
    """Undo what feeds do to addresses on the way. Empty when there is nothing usable in it."""
    if not url.isprintable():
        url = url.strip()
        if _CONTROLS.search(url):
            return ""
        url = url.strip(_INVISIBLE)
    if "<" in url:
        url = url.strip().removeprefix("<![CDATA[").removesuffix("]]>")
        url = _without_markup_tail(url)
    if "&" in url and "#" in url:
        url = _NUMERIC_AMPERSAND.sub("&", url)
    if url.startswith("//"):
        return "https:" + url
    doubled = _DOUBLED_SCHEME.match(url)
    return url[doubled.end() :] if doubled else url


def _parsed(url: str) -> can_ada.URL | None:
    try:
        return can_ada.parse(url)
    except (ValueError, TypeError):  # TypeError: lone surrogates have no UTF-8 form
        return None


class _Address(NamedTuple):
    """The parts of an address, each in canonical form; `port` has its colon, `query` its "?"."""

    scheme: str
    host: str
    port: str
    path: str
    query: str
    route: str

    def canonical(self) -> CanonicalUrl | None:
        site = _site(self.host)
        if site is None:
            return None
        path = _SLASHES.sub("/", self.path) if "//" in self.path else self.path
        rest = f"{self.query}{self.route}"
        return CanonicalUrl(
            f"{self.scheme}//{self.host}{self.port}{self.path}{rest}",
            f"{site}{self.port}{path.rstrip('/')}{rest}",
        )


def _resolved(url: str) -> CanonicalUrl | None:
    """Parse, and go on to what the address stands for until it stands for itself.

    Every step ahead makes the address shorter, so this ends; and because each one is parsed anew,
    the result is its own canonical form. A step into something unusable is not taken.
    """
    address, target = None, _address(url)
    while target is not None:
        address = target
        url = _wrapped(address) or _without_amp(address)
        target = _address(url) if url else None
    return address.canonical() if address else None


def _address(url: str) -> _Address | None:
    parsed = _parsed(url)
    if parsed is None or parsed.protocol not in _SCHEMES:
        return None
    host = _possible_host(parsed.hostname)
    if host is None:
        return None
    query, port, fragment = parsed.search, parsed.port, parsed.hash
    return _Address(
        parsed.protocol,
        host,
        f":{port}" if port else "",
        _path(parsed.pathname),
        _query(host, query) if query else "",
        # "#!/" begins a route of a page application: another page, not a place in this one.
        fragment if fragment.startswith("#!/") else "",
    )


def _path(path: str) -> str:
    if "%" in path:
        path = _ESCAPE.sub(_unescaped, path)
    return _NAMED_AMPERSAND.sub("&", path) if "&" in path else path


def _unescaped(escape: re.Match[str]) -> str:
    """Unreserved characters plain, the rest with upper-case digits (RFC 3986, 6.2.2)."""
    upper = escape[0].upper()
    return _UNRESERVED.get(upper, upper)


# --- Host ---


def _possible_host(host: str) -> str | None:
    """Take the trailing dot off a parsed host; None when the name system has no room for it."""
    host = host.removesuffix(".")
    if not host or host.startswith(".") or ".." in host or len(host) > _MAX_HOST_CHARACTERS:
        return None
    if max(map(len, host.split("."))) > _MAX_LABEL_CHARACTERS:
        return None
    return host


@lru_cache(maxsize=8192)
def _site(host: str) -> str | None:
    """Host as the key has it, without `www.` and mobile prefix; None when it is not canonical."""
    parsed = _parsed(f"http://{host}/")
    if parsed is None or parsed.hostname != host or _possible_host(host) != host:
        return None
    folded = None
    while folded != host:
        folded = host
        rest = host.removeprefix("www.")
        if "." in rest:
            host = rest
        if host.startswith(RULES.mobile_prefixes) and host not in RULES.mobile_sections:
            rest = host.partition(".")[2]
            if registered_domain(rest):
                host = rest
    return host


@lru_cache(maxsize=8192)
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


# --- Query ---


def _query(host: str, search: str) -> str:
    """Query with its "?", trackers removed and the rest sorted; empty when nothing is left."""
    if "%" in search:
        search = _ESCAPE.sub(_unescaped, search)
    host_names = _host_parameters(host)
    kept = []
    for escaped in search[1:].split("&"):
        parameter = escaped
        while parameter.startswith("amp;"):
            parameter = parameter[4:]
        name, _, value = parameter.partition("=")
        name = name.lower()
        if parameter and name not in host_names and not _is_tracker(name, value, host):
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
    own_site = name == "ref" and value.removeprefix("www.") == host.removeprefix("www.")
    return own_site or value in values


# --- AMP and wrappers ---


def _wrapped(address: _Address) -> str:
    """Give the address that a cache, viewer, redirect or share link leads to, "" for others."""
    host, path, query = address.host, address.path, address.query
    if host.endswith(RULES.amp_caches) and path.startswith(("/c/", "/v/")):
        return _amp_target(path[3:], query)
    if path.startswith("/amp/") and "google." in host and _is_google(host):
        return _amp_target(path[5:], query)
    names = RULES.wrappers.get(host + path.rstrip("/"), ()) if query else ()
    parameters = [parameter.partition("=") for parameter in query[1:].split("&")] if names else ()
    for wanted in names:
        for name, _, value in parameters:
            if name == wanted and value.startswith("http"):
                return unquote_plus(value)
    return ""


def _may_be_amp(host: str, path: str) -> bool:
    """Tell whether a host and path without a query may stand for another address."""
    return "amp" in path or host.startswith("amp.") or host.endswith(RULES.amp_caches)


def _amp_target(rest: str, query: str) -> str:
    scheme = "http://"
    if rest.startswith("s/"):
        scheme, rest = "https://", rest[2:]
    return f"{scheme}{rest}{query}" if "." in rest.partition("/")[0] else ""


def _is_google(host: str) -> bool:
    labels = host.removeprefix("www.").split(".")
    return labels[0] == "google" and len(labels) <= 3  # noqa: PLR2004 - google.com, google.co.uk


def _without_amp(address: _Address) -> str:
    """Give the address without AMP marks and session ids, "" when it has none."""
    host, path = address.host, address.path
    if ";" in path:
        path = _SESSION.sub("", path)
    if host.startswith("amp."):
        rest = RULES.amp_hosts.get(host) or host[4:]
        host = rest if registered_domain(rest) else host
    if "amp" in path:
        path = _without_amp_mark(host, path)
    if host == address.host and path == address.path:
        return ""
    return f"{address.scheme}//{host}{address.port}{path}{address.query}{address.route}"


def _without_amp_mark(host: str, path: str) -> str:
    """Take one AMP mark off the path, where what remains is plainly an article's path."""
    if path.startswith("/amp/") and _names_an_article(path[4:]):
        return path[4:]
    stem = path.rstrip("/")
    for ending, replacement in ((".amp.html", ".html"), (".amp", ""), ("/amp", "")):
        rest = stem.removesuffix(ending)
        if rest != stem and _names_an_article(rest):
            return rest + replacement
    for domain in _domains(host):
        written, meant = RULES.amp_paths.get(domain, ("", ""))
        if written and path.startswith(written):
            return meant + path[len(written) :]
    return path


def _names_an_article(path: str) -> bool:
    """Tell `/2020/05/25/slug` and `/a.html` from `/tags`, which may have a page `/tags/amp`."""
    return not _ARTICLE_PATH.isdisjoint(path) or len(path) > _ARTICLE_PATH_CHARACTERS
