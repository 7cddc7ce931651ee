"""An independent judge: what must become of a sequence of deliveries, worked out with plain dicts.

Written from the rules (outcomes, order key, identity, mentions, merges), sharing no code with the
service: `urllib`, `hashlib` and PyYAML's own loader are all it uses. It is slow, singular and
obvious on purpose. Where the rules leave a choice that only the service's own hash can decide (two
different contents with one observed time), it refuses to judge: see `TieError`.

How it reads the rules where they are short:

- Whatever a delivery shows, stale or not, is knowledge about URLs: its URLs become aliases and its
  related entries become mentions. Only content, signals and edges follow the order key. (Otherwise
  the final rows would depend on how partitions interleave, which "as if one by one" rules out.)
- `first_seen_at` is the lowest observed time at which the article was delivered or mentioned.
- Edges are those of the current record: each related entry, in order, resolved at the end; one that
  has come to be the article itself is no edge.
"""

import gzip
import hashlib
import json
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from functools import lru_cache
from pathlib import Path
from urllib.parse import urlsplit
from uuid import UUID

import yaml

OUTCOMES = ("created", "revised", "refreshed", "unchanged", "stale", "rejected")
URL_FIELDS = ("originalUrl", "webUrl", "ampWebUrl", "cdnAmpWebUrl")
SIGNALS = ("heat", "quality", "ratings")
TRACKERS = ("fbclid", "gclid")
UNKNOWN = -1
"""A heat or quality of -1 says that nobody knows it; so does leaving it out."""


class TieError(AssertionError):
    """Two contents share an observed time: only the service's own hash could order them."""


@dataclass(frozen=True, slots=True)
class Delivery:
    """One Kafka message: where it stood, when it was observed, and its value (None: no object)."""

    topic: str
    partition: int
    offset: int
    value: Mapping[str, object] | None
    observed_at: datetime


@dataclass(slots=True)
class Article:
    """One article as the rules leave it. `related` holds the keys of each entry, in order."""

    article_id: UUID
    first_seen_at: datetime
    observed_at: datetime
    content: str
    record: Mapping[str, object]
    full: bool
    secured: str | None = None
    signals: str = "{}"
    revisions: int = 0
    signal_changes: int = 0
    related: tuple[tuple[str, ...], ...] = ()


@dataclass(frozen=True, slots=True)
class DeadLetter:
    """A refused delivery. `reason` is None where the rules name no single code for it."""

    topic: str
    partition: int
    offset: int
    reason: str | None
    missing: tuple[str, ...] = ()


# --- values ---------------------------------------------------------------------------------------


def article_key(url: object) -> str | None:
    """What decides sameness: no scheme, `www.`, trailing slash, port, fragment or trackers."""
    return _key(url) if isinstance(url, str) else None


@lru_cache(50_000)
def _key(url: str) -> str | None:
    if any(c.isspace() for c in url.strip()):
        return None
    try:
        parts = urlsplit(url.strip())
        host, port = (parts.hostname or "").rstrip("."), parts.port
    except ValueError:
        return None
    if parts.scheme.lower() not in {"http", "https"} or not host:
        return None
    host = host.removeprefix("www.")
    default = {"http": 80, "https": 443}[parts.scheme.lower()]
    suffix = "" if port in (None, default) else f":{port}"
    kept = sorted(p for p in parts.query.split("&") if p and not _is_tracker(p))
    query = "?" + "&".join(kept) if kept else ""
    return host + suffix + parts.path.rstrip("/") + query


def _is_tracker(parameter: str) -> bool:
    name = parameter.split("=", 1)[0].lower()
    return name.startswith("utm_") or name in TRACKERS


def article_id(key: str) -> UUID:
    """The id that an article gets at creation."""
    return UUID(bytes=hashlib.sha256(b"newsloom:1\0" + key.encode()).digest()[:16])


def keys_of(record: Mapping[str, object]) -> tuple[str, ...]:
    """Return the article keys of all four URLs, the deciding one first, each once."""
    keys = (article_key(record.get(name)) for name in URL_FIELDS)
    return tuple(dict.fromkeys(key for key in keys if key is not None))


def fold(text: object) -> str:
    """One text for all its spellings in white space, and for the types JSON and YAML give it."""
    if isinstance(text, bool):
        return "true" if text else "false"
    return " ".join(str(text).split())


def parse_time(value: object) -> datetime | None:
    """Read an ISO 8601 time with a zone; None where it is not one."""
    try:
        moment = datetime.fromisoformat(fold(value))
    except ValueError:
        return None
    return moment.astimezone(UTC) if moment.tzinfo else None


def content_of(record: Mapping[str, object]) -> str:
    """Return all that a reader would see: equal texts mean equal content."""
    return json.dumps(_content(record), sort_keys=True, ensure_ascii=False)


def _content(record: Mapping[str, object]) -> dict[str, object]:
    kept = {
        name: _normal(name, value)
        for name, value in record.items()
        if name not in SIGNALS and name != "secured" and value is not None
    }
    return {name: value for name, value in kept.items() if value not in (None, "", [], {})}


def _normal(name: str, value: object) -> object:
    if name in URL_FIELDS or name == "url":
        return article_key(value)
    if name in {"publishedDateTime", "updatedDateTime"}:
        moment = parse_time(value)
        return moment.isoformat() if moment else None
    if name == "topics" and isinstance(value, list):
        return sorted({fold(topic) for topic in value})
    if isinstance(value, Mapping):
        return _content(value)
    if isinstance(value, list):
        return [_normal("", item) for item in value]
    return fold(value)


def signals_of(record: Mapping[str, object]) -> str:
    """Heat, quality and ratings; -1 (for the first two) and absence are the same."""
    found: dict[str, object] = {}
    for name in ("heat", "quality"):
        number = _number(record.get(name))
        if number is not None and number != UNKNOWN:
            found[name] = number
    ratings = record.get("ratings")
    if isinstance(ratings, Mapping) and ratings:
        found["ratings"] = {
            fold(name): _number(value) if _number(value) is not None else fold(value)
            for name, value in ratings.items()
        }
    return json.dumps(found, sort_keys=True)


def _number(value: object) -> float | None:
    try:
        return float(fold(value))
    except ValueError:
        return None


def secured_of(record: Mapping[str, object]) -> str | None:
    """Return the opaque text, byte for byte."""
    secured = record.get("secured")
    return secured if isinstance(secured, str) else None


def refusal(record: Mapping[str, object] | None) -> tuple[str | None, tuple[str, ...]] | None:
    """Return (reason, missing fields) of a record that is no article; None where it is one."""
    if record is None:
        return None, ()
    missing = []
    if not fold(record.get("title") or ""):
        missing.append("title")
    if not any(record.get(name) for name in URL_FIELDS):
        missing.append("url")
    if missing:
        return "not-an-article", tuple(missing)
    if not keys_of(record):
        return None, ()
    published = record.get("publishedDateTime")
    if published not in (None, "") and parse_time(published) is None:
        return "time.invalid", ()
    return None


# --- the judge ------------------------------------------------------------------------------------


@dataclass(slots=True)
class Oracle:
    """The state of the world after some deliveries; `feed` them in offset order."""

    articles: dict[UUID, Article] = field(default_factory=dict)
    moved: dict[UUID, UUID] = field(default_factory=dict)
    owner: dict[str, UUID] = field(default_factory=dict)
    dead_letters: list[DeadLetter] = field(default_factory=list)
    outcomes: Counter[str] = field(default_factory=Counter)

    def feed(self, delivery: Delivery) -> str:
        """Apply one delivery and return what became of it."""
        outcome = self._judge(delivery)
        self.outcomes[outcome] += 1
        return outcome

    def feed_all(self, deliveries: Iterable[Delivery]) -> list[str]:
        """Apply many deliveries; the outcome of each, in order."""
        return [self.feed(delivery) for delivery in deliveries]

    # results

    @property
    def full_articles(self) -> list[Article]:
        """Articles of which a whole record is known."""
        return [article for article in self.articles.values() if article.full]

    @property
    def mentions(self) -> list[Article]:
        """Articles known only from another record's `related` list."""
        return [article for article in self.articles.values() if not article.full]

    @property
    def revisions(self) -> int:
        """All stored versions of all articles."""
        return sum(article.revisions for article in self.articles.values())

    def resolve(self, some_id: UUID) -> UUID:
        """Return the id that an id, merged away or not, stands for now."""
        while some_id in self.moved:
            some_id = self.moved[some_id]
        return some_id

    def urls(self) -> dict[UUID, set[str]]:
        """Return all keys of every article, aliases included."""
        found: dict[UUID, set[str]] = {some_id: set() for some_id in self.articles}
        for key, some_id in self.owner.items():
            found[self.resolve(some_id)].add(key)
        return found

    def edges(self) -> dict[UUID, list[UUID]]:
        """Return the related articles of each article, in the order the source gave them."""
        found: dict[UUID, list[UUID]] = {}
        for article in self.articles.values():
            targets = [self.resolve(self.owner[keys[0]]) for keys in article.related]
            targets = [target for target in targets if target != article.article_id]
            if targets:
                found[article.article_id] = targets
        return found

    def world(self) -> dict[frozenset[str], tuple[object, ...]]:
        """Return what must not depend on how partitions interleave, each article by its URLs."""
        urls = {some_id: frozenset(keys) for some_id, keys in self.urls().items()}
        edges = self.edges()
        return {
            urls[a.article_id]: (
                a.full,
                a.first_seen_at,
                a.observed_at,
                a.content,
                signals_of(a.record),
                a.secured,
                tuple(urls[target] for target in edges.get(a.article_id, ())),
            )
            for a in self.articles.values()
        }

    # rules

    def _judge(self, delivery: Delivery) -> str:
        refused = refusal(delivery.value)
        if refused is not None or delivery.value is None:
            reason, missing = refused or (None, ())
            where = (delivery.topic, delivery.partition, delivery.offset)
            self.dead_letters.append(DeadLetter(*where, reason, missing))
            return "rejected"
        record, seen = delivery.value, delivery.observed_at
        entries = list(_mentions_in(record))
        article, new = self._find(keys_of(record), record, seen)
        outcome = _apply(article, record, seen, entries, new=new)
        for entry in entries:
            mention, new = self._find(keys_of(entry), entry, seen)
            if not new and not mention.full:
                _apply_mention(mention, entry, seen)
        return outcome

    def _find(
        self, keys: tuple[str, ...], record: Mapping[str, object], seen: datetime
    ) -> tuple[Article, bool]:
        """Return the one article behind these keys, merged or created on the way (True: created).

        A new article starts as a mention, whatever it becomes next.
        """
        known = {self.resolve(self.owner[key]) for key in keys if key in self.owner}
        new = not known
        if new:
            article = Article(
                article_id(keys[0]), seen, seen, content_of(record), record, full=False
            )
            if article.article_id in self.articles or article.article_id in self.moved:
                message = f"two articles claim the id {article.article_id}"
                raise AssertionError(message)
            self.articles[article.article_id] = article
        else:
            article = self._merge([self.articles[some_id] for some_id in known])
        article.first_seen_at = min(article.first_seen_at, seen)
        self.owner.update(dict.fromkeys(keys, article.article_id))
        return article, new

    def _merge(self, group: list[Article]) -> Article:
        survivor = min(group, key=lambda a: (a.first_seen_at, a.article_id))
        if len(group) == 1:
            return survivor
        strongest = max((a.full, a.observed_at) for a in group)
        winners = [a for a in group if (a.full, a.observed_at) == strongest]
        if len({a.content for a in winners}) > 1:
            message = f"merged articles share the time {strongest[1]}"
            raise TieError(message)
        winner = winners[0]
        merged = Article(
            survivor.article_id,
            survivor.first_seen_at,
            winner.observed_at,
            winner.content,
            winner.record,
            winner.full,
            winner.secured,
            winner.signals,
            sum(a.revisions for a in group),
            sum(a.signal_changes for a in group),
            winner.related,
        )
        for gone in group:
            del self.articles[gone.article_id]
            if gone is not survivor:
                self.moved[gone.article_id] = survivor.article_id
        self.articles[merged.article_id] = merged
        return merged


def _mentions_in(record: Mapping[str, object]) -> Iterator[Mapping[str, object]]:
    related = record.get("related")
    for entry in related if isinstance(related, list) else []:
        if isinstance(entry, Mapping) and fold(entry.get("title") or "") and keys_of(entry):
            yield entry


def _order(article: Article, content: str, seen: datetime) -> int:
    """Compare an arriving order key with the stored one: -1 below, 0 equal, 1 above."""
    if seen == article.observed_at and content != article.content:
        message = f"two contents of {article.article_id} share the time {seen}"
        raise TieError(message)
    return (seen > article.observed_at) - (seen < article.observed_at)


def _apply(
    article: Article,
    record: Mapping[str, object],
    seen: datetime,
    entries: list[Mapping[str, object]],
    *,
    new: bool,
) -> str:
    """Judge a whole record against what is stored of its article, and store it."""
    content, signals, secured = content_of(record), signals_of(record), secured_of(record)
    if new or not article.full:
        outcome = "created"
    elif _order(article, content, seen) < 0:
        return "stale"
    elif content != article.content:
        outcome = "revised"
    elif (signals, secured) != (article.signals, article.secured):
        outcome = "refreshed"
    else:
        outcome = "unchanged"
    if outcome in {"created", "revised"}:
        article.revisions += 1
    if outcome != "created" and signals != article.signals:
        article.signal_changes += 1
    article.full, article.observed_at, article.content = True, seen, content
    article.record, article.signals, article.secured = record, signals, secured
    article.related = tuple(keys_of(entry) for entry in entries)
    return outcome


def _apply_mention(article: Article, entry: Mapping[str, object], seen: datetime) -> None:
    content = content_of(entry)
    if _order(article, content, seen) >= 0:
        article.observed_at, article.content, article.record = seen, content, entry


# --- inputs ---------------------------------------------------------------------------------------


def record_of_text(text: str) -> dict[str, object]:
    """Read front matter (and a body, if any) with PyYAML's base loader: every scalar a text."""
    lines = text.splitlines(keepends=True)
    end = next(i for i, line in enumerate(lines) if i and line.rstrip() == "---")
    loaded = yaml.load("".join(lines[1:end]), Loader=getattr(yaml, "CBaseLoader", yaml.BaseLoader))  # noqa: S506 - builds texts only
    record: dict[str, object] = dict(loaded)
    body = "".join(lines[end + 1 :])
    return {**record, "body": body} if body.strip() else record


def updates(path: Path) -> Iterator[tuple[datetime, dict[str, object], str]]:
    """Yield (observed time, record, text) of each line of an update stream in NDJSON.gz."""
    with gzip.open(path, "rt", encoding="utf-8") as lines:
        for line in lines:
            row = json.loads(line)
            if "committed_at" in row:
                seen = datetime.fromtimestamp(row["committed_at"], UTC)
            else:
                seen = datetime.fromisoformat(row["observed_at"])
            yield seen, record_of_text(row["text"]), row["text"]


def judge_updates(path: Path, topic: str, *, refused_first: bool) -> Oracle:
    """Judge a stream as if sent to one partition; `refused_first`: `publish` held back the bad."""
    oracle, offset = Oracle(), 0
    for seen, record, _ in updates(path):
        if refused_first and refusal(record) is not None:
            continue
        oracle.feed(Delivery(topic, 0, offset, record, seen))
        offset += 1
    return oracle
