"""Every scenario by its number in docs/delivery.md: those of `make test`, and all of them."""

import re

from tests.faults import cluster_scenarios as cluster
from tests.faults import log_scenarios as log
from tests.faults import mixed_scenarios as mixed
from tests.faults import process_scenarios as process
from tests.faults import scenarios as basic
from tests.faults.scenarios import Scenario

SHORT: dict[str, Scenario] = {
    "F1": basic.killed_anywhere,
    "F4": basic.frozen_before_transaction,
    "F10": basic.postgres_killed,
    "F14-before": basic.cut_before_commit,
    "F14-after": basic.cut_after_commit,
    "F23": basic.broker_killed,
    "F29": log.unreadable_batch,
    "F33": basic.postgres_restored,
}
"""Those that `make test` runs."""

ALL: dict[str, Scenario] = {
    **SHORT,
    "F2-F3": basic.killed_at_each_step,
    "F5": basic.frozen_in_transaction,
    "F6": process.claims_late,
    "F7": basic.rebalance_storm,
    "F8": process.slow_work,
    "F9": process.loop_blocked,
    "F11": basic.backends_killed,
    "F12": basic.postgres_frozen,
    "F13": basic.postgres_restarted,
    "F15": basic.postgres_unreachable,
    "F16": basic.postgres_slow,
    "F17": basic.read_only,
    "F18-F20": basic.statements_fail,
    "F20": basic.connections_used_up,
    "F21": basic.schema_changes,
    "F22": basic.right_revoked,
    "F24": basic.broker_frozen,
    "F25": cluster.leaders_killed,
    "F26": cluster.no_leader,
    "F27": basic.broker_link_breaks,
    "F28": basic.broker_link_corrupts,
    "F30-shorter": log.topic_made_anew_shorter,
    "F30-longer": log.topic_made_anew_longer,
    "F31": log.unread_deleted,
    "F32": basic.more_partitions,
    "F34": basic.group_deleted,
    "F35-F36": log.relay_in_trouble,
    "F37": log.aborted_transactions,
    "F38": process.clock_jumps,
    "F39": basic.stopped_politely,
    "F40": process.publish_killed,
    "F41": process.killed_by_a_record,
    "F42": mixed.everything_at_once,
}
"""Those that `make chaos` draws from."""

_NUMBERS = re.compile(r"F([0-9]+)(?:-F([0-9]+))?")


def named(text: str) -> list[str]:
    """Return the scenarios of that name or number: F14 is two of them, F19 is in F18-F20."""
    match = re.fullmatch(r"F([0-9]+)", text)
    if match is None:
        return [text] if text in ALL else []
    return [name for name in ALL if int(match[1]) in _numbers(name)]


def _numbers(name: str) -> range:
    match = _NUMBERS.match(name)
    assert match is not None, name
    first = int(match[1])
    return range(first, int(match[2] or first) + 1)
