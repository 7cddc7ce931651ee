"""One schedule: members over a log and a store, faults in the order that a seed draws, a judgement.

The members are the real `Ingest` and `PartitionOwner`; only what they talk to is made up.
Partitions are given and taken without any coordination, so that two members may well believe they
own the same one: what Kafka's group protocol promises is not relied on.
"""

import asyncio
import json
import random
from collections import Counter, defaultdict
from collections.abc import Callable, Coroutine, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from functools import lru_cache

from prometheus_client import CollectorRegistry

from newsloom.adapters.memory import MemoryStore
from newsloom.adapters.memory_source import MemoryLog
from newsloom.core.batch import DeadLetter, Item
from newsloom.decoding import Decoded, decode_deliveries
from newsloom.errors import Unavailable
from newsloom.health import Health
from newsloom.ingest import Ingest
from newsloom.metrics import Metrics
from newsloom.partition_owner import PartitionOwner
from newsloom.ports import Batch, Delivery, PositionLost, TopicPartition, Unreadable
from newsloom.settings import IngestSettings
from tests.simulation.virtual import run_virtually
from tests.simulation.world import Connection, Reader, Server

SETTINGS = IngestSettings(
    max_batch_records=6,
    queue_batches=2,
    poll_timeout_seconds=0.5,
    backoff_base_seconds=0.05,
    backoff_cap_seconds=1,
    drain_seconds=2,
    offset_mirror_seconds=60,
)
METRICS = Metrics(CollectorRegistry())
START = datetime(2024, 3, 1, tzinfo=UTC)
OPERATORS_BUSINESS = ("kafka.unreadable", "breaker:db.22021")
"""Reasons for which a schedule may park: an operator lets the partition run again."""

PATIENCE_SECONDS = 300.0
"""How long after the last fault everything must be applied, in virtual time (I7)."""


@dataclass(slots=True)
class Finding:
    """What a schedule did, and which invariants it broke."""

    seed: int
    violations: list[str] = field(default_factory=list)
    done: Counter[str] = field(default_factory=Counter)
    committed: list[tuple[TopicPartition, tuple[int, ...]]] = field(default_factory=list)


class Member:
    """One process: the real flow over the simulated world."""

    def __init__(self, number: int, log: MemoryLog, server: Server, rng: random.Random) -> None:
        self.name = f"m{number}"
        self.link = Connection(server, self.name, rng)
        health = Health(needs=("postgres",), owns_partitions=True, stall_after_seconds=60)
        owner = PartitionOwner(
            store=self.link,
            decode=_decode,
            settings=SETTINGS,
            metrics=METRICS,
            health=health,
            owner_id=self.name,
            jitter=rng.random,
        )
        self.ingest = Ingest(owner, settings=SETTINGS, metrics=METRICS, health=health)
        self.reader = Reader(log, self.ingest, self.link)
        self.stop = asyncio.Event()
        self.task = asyncio.ensure_future(self.ingest.run(self.reader, self.stop))
        self._group = asyncio.Lock()

    async def give(self, partitions: Sequence[TopicPartition]) -> None:
        """Call back as aiokafka does: revoke what there was, then assign."""
        async with self._group:
            await self.link.pulse.wait()
            await self.reader.revoke()
            if not self.link.is_dead:
                self.reader.assign(partitions)

    async def take(self) -> None:
        """Revoke everything."""
        async with self._group:
            await self.link.pulse.wait()
            await self.reader.revoke()

    def crash(self) -> None:
        """Die at whatever await the process is at: nothing of it is heard of again."""
        self.link.is_dead = True
        self.link.pulse.set()
        self.task.cancel()


class Schedule:
    """All that happens in one simulated run."""

    def __init__(self, seed: int) -> None:
        self.rng = random.Random(seed)
        self.finding = Finding(seed)
        self.log = MemoryLog()
        self.server = Server(self.rng)
        self.partitions = [
            TopicPartition("articles", number) for number in range(self.rng.randint(1, 3))
        ]
        self.members: list[Member] = []
        self._started = 0
        self._callbacks: set[asyncio.Future[None]] = set()
        self._actions: dict[str, Callable[[], None]] = {
            "crash": self._crash,
            "freeze": self._freeze,
            "give anybody anything": self._give,
            "take away": self._take,
            "rebalance": self._rebalance,
            "database away": self._outage,
            "broker away": self._broker_outage,
            "request lost at COMMIT": self._lose_request,
            "reply lost at COMMIT": self._lose_reply,
            "poll fails": self._poll_fails,
            "more records": self._append,
        }

    def run(self) -> Finding:
        """Play the schedule to its end and judge it."""
        run_virtually(self._play(), self.rng)
        return self.finding

    async def _play(self) -> None:
        rng = self.rng
        self._append()
        for _ in range(rng.randint(1, 3)):
            self._start()
        self._rebalance()
        names = list(self._actions)
        for _ in range(rng.randint(3, 25)):
            await asyncio.sleep(rng.choice((0.0, 0.02, 0.3, 3.0)) * rng.random())
            name = rng.choice(names)
            self.finding.done[name] += 1
            self._actions[name]()
        await asyncio.sleep(8 * rng.random())
        await self._heal()
        await self._drained()
        await self._stop()
        self._judge()

    # What happens.

    def _start(self) -> None:
        self.members.append(Member(self._started, self.log, self.server, self.rng))
        self._started += 1

    def _alive(self) -> Member:
        return self.rng.choice(self.members)

    def _some(self) -> list[TopicPartition]:
        return [p for p in self.partitions if self.rng.random() < 0.6]

    def _later(self, doing: Coroutine[object, object, None]) -> None:
        task = asyncio.ensure_future(doing)
        self._callbacks.add(task)
        task.add_done_callback(self._callbacks.discard)

    def _crash(self) -> None:
        member = self._alive()
        self.members.remove(member)
        self.finding.violations += _ended(member)
        member.crash()
        self._later(_silence(member))
        self._start()
        if self.rng.random() < 0.7:
            self._later(self.members[-1].give(self._some()))

    def _freeze(self) -> None:
        member = self._alive()
        member.link.pulse.clear()
        self._later(_after(10 * self.rng.random(), member.link.pulse.set))

    def _give(self) -> None:
        self._later(self._alive().give(self._some()))

    def _take(self) -> None:
        self._later(self._alive().take())

    def _rebalance(self) -> None:
        """Give every partition to one member, as the group protocol means to."""
        shares = defaultdict[Member, list[TopicPartition]](list)
        for partition in self.partitions:
            shares[self._alive()].append(partition)
        for member in self.members:
            self._later(member.give(shares[member]))

    def _outage(self) -> None:
        self.server.away = True
        self._later(_after(5 * self.rng.random(), self._database_back))

    def _database_back(self) -> None:
        self.server.away = False

    def _broker_outage(self) -> None:
        reader = self._alive().reader
        reader.broker_away = True
        self._later(_after(5 * self.rng.random(), lambda: setattr(reader, "broker_away", False)))

    def _lose_request(self) -> None:
        self._alive().link.lose_requests += self.rng.randint(1, 2)

    def _lose_reply(self) -> None:
        self._alive().link.lose_replies += self.rng.randint(1, 2)

    def _poll_fails(self) -> None:
        error: Exception = self.rng.choice(
            (Unreadable("CorruptRecord"), PositionLost(), Unavailable("kafka", "KafkaError"))
        )
        for _ in range(self.rng.randint(1, 4)):
            self._alive().reader.fail_next_poll(error)

    def _append(self) -> None:
        """Add records: good ones, junk, some whose rows the store refuses; and leave gaps."""
        rng = self.rng
        for partition in self.partitions:
            for _ in range(rng.randrange(12)):
                kind = rng.random()
                held = self.log.records.setdefault(partition, [])
                gap = rng.choice((1, 1, 1, 1, 3))
                offset = held[-1].offset + gap if held else rng.choice((0, 2))
                value = b"junk" if kind < 0.05 else _value(partition.partition, rng.randrange(8))
                at = START + timedelta(seconds=rng.randrange(1000), microseconds=offset)
                headers = (("ce_time", at.isoformat().encode()),)
                held.append(Delivery(*partition, offset, 0, None, value, headers))
                if kind > 0.97:
                    self.server.refused.add((partition, offset))

    # How it ends.

    async def _heal(self) -> None:
        self.server.away = False
        for member in self.members:
            member.link.pulse.set()
            member.link.lose_requests = member.link.lose_replies = 0
            member.reader.broker_away = False
            member.reader._failures.clear()
        while self._callbacks:
            await asyncio.wait(list(self._callbacks))
        self._rebalance()

    async def _drained(self) -> None:
        """Wait until each record has an outcome, letting parked partitions run as operators do."""
        deadline = asyncio.get_running_loop().time() + PATIENCE_SECONDS
        while left := [p for p in self.partitions if self._position(p) < self.log.bounds(p)[1]]:
            for partition in left:
                position = self.server.positions.get(partition)
                if position is not None and (reason := position.parked_reason) is not None:
                    self.finding.done[f"parked {reason}"] += 1
                    if reason not in OPERATORS_BUSINESS:
                        self.finding.violations.append(f"I7: parked for {reason}")
                        return
                    position.parked_reason = None
            if asyncio.get_running_loop().time() > deadline:
                self.finding.violations.append(f"I7: records left in {left}")
                return
            await asyncio.sleep(1)

    def _position(self, partition: TopicPartition) -> int:
        position = self.server.positions.get(partition)
        return position.next_offset if position is not None else 0

    async def _stop(self) -> None:
        for member in self.members:
            self.finding.violations += _ended(member)
            member.stop.set()
        await asyncio.gather(*(member.task for member in self.members), return_exceptions=True)
        for member in self.members:
            self.finding.violations += _ended(member)
        while self.server.transactions or self._callbacks:  # noqa: ASYNC110
            await asyncio.sleep(1)

    # The judgement.

    def _judge(self) -> None:
        violations = self.finding.violations
        violations += self.server.violations
        self.finding.committed = self.server.committed
        for partition in self.partitions:
            held = [delivery.offset for delivery in self.log.records.get(partition, [])]
            applied = [n for place, ns in self.server.committed if place == partition for n in ns]
            if applied != held:
                violations.append(f"I1, I2: {partition}: applied {applied}, held {held}")
            position = self.server.positions.get(partition)
            told = position.counts.total() if position is not None else 0
            if told != len(held):
                violations.append(f"I1: {partition}: {told} outcomes for {len(held)} records")
        violations += self._compare_tables()

    def _compare_tables(self) -> list[str]:
        """Apply the log once more, record by record and partition by partition, to a new store."""
        calm = MemoryStore()
        letters = {}
        for partition in self.partitions:
            for delivery in self.log.records.get(partition, []):
                place = partition, delivery.offset
                (item,) = _decode([delivery]).items
                if isinstance(item, DeadLetter):
                    letters[place] = item.reason
                elif place in self.server.refused:
                    letters[place] = "db.22021"
                else:
                    _apply_alone(calm, partition, item)
        stored = {(p, offset): d.reason for (p, _, offset), d in self.server.dead_letters.items()}
        found = [
            f"I5: {name} are not those of an undisturbed run"
            for name in ("heads", "contents", "aliases", "revisions")
            if getattr(calm, name) != getattr(self.server, name)
        ]
        if stored != letters:
            found.append(f"I2: dead letters {stored}, expected {letters}")
        return found


def _apply_alone(store: MemoryStore, partition: TopicPartition, item: Item) -> None:
    """Apply one delivery; nothing in the store's methods waits, so they run to the end at once."""
    claiming = store.claim(partition, "calm", item.offset)
    try:
        claiming.send(None)
    except StopIteration as done:
        claim = done.value
    else:
        raise AssertionError("a claim in memory waited")
    store.positions[partition].next_offset = item.offset
    batch = Batch(partition, claim.epoch, 0, item.offset, item.offset + 1, [item])
    try:
        store.apply(batch).send(None)
    except StopIteration:
        return


async def _after(seconds: float, then: Callable[[], None]) -> None:
    await asyncio.sleep(seconds)
    then()


async def _silence(member: Member) -> None:
    """Wait until a crashed member's tasks are gone."""
    await asyncio.gather(member.task, return_exceptions=True)


def _ended(member: Member) -> list[str]:
    """Tell whether a member has ended by an error of its own."""
    if not member.task.done() or member.task.cancelled() or member.link.is_dead:
        return []
    error = member.task.exception()
    return [] if error is None else [f"{member.name} ended: {_causes(error)}"]


def _causes(error: BaseException) -> list[str]:
    if isinstance(error, BaseExceptionGroup):
        return [cause for inner in error.exceptions for cause in _causes(inner)]
    return [repr(error)]


@lru_cache(4096)
def _value(partition: int, number: int) -> bytes:
    """A record of one of few articles, so that they are revised, refreshed and delivered late."""
    article, version = divmod(number, 2)
    url = f"https://outlet{partition}.example/{article}"
    return json.dumps({"title": f"Title {version}", "originalUrl": url, "heat": number}).encode()


@lru_cache(4096)
def _decoded(value: bytes, headers: tuple[tuple[str, bytes | None], ...]) -> Item:
    (item,) = decode_deliveries([Delivery("t", 0, 0, 0, None, value, headers)]).items
    return item


def _decode(deliveries: Sequence[Delivery]) -> Decoded:
    """Decode as the service does, remembering what was decoded in other schedules."""
    items = [replace(_decoded(d.value or b"", d.headers), offset=d.offset) for d in deliveries]
    return Decoded(items, (), 0)
