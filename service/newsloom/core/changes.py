"""Change events: what one article or story looks like after a change, for whoever mirrors it.

The value is the whole public state, never a difference, so a reader that keeps the highest version
of each key has the present state, whatever it missed, saw twice or saw late. One event may stand
for several changes of the log: `changes` names them all.

Three things change without an event of their own, and are as they were when the event was made:
times of observation and (unless `refreshed` events are on) signals, which spelling of an address is
shown, and the ids under `related` and `copy_of` of an article that has been merged since. The
merged article's own event says into which one: follow it.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from enum import StrEnum
from hashlib import sha256
from typing import Annotated, Any, Final, Literal
from uuid import UUID

from pydantic import BaseModel, ConfigDict, Field, JsonValue

from newsloom.core.event import CONTENT_TYPE, SPEC_VERSION, Outgoing

SOURCE: Final = "newsloom/relay"
ARTICLE_TYPE: Final = "newsloom.article.changed.v1"
STORY_TYPE: Final = "newsloom.story.changed.v1"
SNAPSHOT: Final = "snapshot"
"""Kind of an event that tells a present state again, whatever it came from."""

MAX_VALUE_BYTES: Final = 1_900_000
"""Below max.message.bytes of the changes topic, with room for key and headers."""

_LARGE: Final = (
    "body", "featured_content", "extra", "items", "actions", "provider_extra", "images", "urls",
    "related",
)  # fmt: skip
"""What is left out of an event that would be too large, in this order, until it fits."""


class Entity(StrEnum):
    """What changed. The Kafka key is `<entity>/<id>`."""

    ARTICLE = "article"
    STORY = "story"


class _Public(BaseModel):
    # A view may have gained a column that this version does not know.
    model_config = ConfigDict(frozen=True, extra="ignore")


class Address(_Public):
    """One address of an article."""

    url: str = Field(description="As it was given.")
    kind: str = Field(description="original, web, amp or cdn_amp.")
    canonical_url: str = Field(description="Canonical and clickable.")


class Picture(_Public):
    """One picture of an article's content."""

    position: int = Field(description="Place in the list, from 1.")
    url: str
    width: int | None = None
    height: int | None = None
    title: str | None = None
    attribution: str | None = None
    is_cached: bool | None = None


class ArticleState(_Public):
    """An article as `api.articles` shows it, without its story, with its lists."""

    article_id: UUID
    article_key: str = Field(description="The key URL at creation, canonical, without scheme.")
    canonical_url: str = Field(description="Canonical and clickable.")
    title: str
    excerpt: str | None
    body: str | None
    language: str | None = Field(description="ISO 639-1: declared or detected.")
    type: str | None
    category: str | None
    provider_name: str | None
    provider_domain: str | None
    published_at: datetime | None
    updated_at: datetime | None
    observed_at: datetime = Field(description="Of the newest delivery when the event was made.")
    first_seen_at: datetime
    revised_at: datetime = Field(description="When this content was first observed.")
    revision: int = Field(description="0: a mention, known from other records only.")
    quality: int | None = Field(description="A signal, as it was when the event was made.")
    heat: int | None = Field(description="A signal, as it was when the event was made.")
    ratings: dict[str, JsonValue] | None = Field(description="A signal: count and average.")
    is_published: bool | None
    is_removed: bool
    is_mention: bool
    topics: list[str]
    tags: list[str]
    categories: list[str]
    levels: list[str]
    lead_image_url: str | None
    word_count: int | None
    reading_seconds: int | None
    declared_language: str | None
    language_score: float | None
    locale: str | None
    featured_content: str | None = Field(description="HTML as published: untrusted.")
    price: str | None
    length: str | None
    actions: JsonValue = None
    items: JsonValue = None
    extra: JsonValue = None
    provider_images: JsonValue = None
    provider_extra: JsonValue = None
    changed_fields: list[str] = Field(description="What differs from the revision before.")
    copy_of: UUID | None = Field(description="The article whose text it repeats.")
    urls: list[Address] | None = Field(description="Every address by which it is known.")
    images: list[Picture] | None
    related: list[UUID] | None = Field(description="The articles that its record names, in order.")


class Member(_Public):
    """An article of a story."""

    article_id: UUID
    score: float = Field(description="How well it fits, 0 to 1.")


class StoryState(_Public):
    """A story as `api.stories` shows it, with its articles."""

    story_id: UUID
    title: str
    article_count: int
    provider_count: int
    first_published_at: datetime | None
    last_published_at: datetime | None
    articles: list[Member]


class Note(_Public):
    """One row of the change log."""

    version: int = Field(description="Of the article or story after this change.")
    kind: str = Field(
        description="Of an article: created, mentioned, revised, removed, aliased, merged, erased, "
        "copy_linked, copy_unlinked, refreshed (signals alone; off unless asked for); of a story: "
        "story_created, story_grown, story_shrunk, story_merged, story_split; of both: snapshot "
        "(nothing new: the present state, told again). Expect new ones."
    )
    changed_fields: list[str] = Field(default=[], description="Of a revision.")
    other_id: UUID | None = Field(
        default=None, description="The other article of a merge or copy, the other story."
    )
    observed_at: datetime


class _Change(Note):
    id: UUID
    merged_into: UUID | None = Field(
        default=None, description="Set: it turned out to be this one; there is no state any more."
    )
    is_erased: bool = Field(
        default=False, description="Taken down for good; a message without a value follows."
    )
    omitted: list[str] = Field(
        default=[], description="Parts of the state left out because the event was too large."
    )
    changes: list[Note] = Field(description="All changes that this event stands for, by version.")


class ArticleChange(_Change):
    """An article has changed. `version`, `kind` and the rest are those of its newest change."""

    entity: Literal[Entity.ARTICLE] = Entity.ARTICLE
    state: ArticleState | None = Field(description="The whole public state; null: there is none.")


class StoryChange(_Change):
    """A story has changed. `version`, `kind` and the rest are those of its newest change."""

    entity: Literal[Entity.STORY] = Entity.STORY
    state: StoryState | None = Field(description="The whole public state; null: there is none.")


AnyChange = Annotated[ArticleChange | StoryChange, Field(discriminator="entity")]


@dataclass(frozen=True, slots=True)
class Changed:
    """An entity with rows of the change log and the state it had when they were read.

    `version` is that of the state: never below that of a row. `state` is JSON text, None when
    there is no public state; `recorded_at` when the last of the rows was written.
    """

    entity: Entity
    entity_id: UUID
    version: int
    notes: Sequence[Note]
    recorded_at: datetime
    merged_into: UUID | None = None
    state: str | None = field(default=None, repr=False)


def change_messages(changed: Changed, *, max_bytes: int = MAX_VALUE_BYTES) -> list[Outgoing]:
    """Make the event of a change; of an erased entity a tombstone too, so that compaction forgets.

    The same entity, version and kind give the same `ce_id`.
    """
    change = _change_of(changed)
    key = f"{changed.entity.value}/{changed.entity_id}"
    event_id = _event_id(key, change.version, change.kind)
    headers = _headers(changed, key, event_id)
    messages = [Outgoing(key.encode(), _fitting(change, max_bytes), headers, event_id)]
    if change.is_erased:
        messages.append(Outgoing(key.encode(), None, headers, event_id))
    return messages


def reduced(changed: Changed) -> list[Outgoing]:
    """Make the smallest event there can be: for a Kafka topic that takes less than it should."""
    return change_messages(changed, max_bytes=0)


def _change_of(changed: Changed) -> ArticleChange | StoryChange:
    notes = sorted(changed.notes, key=lambda note: note.version)
    newest = notes[-1]
    fields: dict[str, Any] = {
        "id": changed.entity_id,
        "version": changed.version,
        "kind": newest.kind,
        "changed_fields": list(dict.fromkeys(name for n in notes for name in n.changed_fields)),
        "other_id": newest.other_id,
        "observed_at": newest.observed_at,
        "merged_into": changed.merged_into,
        "is_erased": changed.state is None and changed.merged_into is None,
        "changes": notes,
    }
    if changed.entity is Entity.ARTICLE:
        article = ArticleState.model_validate_json(changed.state) if changed.state else None
        return ArticleChange(**fields, state=article)
    story = StoryState.model_validate_json(changed.state) if changed.state else None
    return StoryChange(**fields, state=story)


def _fitting(change: ArticleChange | StoryChange, max_bytes: int) -> bytes:
    value = change.model_dump_json().encode()
    omitted: list[str] = []
    while len(value) > max_bytes and change.state is not None:
        name = next((name for name in _LARGE if _is_there(change, name)), None)
        if name is None:
            omitted, state = ["state"], None
        else:
            omitted, state = [*omitted, name], change.state.model_copy(update={name: None})
        change = change.model_copy(update={"state": state, "omitted": omitted})
        value = change.model_dump_json().encode()
    return value


def _is_there(change: ArticleChange | StoryChange, name: str) -> bool:
    return getattr(change.state, name, None) is not None


def _headers(changed: Changed, key: str, event_id: str) -> list[tuple[str, bytes | None]]:
    article = changed.entity is Entity.ARTICLE
    time = changed.recorded_at.astimezone(UTC).isoformat().removesuffix("+00:00") + "Z"
    attributes = {
        "ce_specversion": SPEC_VERSION,
        "ce_id": event_id,
        "ce_source": SOURCE,
        "ce_type": ARTICLE_TYPE if article else STORY_TYPE,
        "ce_time": time,
        "ce_subject": key,
        "content-type": CONTENT_TYPE,
    }
    return [(name, value.encode()) for name, value in attributes.items()]


def _event_id(key: str, version: int, kind: str) -> str:
    digest = sha256()
    for part in (key, str(version), kind):
        # With its length in front, no part can be read as the end of the one before.
        digest.update(len(part).to_bytes(4, "big") + part.encode())
    return digest.hexdigest()
