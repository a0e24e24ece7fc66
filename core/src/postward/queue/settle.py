"""What becomes of a claimed job, in one transaction: a message whose recipients have all ended goes with its content."""

from __future__ import annotations

import sqlite3
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from postward.queue.report_ends import remember
from postward.queue.rows import Entry, clean, raw, refresh, remove_if_ended
from postward.queue.tables import HELD, PENDING

if TYPE_CHECKING:
    from sqlalchemy import Connection

    from postward.model import TlsResult
    from postward.queue.types import End, Job
    from postward.store import Journal

_DELETE: Final = "DELETE FROM queue_recipients WHERE message = ? AND position = ?"
_DEFER: Final = (
    "UPDATE queue_recipients SET next_try = ?, attempts = attempts + 1, last_try = ?, last_reply = ?, host = ?,"
    " told_delay = MAX(told_delay, ?) WHERE message = ? AND position = ?"
)
_PUT_OFF: Final = f"UPDATE queue_recipients SET next_try = ?, last_reply = ? WHERE message = ? AND state = {PENDING}"
_HOLD: Final = f"UPDATE queue_recipients SET state = {HELD}, last_reply = ? WHERE message = ? AND state = {PENDING}"
_POSTPONE: Final = "UPDATE queue_destinations SET not_before = ? WHERE domain = ?"


@dataclass(frozen=True, slots=True, kw_only=True)
class Settlement:
    """Everything that one `settle` writes."""

    job: Job
    ends: Sequence[End]
    results: Sequence[TlsResult]
    bounces: Sequence[Entry]
    now: int
    horizon: int

    def write(self, connection: Connection, journal: Journal) -> tuple[bool, bool]:
        """Write it; whether the message is gone, and whether the bounces were queued.

        An operator may have dropped recipients meanwhile: they are passed over. Bounces speak of recipients; they are
        queued only where one of these was still there. A deferred one that was held meanwhile stays held.
        """
        database, message, touched = raw(connection), self.job.message.id, 0
        for end in self.ends:
            if end.state == "deferred":
                row = (min(end.next_try, self.horizon), self.now, clean(end.reply), end.host, end.told_delay)
                touched += database.execute(_DEFER, (*row, message, end.recipient)).rowcount
            else:
                gone = database.execute(_DELETE, (message, end.recipient)).rowcount
                touched += gone
                if gone and self.job.message.is_report:
                    remember(database, self.job, end)
        if self.results:
            journal.append_in(connection, self.results)
        if not touched:
            return False, False
        for bounce in self.bounces:
            bounce.insert(connection)
        refresh(database, (self.job.domain,))
        return any(end.state != "deferred" for end in self.ends) and remove_if_ended(database, message), True


def hold_damaged(connection: Connection, damaged: Sequence[tuple[int, str]]) -> None:
    """Put messages that cannot be read out of the way, until an operator looks at them."""
    database = raw(connection)
    for message, why in damaged:
        domains = _domains(database, message)
        database.execute(_HOLD, (clean(f"451 4.3.0 the queued message is damaged: {why}"), message))
        refresh(database, domains)


def put_off(connection: Connection, troubled: Sequence[tuple[int, str]], until: int) -> None:
    """Let messages wait that the machine cannot read just now."""
    database = raw(connection)
    for message, why in troubled:
        domains = _domains(database, message)
        database.execute(_PUT_OFF, (until, clean(f"451 4.3.0 the queued message cannot be read: {why}"), message))
        refresh(database, domains)


def refresh_destinations(connection: Connection, domains: Sequence[str]) -> None:
    """Make the run queue agree with the recipients."""
    refresh(raw(connection), domains)


def strike_damaged(connection: Connection, names: Sequence[bytes]) -> None:
    """Take destinations whose name is none out of the run queue, and hold their recipients."""
    database = raw(connection)
    for name in names:
        # By value and not by index, which the damage may have put out of order.
        database.execute("DELETE FROM queue_destinations WHERE CAST(domain AS BLOB) = ?", (name,))
        reason = "451 4.3.0 the queued recipient is damaged: its domain is none"
        query = f"UPDATE queue_recipients SET state = {HELD}, last_reply = ? WHERE CAST(domain AS BLOB) = ?"
        database.execute(query, (reason, name))


def repair(connection: Connection) -> int:
    """Bring the run queue in line with all recipients; returns how many destinations were wrong."""
    database = raw(connection)
    query = (
        "SELECT domain FROM (SELECT domain, MIN(next_try) AS first FROM queue_recipients"
        f" WHERE state = {PENDING} GROUP BY domain)"
        " LEFT JOIN queue_destinations USING (domain) WHERE next_due IS NULL OR next_due <> MAX(not_before, first)"
    )
    wrong = [str(domain) for (domain,) in database.execute(query)]
    refresh(database, wrong)
    return len(wrong)


def postpone(connection: Connection, domain: str, until: int) -> None:
    """Let a whole destination wait."""
    database = raw(connection)
    if database.execute(_POSTPONE, (until, domain)).rowcount:
        refresh(database, (domain,))


def clamp(connection: Connection, domains: Sequence[str], horizon: int) -> None:
    """Bring instants beyond `horizon` back to it."""
    database = raw(connection)
    for domain in domains:
        query = f"UPDATE queue_recipients SET next_try = ? WHERE domain = ? AND state = {PENDING} AND next_try > ?"
        database.execute(query, (horizon, domain, horizon))
        database.execute("UPDATE queue_destinations SET not_before = MIN(not_before, ?) WHERE domain = ?", (horizon, domain))
        refresh(database, (domain,))


def _domains(database: sqlite3.Connection, message: int) -> list[str]:
    rows = database.execute("SELECT CAST(domain AS BLOB) FROM queue_recipients WHERE message = ?", (message,))
    return list({domain.decode("utf-8", "replace") for (domain,) in rows})
