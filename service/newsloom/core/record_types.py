"""The types of a record's values: strict where types mislead, and as fast as the JSON parser.

A value is a number, a boolean or a time both in JSON's own type and as the text that front matter
carries. All of it is checked inside pydantic's core: a Python function for each value would cost
more than parsing the record.
"""

from datetime import UTC, datetime
from typing import Annotated, Any, Final

from pydantic import Field, GetPydanticSchema, Strict, StringConstraints
from pydantic_core import CoreSchema, core_schema

MAX_TITLE_CHARACTERS: Final = 2_000
MAX_EXCERPT_CHARACTERS: Final = 20_000
MAX_BODY_CHARACTERS: Final = 1024 * 1024
MAX_SHORT_CHARACTERS: Final = 500
MAX_NAMES: Final = 64
"""Of topics, tags, categories, levels."""
MAX_IMAGES: Final = 64
MAX_RELATED: Final = 200
MAX_LISTED: Final = 500
"""Of actions, items, authors."""

INT32: Final = 2**31
EARLIEST: Final = datetime(1900, 1, 1, tzinfo=UTC)
LATEST: Final = datetime(2200, 1, 1, tzinfo=UTC)

# At least one character that is neither space, control nor invisible formatting.
_VISIBLE = r"[^\s\p{Z}\p{Cc}\p{Cf}]"
TIME_PATTERN: Final = (
    r"^[0-9]{4}-[0-9]{2}-[0-9]{2}[Tt ][0-9]{2}:[0-9]{2}:[0-9]{2}(\.[0-9]{1,9})?"
    r"([Zz]|[+-][0-9]{2}:[0-9]{2})$"
)


def _whole(minimum: int) -> GetPydanticSchema:
    limits = {"ge": minimum, "le": INT32 - 1}
    schema = core_schema.union_schema(
        [
            core_schema.int_schema(strict=True, ge=minimum, le=INT32 - 1),
            core_schema.chain_schema(
                [
                    core_schema.str_schema(strict=True, pattern=r"^-?[0-9]{1,10}$"),
                    core_schema.int_schema(ge=minimum, le=INT32 - 1),
                ]
            ),
        ],
        mode="left_to_right",
        custom_error_type="whole_number",
        custom_error_message="not a whole number in range",
    )
    shown = {"minimum": limits["ge"], "maximum": limits["le"]}
    return _fixed(
        schema,
        {"anyOf": [{"type": "integer", **shown}, {"type": "string", "pattern": "^-?[0-9]{1,10}$"}]},
    )


def _decimal() -> GetPydanticSchema:
    pattern = r"^-?[0-9]{1,18}(\.[0-9]{1,30})?$"
    schema = core_schema.union_schema(
        [
            core_schema.float_schema(strict=True, allow_inf_nan=False),
            core_schema.chain_schema(
                [core_schema.str_schema(strict=True, pattern=pattern), core_schema.float_schema()]
            ),
        ],
        mode="left_to_right",
        custom_error_type="decimal_number",
        custom_error_message="not a finite decimal number",
    )
    return _fixed(schema, {"anyOf": [{"type": "number"}, {"type": "string", "pattern": pattern}]})


def _moment() -> GetPydanticSchema:
    aware = core_schema.datetime_schema(
        ge=EARLIEST, le=LATEST, tz_constraint="aware", microseconds_precision="truncate"
    )
    text = core_schema.chain_schema(
        [core_schema.str_schema(strict=True, pattern=TIME_PATTERN), aware]
    )
    python = core_schema.union_schema(
        [
            core_schema.chain_schema([core_schema.is_instance_schema(datetime), aware]),
            text,
        ],
        mode="left_to_right",
        custom_error_type="moment",
        custom_error_message="not an RFC 3339 time with a zone",
    )
    schema = core_schema.json_or_python_schema(json_schema=text, python_schema=python)
    shown = {
        "description": "RFC 3339 with a zone, from 1900 to 2200. A space for the T is accepted.",
        "type": "string",
        "format": "date-time",
        "pattern": TIME_PATTERN,
    }
    return _fixed(schema, shown)


def _flag() -> GetPydanticSchema:
    pattern = "^([Tt]rue|TRUE|[Ff]alse|FALSE|[Yy]es|YES|[Nn]o|NO|[Oo]n|ON|[Oo]ff|OFF)$"
    schema = core_schema.union_schema(
        [
            core_schema.bool_schema(strict=True),
            core_schema.chain_schema(
                [core_schema.str_schema(strict=True, pattern=pattern), core_schema.bool_schema()]
            ),
        ],
        mode="left_to_right",
        custom_error_type="flag",
        custom_error_message="neither true nor false",
    )
    return _fixed(schema, {"anyOf": [{"type": "boolean"}, {"type": "string", "pattern": pattern}]})


def _fixed(schema: CoreSchema, shown: dict[str, Any]) -> GetPydanticSchema:
    """Use `schema` for a type, and `shown` to describe it in the JSON Schema."""
    return GetPydanticSchema(lambda _type, _handler: schema, lambda _schema, _handler: dict(shown))


Title = Annotated[
    str,
    Strict(),
    StringConstraints(max_length=MAX_TITLE_CHARACTERS, pattern=_VISIBLE),
    Field(json_schema_extra={"pattern": "\\S"}),
]
Excerpt = Annotated[str, Strict(), StringConstraints(max_length=MAX_EXCERPT_CHARACTERS)]
LongText = Annotated[str, Strict(), StringConstraints(max_length=MAX_BODY_CHARACTERS)]
ShortText = Annotated[str, Strict(), StringConstraints(max_length=MAX_SHORT_CHARACTERS)]
# The length of a URL is judged where it is canonicalised, so that the reason can say so.
UrlText = Annotated[
    str, Strict(), Field(json_schema_extra={"format": "uri-reference", "maxLength": 2048})
]
Names = Annotated[list[ShortText], Field(max_length=MAX_NAMES)]
Whole = Annotated[int, _whole(-INT32)]
Count = Annotated[int, _whole(0)]
Decimal = Annotated[float, _decimal()]
Moment = Annotated[datetime, _moment()]
Flag = Annotated[bool, _flag()]
