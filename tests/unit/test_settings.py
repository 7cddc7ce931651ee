"""Settings: what is accepted, what is refused and in which words, and that secrets stay secret."""

import os
import re
import traceback
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from newsloom import settings as settings_package
from newsloom.settings import (
    VARIABLES,
    Settings,
    SettingsError,
    is_loopback,
    read_secret_file,
    reference_table,
)
from newsloom.settings.environment import UNITS

CANARY = "canary-7f3a"
README = Path(__file__).parents[2] / "README.md"


def problems_of(env: dict[str, str]) -> tuple[str, ...]:
    with pytest.raises(SettingsError) as caught:
        Settings.from_env(env)
    return caught.value.problems


def test_an_empty_environment_gives_the_documented_defaults() -> None:
    settings = Settings.from_env({})
    assert settings.ingest.consumer_group == "newsloom"
    assert settings.kafka.articles_topic == "newsloom.articles.v1"
    assert settings.ingest.max_batch_records == 500
    assert (settings.admin.host, settings.admin.port) == ("127.0.0.1", 9108)
    assert settings.kafka.bootstrap_servers is None
    assert settings.postgres.dsn is None


def test_every_variable_can_be_set_to_its_default() -> None:
    env = {v.name: v.masked(Settings()) for v in VARIABLES}
    assert Settings.from_env(env) == Settings.from_env({})


def test_an_empty_value_counts_as_not_set() -> None:
    env = {variable.name: " " for variable in VARIABLES}
    assert Settings.from_env(env) == Settings.from_env({})


def test_settings_cannot_be_changed() -> None:
    with pytest.raises(ValueError, match="frozen"):
        Settings.from_env({}).admin.port = 1  # type: ignore[misc]


@pytest.mark.parametrize(
    ("name", "hint"),
    [
        ("NEWSLOOM_ADMIN_PROT", "NEWSLOOM_ADMIN_PORT"),
        ("NEWSLOOM_KAFKA_BOOTSTRAP_SERVER", "NEWSLOOM_KAFKA_BOOTSTRAP_SERVERS"),
        ("NEWSLOOM_POSTGRES_URL", "NEWSLOOM_POSTGRES_DSN"),
        ("NEWSLOOM_SASL_PASSWORD_FILE", "NEWSLOOM_KAFKA_SASL_PASSWORD_FILE"),
    ],
)
def test_an_unknown_name_is_refused_with_the_nearest_known_one(name: str, hint: str) -> None:
    assert problems_of({name: CANARY}) == (
        f"{name} is not a setting of newsloom. Did you mean {hint}?",
    )


def test_an_unknown_name_cannot_smuggle_control_characters_into_the_message() -> None:
    (problem,) = problems_of({"NEWSLOOM_\n\x1b[31mX\udcff": "1"})
    assert problem.isprintable()
    assert "\\n" in problem


def test_names_of_the_test_suite_and_of_others_are_ignored() -> None:
    env = {"NEWSLOOM_TEST_FAILPOINT": "x", "NEWSLOOMING": "x", "PATH": "/bin"}
    assert Settings.from_env(env) == Settings.from_env({})


@pytest.mark.parametrize(
    ("env", "sentence"),
    [
        (
            {"NEWSLOOM_ADMIN_PORT": "70000"},
            "NEWSLOOM_ADMIN_PORT must be less than or equal to 65535.",
        ),
        ({"NEWSLOOM_LOG_LEVEL": "loud"}, "NEWSLOOM_LOG_LEVEL must be 'DEBUG', 'INFO', "),
        ({"NEWSLOOM_INGEST_WATCHDOG_SECONDS": "nan"}, "NEWSLOOM_INGEST_WATCHDOG_SECONDS must be "),
        ({"NEWSLOOM_INGEST_MAX_BATCH_RECORDS": "0"}, "NEWSLOOM_INGEST_MAX_BATCH_RECORDS must be "),
        ({"NEWSLOOM_KAFKA_BOOTSTRAP_SERVERS": "kafka"}, "must be host:port"),
        ({"NEWSLOOM_KAFKA_BOOTSTRAP_SERVERS": "::1:9092"}, "IPv6 addresses in brackets"),
        ({"NEWSLOOM_KAFKA_BOOTSTRAP_SERVERS": "h:99999999999999999999"}, "must be host:port"),
        ({"NEWSLOOM_KAFKA_SECURITY_PROTOCOL": "SASL_SSL"}, "needs NEWSLOOM_KAFKA_SASL_USERNAME"),
        ({"NEWSLOOM_KAFKA_SASL_USERNAME": "u"}, "would not use it"),
        ({"NEWSLOOM_KAFKA_SSL_KEY_FILE": "/k"}, "belong together"),
        ({"NEWSLOOM_INGEST_SESSION_TIMEOUT_SECONDS": "2"}, "at most a third"),
        ({"NEWSLOOM_POSTGRES_POOL_MIN_CONNECTIONS": "9"}, "must not exceed"),
        ({"NEWSLOOM_POSTGRES_STATEMENT_TIMEOUT_SECONDS": "30"}, "must be below"),
    ],
)
def test_a_wrong_value_gives_one_sentence_that_names_its_variable(
    env: dict[str, str], sentence: str
) -> None:
    (problem,) = problems_of(env)
    assert sentence in problem
    assert problem.startswith("NEWSLOOM_")
    assert problem.endswith(".")


def test_all_problems_are_reported_at_once() -> None:
    assert len(problems_of({"NEWSLOOM_ADMIN_PORT": "x", "NEWSLOOM_LOG_LEVEL": "x"})) == 2


@pytest.mark.parametrize(
    ("host", "loopback"),
    [
        ("127.0.0.1", True),
        ("127.8.9.10", True),
        ("::1", True),
        ("localhost", True),
        ("/run/postgresql", True),
        ("128.0.0.1", False),
        ("0.0.0.0", False),  # noqa: S104 - an address to judge, not to bind
        ("localhost.example.org", False),
        ("127.0.0.1.example.org", False),
        ("::ffff:10.0.0.1", False),
        ("2130706433", False),
        ("", False),
    ],
)
def test_loopback_is_only_what_cannot_be_another_machine(host: str, loopback: bool) -> None:  # noqa: FBT001
    assert is_loopback(host) is loopback


@pytest.mark.parametrize("protocol", ["PLAINTEXT", "SASL_PLAINTEXT"])
@pytest.mark.parametrize("servers", ["kafka:9092", "localhost:9092,10.0.0.7:9092"])
def test_unencrypted_kafka_is_refused_off_loopback_unless_allowed(
    protocol: str, servers: str
) -> None:
    env = {
        "NEWSLOOM_KAFKA_BOOTSTRAP_SERVERS": servers,
        "NEWSLOOM_KAFKA_SECURITY_PROTOCOL": protocol,
    }
    if protocol == "SASL_PLAINTEXT":
        env |= {"NEWSLOOM_KAFKA_SASL_USERNAME": "u", "NEWSLOOM_KAFKA_SASL_PASSWORD": CANARY}
    (problem,) = problems_of(env)
    assert "unencrypted" in problem
    assert Settings.from_env(env | {"NEWSLOOM_ALLOW_INSECURE": "1"}).allow_insecure
    local = env | {"NEWSLOOM_KAFKA_BOOTSTRAP_SERVERS": "localhost:9092,[::1]:9092"}
    assert Settings.from_env(local).kafka.hosts() == ("localhost", "::1")


def test_a_plain_password_is_never_sent_unencrypted() -> None:
    env = {
        "NEWSLOOM_KAFKA_SECURITY_PROTOCOL": "SASL_PLAINTEXT",
        "NEWSLOOM_KAFKA_SASL_MECHANISM": "plain",
        "NEWSLOOM_KAFKA_SASL_USERNAME": "u",
        "NEWSLOOM_KAFKA_SASL_PASSWORD": CANARY,
        "NEWSLOOM_ALLOW_INSECURE": "1",
    }
    assert "would send the password unencrypted" in problems_of(env)[0]


@pytest.mark.parametrize(
    "dsn",
    [
        "postgresql://u:p@db/x",
        "postgresql://u:p@db/x?sslmode=require",
        "postgresql://u:p@127.0.0.1,db/x",
        "postgresql://u:p@127.0.0.1.example.org/x",
        "postgresql://u:p@%31%30.0.0.1/x",
        "postgresql:///x?host=db",
    ],
)
def test_postgres_without_a_verified_certificate_is_refused_off_loopback(dsn: str) -> None:
    (problem,) = problems_of({"NEWSLOOM_POSTGRES_DSN": dsn})
    assert "sslmode=verify-full" in problem
    assert Settings.from_env(
        {"NEWSLOOM_POSTGRES_DSN": dsn, "NEWSLOOM_ALLOW_INSECURE": "1"}
    ).postgres.dsn


@pytest.mark.parametrize(
    "dsn",
    [
        "postgresql://u:p@db:5432/x?sslmode=verify-full&sslrootcert=/ca",
        "postgres://u@127.0.0.1:5555/x",
        "postgresql://u@[::1]:5432/x",
        "postgresql://u@%2Frun%2Fpg/x",
        "postgresql:///x?host=/run/pg&port=5433",
    ],
)
def test_a_verified_or_local_postgres_is_accepted(dsn: str) -> None:
    assert Settings.from_env({"NEWSLOOM_POSTGRES_DSN": dsn}).postgres.masked_dsn()


@pytest.mark.parametrize(
    ("dsn", "sentence"),
    [
        ("mysql://u:canary-7f3a@127.0.0.1/x", "does not start with postgresql://"),
        ("postgresql://u:canary-7f3a@127.0.0.1@db/x", "has an @"),
        ("postgresql://u:canary-7f3a@127.0.0.1/x?host=db", "has host as a parameter"),
        ("postgresql://127.0.0.1/x?password=canary-7f3a", "has password as a parameter"),
        ("postgresql:///x?host=/run&service=canary-7f3a", "has service as a parameter"),
        ("postgresql://u:canary-7f3a@/x", "names no host"),
        ("postgresql://u:canary-7f3a@127.0.0.1:p/x", "has a port"),
        ("postgresql://u:canary-7f3a@[::1/x", "cannot be read"),
        ("postgresql://u:canary 7f3a@127.0.0.1/x", "holds a space"),
        ("postgresql://db/x?sslmode=verify-full&sslmode=disable", "twice"),
        ("postgresql://u:canary-7f3a#@127.0.0.1/x", "has a # in it"),
    ],
)
def test_a_dsn_that_a_client_might_read_otherwise_is_refused_without_quoting_it(
    dsn: str, sentence: str
) -> None:
    (problem,) = problems_of({"NEWSLOOM_POSTGRES_DSN": dsn})
    assert "canary" not in problem
    assert problem.startswith("NEWSLOOM_POSTGRES_DSN ")
    assert sentence in problem


def test_secrets_show_nowhere_once_they_are_read(tmp_path: Path) -> None:
    path = tmp_path / "password"
    path.write_text(f"{CANARY}\n")
    path.chmod(0o400)
    settings = Settings.from_env(
        {
            "NEWSLOOM_POSTGRES_DSN": f"postgresql://u:{CANARY}@db/x?sslmode=verify-full",
            "NEWSLOOM_KAFKA_SECURITY_PROTOCOL": "sasl_ssl",
            "NEWSLOOM_KAFKA_SASL_USERNAME": "u",
            "NEWSLOOM_KAFKA_SASL_PASSWORD_FILE": str(path),
        }
    )
    assert settings.kafka.sasl_password is not None
    assert settings.kafka.sasl_password.get_secret_value() == CANARY
    shown = f"{settings!r} {settings} {settings.masked()} {settings.model_dump_json()}"
    assert CANARY not in shown
    assert (
        settings.masked()["NEWSLOOM_POSTGRES_DSN"] == "postgresql://u:***@db/x?sslmode=verify-full"
    )
    assert settings.masked()["NEWSLOOM_KAFKA_SASL_PASSWORD"] == "***"  # noqa: S105


def error_of(env: dict[str, str]) -> SettingsError | None:
    try:
        Settings.from_env(env)
    except SettingsError as error:
        return error
    return None


@pytest.mark.parametrize("name", [variable.name for variable in VARIABLES])
def test_no_value_is_ever_quoted_by_an_error(name: str) -> None:
    error = error_of({name: f"{CANARY}\n[::"})
    assert CANARY not in "".join(traceback.format_exception(error))


@given(st.text(min_size=1).filter(lambda text: "\0" not in text))
def test_a_dsn_of_any_text_is_accepted_or_refused_in_our_words(dsn: str) -> None:
    error = error_of({"NEWSLOOM_POSTGRES_DSN": dsn})
    assert error is None or error.problems[0].startswith("NEWSLOOM_POSTGRES_DSN ")


@pytest.mark.parametrize(
    ("content", "mode", "sentence"),
    [
        (b"secret\n", 0o644, "mode 0644: run chmod 0400"),
        (b"secret\n", 0o420, "mode 0420"),
        (b"", 0o400, "empty"),
        (b"\xff", 0o400, "not UTF-8"),
        (b"a\nb", 0o400, "control characters"),
        (b"x" * 70_000, 0o400, "too large"),
    ],
)
def test_a_secret_file_that_is_open_or_odd_is_refused(
    tmp_path: Path, content: bytes, mode: int, sentence: str
) -> None:
    path = tmp_path / "secret"
    path.write_bytes(content)
    path.chmod(mode)
    (problem,) = problems_of({"NEWSLOOM_POSTGRES_DSN_FILE": str(path)})
    assert problem.startswith("NEWSLOOM_POSTGRES_DSN_FILE ")
    assert sentence in problem


def test_a_secret_file_must_exist_and_be_a_file(tmp_path: Path) -> None:
    assert "cannot be read" in problems_of({"NEWSLOOM_POSTGRES_DSN_FILE": "/nowhere/at/all"})[0]
    assert "cannot be read" in problems_of({"NEWSLOOM_POSTGRES_DSN_FILE": str(tmp_path)})[0]
    os.mkfifo(tmp_path / "pipe")
    assert "regular" in problems_of({"NEWSLOOM_POSTGRES_DSN_FILE": str(tmp_path / "pipe")})[0]
    (tmp_path / "both").write_text("x")
    both = {"NEWSLOOM_POSTGRES_DSN_FILE": str(tmp_path / "both"), "NEWSLOOM_POSTGRES_DSN": "y"}
    assert "both set" in problems_of(both)[0]


def test_an_open_secret_file_is_accepted_only_when_insecurity_is(tmp_path: Path) -> None:
    path = tmp_path / "secret"
    path.write_text("word\r\n")
    path.chmod(0o666)
    assert read_secret_file(path, True) == "word"  # noqa: FBT003


def test_embedded_services_fill_only_what_is_unset() -> None:
    own = Settings.from_env({"NEWSLOOM_KAFKA_BOOTSTRAP_SERVERS": "127.0.0.1:1"})
    filled = own.with_services(
        kafka_bootstrap_servers="127.0.0.1:2", postgres_dsn=f"postgresql://u:{CANARY}@127.0.0.1/x"
    )
    assert filled.kafka.bootstrap_servers == "127.0.0.1:1"
    assert filled.postgres.masked_dsn() == "postgresql://u:***@127.0.0.1/x"
    assert CANARY not in repr(filled)


def test_every_number_has_its_unit_in_its_name_and_every_variable_a_meaning() -> None:
    for variable in VARIABLES:
        assert variable.meaning.endswith((".", ")")), variable.name
        if isinstance(variable.default, int | float) and not isinstance(variable.default, bool):
            assert variable.unit in UNITS, variable.name
            assert variable.unit, variable.name


def test_the_reference_table_has_a_row_for_each_variable() -> None:
    rows = reference_table().splitlines()[2:]
    assert [re.findall(r"`(NEWSLOOM_\w+?)`", row)[0] for row in rows] == [v.name for v in VARIABLES]
    assert all(row.count("|") == 5 for row in rows)


def test_the_configuration_table_of_the_readme_is_current() -> None:
    begin, end = "<!-- configuration:begin -->", "<!-- configuration:end -->"
    text = README.read_text(encoding="utf-8")
    assert begin in text, f"README.md has no {begin}"
    written = text.split(begin)[1].split(end)[0].strip()
    assert written == reference_table(), (
        "write it anew: python -c 'from newsloom.settings import reference_table as t; print(t())'"
    )


def test_every_setting_is_read_by_the_service() -> None:
    folder = Path(settings_package.__file__).parents[1]
    sources = "\n".join(
        path.read_text(encoding="utf-8")
        for path in folder.rglob("*.py")
        if path.parent.name != "settings"
    )
    unread = [v.name for v in VARIABLES if not re.search(rf"\b{v.field}\b", sources)]
    assert unread == []
