"""What every test folder shares."""

import asyncio

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
