"""The last resort against a process that hangs: a thread that ends it when nothing moves.

aiokafka has been seen to stop fetching for ever after broker restarts (issues 1154, 625, 847), with
no error to catch. A restart is always safe here, so a stuck process is worth less than a fresh one.
"""

import faulthandler
import os
import sys
import threading
from collections.abc import Callable

EXIT_STUCK = 70
_TICK_SECONDS = 1.0


def start_watchdog(progress_age_seconds: Callable[[], float], limit_seconds: float) -> None:
    """Exit with 70 when the progress age stays above the limit.

    It must have grown for as long while this thread itself was running: a process that was frozen
    (SIGSTOP, a suspended laptop) gets its chance to go on.
    """
    thread = threading.Thread(
        target=_watch, args=(progress_age_seconds, limit_seconds), name="watchdog", daemon=True
    )
    thread.start()


def _watch(progress_age_seconds: Callable[[], float], limit_seconds: float) -> None:
    ticks = 0.0
    idle = threading.Event()
    last_age = 0.0
    while True:
        idle.wait(_TICK_SECONDS)
        age = progress_age_seconds()
        ticks = ticks + _TICK_SECONDS if age > last_age else 0.0
        last_age = age
        if ticks >= limit_seconds and age >= limit_seconds:
            sys.stderr.write(f"newsloom: no progress for {age:.0f} s, exiting to be restarted\n")
            faulthandler.dump_traceback()  # frames only: shows where every thread hangs
            sys.stderr.flush()
            os._exit(EXIT_STUCK)
