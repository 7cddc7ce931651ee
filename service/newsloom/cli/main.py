"""The `newsloom` command: finds the asked-for command, turns what became of it into an exit code.

Data goes to stdout, talk to stderr. Exit codes: 0 all went well, 1 some records were bad, 2 wrong
use or configuration, 3 a dependency is away, 70 an unexpected error, 130 interrupted.
"""

import importlib
import sys
import traceback
from collections.abc import Iterator, Sequence
from enum import IntEnum
from types import TracebackType
from typing import Final, NamedTuple

import click

from newsloom.errors import Unavailable


class ExitCode(IntEnum):
    """What the shell is told; a contract with scripts."""

    OK = 0
    RECORDS_REJECTED = 1
    USAGE = 2
    UNAVAILABLE = 3
    UNEXPECTED = 70
    INTERRUPTED = 130


class CommandPlace(NamedTuple):
    """Where a command lives, and its line in `newsloom --help`."""

    module: str
    attribute: str
    help: str


COMMANDS: Final[dict[str, CommandPlace]] = {
    "demo": CommandPlace("demo", "demo", "A real Kafka and Postgres, some records through them."),
    "services": CommandPlace("services", "services", "The embedded Kafka and Postgres."),
    "publish": CommandPlace("publish", "publish", "Send record files to Kafka."),
    "run": CommandPlace("roles", "run", "All roles in one process."),
    "ingest": CommandPlace("roles", "ingest", "Kafka to Postgres: enrich, deduplicate, store."),
    "link": CommandPlace("roles", "link", "Find copies and stories among stored articles."),
    "relay": CommandPlace("roles", "relay", "Send changes and dead letters to Kafka."),
    "migrate": CommandPlace("migrate", "migrate", "Bring the database schema up to date."),
    "topics": CommandPlace("topics", "topics", "Create and check the Kafka topics."),
    "trace": CommandPlace("trace", "trace", "What becomes of one record, or of two compared."),
    "dead-letters": CommandPlace("dead_letters", "dead_letters", "List, show, replay rejects."),
    "offsets": CommandPlace("offsets", "offsets", "Show positions; get out of a parked partition."),
    "doctor": CommandPlace("doctor", "doctor", "Check configuration and everything it names."),
    "generate": CommandPlace("generate", "generate", "Records with known duplicates, from a seed."),
    "contracts": CommandPlace("contracts", "contracts", "Write the JSON Schema and AsyncAPI."),
    "maintain": CommandPlace("maintain", "maintain", "Retention and partitions."),
    "erase": CommandPlace("erase", "erase", "Take one article down for good."),
    "relink": CommandPlace("relink", "relink", "Recompute copies and stories of stored articles."),
}


class LazyGroup(click.Group):
    """A group whose commands are imported when used, not when listed."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        """Name the commands in the order of the table."""
        del ctx
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """Import and return the command, or None (which click turns into a usage error)."""
        del ctx
        place = COMMANDS.get(cmd_name)
        if place is None:
            return None
        module = importlib.import_module(f"newsloom.cli.{place.module}")
        command = getattr(module, place.attribute)
        if not isinstance(command, click.Command):
            raise TypeError(f"newsloom.cli.{place.module}.{place.attribute} is not a command")
        return command

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Write the list of commands from the table, without importing any of them."""
        with formatter.section("Commands"):
            formatter.write_dl([(name, COMMANDS[name].help) for name in self.list_commands(ctx)])


@click.group(cls=LazyGroup, context_settings={"help_option_names": ["-h", "--help"]})
@click.option(
    "--traceback", "show_traceback", is_flag=True, help="Print an unexpected error's traceback."
)
@click.version_option(package_name="newsloom", message="%(version)s")
def newsloom(*, show_traceback: bool) -> None:
    """Parsed news articles through Kafka into Postgres: enriched, deduplicated, observable.

    Every setting is an environment variable that starts with NEWSLOOM_; `newsloom doctor` shows
    them.
    """
    del show_traceback  # read in `run`, which also sees the errors before this point


def main() -> None:
    """Be the console script."""
    sys.exit(run(sys.argv[1:]))


def run(arguments: Sequence[str]) -> int:
    """Run one command line and return its exit code; errors are told on stderr, in one line each.

    A command may return an `ExitCode`; None means OK.
    """
    try:
        result = newsloom.main(list(arguments), prog_name="newsloom", standalone_mode=False)
    except click.ClickException as error:
        error.show()
        return error.exit_code
    except (click.Abort, KeyboardInterrupt):
        return ExitCode.INTERRUPTED
    except BrokenPipeError:
        # Whoever read our output (`| head`) has seen enough. Python would complain once more when
        # it flushes stdout at exit.
        sys.stderr.close()
        return ExitCode.OK
    except Exception as error:  # noqa: BLE001 - the outermost frame: everything becomes an exit code
        return _told(error, with_traceback="--traceback" in arguments)
    return result if isinstance(result, int) else ExitCode.OK


def _told(error: Exception, *, with_traceback: bool) -> int:
    """Say what went wrong and return the exit code for it."""
    causes = list(_leaves(error))
    if all(isinstance(cause, Unavailable) for cause in causes):
        for sentence in dict.fromkeys(str(cause) for cause in causes):
            click.echo(f"newsloom: {sentence}", err=True)
        return ExitCode.UNAVAILABLE
    if _is_settings_error(causes[0]):
        click.echo(f"newsloom: {causes[0]}", err=True)
        return ExitCode.USAGE
    if with_traceback:
        traceback.print_exception(error)
    # The message of a foreign exception may quote article text or a password; its class does not.
    hint = "" if with_traceback else "; `newsloom --traceback ...` shows more"
    cause = causes[0]
    click.echo(
        f"newsloom: unexpected {type(cause).__name__} at {_place(cause.__traceback__)}{hint}",
        err=True,
    )
    return ExitCode.UNEXPECTED


def _leaves(error: BaseException) -> Iterator[BaseException]:
    """Unpack exception groups, which is what a TaskGroup raises."""
    if isinstance(error, BaseExceptionGroup):
        for inner in error.exceptions:
            yield from _leaves(inner)
    else:
        yield error


def _is_settings_error(error: BaseException) -> bool:
    # The settings are imported by the commands that need them; importing them here would cost every
    # start a tenth of a second.
    settings = sys.modules.get("newsloom.settings")
    return settings is not None and isinstance(error, settings.SettingsError)


def _place(trace: TracebackType | None) -> str:
    frames = traceback.extract_tb(trace)
    ours = [frame for frame in frames if "newsloom" in frame.filename] or list(frames)
    return f"{ours[-1].filename}:{ours[-1].lineno}" if ours else "an unknown place"
