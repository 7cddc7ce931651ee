"""Articles in Postgres: `store` has the transaction, `reading` and `writing` are its two halves."""

from newsloom.adapters.postgres.connection import PoolState
from newsloom.adapters.postgres.store import PostgresStore, open_store

__all__ = ["PoolState", "PostgresStore", "open_store"]
