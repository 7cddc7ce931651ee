"""TLS, passwords and rights against real servers: what is accepted, and what must not be."""

import asyncio
import base64
import hashlib
import json
import re
import shutil
import ssl
import time
from collections.abc import AsyncIterator, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit, urlunsplit
from uuid import uuid4

import pytest
from aiokafka.admin import AIOKafkaAdminClient
from aiokafka.protocol.admin import CreateAclsRequest

from newsloom.adapters.embedded import EmbeddedKafka, default_cache
from newsloom.adapters.embedded.folders import service_owner, write_private
from newsloom.adapters.embedded.processes import free_port
from tests.support.blackbox import Finished, Line
from tests.support.certificates import Authority, make_authority, make_server_certificate
from tests.support.kafka import create_topic
from tests.support.services import open_folder, run_apart, start_or_fail

# A comma and an equals sign: SASL has a quoting of its own for these.
PASSWORD = "s3cret,with=signs-canary"  # noqa: S105 - of a server that lives for a minute
GROUP = "newsloom-secure"
TOPIC, KAFKA_GROUP, LITERAL = 2, 3, 3
READ, WRITE, DESCRIBE = 3, 4, 8
ALLOW = 3
ASKS_FOR_TLS = (8).to_bytes(4, "big") + (80877103).to_bytes(4, "big")


@dataclass(frozen=True, slots=True)
class Papers:
    """The authority that signed the servers' certificates, and one that did not."""

    folder: Path
    trusted: Authority
    foreign: Authority
    certificate: str
    key: str


@pytest.fixture(scope="module")
def papers() -> Iterator[Papers]:
    folder = open_folder()
    trusted, foreign = make_authority(folder, "trusted"), make_authority(folder, "foreign")
    certificate, key = make_server_certificate(folder, trusted, "localhost")
    for authority in (trusted, foreign):
        authority.certificate.chmod(0o644)
    yield Papers(folder, trusted, foreign, certificate, key)
    shutil.rmtree(folder, ignore_errors=True)


# -- Kafka -----------------------------------------------------------------------------------------


class SecureKafka(EmbeddedKafka):
    """A broker with a second listener: TLS, SCRAM-SHA-512, and ACLs for who comes that way."""

    def __init__(self, folder: Path, papers: Papers, users: Sequence[str]) -> None:
        self.secure_port = free_port()
        self._users = users
        self._keystore = papers.folder / "keystore.pem"
        write_private(self._keystore, papers.key + papers.certificate, owner=service_owner())
        plain, controller = free_port(), free_port()
        listener = "listener.name.secure."
        super().__init__(
            folder,
            cache=default_cache({}, folder),
            port=plain,
            config={
                "listeners": f"PLAINTEXT://127.0.0.1:{plain},SECURE://127.0.0.1:{self.secure_port},"
                f"CONTROLLER://127.0.0.1:{controller}",
                "advertised.listeners": f"PLAINTEXT://127.0.0.1:{plain},"
                f"SECURE://localhost:{self.secure_port}",
                "controller.quorum.voters": f"1@127.0.0.1:{controller}",
                "listener.security.protocol.map": "PLAINTEXT:PLAINTEXT,SECURE:SASL_SSL,"
                "CONTROLLER:PLAINTEXT",
                f"{listener}ssl.keystore.type": "PEM",
                f"{listener}ssl.keystore.location": str(self._keystore),
                f"{listener}sasl.enabled.mechanisms": "SCRAM-SHA-512",
                f"{listener}scram-sha-512.sasl.jaas.config": "org.apache.kafka.common.security."
                "scram.ScramLoginModule required;",
                "authorizer.class.name": "org.apache.kafka.metadata.authorizer.StandardAuthorizer",
                # Who comes by the plain listener: the broker itself, and the test that grants.
                "super.users": "User:ANONYMOUS",
            },
        )

    def _run(self, command: Sequence[str], environment: dict[str, str], *, text: str = "") -> None:
        for user in self._users if "format" in command else ():
            command = [*command, "--add-scram", f"SCRAM-SHA-512=[name={user},{_salted(PASSWORD)}]"]
        super()._run(command, environment, text=text)


def _salted(password: str) -> str:
    """Return what a broker stores; the tool that takes passwords cannot be given a comma."""
    salt, rounds = b"of-this-test-only", 4096
    salted = hashlib.pbkdf2_hmac("sha512", password.encode(), salt, rounds)
    texts = (base64.b64encode(value).decode() for value in (salt, salted))
    return "salt={},saltedpassword={},iterations=4096".format(*texts)


@pytest.fixture(scope="module")
def secure_kafka(services_folder: Path, papers: Papers) -> Iterator[SecureKafka]:
    folder = services_folder / f"secure-kafka-{uuid4().hex[:6]}"
    kafka = SecureKafka(folder, papers, ["publisher", "ingester"])
    try:
        start_or_fail(kafka)
        yield kafka
    finally:
        kafka.kill()


async def grant(bootstrap: str, *rights: tuple[int, str, str, int]) -> None:
    """Allow (resource type, resource, user, operation) each."""
    admin = AIOKafkaAdminClient(bootstrap_servers=bootstrap)
    await admin.start()
    try:
        for kind, name, user, operation in rights:
            request = CreateAclsRequest(kind, name, LITERAL, f"User:{user}", "*", operation, ALLOW)
            response = await admin._send_request(request)
            assert "error_code=0" in str(response), response
    finally:
        await admin.close()


@pytest.fixture
def secure_line(secure_kafka: SecureKafka, database: str) -> Line:
    """A Kafka topic on which `publisher` may write and `ingester` read, and no more than that."""
    topic = f"articles.{uuid4().hex}"
    plain = secure_kafka.bootstrap_servers
    assert plain is not None

    async def prepare() -> None:
        await create_topic(plain, topic)
        await grant(
            plain,
            (TOPIC, topic, "publisher", WRITE),
            (TOPIC, topic, "publisher", DESCRIBE),
            (TOPIC, topic, "ingester", READ),
            (TOPIC, topic, "ingester", DESCRIBE),
            (KAFKA_GROUP, GROUP, "ingester", READ),
        )

    run_apart(prepare())
    return Line(f"localhost:{secure_kafka.secure_port}", database, topic, 1, GROUP)


def as_user(name: str, papers: Papers, **changes: str) -> dict[str, str]:
    return {
        "NEWSLOOM_KAFKA_SECURITY_PROTOCOL": "SASL_SSL",
        "NEWSLOOM_KAFKA_SSL_CA_FILE": str(papers.trusted.certificate),
        "NEWSLOOM_KAFKA_SASL_USERNAME": name,
        "NEWSLOOM_KAFKA_SASL_PASSWORD": PASSWORD,
        **changes,
    }


@pytest.fixture
def record(tmp_path: Path) -> Path:
    path = tmp_path / "record.ndjson"
    path.write_text('{"title": "Over TLS", "originalUrl": "https://example.org/tls"}\n')
    return path


def findings(done: Finished) -> Mapping[str, str]:
    """What doctor says, the last of each check."""
    return {f["check"]: f"{f['message']} {f['advice']}".strip() for f in done.lines()}


async def test_least_rights_over_tls_are_enough_to_publish_and_to_ingest(
    secure_line: Line, papers: Papers, record: Path
) -> None:
    done = await secure_line.run("publish", record, extra=as_user("publisher", papers))
    assert done.code == 0, done.told()
    await secure_line.ingest(extra=as_user("ingester", papers))
    assert (await secure_line.outcomes())["created"] == 1
    done = await secure_line.run("doctor", "--format", "json", extra=as_user("ingester", papers))
    said = findings(done)
    assert done.code == 0, done.told()
    assert re.search(r"TLSv1\.[23], certificate until", said["kafka address"])
    assert said["kafka rights"] == "the broker checks rights (ACLs)"
    assert PASSWORD not in done.out + done.err


async def test_whoever_may_read_may_not_write_nor_create(
    secure_line: Line, papers: Papers, record: Path
) -> None:
    extra = as_user("ingester", papers, NEWSLOOM_PUBLISH_DELIVERY_TIMEOUT_SECONDS="5")
    done = await secure_line.run("publish", record, extra=extra, patience=50)
    assert done.code in (1, 3), done.told()
    assert PASSWORD not in done.out + done.err
    done = await secure_line.run("topics", "apply", extra=extra)
    assert done.code not in (0, 70), done.told()


async def test_whoever_may_write_may_not_ingest(secure_line: Line, papers: Papers) -> None:
    extra = as_user("publisher", papers)
    done = await secure_line.run("doctor", "--format", "json", extra=extra)
    assert done.code == 1, done.told()
    assert "TopicAuthorizationFailedError" in findings(done)["kafka read"]
    assert "GroupAuthorizationFailedError" in findings(done)["kafka group"]


@pytest.mark.parametrize(
    ("change", "check", "reason"),
    [
        pytest.param(
            {"NEWSLOOM_KAFKA_SASL_PASSWORD": "wrong-canary"},
            "kafka",
            "_PASSWORD_FILE are right",
            id="wrong password",
        ),
        pytest.param({"CA": "foreign"}, "kafka address", "certificate is refused", id="foreign CA"),
        pytest.param(
            {"HOST": "127.0.0.1"}, "kafka address", "IP address mismatch", id="wrong name"
        ),
        pytest.param(
            {
                "NEWSLOOM_KAFKA_SECURITY_PROTOCOL": "SASL_PLAINTEXT",
                "NEWSLOOM_KAFKA_SSL_CA_FILE": "",
                "HOST": "127.0.0.1",
            },
            "kafka",
            "cannot be used",
            id="no TLS",
        ),
    ],
)
async def test_a_broker_that_is_not_proved_is_not_used(  # noqa: PLR0917 - fixtures
    secure_kafka: SecureKafka,
    secure_line: Line,
    papers: Papers,
    record: Path,
    change: dict[str, str],
    check: str,
    reason: str,
) -> None:
    change = dict(change)
    extra = as_user("publisher", papers, NEWSLOOM_PUBLISH_DELIVERY_TIMEOUT_SECONDS="5")
    if change.pop("CA", None):
        extra["NEWSLOOM_KAFKA_SSL_CA_FILE"] = str(papers.foreign.certificate)
    if host := change.pop("HOST", None):
        extra["NEWSLOOM_KAFKA_BOOTSTRAP_SERVERS"] = f"{host}:{secure_kafka.secure_port}"
    extra |= change
    began = time.monotonic()
    published, examined = await asyncio.gather(
        secure_line.run("publish", record, extra=extra, patience=50),
        secure_line.run("doctor", "--format", "json", extra=extra, patience=50),
    )
    assert published.code == 3, published.told()
    assert time.monotonic() - began < 40
    assert examined.code == 3, examined.told()
    assert reason in findings(examined)[check]
    assert "canary" not in published.out + published.err + examined.out + examined.err


# -- Postgres --------------------------------------------------------------------------------------


@pytest.fixture
async def secure_postgres(
    empty_database: str, papers: Papers, tmp_path: Path
) -> AsyncIterator[str]:
    """A DSN without sslmode, host localhost, where TLS is spoken.

    The server in the wheel is built without TLS, so that ends in front of it.
    """
    for name, text in (("server.pem", papers.certificate), ("server.key", papers.key)):
        (tmp_path / name).write_text(text)
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.load_cert_chain(tmp_path / "server.pem", tmp_path / "server.key")
    parts = urlsplit(empty_database)

    async def pump(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with suppress(OSError):
            while data := await reader.read(1 << 16):
                writer.write(data)
                await writer.drain()
        writer.close()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        assert await reader.readexactly(8) == ASKS_FOR_TLS
        writer.write(b"S")
        with suppress(OSError):
            await writer.start_tls(context)
            inner = await asyncio.open_connection(parts.hostname, parts.port)
            await asyncio.gather(pump(reader, inner[1]), pump(inner[0], writer))
        writer.close()

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    async with server:
        port = server.sockets[0].getsockname()[1]
        netloc = f"{parts.username}:{parts.password}@localhost:{port}"
        yield urlunsplit(parts._replace(netloc=netloc))


def with_tls(dsn: str, authority: Authority, host: str = "localhost") -> str:
    parts = urlsplit(dsn)
    return urlunsplit(
        parts._replace(
            netloc=parts.netloc.replace("@localhost", f"@{host}"),
            query=f"sslmode=verify-full&sslrootcert={authority.certificate}",
        )
    )


async def test_postgres_is_reached_over_verified_tls(
    kafka_bootstrap: str, secure_postgres: str, papers: Papers
) -> None:
    line = Line(kafka_bootstrap, with_tls(secure_postgres, papers.trusted), "articles")
    await line.migrate()
    done = await line.run("doctor", "--format", "json")
    assert findings(done)["postgres tls"] == "TLSv1.3", done.told()
    assert findings(done)["schema"].startswith("all ")


@pytest.mark.parametrize("case", ["foreign CA", "wrong name"])
async def test_a_postgres_that_is_not_proved_is_not_used(
    kafka_bootstrap: str, secure_postgres: str, papers: Papers, case: str
) -> None:
    authority = papers.foreign if case == "foreign CA" else papers.trusted
    host = "127.0.0.1" if case == "wrong name" else "localhost"
    line = Line(kafka_bootstrap, with_tls(secure_postgres, authority, host), "articles")
    done = await line.run("doctor", "--format", "json")
    assert done.code == 3, done.told()
    assert "certificate is refused" in findings(done)["postgres"]
    done = await line.run("ingest", extra={"NEWSLOOM_KAFKA_ARTICLES_TOPIC": "articles"})
    assert done.code == 3, done.told()
    password = urlsplit(secure_postgres).password
    assert password is not None
    assert password not in done.out + done.err


async def test_a_man_in_the_middle_who_refuses_tls_gets_nothing(
    kafka_bootstrap: str, papers: Papers
) -> None:
    """Eight bytes that ask for TLS; after a "no", not one more."""
    received = bytearray()

    async def refuse(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        received.extend(await reader.readexactly(8))
        writer.write(b"N")
        await writer.drain()
        received.extend(await reader.read(1000))
        writer.close()

    server = await asyncio.start_server(refuse, "127.0.0.1", 0)
    async with server:
        port = server.sockets[0].getsockname()[1]
        dsn = f"postgresql://u:canary@localhost:{port}/d"
        line = Line(kafka_bootstrap, with_tls(dsn, papers.trusted), "articles")
        done = await line.run("doctor", "--format", "json")
    assert done.code == 3, done.told()
    assert bytes(received) == ASKS_FOR_TLS
    assert json.loads(done.out.splitlines()[0])
