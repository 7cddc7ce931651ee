"""Seeded articles of which the truth is known: duplicates, revisions, copies, traps and stories.

Words are made up of syllables and drawn by Zipf's law from a large vocabulary, so that shingles and
rare terms behave as in real text; an event has names and words of its own. Records have the field
names of the record family. All randomness comes from the `Random` that is passed in: the same seed
gives the same records.
"""

from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from enum import StrEnum
from random import Random
from typing import Any, Final

Record = dict[str, Any]


class Planted(StrEnum):
    """What a generated record is. A closed set."""

    ORIGINAL = "original"
    DUPLICATE = "duplicate"
    REVISION = "revision"
    EDITED = "edited"
    ABRIDGED = "abridged"
    HEADLINE = "headline"
    BOILERPLATE_ADDED = "boilerplate-added"
    BOILERPLATE_SHARED = "boilerplate-shared"
    TEMPLATE = "template"
    TITLE_SHARED = "title-shared"


@dataclass(frozen=True, slots=True)
class Generated:
    """A record and its truth.

    `article` numbers the article (a duplicate and a revision share it), `copy_group` the text that
    it repeats (every text of its own has a group of its own), `event` what it tells. `edits` is the
    share of words that an edited text was to lose; `rival_of` an earlier event of the same kind
    with other names and numbers.
    """

    record: Record
    planted: Planted
    article: int
    copy_group: int
    event: int
    edits: float = 0.0
    rival_of: int | None = None

    def truth(self) -> Record:
        """Return the truth as it is written beside the records."""
        return {
            "url": self.record["originalUrl"],
            "planted": self.planted.value,
            "article": self.article,
            "copyGroup": self.copy_group,
            "event": self.event,
            "edits": round(self.edits, 3),
            "rivalOf": self.rival_of,
        }


@dataclass(frozen=True, slots=True)
class GenerateConfig:
    """How much of what: shares are chances that an original brings one of the kind along.

    `articles_an_event` is the mean number of texts of their own about one event, `words` the range
    of a body's length. `rivals` is the chance that an event is of the kind of an earlier one: told
    in the same words, with other names and numbers. `most_edited` bounds the share of words that an
    edited copy changes.
    """

    vocabulary: int = 50_000
    articles_an_event: float = 2.0
    words: tuple[int, int] = (40, 300)
    duplicates: float = 0.1
    revisions: float = 0.05
    copies: float = 0.3
    traps: float = 0.2
    rivals: float = 0.2
    most_edited: float = 0.6


DEFAULT_GENERATE_CONFIG: Final = GenerateConfig()

_START: Final = datetime(2024, 1, 1, tzinfo=UTC)
_DUPLICATE_URLS: Final = (
    "https://www.{domain}{path}?utm_source=newsletter",
    "https://www.{domain}{path}?utm_medium=social&utm_campaign=daily",
    "https://www.{domain}{path}?fbclid=1a2b3c",
    "https://www.{domain}{path}/amp",
    "https://www-{label}.cdn.ampproject.org/c/s/www.{domain}{path}",
    "http://m.{domain}{path}/",
)
_CONSONANTS: Final = "bcdfghjklmnprstvwz"
_VOWELS: Final = "aeiou"
_FUNCTION_WORDS: Final = tuple(
    """
    the of to and in a for that on with said was by is at from as has were it after had its an be
    """.split()  # noqa: SIM905 - easier to read
)
_FUNCTION_SHARE: Final = 0.35
_OWN_SHARE: Final = 0.2


@dataclass(slots=True)
class _Event:
    number: int
    names: list[str]
    words: list[str]
    at: datetime
    left: int
    rival_of: int | None = None


@dataclass(slots=True)
class Generator:
    """Makes records one after the other; see the module's docstring.

    >>> from random import Random
    >>> [made.planted.value for made in Generator(Random(1)).records(1)]
    ['original']
    """

    rng: Random
    config: GenerateConfig = DEFAULT_GENERATE_CONFIG
    _articles: int = 0
    _events: int = 0
    _event: _Event | None = None
    _recent: deque[_Event] = field(default_factory=lambda: deque(maxlen=_RECENT_EVENTS))
    _boilerplates: list[str] = field(default_factory=list)
    _templates: list[list[str]] = field(default_factory=list)
    _headlines: list[str] = field(default_factory=list)

    def records(self, count: int) -> Iterator[Generated]:
        """Yield `count` records: originals, each followed by what it brings along."""
        made = 0
        while made < count:
            for generated in self._family():
                if made < count:
                    made += 1
                    yield generated

    def _family(self) -> Iterator[Generated]:
        rng, config = self.rng, self.config
        if rng.random() < config.traps:
            yield self._trap()
            return
        original = self._original()
        yield original
        while rng.random() < config.copies:
            yield self._copy(original)
        if rng.random() < config.duplicates:
            yield self._duplicate(original)
        if rng.random() < config.revisions:
            yield self._revision(original)

    def _original(self) -> Generated:
        event = self._next_event()
        return self._made(
            Planted.ORIGINAL, self._headline(event), self._text(event), self._articles, event
        )

    def _copy(self, original: Generated) -> Generated:
        rng = self.rng
        body, title, edits = original.record["body"], original.record["title"], 0.0
        planted = rng.choice(
            (
                Planted.EDITED,
                Planted.EDITED,
                Planted.ABRIDGED,
                Planted.HEADLINE,
                Planted.BOILERPLATE_ADDED,
            )
        )
        if planted is Planted.EDITED:
            edits = rng.uniform(0, self.config.most_edited)
            body = self._edited(body, edits)
        elif planted is Planted.ABRIDGED:
            words = body.split()
            body = " ".join(words[: max(25, int(len(words) * rng.uniform(0.15, 0.6)))])
        elif planted is Planted.BOILERPLATE_ADDED:
            body = f"{body} {self._boilerplate()}"
        else:
            title = self._title(7)
        event = self._event_of(original)
        return replace(self._made(planted, title, body, original.copy_group, event), edits=edits)

    def _trap(self) -> Generated:
        """Return an article that looks like a copy of another trap and is none."""
        rng = self.rng
        event = self._next_event()
        kind = rng.choice((Planted.BOILERPLATE_SHARED, Planted.TEMPLATE, Planted.TITLE_SHARED))
        title, body = self._headline(event), self._text(event)
        if kind is Planted.BOILERPLATE_SHARED:
            body = f"{body} {self._boilerplate()}"
        elif kind is Planted.TEMPLATE:
            body = self._from_template()
        else:
            while len(self._headlines) < _HEADLINES:
                self._headlines.append(self._title(9))
            title = rng.choice(self._headlines)
            body = " ".join(body.split()[:40])
        return self._made(kind, title, body, self._articles, event)

    def _duplicate(self, original: Generated) -> Generated:
        """Return the same article under another address, with another counter."""
        domain = original.record["provider"]["domain"]
        url = self.rng.choice(_DUPLICATE_URLS).format(
            domain=domain,
            label=domain.replace(".", "-"),
            path=original.record["originalUrl"].removeprefix(f"https://www.{domain}"),
        )
        record = {**original.record, "originalUrl": url, "heat": self.rng.randint(0, 500)}
        return replace(original, record=record, planted=Planted.DUPLICATE)

    def _revision(self, original: Generated) -> Generated:
        body = self._edited(original.record["body"], _REVISED)
        record = {**original.record, "body": body, "title": original.record["title"] + ", updated"}
        return replace(original, record=record, planted=Planted.REVISION, edits=_REVISED)

    def _made(
        self, planted: Planted, title: str, body: str, copy_group: int, event: _Event
    ) -> Generated:
        number, rng = self._articles, self.rng
        self._articles += 1
        provider = rng.randrange(_PROVIDERS)
        domain = f"outlet{provider}.example"
        record: Record = {
            "type": "article",
            "title": title,
            "excerpt": body[:_EXCERPT],
            "body": body,
            "originalUrl": f"https://www.{domain}/news/{number}-{'-'.join(title.lower().split()[:4])}",
            "publishedDateTime": (event.at + timedelta(minutes=rng.randint(0, 600))).isoformat(),
            "provider": {"name": f"Outlet {provider}", "domain": domain},
            "locale": "en-us",
            "heat": rng.randint(0, 500),
        }
        return Generated(record, planted, number, copy_group, event.number, rival_of=event.rival_of)

    # -- events and words ----------------------------------------------------------------------

    def _next_event(self) -> _Event:
        event = self._event
        if event is None or event.left <= 0:
            rng = self.rng
            many = 1 + int(rng.expovariate(1 / max(self.config.articles_an_event - 1, 1e-9)))
            rival = rng.random() < self.config.rivals and bool(self._recent)
            like = rng.choice(self._recent) if rival else None
            numbers = [str(rng.randint(2, 9_999)) for _ in range(2)]
            event = _Event(
                number=self._events,
                names=[self._word(rng.randrange(1 << 40)).capitalize() for _ in range(5)] + numbers,
                words=like.words if like else [self._drawn() for _ in range(12)],
                at=_START + timedelta(minutes=self._events),
                left=many,
                rival_of=like.number if like else None,
            )
            self._events += 1
            self._event = event
            self._recent.append(event)
        event.left -= 1
        return event

    def _event_of(self, original: Generated) -> _Event:
        at = datetime.fromisoformat(original.record["publishedDateTime"])
        return _Event(original.event, [], [], at, 0, original.rival_of)

    def _headline(self, event: _Event) -> str:
        rng = self.rng
        words = [rng.choice(event.names), *(self._drawn() for _ in range(3))]
        return " ".join([*words, rng.choice(event.words), rng.choice(event.names)])

    def _title(self, words: int) -> str:
        return " ".join(self._drawn() for _ in range(words)).capitalize()

    def _text(self, event: _Event) -> str:
        rng = self.rng
        own = [*event.names, *event.words]
        words = [
            rng.choice(own) if rng.random() < _OWN_SHARE else self._any_word()
            for _ in range(rng.randint(*self.config.words))
        ]
        return _sentences(words, rng)

    def _any_word(self) -> str:
        rng = self.rng
        return rng.choice(_FUNCTION_WORDS) if rng.random() < _FUNCTION_SHARE else self._drawn()

    def _edited(self, text: str, share: float) -> str:
        rng = self.rng
        return " ".join(self._any_word() if rng.random() < share else word for word in text.split())

    def _drawn(self) -> str:
        """Draw a word by Zipf's law."""
        vocabulary = self.config.vocabulary
        return self._word(int(vocabulary ** self.rng.random()) - 1)

    def _word(self, number: int) -> str:
        """Return the made-up word of a number; different numbers, different words."""
        word = ""
        while not word or number:
            number, consonant = divmod(number, len(_CONSONANTS))
            number, vowel = divmod(number, len(_VOWELS))
            word += _CONSONANTS[consonant] + _VOWELS[vowel]
        return word + "n"

    def _boilerplate(self) -> str:
        while len(self._boilerplates) < _BOILERPLATES:
            words = [self._any_word() for _ in range(self.rng.randint(20, 60))]
            self._boilerplates.append(_sentences(words, self.rng))
        return self.rng.choice(self._boilerplates)

    def _from_template(self) -> str:
        """Fill one of a few texts with other numbers and another name."""
        rng = self.rng
        while len(self._templates) < _TEMPLATES:
            words = [self._any_word() for _ in range(rng.randint(30, 70))]
            for at in range(4, len(words), rng.randint(6, 12)):
                words[at] = "{}"
            self._templates.append(words)
        filled = [
            str(rng.randint(2, 99_999)) if word == "{}" else word
            for word in rng.choice(self._templates)
        ]
        return " ".join([self._word(rng.randrange(1 << 40)).capitalize(), *filled])


_EXCERPT: Final = 300
_REVISED: Final = 0.05
_RECENT_EVENTS: Final = 200
_PROVIDERS: Final = 200
_HEADLINES: Final = 5
_BOILERPLATES: Final = 5
_TEMPLATES: Final = 10


def _sentences(words: list[str], rng: Random) -> str:
    """Return words with full stops and capitals."""
    text, start = [], True
    for word in words:
        text.append(word[0].upper() + word[1:] if start else word)
        start = rng.random() < 1 / 15
        if start:
            text[-1] += "."
    return " ".join(text) + "."
