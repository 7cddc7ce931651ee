"""What every test folder shares."""

import asyncio
from collections.abc import Generator
from typing import Any

import pytest

# Python 3.11 creates an event loop for whoever asks in a main thread that never had one, and
# pytest-asyncio asks. Nobody would close it, and its ResourceWarning fails the run (warnings are
# errors here). Once a loop, even none, has been set, nothing is created.
asyncio.set_event_loop(None)

pytest_plugins = [
    "tests.support.services",
    "tests.support.kafka",
    "tests.support.postgres",
    "tests.support.newsroom",
]


@pytest.hookimpl(wrapper=True)
def pytest_report_to_serializable() -> Generator[None, Any, Any]:
    """Let a worker report what a hostile test printed: lone surrogates do not travel."""
    return _speakable((yield))


def _speakable(value: Any) -> Any:
    if isinstance(value, str):
        return value.encode(errors="backslashreplace").decode()
    if isinstance(value, dict):
        return {_speakable(key): _speakable(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return type(value)(_speakable(item) for item in value)
    return value
