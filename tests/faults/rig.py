"""The fault rig: real services behind proxies, real member processes, a producer that keeps count.

Everything random comes from one seed. A `Bench` holds the services (a session has one); a `Rig` is
one Kafka topic and one database on them, for one scenario.
"""

import asyncio
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Collection, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from dataclasses import dataclass, field, replace
from itertools import islice
from pathlib import Path
from urllib.parse import urlsplit, urlunsplit
from uuid import uuid4

import asyncpg
import psutil
from aiokafka import AIOKafkaProducer
from aiokafka.errors import KafkaError

from newsloom.adapters.embedded import EmbeddedKafka, EmbeddedPostgres
from newsloom.adapters.embedded.processes import free_port
from newsloom.adapters.migrations import migrate
from tests.support.blackbox import Line
from tests.support.checker import AUDIT, Acknowledged, Verdict, check, digest
from tests.support.generator import Message, Stream
from tests.support.kafka import create_topic
from tests.support.postgres import create_database, drop_database, dsn_of
from tests.support.proxy import Proxy, open_proxy

TEMPLATE = "faults_template"
LOGIN_PASSWORD = "member"  # noqa: S105 - of a throw-away server on the loopback
PARTITIONS = 4
MEMBER = {
    "NEWSLOOM_INGEST_MAX_BATCH_RECORDS": "50",
    "NEWSLOOM_POSTGRES_IDLE_IN_TRANSACTION_TIMEOUT_SECONDS": "5",
    "NEWSLOOM_POSTGRES_COMMAND_TIMEOUT_SECONDS": "8",
    "NEWSLOOM_POSTGRES_STATEMENT_TIMEOUT_SECONDS": "6",
    "NEWSLOOM_POSTGRES_TCP_USER_TIMEOUT_SECONDS": "5",
    "NEWSLOOM_INGEST_DRAIN_SECONDS": "5",
}

PRODUCTION = {"NEWSLOOM_INGEST_SESSION_TIMEOUT_SECONDS": "10"}
"""Takes back what `Line` shortens for all tests; everything else is as it comes."""


class Bench:
    """A broker and a server of our own, each reached through a proxy port. Blocking calls."""

    def __init__(self, folder: Path, cache: Path) -> None:
        self.cache = cache
        self.kafka_port = free_port()
        self.postgres_port = free_port()
        self.kafka = EmbeddedKafka(
            folder / "kafka",
            cache=cache,
            advertised_port=self.kafka_port,
            config={"log.retention.check.interval.ms": "1000"},
        )
        # What a kill -9 must not lose is what the kernel has: fsync is for power cuts.
        config = {"fsync": "off", "full_page_writes": "off", "max_connections": "60"}
        self.postgres = EmbeddedPostgres(folder / "postgres", config=config)

    def start(self) -> None:
        """Start both and prepare the model of every scenario's database."""
        self.kafka.start()
        server = self.postgres.start()
        asyncio.run(_prepare(server))

    def stop(self) -> None:
        """End both."""
        self.kafka.kill()
        self.postgres.kill()

    @property
    def server(self) -> str:
        """The superuser's DSN, past the proxy."""
        dsn = self.postgres.dsn
        assert dsn is not None
        return dsn

    def backup(self) -> Path:
        """Copy the server's data as it is now; the server is down meanwhile."""
        copy = self.postgres.folder / "data.backup"
        self.postgres.stop()
        shutil.rmtree(copy, ignore_errors=True)
        _copy(self.postgres.folder / "data", copy)
        self.postgres.start()
        return copy

    def restore(self, copy: Path) -> None:
        """Put a copy back, as after a disaster."""
        self.postgres.kill()
        shutil.rmtree(self.postgres.folder / "data")
        _copy(copy, self.postgres.folder / "data")
        self.postgres.start()


def _copy(source: Path, target: Path) -> None:
    subprocess.run(["cp", "-a", str(source), str(target)], check=True)  # keeps owners and modes


async def _prepare(server: str) -> None:
    await create_database(server, TEMPLATE)
    template = dsn_of(server, TEMPLATE)
    await migrate(template)
    connection = await asyncpg.connect(template)
    try:
        await connection.execute(AUDIT)
    finally:
        await connection.close()


@dataclass(slots=True, eq=False)
class Member:
    """One ingest process, its login in Postgres, and its log."""

    login: str
    process: asyncio.subprocess.Process
    log: Path
    started: float = field(default_factory=time.time)
    ended: float | None = None

    @property
    def alive(self) -> bool:
        """Whether it has not ended."""
        return self.process.returncode is None

    def signal(self, number: signal.Signals) -> None:
        """Signal the process and its children."""
        with suppress(ProcessLookupError):
            os.killpg(self.process.pid, number)

    async def kill(self) -> None:
        """SIGKILL, and wait until it is gone."""
        self.ended = time.time()
        self.signal(signal.SIGKILL)
        await self.process.wait()

    async def terminate(self, patience: float = 30) -> int:
        """SIGTERM, and wait for the end; return the exit code."""
        self.ended = time.time()
        self.signal(signal.SIGTERM)
        async with asyncio.timeout(patience):
            return await self.process.wait()

    async def frozen(self, patience: float = 60) -> None:
        """Wait until its failpoint has stopped it."""
        async with asyncio.timeout(patience):
            while psutil.Process(self.process.pid).status() != psutil.STATUS_STOPPED:  # noqa: ASYNC110
                await asyncio.sleep(0.05)

    def rss_megabytes(self) -> float:
        """Resident memory of the process."""
        return float(psutil.Process(self.process.pid).memory_info().rss) / 1e6

    def told(self) -> str:
        """The log so far."""
        return self.log.read_text(errors="replace")


class Feed:
    """Sends a made-up stream at a rate, again and again until Kafka acknowledges each record."""

    def __init__(self, line: Line, stream: Stream, rng: random.Random) -> None:
        self.acknowledged: list[Acknowledged] = []
        self.sent = 0
        self._line = line
        self._messages = iter(stream)
        self._rng = rng

    def move(self, line: Line) -> None:
        """Send to another Kafka topic from now on."""
        self._line = line

    def widen(self, partitions: int) -> Line:
        """Send to so many partitions from now on; return the line that has them."""
        self._line = replace(self._line, partitions=partitions)
        return self._line

    async def send(self, count: int) -> None:
        """Send so many records as fast as they are taken."""
        async with self._producer() as producer:
            for start in range(0, count, 500):
                chunk = list(islice(self._messages, min(500, count - start)))
                await self._deliver(producer, chunk)

    async def flow(self, rate: int, stop: asyncio.Event) -> None:
        """Send `rate` records a second until told to stop.

        What a slow moment held up is sent later, up to a second's worth of it.
        """
        async with self._producer() as producer:
            last = time.monotonic() - 0.2
            while not stop.is_set():
                now = time.monotonic()
                due = int(min(1.0, now - last) * rate)
                last = max(now - 1.0, last) + due / rate
                await self._deliver(producer, list(islice(self._messages, due)))
                await asyncio.sleep(max(0.0, 0.2 - (time.monotonic() - now)))

    @asynccontextmanager
    async def _producer(self) -> AsyncIterator[AIOKafkaProducer]:
        producer = AIOKafkaProducer(
            bootstrap_servers=self._line.bootstrap,
            acks="all",
            linger_ms=10,
            request_timeout_ms=5000,
            retry_backoff_ms=200,
            metadata_max_age_ms=2000,
        )
        await producer.start()
        try:
            yield producer
        finally:
            await producer.stop()

    async def _deliver(self, producer: AIOKafkaProducer, chunk: Sequence[Message]) -> None:
        waiting = [(message, self._rng.randrange(self._line.partitions)) for message in chunk]
        while waiting:
            results = await asyncio.gather(
                *(self._send(producer, message, number) for message, number in waiting),
                return_exceptions=True,
            )
            again = []
            for (message, number), result in zip(waiting, results, strict=True):
                if isinstance(result, Acknowledged):
                    self.acknowledged.append(result)
                elif isinstance(result, KafkaError):
                    again.append((message, number))  # perhaps stored: then it is there twice
                elif isinstance(result, BaseException):
                    raise result
            waiting = again
        self.sent += len(chunk)

    async def _send(
        self, producer: AIOKafkaProducer, message: Message, partition: int
    ) -> Acknowledged:
        value = message.value()
        known = await producer.partitions_for(self._line.topic)
        receipt = await producer.send_and_wait(
            self._line.topic,
            value=value,
            key=message.key(),
            headers=message.headers(),
            partition=partition % len(known),  # of new ones it learns after a while
        )
        return Acknowledged(receipt.partition, receipt.offset, digest(value))


class Rig:
    """One scenario's topic and database, and what happens to them."""

    def __init__(
        self,
        bench: Bench,
        *,
        kafka: Proxy,
        postgres: Proxy,
        line: Line,
        folder: Path,
        seed: int,
        stream: Stream | None = None,
    ) -> None:
        self.bench, self.kafka, self.postgres, self.line = bench, kafka, postgres, line
        self.rng = random.Random(seed)
        self.seed = seed
        self.feed = Feed(line, stream or Stream(seed, deliveries=30_000), random.Random(seed))
        self.members: list[Member] = []
        self.figures: dict[str, float] = {}
        self.judged = ""
        """Set by a scenario that has judged itself: what it has made sure of, in a few words."""
        self.killers: Collection[tuple[int, int]] = ()
        """(partition, offset) of records that kill who reads them."""
        self.folder = folder
        self._stop_feed = asyncio.Event()
        self._flowing: asyncio.Task[None] | None = None

    async def member(
        self, *arguments: str, extra: Mapping[str, str] | None = None, quick: bool = True
    ) -> Member:
        """Start an ingest process that logs in under a name of its own.

        `quick`: with short limits, so that less is waited for; else with those of production.
        """
        login = f"member_{uuid4().hex[:12]}"
        await self.as_owner(f"CREATE ROLE {login} SUPERUSER LOGIN PASSWORD '{LOGIN_PASSWORD}'")
        log = self.folder / f"{login}.log"
        with log.open("wb") as stream:
            process = await asyncio.create_subprocess_exec(
                Path(sys.executable).with_name("newsloom"),
                "ingest",
                *arguments,
                stdin=asyncio.subprocess.DEVNULL,
                stdout=stream,
                stderr=stream,
                env=self.line.environment(
                    {
                        **(MEMBER if quick else PRODUCTION),
                        "NEWSLOOM_POSTGRES_DSN": _dsn(
                            self.line.dsn, login, LOGIN_PASSWORD, self.postgres.port
                        ),
                        **(extra or {}),
                    }
                ),
                start_new_session=True,
            )
        member = Member(login, process, log)
        self.members.append(member)
        return member

    def flow(self, rate: int) -> None:
        """Let records come at a rate until `drained`."""
        self._flowing = asyncio.create_task(self.feed.flow(rate, self._stop_feed))

    def environment(self, name: str) -> str:
        """Return a variable as the commands of this scenario have it."""
        return self.line.environment().get(name, "")

    def stop_flow(self) -> None:
        """Let no more records come."""
        self._stop_feed.set()

    async def as_owner(self, statement: str) -> None:
        """Run statements as the superuser, past the proxy."""
        writes = {"default_transaction_read_only": "off"}  # whatever a scenario has told the server
        connection = await asyncpg.connect(self.line.dsn, server_settings=writes)
        try:
            await connection.execute(statement)
        finally:
            await connection.close()

    async def progress(self, records: int = 1, patience: float = 60) -> float:
        """Wait until so many more deliveries are accounted for; return the seconds it took."""
        began = time.monotonic()
        await self.line.reached(await self.line.position() + records, patience)
        return time.monotonic() - began

    async def owners(self) -> dict[int, str]:
        """Return the login that claimed each partition last."""
        rows = await self.line.fetch(
            "SELECT DISTINCT ON (kafka_partition) kafka_partition, login FROM fault_audit.steps"
            " WHERE kafka_topic = $1 AND new_epoch > old_epoch ORDER BY kafka_partition, step DESC",
            self.line.topic,
        )
        return {row["kafka_partition"]: row["login"] for row in rows}

    async def taken_over(self, lost: Collection[int], victim: Member, since: float) -> float:
        """Wait until others have moved all of these on; return seconds from `since` to the last."""
        async with asyncio.timeout(90):
            while True:
                moved = [await self.taken_over_at(n, victim.login, since) for n in lost]
                if all(at is not None for at in moved):
                    return max((at for at in moved if at), default=since) - since
                await asyncio.sleep(0.2)

    async def owned_by(self, *members: Member, patience: float = 60) -> dict[int, str]:
        """Wait until all partitions are claimed, by these members, each of them by one at least."""
        logins = {member.login for member in members}
        async with asyncio.timeout(patience):
            while True:
                owners = await self.owners()
                if len(owners) == self.line.partitions and set(owners.values()) == logins:
                    return owners
                await asyncio.sleep(0.2)

    async def taken_over_at(self, partition: int, not_by: str, since: float) -> float | None:
        """Return when (seconds since 1970) somebody else first moved this partition."""
        rows = await self.line.fetch(
            "SELECT extract(epoch FROM min(at))::float8 AS at FROM fault_audit.steps"
            " WHERE kafka_topic = $1 AND kafka_partition = $2 AND login <> $3"
            " AND new_offset > old_offset AND at > to_timestamp($4)",
            self.line.topic,
            partition,
            not_by,
            since,
        )
        return rows[0]["at"] if rows else None

    async def drained(self, patience: float = 60) -> float:
        """Stop the flow and wait until all that Kafka holds has an outcome (I7)."""
        self._stop_feed.set()
        if self._flowing is not None:
            async with asyncio.timeout(patience):
                await self._flowing
        began = time.monotonic()
        await self.line.reached(await self.line.log_end(), patience)
        return time.monotonic() - began

    async def verdict(self) -> Verdict:
        """Let the checker decide."""
        return await check(self.line, self.feed.acknowledged, self.killers)

    async def judge(self) -> None:
        """Let the checker decide before the scenario takes its Kafka topic away."""
        self.figures["drained after s"] = round(await self.drained(120), 1)
        verdict = await self.verdict()
        assert verdict.holds, verdict.told()
        self.judged = verdict.summary()

    async def replayed(self) -> str:
        """Replay the whole topic into an empty database (I6); return what differs."""
        from tests.support import compare  # noqa: PLC0415 - only here

        name = f"faults_{uuid4().hex}"
        await create_database(self.bench.server, name, TEMPLATE)
        try:
            other = Line(
                self.line.bootstrap,
                dsn_of(self.bench.server, name),
                self.line.topic,
                self.line.partitions,
            )
            await other.ingest(patience=240)
            one = await compare.stored_world(self.line.dsn)
            two = await compare.stored_world(other.dsn)
            return "\n".join(compare.world_differences(two, one))
        finally:
            await drop_database(self.bench.server, name)

    async def close(self) -> None:
        """End whatever still runs."""
        self._stop_feed.set()
        for member in self.members:
            if member.alive:
                await member.kill()
        if self._flowing is not None and not self._flowing.done():
            self._flowing.cancel()
            await asyncio.gather(self._flowing, return_exceptions=True)


@asynccontextmanager
async def open_rig(
    bench: Bench,
    folder: Path,
    seed: int,
    *,
    partitions: int = PARTITIONS,
    stream: Stream | None = None,
) -> AsyncIterator[Rig]:
    """Set a scenario up and tear it down. The services must run; they do again at the end.

    `stream`: what the feed sends; else one of the seed.
    """
    real = bench.kafka.port
    real_postgres = bench.postgres.port
    assert real is not None
    assert real_postgres is not None
    topic, database = f"faults.{uuid4().hex}", f"faults_{uuid4().hex}"
    async with AsyncExitStack() as stack:
        kafka = await stack.enter_async_context(open_proxy(real, bench.kafka_port))
        postgres = await stack.enter_async_context(open_proxy(real_postgres, bench.postgres_port))
        bootstrap = f"127.0.0.1:{kafka.port}"
        await create_topic(bootstrap, topic, partitions)
        await create_database(bench.server, database, TEMPLATE)
        stack.push_async_callback(drop_database, bench.server, database)
        line = Line(bootstrap, dsn_of(bench.server, database), topic, partitions)
        rig = Rig(
            bench,
            kafka=kafka,
            postgres=postgres,
            line=line,
            folder=folder,
            seed=seed,
            stream=stream,
        )
        stack.push_async_callback(rig.close)
        stack.push_async_callback(_revive, bench)
        stack.callback(postgres.heal)
        stack.callback(kafka.heal)
        yield rig


async def _revive(bench: Bench) -> None:
    """Leave the services running for the next scenario, whatever this one did to them."""
    await asyncio.to_thread(bench.kafka.start)
    await asyncio.to_thread(bench.postgres.start)


def _dsn(dsn: str, user: str, password: str, port: int) -> str:
    parts = urlsplit(dsn)
    return urlunsplit(parts._replace(netloc=f"{user}:{password}@127.0.0.1:{port}"))
