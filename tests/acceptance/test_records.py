"""A folder of records: which are accepted, which are refused and why, what the fullest one becomes.

With NEWSLOOM_TEST_DATA set these are real records; without, equivalents made up here.
"""

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from tests.support.blackbox import Line
from tests.support.compare import plain
from tests.support.generator import Record, Stream, front_matter
from tests.support.oracle import article_id, article_key, fold, keys_of, record_of_text, refusal

pytestmark = pytest.mark.timeout(180)

SEED = 40
ACCEPTED, REFUSED = 35, 5
MENTIONS = 13


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder with 40 records; `full` of them has everything a record can have."""
    data = os.environ.get("NEWSLOOM_TEST_DATA")
    if data:
        return Path(data) / "records"
    made = tmp_path_factory.mktemp("records")
    (made / "full.md").write_text(front_matter(full_record()), encoding="utf-8")
    news = [m.record for m in Stream(SEED, deliveries=400, rejected=0) if m.kind == "new"]
    for number, record in enumerate(news[: ACCEPTED - 1]):
        (made / f"news-{number}.md").write_text(front_matter(record), encoding="utf-8")
    for number in range(2):
        person: Record = {"name": f"Robin {number}", "bio": "Writes.", "type": "profile"}
        (made / f"people-{number}.md").write_text(front_matter(person), encoding="utf-8")
    for number in range(3):
        collection: Record = {"title": f"Path {number}", "type": "collection", "items": ["a/b"]}
        (made / f"collection-{number}.md").write_text(front_matter(collection), encoding="utf-8")
    return made


def full_record() -> Record:
    """Return a record with everything: 13 related entries, images, topics, unknown heat."""
    related: list[Record] = [
        {
            "title": f"What others wrote, {number}",
            "excerpt": "Words of another outlet.",
            "publishedDateTime": "2024-02-01T10:00:00Z",
            "webUrl": f"https://outlet{number}.example/story?id={number}",
            "type": "article",
            "provider": {"name": f"Outlet {number}", "domain": f"outlet{number}.example"},
            "quality": 20 + number,
        }
        for number in range(MENTIONS)
    ]
    return {
        "category": "news",
        "title": "Bees move into the old library's roof",
        "excerpt": "Nobody had asked them.",
        "publishedDateTime": "2024-02-01T09:00:00Z",
        "originalUrl": "https://meadowgazette.example/bees-in-the-roof",
        "webUrl": "https://meadowgazette.example/bees-in-the-roof",
        "type": "article",
        "quality": 39,
        "heat": -1,
        "published": False,
        "provider": {"name": "Meadow Gazette", "domain": "meadowgazette.example"},
        "topics": ["Nature", "Culture"],
        "images": [
            {
                "url": "https://img.meadowgazette.example/roof.jpg",
                "width": 1280,
                "height": 960,
                "isCached": True,
            }
        ],
        "related": related,
        "secured": "bm90IHJlYWxseSBlbmNyeXB0ZWQ=;aW5pdGlhbCB2ZWN0b3I=",
    }


async def test_articles_are_accepted_and_the_rest_is_refused_with_what_it_misses(
    line: Line, folder: Path, tmp_path: Path
) -> None:
    report = tmp_path / "report.ndjson"
    done = await line.run("publish", folder, "--format", "json", "--report", report)
    assert done.code == 1, done.told()
    verdicts = {
        Path(str(verdict["path"])).name: verdict
        for verdict in map(json.loads, report.read_text(encoding="utf-8").splitlines())
    }
    records = records_in(folder)
    assert verdicts.keys() == records.keys()
    refused = {name for name, record in records.items() if refusal(record) is not None}
    assert (len(records) - len(refused), len(refused)) == (ACCEPTED, REFUSED)
    for name, record in records.items():
        assert_verdict(verdicts[name], record)
    assert await line.log_end() == ACCEPTED


def records_in(folder: Path) -> dict[str, Record]:
    """Read all records of the folder, by file name."""
    return {path.name: record_of_text(path.read_text("utf-8")) for path in folder.glob("*.md")}


def assert_verdict(verdict: Mapping[str, Any], record: Record) -> None:
    """Check one line of the report: a receipt, or the reason with every missing field."""
    wanted = refusal(record)
    if wanted is None:
        assert not verdict.get("errors")
        assert verdict["receipt"]
        return
    assert wanted[0] == "not-an-article"
    (error,) = verdict["errors"]
    assert error["reason"] == "not-an-article"
    assert all(name in error["detail"].lower() for name in wanted[1])


async def test_the_fullest_record_keeps_everything(line: Line, folder: Path) -> None:
    records = records_in(folder)
    name = next(n for n in ("full.md", "alibaba-face-recognition.md") if n in records)
    record = records[name]
    done = await line.run("publish", folder / name)
    assert done.code == 0, done.told()
    await line.ingest()

    mine = article_id(keys_of(record)[0])
    articles = {row["article_id"]: row for row in await line.fetch("SELECT * FROM api.articles")}
    assert len(articles) == 1 + MENTIONS
    assert [i for i, row in articles.items() if not row["is_mention"]] == [mine]
    article = articles[mine]
    assert article["title"] == record["title"]
    assert article["heat"] is None
    assert article["quality"] == int(fold(record["quality"]))
    assert article["is_published"] is False
    assert sorted(article["topics"]) == sorted(record["topics"])  # type: ignore[call-overload]

    entries: list[Record] = record["related"]  # type: ignore[assignment]
    edges = await line.fetch(
        "SELECT related_article_id FROM api.related_articles WHERE article_id = $1"
        " ORDER BY position",
        mine,
    )
    targets = [article_id(keys_of(entry)[0]) for entry in entries]
    assert [row["related_article_id"] for row in edges] == targets
    assert [fold(articles[target]["title"]) for target in targets] == [
        fold(entry["title"]) for entry in entries
    ]
    for entry, target in zip(entries, targets, strict=True):
        await assert_urls(line, target, entry)
    await assert_urls(line, mine, record)

    images = await line.fetch(
        "SELECT url, width, height FROM api.article_images WHERE article_id = $1 ORDER BY position",
        mine,
    )
    given: list[Record] = record["images"]  # type: ignore[assignment]
    assert [tuple(map(str, row.values())) for row in images] == [
        tuple(fold(image[name]) for name in ("url", "width", "height")) for image in given
    ]
    secured = await line.fetch("SELECT secured FROM newsloom.articles WHERE article_id = $1", mine)
    assert secured[0]["secured"] == record["secured"]


async def assert_urls(line: Line, some_id: object, record: Record) -> None:
    """Every URL of the record finds the article (AMP addresses mean another of them)."""
    rows = await line.fetch(
        "SELECT canonical_url FROM api.article_urls WHERE article_id = $1", some_id
    )
    keys = [article_key(row["canonical_url"]) for row in rows]
    assert plain(keys_of(record)) <= set(keys)
