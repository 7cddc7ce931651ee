"""newsloom: parsed news articles, from record files over Kafka into Postgres."""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from newsloom.core.record import Record
    from newsloom.errors import NotConfirmed, Rejected, Unavailable
    from newsloom.ports import Receipt
    from newsloom.publishing import ArticlePublisher

__all__ = ["ArticlePublisher", "NotConfirmed", "Receipt", "Record", "Rejected", "Unavailable"]

# Imported when asked for: `newsloom --help` must not wait for Kafka's client.
_PLACES = {
    "ArticlePublisher": "newsloom.publishing",
    "NotConfirmed": "newsloom.errors",
    "Receipt": "newsloom.ports",
    "Record": "newsloom.core.record",
    "Rejected": "newsloom.errors",
    "Unavailable": "newsloom.errors",
}


def __getattr__(name: str) -> Any:
    if name not in _PLACES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from importlib import import_module  # noqa: PLC0415

    return getattr(import_module(_PLACES[name]), name)
