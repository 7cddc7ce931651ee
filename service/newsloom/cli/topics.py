"""`newsloom topics`: create and check the Kafka topics."""

from collections.abc import Sequence
from typing import Any

import click

from newsloom.cli.support import Format, emit, format_option, load_settings, tell


@click.group()
def topics() -> None:
    """Create and check newsloom's Kafka topics."""


_PARTITIONS = click.option(
    "--partitions",
    type=click.IntRange(min=1, max=10_000),
    default=4,
    show_default=True,
    help="Partitions of the articles topics: the most ingest processes that can share the work.",
)


@topics.command()
@_PARTITIONS
@click.option(
    "--replication-factor",
    type=click.IntRange(min=1, max=32),
    help="Default: 3, or the number of brokers when there are fewer.",
)
@format_option
def apply(partitions: int, replication_factor: int | None, output: Format) -> int:
    """Create the missing Kafka topics; add partitions where there are too few.

    Nothing else is changed: differences in existing topics are reported, exit code 1.
    """
    from newsloom import app  # noqa: PLC0415 - heavy, and --help must be quick
    from newsloom.adapters.kafka import topics as kafka_topics  # noqa: PLC0415
    from newsloom.publishing import kafka_settings  # noqa: PLC0415

    kafka = kafka_settings(load_settings(), tell)
    specs = kafka_topics.topic_specs(kafka, partitions)
    states = app.run(kafka_topics.apply_topics(kafka, specs, replication_factor=replication_factor))
    return _print(states, output)


@topics.command()
@_PARTITIONS
@format_option
def show(partitions: int, output: Format) -> int:
    """Show the Kafka topics and where they differ from what they should be (exit code 1)."""
    from newsloom import app  # noqa: PLC0415 - heavy, and --help must be quick
    from newsloom.adapters.kafka import topics as kafka_topics  # noqa: PLC0415
    from newsloom.publishing import kafka_settings  # noqa: PLC0415

    kafka = kafka_settings(load_settings(), tell)
    specs = kafka_topics.topic_specs(kafka, partitions)
    return _print(app.run(kafka_topics.show_topics(kafka, specs)), output)


def _print(states: Sequence[Any], output: Format) -> int:
    for state in states:
        if output == "json":
            emit(
                {
                    "name": state.name,
                    "partitions": state.partitions,
                    "replication_factor": state.replication_factor,
                    "created": state.created,
                    "problems": list(state.problems),
                }
            )
            continue
        note = "created" if state.created else "; ".join(state.problems) or "ok"
        click.echo(
            f"{state.name:34} {state.partitions:3} partitions x {state.replication_factor}  {note}"
        )
    return 1 if any(state.problems for state in states) else 0
