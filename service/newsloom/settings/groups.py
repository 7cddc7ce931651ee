"""The settings, one frozen model for each part of newsloom. Units are in the names."""

from pathlib import Path
from typing import Annotated, ClassVar, Literal, Self

from pydantic import (
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    SecretStr,
    field_validator,
    model_validator,
)

from newsloom.settings.addresses import MASK, MAX_PORT, parse_dsn, split_servers

Seconds = Annotated[float, Field(gt=0, le=86_400)]
Count = Annotated[int, Field(ge=1, le=1_000_000)]
Bytes = Annotated[int, Field(ge=1024, le=1 << 30)]
Port = Annotated[int, Field(ge=0, le=MAX_PORT)]
# Names are accepted in either case ("info", "sasl_ssl"), as every other tool does.
_Upper = BeforeValidator(lambda value: value.upper() if isinstance(value, str) else value)
_Lower = BeforeValidator(lambda value: value.lower() if isinstance(value, str) else value)
TopicName = Annotated[str, Field(pattern=r"\A[a-zA-Z0-9._-]{1,249}\z")]


class Group(BaseModel):
    """Settings that share a name: NEWSLOOM_<PREFIX>_<FIELD>."""

    model_config = ConfigDict(
        frozen=True, extra="forbid", hide_input_in_errors=True, allow_inf_nan=False
    )
    env_prefix: ClassVar[str]


class KafkaSettings(Group):
    """Where Kafka is and how to speak to it; shared by every role."""

    env_prefix = "KAFKA_"

    bootstrap_servers: str | None = Field(
        None, description="`host:port`, comma-separated. Unset: the embedded services, if running."
    )
    security_protocol: Annotated[
        Literal["PLAINTEXT", "SSL", "SASL_PLAINTEXT", "SASL_SSL"], _Upper
    ] = Field("PLAINTEXT", description="Without TLS only loopback brokers are accepted.")
    sasl_mechanism: Annotated[Literal["SCRAM-SHA-512", "SCRAM-SHA-256", "PLAIN"], _Upper] = Field(
        "SCRAM-SHA-512", description="Used by the SASL protocols. PLAIN is accepted only with TLS."
    )
    sasl_username: str | None = Field(None, description="Needed by the SASL protocols.")
    sasl_password: SecretStr | None = Field(None, description="Needed by the SASL protocols.")
    ssl_ca_file: Path | None = Field(
        None, description="PEM file of the authorities to trust. Unset: those of the system."
    )
    ssl_certificate_file: Path | None = Field(None, description="Client certificate (mutual TLS).")
    ssl_key_file: Path | None = Field(None, description="Key of the client certificate.")
    ssl_key_password: SecretStr | None = Field(
        None, description="Password of that key, if it has one."
    )
    articles_topic: TopicName = Field(
        "newsloom.articles.v1", description="Kafka topic that publish writes and ingest reads."
    )
    backfill_topic: TopicName = Field(
        "newsloom.articles-backfill.v1",
        description="Kafka topic of bulk imports: read while nothing live waits for 2 seconds.",
    )
    changes_topic: TopicName = Field(
        "newsloom.changes.v1", description="Kafka topic that the relay writes changes to."
    )
    dead_letters_topic: TopicName = Field(
        "newsloom.dead-letters.v1", description="Kafka topic that the relay writes dead letters to."
    )
    receipts_topic: TopicName = Field(
        "newsloom.receipts.v1",
        description="Kafka topic of receipts, for publishers that wait until a record is stored.",
    )
    request_timeout_seconds: Seconds = Field(
        40.0, description="Longest wait for one broker answer."
    )

    @property
    def uses_tls(self) -> bool:
        """Whether what is sent is encrypted and the broker's name is checked."""
        return self.security_protocol in ("SSL", "SASL_SSL")

    @property
    def uses_sasl(self) -> bool:
        """Whether a user name and a password are sent."""
        return self.security_protocol.startswith("SASL_")

    @field_validator("bootstrap_servers")
    @classmethod
    def _servers_are_host_and_port(cls, value: str | None) -> str | None:
        if value is not None:
            list(split_servers(value))
        return value

    @model_validator(mode="after")
    def _credentials_are_complete(self) -> Self:
        if self.uses_sasl and (self.sasl_username is None or self.sasl_password is None):
            msg = (
                f"NEWSLOOM_KAFKA_SECURITY_PROTOCOL={self.security_protocol} needs "
                "NEWSLOOM_KAFKA_SASL_USERNAME and NEWSLOOM_KAFKA_SASL_PASSWORD_FILE."
            )
            raise ValueError(msg)
        if self.security_protocol == "SASL_PLAINTEXT" and self.sasl_mechanism == "PLAIN":
            msg = (
                "NEWSLOOM_KAFKA_SASL_MECHANISM=PLAIN would send the password unencrypted: use "
                "SCRAM-SHA-512, or NEWSLOOM_KAFKA_SECURITY_PROTOCOL=SASL_SSL."
            )
            raise ValueError(msg)
        if not self.uses_sasl and (
            self.sasl_username is not None or self.sasl_password is not None
        ):
            msg = (
                "NEWSLOOM_KAFKA_SASL_USERNAME or _PASSWORD is set, but "
                f"NEWSLOOM_KAFKA_SECURITY_PROTOCOL={self.security_protocol} would not use it: "
                "set SASL_SSL, or unset them."
            )
            raise ValueError(msg)
        return self

    @model_validator(mode="after")
    def _client_certificate_is_complete(self) -> Self:
        if (self.ssl_certificate_file is None) != (self.ssl_key_file is None):
            msg = (
                "NEWSLOOM_KAFKA_SSL_CERTIFICATE_FILE and NEWSLOOM_KAFKA_SSL_KEY_FILE belong "
                "together: set both or neither."
            )
            raise ValueError(msg)
        return self

    def hosts(self) -> tuple[str, ...]:
        """Hosts of `bootstrap_servers`; empty when it is not set."""
        return tuple(host for host, _ in split_servers(self.bootstrap_servers or ""))


class PostgresSettings(Group):
    """Where Postgres is and how long to wait for it."""

    env_prefix = "POSTGRES_"

    dsn: SecretStr | None = Field(
        None,
        description="`postgresql://USER:PASSWORD@HOST/DB?sslmode=verify-full&sslrootcert=FILE`. "
        "Unset: the embedded services, if running.",
    )
    pool_min_connections: int = Field(1, ge=0, le=1000, description="Connections kept open.")
    pool_max_connections: Count = Field(8, description="Most connections of one process.")
    connect_timeout_seconds: Seconds = Field(5.0, description="Longest wait for a new connection.")
    statement_timeout_seconds: Seconds = Field(
        20.0, description="The server ends a statement here."
    )
    lock_timeout_seconds: Seconds = Field(
        5.0, description="The server ends a wait for a lock here."
    )
    command_timeout_seconds: Seconds = Field(
        30.0, description="The client gives a connection up here; above the statement timeout."
    )
    idle_in_transaction_timeout_seconds: Seconds = Field(
        30.0, description="The server ends a transaction that idles this long (a frozen client)."
    )
    transaction_timeout_seconds: Seconds = Field(
        60.0,
        description="The server ends a transaction here: an open one holds the change log back.",
    )
    tcp_user_timeout_seconds: Seconds = Field(
        15.0, description="Unacknowledged data closes a link."
    )

    @field_validator("dsn")
    @classmethod
    def _dsn_is_explicit(cls, value: SecretStr | None) -> SecretStr | None:
        if value is not None:
            parse_dsn(value.get_secret_value())
        return value

    @model_validator(mode="after")
    def _limits_nest(self) -> Self:
        if self.pool_min_connections > self.pool_max_connections:
            msg = (
                "NEWSLOOM_POSTGRES_POOL_MIN_CONNECTIONS must not exceed "
                "NEWSLOOM_POSTGRES_POOL_MAX_CONNECTIONS."
            )
            raise ValueError(msg)
        if self.statement_timeout_seconds >= self.command_timeout_seconds:
            # Otherwise the client drops connections on which the server still works.
            msg = (
                "NEWSLOOM_POSTGRES_STATEMENT_TIMEOUT_SECONDS must be below "
                "NEWSLOOM_POSTGRES_COMMAND_TIMEOUT_SECONDS."
            )
            raise ValueError(msg)
        return self

    def masked_dsn(self) -> str:
        """Scheme, user, hosts, database and sslmode of the DSN; never a password. For people."""
        if self.dsn is None:
            return ""
        parts = parse_dsn(self.dsn.get_secret_value())
        user = f"{parts.user}:{MASK}@" if parts.user else ""
        mode = f"?sslmode={parts.sslmode}" if parts.sslmode else ""
        return f"postgresql://{user}{','.join(parts.hosts)}/{parts.database}{mode}"


class PublishSettings(Group):
    """The publish role."""

    env_prefix = "PUBLISH_"

    delivery_timeout_seconds: Seconds = Field(
        120.0, description="A record not acknowledged by Kafka after this is reported as failed."
    )
    max_in_flight_records: Count = Field(
        1000, description="Records sent and not yet acknowledged; bounds memory."
    )
    max_record_bytes: Bytes = Field(
        1_000_000, description="Largest event; below the Kafka topic's max.message.bytes."
    )
    compression: Annotated[Literal["none", "gzip", "lz4", "zstd"], _Lower] = Field(
        "zstd",
        description="Compression of Kafka batches; lz4 takes five times the CPU of zstd here.",
    )
    parse_timeout_seconds: Seconds = Field(
        2.0, description="A record that takes longer to parse is refused with parse.timeout."
    )


class IngestSettings(Group):
    """The ingest role. delivery.md gives the reason for each of these."""

    env_prefix = "INGEST_"

    consumer_group: TopicName = Field(
        "newsloom", description="Kafka consumer group, also the key of the offsets in Postgres."
    )
    max_batch_records: Count = Field(500, description="Upper bound of one store transaction.")
    max_batch_bytes: Bytes = Field(
        2 << 20,
        description="Most bytes of values in one store transaction; a larger record goes alone.",
    )
    decode_ahead_bytes: Bytes = Field(
        6 << 20,
        description="Next batches are decoded early while all at work hold no more than this; "
        "bounds memory.",
    )
    queue_batches: Count = Field(
        2,
        description="Batches, by records or bytes, held a partition before its fetching pauses; "
        "bounds memory.",
    )
    poll_timeout_seconds: Seconds = Field(0.5, description="Longest wait of one poll for records.")
    session_timeout_seconds: Seconds = Field(
        10.0, description="Kafka gives a silent member's partitions away after this."
    )
    heartbeat_interval_seconds: Seconds = Field(
        1.0, description="At most a third of the session timeout."
    )
    rebalance_timeout_seconds: Seconds = Field(60.0, description="Time members have to rejoin.")
    max_poll_interval_seconds: Seconds = Field(300.0, description="Longest time between polls.")
    fetch_max_bytes: Bytes = Field(8 << 20, description="Most bytes of one fetch from a broker.")
    max_partition_fetch_bytes: Bytes = Field(
        2 << 20, description="Most bytes a partition; above the Kafka topic's max.message.bytes."
    )
    backoff_base_seconds: Seconds = Field(0.1, description="First wait for a dependency, at most.")
    backoff_cap_seconds: Seconds = Field(30.0, description="Longest wait for a dependency.")
    watchdog_seconds: Seconds = Field(
        60.0, description="The process exits (70) when its loop makes no progress for this long."
    )
    breaker_window_records: Count = Field(
        500, description="Deliveries looked back on by the dead-letter breaker."
    )
    breaker_ratio: float = Field(
        0.2,
        gt=0,
        le=1,
        description="Dead letters of one reason in that window that park a partition.",
    )
    drain_seconds: Seconds = Field(
        10.0, description="At shutdown, the time running transactions have to finish."
    )
    offset_mirror_seconds: Seconds = Field(
        5.0, description="How often offsets are copied to Kafka, for lag tools only."
    )
    refreshed_changes: bool = Field(
        default=False,
        description="Also log a change (`refreshed`) when only signals changed: mirrors then "
        "follow quality, heat and ratings, and read about fifteen times as many changes.",
    )

    @model_validator(mode="after")
    def _limits_nest(self) -> Self:
        if 3 * self.heartbeat_interval_seconds > self.session_timeout_seconds:
            msg = (
                "NEWSLOOM_INGEST_HEARTBEAT_INTERVAL_SECONDS must be at most a third of "
                "NEWSLOOM_INGEST_SESSION_TIMEOUT_SECONDS."
            )
            raise ValueError(msg)
        if self.backoff_base_seconds > self.backoff_cap_seconds:
            msg = (
                "NEWSLOOM_INGEST_BACKOFF_BASE_SECONDS must not exceed "
                "NEWSLOOM_INGEST_BACKOFF_CAP_SECONDS."
            )
            raise ValueError(msg)
        return self


class LinkSettings(Group):
    """The link role."""

    env_prefix = "LINK_"

    window_hours: float = Field(
        168.0,
        gt=0,
        le=24 * 400,
        description="Hours of articles, by when they were first seen, that are compared with.",
    )


class AdminSettings(Group):
    """The admin port: status page, metrics, health."""

    env_prefix = "ADMIN_"

    host: str = Field(
        "127.0.0.1",
        min_length=1,
        max_length=255,
        description="Address to bind. It has no password.",
    )
    port: Port = Field(9108, description="0 takes a free one and logs it.")
    max_connections: Count = Field(64, description="Further connections are turned away.")
    read_timeout_seconds: Seconds = Field(5.0, description="Time a client has for its request.")


class LoggingSettings(Group):
    """What is logged to stderr, and how."""

    env_prefix = "LOG_"

    level: Annotated[Literal["DEBUG", "INFO", "WARNING", "ERROR"], _Upper] = Field(
        "INFO", description="Lowest level shown. Client libraries stay at INFO or above."
    )
    format: Annotated[Literal["auto", "json", "text"], _Lower] = Field(
        "auto", description="auto: text on a terminal, JSON lines elsewhere."
    )
