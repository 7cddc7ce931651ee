"""Bad input is never lost and never fatal: each gets its reason, and its neighbours get through."""

import json
import os
from pathlib import Path
from typing import Any

import pytest

from tests.support.blackbox import Line, send_raw
from tests.support.generator import Record, front_matter

pytestmark = pytest.mark.timeout(180)


def good(number: int) -> Record:
    return {
        "title": f"Good news {number}",
        "originalUrl": f"https://summitledger.example/good/{number}",
        "publishedDateTime": "2024-03-01T08:00:00Z",
        "type": "article",
    }


BOMB = "---\na: &a [x, x, x, x, x, x, x, x, x]\n" + "".join(
    f"{name}: &{name} [{', '.join(['*' + before] * 9)}]\n"
    for before, name in zip("abcdefgh", "bcdefghi", strict=True)
)

# File name -> (bytes, the reasons that are right for it).
BAD_FILES: dict[str, tuple[bytes, set[str]]] = {
    "b-not-yaml.md": (b"---\ntitle: [unclosed\n  : {\n---\n", {"parse.yaml"}),
    "d-no-front-matter.md": (b"Just words, no front matter.\n", {"parse.front_matter"}),
    "f-bomb.md": (f"{BOMB}---\n".encode(), {"parse.alias"}),
    "h-latin1.md": (
        "---\ntitle: Caf\u00e9\noriginalUrl: https://a.example/1\n---\n".encode("latin-1"),
        {"decode.utf8"},
    ),
    "j-empty.md": (b"", {"decode.empty", "parse.front_matter"}),
    "l-tag.md": (b"---\ntitle: !!python/name:os.system x\n---\n", {"parse.tag"}),
    "n-twice.md": (b"---\ntitle: a\ntitle: b\n---\n", {"parse.duplicate_key"}),
    "p-person.md": (b"---\nname: Robin\nbio: Writes.\n---\n", {"not-an-article"}),
    "r-date.md": (
        b"---\ntitle: t\nwebUrl: https://a.example/2\npublishedDateTime: 2024-13-45\n---\n",
        {"time.invalid"},
    ),
    "t-script.md": (b"---\ntitle: t\noriginalUrl: 'javascript:alert(1)'\n---\n", {"url.scheme"}),
}
GOOD_FILES = 12
HUGE = "v-huge.md"
HUGE_BYTES = 50_000_000


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Return a folder where every bad file stands between two good ones."""
    made = tmp_path / "in"
    made.mkdir()
    for number, name in enumerate("acegikmoqsuw"[:GOOD_FILES]):
        text = front_matter(good(number))
        (made / f"{name}-good.md").write_text(text, encoding="utf-8")
    for file, (content, _) in BAD_FILES.items():
        (made / file).write_bytes(content)
    head = front_matter(good(99)).encode()
    (made / HUGE).write_bytes(head + b"word " * (HUGE_BYTES // 5))
    return made


def verdicts_in(report: Path) -> dict[str, dict[str, Any]]:
    """Return the report's lines by file name."""
    lines = [json.loads(text) for text in report.read_text(encoding="utf-8").splitlines()]
    return {Path(line["path"]).name: line for line in lines}


async def test_each_bad_file_gets_a_reason_and_its_neighbours_get_through(
    line: Line, folder: Path, tmp_path: Path
) -> None:
    report = tmp_path / "report.ndjson"
    done = await line.run("publish", folder, "--format", "json", "--report", report, patience=90)
    assert done.code == 1, done.told()
    verdicts = verdicts_in(report)
    assert len(verdicts) == len(BAD_FILES) + GOOD_FILES + 1
    for name, (_, reasons) in BAD_FILES.items():
        assert {error["reason"] for error in verdicts[name]["errors"]} & reasons, verdicts[name]
    (too_big,) = verdicts[HUGE]["errors"]
    assert too_big["reason"] in {"file.size", "schema.length", "kafka.oversize"}

    await line.ingest()
    titles = await line.fetch("SELECT title FROM api.articles ORDER BY title")
    assert {row["title"] for row in titles} == {f"Good news {n}" for n in range(GOOD_FILES)}
    assert (await line.outcomes())["created"] == GOOD_FILES


# What nobody would publish -> the reasons that are right for it.
BAD_MESSAGES: list[tuple[bytes | None, set[str]]] = [
    (b"this is no JSON", {"parse.json"}),
    (None, {"kafka.tombstone"}),
    (b"", {"decode.empty"}),
    (b'{"title": "\xff\xfe"}', {"decode.utf8"}),
    (b'"a text"', {"schema.not_object"}),
    (b"[1, 2]", {"schema.not_object"}),
    (b'{"title": "t", "originalUrl": "https://a.example/3"', {"parse.json"}),
    (b"[" * 500 + b"]" * 500, {"parse.depth"}),
    (b"[" * 50_000 + b"]" * 50_000, {"parse.depth", "parse.node_limit"}),
    (b'{"title": "t", "originalUrl": "https://a.example/4", "heat": 1e999}', {"parse.non_finite"}),
    (b'{"name": "Robin", "bio": "Writes."}', {"not-an-article"}),
    (os.urandom(2000), {"decode.utf8", "parse.json"}),
]


async def test_each_bad_message_becomes_a_dead_letter_and_its_neighbours_get_through(
    line: Line,
) -> None:
    values: list[bytes | None] = [json.dumps(good(0)).encode()]
    for number, (value, _) in enumerate(BAD_MESSAGES):
        values += [value, json.dumps(good(number + 1)).encode()]
    sent_at = 1_709_280_000_000
    await send_raw(line.bootstrap, line.topic, values, timestamp_ms=sent_at)
    await line.ingest()

    letters = await line.fetch("SELECT * FROM api.dead_letters ORDER BY kafka_offset")
    assert [row["kafka_offset"] for row in letters] == [1 + 2 * n for n in range(len(BAD_MESSAGES))]
    for row, (_, reasons) in zip(letters, BAD_MESSAGES, strict=True):
        assert row["reason"] in reasons, row
    outcomes = await line.outcomes()
    assert (outcomes["created"], outcomes["rejected"]) == (len(BAD_MESSAGES) + 1, len(BAD_MESSAGES))
    # Without headers the Kafka timestamp is when it was observed.
    seen = await line.fetch(
        "SELECT DISTINCT extract(epoch FROM observed_at)::float8 FROM api.articles"
    )
    assert [row[0] for row in seen] == [sent_at / 1000]

    kept = await line.fetch("SELECT * FROM newsloom.dead_letters ORDER BY kafka_offset")
    assert [row["value"] for row in kept] == [value for value, _ in BAD_MESSAGES]
