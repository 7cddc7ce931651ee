"""Articles are decoded raw; what is kept of them is enriched, the rest costs nothing."""

import json
from collections.abc import Iterable, Mapping
from typing import Any

import pytest

from newsloom.core import fold as fold_module
from newsloom.core.article import Article
from newsloom.core.batch import Item, Observation, StoredState
from newsloom.core.enrichment import enrich_alone
from newsloom.core.fold import fold
from newsloom.decoding import decode_deliveries
from newsloom.ports import Delivery

RECORD: Mapping[str, Any] = {
    "title": "Fish &amp; chips",
    "body": "One\u00a0two three.",
    "webUrl": "https://www.example.com/2020/fish",
    "related": [{"title": "Salt &amp; vinegar", "webUrl": "https://www.example.com/2020/salt"}],
}


def decoded(*records: Mapping[str, Any]) -> list[Item]:
    deliveries = [
        Delivery("t", 0, n, 1_700_000_000_000 + n, None, json.dumps(record).encode(), ())
        for n, record in enumerate(records)
    ]
    return list(decode_deliveries(deliveries).items)


def test_what_a_batch_keeps_is_enriched_its_mentions_and_superseded_contents_too() -> None:
    revised = {**RECORD, "title": "Fish &amp; peas"}
    writes = fold(decoded(RECORD, revised), StoredState({}, {}))
    current = {c.content.article.title: c.content.article for c in writes.new_contents}
    assert set(current) == {"Fish & peas", "Salt & vinegar"}
    assert current["Fish & peas"].word_count == 3
    assert [a.content.article.title for a in writes.archived] == ["Fish & chips"]


def test_what_a_batch_does_not_keep_is_not_enriched(monkeypatch: pytest.MonkeyPatch) -> None:
    enriched: list[str] = []

    def counting(articles: Iterable[Article]) -> list[Article]:
        raw = list(articles)
        enriched.extend(article.title for article in raw)
        return enrich_alone(raw)

    monkeypatch.setattr(fold_module, "enrich_alone", counting)
    again = {**RECORD, "heat": 5, "secured": "x;y"}
    fold(decoded(RECORD, again, RECORD), StoredState({}, {}))
    assert sorted(enriched) == ["Fish &amp; chips", "Salt &amp; vinegar"]


def test_field_hashes_are_equal_whether_or_not_they_were_asked_for() -> None:
    one, two = decoded(RECORD, RECORD)
    assert isinstance(one, Observation) and isinstance(two, Observation)  # noqa: PT018
    hashes = one.article.field_hashes
    assert dict(hashes) == hashes == two.article.field_hashes
    assert set(hashes) == {"title", "body", "web_url", "related"}
