"""The faults, each as a function over a rig: make it happen, heal it, say what must have followed.

Numbers as in docs/delivery.md. What must hold in every scenario (I1-I9) is the checker's business;
a scenario asserts what is particular to it.
"""

import asyncio
import signal
import time
from collections.abc import Awaitable, Callable

import asyncpg

from tests.faults.rig import Member, Rig
from tests.support.kafka import add_partitions, delete_group
from tests.support.proxy import Cut, Trigger

Scenario = Callable[[Rig], Awaitable[None]]

COMMIT = b"COMMIT\0"
STUBBORN = 8
"""Times that a member must have been refused a connection."""

RATE = 200
"""Records a second: enough that each partition always has something to commit."""


async def killed_anywhere(rig: Rig, kills: int = 4) -> None:
    """F1: kill -9, again and again, at random moments and over three members."""
    members = [await rig.member() for _ in range(3)]
    rig.flow(RATE)
    await rig.owned_by(*members)
    slowest = 0.0
    for _ in range(kills):
        await asyncio.sleep(rig.rng.uniform(0.2, 3))
        victim = rig.rng.randrange(len(members))
        recovered = await kill_and_time(rig, members[victim])
        slowest = max(slowest, recovered)
        members[victim] = await rig.member()
        if rig.rng.random() < 0.5:
            await rig.owned_by(*members)
    rig.figures["kills"] = kills
    rig.figures["slowest recovery s"] = slowest


async def kill_and_time(rig: Rig, victim: Member) -> float:
    """Kill a member; return how long until all that it owned is moved on by others, seconds."""
    lost = [number for number, login in (await rig.owners()).items() if login == victim.login]
    await victim.kill()
    assert victim.ended is not None
    return await rig.taken_over(lost, victim, victim.ended)


async def frozen_before_transaction(rig: Rig) -> None:
    """F4: a member freezes with a batch in its hands and goes on after another has taken over."""
    zombie = await _freeze(rig, "before_cas")
    assert '"fenced"' in await said(zombie, '"fenced"')


async def frozen_in_transaction(rig: Rig) -> None:
    """F5: the same inside the transaction, where it holds the partition's row: Postgres ends it."""
    await _freeze(rig, "after_cas")


async def _freeze(rig: Rig, step: str) -> Member:
    heir = await rig.member()
    rig.flow(RATE)
    await rig.owned_by(heir)
    visit = rig.rng.randrange(3, 9)
    zombie = await rig.member(extra={"NEWSLOOM_TEST_FAILPOINT": f"{step}:{visit}:stop"})
    owners = await rig.owned_by(zombie, heir)
    await zombie.frozen()
    lost = [number for number, login in owners.items() if login == zombie.login]
    rig.figures["taken over after s"] = await rig.taken_over(lost, zombie, time.time())
    zombie.signal(signal.SIGCONT)
    thawed_at = time.time()
    await rig.owned_by(zombie, heir)
    rig.figures["owner again after s"] = time.time() - thawed_at
    return zombie


async def said(member: Member, words: str, patience: float = 20) -> str:
    """Wait until a member has logged something; return its log."""
    async with asyncio.timeout(patience):
        while words not in member.told():  # noqa: ASYNC110 - a file has no event
            await asyncio.sleep(0.1)
    return member.told()


async def postgres_killed(rig: Rig, away_seconds: float = 4) -> None:
    """F10: SIGKILL of the postmaster and all backends; it comes back after a while."""
    member = await rig.member()
    rig.flow(RATE)
    await rig.progress(200)
    await asyncio.to_thread(rig.bench.postgres.kill)
    await asyncio.sleep(away_seconds)
    assert member.alive, member.told()[-3000:]
    await asyncio.to_thread(rig.bench.postgres.start)
    rig.figures["resumed after s"] = await rig.progress(1, patience=10)


async def cut_before_commit(rig: Rig, cuts: int = 4) -> None:
    """F14: the link breaks before COMMIT arrives: nothing of the batch happened."""
    await _cut_at_commit(rig, Cut.BEFORE, cuts)


async def cut_after_commit(rig: Rig, cuts: int = 4) -> None:
    """F14: COMMIT is done, and nobody is told: all of the batch happened, and must not again."""
    await _cut_at_commit(rig, Cut.AFTER, cuts)


async def _cut_at_commit(rig: Rig, cut: Cut, cuts: int) -> None:
    await rig.feed.send(400)
    member = await rig.member()
    await rig.progress(1)
    rig.flow(RATE)
    for _ in range(cuts):
        trigger = rig.postgres.arm(Trigger(COMMIT, cut, visit=rig.rng.randrange(1, 6)))
        async with asyncio.timeout(30):
            await trigger.fired.wait()
        await rig.progress(100)
    assert member.alive, member.told()[-3000:]
    rig.figures["cuts"] = cuts


async def broker_killed(rig: Rig, away_seconds: float = 1) -> None:
    """F23: SIGKILL of the only broker, and a restart; the producer and the member wait for it."""
    member = await rig.member()
    rig.flow(RATE)
    await rig.progress(200)
    await asyncio.to_thread(rig.bench.kafka.kill)
    await asyncio.sleep(away_seconds)
    assert member.alive, member.told()[-3000:]
    await asyncio.to_thread(rig.bench.kafka.start)
    # What was fetched before counts as no progress: wait for more than the queues hold.
    rig.figures["resumed after s"] = await rig.progress(1000, patience=60)


async def postgres_restored(rig: Rig) -> None:
    """F33: Postgres comes back from an older copy while a member runs."""
    await rig.feed.send(300)
    member = await rig.member()
    await rig.line.reached(300, 60)
    copy = await asyncio.to_thread(rig.bench.backup)
    rig.flow(RATE)
    await rig.progress(400)
    before = await rig.line.position()
    await asyncio.to_thread(rig.bench.restore, copy)
    after = await rig.line.position()
    rig.figures["taken back"] = before - after
    assert after < before
    await rig.line.reached(before, 60)
    assert member.alive, member.told()[-3000:]


# Those below are for `make chaos`: longer, or of less weight.


async def killed_at_each_step(rig: Rig) -> None:
    """F2, F3: killed after the compare-and-set, before COMMIT, and right after it."""
    rig.flow(RATE)
    for step in ("before_cas", "after_cas", "before_commit", "after_commit"):
        visit = rig.rng.randrange(1, 6)
        victim = await rig.member(extra={"NEWSLOOM_TEST_FAILPOINT": f"{step}:{visit}:kill9"})
        async with asyncio.timeout(60):
            assert await victim.process.wait() == -signal.SIGKILL, victim.told()[-3000:]
    await rig.member()
    await rig.progress(1)


async def rebalance_storm(rig: Rig, rounds: int = 8) -> None:
    """F7: members come and go, politely, all the time."""
    steady = await rig.member()
    rig.flow(RATE)
    await rig.progress(100)
    before = await rig.line.position()
    for _ in range(rounds):
        guest = await rig.member()
        await said(guest, '"admin port open"')
        await asyncio.sleep(rig.rng.uniform(0.1, 3))
        assert await guest.terminate() == 0, guest.told()[-3000:]
    rig.figures["progress in the storm"] = await rig.line.position() - before
    assert rig.figures["progress in the storm"] > 0
    assert steady.alive


async def backends_killed(rig: Rig, rounds: int = 12) -> None:
    """F11: pg_terminate_backend, again and again."""
    member = await rig.member()
    rig.flow(RATE)
    for _ in range(rounds):
        await rig.progress(20)
        await asyncio.sleep(rig.rng.uniform(0, 0.3))
        await rig.as_owner(
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity"  # noqa: S608 - a name of ours
            f" WHERE usename = '{member.login}'"
        )
    assert member.alive, member.told()[-3000:]


async def postgres_frozen(rig: Rig, seconds: float = 15) -> None:
    """F12: the server hangs with all its backends; deadlines fire, heartbeats go on."""
    member = await rig.member()
    rig.flow(RATE)
    await rig.progress(200)
    rig.bench.postgres.freeze()
    await asyncio.sleep(seconds)
    rig.bench.postgres.thaw()
    rig.figures["resumed after s"] = await rig.progress(1, patience=20)
    never_left(member)


async def postgres_restarted(rig: Rig, rounds: int = 3) -> None:
    """F13: restarts under load."""
    member = await rig.member()
    rig.flow(RATE)
    for _ in range(rounds):
        await rig.progress(100)
        await asyncio.to_thread(rig.bench.postgres.stop)
        await asyncio.to_thread(rig.bench.postgres.start)
        rig.figures["resumed after s"] = await rig.progress(1, patience=10)
    assert member.alive, member.told()[-3000:]


async def postgres_unreachable(rig: Rig, seconds: float = 12) -> None:
    """F15: nothing comes back from Postgres, and nobody says so."""
    member = await rig.member()
    rig.flow(RATE)
    await rig.progress(200)
    rig.postgres.blackhole()
    await asyncio.sleep(seconds)
    rig.postgres.heal()
    rig.figures["resumed after s"] = await rig.progress(1, patience=45)
    never_left(member)


async def postgres_slow(rig: Rig, seconds: float = 15) -> None:
    """F16: each way takes 200 ms, 64 KB/s: throughput falls, membership stays, memory is kept."""
    member = await rig.member()
    rig.flow(50)
    await rig.progress(50)
    rig.postgres.latency_seconds, rig.postgres.bytes_per_second = 0.2, 64 << 10
    await asyncio.sleep(seconds)
    await rig.progress(1)
    rig.figures["RSS MB"] = member.rss_megabytes()
    rig.postgres.heal()
    never_left(member)


async def statements_fail(rig: Rig) -> None:
    """F18, F19, F20: statements fail with the codes of an outage; no healthy record is blamed."""
    await prepare_injection(rig)
    member = await rig.member()
    rig.flow(RATE)
    await rig.progress(100)
    for code in ("53100", "40P01", "55P03", "53300", "57014", "08006"):
        await inject(rig, code)
        before = await rig.line.position()
        await asyncio.sleep(2)
        assert await rig.line.position() - before <= 200, "it was not felt"
        await inject(rig, None)
        rig.figures["resumed after s"] = await rig.progress(1, patience=10)
    assert member.alive, member.told()[-3000:]


async def prepare_injection(rig: Rig, tables: str = "articles") -> None:
    """Make `inject` possible. Before members start: triggers are made under locks.

    `tables`: a pattern for LIKE, within the schema `newsloom`.
    """
    await rig.as_owner(INJECTION.replace("<tables>", tables))


async def inject(rig: Rig, code: str | None) -> None:
    """Let each statement that writes to such a table fail with an SQLSTATE; None: no longer."""
    told = "NULL" if code is None else f"'{code}'"
    await rig.as_owner(f"UPDATE fault_audit.injected SET code = {told}")  # noqa: S608 - ours


INJECTION = """
CREATE TABLE fault_audit.injected AS SELECT NULL::text AS code;
CREATE FUNCTION fault_audit.fail() RETURNS trigger LANGUAGE plpgsql SECURITY DEFINER
AS $$
DECLARE told text := (SELECT code FROM fault_audit.injected);
BEGIN
    IF told IS NOT NULL THEN
        RAISE EXCEPTION 'injected' USING ERRCODE = told;
    END IF;
    RETURN NULL;
END $$;
DO $$
DECLARE name text;
BEGIN
    FOR name IN SELECT tablename FROM pg_tables WHERE schemaname = 'newsloom'
        AND tablename LIKE '<tables>' LOOP
        EXECUTE format('CREATE TRIGGER fault_injected AFTER INSERT OR UPDATE OR DELETE'
            ' ON newsloom.%I FOR EACH STATEMENT EXECUTE FUNCTION fault_audit.fail()', name);
    END LOOP;
END $$;
"""


async def connections_used_up(rig: Rig) -> None:
    """F20: others hold all connections that Postgres has."""
    member = await rig.member()
    rig.flow(RATE)
    await rig.progress(100)
    await rig.as_owner(
        "SELECT pg_terminate_backend(pid) FROM pg_stat_activity"  # noqa: S608 - a name of ours
        f" WHERE usename = '{member.login}'"
    )
    held: list[asyncpg.Connection] = []
    try:
        async with asyncio.timeout(30):
            while member.told().count('"53300"') < STUBBORN:
                try:
                    held.append(await asyncpg.connect(rig.bench.server))
                except asyncpg.TooManyConnectionsError:
                    await asyncio.sleep(0.1)
    finally:
        for connection in held:
            connection.terminate()
    rig.figures["resumed after s"] = await rig.progress(1, patience=10)
    never_left(member)


async def read_only(rig: Rig) -> None:
    """F17: the server turns read-only, as one that has lost its role."""
    member = await rig.member()
    rig.flow(RATE)
    await rig.progress(100)
    await rig.as_owner("ALTER SYSTEM SET default_transaction_read_only = on")
    try:
        await rig.as_owner("SELECT pg_reload_conf()")
        await asyncio.sleep(3)
    finally:
        await rig.as_owner("ALTER SYSTEM RESET default_transaction_read_only")
        await rig.as_owner("SELECT pg_reload_conf()")
    rig.figures["resumed after s"] = await rig.progress(1, patience=10)
    assert '"25006"' in member.told()


async def schema_changes(rig: Rig) -> None:
    """F21: tables change under prepared statements."""
    member = await rig.member()
    rig.flow(RATE)
    for number in range(3):
        await rig.progress(100)
        await rig.as_owner(f"ALTER TABLE newsloom.articles ADD COLUMN faults_{number} integer")
        await rig.as_owner(f"ALTER TABLE newsloom.article_urls ADD COLUMN faults_{number} integer")
    await rig.progress(100)
    assert member.alive, member.told()[-3000:]


async def right_revoked(rig: Rig) -> None:
    """F22: a right is missing: wait and tell, blame no record, heal with the GRANT."""
    member = await rig.member()
    rig.flow(RATE)
    await rig.progress(100)
    await rig.as_owner(f"ALTER ROLE {member.login} NOSUPERUSER")
    await asyncio.sleep(3)
    await rig.as_owner(f"ALTER ROLE {member.login} SUPERUSER")
    rig.figures["resumed after s"] = await rig.progress(1, patience=10)
    assert '"42501"' in member.told()


async def broker_frozen(rig: Rig, seconds: float = 15) -> None:
    """F24: the broker hangs."""
    member = await rig.member()
    rig.flow(RATE)
    await rig.progress(200)
    rig.bench.kafka.freeze()
    await asyncio.sleep(seconds)
    rig.bench.kafka.thaw()
    rig.figures["resumed after s"] = await rig.progress(1000, patience=60)
    assert member.alive, member.told()[-3000:]


async def broker_link_breaks(rig: Rig, rounds: int = 8) -> None:
    """F27: every link to Kafka is reset every two seconds, and what passes is sliced."""
    member = await rig.member()
    rig.flow(RATE)
    await rig.progress(100)
    rig.kafka.slice_bytes = 97
    for _ in range(rounds):
        await asyncio.sleep(2)
        rig.kafka.reset_all()
    rig.kafka.heal()
    rig.figures["resumed after s"] = await rig.progress(500, patience=60)
    assert member.alive, member.told()[-3000:]


async def broker_link_corrupts(rig: Rig, flips: int = 6) -> None:
    """F28: bits of what Kafka sends are wrong; a checksum tells, and nothing else is lost."""
    await rig.feed.send(2000)
    member = await rig.member()
    rig.kafka.flip_from = 600  # nothing but fetched records is as long as that
    rig.flow(RATE)
    for _ in range(flips):
        rig.kafka.flips = 1
        async with asyncio.timeout(30):
            while rig.kafka.flips:  # noqa: ASYNC110 - the proxy tells nobody
                await asyncio.sleep(0.05)
        await rig.progress(200)
    rig.kafka.heal()
    rig.figures["bits wrong"] = rig.kafka.flipped
    rig.figures["polls failed"] = member.told().count('"poll failed"')
    assert member.alive, member.told()[-3000:]


async def more_partitions(rig: Rig) -> None:
    """F32: partitions are added while records come."""
    await rig.member()
    rig.flow(RATE)
    await rig.progress(100)
    await add_partitions(rig.line.bootstrap, rig.line.topic, rig.line.partitions + 2)
    rig.line = rig.feed.widen(rig.line.partitions + 2)
    await rig.progress(200)
    async with asyncio.timeout(90):  # the client looks for new partitions now and then
        while len(await rig.owners()) < rig.line.partitions:  # noqa: ASYNC110
            await asyncio.sleep(0.5)


async def group_deleted(rig: Rig) -> None:
    """F34: the group and its mirrored offsets are gone: positions live elsewhere."""
    member = await rig.member()
    rig.flow(RATE)
    await rig.progress(200)
    await asyncio.sleep(6)  # the mirror has been written
    assert await member.terminate() == 0
    await delete_group(rig.line.bootstrap, rig.line.group)
    await rig.member()
    await rig.progress(200)


async def stopped_politely(rig: Rig) -> None:
    """F39: SIGTERM under load, and SIGTERM while both services hang."""
    member = await rig.member()
    rig.flow(RATE)
    await rig.progress(200)
    began = time.time()
    assert await member.terminate(30) == 0, member.told()[-3000:]
    rig.figures["stopped after s"] = time.time() - began
    heir = await rig.member()
    await rig.progress(100)
    rig.bench.postgres.freeze()
    rig.bench.kafka.freeze()
    await asyncio.sleep(1)
    try:
        began = time.time()
        await heir.terminate(30)
        rig.figures["stopped alone after s"] = time.time() - began
    finally:
        rig.bench.kafka.thaw()
        rig.bench.postgres.thaw()
    await rig.member()


def never_left(member: Member) -> None:
    """A member that waits for Postgres keeps its partitions: it is assigned once."""
    assert member.alive, member.told()[-3000:]
    assert member.told().count('"partitions assigned"') == 1, member.told()[-3000:]
