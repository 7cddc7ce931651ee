"""What an error of Postgres or of asyncpg means for a batch: by SQLSTATE and class, not by text."""

from enum import Enum, auto

import asyncpg

from newsloom.errors import Unavailable, is_data_sqlstate
from newsloom.ports import BatchRefused

LINK_ERRORS = (OSError, EOFError, asyncpg.InterfaceError, asyncpg.InternalClientError)
"""What asyncpg raises when the link or its own state is in doubt; a timeout is an OSError too."""

_TRANSIENT_CLASSES = frozenset({"08", "53", "57"})
_TRANSIENT_STATES = frozenset(
    {
        "25006",  # read-only: a standby, or a server before its promotion
        "25P03",  # idle in transaction for too long: this process was frozen
        "25P04",  # transaction_timeout
        "55P03",  # lock_timeout
    }
)
_CONFLICTS = frozenset({"40001", "40P01"})

_CLIENT_SIDE_STATES: tuple[tuple[type[Exception], str], ...] = (
    (UnicodeError, "22021"),  # a lone surrogate: character not in repertoire
    (OverflowError, "22003"),  # numeric value out of range
)


class Retry(Enum):
    """Whether the same transaction may be tried again at once, and what has to happen before."""

    NO = auto()
    YES = auto()
    AFTER_RELOAD = auto()
    """The schema changed under prepared statements: forget them first."""


def retry_of(error: Exception) -> Retry:
    """Tell whether an error says nothing but "the same again may well succeed"."""
    if isinstance(error, asyncpg.InvalidCachedStatementError | asyncpg.OutdatedSchemaCacheError):
        return Retry.AFTER_RELOAD
    if isinstance(error, asyncpg.PostgresError) and error.sqlstate in _CONFLICTS:
        return Retry.YES
    return Retry.NO


def translated(error: Exception) -> Exception:
    """Return the error for the flow: `Unavailable`, `BatchRefused`, or the same one if it is a bug.

    Not to be raised `from` the original, whose text may quote row data.
    """
    if isinstance(error, asyncpg.InvalidCachedStatementError):
        return Unavailable("postgres", type(error).__name__)
    if isinstance(error, asyncpg.PostgresError):
        return _of_sqlstate(error.sqlstate or "XX000")
    for kind, sqlstate in _CLIENT_SIDE_STATES:
        if isinstance(error, kind):
            return BatchRefused(sqlstate)
    if isinstance(error, LINK_ERRORS):
        return Unavailable("postgres", type(error).__name__)
    return error


def _of_sqlstate(sqlstate: str) -> Exception:
    if is_data_sqlstate(sqlstate):
        return BatchRefused(sqlstate)
    is_transient = sqlstate[:2] in _TRANSIENT_CLASSES or sqlstate in _TRANSIENT_STATES | _CONFLICTS
    return Unavailable("postgres", sqlstate, systemic=not is_transient)
