import pickle
from datetime import UTC, datetime

import pytest

from newsloom.core.documents import Document, Form, prepare
from newsloom.errors import Rejected, RejectReason

NOON = datetime(2024, 2, 3, 12, tzinfo=UTC)
LINE = b'{"title": "News", "webUrl": "https://a.example/1", "path": "one", "heat": "x", "more": 1}'
ENVELOPED = LINE.replace(b"}", b', "observed_at": "2024-01-01T00:00:00Z"}')


@pytest.mark.parametrize(
    "document",
    [
        Document("a.ndjson", Form.JSON_LINE, LINE, NOON, 7),
        Document("a.ndjson", Form.JSON_LINE, ENVELOPED, NOON, 8),
        Document("a.md", Form.FRONT_MATTER, b"no front matter", NOON),
        Document("b.md", Form.YAML, b"", NOON, 0, Rejected(RejectReason.FILE_SIZE, "large")),
    ],
)
def test_what_travels_between_processes_arrives_whole(document: Document) -> None:
    def seen(rejected: Rejected | None) -> object:
        return rejected and (type(rejected), rejected.reason, rejected.detail)

    prepared = prepare(document)
    again = pickle.loads(pickle.dumps(document))  # noqa: S301 - our own
    arrived = pickle.loads(pickle.dumps(prepared))  # noqa: S301 - our own
    for before, after in ((document, again), (prepared, arrived)):
        assert type(after) is type(before)
        for name in before.__slots__:
            if name in ("refused", "rejected"):
                assert seen(getattr(after, name)) == seen(getattr(before, name))
            else:
                assert getattr(after, name) == getattr(before, name)
