"""The two errors that newsloom's flows react to; everything else ends the process.

`Rejected` means "this input can never succeed: dead-letter it and go on"; `Unavailable` means "a
dependency is away: keep what you hold, wait, try again". Any other exception is a bug, and a
process with a bug in it is restarted by its supervisor rather than trusted.
"""

import re
from enum import StrEnum

MAX_DETAIL_CHARACTERS = 500
"""Dead-letter details are bounded: they are read by people and travel in Kafka headers."""

_DATA_SQLSTATE = re.compile(r"(?:22|23|54)[0-9A-Z]{3}\Z", re.ASCII)


class RejectReason(StrEnum):
    """Why a record can never be stored. A closed set: metric label, dead-letter column, header."""

    NOT_AN_ARTICLE = "not-an-article"
    ERASED = "erased"
    KAFKA_TOMBSTONE = "kafka.tombstone"
    KAFKA_KEY_SIZE = "kafka.key_size"
    KAFKA_OVERSIZE = "kafka.oversize"
    KAFKA_UNREADABLE = "kafka.unreadable"
    DECODE_EMPTY = "decode.empty"
    DECODE_UTF8 = "decode.utf8"
    PARSE_JSON = "parse.json"
    PARSE_DEPTH = "parse.depth"
    PARSE_NODE_LIMIT = "parse.node_limit"
    PARSE_NON_FINITE = "parse.non_finite"
    PARSE_NUMBER_RANGE = "parse.number_range"
    PARSE_FRONT_MATTER = "parse.front_matter"
    PARSE_YAML = "parse.yaml"
    PARSE_ALIAS = "parse.alias"
    PARSE_TAG = "parse.tag"
    PARSE_MERGE_KEY = "parse.merge_key"
    PARSE_DUPLICATE_KEY = "parse.duplicate_key"
    PARSE_KEY = "parse.key"
    PARSE_MULTI_DOCUMENT = "parse.multi_document"
    PARSE_TIMEOUT = "parse.timeout"
    SCHEMA_NOT_OBJECT = "schema.not_object"
    SCHEMA_TYPE = "schema.type"
    SCHEMA_LENGTH = "schema.length"
    SCHEMA_VERSION = "schema.version"
    TEXT_SURROGATE = "text.surrogate"
    TEXT_CONTROL = "text.control"
    URL_INVALID = "url.invalid"
    URL_SCHEME = "url.scheme"
    URL_LENGTH = "url.length"
    TIME_INVALID = "time.invalid"
    TIME_ZONE = "time.zone"
    TIME_RANGE = "time.range"
    FILE_UNREADABLE = "file.unreadable"
    FILE_SIZE = "file.size"
    CRASH_LOOP = "crash.loop"
    DATABASE = "db.data"


class Rejected(Exception):  # noqa: N818 - named for what became of the input, as the outcome is
    """An input that can never succeed. `detail` says what to mend, never quotes article text."""

    def __init__(self, reason: RejectReason, detail: str) -> None:
        super().__init__(reason.value)
        self.reason = reason
        self.detail = detail[:MAX_DETAIL_CHARACTERS]

    def __reduce__(self) -> tuple[type["Rejected"], tuple[RejectReason, str]]:
        """Survive the way back from a parse worker process with both fields."""
        return type(self), (self.reason, self.detail)


class Unavailable(Exception):  # noqa: N818 - a state of the world, as `Rejected` is
    """A dependency is away: keep the batch, back off, acknowledge nothing.

    `systemic` marks what waiting alone will not mend (a missing table, a revoked right, a wrong
    password): the partition is also parked and readiness goes off until an operator has acted.
    `dependency` is one of "kafka", "postgres"; `code` an SQLSTATE or the class of the cause, never
    its message, which may quote row data.
    """

    def __init__(self, dependency: str, code: str, *, systemic: bool = False) -> None:
        super().__init__(f"{dependency} unavailable ({code})")
        self.dependency = dependency
        self.code = code
        self.systemic = systemic


class NotConfirmed(TimeoutError):  # noqa: N818 - a state of the world, as `Unavailable` is
    """Kafka has the event, and no receipt came in time: it is stored already, later, or rejected.

    `receipt` says where Kafka keeps it. Publishing it again is harmless.
    """

    def __init__(self, receipt: object) -> None:
        super().__init__("Kafka has the event; no receipt says yet that it has been stored")
        self.receipt = receipt


def is_data_sqlstate(sqlstate: str) -> bool:
    """Tell whether an SQLSTATE blames the rows (class 22, 23, 54) rather than the server."""
    return _DATA_SQLSTATE.match(sqlstate) is not None
