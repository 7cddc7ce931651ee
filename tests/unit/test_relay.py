"""The relay's decisions and its order of effects, without Kafka or Postgres."""

import asyncio
import json
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import replace
from datetime import UTC, datetime
from uuid import UUID

import pytest
from prometheus_client import CollectorRegistry

from newsloom.core.change_log import ChangePosition
from newsloom.core.changes import Changed, Entity, Note, change_messages, reduced
from newsloom.core.dead_letters import (
    LetterId,
    StoredLetter,
    reduced_relay_message,
    relay_message,
    repaired_message,
    replay_message,
)
from newsloom.core.event import Outgoing, decode
from newsloom.core.offsets import Rebase, RebaseRefused, StoredPosition, rebased
from newsloom.errors import Rejected, RejectReason, Unavailable
from newsloom.health import Health
from newsloom.metrics import Metrics
from newsloom.ports import (
    Fenced,
    LetterFilter,
    Receipt,
    RelayFeed,
    RelayLease,
    RelayRead,
    UnsentLetters,
)
from newsloom.relay import Relay, replay

T0 = datetime(2026, 3, 1, 12, tzinfo=UTC)
ONE = UUID(int=1)


def note(version: int, kind: str = "revised", *fields: str) -> Note:
    return Note(version=version, kind=kind, changed_fields=list(fields), observed_at=T0)


def article_state(**fields: object) -> str:
    listed = ("topics", "tags", "categories", "levels", "changed_fields", "urls", "related")
    lists: dict[str, object] = {name: [] for name in (*listed, "images")}
    names = (
        "excerpt", "body", "language", "type", "category", "provider_name", "provider_domain",
        "published_at", "updated_at", "quality", "heat", "ratings", "is_published",
        "lead_image_url", "word_count", "reading_seconds", "declared_language", "language_score",
        "locale", "featured_content", "price", "length", "copy_of",
    )  # fmt: skip
    times = dict.fromkeys(("observed_at", "first_seen_at", "revised_at"), T0.isoformat())
    state = {
        "article_id": str(ONE), "article_key": "a.example", "canonical_url": "https://a.example",
        "title": "Bees", "revision": 1, "is_removed": False, "is_mention": False,
    }  # fmt: skip
    return json.dumps({**dict.fromkeys(names), **lists, **times, **state, **fields})


def changed(
    *notes: Note, version: int = 9, state: str | None = "", merged: bool = False
) -> Changed:
    return Changed(
        entity=Entity.ARTICLE,
        entity_id=ONE,
        version=version,
        notes=notes or (note(9),),
        recorded_at=T0,
        merged_into=UUID(int=2) if merged else None,
        state=article_state() if state == "" else state,
    )


def letter(
    *headers: tuple[str, bytes | None],
    value: bytes | None = b"\xff",
    reason: str = "parse.json",
    count: int = 0,
    offset: int = 7,
) -> StoredLetter:
    return StoredLetter(
        id=LetterId("t.v1", 2, 3, offset),
        consumer_group="newsloom",
        reason=reason,
        detail="byte 3",
        observed_at=T0,
        created_at=T0,
        relayed_at=None,
        replayed_at=None,
        replay_count=count,
        value_bytes=None if value is None else len(value),
        key=b"\0k",
        value=value,
        headers=headers,
    )


# The change event


def test_an_event_tells_its_newest_change_and_all_that_it_stands_for() -> None:
    (message,) = change_messages(changed(note(4, "revised", "title"), note(3, "created")))
    assert message.key == b"article/00000000-0000-0000-0000-000000000001"
    value = json.loads(message.value or b"")
    assert (value["version"], value["kind"], value["changed_fields"]) == (9, "revised", ["title"])
    assert [n["version"] for n in value["changes"]] == [3, 4]
    assert value["state"]["title"] == "Bees"
    assert not value["is_erased"]


def test_the_same_entity_version_and_kind_have_the_same_id_and_others_another() -> None:
    ids = [
        change_messages(one)[0].event_id
        for one in (
            changed(),
            changed(note(3), note(9)),
            changed(version=10),
            changed(note(9, "aliased")),
        )
    ]
    assert ids[0] == ids[1]
    assert len(set(ids)) == 3


def test_a_merged_article_says_into_which_and_an_erased_one_ends_in_a_tombstone() -> None:
    (merged,) = change_messages(changed(note(9, "merged"), state=None, merged=True))
    value = json.loads(merged.value or b"")
    assert value["merged_into"] == str(UUID(int=2))
    assert value["state"] is None
    event, tombstone = change_messages(changed(note(9, "erased"), state=None))
    assert json.loads(event.value or b"")["is_erased"]
    assert tombstone.value is None
    assert tombstone.key == event.key


def test_what_would_be_too_large_leaves_out_its_largest_parts_and_says_so() -> None:
    large = changed(state=article_state(body="x" * 5000, featured_content="y" * 5000))
    (message,) = change_messages(large, max_bytes=8000)
    value = json.loads(message.value or b"")
    assert value["omitted"] == ["body"]
    assert value["state"]["featured_content"]
    (smallest,) = reduced(large)
    assert json.loads(smallest.value or b"")["omitted"] == ["state"]


# Dead letters


def test_a_relayed_letter_has_the_original_bytes_and_the_headers_of_both_conventions() -> None:
    message = relay_message(
        letter(("h", None), ("h", b"\0"), ("__connect.errors.topic", b"forged"))
    )
    headers = dict(message.headers)
    assert message.key == b"t.v1/2/3/7"
    assert message.value == b"\xff"
    assert list(message.headers[:2]) == [("h", None), ("h", b"\0")]
    assert headers["__connect.errors.topic"] == b"t.v1"
    assert headers["x-orig-__connect.errors.topic"] == b"forged"
    assert headers["__connect.errors.offset"] == b"7"
    assert headers["__connect.errors.exception.message"] == b"parse.json"
    assert headers["kafka_dlt-original-partition"] == b"\0\0\0\3"
    assert headers["kafka_dlt-original-offset"] == b"\0\0\0\0\0\0\0\7"
    assert headers["kafka_dlt-exception-message"] == b"parse.json"
    assert not any(b"byte 3" in (value or b"") for value in headers.values())


def test_a_letter_too_large_for_its_topic_is_known_by_digest_and_length() -> None:
    message = reduced_relay_message(letter(("h", b"x" * 1000), value=b"x" * 5000))
    value = json.loads(message.value or b"")
    assert value["length"] == 5000
    assert len(value["sha256"]) == 64
    assert "h" not in dict(message.headers)


def test_a_replay_keeps_bytes_and_first_observed_time_and_counts_itself() -> None:
    stored = letter(("ce_time", b"2020-01-01T00:00:00Z"), ("h", b"1"), count=1)
    message = replay_message(stored)
    assert message is not None
    assert (message.key, message.value) == (b"\0k", b"\xff")
    assert message.headers == [
        ("h", b"1"), ("ce_time", b"2026-03-01T12:00:00Z"), ("x-newsloom-replay-count", b"2"),
    ]  # fmt: skip


def test_the_count_of_a_replay_goes_on_in_the_letter_that_it_becomes() -> None:
    again = letter(("x-newsloom-replay-count", b"2"))
    assert again.replays == 2
    assert (
        letter(("x-newsloom-replay-count", b"many"), ("x-newsloom-replay-count", None)).replays == 0
    )


@pytest.mark.parametrize("text", ["t/1/2", "t/1/2/x", "/1/2/3", "t/1/2/3/4", ""])
def test_a_letter_is_named_by_four_parts(text: str) -> None:
    assert str(LetterId.parse("t.v1/2/3/7")) == "t.v1/2/3/7"
    with pytest.raises(ValueError, match="named"):
        LetterId.parse(text)


def test_a_mended_record_is_a_proper_event_of_the_first_observed_time() -> None:
    message = repaired_message(letter(), b'{"title": "Bees", "originalUrl": "https://a.example/b"}')
    decoded = decode(message.value, message.key, message.headers, 0)
    assert decoded.observed_at == T0
    front = repaired_message(letter(), b"---\ntitle: Bees\nwebUrl: https://a.example/b\n---\n")
    assert json.loads(front.value or b"")["title"] == "Bees"
    with pytest.raises(Rejected):
        repaired_message(letter(), b'{"title": "Bees"}')


# Positions

POSITION = StoredPosition("g", "t", 0, 1, 100, 5, "me", "offset.gap", 2, 10, 99)


@pytest.mark.parametrize(
    ("asked", "log", "expected"),
    [
        (Rebase("earliest", 100), (150, 200), (1, 150, 60)),
        (Rebase("latest", 100), (50, 200), (1, 200, 110)),
        (Rebase(100, 100), (50, 200), (1, 100, 10)),
        (Rebase("earliest", 100, new_incarnation=True), (0, 20), (2, 0, 10)),
        (Rebase(5, 100, new_incarnation=True), (0, 20), (2, 5, 15)),
        (Rebase(60, 100, allow_rewind=True), (50, 200), (1, 60, 10)),
    ],
)
def test_a_rebase_moves_fences_clears_and_counts(
    asked: Rebase, log: tuple[int, int], expected: tuple[int, int, int]
) -> None:
    after = rebased(POSITION, asked, log)
    assert (after.incarnation, after.next_offset, after.skipped) == expected
    assert (after.owner_epoch, after.parked_reason, after.strikes) == (6, None, 0)
    assert after.anchor_offset is None


@pytest.mark.parametrize(
    ("asked", "log", "why"),
    [
        (Rebase("earliest", 99), (150, 200), "100 by now"),
        (Rebase("earliest", 100), (0, 200), "--allow-rewind"),
        (Rebase(201, 100), (0, 200), "outside"),
        (Rebase(49, 100, allow_rewind=True), (50, 200), "outside"),
    ],
)
def test_a_rebase_is_refused_when_it_is_stale_or_not_meant(
    asked: Rebase, log: tuple[int, int], why: str
) -> None:
    with pytest.raises(RebaseRefused, match=why):
        rebased(POSITION, asked, log)


# The flow


class Store:
    """A change log and dead letters in memory. `log`: one changed entity a row."""

    def __init__(self, log: Sequence[Changed] = (), letters: Sequence[StoredLetter] = ()) -> None:
        self.log = list(log)
        self.letters = list(letters)
        self.epoch = 0
        self.position = 0
        self.steals = 0
        self.replayed: list[StoredLetter] = []

    @asynccontextmanager
    async def lead(
        self, feed: RelayFeed, _: Callable[[], None] = lambda: None
    ) -> AsyncIterator[None]:
        del feed
        yield

    async def take_over(self, owner_id: str) -> RelayLease:
        del owner_id
        self.epoch += 1
        return RelayLease(self.epoch, ChangePosition(0, self.position))

    async def read(self, after: ChangePosition, limit: int) -> RelayRead:
        rows = self.log[after.change_id : after.change_id + limit]
        return RelayRead(ChangePosition(0, after.change_id + len(rows)), rows, len(rows), 0.0)

    async def advance(self, lease: RelayLease, to: ChangePosition) -> None:
        if self.steals:
            self.steals -= 1
            self.epoch += 1
        if lease.epoch != self.epoch or lease.position.change_id != self.position:
            raise Fenced
        self.position = to.change_id

    async def snapshot(self, entity: Entity, after: UUID, limit: int) -> Sequence[Changed]:
        newest = {one.entity_id: one for one in self.log if one.entity is entity}
        return [newest[key] for key in sorted(newest) if key > after][:limit]

    async def moved_on(self, entity: Entity, versions: Mapping[UUID, int]) -> Sequence[Changed]:
        newest = {one.entity_id: one for one in self.log if one.entity is entity}
        return [newest[key] for key, known in versions.items() if newest[key].version != known]

    async def unsent_letters(self, limit: int) -> UnsentLetters:
        return UnsentLetters(self.letters[:limit], 1.0 if self.letters else 0.0)

    async def mark_sent(self, letters: Sequence[StoredLetter]) -> None:
        self.letters = [one for one in self.letters if one not in letters]

    async def replayable(
        self, wanted: LetterFilter, after: StoredLetter | None, limit: int, *, again: bool
    ) -> Sequence[StoredLetter]:
        del wanted
        first = self.letters.index(after) + 1 if after else 0
        rest = [one for one in self.letters[first:] if again or one not in self.replayed]
        return rest[:limit]

    async def mark_replayed(self, letters: Sequence[StoredLetter]) -> None:
        self.replayed += letters


class Sink:
    """Keeps what was sent; `refuses` and `fails` play Kafka's bad days."""

    def __init__(self) -> None:
        self.sent: list[Outgoing] = []
        self.failures = 0
        self.refuses: Callable[[Outgoing], bool] = lambda _: False

    async def send(
        self, kafka_topic: str, events: Sequence[Outgoing]
    ) -> Sequence[Receipt | Rejected]:
        if self.failures:
            self.failures -= 1
            self.sent += events[:1]  # some may have arrived
            raise Unavailable("kafka", "KafkaTimeoutError")
        results: list[Receipt | Rejected] = []
        for event in events:
            if self.refuses(event):
                results.append(Rejected(RejectReason.KAFKA_OVERSIZE, ""))
            else:
                self.sent.append(event)
                results.append(Receipt(kafka_topic, 0, len(self.sent), event.event_id))
        return results


def relay_of(store: Store, changes: Sink, letters: Sink) -> Relay:
    return Relay(
        store,
        changes=changes,
        dead_letters=letters,
        changes_topic="changes",
        dead_letters_topic="letters",
        metrics=Metrics(CollectorRegistry()),
        health=Health(needs=(), owns_partitions=False, stall_after_seconds=60),
        owner_id="me",
        jitter=lambda: 0.1,
        beat=lambda: None,
    )


async def run_relay(store: Store, changes: Sink, letters: Sink, seconds: float = 0.6) -> Relay:
    relay = relay_of(store, changes, letters)
    stop = asyncio.Event()
    task = asyncio.create_task(relay.run(stop))
    await asyncio.sleep(seconds)
    stop.set()
    await task
    return relay


async def test_the_cursor_moves_only_after_kafka_has_everything() -> None:
    store, changes = Store([changed(version=n) for n in (1, 2, 3)], [letter()]), Sink()
    changes.failures = 2
    await run_relay(store, changes, Sink())
    assert store.position == 3
    versions = [json.loads(m.value or b"")["version"] for m in changes.sent]
    assert versions == [1, 1, 1, 2, 3]


async def test_a_fenced_relay_leads_anew_and_passes_over_nothing() -> None:
    store, changes = Store([changed(version=n) for n in (1, 2)]), Sink()
    store.steals = 1
    await run_relay(store, changes, Sink())
    assert store.position == 2
    assert [json.loads(m.value or b"")["version"] for m in changes.sent] == [1, 2, 1, 2]


async def test_a_fenced_relay_puts_right_what_moved_on_and_then_leads_anew() -> None:
    store, changes = Store([changed(version=1)]), Sink()
    store.steals = 1
    sending = changes.send

    async def late(kafka_topic: str, events: Sequence[Outgoing]) -> Sequence[Receipt | Rejected]:
        if not changes.sent:  # while it stood still, the article changed and another sent it
            store.log.append(changed(version=2))
            store.position = 2
        return await sending(kafka_topic, events)

    changes.send = late  # type: ignore[method-assign]
    await run_relay(store, changes, Sink())
    assert [json.loads(m.value or b"")["version"] for m in changes.sent] == [1, 2]


async def test_a_relay_that_is_cut_off_after_sending_puts_right_what_moved_on_too() -> None:
    """A frozen one loses its connections: then it never hears that it is fenced."""
    store, changes = Store([changed(version=1)]), Sink()
    advance, cuts = store.advance, [True]

    async def cut(lease: RelayLease, to: ChangePosition) -> None:
        if cuts.pop() if cuts else False:  # meanwhile another one leads, and is ahead
            store.log.append(changed(version=2))
            store.epoch, store.position = store.epoch + 1, 2
            raise Unavailable("postgres", "08006")
        await advance(lease, to)

    store.advance = cut  # type: ignore[method-assign]
    await run_relay(store, changes, Sink())
    assert [json.loads(m.value or b"")["version"] for m in changes.sent] == [1, 2]


async def test_a_snapshot_tells_everything_page_by_page_and_what_moves_meanwhile_again(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("newsloom.relay.READ_ROWS", 2)
    ids = [UUID(int=n) for n in (1, 2, 3)]
    store, changes = Store([replace(changed(version=1), entity_id=one) for one in ids]), Sink()
    sending = changes.send

    async def busy(kafka_topic: str, events: Sequence[Outgoing]) -> Sequence[Receipt | Rejected]:
        if not changes.sent:
            store.log.append(replace(changed(version=2), entity_id=ids[0]))
        return await sending(kafka_topic, events)

    changes.send = busy  # type: ignore[method-assign]
    pages: list[int] = []
    relay = relay_of(store, changes, Sink())
    assert await relay.snapshot(pages.append) == 3
    assert pages == [2, 3]
    told = [json.loads(message.value or b"") for message in changes.sent]
    assert [(UUID(one["id"]).int, one["version"]) for one in told] == [
        (1, 1), (2, 1), (1, 2), (3, 1),
    ]  # fmt: skip


async def test_each_feed_goes_on_without_the_other() -> None:
    for broken in (0, 1):
        store, sinks = Store([changed()], [letter()]), (Sink(), Sink())
        sinks[broken].failures = 10_000
        await run_relay(store, *sinks)
        assert (store.position, len(store.letters)) == ((0, 0) if broken == 0 else (1, 1))


async def test_what_kafka_refuses_for_its_size_goes_smaller() -> None:
    store, changes, letters = Store([changed()], [letter(value=b"x" * 9000)]), Sink(), Sink()
    changes.refuses = lambda message: len(message.value or b"") > 1000
    letters.refuses = changes.refuses
    await run_relay(store, changes, letters)
    assert store.position == 1
    assert not store.letters
    assert json.loads(changes.sent[0].value or b"")["omitted"] == ["state"]
    assert json.loads(letters.sent[0].value or b"")["length"] == 9000


async def test_states_that_have_grown_old_are_read_again(monkeypatch: pytest.MonkeyPatch) -> None:
    store, changes = Store([changed()]), Sink()
    reads = 0
    read = store.read

    async def slow_once(after: ChangePosition, limit: int) -> RelayRead:
        nonlocal reads
        reads += 1
        monkeypatch.setattr("newsloom.relay.MAX_STATE_AGE_SECONDS", -1.0 if reads == 1 else 5.0)
        return await read(after, limit)

    monkeypatch.setattr(store, "read", slow_once)
    await run_relay(store, changes, Sink())
    assert reads >= 2
    assert len(changes.sent) == 1


# Replay


async def test_a_replay_goes_page_by_page_and_leaves_what_cannot_be_sent(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("newsloom.relay.READ_LETTERS", 2)
    good = [letter(offset=n) for n in range(5)]
    others = [
        letter(offset=10, value=None),
        letter(offset=11, reason="erased"),
        letter(offset=12, count=3),
    ]
    store, sink = Store(letters=[*good, *others]), Sink()
    trial = await replay(store, None, "articles", LetterFilter(), limit=100, again=False)
    assert (trial.sent, sink.sent, store.replayed) == (5, [], [])
    done = await replay(store, sink, "articles", LetterFilter(), limit=100, again=False)
    assert (done.sent, done.empty, done.final) == (5, 2, 1)
    assert store.replayed == good
    again = await replay(store, sink, "articles", LetterFilter(), limit=100, again=False)
    assert again.sent == 0


async def test_an_interrupted_replay_goes_on_where_it_was(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("newsloom.relay.READ_LETTERS", 2)
    store, sink = Store(letters=[letter(offset=n) for n in range(6)]), Sink()
    mark = store.mark_replayed

    async def dies_later(letters: Sequence[StoredLetter]) -> None:
        if store.replayed:
            raise ConnectionAbortedError
        await mark(letters)

    monkeypatch.setattr(store, "mark_replayed", dies_later)
    with pytest.raises(ConnectionAbortedError):
        await replay(store, sink, "articles", LetterFilter(), limit=100, again=False)
    monkeypatch.setattr(store, "mark_replayed", mark)
    done = await replay(store, sink, "articles", LetterFilter(), limit=100, again=False)
    assert done.sent == 4
    assert len({message.event_id for message in sink.sent}) == 6
