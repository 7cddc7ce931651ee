"""Everything an operator can set: read once from the environment, then frozen.

`Settings.from_env(os.environ)` is called once, in `cli`; nothing else reads the environment. A
value that cannot be right is refused at the start, in sentences that name the variable and never
quote its value (a password pasted into the wrong variable must not reach a log). An empty value
counts as not set, which is what `${NAME:-}` in a compose file gives.

Secrets also have a `_FILE` form: that variable names a file which holds the secret.

`groups` holds the settings themselves, `addresses` reads host lists and DSNs, `environment` turns
variables into fields and back.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Final, Self

from pydantic import BaseModel, ConfigDict, Field, SecretStr, ValidationError, model_validator

from newsloom.settings.addresses import is_loopback, parse_dsn
from newsloom.settings.environment import (
    SecretReader,
    SettingsError,
    Variable,
    problems,
    read_secret_file,
    values,
    variables,
)
from newsloom.settings.groups import (
    AdminSettings,
    IngestSettings,
    KafkaSettings,
    LinkSettings,
    LoggingSettings,
    PostgresSettings,
    PublishSettings,
)

__all__ = [
    "VARIABLES",
    "AdminSettings",
    "IngestSettings",
    "KafkaSettings",
    "LinkSettings",
    "LoggingSettings",
    "PostgresSettings",
    "PublishSettings",
    "Settings",
    "SettingsError",
    "Variable",
    "is_loopback",
    "read_secret_file",
    "reference_table",
]


class Settings(BaseModel):
    """All settings of a process. Built by `from_env`; hand a role only the groups that it needs."""

    model_config = ConfigDict(frozen=True, extra="forbid", hide_input_in_errors=True)

    kafka: KafkaSettings = KafkaSettings()
    postgres: PostgresSettings = PostgresSettings()
    publish: PublishSettings = PublishSettings()
    ingest: IngestSettings = IngestSettings()
    link: LinkSettings = LinkSettings()
    admin: AdminSettings = AdminSettings()
    logging: LoggingSettings = LoggingSettings()
    services_dir: Path | None = Field(
        None, description="Folder of the embedded services. Unset: `.newsloom/`, see the README."
    )
    allow_insecure: bool = Field(
        False,  # noqa: FBT003 - a default, not an argument
        description="1 accepts unencrypted connections off loopback: for closed test networks.",
    )

    @classmethod
    def from_env(
        cls, env: Mapping[str, str], *, read_secret: SecretReader = read_secret_file
    ) -> Self:
        """Read every NEWSLOOM_ variable of `env`. Raises SettingsError with all problems at once.

        Pure but for the files that `*_FILE` variables name, which `read_secret` reads.
        """
        fields = values(VARIABLES, env, read_secret)
        try:
            return cls.model_validate(fields)
        except ValidationError as error:
            raise SettingsError(*problems(VARIABLES, error)) from None

    def with_services(self, *, kafka_bootstrap_servers: str, postgres_dsn: str) -> Self:
        """Fill what is unset with the addresses of the embedded services."""
        kafka, postgres = self.kafka, self.postgres
        if kafka.bootstrap_servers is None:
            kafka = kafka.model_copy(update={"bootstrap_servers": kafka_bootstrap_servers})
        if postgres.dsn is None:
            postgres = postgres.model_copy(update={"dsn": SecretStr(postgres_dsn)})
        return self.model_copy(update={"kafka": kafka, "postgres": postgres})

    def masked(self) -> dict[str, str]:
        """Every variable and its value, as text for people. Secrets show as "***" when set."""
        return {variable.name: variable.masked(self) for variable in VARIABLES}

    @model_validator(mode="after")
    def _connections_are_safe(self) -> Self:
        if self.allow_insecure:
            return self
        kafka = self.kafka
        if not kafka.uses_tls and not all(map(is_loopback, kafka.hosts())):
            msg = (
                f"NEWSLOOM_KAFKA_SECURITY_PROTOCOL={kafka.security_protocol} sends everything "
                "unencrypted to another machine: set SASL_SSL or SSL, or on a closed test network "
                "NEWSLOOM_ALLOW_INSECURE=1."
            )
            raise ValueError(msg)
        if self.postgres.dsn is not None:
            dsn = parse_dsn(self.postgres.dsn.get_secret_value())
            if dsn.sslmode != "verify-full" and not all(map(is_loopback, dsn.hosts)):
                msg = (
                    "NEWSLOOM_POSTGRES_DSN names another machine without sslmode=verify-full, so "
                    "neither the password nor the data would be safe: add "
                    "?sslmode=verify-full&sslrootcert=FILE, or on a closed test network set "
                    "NEWSLOOM_ALLOW_INSECURE=1."
                )
                raise ValueError(msg)
        return self


VARIABLES: Final[tuple[Variable, ...]] = variables(Settings)
"""Every variable, in the order of the reference table."""


def reference_table() -> str:
    """Markdown table of every variable: the configuration reference of README and docs."""
    rows = [
        f"| `{variable.name}`{' or `' + variable.file_name + '`' if variable.is_secret else ''} "
        f"| {variable.default_text()} | {variable.unit} | {variable.meaning} |"
        for variable in VARIABLES
    ]
    return "\n".join(["| Name | Default | Unit | Meaning |", "|---|---|---|---|", *rows])
