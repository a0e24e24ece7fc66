"""The tables of the queue, in the node's own SQLite database.

A message is a row of `queue_messages`, its content one of `queue_bodies` or a file of the spool. Its recipients are the state:
what has ended is gone. `queue_destinations` is the run queue: one row per domain with pending recipients, `next_due` being the
first of their instants, or `not_before` where the whole destination waits. Instants are microseconds UTC.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from postward.model import Schema

if TYPE_CHECKING:
    from alembic.operations import Operations

PENDING: Final = 0
HELD: Final = 1

# A number of a message is never used again: what is settled late must not hit another message.
_FIRST: Final = (
    """CREATE TABLE queue_messages (
        id INTEGER PRIMARY KEY AUTOINCREMENT,
        cid TEXT NOT NULL UNIQUE,
        sender TEXT NOT NULL,
        received INTEGER NOT NULL,
        size INTEGER NOT NULL,
        wish TEXT NOT NULL,
        smtputf8 INTEGER NOT NULL,
        eight_bit INTEGER NOT NULL,
        is_report INTEGER NOT NULL,
        is_bounce INTEGER NOT NULL,
        ret TEXT NOT NULL,
        envid TEXT NOT NULL,
        spool TEXT NOT NULL,
        head BLOB NOT NULL
    )""",
    "CREATE INDEX queue_messages_sender ON queue_messages (sender)",
    "CREATE UNIQUE INDEX queue_messages_spool ON queue_messages (spool) WHERE spool <> ''",
    "CREATE TABLE queue_bodies (message INTEGER PRIMARY KEY, data BLOB NOT NULL)",
    """CREATE TABLE queue_recipients (
        message INTEGER NOT NULL,
        position INTEGER NOT NULL,
        local TEXT NOT NULL,
        domain TEXT NOT NULL,
        state INTEGER NOT NULL,
        next_try INTEGER NOT NULL,
        attempts INTEGER NOT NULL,
        told_delay INTEGER NOT NULL,
        last_try INTEGER NOT NULL,
        notify TEXT NOT NULL,
        orcpt TEXT NOT NULL,
        host TEXT NOT NULL,
        last_reply TEXT NOT NULL,
        PRIMARY KEY (message, position)
    ) WITHOUT ROWID""",
    "CREATE INDEX queue_recipients_due ON queue_recipients (domain, state, next_try, message, position)",
    f"CREATE INDEX queue_recipients_held ON queue_recipients (message) WHERE state = {HELD}",
    """CREATE TABLE queue_destinations (
        domain TEXT PRIMARY KEY,
        shard INTEGER NOT NULL,
        next_due INTEGER NOT NULL,
        not_before INTEGER NOT NULL
    ) WITHOUT ROWID""",
    "CREATE INDEX queue_destinations_due ON queue_destinations (next_due, shard, domain)",
)


def _first(op: Operations) -> None:
    for statement in _FIRST:
        op.execute(statement)


def _report_ends(op: Operations) -> None:
    """What became of the mail of a report, until the outbox knows it."""
    op.execute(
        """CREATE TABLE queue_report_ends (
            cid TEXT PRIMARY KEY,
            envid TEXT NOT NULL,
            delivered INTEGER NOT NULL,
            reply TEXT NOT NULL,
            host TEXT NOT NULL,
            attempts INTEGER NOT NULL
        ) WITHOUT ROWID"""
    )


SCHEMA: Final = Schema(migrations=(_first, _report_ends))
