"""Log lines: one line an event, parseable, and without what a record or a secret brought along."""

import asyncio
import io
import json
import logging
import sys
import threading
import warnings
from collections.abc import Iterator

import asyncpg
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import BaseModel, SecretStr

from newsloom.errors import Rejected, RejectReason, Unavailable
from newsloom.logs import (
    CLIENT_LOGGERS,
    JsonFormatter,
    TextFormatter,
    configure_logging,
    describe_error,
    log_uncaught_errors,
    safe_value,
)
from newsloom.settings import LoggingSettings

CANARY = "canary-7f3a"
HOSTILE = [
    'x"}\n{"level": "ERROR"',
    "a\r\nb\x00\x1b[2J\x1b]0;t\x07",
    "\u2028\u2029\u0085\u202e",
    "\ud800 lone",
    "%s %d %(x)s {}",
]


class _Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


@pytest.fixture(autouse=True)
def _restored_logging() -> Iterator[None]:
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level
    hooks = sys.excepthook, threading.excepthook, sys.unraisablehook
    levels = {name: logging.getLogger(name).level for name in CLIENT_LOGGERS}
    show = warnings.showwarning
    yield
    logging.captureWarnings(capture=False)
    warnings.showwarning = show
    sys.excepthook, threading.excepthook, sys.unraisablehook = hooks
    root.handlers[:] = handlers
    root.setLevel(level)
    for name, old in levels.items():
        logging.getLogger(name).setLevel(old)


def configured(stream: io.StringIO | None = None, **options: str) -> io.StringIO:
    stream = stream or io.StringIO()
    logging.getLogger().handlers[:] = []  # those of pytest raise where ours must not
    configure_logging(LoggingSettings.model_validate(options), stream)
    return stream


def only_line(stream: io.StringIO) -> dict[str, object]:
    (line,) = stream.getvalue().splitlines()
    parsed = json.loads(line)
    assert isinstance(parsed, dict)
    return parsed


def test_a_line_carries_time_level_logger_message_and_extras() -> None:
    stream = configured()
    logging.getLogger("newsloom.ingest").info(
        "batch stored", extra={"events": 500, "partition": 3, "seconds": 0.21}
    )
    line = only_line(stream)
    assert str(line.pop("time")).endswith("Z")
    assert line == {
        "level": "INFO",
        "logger": "newsloom.ingest",
        "message": "batch stored",
        "events": 500,
        "partition": 3,
        "seconds": 0.21,
    }


@pytest.mark.parametrize(("stream", "json_expected"), [(io.StringIO(), True), (_Terminal(), False)])
def test_the_format_follows_the_stream(stream: io.StringIO, json_expected: bool) -> None:  # noqa: FBT001
    configured(stream)
    logging.getLogger("newsloom.x").warning("away", extra={"code": "57P03"})
    text = stream.getvalue()
    assert text.startswith("{") is json_expected
    assert "57P03" in text
    assert text.count("\n") == 1


def test_configuring_twice_does_not_double_the_lines() -> None:
    configured()
    stream = configured()
    logging.getLogger("newsloom").info("once")
    assert stream.getvalue().count("once") == 1


@pytest.mark.parametrize("text", HOSTILE)
@pytest.mark.parametrize("name", ["json", "text"])
def test_hostile_text_cannot_end_a_line_or_steer_a_terminal(text: str, name: str) -> None:
    stream = configured(format=name)
    logging.getLogger("newsloom.x").info("said %s", text, extra={"what": text, "many": [text]})
    logged = stream.getvalue()
    assert logged.endswith("\n")
    assert logged[:-1].isprintable()
    if name == "json":
        assert only_line(stream)["what"] == text


@given(st.text(alphabet=st.characters(), max_size=50), st.text(max_size=50))
def test_any_text_in_any_place_gives_one_json_object(text: str, key: str) -> None:
    record = logging.LogRecord(text, logging.INFO, text, 1, text, None, None)
    vars(record)[f"x_{key}"] = text
    line = JsonFormatter().format(record)
    assert line.isascii()
    assert line.isprintable()
    assert isinstance(json.loads(line), dict)
    assert TextFormatter().format(record).isprintable()


def test_long_values_are_capped() -> None:
    stream = configured()
    logging.getLogger("newsloom").info("m" * 10**6, extra={"v": "v" * 10**6, "w": ["w"] * 10**6})
    assert len(stream.getvalue()) < 3000


@pytest.mark.parametrize(
    "value",
    [
        SecretStr(CANARY),
        type("Record", (), {"__repr__": lambda _: CANARY})(),
        CANARY.encode(),
        ValueError(CANARY),
        {"title": CANARY, "nested": {"secured": CANARY}},
        [object(), ValueError(CANARY)],
    ],
    ids=lambda value: type(value).__name__,
)
def test_a_value_that_is_not_plain_shows_its_type_only(value: object) -> None:
    assert CANARY not in json.dumps(safe_value(value))


@pytest.mark.parametrize("name", ["secured", "title", "url", "key", "dsn", "password", "Body"])
def test_some_names_are_withheld_whatever_they_hold(name: str) -> None:
    stream = configured()
    logging.getLogger("newsloom").info("x", extra={name: CANARY})
    assert only_line(stream)[name] == "<withheld>"


def _errors() -> Iterator[BaseException]:
    class Model(BaseModel):
        count: int

    for attempt in (
        lambda: Model.model_validate({"count": CANARY}),
        lambda: json.loads(f'{{"{CANARY}'),
        lambda: int(CANARY),
        lambda: CANARY.encode("utf-16").decode("utf-8"),
        lambda: (_ for _ in ()).throw(OSError(2, CANARY, CANARY)),
    ):
        try:
            attempt()
        except (ValueError, OSError) as error:
            yield error
    yield asyncpg.UniqueViolationError(CANARY)
    yield Rejected(RejectReason.PARSE_JSON, CANARY)
    yield ExceptionGroup(CANARY, [ValueError(CANARY), ExceptionGroup(CANARY, [KeyError(CANARY)])])


@pytest.mark.parametrize("error", list(_errors()), ids=lambda error: type(error).__name__)
@pytest.mark.parametrize("name", ["json", "text"])
def test_an_error_is_logged_without_its_message_and_so_are_its_causes(
    error: BaseException, name: str
) -> None:
    stream = configured(format=name, level="DEBUG")
    logger = logging.getLogger("newsloom.ingest")
    try:
        try:
            raise error  # noqa: TRY301 - the point is where it is raised
        except BaseException as inner:
            raise RuntimeError(CANARY) from inner
    except RuntimeError as outer:
        logger.exception("batch failed: %s", outer)  # noqa: TRY401
        logger.warning(outer)
        logger.error("as extra", extra={"cause": outer})  # noqa: TRY400
    logged = stream.getvalue()
    assert CANARY not in logged
    assert type(error).__name__ in logged
    assert "test_logs.py:" in logged


def test_an_error_shows_its_codes_and_its_frames() -> None:
    violation = asyncpg.UniqueViolationError(CANARY)
    violation.constraint_name = "article_urls_pkey"
    assert describe_error(violation) == {
        "type": "asyncpg.exceptions.UniqueViolationError",
        "sqlstate": "23505",
        "constraint_name": "article_urls_pkey",
        "frames": [],
    }
    assert describe_error(Unavailable("kafka", "NodeNotReadyError"))["dependency"] == "kafka"
    assert describe_error(Rejected(RejectReason.TIME_RANGE, CANARY))["reason"] == "time.range"
    with pytest.raises(ValueError, match="x") as caught:
        int("x")
    assert str(describe_error(caught.value)["frames"]).startswith("['unit/test_logs.py:")


def test_a_chain_of_errors_that_bites_its_tail_ends() -> None:
    first, second = ValueError(), KeyError()
    first.__cause__, second.__cause__ = second, first
    assert len(json.dumps(describe_error(first))) < 1000


def test_a_line_that_cannot_be_formatted_is_replaced_and_not_quoted(
    capfd: pytest.CaptureFixture[str],
) -> None:
    stream = configured()
    logging.getLogger("newsloom").info("%d records", CANARY)
    assert only_line(stream)["message"] == "a log line could not be written"
    assert CANARY not in stream.getvalue() + "".join(capfd.readouterr())


def test_a_closed_stream_is_survived() -> None:
    configured().close()
    logging.getLogger("newsloom").info("nobody listens")


@pytest.mark.parametrize("name", CLIENT_LOGGERS)
def test_client_libraries_never_log_below_info(name: str) -> None:
    stream = configured(level="DEBUG")
    logging.getLogger(f"{name}.inner").debug("%s", CANARY)
    assert stream.getvalue() == ""
    logging.getLogger(f"{name}.inner").info("shown")
    assert only_line(stream)["message"] == "shown"


async def test_an_error_that_asyncio_reports_is_not_quoted() -> None:
    stream = configured()
    loop = asyncio.get_running_loop()
    error = ValueError(CANARY)
    loop.call_exception_handler(
        {"message": "Task exception was never retrieved", "exception": error, "coro": CANARY}
    )
    line = only_line(stream)
    assert line["message"] == "Task exception was never retrieved"
    assert CANARY not in stream.getvalue()


def test_uncaught_errors_go_to_the_log_without_their_message(
    capfd: pytest.CaptureFixture[str],
) -> None:
    stream = configured()
    log_uncaught_errors()
    sys.excepthook(ValueError, ValueError(CANARY), None)

    def fail() -> None:
        raise KeyError(CANARY)

    thread = threading.Thread(target=fail)
    thread.start()
    thread.join()
    sys.excepthook(KeyboardInterrupt, KeyboardInterrupt(), None)
    lines = [json.loads(line) for line in stream.getvalue().splitlines()]
    assert [line["error"]["type"] for line in lines] == ["ValueError", "KeyError"]
    assert CANARY not in stream.getvalue() + "".join(capfd.readouterr())
