"""Statements as the driver takes them, for the many small rows of counters and reports.

SQLAlchemy makes ten objects for each result, which costs more than SQLite itself, so SQLite's own connection is asked; on
PostgreSQL, where the way to the server costs more, SQLAlchemy keeps telling conflicts from faults. All functions run inside a
transaction of `Database`; statements are in the common subset of both, with `?` for each value.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, cast

if TYPE_CHECKING:
    from sqlalchemy import Connection

Values = tuple[object, ...]


def fetch(connection: Connection, statement: str, values: Values = ()) -> list[tuple[Any, ...]]:
    """The rows of a query, or of a change with RETURNING."""
    if connection.dialect.name == "sqlite":
        return _sqlite(connection).execute(statement, values).fetchall()
    return [tuple(row) for row in connection.exec_driver_sql(_marked(statement), values)]


def change(connection: Connection, statement: str, values: Values = ()) -> int:
    """Execute a change; how many rows it changed."""
    if connection.dialect.name == "sqlite":
        return _sqlite(connection).execute(statement, values).rowcount
    return connection.exec_driver_sql(_marked(statement), values).rowcount


def change_many(connection: Connection, statement: str, rows: Sequence[Values]) -> None:
    """Execute a change for each of `rows`."""
    if not rows:
        return
    if connection.dialect.name == "sqlite":
        _sqlite(connection).executemany(statement, rows)
    else:
        connection.exec_driver_sql(_marked(statement), list(rows))


def _sqlite(connection: Connection) -> sqlite3.Connection:
    return cast("sqlite3.Connection", connection.connection.driver_connection)


def _marked(statement: str) -> str:
    return statement.replace("?", "%s")
