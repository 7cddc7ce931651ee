"""The hostile corpus through the real things: each its outcome, and no text where it is not due.

Ingest and relay run as least-privileged logins, at DEBUG, and everything they say is read.
"""

import asyncio
import json
import math
import re
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path
from urllib.parse import urlsplit

import pytest

from tests.support.blackbox import Line, send_raw
from tests.support.hostile import (
    CANARIES,
    TITLE,
    TOPIC_CONFIG,
    URL,
    Message,
    messages,
    send_messages,
)
from tests.support.hostile_files import SENT, HostileFile, make_files
from tests.support.kafka import MakeTopic
from tests.support.mirror import read_topic
from tests.support.watching import (
    PASSWORD,
    arguments_of,
    assert_no_canary,
    ingesting,
    login_role,
)

pytestmark = pytest.mark.timeout(300)

SECRETS = (*CANARIES, PASSWORD)
NOT_FOR_THE_STATUS_PAGE = [canary for canary in SECRETS if canary not in (TITLE, URL)]
"""A person wants to read titles there, and follow them."""


@pytest.fixture
async def roomy_line(kafka_bootstrap: str, make_topic: MakeTopic, database: str) -> Line:
    """A line whose Kafka topic takes everything."""
    topic = await make_topic(1, name="articles", config=TOPIC_CONFIG)
    return Line(kafka_bootstrap, database, topic)


@pytest.fixture
def postgres_says(services_folder: Path, postgres_server: str) -> Callable[[], str]:
    """What the session's Postgres has logged since the test began."""
    log = services_folder / "postgres" / "postgres.log"
    assert log.exists(), f"the log of {urlsplit(postgres_server).netloc} cannot be read from here"
    begins = log.stat().st_size

    def said() -> str:
        with log.open("rb") as file:
            file.seek(begins)
            return file.read().decode()

    return said


async def wrongly_stored(line: Line, row: Message | HostileFile) -> list[str]:
    """Say what is wrong with the article of a row that was to be stored."""
    found = await line.fetch(
        "SELECT a.* FROM api.articles a WHERE article_id IN"
        " (SELECT article_id FROM api.article_urls WHERE"
        " regexp_replace(canonical_url, '^https?://|/$', '', 'g')"
        " = regexp_replace($1, '^https?://|/$', '', 'g'))",
        row.address,
    )
    name = f"H{row.h} {row.what}"
    if len(found) != 1:
        return [f"{name}: {len(found)} articles"]
    wrong = {column: found[0][column] for column, v in row.stored.items() if found[0][column] != v}
    return [f"{name}: {column} is {value!a:.200}" for column, value in wrong.items()]


async def refuse_some_rows(line: Line, word: str) -> None:
    """Have Postgres refuse rows whose title holds a word, as for a constraint nobody thought of."""
    await line.fetch(
        "ALTER TABLE newsloom.article_contents ADD CONSTRAINT hostile"
        f" CHECK (title NOT LIKE '%{word}%') NOT VALID"
    )


async def test_each_hostile_message_has_its_outcome_and_none_is_talked_about(
    roomy_line: Line, make_topic: MakeTopic, postgres_says: Callable[[], str]
) -> None:
    line, rows = roomy_line, messages()
    offsets = await send_messages(line.bootstrap, line.topic, rows)
    assert offsets == list(range(len(rows)))
    async with login_role(line.dsn, "newsloom_ingest") as dsn:
        extra = {"NEWSLOOM_POSTGRES_DSN": dsn, "NEWSLOOM_LOG_LEVEL": "DEBUG"}
        async with ingesting(line, **extra) as ingest:
            await line.reached(len(rows), 120)
            pages = {path: await ingest.get(path) for path in ("/", "/metrics", "/readyz")}
            await ingest.get("/status.json")
            await asyncio.sleep(2)
            news = await ingest.get("/status.json")
            arguments = arguments_of(ingest.process.pid)
    await check_outcomes(line, rows)

    said = ingest.said.decode()
    for text in said.splitlines():
        assert isinstance(json.loads(text), dict), "each line is one JSON object"
    assert_no_canary(said, SECRETS, where="the log")
    assert_no_canary(arguments, SECRETS, where="the process arguments")
    for path, page in pages.items():
        assert_no_canary(page, SECRETS, where=path)
    assert_no_canary(news, NOT_FOR_THE_STATUS_PAGE, where="/status.json")
    await check_letters(line, rows, await make_topic(name="letters"), await make_topic())
    assert_no_canary(postgres_says(), SECRETS, where="the log of Postgres")


async def check_outcomes(line: Line, rows: Sequence[Message]) -> None:
    """Compare what became of each row with what its row says."""
    letters = await line.fetch("SELECT kafka_offset, reason, key, value FROM newsloom.dead_letters")
    reasons = {row["kafka_offset"]: row["reason"] for row in letters}
    wrong = [
        f"{row.name}: {reasons.get(offset, 'stored')} instead of {row.reason or row.outcome}"
        for offset, row in enumerate(rows)
        if reasons.get(offset, "") != row.reason
    ]
    for row in rows:
        if row.outcome != "rejected" and row.address:
            wrong += await wrongly_stored(line, row)
    assert not wrong, "\n".join(wrong)
    outcomes = await line.outcomes()
    assert {k: n for k, n in outcomes.items() if n} == Counter(row.outcome for row in rows)
    for letter in letters:
        row = rows[letter["kafka_offset"]]
        assert (letter["key"], letter["value"]) == (row.key, row.value), row.name


async def check_letters(line: Line, rows: Sequence[Message], topic: str, changes: str) -> None:
    """Relay and list the letters: the original bytes are there, and nowhere else."""
    extra = {
        "NEWSLOOM_KAFKA_DEAD_LETTERS_TOPIC": topic,
        "NEWSLOOM_KAFKA_CHANGES_TOPIC": changes,
        "NEWSLOOM_LOG_LEVEL": "DEBUG",
    }
    done = await line.run("relay", "--exit-when-idle", "0.3", extra=extra)
    assert done.code == 0, done.told()
    assert_no_canary(done.out + done.err, SECRETS, where="what relay says")
    listed = await line.run("dead-letters", "list", "--limit", "1000", "--format", "json")
    assert len(listed.lines()) == sum(row.outcome == "rejected" for row in rows)
    assert_no_canary(listed.out + listed.err, SECRETS, where="what dead-letters list says")
    letters = await read_topic(line.bootstrap, topic)
    assert len(letters) == len(listed.lines())
    for letter in letters:
        row = rows[int(dict(letter.headers)["__connect.errors.offset"] or b"")]
        assert letter.value == row.value or len(row.value or b"") > len(letter.value or b"")
        ours = [header for header in letter.headers if header[0] not in original_names(row)]
        assert_no_canary(repr(ours), SECRETS, where=f"the headers of {row.name}")


def original_names(row: Message) -> set[str]:
    """The names under which a row's own headers are relayed."""
    return {f"{mark}{name}" for name, _ in row.headers for mark in ("", "x-orig-")}


async def test_each_hostile_file_has_its_verdict(
    line: Line, tmp_path: Path, postgres_says: Callable[[], str]
) -> None:
    folder = tmp_path / "in"
    folder.mkdir()
    made = make_files(folder)
    report = tmp_path / "report.ndjson"
    extra = {"NEWSLOOM_LOG_LEVEL": "DEBUG"}
    done = await line.run(
        "publish", folder, "--format", "json", "--report", report, patience=90, extra=extra
    )
    assert done.code == 1, done.told()
    text = report.read_text()
    assert_no_canary(done.out + done.err + text, SECRETS, where="what publish says")
    verdicts = {}
    for said in map(json.loads, text.splitlines()):
        name = Path(said["path"]).name.replace("\\n", "\n")
        assert name not in verdicts, said
        verdicts[name] = said["errors"][0]["reason"] if "errors" in said else SENT
    wrong = [
        f"H{file.h} {file.what}: {verdicts.get(name)} instead of {file.verdict}"
        for name, file in made.items()
        if verdicts.get(name) != file.verdict
    ]
    assert not wrong, "\n".join(wrong)
    assert len(verdicts) == len(made)

    await line.ingest()
    sent = [file for file in made.values() if file.verdict == SENT]
    wrong = [text for file in sent for text in await wrongly_stored(line, file)]
    assert not wrong, "\n".join(wrong)
    assert {k: n for k, n in (await line.outcomes()).items() if n} == {"created": len(sent)}
    assert_no_canary(postgres_says(), SECRETS, where="the log of Postgres")


@pytest.mark.parametrize("places", [{0, 57, 58, 199}, set(range(200))])
async def test_records_that_postgres_refuses_are_found_and_their_neighbours_stored(
    line: Line, places: set[int], postgres_says: Callable[[], str]
) -> None:
    """H38, and the server's log of it: an error's details would quote the row."""
    await refuse_some_rows(line, "unwelcome")
    rows = [
        Message(
            38,
            f"{n}",
            json.dumps(
                {
                    "title": f"{'unwelcome' if n in places else 'welcome'} {n} {TITLE}",
                    "originalUrl": f"https://hostile.example/{URL}/{n}",
                }
            ).encode(),
        )
        for n in range(200)
    ]
    await send_messages(line.bootstrap, line.topic, rows)
    extra = {"NEWSLOOM_INGEST_BREAKER_RATIO": "1"}
    done = await line.ingest(extra=extra)
    letters = await line.fetch("SELECT kafka_offset, reason FROM api.dead_letters")
    assert {row["kafka_offset"] for row in letters} == places
    assert {row["reason"] for row in letters} == {"db.23514"}
    assert (await line.outcomes())["created"] == 200 - len(places)
    assert_no_canary(done.out + done.err, SECRETS, where="the log")
    assert_no_canary(postgres_says(), SECRETS, where="the log of Postgres")


JUNK = RECORDS = 10_000
BAD_ONE = 7_777
BATCH = 500


async def test_junk_does_not_stop_the_line_and_one_bad_record_costs_few_transactions(
    line: Line,
) -> None:
    """H37: 10,000 junk messages in a row, then 10,000 records of which Postgres refuses one."""
    await refuse_some_rows(line, "unwelcome")
    await line.fetch("CREATE TABLE moves (n int GENERATED ALWAYS AS IDENTITY);")
    await line.fetch(
        "CREATE FUNCTION moved() RETURNS trigger LANGUAGE plpgsql AS"
        " $$ BEGIN INSERT INTO moves DEFAULT VALUES; RETURN NULL; END $$"
    )
    await line.fetch(
        "CREATE TRIGGER moved AFTER UPDATE ON newsloom.ingest_offsets FOR EACH ROW"
        " WHEN (NEW.next_offset > OLD.next_offset) EXECUTE FUNCTION moved()"
    )
    values: list[bytes | None] = [b"junk %d" % n for n in range(JUNK)]
    for n in range(RECORDS):
        word = "unwelcome" if n == BAD_ONE else "welcome"
        values.append(
            json.dumps(
                {
                    "title": f"{word} {n} {TITLE}",
                    "originalUrl": f"https://hostile.example/{n}",
                }
            ).encode()
        )
    await send_raw(line.bootstrap, line.topic, values)
    async with ingesting(line, NEWSLOOM_INGEST_MAX_BATCH_RECORDS=str(BATCH)) as ingest:
        await line.reached(JUNK + RECORDS, 200)
        metrics = await ingest.get("/metrics")
    letters = await line.fetch("SELECT kafka_offset, reason FROM api.dead_letters")
    reasons = Counter(row["reason"] for row in letters)
    assert reasons == {"parse.json": JUNK, "db.23514": 1}
    assert JUNK + BAD_ONE in {
        row["kafka_offset"] for row in letters if row["reason"] != "parse.json"
    }
    outcomes = await line.outcomes()
    assert (outcomes["created"], outcomes["rejected"]) == (RECORDS - 1, JUNK + 1)
    parked = await line.fetch("SELECT parked_reason FROM api.ingest_progress")
    assert [row["parked_reason"] for row in parked] == [None]
    assert ingest.said.count(b"\n") < 300, "each junk message must not be a line of the log"

    def counted(name: str) -> int:
        return int(float(re.search(rf"^{re.escape(name)} (\S+)", metrics, re.MULTILINE)[1]))  # type: ignore[index]

    batches = counted('newsloom_batch_duration_seconds_count{stage="decode"}')
    refused = counted("newsloom_batch_splits_total")
    (moves,) = (await line.fetch("SELECT count(*) FROM moves"))[0]
    rollbacks = await line.fetch(
        "SELECT xact_rollback FROM pg_stat_database WHERE datname = current_database()"
    )
    assert rollbacks[0][0] >= refused > 1
    extra = moves + refused - batches
    assert extra <= 2 * math.log2(BATCH) + 2, (moves, refused, batches)
