"""The command's outermost frame: exit codes and what a person is told."""

import subprocess
import sys
from collections.abc import Callable
from importlib.machinery import ModuleSpec
from types import ModuleType

import click
import pytest

from newsloom.cli.main import COMMANDS, CommandPlace, ExitCode, run
from newsloom.errors import Unavailable
from newsloom.settings import SettingsError

Install = Callable[[BaseException | int | None], None]


@pytest.fixture
def command_that(monkeypatch: pytest.MonkeyPatch) -> Install:
    """Make `newsloom try` raise or return what the test wants."""

    def install(effect: BaseException | int | None) -> None:
        @click.command()
        def attempt() -> int | None:
            if isinstance(effect, BaseException):
                raise effect
            return effect

        module = ModuleType("newsloom.cli.attempt")
        module.__spec__ = ModuleSpec("newsloom.cli.attempt", None)
        module.attempt = attempt  # type: ignore[attr-defined]
        monkeypatch.setitem(sys.modules, "newsloom.cli.attempt", module)
        monkeypatch.setitem(COMMANDS, "try", CommandPlace("attempt", "attempt", "For tests."))

    return install


@pytest.mark.parametrize(
    ("effect", "code"),
    [
        pytest.param(None, ExitCode.OK, id="nothing to say"),
        pytest.param(ExitCode.RECORDS_REJECTED, ExitCode.RECORDS_REJECTED, id="some bad records"),
        pytest.param(click.UsageError("no"), ExitCode.USAGE, id="wrong use"),
        pytest.param(SettingsError("no"), ExitCode.USAGE, id="wrong configuration"),
        pytest.param(Unavailable("kafka", "away"), ExitCode.UNAVAILABLE, id="dependency away"),
        pytest.param(
            ExceptionGroup("tasks", [ExceptionGroup("inner", [Unavailable("kafka", "away")])]),
            ExitCode.UNAVAILABLE,
            id="dependency away, told by a task group",
        ),
        pytest.param(
            ExceptionGroup("tasks", [Unavailable("kafka", "away"), ValueError()]),
            ExitCode.UNEXPECTED,
            id="dependency away and a bug",
        ),
        pytest.param(ValueError(), ExitCode.UNEXPECTED, id="a bug"),
        pytest.param(KeyboardInterrupt(), ExitCode.INTERRUPTED, id="interrupted"),
        pytest.param(click.Abort(), ExitCode.INTERRUPTED, id="interrupted at a prompt"),
    ],
)
def test_exit_code_tells_what_became_of_the_command(
    command_that: Install, effect: BaseException | int | None, code: ExitCode
) -> None:
    command_that(effect)
    assert run(["try"]) == code


def test_message_of_a_foreign_error_is_not_shown(
    command_that: Install, capsys: pytest.CaptureFixture[str]
) -> None:
    command_that(ValueError("a title, or a password"))
    run(["try"])
    told = capsys.readouterr()
    assert told.out == ""
    assert "unexpected ValueError at " in told.err
    assert "password" not in told.err
    assert len(told.err.splitlines()) == 1


def test_traceback_is_shown_to_who_asks(
    command_that: Install, capsys: pytest.CaptureFixture[str]
) -> None:
    command_that(ValueError("the whole story"))
    run(["--traceback", "try"])
    assert "the whole story" in capsys.readouterr().err


def test_dependency_that_is_away_is_said_once(
    command_that: Install, capsys: pytest.CaptureFixture[str]
) -> None:
    away = [Unavailable("kafka", "away"), Unavailable("kafka", "away")]
    command_that(ExceptionGroup("tasks", away))
    run(["try"])
    assert capsys.readouterr().err.count("kafka") == 1


def test_unknown_command_is_wrong_use() -> None:
    assert run(["no-such-command"]) == ExitCode.USAGE


@pytest.mark.parametrize("package", ["newsloom.app", "newsloom.publishing"])
def test_only_the_linker_loads_numpy(package: str) -> None:
    program = f"import sys, {package}; sys.exit('numpy' in sys.modules)"
    loaded = subprocess.run(
        [sys.executable, "-c", program], check=False, env={"PYTHONPATH": ":".join(sys.path)}
    )
    assert loaded.returncode == 0


def test_help_lists_what_exists_and_imports_none_of_it() -> None:
    program = (
        "import sys\n"
        "from newsloom.cli.main import run\n"
        "code = run(['--help'])\n"
        "heavy = {'pydantic', 'aiokafka', 'asyncpg', 'numpy', 'rich'} & set(sys.modules)\n"
        "sys.exit(f'imported {heavy}' if heavy else code)\n"
    )
    shown = subprocess.run(
        [sys.executable, "-c", program],
        capture_output=True,
        text=True,
        check=False,
        env={"PYTHONPATH": ":".join(sys.path)},
    )
    assert shown.returncode == 0, shown.stderr
    assert "  services " in shown.stdout
    assert "--traceback" in shown.stdout
