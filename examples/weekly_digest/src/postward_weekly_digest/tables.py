"""The table: one row for each domain and week. Numbers are only added to, and taken out by who writes the mail."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Final

import sqlalchemy as sa

from postward import Schema
from postward.store import change, change_many, fetch
from postward_weekly_digest.counts import Row

if TYPE_CHECKING:
    from alembic.operations import Operations
    from sqlalchemy import Connection


def _first(operations: Operations) -> None:
    operations.create_table(
        "weekly_digest_counts",
        sa.Column("week", sa.BigInteger, primary_key=True, autoincrement=False),
        sa.Column("domain", sa.Text, primary_key=True),
        sa.Column("sessions", sa.BigInteger, nullable=False),
        sa.Column("failed", sa.BigInteger, nullable=False),
        sa.Column("clear", sa.BigInteger, nullable=False),
    )


# Released migrations are never changed; a new one goes behind them.
SCHEMA: Final = Schema(migrations=(_first,))

_ADD: Final = """
INSERT INTO weekly_digest_counts AS old (week, domain, sessions, failed, clear) VALUES (?, ?, ?, ?, ?)
ON CONFLICT (week, domain) DO UPDATE SET
    sessions = old.sessions + excluded.sessions, failed = old.failed + excluded.failed, clear = old.clear + excluded.clear
"""


def add(connection: Connection, sums: Mapping[tuple[int, str], tuple[int, int, int]]) -> None:
    """Add to the numbers."""
    change_many(connection, _ADD, [(*key, *numbers) for key, numbers in sorted(sums.items())])


def weeks(connection: Connection) -> list[int]:
    """The starts of the weeks that are counted."""
    return [int(row[0]) for row in fetch(connection, "SELECT DISTINCT week FROM weekly_digest_counts ORDER BY week")]


def load(connection: Connection, week: int) -> list[Row]:
    """The domains of a week."""
    statement = "SELECT domain, sessions, failed, clear FROM weekly_digest_counts WHERE week = ? ORDER BY domain"
    return [Row(domain=row[0], sessions=row[1], failed=row[2], clear=row[3]) for row in fetch(connection, statement, (week,))]


def take(connection: Connection, week: int) -> list[Row]:
    """Take a week out."""
    rows = load(connection, week)
    change(connection, "DELETE FROM weekly_digest_counts WHERE week = ?", (week,))
    return rows
