"""Nothing in the service opens a connection that was not configured, whatever records say."""

import asyncio
import json
import socket
import sys
from pathlib import Path
from urllib.parse import urlsplit

import pytest

from tests.support.blackbox import Line, finish, send, send_raw
from tests.support.generator import Stream
from tests.support.hostile import TOPIC_CONFIG, messages, send_messages
from tests.support.kafka import MakeTopic

pytestmark = pytest.mark.timeout(120)

# asyncio's own loop: what uvloop does, Python's audit events do not show.
WATCHED = """
import json, sys
sys.modules["uvloop"] = None
seen = open(sys.argv.pop(1), "a", buffering=1)
NOTED = ("socket.connect", "socket.sendto", "socket.sendmsg", "socket.getaddrinfo",
    "socket.gethostbyname", "socket.gethostbyaddr", "subprocess.Popen", "os.system", "os.exec",
    "os.posix_spawn", "urllib.Request", "ftplib.connect", "http.client.connect", "webbrowser.open")
def hook(event, arguments):
    if event in NOTED:
        where = arguments[1] if event == "socket.connect" else arguments
        print(json.dumps([event, [str(part) for part in where[:2]]]), file=seen)
sys.addaudithook(hook)
from newsloom.cli.main import main
main()
"""

ADDRESSES = (
    "http://{trap}/", "http://localhost:{port}/", "http://[::1]:{port}/",
    "http://2130706433:{port}/", "http://169.254.169.254/latest/meta-data", "https://summitledger.example/",
    "http://user:pw@{trap}/", "file:///etc/passwd", "gopher://{trap}/", "http://{trap}/$%7Bjndi:ldap://{trap}/a%7D",
)  # fmt: skip


def hostile(trap: str) -> list[bytes]:
    """Records that name an address in every place where one may stand, and in the text."""
    messages = []
    for number, form in enumerate(ADDRESSES):
        url = form.format(trap=trap, port=trap.rpartition(":")[2])
        image = {"url": f"{url}i.png", "isCached": True}
        record = {
            "title": f"Read <img src='{url}'> ${{jndi:ldap://{trap}/x}}",
            "excerpt": f"<script src='{url}'></script>",
            "featuredContent": f"<iframe src='{url}'></iframe><img src='{url}'>",
            "originalUrl": f"{url}{number}",
            "webUrl": url,
            "ampWebUrl": url,
            "cdnAmpWebUrl": url,
            "images": [image],
            "provider": {"name": url, "domain": trap, "images": [image]},
            "related": [{"title": "x", "originalUrl": f"{url}r{number}", "images": [image]}],
            "body": f"See {url} and <!DOCTYPE x SYSTEM '{url}'>",
        }
        messages.append(json.dumps(record).encode())
    return [*messages, b"{", b'{"$ref": "http://%s/"}' % trap.encode()]


async def test_no_connection_but_the_configured_ones(
    kafka_bootstrap: str, database: str, make_topic: MakeTopic, tmp_path: Path
) -> None:
    visitors: list[object] = []

    async def visit(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        visitors.append(writer.get_extra_info("peername"))
        writer.close()

    trap = await asyncio.start_server(visit, "127.0.0.1", 0)
    address = "{}:{}".format(*trap.sockets[0].getsockname())
    line = Line(
        kafka_bootstrap, database, await make_topic(1, name="outbound", config=TOPIC_CONFIG)
    )
    topics = {
        "NEWSLOOM_KAFKA_CHANGES_TOPIC": await make_topic(1, name="outbound-changes"),
        "NEWSLOOM_KAFKA_DEAD_LETTERS_TOPIC": await make_topic(1, name="outbound-letters"),
    }
    await send_raw(line.bootstrap, line.topic, hostile(address))
    await send(line.bootstrap, line.topic, Stream(5, deliveries=100, rejected=0))
    await send_messages(line.bootstrap, line.topic, messages())
    noted = tmp_path / "noted"
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-c", WATCHED, noted, "run", "--exit-when-idle", "3",
        stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE,
        env=line.environment(topics),
    )  # fmt: skip
    done = await finish(process, 90)
    trap.close()
    assert done.code == 0, done.told()
    assert sum((await line.outcomes()).values()) == await line.log_end(), done.told()
    assert visitors == []
    allowed = {line.bootstrap, f"127.0.0.1:{urlsplit(database).port}"}
    hosts = {address.rpartition(":")[0] for address in allowed} | {
        "localhost",
        socket.gethostname(),
    }
    events = [json.loads(text) for text in noted.read_text().splitlines()]
    connected = {":".join(where) for event, where in events if event == "socket.connect"}
    assert connected == allowed, "Kafka and Postgres, and nobody else"
    for event, where in events:
        if event != "socket.connect":
            assert event == "socket.getaddrinfo", (event, where)
            assert where[0] in hosts, where
