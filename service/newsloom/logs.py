"""Logging that can be trusted: one event, one line, and nothing in it that a record brought along.

JSON lines when stderr is not a terminal, readable text when it is; times in UTC. Values given as
`extra` are shown when they are plain (numbers, short text, times); anything else shows its type
only, because a `repr` may hold a whole article. Exceptions show their type, their codes and their
frames, never their message: those of pydantic, JSON parsers and Postgres quote the input.

What remains for the author of a log line: never pass article text, keys, titles, addresses.
"""

import json
import logging
import math
import sys
import threading
from collections.abc import Iterator, Mapping
from datetime import UTC, date, datetime
from pathlib import Path, PurePath
from traceback import walk_tb
from types import TracebackType
from typing import Any, Final, Protocol, TextIO, TypeAlias
from uuid import UUID

from newsloom.errors import Rejected, Unavailable

OWN_LOGGER: Final = "newsloom"
CLIENT_LOGGERS: Final = ("aiokafka", "asyncio", "asyncpg", "concurrent", "uvloop")
"""At DEBUG these print keys, values and requests, so they stay at INFO or above."""

WITHHELD_NAMES: Final = frozenset(
    {
        *("secured", "title", "excerpt", "body", "url", "article_key", "key", "value", "headers"),
        *("password", "dsn", "token", "secret"),
    }
)
"""Names of `extra` that are never shown, whatever they hold."""

_MAX_MESSAGE_CHARACTERS: Final = 1000
_MAX_FOREIGN_CHARACTERS: Final = 200
_MAX_VALUE_CHARACTERS: Final = 300
_MAX_ITEMS: Final = 32
_MAX_FRAMES: Final = 12
_MAX_CHAIN: Final = 5
_STANDARD: Final = frozenset(vars(logging.makeLogRecord({}))) | {"message", "asctime", "taskName"}

Plain: TypeAlias = "str | int | float | bool | list[Plain] | dict[str, Plain] | None"


class LoggingOptions(Protocol):
    """What `newsloom.settings.LoggingSettings` holds."""

    @property
    def level(self) -> str:
        """Name of the lowest level that is shown."""

    @property
    def format(self) -> str:
        """One of auto, json, text."""


def configure_logging(settings: LoggingOptions, stream: TextIO) -> None:
    """Send every log line of the process to `stream`. Called once, in `cli`; again replaces."""
    as_json = settings.format == "json" or (settings.format == "auto" and not stream.isatty())
    handler = _Handler(stream)
    handler.setFormatter(JsonFormatter() if as_json else TextFormatter())
    root = logging.getLogger()
    for old in [old for old in root.handlers if isinstance(old, _Handler)]:
        root.removeHandler(old)
    root.addHandler(handler)
    root.setLevel(settings.level)
    own = logging.getLevelNamesMapping()[settings.level]
    # One level above ours: aiokafka tells its whole group life at INFO.
    theirs = logging.INFO if own < logging.INFO else max(logging.WARNING, own)
    for name in CLIENT_LOGGERS:
        logging.getLogger(name).setLevel(theirs)


def log_uncaught_errors() -> None:
    """Route what Python would print itself (message and source lines included) to the log."""
    logger = logging.getLogger(OWN_LOGGER)

    def uncaught(
        kind: type[BaseException], error: BaseException, trace: TracebackType | None
    ) -> None:
        if issubclass(kind, KeyboardInterrupt):
            return
        logger.critical("uncaught error", exc_info=(kind, error, trace))

    def uncaught_in_thread(args: threading.ExceptHookArgs) -> None:
        if args.exc_value is not None:
            uncaught(args.exc_type, args.exc_value, args.exc_traceback)

    def unraisable(args: "sys.UnraisableHookArgs") -> None:
        if args.exc_value is not None:
            uncaught(args.exc_type, args.exc_value, args.exc_traceback)

    sys.excepthook = uncaught
    threading.excepthook = uncaught_in_thread
    sys.unraisablehook = unraisable
    logging.captureWarnings(capture=True)


class JsonFormatter(logging.Formatter):
    """One JSON object a line, ASCII only: no character of it can end a line or steer a terminal."""

    def format(self, record: logging.LogRecord) -> str:
        """Return the line without its line end."""
        line: dict[str, Plain] = {
            "time": _time(record),
            "level": record.levelname,
            "logger": safe_value(record.name),
            "message": _message(record),
        }
        for name, value in _extras(record):
            line.setdefault(name, value)
        if (error := _error(record)) is not None:
            line["error"] = describe_error(error)
        return json.dumps(line, ensure_ascii=True, allow_nan=False)


class TextFormatter(logging.Formatter):
    """A line for people: time (UTC), level, logger, message, name=value."""

    def format(self, record: logging.LogRecord) -> str:
        """Return the line, or several when an error comes with it."""
        name = record.name.removeprefix(f"{OWN_LOGGER}.")
        words = [f"{_time(record)[11:-1]} {record.levelname:<7} {name}: {_message(record)}"]
        words += [f"{name}={_as_word(value)}" for name, value in _extras(record)]
        lines = [_printable("  ".join(words))]
        if (error := _error(record)) is not None:
            lines += [_printable(line) for line in _error_lines(describe_error(error))]
        return "\n".join(lines)


class _Handler(logging.StreamHandler[TextIO]):
    """A stream handler that says so when a line cannot be written, instead of quoting it."""

    def format(self, record: logging.LogRecord) -> str:
        encoding = getattr(self.stream, "encoding", None) or "utf-8"
        return super().format(record).encode(encoding, "backslashreplace").decode(encoding)

    def handleError(self, record: logging.LogRecord) -> None:  # noqa: N802 - logging's name
        notice = logging.LogRecord(
            OWN_LOGGER, logging.ERROR, "", 0, "a log line could not be written", None, None
        )
        notice.source = f"{PurePath(record.pathname).name}:{record.lineno}"
        try:
            self.stream.write(self.format(notice) + self.terminator)
        except (OSError, ValueError):
            return  # stderr itself is gone; there is nowhere left to say it


def safe_value(value: object) -> Plain:
    """Return `value` if it is plain and short, else what may be said about it."""
    match value:
        case None | bool():
            plain: Plain = value
        case int():
            plain = int(value) if abs(value) < 1 << 63 else "<int>"
        case float():
            plain = value if math.isfinite(value) else str(value)
        case datetime() | date():
            plain = value.isoformat()
        case str() | UUID() | PurePath():
            plain = _capped(str(value), _MAX_VALUE_CHARACTERS)
        case BaseException():
            plain = _short(value)
        case _:
            plain = _safe_container(value)
    return plain


def _safe_container(value: object) -> Plain:
    match value:
        case Mapping():
            return dict(_named(value))
        case list() | tuple() | set() | frozenset():
            return [safe_value(item) for item, _ in zip(value, range(_MAX_ITEMS), strict=False)]
        case _:
            return f"<{type(value).__name__}>"


def describe_error(error: BaseException, *, chain: int = _MAX_CHAIN) -> dict[str, Plain]:
    """Say what went wrong without the message: type, codes, frames, causes.

    Frames are `file:line function`, the innermost last.
    """
    described: dict[str, Plain] = {"type": _type_name(error), **_codes(error)}
    described["frames"] = _frames(error.__traceback__)
    if chain <= 1:
        return described
    cause = error.__cause__ or (None if error.__suppress_context__ else error.__context__)
    if cause is not None:
        described["cause"] = describe_error(cause, chain=chain - 1)
    if isinstance(error, BaseExceptionGroup):
        inner = error.exceptions[:_MAX_CHAIN]
        described["errors"] = [describe_error(item, chain=chain - 1) for item in inner]
    return described


def _codes(error: BaseException) -> dict[str, Plain]:
    """Return what identifies an error and comes from us or from a closed set."""
    match error:
        case Rejected():
            return {"reason": error.reason.value}
        case Unavailable():
            return {"dependency": safe_value(error.dependency), "code": safe_value(error.code)}
        case OSError() if error.errno is not None:
            return {"errno": error.errno}
        case _:
            # asyncpg names the SQLSTATE and the violated constraint beside the quoting message.
            names = ("sqlstate", "constraint_name", "table_name", "column_name")
            found = {name: getattr(error, name, None) for name in names}
            return {
                name: safe_value(value) for name, value in found.items() if isinstance(value, str)
            }


def _short(error: BaseException) -> str:
    codes = " ".join(str(code) for code in _codes(error).values())
    return f"{_type_name(error)} ({codes})" if codes else _type_name(error)


def _type_name(error: BaseException) -> str:
    kind = type(error)
    name = (
        kind.__qualname__
        if kind.__module__ == "builtins"
        else f"{kind.__module__}.{kind.__qualname__}"
    )
    return _capped(name, _MAX_VALUE_CHARACTERS)


def _frames(trace: TracebackType | None) -> list[Plain]:
    frames = [
        f"{'/'.join(Path(frame.f_code.co_filename).parts[-2:])}:{line} {frame.f_code.co_name}"
        for frame, line in walk_tb(trace)
    ]
    return [*frames[-_MAX_FRAMES:]]


def _error(record: logging.LogRecord) -> BaseException | None:
    return record.exc_info[1] if record.exc_info else None


def _message(record: logging.LogRecord) -> str:
    message = record.msg
    if isinstance(message, BaseException):
        message = _short(message)
    args: Any = record.args
    if isinstance(args, tuple):
        args = tuple(_short(arg) if isinstance(arg, BaseException) else arg for arg in args)
    text = str(message) % args if args else str(message)
    if record.name.split(".")[0] == OWN_LOGGER:
        return _capped(text, _MAX_MESSAGE_CHARACTERS)
    # The first line of what a library says is its own wording; asyncio's next ones are the repr of
    # a task and of its error.
    return _capped(text.split("\n", 1)[0], _MAX_FOREIGN_CHARACTERS)


def _extras(record: logging.LogRecord) -> Iterator[tuple[str, Plain]]:
    return _named({name: item for name, item in vars(record).items() if name not in _STANDARD})


def _named(values: Mapping[Any, object]) -> Iterator[tuple[str, Plain]]:
    for (name, value), _ in zip(values.items(), range(_MAX_ITEMS), strict=False):
        text = (
            _capped(str(name), _MAX_VALUE_CHARACTERS) if isinstance(name, str | int) else "<name>"
        )
        yield text, "<withheld>" if text.lower() in WITHHELD_NAMES else safe_value(value)


def _time(record: logging.LogRecord) -> str:
    moment = datetime.fromtimestamp(record.created, UTC)
    return moment.isoformat(timespec="milliseconds").replace("+00:00", "Z")


def _capped(text: str, limit: int) -> str:
    return text if len(text) <= limit else f"{text[:limit]}... ({len(text)} characters)"


def _as_word(value: Plain) -> str:
    text = value if isinstance(value, str) else json.dumps(value)
    return text if text and not set(text) & set(' ="') else json.dumps(text, ensure_ascii=False)


def _printable(text: str) -> str:
    if text.isprintable():
        return text
    return "".join(
        char if char.isprintable() else char.encode("unicode_escape", "backslashreplace").decode()
        for char in text
    )


def _error_lines(described: dict[str, Plain], word: str = "error") -> Iterator[str]:
    frames, cause, errors = (described.pop(name, None) for name in ("frames", "cause", "errors"))
    codes = "  ".join(f"{name}={_as_word(value)}" for name, value in described.items())
    yield f"    {word} {codes}"
    for frame in frames if isinstance(frames, list) else []:
        yield f"      at {frame}"
    for inner in errors if isinstance(errors, list) else []:
        if isinstance(inner, dict):
            yield from _error_lines(inner, "one of its errors")
    if isinstance(cause, dict):
        yield from _error_lines(cause, "caused by")
