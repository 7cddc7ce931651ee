"""What a check found: a state, a sentence, and what to do."""

from collections.abc import Iterable
from dataclasses import dataclass
from enum import IntEnum, StrEnum


class State(StrEnum):
    """How bad it is. A warning does not stop newsloom, or only some day."""

    OK = "ok"
    WARN = "warn"
    FAIL = "fail"


class Fault(IntEnum):
    """Where a failure lies: the exit code it leads to."""

    OTHER = 1
    CONFIGURATION = 2
    DEPENDENCY = 3


@dataclass(frozen=True, slots=True)
class Finding:
    """One line of the report. `advice`: what to do; empty when nothing is to be done."""

    check: str
    state: State
    message: str
    advice: str = ""
    fault: Fault = Fault.OTHER


def ok(check: str, message: str) -> Finding:
    """Make a finding that needs nobody."""
    return Finding(check, State.OK, message)


def warn(check: str, message: str, advice: str) -> Finding:
    """Make a finding that somebody should look at, some time."""
    return Finding(check, State.WARN, message, advice)


def fail(check: str, message: str, advice: str, fault: Fault = Fault.OTHER) -> Finding:
    """Make a finding that keeps newsloom from working."""
    return Finding(check, State.FAIL, message, advice, fault)


def exit_code(findings: Iterable[Finding]) -> int:
    """0: nothing failed. Else what has to be mended first: settings, a dependency, the rest."""
    faults = {finding.fault for finding in findings if finding.state is State.FAIL}
    for fault in (Fault.CONFIGURATION, Fault.DEPENDENCY, Fault.OTHER):
        if fault in faults:
            return int(fault)
    return 0
