"""The admin port: what it answers, and that no client can hold it up."""

import asyncio
import base64
import hashlib
import json
import logging
import re
from collections.abc import AsyncIterator
from contextlib import suppress

import pytest
from hypothesis import given
from hypothesis import strategies as st
from prometheus_client import CollectorRegistry

from newsloom.adapters.http import (
    MAX_HEAD_BYTES,
    Request,
    Response,
    admin_routes,
    serve_admin,
)
from newsloom.adapters.http.page import STATUS_PAGE
from newsloom.health import Health
from newsloom.metrics import Metrics
from newsloom.settings import SettingsError

HOSTILE = "<script>alert(1)</script>\"'&\ud800"


class Site:
    """A served admin port and the state behind it."""

    def __init__(self) -> None:
        self.metrics = Metrics(CollectorRegistry())
        self.health = Health(needs=("kafka",), owns_partitions=False, stall_after_seconds=60)
        self.status: dict[str, object] = {"Outcomes": {"created": 1234, HOSTILE: HOSTILE}}
        self.port = 0

    def routes(self) -> dict[str, object]:
        def broken(_: Request) -> Response:
            raise ValueError(HOSTILE)

        routes = admin_routes(
            registry=self.metrics.registry, health=self.health, status=lambda: self.status
        )
        return {**routes, "/broken": broken}


@pytest.fixture
async def site() -> AsyncIterator[Site]:
    site = Site()
    async with serve_admin(
        "127.0.0.1",
        0,
        site.routes(),  # type: ignore[arg-type]
        max_connections=8,
        read_timeout_seconds=0.5,
    ) as site.port:
        yield site


async def ask(port: int, request: bytes) -> tuple[int, dict[str, str], bytes]:
    """Send raw bytes; return status, headers (lower case) and body."""
    async with asyncio.timeout(5):
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        try:
            writer.write(request)
            await writer.drain()
            answer = await reader.read()
        finally:
            writer.close()
    head, _, body = answer.partition(b"\r\n\r\n")
    line, *rest = head.decode().split("\r\n")
    headers = dict(item.lower().split(": ", 1) for item in rest)
    return int(line.split(" ")[1]), headers, body


def get(path: str, method: str = "GET", *more: str) -> bytes:
    lines = [f"{method} {path} HTTP/1.1", "Host: localhost", *more, "", ""]
    return "\r\n".join(lines).encode()


async def test_metrics_are_served_in_the_format_that_was_asked_for(site: Site) -> None:
    status, headers, body = await ask(site.port, get("/metrics"))
    assert status == 200
    assert headers["content-type"].startswith("text/plain")
    assert b"newsloom_records_total" in body
    accept = "Accept: application/openmetrics-text; version=1.0.0"
    _, headers, body = await ask(site.port, get("/metrics?x=1", "GET", accept))
    assert headers["content-type"].startswith("application/openmetrics-text")
    assert body.endswith(b"# EOF\n")


async def test_health_and_readiness_tell_their_reasons(site: Site) -> None:
    status, headers, body = await ask(site.port, get("/healthz"))
    assert (status, json.loads(body)["status"]) == (200, "ok")
    assert headers["content-type"] == "application/json"
    status, _, body = await ask(site.port, get("/readyz"))
    assert status == 503
    assert json.loads(body)["reasons"] == ["kafka is not usable (not reached yet)"]
    site.health.usable("kafka")
    assert (await ask(site.port, get("/readyz")))[0] == 200


async def test_the_status_page_is_the_same_for_everybody_and_its_policy_lets_it_run(
    site: Site,
) -> None:
    status, headers, body = await ask(site.port, get("/"))
    assert status == 200
    assert headers["content-type"].startswith("text/html")
    # What the policy allows is exactly what is in the page; data comes only by /status.json.
    policy = headers["content-security-policy"]
    assert "default-src 'none'" in policy
    assert "unsafe" not in policy
    for tag in ("style", "script"):
        (text,) = re.findall(rf"<{tag}>(.*?)</{tag}>", body.decode(), re.DOTALL)
        digest = base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()
        assert f"{tag}-src 'sha256-{digest.lower()}'" in policy


def test_the_status_page_has_no_way_to_make_markup_of_a_text() -> None:
    page = STATUS_PAGE.decode()
    for way in ("innerHTML", "outerHTML", "insertAdjacent", "document.write", "eval(", " style="):
        assert way not in page
    assert re.findall(r"\son[a-z]+=", page) == []
    assert re.findall(r"(?:src|href)=\"(?!/|data:,)", page) == [], "self-contained"


@given(st.recursive(st.text() | st.none() | st.integers(), st.lists))
async def test_any_text_reaches_the_page_as_plain_json(value: object) -> None:
    health = Health(needs=(), owns_partitions=False, stall_after_seconds=60)
    routes = admin_routes(
        registry=CollectorRegistry(), health=health, status=lambda: {"value": value}
    )
    response = routes["/status.json"](Request("GET", "/status.json", {}))
    assert response.content_type == "application/json"
    assert response.body.isascii()
    assert json.loads(response.body) == {"value": value}


async def test_every_answer_carries_the_safety_headers_and_no_version(site: Site) -> None:
    for path in ("/", "/status.json", "/metrics", "/healthz", "/nowhere"):
        _, headers, _ = await ask(site.port, get(path))
        assert headers["x-content-type-options"] == "nosniff"
        assert headers["x-frame-options"] == "deny"
        assert headers["cache-control"] == "no-store"
        assert headers["connection"] == "close"
        assert "server" not in headers


async def test_head_gives_the_headers_of_get_and_no_body(site: Site) -> None:
    _, full, body = await ask(site.port, get("/healthz"))
    status, headers, nothing = await ask(site.port, get("/healthz", "HEAD"))
    assert (status, nothing) == (200, b"")
    assert headers["content-length"] == full["content-length"] == str(len(body))


@pytest.mark.parametrize(
    ("request_bytes", "status"),
    [
        pytest.param(get("/nowhere"), 404, id="unknown path"),
        pytest.param(get("/../etc/passwd"), 404, id="path traversal"),
        pytest.param(get("/metrics/"), 404, id="trailing slash"),
        pytest.param(get("/%6detrics"), 404, id="escaped path"),
        pytest.param(get("/", "POST"), 405, id="post"),
        pytest.param(
            get("/", "POST", "Content-Length: 9") + b"x" * 3_000_000, 405, id="post with body"
        ),
        pytest.param(get("/", "get"), 405, id="method in lower case"),
        pytest.param(get("/", "TRACE"), 405, id="trace"),
        pytest.param(get("http://localhost/"), 400, id="absolute target"),
        pytest.param(b"\r\n\r\n", 400, id="empty line"),
        pytest.param(b"GET / HTTP/2.0\r\n\r\n", 400, id="version"),
        pytest.param(b"GET  / HTTP/1.1\r\n\r\n", 400, id="two spaces"),
        pytest.param(b"\x16\x03\x01\x00\r\n\r\n", 400, id="tls hello"),
        pytest.param(b"GET / HTTP/1.1\r\nno colon\r\n\r\n", 400, id="header without colon"),
        pytest.param(b"GET / HTTP/1.1\r\n folded: x\r\n\r\n", 400, id="folded header"),
        pytest.param(get("/", "GET", "X: " + "x" * MAX_HEAD_BYTES), 431, id="large head"),
        pytest.param(b"x" * 3_000_000, 431, id="endless line"),
        pytest.param(b"GET / HTTP/1.1\r\nHost: evil.example\r\n\r\n", 421, id="rebound host"),
        pytest.param(b"GET /healthz HTTP/1.1\r\nHost: [::1]:9108\r\n\r\n", 200, id="ipv6 host"),
        pytest.param(b"GET /healthz HTTP/1.0\r\n\r\n", 200, id="no host"),
    ],
)
async def test_requests_get_the_status_they_deserve(
    site: Site, request_bytes: bytes, status: int
) -> None:
    answered, headers, _ = await ask(site.port, request_bytes)
    assert answered == status
    assert ("allow" in headers) is (status == 405)
    assert (await ask(site.port, get("/healthz")))[0] == 200


async def test_a_page_that_fails_is_logged_and_ends_nothing(
    site: Site, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.ERROR):
        status, _, body = await ask(site.port, get("/broken"))
    assert (status, body) == (500, b"Internal Server Error\n")
    assert [record.message for record in caplog.records] == ["admin page failed"]
    assert (await ask(site.port, get("/healthz")))[0] == 200


async def test_a_slow_client_is_cut_off(site: Site) -> None:
    reader, writer = await asyncio.open_connection("127.0.0.1", site.port)
    started = asyncio.get_running_loop().time()

    async def trickle() -> None:
        while True:
            writer.write(b"G")
            await asyncio.sleep(0.05)

    slow = asyncio.create_task(trickle())
    async with asyncio.timeout(5):
        with suppress(ConnectionError):  # an orderly end is as good
            while await reader.read(100):
                pass
    slow.cancel()
    writer.close()
    assert asyncio.get_running_loop().time() - started < 2


async def test_the_oldest_connection_makes_room_when_every_place_is_taken() -> None:
    health = Health(needs=(), owns_partitions=False, stall_after_seconds=60)
    routes = admin_routes(registry=CollectorRegistry(), health=health, status=dict)
    slow = []
    async with serve_admin(
        "127.0.0.1", 0, routes, max_connections=8, read_timeout_seconds=60
    ) as port:
        for _ in range(40):
            reader, writer = await asyncio.open_connection("127.0.0.1", port)
            writer.write(b"GET / HTTP/1.1\r\n")
            slow.append((reader, writer))
        assert (await ask(port, get("/healthz")))[0] == 200
        async with asyncio.timeout(5):
            for reader, _ in slow[:32]:
                with suppress(ConnectionError):
                    assert await reader.read() == b""
        assert not slow[-1][0].at_eof()
    for _, writer in slow:
        writer.close()


async def test_many_connections_at_once_are_all_answered(site: Site) -> None:
    gate = asyncio.Semaphore(8)

    async def one() -> int:
        async with gate:
            return (await ask(site.port, get("/metrics")))[0]

    assert await asyncio.gather(*(one() for _ in range(200))) == [200] * 200


async def test_closing_the_server_does_not_wait_for_its_clients_but_ends_them() -> None:
    async with asyncio.timeout(5):
        async with serve_admin("127.0.0.1", 0, {}, read_timeout_seconds=60) as port:
            reader, writer = await asyncio.open_connection("127.0.0.1", port)
            await asyncio.sleep(0.01)
        with suppress(ConnectionError):
            assert await reader.read() == b""
        writer.close()


@pytest.mark.parametrize("host", ["127.0.0.1", "192.0.2.1", "no.such.host.invalid"])
async def test_an_address_that_cannot_be_bound_gives_one_sentence(host: str) -> None:
    async with serve_admin("127.0.0.1", 0, {}) as port:
        with pytest.raises(SettingsError) as caught:
            async with serve_admin(host, port, {}):
                pass
    (problem,) = caught.value.problems
    assert problem.startswith(f"The admin port {host}:{port} ")
    assert ("is in use" in problem) is (host == "127.0.0.1")
    assert "NEWSLOOM_ADMIN_PORT" in problem
