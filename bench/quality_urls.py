"""Addresses: a key of its own for each article, ten ways to write each, the collected cases."""

import csv
import json
import random
import time
from collections import Counter
from hashlib import sha256
from pathlib import Path
from typing import NamedTuple
from urllib.parse import urlsplit

from newsloom.core.domains import registered_domain
from newsloom.core.identity import canonicalise, url_problem

MADE_UP = 3000
CASES = Path(__file__).parent.parent / "tests" / "data" / "url_cases.tsv"


class Case(NamedTuple):
    """A collected address and our verdict on it; `relation` says what `expected` is."""

    number: str
    given: str
    relation: str
    expected: str


def load_cases() -> list[Case]:
    """Read the collected cases; several rows may share a number."""
    with CASES.open(encoding="utf-8", newline="") as lines:
        rows = list(csv.DictReader(lines, delimiter="\t", quoting=csv.QUOTE_NONE))
    return [
        Case(
            row["number"],
            json.loads(row["input"]) if row["input"].startswith('"') else row["input"],
            row["relation"],
            row["expected"],
        )
        for row in rows
    ]


def holds(case: Case) -> bool:
    """Whether the canonicaliser gives our verdict."""
    found = canonicalise(case.given)
    if case.relation == "none":
        return found is None and url_problem(case.given) == case.expected
    if found is None:
        return False
    if case.relation == "url":
        return found.url == case.expected
    other = canonicalise(case.expected)
    return other is not None and (found.key == other.key) == (case.relation == "same")


def distinct_urls(folder: Path | None) -> list[str]:
    """Return real addresses of different articles from the labelled data, else made-up ones."""
    if folder is None:
        return made_up_urls(random.Random(5))
    with (folder / "url-pairs.tsv").open(encoding="utf-8") as lines:
        rows = csv.DictReader(lines, delimiter="\t")
        return sorted({row[name] for row in rows for name in ("first_url", "second_url")})


def made_up_urls(rng: random.Random) -> list[str]:
    """Return addresses with the traps that real ones have."""
    words = ("council", "storm", "budget", "harbour", "museum", "vote", "river", "amp", "camp", "m")
    urls: dict[str, str] = {}
    while len(urls) < MADE_UP:
        site = rng.choice(words) + rng.choice((".org", ".co.uk"))
        host = rng.choice(("", "www.", "news.")) + site
        slug = "-".join(rng.choices(words, k=4))
        number = rng.randrange(10**6)
        form = rng.choice((
            f"/{rng.choice(words)}/{slug}", f"/2020/05/{number}/", f"/{slug}_{number}.html",
            f"/article.php?sid={number}", f"/?p={number}", f"/{rng.choice(words)}/{number}?id=2",
        ))  # fmt: skip
        url = f"https://{host}{form}"
        urls[_key(url)] = url
    return sorted(urls.values())


def variants(url: str) -> dict[str, str]:
    """Return the ways in which the same article is addressed, by name; ten, and one for mobile."""
    parts = urlsplit(url)
    host, port = parts.hostname or "", f":{parts.port}" if parts.port else ""
    bare = host.removeprefix("www.")
    path, query = parts.path or "/", f"?{parts.query}" if parts.query else ""
    and_ = "&" if query else "?"
    tail = f"{port}{path}{query}"
    default_port = port or {"http": ":80", "https": ":443"}[parts.scheme]
    other_www = host.removeprefix("www.") if host.startswith("www.") else f"www.{host}"
    amp_path = path.rstrip("/") + "/amp" if path != "/" else path  # a front page has no such form
    # An international name is hashed: putting its labels together gives no valid one.
    plain_label = host.replace("-", "--").replace(".", "-")
    cache_label = sha256(host.encode()).hexdigest()[:52] if "xn--" in host else plain_label
    forms = {
        "tracking": f"{parts.scheme}://{host}{tail}{and_}utm_source=x&utm_medium=y&fbclid=Iw-1",
        "amp path": f"{parts.scheme}://{host}{port}{amp_path}{query}",
        "amp cache": f"https://{cache_label}.cdn.ampproject.org/c/s/{host}{tail}",
        "www": f"{parts.scheme}://{other_www}{tail}",
        "scheme": f"{'http' if parts.scheme == 'https' else 'https'}://{host}{tail}",
        "slash": f"{parts.scheme}://{host}{port}"
        f"{path.rstrip('/') if path.endswith('/') else path + '/'}{query}",
        "parameters": f"{parts.scheme}://{host}{port}{path}?"
        + "&".join(["gclid=1", *reversed(parts.query.split("&")), "yclid=2"]),
        "port": f"{parts.scheme}://{host}{default_port}{path}{query}",
        "fragment": f"{url}#comments",
        "upper case": f"{parts.scheme.upper()}://{host.upper()}{tail}",
    }
    if registered_domain(bare) == bare and not bare.startswith(("m.", "mobile.")):
        forms["mobile"] = f"{parts.scheme}://m.{bare}{tail}"
    return forms


def measure(folder: Path | None) -> dict[str, float]:
    """Keys of distinct addresses, the worst form's share of variants that reach them, the cases."""
    urls = distinct_urls(folder)
    keys = {url: _key(url) for url in urls}
    tried, reached = Counter[str](), Counter[str]()
    started = time.process_time()
    for url, key in keys.items():
        for form, variant in variants(url).items():
            tried[form] += 1
            reached[form] += _key(variant) == key
    micros = (time.process_time() - started) / tried.total() * 1e6
    verdicts: dict[str, bool] = {}
    for case in load_cases():
        verdicts[case.number] = verdicts.get(case.number, True) and holds(case)
    return {
        "urls": len(urls),
        "keys": len(set(keys.values())),
        "cases": len(verdicts),
        "cases_with_our_verdict": sum(verdicts.values()),
        "variants": tried.total(),
        "variants_worst_form": min(reached[form] / tried[form] for form in tried),
        "microseconds_a_variant": micros,
    } | {f"variants_{form.replace(' ', '_')}": reached[form] / tried[form] for form in tried}


def _key(url: str) -> str:
    found = canonicalise(url)
    return found.key if found else ""
