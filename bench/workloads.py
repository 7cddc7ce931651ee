"""The workloads of `make bench`: records from a seed, and the truth that goes with them.

small: news of about 1.4 KB without related entries. full: of about 14 KB with 13 related entries,
43 URLs. updates: deliveries of a few thousand documents of which 69 % change nothing but
`secured`, 29 % a signal too and 2 % something a reader sees. copies: small with 30 % syndicated
copies. All are made from `newsloom.core.generate`, so words and providers follow Zipf's law.
"""

import base64
import json
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from random import Random
from typing import Any, Final

from newsloom.core.documents import event_of
from newsloom.core.event import Event
from newsloom.core.generate import GenerateConfig, Generated, Generator
from newsloom.core.record import record_from_json

Record = dict[str, Any]

START: Final = datetime(2024, 1, 1, tzinfo=UTC)
SEED: Final = 1
NO_DUPLICATES: Final = GenerateConfig(
    words=(60, 140), duplicates=0.0, revisions=0.0, copies=0.0, traps=0.0
)
COPIES: Final = GenerateConfig(words=(60, 140), duplicates=0.05, revisions=0.03, copies=0.3)
RELATED: Final = 13
DELIVERIES_A_DOCUMENT: Final = 13
ONLY_SECURED, SIGNALS = 0.69, 0.29


@dataclass(frozen=True, slots=True)
class Made:
    """One delivery of a workload, and its truth where there is any."""

    record: Record
    observed_at: datetime
    truth: Record | None = None

    def value(self) -> bytes:
        """Return the record as JSON, as it would come from another producer."""
        return json.dumps(self.record, ensure_ascii=False, separators=(",", ":")).encode()

    def event(self) -> Event:
        """Return what `newsloom publish` sends for the record."""
        return event_of(
            record_from_json(self.value()), observed_at=self.observed_at, source="bench"
        )


def make(name: str, count: int, seed: int = SEED) -> list[Made]:
    """Make `count` deliveries of a workload. Equal arguments, equal deliveries."""
    makers = {"small": _small, "full": _full, "updates": _updates, "copies": _copies}
    return list(makers[name](count, Random(f"{name}-{seed}")))


def _small(count: int, rng: Random) -> Iterator[Made]:
    yield from map(_made, range(count), Generator(rng, NO_DUPLICATES).records(count))


def _copies(count: int, rng: Random) -> Iterator[Made]:
    yield from map(_made, range(count), Generator(rng, COPIES).records(count))


def _full(count: int, rng: Random) -> Iterator[Made]:
    """Three in four mentions are new; the others were mentioned or published a moment ago."""
    generator = Generator(rng, NO_DUPLICATES)
    recent: list[Record] = []
    for number in range(count):
        generated, *others = generator.records(1 + RELATED)
        related = []
        for other in others:
            again = recent and rng.random() < 1 / 4
            related.append(rng.choice(recent) if again else _entry(other.record, rng))
        recent = [*recent, *related][-200:]
        unique = {entry["webUrl"]: entry for entry in related}
        made = _made(number, generated)
        made.record["related"] = list(unique.values())
        made.record["images"] = [_image(rng, generated.record["provider"]["domain"])]
        yield made


def _updates(count: int, rng: Random) -> Iterator[Made]:
    generator = Generator(rng, NO_DUPLICATES)
    documents = max(1, count // DELIVERIES_A_DOCUMENT)
    records = [_made(0, generated).record for generated in generator.records(documents)]
    for number in range(count):
        record = records[number % documents]
        if number >= documents:
            ticket = rng.random()
            if ticket > ONLY_SECURED + SIGNALS:
                record["title"] += "."
            elif ticket > ONLY_SECURED:
                record["heat"] = rng.randint(0, 500)
        record["secured"] = _secured(rng)
        yield Made(dict(record), START + timedelta(seconds=number))


def _made(number: int, generated: Generated) -> Made:
    rng = Random(number)
    record = {
        **generated.record,
        "category": "news",
        "quality": rng.randint(0, 150),
        "published": True,
        "topics": rng.sample(("Cloud", "Retail", "Energy", "Sport", "Courts", "Health"), 2),
        "secured": _secured(rng),
    }
    return Made(record, START + timedelta(seconds=number), generated.truth())


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
