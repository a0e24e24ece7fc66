"""Messages and recipients read back from their rows, each by itself, so that a damaged one spoils no other.

`ValueError` says that something is damaged for good, `OSError` that the machine could not read it.
"""

from __future__ import annotations

import sqlite3
from typing import TYPE_CHECKING, Final

from postward.queue.rows import MESSAGE, RECIPIENT, content_of, message_of, recipient_of
from postward.queue.tables import PENDING
from postward.queue.types import RECIPIENTS_PER_JOB, QueuedMessage, QueuedRecipient

if TYPE_CHECKING:
    from postward.queue.spool import Spool

_MESSAGE: Final = (
    f"SELECT {MESSAGE}, data FROM queue_messages LEFT JOIN queue_bodies ON queue_bodies.message = queue_messages.id"
    " WHERE id = ?"
)
_RECIPIENTS: Final = f"SELECT state, next_try, {RECIPIENT} FROM queue_recipients WHERE message = ? ORDER BY position"
_DUE: Final = (
    f"SELECT {RECIPIENT} FROM queue_recipients WHERE message = ? AND domain = ? AND state = {PENDING} AND next_try <= ?"
    f" ORDER BY position LIMIT {RECIPIENTS_PER_JOB}"
)


def read_message(database: sqlite3.Connection, number: int, spool: Spool) -> QueuedMessage:
    """A message with its content. A file that is missing is damage."""
    try:
        row = database.execute(_MESSAGE, (number,)).fetchone()
        if row is None:
            raise ValueError("its row is missing")
        columns, body = row[:-1], row[-1]
        return message_of(columns, content_of(columns, body, spool))
    except FileNotFoundError as exc:
        raise ValueError(f"its file is missing: {exc.filename}") from exc
    except sqlite3.OperationalError as exc:
        raise _damage(exc) from exc


def read_due(database: sqlite3.Connection, number: int, domain: str, now: int) -> tuple[QueuedRecipient, ...]:
    """The recipients of a message that are due at a destination, as many as a job holds."""
    try:
        return tuple(recipient_of(row) for row in database.execute(_DUE, (number, domain, now)))
    except sqlite3.OperationalError as exc:
        raise _damage(exc) from exc


def read_recipients(database: sqlite3.Connection, number: int) -> list[tuple[QueuedRecipient, int, int]]:
    """All recipients of a message, each with its state and its next try."""
    try:
        return [(recipient_of(row[2:]), row[0], row[1]) for row in database.execute(_RECIPIENTS, (number,))]
    except sqlite3.OperationalError as exc:
        raise _damage(exc) from exc


def is_unreadable(error: sqlite3.OperationalError) -> bool:
    """Whether the driver could not read a value, such as text that is no UTF-8; SQLite itself has no code for that."""
    return getattr(error, "sqlite_errorcode", None) is None


def _damage(error: sqlite3.OperationalError) -> Exception:
    return ValueError(str(error)) if is_unreadable(error) else error
