"""What became of the mails of reports: kept beside the queue until the outbox, which is another database, has it.

An end is written in the transaction that takes the mail out of the queue, so a report is always in one of the two; and its id
is taken once, so a report that is put here a second time is recognised.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from postward.queue.rows import Entry, clean, raw

if TYPE_CHECKING:
    from sqlalchemy import Connection

    from postward.queue.types import End, Job

_DROPPED: Final = "550 5.3.0 taken out of the queue by the operator of this system"
_THERE: Final = "SELECT 1 FROM queue_messages WHERE cid = ?1 UNION ALL SELECT 1 FROM queue_report_ends WHERE cid = ?1"
_REMEMBER: Final = (
    "INSERT INTO queue_report_ends (cid, envid, delivered, reply, host, attempts) VALUES (?, ?, ?, ?, ?, ?)"
    " ON CONFLICT (cid) DO NOTHING"
)
_DROP: Final = (
    "INSERT INTO queue_report_ends (cid, envid, delivered, reply, host, attempts)"
    " SELECT cid, envid, 0, ?, '', attempts FROM queue_messages JOIN queue_recipients ON message = id"
    " WHERE id = ? AND is_report LIMIT 1 ON CONFLICT (cid) DO NOTHING"
)


@dataclass(frozen=True, slots=True, kw_only=True)
class ReportEnd:
    """The end of the mail `cid`, which was queued with `envid`. `attempts` includes the last one; `host` said `reply`."""

    cid: str
    envid: str
    delivered: bool
    reply: str
    host: str
    attempts: int

    @property
    def permanent(self) -> bool:
        """Whether this was a refusal for good, and not the end of its time."""
        return not self.delivered and self.reply.startswith("5")


def insert_once(connection: Connection, entries: Sequence[Entry]) -> list[int | None]:
    """Insert messages whose ids must be new, and return their numbers; None for one whose id is known."""
    database = raw(connection)
    return [None if database.execute(_THERE, entry.row[:1]).fetchone() else entry.insert(connection) for entry in entries]


def remember(database: sqlite3.Connection, job: Job, end: End) -> None:
    """Write down how the mail of a report ended."""
    attempts = next((one.attempts for one in job.recipients if one.id == end.recipient), 0) + 1
    row = (job.message.cid, job.message.envid, end.state == "delivered", clean(end.reply), end.host, attempts)
    database.execute(_REMEMBER, row)


def remember_dropped(database: sqlite3.Connection, messages: Collection[int]) -> None:
    """Write down that an operator is dropping messages, as far as they are reports."""
    database.executemany(_DROP, [(_DROPPED, message) for message in messages])


def load(connection: Connection, limit: int) -> list[ReportEnd]:
    """Some of the ends."""
    query = "SELECT cid, envid, delivered, reply, host, attempts FROM queue_report_ends ORDER BY cid LIMIT ?"
    return [
        ReportEnd(
            cid=str(cid),
            envid=str(envid),
            delivered=bool(delivered),
            reply=str(reply),
            host=str(host),
            attempts=int(attempts),
        )
        for cid, envid, delivered, reply, host, attempts in raw(connection).execute(query, (limit,))
    ]


def forget(connection: Connection, cids: Sequence[str]) -> None:
    """Remove ends."""
    raw(connection).executemany("DELETE FROM queue_report_ends WHERE cid = ?", [(cid,) for cid in cids])
