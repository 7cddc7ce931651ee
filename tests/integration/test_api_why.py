"""`api.why` agrees with the linker and with `newsloom trace` of the same two records."""

import json
from datetime import datetime
from itertools import combinations
from typing import Any
from uuid import UUID, uuid4

import asyncpg
import pytest

from newsloom.cli.trace import compare
from newsloom.core.batch import Observation
from newsloom.core.copies import DEFAULT_COPY_CONFIG
from newsloom.core.identity import article_id
from tests.support.newsroom import fill, newsroom, reading

WIRE, HERALD, POST = (
    article_id(key)
    for key in ("kystwire.example/bridge", "metroherald.example/wire/bridge",
                "dailypost.example/bridge")
)  # fmt: skip
FERRIES, FERRIES_HERALD, FERRIES_POST = (
    article_id(key)
    for key in ("kystwire.example/noordlijn", "metroherald.example/wire/ferries",
                "dailypost.example/ferries")
)  # fmt: skip
SHORT = article_id("quietgazette.example/chess/2")


async def why(connection: asyncpg.Connection, a: UUID, b: UUID) -> dict[str, Any]:
    rows = await connection.fetch("SELECT * FROM api.why($1, $2)", a, b)
    return {
        row["question"]: (row["answer"], row["reason"], json.loads(row["evidence"] or "null"))
        for row in rows
    }


@pytest.mark.parametrize(
    ("a", "b", "copy", "story"),
    [
        (WIRE, HERALD, (True, "b-copies-a"), (True, "same-story")),
        (HERALD, WIRE, (True, "a-copies-b"), (True, "same-story")),
        (FERRIES_HERALD, FERRIES_POST, (True, "copies-of-one"), (True, "same-story")),
        (WIRE, POST, (False, "different"), (True, "same-story")),
        (WIRE, FERRIES, (False, "different"), (False, "other-story")),
        (WIRE, SHORT, (False, "too-short"), (False, "no-story")),
    ],
)
async def test_the_reason_is_named(
    reader: asyncpg.Connection,
    a: UUID,
    b: UUID,
    copy: tuple[bool, str],
    story: tuple[bool, str],
) -> None:
    answers = await why(reader, a, b)
    assert answers["same article"][:2] == (False, "other-article")
    assert answers["copy"][:2] == copy
    assert answers["same story"][:2] == story


async def test_the_figures_are_those_of_trace(
    reader: asyncpg.Connection, newsroom_now: datetime
) -> None:
    newest = {
        article_id(item.article.key): item.article
        for item in newsroom(newsroom_now)
        if isinstance(item, Observation)
    }
    stored = [
        row["article_id"]
        for row in await reader.fetch(
            "SELECT article_id FROM api.articles WHERE NOT is_mention ORDER BY article_id"
        )
        if row["article_id"] in newest
    ]
    assert len(stored) > 15
    for a, b in combinations(stored, 2):
        told = compare(newest[a], newest[b])
        answers = await why(reader, a, b)
        is_copy, reason, figures = answers["copy"]
        assert is_copy == told["copy"], (a, b)
        assert (reason == "too-short") == told["too_short_to_judge"]
        assert figures["shared_shingles"] == told["shared_shingles"]
        assert figures["jaccard"] == pytest.approx(told["jaccard"], abs=1e-3)
        assert figures["containment"] == pytest.approx(told["containment"], abs=1e-3)
        about_story = answers["same story"][2]
        assert about_story["shared_terms"] == told["shared_terms"]
        assert about_story["text_similarity"] == pytest.approx(told["text_similarity"], abs=1e-3)
        assert about_story["related"] is False
        assert about_story["days_apart"] == pytest.approx(told["days_apart"], abs=0.02)


async def test_the_thresholds_are_those_of_the_linker(reader: asyncpg.Connection) -> None:
    figures = (await why(reader, WIRE, POST))["copy"][2]
    assert figures["thresholds"] == {
        "jaccard": DEFAULT_COPY_CONFIG.jaccard,
        "containment": DEFAULT_COPY_CONFIG.containment,
    }
    assert DEFAULT_COPY_CONFIG.min_shingles == 12, "say so in newsloom.why_copy"


async def test_it_may_be_asked_of_what_is_not_there(reader: asyncpg.Connection) -> None:
    assert await why(reader, WIRE, uuid4()) == {"same article": (None, "unknown", None)}
    assert await why(reader, uuid4(), uuid4()) == {"same article": (None, "unknown", None)}
    mention = article_id("uni.example/cables")
    answers = await why(reader, WIRE, mention)
    assert answers["same article"][1] == "other-article"
    assert answers["copy"][1] in ("not-looked-at", "too-short")


async def test_before_the_linker_came_nothing_is_known(
    database: str, newsroom_now: datetime
) -> None:
    await fill(database, newsroom_now, link=False)
    async with reading(database) as connection:
        answers = await why(connection, WIRE, HERALD)
    assert answers["copy"][:2] == (None, "not-looked-at")
    assert answers["same story"][:2] == (None, "not-looked-at")
