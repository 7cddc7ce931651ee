"""Producers in other languages, run as their pages say: what they send arrives and decodes."""

import asyncio
import json
import os
import re
import shutil
import sys
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from aiokafka import AIOKafkaConsumer, ConsumerRecord

from newsloom.core.event import Decoded, decode
from newsloom.core.record import record_from_text
from tests.support.blackbox import Finished, finish
from tests.support.kafka import MakeTopic

ROOT = Path(__file__).parents[2]
PRODUCERS = ROOT / "docs" / "producers"
TOPIC = "newsloom.articles.v1"

pytestmark = [pytest.mark.producers, pytest.mark.timeout(240)]

GOOD: list[dict[str, Any]] = [
    {
        "title": "Bees sting",
        "originalUrl": "https://www.a.example/bees/",
        "ampWebUrl": "https://a.example/bees/amp",
        "publishedDateTime": "2026-05-05T07:00:00Z",
        "provider": {"name": "A", "domain": "a.example"},
        "topics": ["Bees", "Miel d\u2019\u00e9t\u00e9 \U0001f41d"],
        "heat": -1,
        "related": [{"title": "Wasps", "originalUrl": "https://b.example/wasps"}],
        "somethingNew": {"kept": True},
    },
    {"title": "Ants", "webUrl": "http://c.example/ants?page=2", "body": "Ants march.\n\nOn."},
]
BAD: list[dict[str, Any]] = [
    {"title": "No address"},
    {"originalUrl": "https://a.example/untitled"},
    {"title": "x", "originalUrl": "https://a.example/x", "publishedDateTime": "soon"},
]


def need(*programs: str) -> None:
    """Fail, never skip, without these programs; `-m "not producers"` leaves these tests out."""
    packages = {"node": "nodejs", "npm": "npm", "kcat": "kcat"}
    missing = [packages[name] for name in programs if shutil.which(name) is None]
    if missing:
        pytest.fail(
            f"This test runs a producer in another language: apt-get install {' '.join(missing)}"
            ' (or leave such tests out: pytest -m "not producers").',
            pytrace=False,
        )


async def run(
    *command: str | Path, cwd: Path, patience: float = 60, **environment: str
) -> Finished:
    process = await asyncio.create_subprocess_exec(
        *map(str, command),
        cwd=cwd,
        stdin=asyncio.subprocess.DEVNULL,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
        env={**os.environ, **environment},
        start_new_session=True,
    )
    return await finish(process, patience)


async def arrived(bootstrap: str, topic: str, count: int) -> list[ConsumerRecord]:
    """Return what the topic holds, all of it; there must be `count` messages."""
    consumer = AIOKafkaConsumer(topic, bootstrap_servers=bootstrap, auto_offset_reset="earliest")
    await consumer.start()
    try:
        messages: list[ConsumerRecord] = []
        async with asyncio.timeout(30):
            while len(messages) < count:
                for batch in (await consumer.getmany(timeout_ms=500)).values():
                    messages += batch
        late = await consumer.getmany(timeout_ms=300)
    finally:
        await consumer.stop()
    assert not late
    return messages


def decoded(message: ConsumerRecord) -> Decoded:
    return decode(message.value, message.key, message.headers, message.timestamp)


@pytest.fixture(scope="session")
def node_project(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The producer's folder with its packages installed, as a fresh clone would have it."""
    need("node", "npm")
    root = tmp_path_factory.mktemp("clone")
    project = root / "docs" / "producers" / "node"
    shutil.copytree(PRODUCERS / "node", project, ignore=shutil.ignore_patterns("node_modules"))
    shutil.copytree(ROOT / "contracts", root / "contracts")
    install = run(
        "npm", "ci", "--ignore-scripts", "--no-audit", "--no-fund", cwd=project, patience=180
    )
    done = asyncio.run(install)
    assert done.code == 0, f"npm could not install the producer's packages. {done.told()}"
    return project


def as_lines(records: Sequence[dict[str, Any]]) -> str:
    return "".join(json.dumps(record, ensure_ascii=False) + "\n" for record in records)


# Node


async def test_records_sent_by_node_arrive_and_decode(
    node_project: Path, kafka_bootstrap: str, make_topic: MakeTopic, tmp_path: Path
) -> None:
    topic = await make_topic(partitions=3)
    began = datetime.now(UTC)
    (tmp_path / "records.ndjson").write_text(as_lines(GOOD))
    done = await run(
        "node", node_project / "produce.mjs", tmp_path / "records.ndjson", cwd=tmp_path,
        NEWSLOOM_KAFKA_BOOTSTRAP_SERVERS=kafka_bootstrap, NEWSLOOM_KAFKA_ARTICLES_TOPIC=topic,
    )  # fmt: skip
    assert done.code == 0, done.told()
    messages = await arrived(kafka_bootstrap, topic, len(GOOD))
    by_title = {decoded(message).article.title: message for message in messages}
    assert by_title.keys() == {"Bees sting", "Ants"}
    bees = decoded(by_title["Bees sting"])
    assert not bees.dropped
    assert bees.unknown == 1
    assert bees.article.topics == ("Bees", "Miel d\u2019\u00e9t\u00e9 \U0001f41d")
    assert [mention.title for mention in bees.article.related] == ["Wasps"]
    for message in messages:
        event = decoded(message)
        assert message.key.decode() == event.article.key
        assert began.timestamp() - 1 < event.observed_at.timestamp() < datetime.now(UTC).timestamp()
        headers = dict(message.headers)
        assert headers.keys() == {
            "ce_specversion", "ce_id", "ce_source", "ce_type", "ce_time", "content-type",
        }  # fmt: skip
        assert event.event_id == headers["ce_id"].decode()


async def test_node_refuses_what_ingest_would_set_aside_and_sends_the_rest(
    node_project: Path, kafka_bootstrap: str, make_topic: MakeTopic, tmp_path: Path
) -> None:
    topic = await make_topic()
    (tmp_path / "mixed.ndjson").write_text(as_lines([*BAD, *GOOD]) + "{no json\n")
    done = await run(
        "node", node_project / "produce.mjs", tmp_path / "mixed.ndjson", cwd=tmp_path,
        NEWSLOOM_KAFKA_BOOTSTRAP_SERVERS=kafka_bootstrap, NEWSLOOM_KAFKA_ARTICLES_TOPIC=topic,
    )  # fmt: skip
    assert done.code == 1, done.told()
    refused = re.findall(r"^line (\d+): (.*)$", done.err, re.MULTILINE)
    assert [int(number) for number, _ in refused] == [1, 2, 3, 6]
    assert "originalUrl" in refused[0][1]
    assert "title" in refused[1][1]
    assert "/publishedDateTime" in refused[2][1]
    await arrived(kafka_bootstrap, topic, len(GOOD))


async def test_node_says_so_when_kafka_is_away(node_project: Path, tmp_path: Path) -> None:
    (tmp_path / "records.ndjson").write_text(as_lines(GOOD))
    done = await run(
        "node", node_project / "produce.mjs", tmp_path / "records.ndjson", cwd=tmp_path,
        NEWSLOOM_KAFKA_BOOTSTRAP_SERVERS="127.0.0.1:1",
    )  # fmt: skip
    assert done.code == 3, done.told()


async def test_the_samples_fit_the_json_schema_in_ajv(node_project: Path, tmp_path: Path) -> None:
    paths = sorted((ROOT / "samples").glob("*.md"))
    assert paths
    records = [json.loads(record_from_text(p.read_text()).record.to_wire()) for p in paths]
    (tmp_path / "all.json").write_text(json.dumps({"good": [*records, *GOOD], "bad": BAD}))
    script = f"""
import {{ readFileSync }} from "node:fs";
import {{ isRecord }} from {json.dumps(str(node_project / "produce.mjs"))};
const {{ good, bad }} = JSON.parse(readFileSync("all.json", "utf8"));
for (const record of good) if (!isRecord(record)) console.log("good", record, isRecord.errors);
for (const record of bad) if (isRecord(record)) console.log("bad", record);
"""
    (tmp_path / "check.mjs").write_text(script)
    done = await run("node", "check.mjs", cwd=tmp_path)
    assert (done.code, done.out) == (0, ""), done.told()


def test_the_lock_file_names_no_registry() -> None:
    lock = json.loads((PRODUCERS / "node" / "package-lock.json").read_text())
    packages = {name: package for name, package in lock["packages"].items() if name}
    assert packages
    for name, package in packages.items():
        assert "resolved" not in package, name
        assert package["integrity"].startswith("sha512-"), name


# kcat

COMMANDS = re.findall(
    r"^```sh\n(.*?)^```$", (PRODUCERS / "kcat.md").read_text(), re.MULTILINE | re.DOTALL
)


async def test_the_lines_for_kcat_do_what_their_page_says(
    kafka_bootstrap: str, make_topic: MakeTopic, tmp_path: Path
) -> None:
    need("kcat")
    plain, keyed, event, look = COMMANDS
    (tmp_path / "records.ndjson").write_text(as_lines(GOOD))
    (tmp_path / "keyed.tsv").write_text(f"a.example/bees\t{as_lines(GOOD[:1])}")
    topics = {name: await make_topic(partitions=2) for name in ("plain", "keyed", "event")}

    async def shell(command: str, topic: str) -> Finished:
        done = await run(
            "bash", "-euc", command.replace(TOPIC, topic), cwd=tmp_path,
            NEWSLOOM_KAFKA_BOOTSTRAP_SERVERS=kafka_bootstrap,
        )  # fmt: skip
        assert done.code == 0, done.told()
        return done

    await shell(plain, topics["plain"])
    messages = await arrived(kafka_bootstrap, topics["plain"], 2)
    assert {decoded(message).article.title for message in messages} == {"Bees sting", "Ants"}
    for message in messages:
        assert decoded(message).observed_at.timestamp() * 1000 == message.timestamp

    await shell(keyed, topics["keyed"])
    (message,) = await arrived(kafka_bootstrap, topics["keyed"], 1)
    assert message.key.decode() == decoded(message).article.key

    await shell(event, topics["event"])
    (message,) = await arrived(kafka_bootstrap, topics["event"], 1)
    assert decoded(message).observed_at == datetime(2026, 5, 5, 7, tzinfo=UTC)
    assert decoded(message).event_id == dict(message.headers)["ce_id"].decode()
    assert "a.example/bees" in (await shell(look, topics["event"])).out


async def test_all_producers_choose_the_same_partition_for_a_key(
    kafka_bootstrap: str, make_topic: MakeTopic, node_project: Path, tmp_path: Path
) -> None:
    need("kcat")
    records = [
        {"title": f"Bee {number}", "originalUrl": f"https://a.example/{number}"}
        for number in range(40)
    ]
    (tmp_path / "records.ndjson").write_text(as_lines(records))
    (tmp_path / "keyed.tsv").write_text(
        "".join(f"a.example/{n}\t{json.dumps(record)}\n" for n, record in enumerate(records))
    )
    commands = {
        "node": ("node", node_project / "produce.mjs", "records.ndjson"),
        "kcat": ("bash", "-euc", COMMANDS[1]),
        "newsloom": (Path(sys.executable).with_name("newsloom"), "publish", "records.ndjson"),
    }
    placed = {}
    for name, command in commands.items():
        topic = await make_topic(partitions=8)
        done = await run(
            *(str(part).replace(TOPIC, topic) for part in command), cwd=tmp_path,
            NEWSLOOM_KAFKA_BOOTSTRAP_SERVERS=kafka_bootstrap, NEWSLOOM_KAFKA_ARTICLES_TOPIC=topic,
        )  # fmt: skip
        assert done.code == 0, done.told()
        messages = await arrived(kafka_bootstrap, topic, len(records))
        placed[name] = {message.key: message.partition for message in messages}
    assert placed["node"] == placed["newsloom"]
    assert placed["kcat"] == placed["newsloom"]
    assert len(set(placed["newsloom"].values())) > 4
