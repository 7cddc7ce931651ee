"""The switch of the fault tests: what it does, and that no deployment can turn it on."""

import asyncio

import pytest

from newsloom.decoding import decode_deliveries
from newsloom.failpoints import VARIABLE, FailpointError, failpoint_from_env
from newsloom.ports import Delivery
from newsloom.settings import Settings, SettingsError

LOOPBACK = ("127.0.0.1:9092,localhost:9093", "postgresql://u@127.0.0.1/db")


def settings(servers: str, dsn: str) -> Settings:
    secure = {} if servers == LOOPBACK[0] else {"NEWSLOOM_KAFKA_SECURITY_PROTOCOL": "SSL"}
    remote = not dsn.endswith("@127.0.0.1/db")
    return Settings.from_env(
        {
            "NEWSLOOM_KAFKA_BOOTSTRAP_SERVERS": servers,
            "NEWSLOOM_POSTGRES_DSN": f"{dsn}?sslmode=verify-full" if remote else dsn,
            **secure,
        }
    )


@pytest.mark.parametrize(
    "addresses",
    [
        ("kafka.example:9092", LOOPBACK[1]),
        ("localhost:9092,kafka.example:9092", LOOPBACK[1]),
        (LOOPBACK[0], "postgresql://u@db.example/db"),
        (LOOPBACK[0], "postgresql://u@127.0.0.1,db.example/db"),
    ],
)
def test_a_deployment_cannot_be_made_to_crash_by_a_variable(addresses: tuple[str, str]) -> None:
    with pytest.raises(SettingsError, match="tests on one machine"):
        failpoint_from_env({VARIABLE: "before_cas:1:raise"}, settings(*addresses))


def test_without_addresses_it_is_refused_too() -> None:
    with pytest.raises(SettingsError, match="tests on one machine"):
        failpoint_from_env({VARIABLE: "before_cas:1:raise"}, Settings.from_env({}))


@pytest.mark.parametrize("text", ["before_cas", "before_cas:1:explode", "x:y:raise", "a:1:raise "])
def test_what_is_not_understood_is_refused_with_the_form(text: str) -> None:
    with pytest.raises(SettingsError, match="<step>:<n>:"):
        failpoint_from_env({VARIABLE: text}, settings(*LOOPBACK))


def test_without_the_variable_there_is_none() -> None:
    assert failpoint_from_env({}, settings(*LOOPBACK)) is None


async def test_it_acts_at_the_visit_that_was_named_and_never_again() -> None:
    failpoint = failpoint_from_env({VARIABLE: "before_cas:2:raise"}, settings(*LOOPBACK))
    assert failpoint is not None
    await failpoint.checkpoint("before_cas")
    await failpoint.checkpoint("after_cas")
    with pytest.raises(FailpointError):
        await failpoint.checkpoint("before_cas")
    await failpoint.checkpoint("before_cas")


async def test_a_delay_holds_up_one_task_and_a_block_all_of_them() -> None:
    for action, others_run in (("delay=0.1", True), ("block=0.1", False)):
        failpoint = failpoint_from_env({VARIABLE: f"x:1:{action}"}, settings(*LOOPBACK))
        assert failpoint is not None
        task = asyncio.create_task(failpoint.checkpoint("x"))
        await asyncio.sleep(0)  # one step of the loop: whoever blocks it is through by now
        assert task.done() is not others_run
        await task


def test_decoding_is_met_by_the_one_delivery_that_was_named() -> None:
    failpoint = failpoint_from_env({VARIABLE: "decode@1/7:1:raise"}, settings(*LOOPBACK))
    assert failpoint is not None
    decode = failpoint.guarding(decode_deliveries)
    healthy = [Delivery("t", 0, 7, 0, None, b"", ()), Delivery("t", 1, 8, 0, None, b"", ())]
    assert len(decode(healthy).items) == 2
    with pytest.raises(FailpointError):
        decode([*healthy, Delivery("t", 1, 7, 0, None, b"", ())])
