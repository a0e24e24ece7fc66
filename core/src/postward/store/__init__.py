"""Durable state: databases used from trio, the journal of results, and the plugins' tables.

SQLAlchemy runs in threads behind `Database`; its connections are what `write`, `read` and `consume` hand to functions. It is
slow to import, so names are fetched when they are used: a plugin may import what it needs at the top of its modules.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
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

_ELSEWHERE: Final = {
    "Database": "store.database",
    "Journal": "store.journal",
    "Result": "store.codec",
    "SchemaStatus": "store.migrations",
    "StaleBatch": "store.cursors",
    "Store": "store.store",
    "StoreError": "errors",
    "change": "store.driver",
    "change_many": "store.driver",
    "fetch": "store.driver",
    "open_store": "store.store",
    "status": "store.migrations",
    "upgrade": "store.migrations",
}


def __getattr__(name: str) -> Any:
    if name not in _ELSEWHERE:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(import_module(f"postward.{_ELSEWHERE[name]}"), name)
    globals()[name] = value
    return value
