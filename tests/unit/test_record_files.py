import gzip
import io
import json
import multiprocessing
import os
import sys
from collections.abc import Callable, Iterator
from contextlib import aclosing
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from newsloom.adapters import record_files
from newsloom.adapters.parse_workers import ParseWorker, prepare_all
from newsloom.adapters.record_files import (
    MAX_FILE_BYTES,
    MAX_LINE_BYTES,
    NothingToReadError,
    file_state,
    read_chunks,
    read_documents,
    record_paths,
)
from newsloom.core.documents import Document, Form, Prepared, Rules, prepare
from newsloom.errors import RejectReason

NOW = datetime(2024, 2, 3, 12, tzinfo=UTC)
GOOD = "---\ntitle: x\nwebUrl: https://a.example/1\n---\n"
RECORD = {"title": "x", "webUrl": "https://a.example/1"}


def now() -> datetime:
    return NOW


def documents(path: Path | str) -> list[Document]:
    return list(read_documents(str(path), now=now))


def only_reason(path: Path) -> RejectReason:
    (document,) = documents(path)
    rejected = prepare(document).rejected
    assert rejected is not None
    return rejected.reason


def write(path: Path, content: str | bytes = GOOD) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    return path


def test_folders_are_searched_in_order_for_record_files_only(tmp_path: Path) -> None:
    for name in ("b/2.md", "b/1.yaml", "a.txt", "c.ndjson.gz", "d.ndjson", "x.pdf", ".h.md"):
        write(tmp_path / name)
    found = [Path(path).relative_to(tmp_path).as_posix() for path in record_paths([str(tmp_path)])]
    assert found == ["a.txt", "c.ndjson.gz", "d.ndjson", "b/1.yaml", "b/2.md"]


def test_globs_and_files_keep_the_order_they_were_given_in(tmp_path: Path) -> None:
    for name in ("b.md", "a.md", "odd.name"):
        write(tmp_path / name)
    found = record_paths([str(tmp_path / "odd.name"), "-", str(tmp_path / "*.md")])
    assert [Path(path).name for path in found] == ["odd.name", "-", "a.md", "b.md"]


def test_a_pattern_that_names_nothing_is_told_before_anything_is_read(tmp_path: Path) -> None:
    write(tmp_path / "a.md")
    with pytest.raises(NothingToReadError, match=r"none\.md"):
        record_paths([str(tmp_path / "a.md"), str(tmp_path / "none.md")])


def test_a_front_matter_file_was_observed_when_it_was_last_changed(tmp_path: Path) -> None:
    path = write(tmp_path / "a.md")
    os.utime(path, (1_700_000_000, 1_700_000_000))
    (document,) = documents(path)
    assert document.observed_at == datetime.fromtimestamp(1_700_000_000, UTC)
    event = prepare(document).event
    assert event is not None
    assert dict(event.headers)["ce_time"] == b"2023-11-14T22:13:20Z"


@pytest.mark.parametrize("packed", [False, True])
def test_each_line_is_a_document_with_its_number(tmp_path: Path, packed: bool) -> None:  # noqa: FBT001
    lines = [json.dumps(RECORD), "", json.dumps({"text": GOOD, "path": "p.md"}), "{", "[1]"]
    data = "\n".join(lines).encode()
    path = write(tmp_path / f"a.ndjson{'.gz' * packed}", gzip.compress(data) if packed else data)
    prepared = [prepare(document) for document in documents(path)]
    assert [one.line for one in prepared] == [1, 3, 4, 5]
    assert [one.name for one in prepared] == [None, "p.md", None, None]
    assert [one.rejected.reason if one.rejected else None for one in prepared] == [
        None,
        None,
        RejectReason.PARSE_JSON,
        RejectReason.SCHEMA_NOT_OBJECT,
    ]


@pytest.mark.parametrize(
    ("line", "time"),
    [
        (
            {"text": GOOD, "observed_at": "2024-01-01T00:00:00.5+01:00"},
            "2023-12-31T23:00:00.500000Z",
        ),
        ({"text": GOOD, "committed_at": 1_700_000_000}, "2023-11-14T22:13:20Z"),
        (RECORD | {"observed_at": "2024-01-01T00:00:00Z"}, "2024-01-01T00:00:00Z"),
        (RECORD, "2024-02-03T12:00:00Z"),
    ],
)
def test_a_line_may_say_when_it_was_observed(line: dict[str, Any], time: str) -> None:
    document = Document("f", Form.JSON_LINE, json.dumps(line).encode(), NOW, 1)
    event = prepare(document).event
    assert event is not None
    assert dict(event.headers)["ce_time"].decode() == time
    assert json.loads(event.value) == RECORD


@pytest.mark.parametrize(
    "values",
    [
        {"observed_at": "yesterday"},
        {"observed_at": 5},
        {"observed_at": "2024-01-01T00:00:00"},
        {"observed_at": "9999-01-01T00:00:00Z"},
        {"committed_at": "5"},
        {"committed_at": True},
        {"committed_at": 1e300},
    ],
)
def test_a_time_that_is_none_refuses_its_line(values: dict[str, Any]) -> None:
    document = Document("f", Form.JSON_LINE, json.dumps(RECORD | values).encode(), NOW, 1)
    rejected = prepare(document).rejected
    assert rejected is not None
    assert rejected.reason is RejectReason.TIME_INVALID


def test_a_backfill_needs_a_time_of_its_own_in_every_line() -> None:
    rules = Rules(own_time=True)
    line = json.dumps(RECORD).encode()
    timed = json.dumps(RECORD | {"observed_at": "2024-01-01T00:00:00Z"}).encode()
    assert prepare(Document("f", Form.JSON_LINE, line, NOW, 1), rules).rejected is not None
    assert prepare(Document("f", Form.JSON_LINE, timed, NOW, 1), rules).event is not None
    assert prepare(Document("f", Form.FRONT_MATTER, GOOD.encode(), NOW), rules).rejected


def test_standard_input_is_ndjson(monkeypatch: pytest.MonkeyPatch) -> None:
    text = io.TextIOWrapper(io.BytesIO(json.dumps(RECORD).encode() + b"\n"))
    monkeypatch.setattr(sys, "stdin", text)
    (document,) = documents("-")
    assert (document.path, document.line, document.observed_at) == ("<stdin>", 1, NOW)


@pytest.mark.parametrize(
    ("name", "content", "reason"),
    [
        ("a.md", b"", RejectReason.DECODE_EMPTY),
        ("a.ndjson", b"\n \n", RejectReason.DECODE_EMPTY),
        ("a.md", "---\ntitle: é\n---\n".encode("latin-1"), RejectReason.DECODE_UTF8),
        ("a.md", GOOD.encode("utf-16"), RejectReason.DECODE_UTF8),
        ("a.md", b"x" * (MAX_FILE_BYTES + 1), RejectReason.FILE_SIZE),
        ("a.md", GOOD.encode() + b"x" * 2_000_000, RejectReason.SCHEMA_LENGTH),
        ("a.ndjson.gz", b"no gzip", RejectReason.FILE_UNREADABLE),
        ("a.ndjson.gz", b"", RejectReason.DECODE_EMPTY),
    ],
    ids=lambda value: repr(value)[:20],
)
def test_a_file_that_is_no_record_gives_its_reason(
    tmp_path: Path, name: str, content: bytes, reason: RejectReason
) -> None:
    assert only_reason(write(tmp_path / name, content)) is reason


def test_links_pipes_devices_and_missing_files_are_not_read(tmp_path: Path) -> None:
    target = write(tmp_path / "target.md")
    (tmp_path / "link.md").symlink_to(target)
    os.mkfifo(tmp_path / "pipe.md")
    for path in (tmp_path / "link.md", tmp_path / "pipe.md", Path("/dev/zero"), tmp_path / "no.md"):
        assert only_reason(path) is RejectReason.FILE_UNREADABLE
        assert path == Path("/dev/zero") or file_state(str(path)) is None


def test_a_cut_off_gzip_file_gives_what_it_had_and_then_a_reason(tmp_path: Path) -> None:
    lines = b"".join(json.dumps(RECORD | {"body": str(n)}).encode() + b"\n" for n in range(5000))
    path = write(tmp_path / "a.ndjson.gz", gzip.compress(lines)[:-20_00])
    prepared = [prepare(document) for document in documents(path)]
    assert prepared[0].event is not None
    assert prepared[-1].rejected is not None
    assert prepared[-1].rejected.reason is RejectReason.FILE_UNREADABLE


def test_an_overlong_line_is_refused_and_the_next_one_read(tmp_path: Path) -> None:
    data = b"x" * (MAX_LINE_BYTES + 10) + b"\n" + json.dumps(RECORD).encode()
    first, second = (
        prepare(one) for one in documents(write(tmp_path / "a.ndjson.gz", gzip.compress(data)))
    )
    assert first.rejected is not None
    assert first.rejected.reason is RejectReason.FILE_SIZE
    assert (second.line, second.rejected) == (2, None)


def test_a_line_without_an_end_is_given_up(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(record_files, "MAX_LINE_BYTES", 1000)
    monkeypatch.setattr(record_files, "_MAX_SKIPPED_BYTES", 4000)
    bomb = gzip.compress(b"\0" * 1_000_000)
    refused = [document.refused for document in documents(write(tmp_path / "a.ndjson.gz", bomb))]
    assert [one.reason for one in refused if one] == [RejectReason.FILE_SIZE] * 2


def test_a_name_with_a_line_break_is_shown_on_one_line(tmp_path: Path) -> None:
    (document,) = documents(write(tmp_path / "a\n\x1b[31m\udcff.md"))
    assert document.path.isprintable()
    assert prepare(document).event is not None


def test_chunks_are_bounded_in_number_and_size(tmp_path: Path) -> None:
    write(tmp_path / "many.ndjson", (json.dumps(RECORD) + "\n") * 150)
    write(tmp_path / "z-large.md", GOOD + "x" * 900_000)
    chunks = list(read_chunks(record_paths([str(tmp_path)]), now=now, documents=64))
    assert [len(chunk) for chunk in chunks] == [64, 64, 23]
    write(tmp_path / "z-larger.md", GOOD)
    chunks = list(read_chunks(record_paths([str(tmp_path)]), now=now))
    assert [len(chunk) for chunk in chunks] == [151, 1]


# -- parse workers ---------------------------------------------------------------------------------


def lines(count: int) -> list[Document]:
    return [
        Document("f", Form.JSON_LINE, json.dumps(RECORD | {"title": f"t{n}"}).encode(), NOW, n)
        for n in range(1, count + 1)
    ]


def in_chunks(found: list[Document], size: int = 50) -> Iterator[list[Document]]:
    for start in range(0, len(found), size):
        yield found[start : start + size]


def misbehave(document: Document, rules: Rules) -> Prepared:
    """Hang or die where the document says so; runs in the worker process."""
    if b"hang" in document.data:
        while True:
            pass
    if b"die" in document.data:
        os._exit(9)
    return prepare(document, rules)


@pytest.fixture
def make_worker() -> Iterator[Callable[[], ParseWorker]]:
    made: list[ParseWorker] = []

    def make() -> ParseWorker:
        made.append(ParseWorker(Rules(), 0.5, misbehave))
        return made[-1]

    yield make
    for worker in made:
        worker.close()


@pytest.mark.parametrize("trouble", ["hang", "die"])
def test_the_culprit_is_timed_out_and_its_neighbours_are_parsed(
    make_worker: Callable[[], ParseWorker], trouble: str
) -> None:
    worker = make_worker()
    assert worker.parse(lines(2))[1].event is not None  # warm, so that the short limit applies
    found = lines(4)
    found[2] = Document("f", Form.JSON_LINE, trouble.encode(), NOW, 3)
    prepared = worker.parse(found)
    assert [one.line for one in prepared] == [1, 2, 3, 4]
    assert [one.rejected.reason if one.rejected else None for one in prepared] == [
        None,
        None,
        RejectReason.PARSE_TIMEOUT,
        None,
    ]


async def test_much_is_parsed_in_workers_in_order() -> None:
    found = lines(700)
    seen = [
        one.line
        async for chunk in prepare_all(in_chunks(found), Rules(), timeout_seconds=30, workers=2)
        for one in chunk
        if one.event is not None
    ]
    assert seen == list(range(1, 701))


async def test_stopping_early_ends_the_workers_and_stops_reading() -> None:
    read = 0

    def endless() -> Iterator[list[Document]]:
        nonlocal read
        while True:
            read += 1
            yield lines(64)

    prepared = prepare_all(endless(), Rules(), timeout_seconds=30, workers=1)
    async with aclosing(prepared):
        for _ in range(8):  # the first ones come before there is any worker
            await anext(prepared)
    assert read < 20
    assert [child.name for child in multiprocessing.active_children()] == []
