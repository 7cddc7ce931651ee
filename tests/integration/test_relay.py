"""The relay on a real Kafka and Postgres: a mirror made of its topic equals the database."""

import asyncio
import json
import os
import re
import sys
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from random import Random
from typing import Any

import asyncpg
import jsonschema  # type: ignore[import-untyped]
import pytest
from prometheus_client import CollectorRegistry
from pydantic import SecretStr

from newsloom import linker as linker_module
from newsloom import relay as relay_module
from newsloom.adapters.kafka.producer import open_sink
from newsloom.adapters.postgres import open_store
from newsloom.adapters.postgres.erasing import open_erasing
from newsloom.adapters.postgres.linking import open_link_store
from newsloom.adapters.postgres.relaying import open_relay_store
from newsloom.core.article import Article, Signals
from newsloom.core.batch import ChangeKind, Item, Observation
from newsloom.core.changes import ArticleState, StoryState
from newsloom.core.event import Outgoing
from newsloom.core.identity import article_id
from newsloom.errors import Rejected
from newsloom.health import Health
from newsloom.linker import Linker
from newsloom.metrics import Metrics
from newsloom.ports import Batch, Fenced, MessageSink, Receipt, TopicPartition
from newsloom.relay import Relay
from newsloom.settings import KafkaSettings, PostgresSettings, PublishSettings
from tests.support.articles import (
    T0,
    article,
    dead_letter,
    mention,
    observations,
    random_stream,
    rich_article,
    url,
)
from tests.support.blackbox import Line, finish, kill
from tests.support.kafka import MakeTopic
from tests.support.mirror import (
    SIGNALS,
    TIMES,
    compacted,
    comparable,
    database_articles,
    database_stories,
    mirror_of,
    mirrored,
    read_topic,
)
from tests.support.watching import login_role

pytestmark = pytest.mark.timeout(180)

TOPIC = "newsloom.articles.v1"
WORDS = [f"{a}{b}{c}" for a in "bdkmt" for b in ("arol", "entis", "ofur") for c in ("", "ka", "x")]
LINKED_KINDS = {
    "copy_linked", "copy_unlinked", "story_created", "story_grown", "story_shrunk", "story_merged",
    "story_split",
}  # fmt: skip
END_RELAYS = """
SELECT pg_terminate_backend(pid) FROM pg_stat_activity
WHERE application_name = 'newsloom relay' AND datname = current_database()"""
SCHEMA = Path(__file__).parents[2] / "contracts" / "change.v1.schema.json"
MIRROR_PAGE = Path(__file__).parents[2] / "docs" / "mirror.md"


def settings_of(dsn: str) -> PostgresSettings:
    return PostgresSettings(dsn=SecretStr(dsn))


def fresh_health() -> Health:
    return Health(needs=(), owns_partitions=False, stall_after_seconds=60)


class Frost:
    """A sink that stands still before it first sends, as a process does that is stopped."""

    def __init__(self, sink: MessageSink) -> None:
        self.sink = sink
        self.frozen, self.thaw = asyncio.Event(), asyncio.Event()

    async def send(
        self, kafka_topic: str, messages: Sequence[Outgoing]
    ) -> Sequence[Receipt | Rejected]:
        self.frozen.set()
        await self.thaw.wait()
        return await self.sink.send(kafka_topic, messages)


@asynccontextmanager
async def running_relay(
    dsn: str,
    bootstrap: str,
    changes: str,
    letters: str,
    wrapped: Callable[[MessageSink], MessageSink] = lambda sink: sink,
) -> AsyncIterator[Relay]:
    kafka = KafkaSettings(bootstrap_servers=bootstrap)
    limits = PublishSettings(max_record_bytes=2_000_000, delivery_timeout_seconds=20)
    async with AsyncExitStack() as stack:
        relay = Relay(
            await stack.enter_async_context(open_relay_store(settings_of(dsn))),
            changes=wrapped(await stack.enter_async_context(open_sink(kafka, limits))),
            dead_letters=await stack.enter_async_context(open_sink(kafka, limits)),
            changes_topic=changes,
            dead_letters_topic=letters,
            metrics=Metrics(CollectorRegistry()),
            health=fresh_health(),
            owner_id="me",
            jitter=lambda: 0.1,
            beat=lambda: None,
        )
        task = asyncio.create_task(relay.run(asyncio.Event()))
        try:
            yield relay
        finally:
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)


@asynccontextmanager
async def running_linker(dsn: str) -> AsyncIterator[Linker]:
    async with open_link_store(settings_of(dsn)) as store:
        linker = Linker(
            store,
            window=timedelta(hours=10_000),
            metrics=Metrics(CollectorRegistry()),
            health=fresh_health(),
            owner_id="me",
            jitter=lambda: 0.1,
            beat=lambda: None,
        )
        task = asyncio.create_task(linker.run(asyncio.Event()))
        try:
            yield linker
        finally:
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)


async def store_all(
    dsn: str, partition: int, items: Sequence[Item], size: int = 7, *, refreshed: bool = False
) -> None:
    place = TopicPartition(TOPIC, partition)
    async with open_store(
        settings_of(dsn), consumer_group="newsloom", refreshed_changes=refreshed
    ) as store:
        claim = await store.claim(place, "me", 0)
        position = claim.next_offset
        for low in range(0, len(items), size):
            piece = items[low : low + size]
            end = piece[-1].offset + 1
            await store.apply(Batch(place, claim.epoch, claim.incarnation, position, end, piece))
            position = end


def crowd(seed: int, partition: int, length: int = 150) -> list[Item]:
    """Deliveries over enough addresses that some articles merge and most stay apart."""
    chance = Random(1000 * seed + partition)
    names = [f"n{number}" for number in range(120)]

    def words() -> str:
        return " ".join(chance.choice(WORDS) for _ in range(40))

    texts = [words() for _ in range(25)]
    return [
        Observation(
            offset,
            T0 + timedelta(minutes=chance.randrange(300)),
            article(
                *chance.sample(names, chance.choice((1,) * 12 + (2,))),
                title=" ".join((text := chance.choice(texts)).split()[:6]),
                body=text,
                is_removed=chance.random() < 0.1,
                signals=chance.choice((Signals(), Signals(1, 2))),
                related=tuple(mention(chance.choice(names)) for _ in range(chance.choice((0, 2)))),
            ),
        )
        for offset in range(length)
    ]


def told_again(count: int) -> list[Item]:
    """Articles of which all but the first repeat the first: one story."""
    body = "The quick harbour master of Oostende counted seventeen grey herons at dawn. " * 12
    told = [article(f"told{n}", title="Herons counted", body=body) for n in range(count)]
    return observations(*enumerate(told))


async def all_seen(*watched: Relay | Linker) -> None:
    """Wait until each, one after the other, has looked and found nothing more."""
    loop = asyncio.get_running_loop()
    for one in watched:
        since = loop.time()
        async with asyncio.timeout(60):
            while one.empty_read_at <= since:  # noqa: ASYNC110 - what is waited for has no event
                await asyncio.sleep(0.02)


async def assert_mirrored(
    dsn: str,
    bootstrap: str,
    topic: str,
    at_least: int = 2,
    momentary: frozenset[str] = TIMES | SIGNALS,
) -> Any:
    """Hold a mirror to the database: of the whole topic, and of what compaction leaves of it."""
    records = await read_topic(bootstrap, topic)
    articles = comparable(await database_articles(dsn, momentary))
    stories = comparable(await database_stories(dsn))
    mirror = mirror_of(records, momentary)
    for one in (mirror, mirror_of(compacted(records), momentary)):
        assert comparable(one.articles()) == articles
        assert comparable(one.stories()) == stories
    assert len(articles) >= at_least
    return mirror


@pytest.mark.parametrize("seed", [1, 2])
async def test_a_mirror_of_the_topic_equals_the_database_with_writers_and_merges(
    seed: int,
    database: str,
    kafka_bootstrap: str,
    make_topic: MakeTopic,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    changes, letters = await make_topic(3, name="changes"), await make_topic(name="letters")
    monkeypatch.setattr(relay_module, "READ_ROWS", 13)
    async with (
        running_linker(database) as linker,
        running_relay(database, kafka_bootstrap, changes, letters) as relay,
    ):
        await asyncio.gather(
            *(store_all(database, n, crowd(seed, n)) for n in range(3)),
            store_all(database, 3, random_stream(seed, 60)),
        )
        await all_seen(linker, relay)
    mirror = await assert_mirrored(database, kafka_bootstrap, changes, at_least=50)
    kinds = {note["kind"] for event in mirror.events for note in event["changes"]}
    assert kinds >= {"created", "mentioned", "revised", "merged", "aliased", "copy_linked"}
    assert kinds & {"story_created", "story_grown"}  # which one depends on what is read together
    assert any(event["merged_into"] for event in mirror.events)
    validator = jsonschema.Draft202012Validator(json.loads(SCHEMA.read_text()))
    for event in mirror.events:
        validator.validate(event)


async def test_copies_and_stories_are_mirrored(
    database: str, kafka_bootstrap: str, make_topic: MakeTopic
) -> None:
    changes, letters = await make_topic(name="changes"), await make_topic(name="letters")
    async with (
        running_linker(database) as linker,
        running_relay(database, kafka_bootstrap, changes, letters) as relay,
    ):
        await store_all(database, 0, told_again(4), size=1)
        await all_seen(linker, relay)
    mirror = await assert_mirrored(database, kafka_bootstrap, changes)
    notes = [note["kind"] for event in mirror.events for note in event["changes"]]
    assert notes.count("copy_linked") == 3
    (story,) = mirror.stories().values()
    assert story["article_count"] == len(story["articles"]) == 4


def shuffled(seed: int, words: Sequence[str]) -> dict[str, str]:
    """A title and a text of the same words in another order: one story, and no copy."""
    told = [*words]
    Random(seed).shuffle(told)
    return {"title": " ".join(told[:3]), "body": " ".join(told)}


def taken_back(number: int, told: Article) -> Article:
    return replace(told, is_removed=True, field_hashes=dict(told.field_hashes) | {"removed": "t"},
        content_hash=bytes([number]) * 32)  # fmt: skip


def every_kind() -> list[list[Article]]:
    """Phases, each stored and linked before the next: all that can become of articles.

    Six times over, because whether stories merge and split is close each time.
    """
    halves, wholes, others = [], [], []
    for group in range(6):
        words = [f"{word}{end}{group}" for word in WORDS[::3] for end in ("", "ka", "x", "zi")]
        half = len(words) // 2
        for n in range(3):
            left, right = shuffled(1000 * group + n, words[:half]), shuffled(n, words[half:])
            halves += [article(f"l{group}{n}", **left), article(f"r{group}{n}", **right)]
        for n in range(6):
            name, other = f"w{group}{n}", [f"other{n}{word}" for word in words]
            wholes.append(article(name, **shuffled(1000 * group + 100 + n, words)))
            others.append(article(name, **shuffled(n, other)))
    herons = "The quick harbour master of Oostende counted seventeen grey herons at dawn. " * 12
    copies = [article(f"heron{n}", title="Herons counted", body=herons) for n in range(3)]
    gulls = " ".join(f"gull{n}" for n in range(90))
    return [
        halves,
        wholes + copies,  # the first join the two halves into one story
        [*others, article("heron2", title="No herons", body=gulls)],  # rewritten: they no longer do
        [
            article("l00", "amp0", title="Under two addresses", related=(mention("named"),)),
            article("named", "r01", title="Two that are one"),
            taken_back(1, article("r02", title="Withdrawn")),
        ],
    ]


async def test_every_kind_of_change_is_relayed_and_erased_articles_are_gone(
    database: str, kafka_bootstrap: str, make_topic: MakeTopic, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(linker_module, "READ_ROWS", 1)  # what is read together is told as one
    changes, letters = await make_topic(2, name="changes"), await make_topic(name="letters")
    async with (
        running_linker(database) as linker,
        running_relay(database, kafka_bootstrap, changes, letters) as relay,
    ):
        for phase, told in enumerate(every_kind()):
            items = [
                Observation(n, T0 + timedelta(hours=phase, minutes=n), one)
                for n, one in enumerate(told)
            ]
            await store_all(database, phase, items)
            await all_seen(linker, relay)
        async with open_erasing(settings_of(database), os_user="tester") as erasing:
            gone = article_id(url("r00").canonical.key)
            await erasing.erase(gone, "court order 7", does_it=True, is_url=False)
        await all_seen(linker, relay)
    mirror = await assert_mirrored(database, kafka_bootstrap, changes, at_least=70)
    kinds = {note["kind"] for event in mirror.events for note in event["changes"]}
    assert kinds == {kind.value for kind in ChangeKind} - {"refreshed"} | LINKED_KINDS
    assert mirror.erased == {f"article/{gone}"}
    validator = jsonschema.Draft202012Validator(json.loads(SCHEMA.read_text()))
    for event in mirror.events:
        validator.validate(event)


async def test_with_refreshed_events_a_mirror_has_the_signals_too(
    database: str, kafka_bootstrap: str, make_topic: MakeTopic
) -> None:
    changes, letters = await make_topic(2, name="changes"), await make_topic(name="letters")
    async with running_relay(database, kafka_bootstrap, changes, letters) as relay:
        await asyncio.gather(
            *(store_all(database, n, crowd(8, n), refreshed=True) for n in range(2)),
            store_all(database, 3, random_stream(8, 60), refreshed=True),
        )
        await all_seen(relay)
    mirror = await assert_mirrored(database, kafka_bootstrap, changes, 50, momentary=TIMES)
    assert "refreshed" in {note["kind"] for event in mirror.events for note in event["changes"]}


async def test_a_snapshot_beside_writers_fills_a_topic_that_was_made_anew(
    database: str, kafka_bootstrap: str, make_topic: MakeTopic, monkeypatch: pytest.MonkeyPatch
) -> None:
    lost, letters = await make_topic(2, name="changes"), await make_topic(name="letters")
    async with (
        running_linker(database) as linker,
        running_relay(database, kafka_bootstrap, lost, letters) as relay,
    ):
        await store_all(database, 0, crowd(9, 0))
        await store_all(database, 1, told_again(3))
        await all_seen(linker, relay)
    changes = await make_topic(2, name="changes")
    monkeypatch.setattr(relay_module, "READ_ROWS", 11)
    async with (
        running_linker(database) as linker,
        running_relay(database, kafka_bootstrap, changes, letters) as relay,
    ):
        pages: list[int] = []
        _, told = await asyncio.gather(
            store_all(database, 2, crowd(9, 2)), relay.snapshot(pages.append)
        )
        await all_seen(linker, relay)
    assert len(pages) > 5
    assert pages[-1] == told
    mirror = await assert_mirrored(database, kafka_bootstrap, changes, at_least=50)
    kinds = {note["kind"] for event in mirror.events for note in event["changes"]}
    assert kinds > {"snapshot", "created"}


async def test_the_mirror_of_the_docs_has_what_the_database_has(
    database: str, kafka_bootstrap: str, make_topic: MakeTopic, tmp_path: Path
) -> None:
    changes, letters = await make_topic(2, name="changes"), await make_topic(name="letters")
    await store_all(database, 0, crowd(4, 0, 60))
    await store_all(database, 1, told_again(3))
    async with (
        running_linker(database) as linker,
        running_relay(database, kafka_bootstrap, changes, letters) as relay,
    ):
        await all_seen(linker, relay)
    page = MIRROR_PAGE.read_text(encoding="utf-8")
    (script,) = re.findall(r"^```python\n(.*?)^```$", page, re.MULTILINE | re.DOTALL)
    (tmp_path / "mirror.py").write_text(script)
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        "mirror.py",
        cwd=tmp_path,
        env={
            **os.environ,
            "NEWSLOOM_KAFKA_BOOTSTRAP_SERVERS": kafka_bootstrap,
            "NEWSLOOM_KAFKA_CHANGES_TOPIC": changes,
        },
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
        start_new_session=True,
    )
    done = await finish(process, 30)
    assert done.code == 0, done.told()
    counts = len(await database_articles(database)), len(await database_stories(database))
    assert counts > (30, 0)
    assert f"{counts[0]} articles, {counts[1]} stories" in done.out


async def test_a_relay_that_wakes_up_behind_its_fence_puts_right_what_it_sent(
    database: str, kafka_bootstrap: str, make_topic: MakeTopic
) -> None:
    """The stale state comes after the newer one of the leader, where compaction would keep it."""
    changes, letters = await make_topic(name="changes"), await make_topic(name="letters")
    await store_all(database, 0, observations((0, article("a", title="Old"))))
    frosts: list[Frost] = []

    def freezing(sink: MessageSink) -> MessageSink:
        frosts.append(Frost(sink))
        return frosts[0]

    async with running_relay(database, kafka_bootstrap, changes, letters, freezing):
        await frosts[0].frozen.wait()
        await store_all(database, 1, observations((1, article("a", title="New"))))
        # The server has given up on the frozen one's connections, and with them on its lock.
        superuser = await asyncpg.connect(database)
        await superuser.fetch(END_RELAYS)
        await superuser.close()
        async with running_relay(database, kafka_bootstrap, changes, letters) as leader:
            await all_seen(leader)
            frosts[0].thaw.set()
            titles: list[str] = []
            for _ in range(20):
                records = await read_topic(kafka_bootstrap, changes)
                titles = [json.loads(record.value)["state"]["title"] for record in records]
                if titles[1:2] == ["Old"] and titles[-1] == "New":
                    break
                await asyncio.sleep(0.5)
    assert titles[:2] == ["New", "Old"]
    assert titles[-1] == "New"
    await assert_mirrored(database, kafka_bootstrap, changes, at_least=1)


async def test_every_field_of_a_rich_article_arrives(
    database: str, kafka_bootstrap: str, make_topic: MakeTopic
) -> None:
    changes, letters = await make_topic(name="changes"), await make_topic(name="letters")
    await store_all(database, 0, observations((0, rich_article()), (1, article("plain"))))
    async with running_relay(database, kafka_bootstrap, changes, letters) as relay:
        await all_seen(relay)
    mirror = await assert_mirrored(database, kafka_bootstrap, changes)
    (rich,) = [state for state in mirror.articles().values() if state["type"] == "video"]
    empty = {name for name, value in rich.items() if value in (None, [], {})}
    assert empty == {"changed_fields", "copy_of", "related"}
    (record, *_) = await read_topic(kafka_bootstrap, changes)
    headers = dict(record.headers)
    assert headers["ce_subject"] == record.key
    assert headers["ce_type"] == b"newsloom.article.changed.v1"


async def test_the_state_has_every_column_of_the_public_views(database: str) -> None:
    connection = await asyncpg.connect(database)
    try:
        for view, model, elsewhere in (
            ("articles", ArticleState, {"story_id", "version"}),
            ("stories", StoryState, {"version"}),
        ):
            statement = await connection.prepare(f"SELECT * FROM api.{view}")  # noqa: S608
            columns = {attribute.name for attribute in statement.get_attributes()}
            assert columns - elsewhere - set(model.model_fields) == set()
    finally:
        await connection.close()


async def test_an_erased_article_ends_in_a_tombstone(
    database: str, kafka_bootstrap: str, make_topic: MakeTopic
) -> None:
    changes, letters = await make_topic(name="changes"), await make_topic(name="letters")
    await store_all(database, 0, observations((0, article("gone")), (1, article("kept"))))
    async with open_erasing(settings_of(database), os_user="tester") as erasing:
        gone = article_id(url("gone").canonical.key)
        await erasing.erase(gone, "court order 7", does_it=True, is_url=False)
    async with running_relay(database, kafka_bootstrap, changes, letters) as relay:
        await all_seen(relay)
    mirror = await mirrored(kafka_bootstrap, changes)
    assert [state["title"] for state in mirror.articles().values()] == ["Bees"]
    (event,) = [event for event in mirror.events if event["is_erased"]]
    assert event["kind"] == "erased"
    assert event["state"] is None
    assert mirror.erased == {f"article/{event['id']}"}


async def test_a_frozen_relay_cannot_move_the_cursor_once_another_has_taken_over(
    database: str,
) -> None:
    await store_all(database, 0, observations((0, article("a")), (1, article("b"))))
    async with open_relay_store(settings_of(database)) as store:
        frozen = await store.take_over("frozen")
        read = await store.read(frozen.position, 10)
        assert read.rows == 2
        other = await store.take_over("other")
        with pytest.raises(Fenced):
            await store.advance(frozen, read.position)
        assert (await store.read(other.position, 10)).rows == 2
        await store.advance(other, read.position)
        with pytest.raises(Fenced):
            await store.advance(other, read.position)


async def test_a_relay_that_comes_too_late_for_some_changes_knows_it(database: str) -> None:
    await store_all(database, 0, observations((0, article("a")), (1, article("b"))))
    superuser = await asyncpg.connect(database)
    await superuser.execute(
        "UPDATE newsloom.change_log_state SET (retired_xid, retired_change_id) ="
        " (SELECT xid, change_id FROM newsloom.changes ORDER BY xid, change_id LIMIT 1)"
    )
    await superuser.close()
    async with open_relay_store(settings_of(database)) as store:
        lease = await store.take_over("me")
        assert lease.has_missed
        read = await store.read(lease.position, 10)
        await store.advance(lease, read.position)
        assert not (await store.take_over("me")).has_missed


async def test_an_event_has_the_version_of_its_state_not_of_its_row(database: str) -> None:
    told = [(n, article("a", signals=Signals(n, None))) for n in range(3)]
    await store_all(database, 0, observations(*told))
    async with open_relay_store(settings_of(database)) as store:
        lease = await store.take_over("me")
        (changed,) = (await store.read(lease.position, 10)).changed
    assert [note.version for note in changed.notes] == [1]
    assert changed.version == 3
    assert json.loads(changed.state or "")["quality"] == 2


async def test_a_change_waits_for_the_transactions_before_it_and_none_is_passed_over(
    database: str,
) -> None:
    connection = await asyncpg.connect(database)
    try:
        transaction = connection.transaction()
        await transaction.start()
        await connection.execute("SELECT pg_current_xact_id()")
        await store_all(database, 0, observations((0, article("a"))))
        async with open_relay_store(settings_of(database)) as store:
            lease = await store.take_over("me")
            held_back = await store.read(lease.position, 10)
            assert held_back.rows == 0
            assert held_back.oldest_seconds > 0
            await transaction.commit()
            assert (await store.read(lease.position, 10)).rows == 1
    finally:
        await connection.close()


async def test_a_standby_takes_over_after_kill_9_without_a_gap(
    database: str, kafka_bootstrap: str, make_topic: MakeTopic
) -> None:
    topic = await make_topic(2, name="articles")
    line = Line(kafka_bootstrap, database, topic, 2)
    changes, letters = await make_topic(2, name="changes"), await make_topic(name="letters")
    extra = {
        "NEWSLOOM_KAFKA_CHANGES_TOPIC": changes,
        "NEWSLOOM_KAFKA_DEAD_LETTERS_TOPIC": letters,
    }
    relays = [await line.start("relay", extra=extra) for _ in "ab"]
    items = [*crowd(7, 0, 400), dead_letter(400)]
    writing = asyncio.create_task(store_all(database, 0, items, size=3))
    owners: set[str] = set()
    for relay in relays:  # one of them leads; the other one does when it is gone
        owners.add(await _leader(line, but=owners))
        kill(relay)
        await finish(relay, 10)
        relays.append(await line.start("relay", extra=extra))
        if len(relays) > 4:
            break
    await writing
    for relay in relays:
        kill(relay)
        await finish(relay, 10)
    assert len(owners) >= 2
    done = await line.run("relay", "--exit-when-idle", "0.5", "--format", "json", extra=extra)
    assert done.code == 0, done.told()
    await assert_mirrored(database, kafka_bootstrap, changes)
    rows = await line.fetch("SELECT count(*) AS n FROM newsloom.dead_letters")
    relayed = await read_topic(kafka_bootstrap, letters)
    assert len({record.key for record in relayed}) == rows[0]["n"] > 0


async def test_a_relay_needs_no_more_than_its_role(
    database: str, kafka_bootstrap: str, make_topic: MakeTopic
) -> None:
    changes, letters = await make_topic(name="changes"), await make_topic(name="letters")
    await store_all(database, 0, [*told_again(3), dead_letter(3)])
    extra = {
        "NEWSLOOM_KAFKA_CHANGES_TOPIC": changes,
        "NEWSLOOM_KAFKA_DEAD_LETTERS_TOPIC": letters,
    }
    async with login_role(database, "newsloom_relay") as dsn:
        line = Line(kafka_bootstrap, dsn, "unused")
        done = await line.run("relay", "--exit-when-idle", "0.3", "--format", "json", extra=extra)
        assert done.code == 0, done.told()
        assert done.lines()[-1]["relayed"] == 4
        told = await line.run("relay", "--snapshot", "--format", "json", extra=extra)
        assert told.code == 0, told.told()
        articles, stories = await database_articles(database), await database_stories(database)
        assert told.lines() == [{"told": len(articles) + len(stories)}]
    await assert_mirrored(database, kafka_bootstrap, changes)


async def _leader(line: Line, but: set[str]) -> str:
    """Wait, but not for ever, until a relay leads that is not known yet; return who leads."""
    owner = ""
    for _ in range(40):
        rows = await line.fetch("SELECT owner_id FROM newsloom.cursors WHERE reader = 'relay'")
        owner = rows[0]["owner_id"] if rows else ""
        if owner and owner not in but:
            break
        await asyncio.sleep(0.1)
    return owner


async def test_a_missing_topic_of_dead_letters_holds_up_nothing_else(
    database: str, kafka_bootstrap: str, make_topic: MakeTopic
) -> None:
    changes = await make_topic(name="changes")
    items = [*observations((0, article("a")), (1, article("b"))), dead_letter(2)]
    await store_all(database, 0, items)
    async with running_relay(database, kafka_bootstrap, changes, "not.there") as relay:
        await asyncio.sleep(1)
        await all_seen(relay)
        metrics = relay._metrics.registry
        assert metrics.get_sample_value("newsloom_relay_oldest_dead_letter_seconds")
    await assert_mirrored(database, kafka_bootstrap, changes)
    connection = await asyncpg.connect(database)
    try:
        assert await connection.fetchval(
            "SELECT count(*) FROM newsloom.dead_letters WHERE relayed_at IS NULL"
        )
    finally:
        await connection.close()


async def test_a_topic_that_takes_too_little_still_gets_every_version(
    database: str, kafka_bootstrap: str, make_topic: MakeTopic
) -> None:
    changes = await make_topic(name="changes", config={"max.message.bytes": "3000"})
    letters = await make_topic(name="letters", config={"max.message.bytes": "3000"})
    chance = "".join(chr(0x4E00 + (n * 7919) % 20_000) for n in range(5000))
    items = [*observations((0, article("a", body=chance)), (1, article("b"))), dead_letter(2)]
    await store_all(database, 0, items)
    connection = await asyncpg.connect(database)
    await connection.execute("UPDATE newsloom.dead_letters SET value = $1", chance.encode())
    await connection.close()
    async with running_relay(database, kafka_bootstrap, changes, letters) as relay:
        await all_seen(relay)
    mirror = await mirrored(kafka_bootstrap, changes)
    assert sorted(bool(change["state"]) for change in mirror.values.values()) == [False, True]
    assert [c["omitted"] for c in mirror.values.values() if not c["state"]] == [["state"]]
    (letter,) = await read_topic(kafka_bootstrap, letters)
    assert json.loads(letter.value)["length"] == len(chance.encode())
