"""What `make bench` says of what it measured, and of what it could not."""

import json
from typing import Any

from bench import connect, run
from bench.contenders.flat import COLUMNS
from bench.field import Timed
from bench.workloads import make


def case(name: str, result: "float | Timed | Exception", **more: Any) -> run.Case:
    async def measure() -> "float | Timed":
        if isinstance(result, Exception):
            raise result
        return result

    return run.Case(name, 1000, measure, **more)


def results(out: run.Measured, cases: list[run.Case]) -> dict[str, Any]:
    return {
        "records": {one.name: one.count for one in cases},
        "rates": out.rates,
        "not_measured": out.missing,
        "medians": out.medians(),
        "cpu_us_a_record": {},
        "postgres_us_a_record": {},
        "articles_a_second": {},
        "ratios": {},
    }


async def test_a_contender_that_cannot_be_had_says_why() -> None:
    out = run.Measured()
    cases = [
        case("small debezium", RuntimeError("the jars cannot be had: ConnectionError")),
        case("small newsloom x1", Timed(4000.0, 250.0, 220.0)),
    ]
    for one in cases:
        await out.add(one)
    lines = run.table(results(out, cases)).splitlines()
    assert any("small debezium" in line and "the jars cannot be had" in line for line in lines)
    assert any("small newsloom x1" in line and "4,000" in line for line in lines)


async def test_a_round_that_fails_does_not_hide_those_before_it() -> None:
    out = run.Measured()
    good, bad = case("small debezium", 4000.0), case("small debezium", TimeoutError("quiet"))
    await out.add(good)
    await out.add(bad)
    text = run.table(results(out, [good]))
    assert "| small debezium | 1,000 | 4,000 |" in text
    assert "not measured after 1 rounds: quiet" in text


def test_no_two_rounds_share_a_consumer_group() -> None:
    dsn = "postgresql://someone:secret@127.0.0.1:5432/one"
    names = [connect.sink_config("rows", dsn)["name"] for _ in range(2)]
    assert names[0] != names[1]


async def test_medians_of_the_rounds_and_ratios_of_the_best() -> None:
    out = run.Measured()
    for rates in ((3000, 3900, 8000), (3500, 2000, 7000), (1000, 4100, 9000)):
        for name, rate in zip(("newsloom x1", "newsloom x2", "limit A x2"), rates, strict=True):
            await out.add(case(f"small {name}", float(rate)))
    medians = run.with_best(out.medians())
    assert medians["small newsloom best"] == 3900
    ratios = run.ratios(medians)
    assert ratios["small ingest / limit A, two connections"] == round(3900 / 8000, 3)
    assert ratios["small: two processes / one"] == 1.3
    assert "small ingest / fastest flat" not in ratios


def test_every_case_says_what_it_writes() -> None:
    for what in {what for names in run.MEASURED.values() for what in names} | set(run.FLAT):
        assert any(what.startswith(known.split(" +")[0]) for known in run.WRITES), what


def test_debezium_gets_the_columns_that_its_schema_names() -> None:
    (one,) = make("small", 1)
    row = json.loads(connect.event(one).value)
    assert tuple(row) == COLUMNS
    schema = connect.schema()
    assert [field["field"] for field in schema["fields"]] == list(COLUMNS)
    kinds = {"string": str, "int64": int}
    for field in schema["fields"]:
        assert isinstance(row[field["field"]], kinds[field["type"]]), field
