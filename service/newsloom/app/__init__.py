"""The composition root: what puts processes together, and the only place to name adapters.

`process` is what every role runs in; `roles` puts each role together.
"""

from newsloom.app.process import owner_id, run, stop_on_signals, with_addresses
from newsloom.app.roles import Role, RunSummary, relink_stored, run_roles, snapshot_changes

__all__ = [
    "Role",
    "RunSummary",
    "owner_id",
    "relink_stored",
    "run",
    "run_roles",
    "snapshot_changes",
    "stop_on_signals",
    "with_addresses",
]
