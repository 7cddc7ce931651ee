"""A small newsroom's fortnight, stored and linked: what the queries of the cookbook are tried on.

All times are relative to `now`, because the questions are ("this week", "silent since").
"""

import asyncio
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import uuid4

import asyncpg
import pytest
from prometheus_client import CollectorRegistry
from pydantic import SecretStr

from newsloom.adapters.postgres import open_store
from newsloom.adapters.postgres.linking import open_link_store
from newsloom.core.batch import DeadLetter, Item, Observation
from newsloom.core.enrichment import enrich
from newsloom.core.mapping import article_from_record
from newsloom.core.record import record_from_mapping
from newsloom.health import Health
from newsloom.linker import Linker
from newsloom.metrics import Metrics
from newsloom.ports import Batch, TopicPartition
from newsloom.settings import PostgresSettings
from tests.support.postgres import create_database, drop_database, dsn_of
from tests.support.services import run_apart

PARTITION = TopicPartition("newsloom.articles.v1", 0)

WIRE, POST, HERALD, DIARIO, GAZETTE = (
    ("Kystwire", "kystwire.example"),
    ("The Daily Post", "dailypost.example"),
    ("Metro Herald", "metroherald.example"),
    ("El Diario", "eldiario.example"),
    ("The Quiet Gazette", "quietgazette.example"),
)

COLLAPSE = (
    "The old harbour bridge in Marenfjord collapsed on Monday evening while two lorries were"
    " crossing it. Firefighters pulled four people from the water; none of them is in danger. The"
    " city had planned to replace the bridge next spring. Mayor Ingrid Solberg said an inspection"
    " in March had found rust in three of its cables but no reason to close it."
)
INQUIRY = (
    "Prosecutors in Marenfjord opened an inquiry into the collapse of the harbour bridge and"
    " seized the inspection reports of the past ten years. Mayor Ingrid Solberg promised full"
    " cooperation. Engineers of the university say that rust in the cables had been known since"
    " March. Lorries are sent through the tunnel until further notice."
)
FERRIES = (
    "The ferry operator Noordlijn has asked for permission to run all-electric ships between"
    " Skell and Marenfjord from 2028. Each ship would carry 120 cars and charge for eleven minutes"
    " at either end. The coastal authority will decide before the summer, a spokeswoman said."
    " Residents of Skell have long complained about soot on their laundry."
)
HONEY = (
    "Beekeepers on the island of Thornholm report the best honey harvest in twenty years. A warm"
    " spring and the late flowering of the lime trees gave the hives six more weeks, the island's"
    " association said. Prices at the market fell by a fifth."
)
CHESS = (
    "The chess club of Lower Brackley has won the county cup for the third time in a row. Its"
    " youngest player, aged eleven, drew the deciding game after five hours. The club meets in the"
    " library on Thursdays and takes beginners."
)
ELECCIONES = (
    "La alcaldesa de Valdemora convoca elecciones municipales anticipadas para el próximo otoño."
    " Los partidos de la oposición piden un debate sobre el presupuesto y la construcción del"
    " nuevo hospital. Las encuestas dan una ventaja estrecha a la candidata independiente."
)


@dataclass(slots=True)
class Newsroom:
    """Deliveries in the order of their observation, made relative to `now`."""

    now: datetime
    items: list[Item] = field(default_factory=list)

    def publish(
        self,
        provider: tuple[str, str],
        path: str,
        title: str,
        body: str,
        hours_ago: float,
        *,
        seen_after: float = 0.1,
        **fields: Any,
    ) -> None:
        """Add a record, published `hours_ago` and observed `seen_after` hours later."""
        name, domain = provider
        published = self.now - timedelta(hours=hours_ago)
        record = {
            "title": title,
            "body": body,
            "excerpt": body.split(". ", maxsplit=1)[0] + ".",
            "originalUrl": f"https://{domain}/{path}",
            "publishedDateTime": published.isoformat(),
            "provider": {"name": name, "domain": domain},
            "language": "en",
            "type": "article",
        }
        given = {name: value for name, value in {**record, **fields}.items() if value is not None}
        article = enrich(article_from_record(record_from_mapping(given).record))
        observed = published + timedelta(hours=seen_after)
        self.items.append(Observation(len(self.items), observed, article))


def newsroom(now: datetime) -> list[Item]:
    """Make the deliveries; see the functions below for what happens in them."""
    room = Newsroom(now)
    _quiet_weeks(room)
    _ferries(room)
    _bridge(room)
    _the_rest(room)
    room.items.append(
        DeadLetter(len(room.items), "parse.json", "byte 17", now, key=b"k", value=b"{", headers=())
    )
    return room.items


def _quiet_weeks(room: Newsroom) -> None:
    """Five weeks of the same: one article a week on bees and chess; one source falls silent."""
    for week in range(1, 6):
        room.publish(
            POST, f"honey/{week}", f"Honey notes, part {week}", f"Week {week}. {HONEY}"
            if week == 1 else f"Notes of week {week} on hives number {week}{week}.",
            168 * week + 30, topics=["Beekeeping"],
        )  # fmt: skip
    room.publish(GAZETTE, "chess", "Lower Brackley wins the county cup", CHESS, 24 * 12,
        topics=["Chess"])  # fmt: skip
    room.publish(GAZETTE, "chess/2", "How the cup was won", "A short word on the cup.", 24 * 11,
        topics=["Chess"])  # fmt: skip


def _ferries(room: Newsroom) -> None:
    """A wire story and two outlets that print it: one whole after 2 h, one its lead after 5 h."""
    room.publish(WIRE, "noordlijn", "Noordlijn applies for all-electric ferries", FERRIES, 24 * 10,
        topics=["Shipping"], ampWebUrl="https://kystwire.example/noordlijn/amp")  # fmt: skip
    room.publish(HERALD, "wire/ferries", "Electric ferries planned", FERRIES, 24 * 10 - 2,
        topics=["Shipping"])  # fmt: skip
    room.publish(POST, "ferries", "Ferry operator wants electric ships", f"{FERRIES} Sent by wire.",
        24 * 10 - 5, topics=["Shipping"])  # fmt: skip


def _bridge(room: Newsroom) -> None:
    """This week's story: the wire is first, two outlets follow, one copies; a headline changes."""
    bridge: dict[str, Any] = {"topics": ["Bridges", "Shipping"], "category": "news"}
    room.publish(WIRE, "bridge", "Harbour bridge in Marenfjord collapses", COLLAPSE, 50,
        heat=10, **bridge)  # fmt: skip
    room.publish(HERALD, "wire/bridge", "Marenfjord harbour bridge collapses", COLLAPSE, 49,
        **bridge)  # fmt: skip
    cables = {"title": "Rust in the cables", "originalUrl": "https://uni.example/cables"}
    for seen_after, title in (
        (0.1, "Mayor denies blame for harbour bridge collapse"),
        (4, "Mayor admits blame for harbour bridge collapse"),
        (9, "Mayor admits blame for harbour bridge collapse, resigns"),
    ):
        room.publish(POST, "bridge", title, INQUIRY, 44, seen_after=seen_after, related=[cables],
            **bridge)  # fmt: skip
    # Only its heat rises: refreshed, not revised.
    room.publish(WIRE, "bridge", "Harbour bridge in Marenfjord collapses", COLLAPSE, 50,
        seen_after=12, heat=90, **bridge)  # fmt: skip


def _the_rest(room: Newsroom) -> None:
    """Another language, a text without a date, one taken back, markup, and one under two ids."""
    room.publish(DIARIO, "elecciones", "Valdemora convoca elecciones anticipadas", ELECCIONES, 30,
        language="es", topics=["Politics"])  # fmt: skip
    room.publish(HERALD, "undated", "Thornholm honey sells out", HONEY, 20,
        publishedDateTime=None, topics=["Beekeeping"])  # fmt: skip
    room.publish(HERALD, "oops", "Mayor Solberg arrested", "A report that was wrong.", 18,
        topics=["Bridges"])  # fmt: skip
    room.publish(HERALD, "oops", "Mayor Solberg arrested", "A report that was wrong.", 18,
        seen_after=2, topics=["Bridges"], removed=True)  # fmt: skip
    room.publish(POST, "markup", "AT&T & <script>alert('zebra')</script>",
        'A zebra & an ostrich <b>escaped</b> from the "Zoo" > keepers say.', 12)  # fmt: skip
    # Two addresses, and later one record with both: they were one article.
    room.publish(POST, "storm", "Storm closes the tunnel", "Wind.", 10, topics=["Weather"])
    room.publish(POST, "m/storm", "Storm closes the tunnel", "Wind.", 10, seen_after=0.2,
        topics=["Weather"])  # fmt: skip
    room.publish(POST, "storm", "Storm closes the tunnel", "Wind.", 10, seen_after=0.3,
        webUrl="https://dailypost.example/m/storm", topics=["Weather"])  # fmt: skip


@pytest.fixture(scope="session")
def newsroom_now() -> datetime:
    """The present of the shared newsroom: of the session's start, to the minute."""
    return datetime.now(UTC).replace(second=0, microsecond=0)


@pytest.fixture(scope="session")
def newsroom_database(
    postgres_server: str, migrated_template: str, newsroom_now: datetime
) -> Iterator[str]:
    """The superuser's DSN of a stored and linked newsroom that all tests share: change nothing."""
    name = f"newsroom_{uuid4().hex}"
    run_apart(create_database(postgres_server, name, migrated_template))
    run_apart(fill(dsn_of(postgres_server, name), newsroom_now))
    yield dsn_of(postgres_server, name)
    run_apart(drop_database(postgres_server, name))


@pytest.fixture
async def reader(newsroom_database: str) -> AsyncIterator[asyncpg.Connection]:
    """A connection to the newsroom with the rights of a reader."""
    async with reading(newsroom_database) as connection:
        yield connection


@asynccontextmanager
async def reading(dsn: str) -> AsyncIterator[asyncpg.Connection]:
    """Connect with the rights and limits of newsloom_reader."""
    connection = await asyncpg.connect(dsn)
    try:
        await connection.execute(
            "SET ROLE newsloom_reader; SET default_transaction_read_only = on;"
            "SET search_path = api, pg_catalog; SET statement_timeout = '30s'"
        )
        yield connection
    finally:
        await connection.close()


async def fill(dsn: str, now: datetime, *, link: bool = True) -> None:
    """Store the newsroom's deliveries through the real store and let the real linker follow."""
    items = newsroom(now)
    settings = PostgresSettings(dsn=SecretStr(dsn))
    async with open_store(settings, consumer_group="newsloom") as store:
        claim = await store.claim(PARTITION, "test", 0)
        for low in range(0, len(items), 10):
            piece = items[low : low + 10]
            await store.apply(Batch(PARTITION, claim.epoch, 0, low, low + len(piece), piece))
    if link:
        await link_all(settings)


async def link_all(settings: PostgresSettings) -> None:
    """Run a linker until it has read the whole change log."""
    async with open_link_store(settings) as store:
        linker = Linker(
            store,
            window=timedelta(days=60),
            metrics=Metrics(CollectorRegistry()),
            health=Health(needs=(), owns_partitions=False, stall_after_seconds=60),
            owner_id="test",
            jitter=lambda: 0.1,
            beat=lambda: None,
        )
        task = asyncio.create_task(linker.run(asyncio.Event()))
        try:
            async with asyncio.timeout(60):
                while linker.empty_read_at < 0:  # noqa: ASYNC110 - what is waited for has no event
                    await asyncio.sleep(0.02)
        finally:
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)
