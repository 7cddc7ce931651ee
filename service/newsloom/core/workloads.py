"""Deliveries to load newsloom with: records from a seed, each with the truth that goes with it.

All are made from `newsloom.core.generate`, so words and providers follow Zipf's law. The caller
draws the `Random`: equal arguments, equal deliveries.
"""

import base64
import json
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from enum import StrEnum
from random import Random
from typing import Any, Final

from newsloom.core.generate import GenerateConfig, Generated, Generator

Record = dict[str, Any]

START: Final = datetime(2024, 1, 1, tzinfo=UTC)
RELATED: Final = 13
DELIVERIES_A_DOCUMENT: Final = 13
ONLY_SECURED, SIGNALS = 0.69, 0.29
_TOPICS: Final = ("Cloud", "Retail", "Energy", "Sport", "Courts", "Health")
_MIXED: Final = GenerateConfig()
_NO_DUPLICATES: Final = GenerateConfig(
    words=(60, 140), duplicates=0.0, revisions=0.0, copies=0.0, traps=0.0
)
_COPIES: Final = GenerateConfig(words=(60, 140), duplicates=0.05, revisions=0.03, copies=0.3)


class Workload(StrEnum):
    """What a workload is made of. A closed set."""

    MIXED = "mixed"
    SMALL = "small"
    FULL = "full"
    UPDATES = "updates"
    COPIES = "copies"


@dataclass(frozen=True, slots=True)
class Load:
    """One delivery of a workload: the record, when it was observed, and what it is in truth."""

    record: Record
    observed_at: datetime
    truth: Record


def deliveries(workload: Workload, count: int, rng: Random) -> Iterator[Load]:
    """Yield `count` deliveries.

    mixed: articles of 40 to 300 words with duplicates, revisions, copies of all kinds, traps and
    stories. small: news of about 1.4 KB, no two alike. full: of about 14 KB with 13 related
    entries, 43 URLs. updates: of a few thousand documents; 69 % change nothing but `secured`, 29 %
    a signal too, 2 % something a reader sees. copies: small with 30 % syndicated copies.
    """
    return _MAKERS[workload](count, rng)


def _mixed(count: int, rng: Random) -> Iterator[Load]:
    yield from _plain(_MIXED, count, rng)


def _small(count: int, rng: Random) -> Iterator[Load]:
    yield from _plain(_NO_DUPLICATES, count, rng)


def _copies(count: int, rng: Random) -> Iterator[Load]:
    yield from _plain(_COPIES, count, rng)


def _plain(config: GenerateConfig, count: int, rng: Random) -> Iterator[Load]:
    for number, generated in enumerate(Generator(rng, config).records(count)):
        yield _load(number, generated, rng)


def _full(count: int, rng: Random) -> Iterator[Load]:
    """Three in four mentions are new; the others were mentioned or published a moment ago."""
    generator = Generator(rng, _NO_DUPLICATES)
    recent: list[Record] = []
    for number in range(count):
        generated, *others = generator.records(1 + RELATED)
        related = []
        for other in others:
            again = recent and rng.random() < 1 / 4
            related.append(rng.choice(recent) if again else _entry(other.record, rng))
        recent = [*recent, *related][-200:]
        load = _load(number, generated, rng)
        load.record["related"] = list({entry["webUrl"]: entry for entry in related}.values())
        load.record["images"] = [_image(rng, generated.record["provider"]["domain"])]
        yield load


def _updates(count: int, rng: Random) -> Iterator[Load]:
    documents = max(1, count // DELIVERIES_A_DOCUMENT)
    stored = list(_small(documents, rng))
    for number in range(count):
        record, truth = stored[number % documents].record, stored[number % documents].truth
        changed = "all" if number < documents else _changed(record, rng)
        record["secured"] = _secured(rng)
        observed_at = START + timedelta(seconds=number)
        yield Load(dict(record), observed_at, {**truth, "changed": changed})


def _changed(record: Record, rng: Random) -> str:
    """Change a record as its next delivery does; return what, `secured` apart."""
    ticket = rng.random()
    if ticket > ONLY_SECURED + SIGNALS:
        record["title"] += "."
        return "content"
    if ticket > ONLY_SECURED:
        record["heat"] = rng.randint(0, 500)
        return "signals"
    return "secured"


def _load(number: int, generated: Generated, rng: Random) -> Load:
    record = {
        **generated.record,
        "category": "news",
        "quality": rng.randint(0, 150),
        "published": True,
        "topics": rng.sample(_TOPICS, 2),
        "secured": _secured(rng),
    }
    return Load(record, START + timedelta(seconds=number), generated.truth())


def _secured(rng: Random) -> str:
    cipher, start = (base64.b64encode(rng.randbytes(size)).decode() for size in (192, 16))
    return f"{cipher};{start}"


def _entry(record: Record, rng: Random) -> Record:
    """Return a record as an entry of another one's related list, at three addresses."""
    url, domain = record["originalUrl"], record["provider"]["domain"]
    path = url.partition(domain)[2]
    return {
        "title": record["title"],
        "excerpt": record["excerpt"][:200],
        "publishedDateTime": record["publishedDateTime"],
        "webUrl": url,
        "ampWebUrl": f"https://fast.{domain}{path}",
        "cdnAmpWebUrl": f"https://cdn.{domain}/c/s/fast.{domain}{path}",
        "type": "article",
        "quality": rng.randint(0, 150),
        "provider": record["provider"],
        "images": [_image(rng, domain)],
    }


def _image(rng: Random, domain: str) -> Record:
    url = f"https://img.{domain}/{rng.randrange(1 << 48):x}_hires_205018.jpeg"
    return {"url": url, "width": 1200, "height": 630, "isCached": True}


_MAKERS: Final[Mapping[Workload, Callable[[int, Random], Iterator[Load]]]] = {
    Workload.MIXED: _mixed,
    Workload.SMALL: _small,
    Workload.FULL: _full,
    Workload.UPDATES: _updates,
    Workload.COPIES: _copies,
}


# -- as text -----------------------------------------------------------------------------------


def json_line(load: Load) -> str:
    """Return a delivery as a line that `newsloom publish` reads, with its observed time."""
    line = {**load.record, "observed_at": load.observed_at.isoformat()}
    return json.dumps(line, ensure_ascii=False, separators=(",", ":"))


def front_matter(record: Record) -> str:
    """Return a record as the family writes it: YAML between `---` lines, then the body."""
    lines = _yaml({name: value for name, value in record.items() if name != "body"}, "")
    return "\n".join(["---", *lines, "---", str(record.get("body", "")), ""])


def _yaml(mapping: Record, pad: str) -> list[str]:
    lines: list[str] = []
    for name, value in mapping.items():
        if isinstance(value, dict):
            lines += [f"{pad}{name}:", *_yaml(value, pad + "  ")]
        elif isinstance(value, list):
            lines.append(f"{pad}{name}:")
            for item in value:
                first, *rest = (
                    _yaml(item, pad + "    ") if isinstance(item, dict) else [json.dumps(item)]
                )
                lines += [f"{pad}  - {first.lstrip()}", *rest]
        else:
            # JSON's quoted text is YAML's; numbers and booleans stay bare, as in real records.
            lines.append(f"{pad}{name}: {json.dumps(value, ensure_ascii=False)}")
    return lines
