"""A whole deployment to provoke alerts on: services of its own behind proxies, every role as a
process, and a real Prometheus with the real rules made hasty.
"""

import asyncio
import json
import math
import os
import re
import signal
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Sequence
from collections.abc import Set as AbstractSet
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import urlsplit, urlunsplit

from newsloom.adapters.embedded import EmbeddedKafka, EmbeddedPostgres, default_cache
from newsloom.adapters.embedded.processes import free_port
from tests.ops.test_prometheus_live import answers, ask
from tests.ops.tools import RULES, program
from tests.support.blackbox import Line, kill, send
from tests.support.generator import Message, Stream
from tests.support.proxy import Proxy, open_proxy

TOPIC = "newsloom.articles.v1"
PATIENCE_SECONDS = 60
ROLES = ("ingest", "link", "relay")

# Windows and offsets as long as they must be for some scrapes to fall into them.
SHORTER = {"5m": "8s", "15m": "20s", "30m": "20s", "1h": "20s", "2h": "20s", "6h": "40s"}
SHORTER |= {"1d": "20s", "3d": "40s"}
LOWER = {
    "> bool 60": "> bool 2",
    "partition:newsloom_consumer_lag_seconds:max > 300": None,
    "newsloom_watchdog_progress_age_seconds > 30": None,
    "(newsloom_link_lag_seconds) > 300": None,
    "(newsloom_relay_lag_seconds) > 300": None,
    "(newsloom_relay_oldest_dead_letter_seconds) > 900": None,
    "(newsloom_change_horizon_age_seconds) > 120": None,
    "job:newsloom_consumer_lag_records:sum > 5000": "job:newsloom_consumer_lag_records:sum > 20",
    'start_time_seconds{job="newsloom"}[20s]) > 2': 'start_time_seconds{job="newsloom"}[20s]) > 1',
    "(increase(newsloom_commit_unknown_total[20s])) > 3": "",
    "(increase(newsloom_fenced_total[20s])) > 20": "",
    "(increase(newsloom_poll_errors_total[20s])) > 15": "",
    "increase(newsloom_rebalances_total[20s]) > 8": "",
}
"""Limits: None makes them 3 seconds, an empty text makes them 0."""

COUNTS_WRONG = """
from newsloom.metrics import Metrics
right = Metrics.observe_batch
def wrong(self, report):
    right(self, report)
    self.deliveries_consumed.inc()
Metrics.observe_batch = wrong
"""
OTHER_VERSION = "import importlib.metadata as m\nm.version = lambda name: '9.9.9'\n"
MAIN = "\nfrom newsloom.cli.main import main\nmain()\n"

PUBLISHING = """
import asyncio, sys
from prometheus_client import CollectorRegistry, start_http_server
from newsloom import ArticlePublisher
from newsloom.errors import Unavailable
async def main():
    registry = CollectorRegistry()
    start_http_server(int(sys.argv[1]), addr="127.0.0.1", registry=registry)
    async with ArticlePublisher(registry=registry, delivery_timeout_seconds=2) as publisher:
        for number in range(100_000):
            record = {"title": "x", "webUrl": f"https://publishing.example/{number}"}
            try:
                await publisher.publish(record)
            except Unavailable:
                pass
            await asyncio.sleep(0.2)
asyncio.run(main())
"""


def hasty_rules() -> str:
    """Return the rules with short waits, short windows and low limits."""
    text = re.sub(r"(?m)^(\s+for: ).*$", r"\g<1>1s", RULES.read_text())
    text = re.sub(r"\[(\d+[mhd])\]", lambda match: f"[{SHORTER[match[1]]}]", text)
    text = text.replace("offset 15m", "offset 4s").replace("offset 1d", "offset 30s")
    for limit, lower in LOWER.items():
        assert limit in text, f"the rules no longer say {limit}"
        made = lower or re.sub(r"> \d+$", "> 3" if lower is None else "> 0", limit)
        text = text.replace(limit, made)
    return text


@dataclass(slots=True, eq=False)
class Town:
    """The deployment; what alerts see and what causes them."""

    folder: Path
    kafka: Proxy
    postgres: Proxy
    """Only ingest goes through it: a linker's commit would be cut for one of ingest's."""
    direct_dsn: str
    server: EmbeddedPostgres
    line: Line
    base: str = ""
    began: float = 0.0
    """When the present scenario did, by `time.monotonic`."""
    ports: dict[str, int] = field(default_factory=dict)
    processes: dict[str, asyncio.subprocess.Process] = field(default_factory=dict)
    _stream: list[Message] = field(default_factory=list)
    _sent: int = 0

    async def start(
        self, name: str, *arguments: str, before: str = "", extra: dict[str, str] | None = None
    ) -> None:
        """Start a newsloom process under a name, which keeps its port for ever.

        Returns when it is ready and Prometheus has seen it: what it counts before is no increase.
        """
        port = self.ports.setdefault(name, free_port())
        own = MEMBER | {"NEWSLOOM_ADMIN_PORT": str(port)}
        if arguments != ("ingest",):
            own["NEWSLOOM_POSTGRES_DSN"] = self.direct_dsn
        environment = self.line.environment(own)
        await self._spawn(name, ["-c", before + MAIN, *arguments], environment | (extra or {}))
        self.watch()
        await answers(f"http://127.0.0.1:{port}", "/readyz", self.processes[name])
        await self._scraped(port)

    async def start_publishing(self, name: str) -> None:
        """Start a program that publishes through the library, and shows its metrics."""
        port = self.ports.setdefault(name, free_port())
        await self._spawn(name, ["-c", PUBLISHING, str(port)], self.line.environment())
        self.watch()
        await answers(f"http://127.0.0.1:{port}", "/metrics", self.processes[name])
        await self._scraped(port)

    async def _scraped(self, port: int) -> None:
        """Wait for a scrape of what listens there now."""
        query = f'timestamp(up{{instance="127.0.0.1:{port}"}} == 1) > {time.time()}'
        async with asyncio.timeout(PATIENCE_SECONDS):
            while not await self._ask(query):  # noqa: ASYNC110 - Prometheus tells nobody
                await asyncio.sleep(0.2)

    async def _spawn(self, name: str, arguments: Sequence[str], env: dict[str, str]) -> None:
        with (self.folder / f"{name}.log").open("ab") as log:
            self.processes[name] = await asyncio.create_subprocess_exec(
                sys.executable,
                *arguments,
                stdin=asyncio.subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                env=env,
                start_new_session=True,
            )

    async def end(self, name: str, *, forget: bool = False) -> None:
        """Kill a process; with `forget` Prometheus no longer looks for it."""
        process = self.processes.pop(name)
        kill(process)
        await process.wait()
        if forget:
            del self.ports[name]
            self.watch()

    def freeze(self, name: str, *, thaw: bool = False) -> None:
        """Stop a process where it is, or let it go on."""
        os.killpg(self.processes[name].pid, signal.SIGCONT if thaw else signal.SIGSTOP)

    def watch(self, *, nothing: bool = False) -> None:
        """Tell Prometheus what to scrape."""
        targets = [] if nothing else [f"127.0.0.1:{port}" for port in self.ports.values()]
        path = self.folder / "targets.json"
        path.with_suffix(".new").write_text(json.dumps([{"targets": targets}]))
        path.with_suffix(".new").rename(path)

    async def send(self, count: int, *, patience: float = 0) -> None:
        """Send so many deliveries to both partitions; with `patience` wait until they are in."""
        if not self._stream:
            self._stream = list(Stream(3, deliveries=6000, rejected=0))
        batch = self._stream[self._sent : self._sent + count]
        assert len(batch) == count, "the stream is used up"
        self._sent += count
        await send(self.line.bootstrap, TOPIC, batch, lambda message: len(message.path) % 2)
        if patience:
            await self.line.reached(await self.line.log_end(), patience)

    async def newsloom(self, *arguments: str, code: int = 0) -> str:
        """Run a command of the runbook."""
        done = await self.line.run(*arguments)
        assert done.code == code, done.told()
        return done.out

    async def readiness(self, name: str) -> str:
        """Return what a process that is not ready answers to `curl http://HOST:PORT/readyz`."""
        url = f"http://127.0.0.1:{self.ports[name]}/readyz"
        done = await asyncio.create_subprocess_exec(
            "curl", "-s", url, stdout=asyncio.subprocess.PIPE
        )
        told, _ = await done.communicate()
        reasons: list[str] = json.loads(told)["reasons"]
        return "; ".join(reasons)

    async def firing(self) -> set[str]:
        """Return the alerts that fire."""
        return {labels["alertname"] for labels in await self._ask('ALERTS{alertstate="firing"}')}

    async def fired(self) -> set[str]:
        """Return the alerts that have fired since the scenario began.

        A window of 20 seconds may be over before a slow machine has come round to asking.
        """
        seconds = math.ceil(time.monotonic() - self.began)
        query = f'last_over_time(ALERTS{{alertstate="firing"}}[{max(seconds, 1)}s])'
        return {labels["alertname"] for labels in await self._ask(query)}

    async def _ask(self, query: str) -> list[dict[str, str]]:
        """Return the labels of the series that a query gives now."""
        answer = await asyncio.to_thread(ask, self.base, "/api/v1/query", query=query)
        return [item["metric"] for item in answer["data"]["result"]]

    async def until(
        self,
        *,
        fires: AbstractSet[str] = frozenset(),
        ends: AbstractSet[str] = frozenset(),
        patience: float = PATIENCE_SECONDS,
    ) -> None:
        """Wait until each of these alerts has fired, and none of those does."""
        silent: AbstractSet[str] = fires
        now = set[str]()
        try:
            async with asyncio.timeout(patience):
                while True:
                    now, silent = await self.firing(), fires - await self.fired()
                    if not silent and not now & ends:
                        return
                    await asyncio.sleep(0.5)
        except TimeoutError:
            left = sorted(now & ends)
            raise AssertionError(f"silent: {sorted(silent)}; still firing: {left}") from None

    async def restore(self) -> None:
        """Make good what a scenario that failed has left behind, for the next one."""
        self.kafka.heal()
        self.postgres.heal()
        await asyncio.to_thread(self.server.start)
        for name in self.ports.keys() - set(ROLES):
            if name in self.processes:
                await self.end(name)
            del self.ports[name]
        for role in ROLES:
            if role in self.processes:
                await self.end(role)
            await self.start(role, role)


MEMBER = {
    "NEWSLOOM_POSTGRES_POOL_MAX_CONNECTIONS": "2",
    "NEWSLOOM_POSTGRES_LOCK_TIMEOUT_SECONDS": "25",
    "NEWSLOOM_POSTGRES_STATEMENT_TIMEOUT_SECONDS": "30",
    "NEWSLOOM_POSTGRES_COMMAND_TIMEOUT_SECONDS": "35",
    "NEWSLOOM_POSTGRES_TRANSACTION_TIMEOUT_SECONDS": "40",
}


@asynccontextmanager
async def open_town() -> AsyncIterator[Town]:
    """Start everything: Kafka, Postgres, schema, Kafka topics, the three roles, Prometheus."""
    async with AsyncExitStack() as stack:
        temporary = stack.enter_context(tempfile.TemporaryDirectory(prefix="newsloom-alerts-"))
        folder = Path(temporary)
        folder.chmod(0o711)  # noqa: ASYNC240 - at once
        cache = default_cache(os.environ, folder)
        kafka_port, postgres_port = free_port(), free_port()
        kafka = EmbeddedKafka(folder / "kafka", cache=cache, advertised_port=kafka_port)
        server = EmbeddedPostgres(folder / "postgres", config={"fsync": "off"})
        stack.callback(server.kill)
        stack.callback(kafka.kill)
        await asyncio.to_thread(kafka.start)
        dsn = await asyncio.to_thread(server.start)
        assert kafka.port is not None
        assert server.port is not None
        kafka_proxy = await stack.enter_async_context(open_proxy(kafka.port, kafka_port))
        postgres_proxy = await stack.enter_async_context(open_proxy(server.port, postgres_port))
        parts = urlsplit(dsn)
        through = parts._replace(netloc=parts.netloc.rpartition(":")[0] + f":{postgres_port}")
        line = Line(f"127.0.0.1:{kafka_port}", urlunsplit(through), TOPIC, partitions=2)
        town = Town(folder, kafka_proxy, postgres_proxy, dsn, server, line)
        stack.callback(_end_all, town)
        await line.migrate()
        await town.newsloom("topics", "apply", "--partitions", "2")
        town.base = await stack.enter_async_context(_prometheus(folder))
        for role in ROLES:
            await town.start(role, role)
        yield town


def _end_all(town: Town) -> None:
    for process in town.processes.values():
        kill(process)


@asynccontextmanager
async def _prometheus(folder: Path) -> AsyncIterator[str]:
    (folder / "rules.yml").write_text(hasty_rules())
    (folder / "targets.json").write_text("[]")
    (folder / "prometheus.yml").write_text(
        "global: {scrape_interval: 1s, scrape_timeout: 1s, evaluation_interval: 1s}\n"
        "rule_files: [rules.yml]\n"
        "scrape_configs:\n"
        "  - job_name: newsloom\n"
        "    file_sd_configs: [{files: [targets.json], refresh_interval: 1s}]\n"
    )
    address = f"127.0.0.1:{free_port()}"
    process = await asyncio.create_subprocess_exec(
        program("prometheus"),
        f"--config.file={folder / 'prometheus.yml'}",
        f"--storage.tsdb.path={folder / 'data'}",
        f"--web.listen-address={address}",
        "--log.level=warn",
        stdout=asyncio.subprocess.DEVNULL,
        stderr=asyncio.subprocess.DEVNULL,
    )
    try:
        await answers(f"http://{address}", "/-/ready")
        yield f"http://{address}"
    finally:
        with suppress(ProcessLookupError):
            process.terminate()
        await process.wait()
