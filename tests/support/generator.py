"""Made-up deliveries in the shape of the record family, as many as wanted, all from one seed.

    PYTHONPATH=. python -m tests.support.generator --seed 7 --deliveries 3000 > stream.ndjson

The outlets do not exist (`.example` is reserved for that). What happens to a document follows the
proportions of a real stream: of its re-deliveries 69 % change nothing but `secured`, 29 % signals
and 2 % something that a reader would see. On top of that, more often than in life: stale
re-deliveries, another spelling of the same URL, documents re-pointed to another article, records
whose URLs bridge two articles, and members of the family that are no articles.

No two deliveries share an observed time, so every order is decided without anybody's hash; texts
carry no markup, so enrichment has nothing to change in them.
"""

import argparse
import base64
import hashlib
import json
import random
import sys
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import TypeAlias

Record: TypeAlias = dict[str, object]

START = datetime(2024, 3, 1, tzinfo=UTC)
SOURCE = "https://generator.example/"

# Of a hundred re-deliveries of a document, in the proportions of a real stream ...
ORDINARY = {"secured": 69, "signals": 29, "content": 2}
# ... and of a thousand, these others, which a real stream has less of.
SPECIAL = {"stale": 25, "same": 20, "spelling": 20, "repoint": 6, "bridge": 12}

_OUTLETS = tuple(
    (f"{first} {last}", f"{first}{last}.example".lower())
    for first in ("Harbour", "Meadow", "Summit", "Lantern", "Copper", "Juniper")
    for last in ("Courier", "Gazette", "Ledger", "Herald")
)
_SUBJECTS = ("Ferries", "Bees", "Tram lines", "Glaciers", "Libraries", "Orchards", "Tidal power")
_VERBS = ("surprise", "delay", "outlast", "reshape", "challenge", "reward", "divide")
_OBJECTS = ("the coast", "planners", "three towns", "early visitors", "the council", "engineers")
_WORDS = (
    *("harbour", "winter", "report", "council", "opened", "morning", "bridge", "narrow", "plan"),
    *("budget", "voted", "river", "museum", "station", "summer", "northern", "repair", "although"),
    *("volunteers", "announced", "measured", "quiet", "record", "season", "ferry", "evening"),
)
_TOPICS = ("Transport", "Nature", "Energy", "Culture", "Budgets", "Weather", "Machine learning")


@dataclass(frozen=True, slots=True)
class Message:
    """One event before it is sent. `kind` says what the generator meant, not what must follow."""

    observed_at: datetime
    record: Record
    kind: str
    path: str

    def value(self) -> bytes:
        """The event's value as it goes on the wire."""
        return json.dumps(self.record, ensure_ascii=False, separators=(",", ":")).encode()

    def key(self) -> bytes:
        """Return a Kafka key that keeps one article's URLs together as well as one can."""
        url = next((self.record[n] for n in ("originalUrl", "webUrl") if n in self.record), "")
        return str(url).split("://")[-1].removeprefix("www.").split("?")[0].rstrip("/").encode()

    def headers(self) -> list[tuple[str, bytes]]:
        """CloudEvents 1.0 headers, Kafka binary mode."""
        seen = self.observed_at.isoformat().replace("+00:00", "Z")
        unique = hashlib.sha256(f"{SOURCE}|{self.path}|{seen}".encode()).hexdigest()
        return [
            ("ce_specversion", b"1.0"),
            ("ce_id", unique.encode()),
            ("ce_source", SOURCE.encode()),
            ("ce_type", b"newsloom.article.parsed.v1"),
            ("ce_time", seen.encode()),
            ("content-type", b"application/json"),
        ]

    def line(self) -> str:
        """One NDJSON line for `publish`: the record as front matter, with its observed time."""
        text = front_matter(self.record)
        seen = self.observed_at.isoformat()
        return json.dumps({"text": text, "observed_at": seen, "path": self.path})


@dataclass(slots=True)
class _Article:
    """An article of the made-up world: what exists, whether or not anybody delivered it yet."""

    number: int
    outlet: str
    domain: str
    title: str
    urls: dict[str, str]

    def mention(self, rng: random.Random) -> Record:
        """Return the article as another record's `related` list would show it."""
        names = list(self.urls)
        if len(names) > 1 and rng.random() < 0.5:  # half of them know one URL only
            names = [rng.choice(names)]
        # A list of related articles knows no original URL, only where it was seen.
        shown = {"originalUrl": "webUrl"}
        entry: Record = {
            "title": self.title if rng.random() < 0.9 else f"{self.title} - report",
            "excerpt": _sentence(rng, 9),
            "publishedDateTime": _wire_time(START - timedelta(hours=self.number % 500)),
            **{shown.get(name, name): self.urls[name] for name in names},
            "type": "article",
            "provider": {"name": self.outlet, "domain": self.domain},
            "quality": rng.choice((-1, rng.randrange(100))),
        }
        if rng.random() < 0.3:
            entry["images"] = [
                {"url": f"https://img.{self.domain}/{self.number}.jpg", "width": 600}
            ]
        return entry


@dataclass(slots=True)
class _Document:
    """A file that is delivered again and again; at one time it is about one article."""

    path: str
    article: _Article
    record: Record
    past: list[tuple[datetime, Record]] = field(default_factory=list)


class Stream:
    """The messages of one seed. Iterate it once; equal arguments give equal messages."""

    def __init__(
        self,
        seed: int,
        *,
        deliveries: int = 3000,
        articles: int | None = None,
        related: float = 0.25,
        rejected: float = 0.01,
    ) -> None:
        """`related`: share of records with a list of them; `rejected`: share of no articles."""
        self.deliveries = deliveries
        self.kinds: Counter[str] = Counter()
        self._rng = random.Random(seed)
        self._related, self._rejected = related, rejected
        self._new = (articles or max(1, deliveries // 8)) / deliveries
        self._clock = START
        self._world: list[_Article] = []
        self._unwritten: list[_Article] = []  # known by mention only, so far
        self._documents: list[_Document] = []
        self._stale_seconds: set[datetime] = set()
        self._changes: dict[str, Callable[[_Document], None]] = {
            "signals": self._change_signals,
            "content": self._change_content,
            "spelling": self._change_spelling,
            "repoint": self._repoint,
            "bridge": self._bridge,
        }

    def __iter__(self) -> Iterator[Message]:
        """Yield the messages in the order in which they are to be sent."""
        for _ in range(self.deliveries):
            # Even seconds: the odd ones are left for stale re-deliveries.
            self._clock += timedelta(seconds=2 * self._rng.randrange(1, 30))
            message = self._next()
            self.kinds[message.kind] += 1
            yield message

    def _next(self) -> Message:
        rng = self._rng
        if rng.random() < self._rejected:
            return Message(self._clock, *self._no_article())
        if not self._documents or rng.random() < self._new:
            document = self._open()
            return self._deliver(document, "new")
        document = rng.choice(self._documents)
        kind = _draw(rng, SPECIAL, 1000) or _draw(rng, ORDINARY, 100) or "secured"
        if kind == "stale":
            return self._stale(document)
        if kind != "same":
            document.record = {**document.record, "secured": self._secured()}
        if kind in self._changes:
            self._changes[kind](document)
        return self._deliver(document, kind)

    def _deliver(self, document: _Document, kind: str) -> Message:
        if len(document.past) < 5 or self._rng.random() < 0.1:  # enough to go back to
            document.past.append((self._clock, document.record))
        return Message(self._clock, document.record, kind, document.path)

    def _stale(self, document: _Document) -> Message:
        """An old version once more, a second after it was first seen: late, or out of order."""
        seen, record = self._rng.choice(document.past)
        late = seen + timedelta(seconds=1)
        if late in self._stale_seconds:
            return self._deliver(document, "same")
        self._stale_seconds.add(late)
        return Message(late, record, "stale", document.path)

    # what changes in a document

    def _change_signals(self, document: _Document) -> None:
        rng, record = self._rng, document.record
        record["heat"] = rng.choice((-1, rng.randrange(300)))
        if rng.random() < 0.2:
            record["quality"] = rng.randrange(150)
        if "ratings" in record:
            record["ratings"] = self._ratings()

    def _change_content(self, document: _Document) -> None:
        rng, record = self._rng, document.record
        match rng.choice(("title", "excerpt", "topics", "published", "related", "body")):
            case "title":
                record["title"] = f"{_headline(rng)} ({rng.randrange(10_000)})"
            case "topics":
                record["topics"] = rng.sample(_TOPICS, 3)
            case "published":
                record["published"] = not record["published"]
            case "related":
                record["related"] = self._entries(document.article)
            case name:
                record[name] = _sentence(rng, 30)

    def _change_spelling(self, document: _Document) -> None:
        """The same URL in another dress: nobody may take it for another article or content."""
        url = str(document.record["originalUrl"])
        host_and_path = url.split("://")[1].removeprefix("www.").split("#")[0].rstrip("/")
        host_and_path = host_and_path.split("&utm")[0]
        document.record["originalUrl"] = self._rng.choice(
            (
                f"http://{host_and_path}",
                f"https://www.{host_and_path}",
                f"https://{host_and_path}#top",
                f"https://{host_and_path}&utm_source=mail",
            )
        )

    def _repoint(self, document: _Document) -> None:
        """The file is about another article from now on: its name was no identity."""
        document.article = self._invent()
        document.record = self._compose(document.article)
        document.past.clear()

    def _bridge(self, document: _Document) -> None:
        """The document turns out to be about the same article as another one."""
        other = self._rng.choice(self._documents)
        other_url = other.record.get("originalUrl")
        if other_url != document.record.get("originalUrl"):
            document.record["webUrl"] = other_url
            if self._rng.random() < 0.8 and len(self._documents) > 1:
                self._documents.remove(other)

    # making things up

    def _open(self) -> _Document:
        late = self._unwritten and self._rng.random() < 0.4
        article = self._unwritten.pop(0) if late else self._invent()
        self._documents.append(
            document := _Document(
                f"_news/{article.number}-{article.outlet.split()[0].lower()}.md",
                article,
                self._compose(article),
            )
        )
        return document

    def _invent(self) -> _Article:
        rng, number = self._rng, len(self._world)
        outlet, domain = rng.choice(_OUTLETS)
        urls = {"originalUrl": f"https://www.{domain}/read?a={number}&section=Local"}
        if rng.random() < 0.3:
            urls["webUrl"] = f"https://{domain}/story/{number}/Long-Name/"
        if rng.random() < 0.3:
            urls["ampWebUrl"] = f"https://fast.{domain}/story/{number}"
        article = _Article(number, outlet, domain, _headline(rng), urls)
        self._world.append(article)
        return article

    def _compose(self, article: _Article) -> Record:
        rng = self._rng
        record: Record = {
            "category": "news",
            "title": article.title,
            "excerpt": _sentence(rng, 40),
            "publishedDateTime": _wire_time(self._clock - timedelta(hours=rng.randrange(1, 99))),
            **article.urls,
            "type": rng.choice(("article", "article", "video")),
            "quality": rng.choice((-1, rng.randrange(150))),
            "heat": rng.choice((-1, -11, rng.randrange(300))),
            "published": rng.random() < 0.8,
            "provider": {"name": article.outlet, "domain": article.domain},
            "topics": rng.sample(_TOPICS, 2),
            "images": [
                {"url": f"https://img.{article.domain}/{article.number}/{n}.jpg", "width": 1280}
                for n in range(rng.randrange(3))
            ],
            "secured": self._secured(),
        }
        if rng.random() < 0.1:
            del record["publishedDateTime"]
        if rng.random() < 0.15:
            record["ratings"] = self._ratings()
        if rng.random() < 0.1:
            record["desk"] = {"floor": rng.randrange(9), "shift": "night"}
        if rng.random() < self._related:
            record["related"] = self._entries(article)
        return record

    def _entries(self, article: _Article) -> list[Record]:
        """Mention some articles of the world, each once; new ones may never come as a record."""
        rng = self._rng
        others = [self._invent() for _ in range(rng.randrange(3))]
        self._unwritten += [other for other in others if rng.random() < 0.5]
        recent = self._world[-60:]
        others += rng.sample(recent, min(len(recent), rng.randrange(1, 4)))
        unique = {other.number: other for other in others if other.number != article.number}
        entries = [other.mention(rng) for other in unique.values()]
        if rng.random() < 0.05:  # a list that names the article itself
            entries.insert(1, {"title": article.title, "webUrl": article.urls["originalUrl"]})
        return entries

    def _no_article(self) -> tuple[Record, str, str]:
        rng = self._rng
        number = rng.randrange(1000)
        if rng.random() < 0.8:
            person: Record = {
                "name": f"Robin Example {number}",
                "bio": _sentence(rng, 20),
                "type": "profile",
                "twitter": {"username": f"robin{number}"},
                "topics": ["Transport"],
                "secured": self._secured(),
            }
            return person, "person", f"_people/robin-{number}.md"
        collection: Record = {"title": _headline(rng), "type": "collection", "items": ["a/b"]}
        return collection, "collection", f"_learning/{number}.md"

    def _ratings(self) -> Record:
        return {"average": self._rng.randrange(30, 50) / 10, "count": self._rng.randrange(1, 999)}

    def _secured(self) -> str:
        cipher, start = (base64.b64encode(self._rng.randbytes(n)).decode() for n in (96, 16))
        return f"{cipher};{start}"


def _draw(rng: random.Random, weights: dict[str, int], out_of: int) -> str | None:
    ticket = rng.randrange(out_of)
    for name, weight in weights.items():
        ticket -= weight
        if ticket < 0:
            return name
    return None


def _headline(rng: random.Random) -> str:
    return f"{rng.choice(_SUBJECTS)} {rng.choice(_VERBS)} {rng.choice(_OBJECTS)}"


def _sentence(rng: random.Random, words: int) -> str:
    return " ".join(rng.choices(_WORDS, k=words)).capitalize() + "."


def _wire_time(moment: datetime) -> str:
    return moment.strftime("%Y-%m-%dT%H:%M:%SZ")


# --- the record family's own spelling -------------------------------------------------------------


def front_matter(record: Record) -> str:
    """Write a record as the family does: YAML between `---` lines, then the body."""
    lines = _yaml({name: value for name, value in record.items() if name != "body"}, 0)
    body = record.get("body", "")
    return "\n".join(["---", *lines, "---", str(body), ""])


def _yaml(mapping: Record, depth: int) -> Iterator[str]:
    pad = "  " * depth
    for name, value in mapping.items():
        if isinstance(value, dict):
            yield f"{pad}{name}:"
            yield from _yaml(value, depth + 1)
        elif isinstance(value, list):
            yield f"{pad}{name}:"
            for item in value:
                yield from _item(item, depth)
        else:
            yield f"{pad}{name}: {_scalar(value)}"


def _item(item: object, depth: int) -> Iterable[str]:
    pad = "  " * depth
    if not isinstance(item, dict):
        return [f"{pad}  - {_scalar(item)}"]
    first, *rest = _yaml(item, depth + 2)
    return [f"{pad}  - {first.lstrip()}", *rest]


def _scalar(value: object) -> str:
    # JSON's quoted text is YAML's; numbers and booleans stay bare, as they do in real records.
    return json.dumps(value, ensure_ascii=False)


def main() -> None:
    """Write a stream as NDJSON lines for `publish`; the seed and the mix go to stderr."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--deliveries", type=int, default=3000)
    arguments = parser.parse_args()
    stream = Stream(arguments.seed, deliveries=arguments.deliveries)
    for message in stream:
        sys.stdout.write(message.line() + "\n")
    sys.stderr.write(f"seed {arguments.seed}: {dict(stream.kinds)}\n")


if __name__ == "__main__":
    main()
