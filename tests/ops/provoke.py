"""Each alert provoked on a running system, and the runbook's way out of it tried.

    make alerts ARGS="--only postgres_stopped,poison"

Real Kafka, Postgres, processes and Prometheus; the rules are the real ones with shorter windows,
waits and limits (see `tests.ops.town`). Exit 1 when an alert stayed silent or did not end.
"""

# ruff: noqa: T201 - a command: it prints

import argparse
import asyncio
import json
import sys
import time
from collections.abc import Awaitable, Callable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

import asyncpg

from tests.ops.tools import alerts
from tests.ops.town import COUNTS_WRONG, OTHER_VERSION, TOPIC, Town, open_town
from tests.support.blackbox import send, send_raw
from tests.support.generator import Message
from tests.support.kafka import delete_topic
from tests.support.postgres import dsn_of
from tests.support.proxy import Cut, Trigger

Scenario = Callable[[Town], Awaitable[str]]

SILENCE_PATIENCE_SECONDS = 150
"""Silent providers are counted once a minute."""


@dataclass(frozen=True, slots=True)
class Provocation:
    """A scenario; it returns what of the runbook it has tried."""

    alerts: frozenset[str]
    play: Scenario

    @property
    def name(self) -> str:
        """The function's."""
        return self.play.__name__

    @property
    def how(self) -> str:
        """The first line of its docstring."""
        return (self.play.__doc__ or "").partition("\n")[0]


PROVOCATIONS: list[Provocation] = []


def provokes(*names: str) -> Callable[[Scenario], Scenario]:
    """Enter a scenario, with the alerts that it must make fire."""

    def enter(play: Scenario) -> Scenario:
        PROVOCATIONS.append(Provocation(frozenset(f"Newsloom{name}" for name in names), play))
        return play

    return enter


def expected() -> Iterator[str]:
    """Yield every alert that some scenario provokes."""
    for provocation in PROVOCATIONS:
        yield from provocation.alerts


@provokes(
    "DependencyAway", "NoProgress", "Stale", "LagGrowing", "FreshnessBudgetBurning",
    "FreshnessBudgetDraining",
)  # fmt: skip
async def postgres_stopped(town: Town) -> str:
    """Postgres is stopped while records keep coming; then started."""
    wanted = _of(postgres_stopped)
    await asyncio.to_thread(town.server.stop)
    feeding = asyncio.create_task(_feed(town))
    try:
        await town.until(fires=wanted)
        assert "postgres" in await town.readiness("ingest")
        assert "postgres" in await town.newsloom("doctor", code=3)
    finally:
        feeding.cancel()
        await asyncio.gather(feeding, return_exceptions=True)
        await asyncio.to_thread(town.server.start)
    await town.until(ends=wanted)
    return "/readyz, doctor; nothing had to be restarted"


async def _feed(town: Town) -> None:
    while True:
        await town.send(20)
        await asyncio.sleep(0.3)


@provokes("DeadLetters", "LossBudgetBurning", "LossBudgetDraining")
async def poison(town: Town) -> str:
    """Six hundred messages that are no records, into one partition."""
    wanted = _of(poison)
    await send_raw(town.line.bootstrap, TOPIC, [b"{"] * 600)
    await town.until(fires=wanted)
    reason = ("--reason", "parse.json")
    listed = await town.newsloom(
        "dead-letters", "list", *reason, "--limit", "5", "--format", "json"
    )
    letters = [json.loads(line) for line in listed.splitlines()]
    assert len(letters) == 5
    assert await town.newsloom("dead-letters", "show", letters[0]["id"], "--value") == "{"
    await town.newsloom("dead-letters", "replay", *reason, "--dry-run")
    await town.until(ends=wanted)
    return "dead-letters list, dead-letters show, dead-letters replay --dry-run"


@provokes("HorizonHeld", "LinkBehind", "RelayBehind")
async def transaction_left_open(town: Town) -> str:
    """A session in another database writes and does not commit."""
    wanted = _of(transaction_left_open)
    session = await asyncpg.connect(dsn_of(town.line.dsn, "postgres"))
    try:
        await session.execute("BEGIN")
        await session.fetchval("SELECT pg_current_xact_id()")
        await town.send(40, patience=30)
        await town.until(fires=wanted)
        found = await town.line.fetch(
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE backend_xid IS NOT NULL"
            " AND datname = 'postgres'"
        )
        assert len(found) == 1
        await town.until(ends=wanted)
    finally:
        session.terminate()
    return "the query of the runbook, pg_terminate_backend"


@provokes("LoopStalled", "DatabasePoolExhausted")
async def table_locked(town: Town) -> str:
    """Somebody locks the articles, and every partition waits."""
    wanted = _of(table_locked)
    session = await asyncpg.connect(town.line.dsn)
    try:
        await session.execute("BEGIN; LOCK TABLE newsloom.articles IN ACCESS EXCLUSIVE MODE")
        await town.send(60)
        await town.until(fires=wanted)
        blocking = await town.line.fetch(
            "SELECT DISTINCT unnest(pg_blocking_pids(pid)) AS pid FROM pg_stat_activity"
        )
        assert session.get_server_pid() in {row["pid"] for row in blocking}
        await session.execute("ROLLBACK")
    finally:
        session.terminate()
    await town.until(ends=wanted)
    return "who blocks whom (pg_blocking_pids)"


@provokes("DeadLettersNotRelayed")
async def dead_letter_topic_gone(town: Town) -> str:
    """The Kafka topic of dead letters is deleted, and some come."""
    wanted = _of(dead_letter_topic_gone)
    await delete_topic(town.line.bootstrap, "newsloom.dead-letters.v1")
    await send_raw(town.line.bootstrap, TOPIC, [b"["] * 5)
    await town.until(fires=wanted)
    assert "does not exist" in await town.newsloom("topics", "show", code=1)
    await town.newsloom("topics", "apply")
    await town.until(ends=wanted)
    return "topics show, topics apply"


@provokes("TargetDown", "NoPartitionOwned", "Restarting")
async def ingest_killed(town: Town) -> str:
    """The only ingest process is killed, comes back, and is killed again."""
    gone = {"NewsloomTargetDown", "NewsloomNoPartitionOwned"}
    await town.end("ingest")
    await town.until(fires=gone)
    await town.start("ingest", "ingest")
    await town.until(ends=gone)
    for _ in range(2):
        await town.end("ingest")
        await town.start("ingest", "ingest")
        await asyncio.sleep(2)  # a scrape must see each
    await town.until(fires=_of(ingest_killed) - gone)
    await town.until(ends=_of(ingest_killed))
    return "started again; /readyz"


@provokes("TargetAbsent")
async def nothing_to_scrape(town: Town) -> str:
    """Prometheus no longer finds any process."""
    wanted = _of(nothing_to_scrape)
    town.watch(nothing=True)
    await town.until(fires=wanted)
    town.watch()
    await town.until(ends=wanted)
    return "targets put back"


@provokes("MixedVersions")
async def two_versions(town: Town) -> str:
    """A linker of another version stands by."""
    wanted = _of(two_versions)
    await town.start("other", "link", before=OTHER_VERSION)
    await town.until(fires=wanted)
    await town.end("other", forget=True)
    await town.until(ends=wanted)
    return "the rollout undone"


@provokes("EventLoopSlow")
async def ingest_stutters(town: Town) -> str:
    """Ingest is frozen for two seconds again and again."""
    wanted = _of(ingest_stutters)
    for _ in range(4):
        town.freeze("ingest")
        await asyncio.sleep(2.2)
        town.freeze("ingest", thaw=True)
        await asyncio.sleep(1.2)
        if wanted <= await town.firing():
            break
    await town.until(fires=wanted)
    await town.until(ends=wanted)
    return "thawed"


@provokes("CommitsUnanswered")
async def commits_cut(town: Town) -> str:
    """The network between ingest and Postgres breaks after a COMMIT was sent, twice."""
    wanted = _of(commits_cut)
    for _ in range(2):
        trigger = town.postgres.arm(Trigger(b"COMMIT\x00", Cut.AFTER))
        await town.send(20)
        async with asyncio.timeout(30):
            await trigger.fired.wait()
        await town.send(20, patience=40)
    await town.until(fires=wanted)
    await town.until(ends=wanted)
    return "nothing lost: positions reached the end"


@provokes("FencedOften")
async def positions_claimed(town: Town) -> str:
    """Somebody else claims the partitions in Postgres."""
    wanted = _of(positions_claimed)
    for _ in range(3):
        await town.line.fetch("UPDATE newsloom.ingest_offsets SET owner_epoch = owner_epoch + 1")
        await town.send(20, patience=40)
    await town.until(fires=wanted)
    await town.until(ends=wanted)
    return "the query for other processes"


@provokes("RebalancingOften")
async def members_come_and_go(town: Town) -> str:
    """A second ingest process joins and dies, again and again."""
    wanted = _of(members_come_and_go)
    for _ in range(2):
        await town.start("second", "ingest")
        await town.end("second")
    await town.until(fires=wanted)
    await town.start("second", "ingest")  # else its port would be a target that is down
    await town.end("second", forget=True)
    await town.until(ends=wanted)
    return "left alone"


@provokes("PollErrors")
async def fetches_corrupted(town: Town) -> str:
    """Bits of what Kafka sends are wrong, twice."""
    wanted = _of(fetches_corrupted)
    town.kafka.flip_from = 600
    for _ in range(2):
        town.kafka.flips = 1
        await town.send(40)
        async with asyncio.timeout(30):
            while town.kafka.flips:  # noqa: ASYNC110 - the proxy tells nobody
                await asyncio.sleep(0.05)
    await town.until(fires=wanted)
    town.kafka.heal()
    await town.send(20, patience=40)
    await town.until(ends=wanted)
    return "went on by itself"


@provokes("PublishFailing")
async def kafka_unreachable(town: Town) -> str:
    """The network to Kafka swallows everything while a program publishes."""
    # Ingest, which is idle, has to notice too.
    wanted, away = _of(kafka_unreachable), {"NewsloomDependencyAway"}
    await town.start_publishing("publishing")
    await asyncio.sleep(3)
    town.kafka.blackhole()
    try:
        await town.until(fires=wanted | away)
    finally:
        town.kafka.heal()
    await town.until(ends=wanted | away)
    await town.end("publishing", forget=True)
    return "published again"


@provokes("OutcomeLawViolated")
async def counting_wrong(town: Town) -> str:
    """An ingest with a fault planted in it counts a delivery too many."""
    wanted = _of(counting_wrong)
    await town.end("ingest")
    await town.start("ingest", "ingest", before=COUNTS_WRONG)
    await town.send(20, patience=40)
    await town.until(fires=wanted)
    rows = await town.line.fetch(
        "SELECT next_offset - (created + revised + refreshed + unchanged + stale + rejected +"
        " skipped) AS unaccounted FROM api.ingest_progress WHERE kafka_topic = $1",
        TOPIC,
    )
    unaccounted = [row["unaccounted"] for row in rows]
    assert set(unaccounted) == {0}, f"the tables are right, and not {unaccounted}"
    await town.end("ingest")
    await town.start("ingest", "ingest")
    await town.until(ends=wanted)
    return "the query for unaccounted deliveries; the version before"


@provokes("PartitionParked")
async def position_beyond_the_end(town: Town) -> str:
    """A stored position is beyond the end of the partition, as when a Kafka topic is made anew."""
    wanted = _of(position_beyond_the_end)
    await town.line.fetch(
        "UPDATE newsloom.ingest_offsets SET owner_epoch = owner_epoch + 1,"
        " next_offset = next_offset + 1000000 WHERE kafka_topic = $1 AND kafka_partition = 0",
        TOPIC,
    )
    await town.send(20)
    await town.until(fires=wanted)
    rows = (await town.newsloom("offsets", "show", "--format", "json", code=1)).splitlines()
    (parked,) = (row for row in map(json.loads, rows) if row["parked_reason"])
    assert parked["parked_reason"] == "offset.past_end"
    position, right = parked["next_offset"], parked["next_offset"] - 10**6
    command = ("offsets", "rebase", TOPIC, "0", "--to", str(right), "--expect", str(position))
    why = ("--reason", "the position was moved by hand", "--allow-rewind")
    await town.newsloom(*command, *why, code=2)  # tells what it would do
    await town.newsloom(*command, *why, "--yes")
    await town.until(ends=wanted)
    return "offsets show, offsets rebase"


@provokes("NothingArrives", "ProviderSilent")
async def sources_silent(town: Town) -> str:
    """A provider's articles are two hours old, and then nothing comes from anybody."""
    wanted = _of(sources_silent)
    long_ago = datetime.now(UTC) - timedelta(hours=2)
    messages = [
        _article("silent", number, long_ago - timedelta(minutes=number)) for number in range(22)
    ]
    await send(town.line.bootstrap, TOPIC, messages)
    await town.send(100, patience=40)
    await town.until(fires=wanted, patience=SILENCE_PATIENCE_SECONDS)
    (row,) = await town.line.fetch("SELECT * FROM api.provider_silence WHERE is_silent")
    assert row["provider_domain"] == "silent.example"
    await send(town.line.bootstrap, TOPIC, [_article("silent", 22, datetime.now(UTC))])
    await town.until(ends=wanted, patience=SILENCE_PATIENCE_SECONDS)
    return "api.provider_silence names it"


def _article(provider: str, number: int, observed_at: datetime) -> Message:
    return Message(
        observed_at,
        {
            "title": f"{provider} {number}",
            "webUrl": f"https://{provider}.example/{number}",
            "provider": {"name": provider, "domain": f"{provider}.example"},
        },
        "content",
        f"{provider}-{number}",
    )


def _of(play: Scenario) -> frozenset[str]:
    return next(one.alerts for one in PROVOCATIONS if one.play is play)


async def play_all(names: list[str]) -> bool:
    """Play scenarios on one deployment; print a line for each. Tell whether all held."""
    held = True
    severities = {name: rule["labels"]["severity"] for name, rule in alerts().items()}
    async with open_town() as town:
        await town.send(200, patience=60)
        for provocation in PROVOCATIONS:
            if names and provocation.name not in names:
                continue
            town.began = time.monotonic()
            try:
                tried = await provocation.play(town)
            except (AssertionError, LookupError, OSError, asyncpg.PostgresError) as error:
                held, verdict = False, f"FAILED: {type(error).__name__} {error}"
                await town.restore()
            else:
                verdict = f"fired and ended; runbook: {tried}"
            print(f"{provocation.how} ({time.monotonic() - town.began:.0f} s)")
            for name in sorted(provocation.alerts):
                print(f"    {name} ({severities[name]})")
            print(f"    {verdict}", flush=True)
    return held


def main() -> int:
    """Play all of them, or some."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--only", default="", help="names, separated by commas")
    parser.add_argument("--list", action="store_true", help="name the scenarios and end")
    options = parser.parse_args()
    if options.list:
        for provocation in PROVOCATIONS:
            print(f"{provocation.name:24}{provocation.how}")
        return 0
    known = {provocation.name for provocation in PROVOCATIONS}
    names = [name for name in options.only.split(",") if name]
    if unknown := set(names) - known:
        parser.error(f"no such scenario: {', '.join(sorted(unknown))}; --list names them")
    return 0 if asyncio.run(play_all(names)) else 1


if __name__ == "__main__":
    sys.exit(main())
