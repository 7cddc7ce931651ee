"""`newsloom trace`."""

from collections.abc import Iterator
from dataclasses import asdict, fields
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

import click

from newsloom.cli.main import ExitCode
from newsloom.cli.support import Format, emit, format_option

if TYPE_CHECKING:
    from newsloom.core.article import Article
    from newsloom.core.documents import Document

_SHOWN_CHARACTERS = 200


@click.command()
@click.argument("file")
@click.argument("other", required=False)
@format_option
def trace(file: str, other: str | None, output: Format) -> ExitCode:
    """Show what becomes of one record; of two, also what they are to each other.

    Needs no Kafka and no Postgres. `secured` is never shown.
    """
    sides = [_traced(path) for path in (file, other) if path is not None]
    for side in sides:
        _show(side, output)
    articles = [side["article"] for side in sides if "article" in side]
    if len(articles) < len(sides):
        return ExitCode.RECORDS_REJECTED
    if len(articles) > 1:
        verdict = compare(*articles)
        if output == "json":
            emit(verdict)
        else:
            click.echo("\nboth")
            _show_rows(verdict)
    return ExitCode.OK


def compare(left: "Article", right: "Article") -> dict[str, Any]:
    """Say what two articles are to each other, with the evidence for each of the three answers.

    As if nothing else were known: the linker also knows which words and passages are common.
    """
    shared = _keys(left) & _keys(right)
    names = sorted(left.field_hashes.keys() | right.field_hashes.keys())
    changed = [n for n in names if left.field_hashes.get(n) != right.field_hashes.get(n)]
    return {
        "same_article": bool(shared),
        "shared_keys": sorted(shared),
        "same_content": left.content_hash == right.content_hash,
        "changed_fields": changed,
        "same_signals": left.signals == right.signals,
        **_copy_verdict(left, right),
        **_story_verdict(left, right),
    }


def _copy_verdict(left: "Article", right: "Article") -> dict[str, Any]:
    from newsloom.core.copies import explain_copy, is_too_short  # noqa: PLC0415 - numpy
    from newsloom.core.folding import fold  # noqa: PLC0415
    from newsloom.core.signatures import signature  # noqa: PLC0415

    one, two = (signature(fold(a.title, a.excerpt, a.body)) for a in (left, right))
    verdict = explain_copy(one, two)
    return {
        "copy": verdict.is_copy,
        "copy_reason": verdict.reason.value,
        "too_short_to_judge": is_too_short(one) or is_too_short(two),
        "jaccard": round(verdict.jaccard, 4),
        "containment": round(verdict.containment, 4),
        "shared_shingles": verdict.shared,
        "numbers": f"{verdict.numbers_shared} agree, {verdict.numbers_against} differ",
    }


def _story_verdict(left: "Article", right: "Article") -> dict[str, Any]:
    from newsloom.core.stories import explain_story  # noqa: PLC0415 - numpy
    from newsloom.core.text_features import features  # noqa: PLC0415

    one, two = (features(a.title, a.excerpt, a.body) for a in (left, right))
    days = None
    if left.published_at is not None and right.published_at is not None:
        days = abs(left.published_at - right.published_at).total_seconds() / 86_400
    named = any(
        _keys(mention) & _keys(other)
        for article, other in ((left, right), (right, left))
        for mention in article.related
    )
    verdict = explain_story(one, two, days_apart=days, related=named)
    return {
        "same_story": verdict.is_same_story,
        "story_reason": verdict.reason.value,
        "story_score": round(verdict.score, 4),
        "story_threshold": round(verdict.threshold, 4),
        "text_similarity": round(verdict.cosine, 4),
        "time_cost": round(verdict.time_cost, 4),
        "related_gain": round(verdict.related_gain, 4),
        "shared_terms": verdict.shared_terms,
        "days_apart": None if days is None else round(days, 2),
    }


def _keys(article: "Article") -> set[str]:
    return {url.canonical.key for url in article.urls}


def _traced(path: str) -> dict[str, Any]:
    from newsloom.core.documents import prepare, read_document  # noqa: PLC0415 - heavy
    from newsloom.core.enrichment import enrich  # noqa: PLC0415
    from newsloom.core.mapping import article_from_record  # noqa: PLC0415
    from newsloom.core.problems import problems_of  # noqa: PLC0415
    from newsloom.errors import Rejected  # noqa: PLC0415

    document = _first_document(path)
    side: dict[str, Any] = {"path": path}
    try:
        parsed = read_document(document).parsed
        article = article_from_record(parsed.record)
    except Rejected as rejected:
        errors = [
            {"path": p.path, "reason": p.reason.value, "detail": p.message}
            for p in problems_of(rejected)
        ]
        return side | {"outcome": "refused", "reason": rejected.reason.value, "errors": errors}
    event = prepare(document).event
    side |= {"outcome": "accepted", "article": enrich(article), "parsed": parsed}
    return side | {"event": event}


def _first_document(path: str) -> "Document":
    from newsloom.adapters.record_files import read_documents  # noqa: PLC0415 - heavy

    return next(iter(read_documents(path, now=lambda: datetime.now(UTC))))


def _show(side: dict[str, Any], output: Format) -> None:
    rows = dict(_rows(side))
    if output == "json":
        emit({"path": side["path"], **rows})
    else:
        click.echo(side["path"])
        _show_rows(rows)


def _show_rows(rows: dict[str, Any]) -> None:
    for name, value in rows.items():
        if isinstance(value, list):
            click.echo(f"  {name:<20}{len(value)}" if value else f"  {name:<20}none")
            for item in value:
                click.echo(f"    {_line(item)}")
        else:
            click.echo(f"  {name:<20}{_line(value)}")


def _line(value: Any) -> str:
    if isinstance(value, dict):
        value = ", ".join(f"{key}: {item}" for key, item in value.items() if item is not None)
    text = "".join(c if c.isprintable() else " " for c in str(value))
    return text if len(text) <= _SHOWN_CHARACTERS else text[: _SHOWN_CHARACTERS - 3] + "..."


def _rows(side: dict[str, Any]) -> Iterator[tuple[str, Any]]:
    """Yield what is worth seeing, in the order of the flow."""
    from newsloom.core.identity import article_id  # noqa: PLC0415 - loaded before

    yield "outcome", side["outcome"]
    if "article" not in side:
        yield "reason", side["reason"]
        yield "errors", side["errors"]
        return
    article, parsed, event = side["article"], side["parsed"], side["event"]
    yield "article_key", article.key
    yield "article_id", str(article_id(article.key))
    yield "canonical_url", article.canonical_url
    yield (
        "urls",
        [{"kind": u.kind.value, "given": u.given, "key": u.canonical.key} for u in article.urls],
    )
    yield "content_hash", article.content_hash.hex()
    yield (
        "field_hashes",
        [f"{name}: {digest}" for name, digest in sorted(article.field_hashes.items())],
    )
    yield "event_id", event.event_id
    yield "event_bytes", len(event.value)
    yield "left_out", list(parsed.dropped)
    yield "unknown_fields", sorted(article.extra)
    yield from _article_rows(article)


def _article_rows(article: "Article") -> Iterator[tuple[str, Any]]:
    hidden = {
        "urls",
        "content_hash",
        "field_hashes",
        "secured",
        "related",
        "extra",
        "signals",
        "is_mention",
    }
    for spec in fields(article):
        value = getattr(article, spec.name)
        if spec.name in hidden or value is None or value in ((), {}):
            continue
        if spec.name == "provider":
            value = {"name": value.name, "domain": value.domain}
        elif spec.name == "images":
            value = [asdict(image) for image in value]
        elif isinstance(value, tuple):
            value = [str(item) for item in value]
        elif isinstance(value, datetime):
            value = value.isoformat()
        yield spec.name, value
    yield "signals", article.signals._asdict()
    yield "secured", "kept, not shown" if article.secured else "none"
    yield "related", [mention.key for mention in article.related]
