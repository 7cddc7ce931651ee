"""Flow 4: change log -> Kafka, dead letters -> Kafka, both at least once; and dead letters back.

Two feeds that know nothing of each other: a Kafka topic that is missing or refuses holds up its own
feed only, and never ingest. The order of effects, and what a crash does between them:

1. read: changes with the present state of what changed, or letters not marked as sent.
2. send, and wait until all replicas have it. Crash after it: the next relay sends the same again,
   under the same keys and ids.
3. move the cursor (compare-and-set on its epoch), or mark the letters. Only now is it done.

A relay that was frozen in between and wakes up after another has taken over may send states that
are no longer the newest; their versions say so. Its cursor does not move: it is fenced. Then it
puts right what it did, because compaction keeps the last state of a key, not the highest: it looks
which states have moved on since, sends those, and looks again until none has. Whoever changes one
after that look has the new leader send it, after ours.

`snapshot` tells everything once: for a Kafka topic that was made anew, or a change log that was
retired before anybody relayed it. It may run beside a relay, by the same looking again.
"""

import asyncio
import logging
from collections.abc import Awaitable, Callable, Iterator, Sequence
from dataclasses import dataclass
from uuid import UUID

from newsloom.backoff import delays, wait_or_stop
from newsloom.core.changes import Changed, Entity, change_messages, reduced
from newsloom.core.dead_letters import (
    MAX_REPLAYS,
    StoredLetter,
    reduced_relay_message,
    relay_message,
    replay_message,
)
from newsloom.core.event import Outgoing
from newsloom.errors import Rejected, Unavailable
from newsloom.health import Health
from newsloom.metrics import Metrics, Relayed
from newsloom.ports import (
    Fenced,
    LetterFilter,
    MessageSink,
    RelayFeed,
    RelayLease,
    RelayStore,
    ReplayStore,
)

logger = logging.getLogger(__name__)

READ_ROWS = 500
"""Rows of the change log taken at a time; the store also bounds their bytes."""

READ_LETTERS = 200
IDLE_SECONDS = 0.2
"""Wait before asking again when there was nothing to send: the lag that this adds."""

MAX_STATE_AGE_SECONDS = 5.0
"""States read longer ago are read again instead of sent: we may have been frozen meanwhile."""


Versions = dict[tuple[Entity, UUID], int]
"""The version in which the state of an article or story was sent."""


class Relay:
    """The relay role over a `RelayStore` and a sink for each feed."""

    def __init__(
        self,
        store: RelayStore,
        *,
        changes: MessageSink,
        dead_letters: MessageSink,
        changes_topic: str,
        dead_letters_topic: str,
        metrics: Metrics,
        health: Health,
        owner_id: str,
        jitter: Callable[[], float],
        beat: Callable[[], None],
    ) -> None:
        self._store = store
        self._changes = changes
        self._dead_letters = dead_letters
        self._changes_topic = changes_topic
        self._dead_letters_topic = dead_letters_topic
        self._metrics = metrics
        self._health = health
        self._owner_id = owner_id
        self._jitter = jitter
        self._beat = beat
        self._looked_at = dict.fromkeys(RelayFeed, -1.0)
        self._in_doubt: Versions = {}
        """What was sent, or may have been, before we knew whether we still led."""
        self.sent = 0
        """Messages that Kafka has acknowledged since the start."""

    @property
    def empty_read_at(self) -> float:
        """Loop time at which both feeds had last been found empty, or past helping by waiting."""
        return min(self._looked_at.values())

    async def run(self, stop: asyncio.Event) -> None:
        """Send until `stop` is set; wait out what is away, start anew when fenced."""
        async with asyncio.TaskGroup() as tasks:
            for feed, follow in (
                (RelayFeed.CHANGES, self._follow_changes),
                (RelayFeed.DEAD_LETTERS, self._follow_letters),
            ):
                tasks.create_task(self._keep_on(feed, follow, stop), name=f"relay-{feed}")

    async def _keep_on(
        self,
        feed: RelayFeed,
        follow: Callable[[asyncio.Event], Awaitable[None]],
        stop: asyncio.Event,
    ) -> None:
        waits = self._waits()
        while not stop.is_set():
            try:
                if feed is RelayFeed.CHANGES:
                    await self._settle()
                async with self._store.lead(feed, lambda: self._seen("postgres")):
                    waits = self._waits()
                    await self._trying(feed, follow, stop)
            except Fenced:
                logger.info("the relay was fenced")
                await wait_or_stop(next(waits), stop)
            except Unavailable as error:
                await self._wait_for(feed, error, next(waits), stop)

    async def _trying(
        self,
        feed: RelayFeed,
        follow: Callable[[asyncio.Event], Awaitable[None]],
        stop: asyncio.Event,
    ) -> None:
        """Follow a feed; while only Kafka is away, stay the one who does."""
        waits = self._waits()
        while not stop.is_set():
            try:
                await follow(stop)
            except Unavailable as error:
                if error.dependency == "postgres":
                    raise
                await self._wait_for(feed, error, next(waits), stop)

    async def _follow_changes(self, stop: asyncio.Event) -> None:
        loop = asyncio.get_running_loop()
        lease = await self._store.take_over(self._owner_id)
        if lease.has_missed:
            logger.warning(
                "changes were retired before they were relayed: newsloom relay --snapshot"
            )
        while not stop.is_set():
            read_at = loop.time()
            read = await self._store.read(lease.position, READ_ROWS)
            self._seen("postgres")
            self._metrics.relay_lag.set(read.oldest_seconds)
            if not read.rows:
                await self._rest(RelayFeed.CHANGES, stop)
                continue
            messages = await asyncio.to_thread(_messages, read.changed)
            if loop.time() - read_at > MAX_STATE_AGE_SECONDS:
                continue
            self._in_doubt |= _versions(read.changed)
            await self._send_changes(read.changed, messages)
            await self._store.advance(lease, read.position)
            self._in_doubt.clear()
            lease = RelayLease(lease.epoch, read.position)
            for changed in read.changed:
                self._metrics.relayed(Relayed(changed.entity.value))

    async def snapshot(self, told: Callable[[int], None]) -> int:
        """Send the present state of every article and story; return how many there are.

        `told(so far)` after each page. Interrupted, the same call does it all again. Raises
        `Unavailable`.
        """
        count = 0
        for entity in Entity:
            last = UUID(int=0)
            while page := await self._store.snapshot(entity, last, READ_ROWS):
                await self._send_changes(page, await asyncio.to_thread(_messages, page))
                await self._put_right(_versions(page))
                last = page[-1].entity_id
                count += len(page)
                told(count)
        return count

    async def _settle(self) -> None:
        """Put right what was sent without learning that we still led: fenced, or cut off.

        Whoever leads by now may have sent a newer state before our older one, which compaction
        would keep. Needs no lead: a repeat of the present state is harmless.
        """
        await self._put_right(self._in_doubt)
        self._in_doubt.clear()

    async def _put_right(self, versions: Versions) -> None:
        """Send again what has moved on from these versions, until nothing has."""
        while versions:
            moved: list[Changed] = []
            for entity in Entity:
                known = {key[1]: version for key, version in versions.items() if key[0] is entity}
                moved += await self._store.moved_on(entity, known) if known else ()
            await self._send_changes(moved, await asyncio.to_thread(_messages, moved))
            versions = _versions(moved)

    async def _send_changes(
        self, changed: Sequence[Changed], messages: Sequence[Sequence[Outgoing]]
    ) -> None:
        """Send the messages of each; what Kafka refuses for its size goes without its state."""
        flat = [message for group in messages for message in group]
        results = await self._send(self._changes, self._changes_topic, flat)
        refused = {flat[n].key for n, result in enumerate(results) if isinstance(result, Rejected)}
        if not refused:
            return
        logger.warning("the changes topic takes less than it should", extra={"n": len(refused)})
        again = [
            message
            for one, group in zip(changed, messages, strict=True)
            if group[0].key in refused
            for message in reduced(one)
        ]
        await self._send_small(self._changes, self._changes_topic, again)

    async def _follow_letters(self, stop: asyncio.Event) -> None:
        while not stop.is_set():
            unsent = await self._store.unsent_letters(READ_LETTERS)
            self._seen("postgres")
            self._metrics.relay_oldest_dead_letter.set(unsent.oldest_seconds)
            if not unsent.letters:
                await self._rest(RelayFeed.DEAD_LETTERS, stop)
                continue
            await self._send_letters(unsent.letters)
            await self._store.mark_sent(unsent.letters)
            self._metrics.relayed(Relayed.DEAD_LETTER, len(unsent.letters))

    async def _send_letters(self, letters: Sequence[StoredLetter]) -> None:
        """Send letters; of one that is too large for the topic only digest and length."""
        messages = [relay_message(letter) for letter in letters]
        results = await self._send(self._dead_letters, self._dead_letters_topic, messages)
        small = [
            reduced_relay_message(letter)
            for letter, result in zip(letters, results, strict=True)
            if isinstance(result, Rejected)
        ]
        await self._send_small(self._dead_letters, self._dead_letters_topic, small)

    async def _send_small(
        self, sink: MessageSink, kafka_topic: str, messages: Sequence[Outgoing]
    ) -> None:
        """Send what was made as small as it gets; if Kafka refuses that, an operator must help."""
        if messages:
            results = await self._send(sink, kafka_topic, messages)
            if any(isinstance(result, Rejected) for result in results):
                raise Unavailable("kafka", "max.message.bytes", systemic=True)

    async def _send(
        self, sink: MessageSink, kafka_topic: str, messages: Sequence[Outgoing]
    ) -> Sequence[object]:
        results = await sink.send(kafka_topic, messages)
        self._seen("kafka")
        self.sent += sum(not isinstance(result, Rejected) for result in results)
        return results

    def _seen(self, dependency: str) -> None:
        self._health.usable(dependency)
        self._beat()

    async def _rest(self, feed: RelayFeed, stop: asyncio.Event) -> None:
        self._looked_at[feed] = asyncio.get_running_loop().time()
        await wait_or_stop(IDLE_SECONDS, stop)

    async def _wait_for(
        self, feed: RelayFeed, error: Unavailable, seconds: float, stop: asyncio.Event
    ) -> None:
        self._health.away(error.dependency, error.code)
        self._metrics.retry(error.dependency)
        self._beat()
        logger.warning("waiting for a dependency", extra={"code": error.code, "feed": feed.value})
        if error.systemic:  # waiting alone will not help: who waits for us to be idle need not
            self._looked_at[feed] = asyncio.get_running_loop().time()
        await wait_or_stop(seconds, stop)

    def _waits(self) -> Iterator[float]:
        return delays(0.1, 3.0, self._jitter)


def _versions(changed: Sequence[Changed]) -> Versions:
    return {(one.entity, one.entity_id): one.version for one in changed}


def _messages(changed: Sequence[Changed]) -> list[list[Outgoing]]:
    return [change_messages(one) for one in changed]


@dataclass(slots=True)
class ReplaySummary:
    """What became of the letters that were to be replayed.

    `final`: tried `MAX_REPLAYS` times already. `empty`: there is nothing to send (erased, or a
    tombstone). `too_large`: Kafka refuses its size.
    """

    sent: int = 0
    final: int = 0
    empty: int = 0
    too_large: int = 0


async def replay(
    store: ReplayStore,
    sink: MessageSink | None,
    kafka_topic: str,
    wanted: LetterFilter,
    *,
    limit: int,
    again: bool,
) -> ReplaySummary:
    """Send dead letters to the articles topic again, marked page by page after Kafka has them.

    Interrupted, the same call goes on where it was: what is marked is left out unless `again`. A
    page that was sent and not marked is sent twice, which ingest does not mind. Without a `sink`
    nothing is sent or marked.
    """
    summary = ReplaySummary()
    last: StoredLetter | None = None
    while limit > 0:
        letters = await store.replayable(wanted, last, min(limit, READ_LETTERS), again=again)
        if not letters:
            break
        last = letters[-1]
        limit -= len(letters)
        await replay_letters(store, sink, kafka_topic, letters, summary)
    return summary


async def replay_letters(
    store: ReplayStore,
    sink: MessageSink | None,
    kafka_topic: str,
    letters: Sequence[StoredLetter],
    summary: ReplaySummary,
) -> None:
    """Send these letters again, count what becomes of each, mark those that Kafka has."""
    tried: list[tuple[StoredLetter, Outgoing]] = []
    for letter in letters:
        message = replay_message(letter)
        if message is None:
            summary.empty += 1
        elif letter.replays >= MAX_REPLAYS:
            summary.final += 1
        else:
            tried.append((letter, message))
    if sink is None:
        summary.sent += len(tried)
        return
    results = await sink.send(kafka_topic, [message for _, message in tried])
    sent = [
        letter
        for (letter, _), result in zip(tried, results, strict=True)
        if not isinstance(result, Rejected)
    ]
    summary.sent += len(sent)
    summary.too_large += len(tried) - len(sent)
    if sent:
        await store.mark_replayed(sent)
