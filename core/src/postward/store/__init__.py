"""Durable state: databases used from trio, the journal of results, and the plugins' tables.

SQLAlchemy runs in threads behind `Database`; its connections are what `write`, `read` and `consume` hand to functions.
"""

from __future__ import annotations

from postward.errors import StoreError
from postward.store.codec import Result
from postward.store.cursors import StaleBatch
from postward.store.database import Database
from postward.store.driver import change, change_many, fetch
from postward.store.journal import Journal
from postward.store.migrations import SchemaStatus, status, upgrade
from postward.store.store import Store, open_store

__all__ = [
    "Database",
    "Journal",
    "Result",
    "SchemaStatus",
    "StaleBatch",
    "Store",
    "StoreError",
    "change",
    "change_many",
    "fetch",
    "open_store",
    "status",
    "upgrade",
]
