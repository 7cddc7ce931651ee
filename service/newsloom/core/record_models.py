"""The record family as models: the fields that real records carry, under the family's own names.

Only what these models accept reaches Kafka. They keep what they do not know (`extra`), and know
nothing of how a broken value is mended or dropped: that is `newsloom.core.salvage`.
"""

from typing import Annotated, Any, Final

from pydantic import BaseModel, ConfigDict, Field
from pydantic.alias_generators import to_camel

from newsloom.core.record_types import (
    MAX_IMAGES,
    MAX_LISTED,
    MAX_RELATED,
    Count,
    Decimal,
    Excerpt,
    Flag,
    LongText,
    Moment,
    Names,
    ShortText,
    Title,
    UrlText,
    Whole,
)

URL_FIELDS: Final = ("original_url", "web_url", "amp_web_url", "cdn_amp_web_url")
"""In the order of trust: the first valid one is the key URL."""


class Fields(BaseModel):
    """Common to all parts: camelCase outside, unknown fields kept, no input in errors."""

    model_config = ConfigDict(
        alias_generator=to_camel,
        extra="allow",
        hide_input_in_errors=True,
        protected_namespaces=(),
        ser_json_inf_nan="constants",
    )


class RecordImage(Fields):
    """A picture. Sizes in pixels. The URL may be relative to the site the record came from."""

    url: UrlText
    width: Count | None = None
    height: Count | None = None
    is_cached: Flag | None = None
    title: ShortText | None = None
    attribution: ShortText | None = None


class RecordProvider(Fields):
    """Who published."""

    name: ShortText | None = None
    domain: ShortText | None = None
    images: Annotated[list[RecordImage], Field(max_length=MAX_IMAGES)] | None = None
    authors: Annotated[list[Any], Field(max_length=MAX_LISTED)] | None = None


class RecordRatings(Fields):
    """How readers rated a course or sample."""

    count: Count | None = None
    average: Decimal | None = None


class RelatedRecord(Fields):
    """An article as another record's `related` list shows it: needs a title and one valid URL."""

    category: ShortText | None = None
    title: Title
    excerpt: Excerpt | None = None
    published_date_time: Moment | None = None
    updated_date_time: Moment | None = None
    original_url: UrlText | None = None
    web_url: UrlText | None = None
    amp_web_url: UrlText | None = None
    cdn_amp_web_url: UrlText | None = None
    type: ShortText | None = None
    quality: Whole | None = Field(None, description="A signal; -1 is unknown.")
    heat: Whole | None = Field(None, description="A signal; -1 is unknown.")
    published: Flag | None = None
    removed: Flag | None = None
    provider: RecordProvider | None = None
    topics: Names | None = None
    tags: Names | None = None
    categories: Names | None = None
    images: Annotated[list[RecordImage], Field(max_length=MAX_IMAGES)] | None = None
    featured_content: LongText | None = Field(None, description="HTML.")
    ratings: RecordRatings | None = None
    price: ShortText | None = None
    length: ShortText | None = Field(None, description="As in PT44M.")
    levels: Names | None = None
    locale: ShortText | None = None
    language: ShortText | None = None
    actions: Annotated[list[dict[str, Any]], Field(max_length=MAX_LISTED)] | None = None
    items: Annotated[list[Any], Field(max_length=MAX_LISTED)] | None = None
    secured: LongText | None = Field(
        None, repr=False, description="Opaque ciphertext, kept verbatim and never shown."
    )


class Record(RelatedRecord):
    """One source document: an article with its related ones and its body.

    Needed: a title and one valid http(s) URL of originalUrl, webUrl, ampWebUrl, cdnAmpWebUrl.
    """

    related: Annotated[list[RelatedRecord], Field(max_length=MAX_RELATED)] | None = None
    body: LongText | None = None

    def to_wire(self) -> bytes:
        """Return the one JSON object that travels on Kafka; absent fields are left out.

        `record_from_json` gives an equal record back.
        """
        return self.__pydantic_serializer__.to_json(self, by_alias=True, exclude_none=True)
