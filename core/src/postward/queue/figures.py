"""The queue in figures, for `postward status`: how much there is, how it stands, and where most of it is to go."""

from __future__ import annotations

import sqlite3
from dataclasses import dataclass
from typing import Final

from postward.queue.tables import HELD, PENDING


@dataclass(frozen=True, slots=True, kw_only=True)
class Waiting:
    """Recipients at one destination: when it is due (None when all are held), and what was said last, by which host."""

    domain: str
    recipients: int
    held: int
    next_due: int | None
    last_reply: str
    last_host: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Figures:
    """The queue in figures. Of the recipients, `fresh` were never tried, `deferred` wait for another try, `held` for a person.

    `due` are those of both that could go now; `expired` messages are older than they may become. `oldest` is an instant.
    """

    messages: int
    bytes: int
    oldest: int | None
    expired: int
    fresh: int
    deferred: int
    held: int
    due: int
    top: tuple[Waiting, ...]

    @property
    def recipients(self) -> int:
        """All recipients."""
        return self.fresh + self.deferred + self.held


NOTHING: Final = Figures(messages=0, bytes=0, oldest=None, expired=0, fresh=0, deferred=0, held=0, due=0, top=())


def figures(database: sqlite3.Connection, now: int, *, expired_before: int, top: int) -> Figures:
    """Count everything, and look at the `top` largest destinations. Reads the whole queue once."""
    messages, size, oldest = database.execute(
        "SELECT COUNT(*), COALESCE(SUM(size), 0), MIN(received) FROM queue_messages"
    ).fetchone()
    (expired,) = database.execute("SELECT COUNT(*) FROM queue_messages WHERE received < ?", (expired_before,)).fetchone()
    fresh, deferred, held, due = database.execute(
        f"SELECT COUNT(*) FILTER (WHERE state = {PENDING} AND attempts = 0),"
        f" COUNT(*) FILTER (WHERE state = {PENDING} AND attempts > 0), COUNT(*) FILTER (WHERE state = {HELD}),"
        f" COUNT(*) FILTER (WHERE state = {PENDING} AND next_try <= ?) FROM queue_recipients",
        (now,),
    ).fetchone()
    largest = _largest(database, top) if top else []
    return Figures(
        messages=messages,
        bytes=size,
        oldest=oldest,
        expired=expired,
        fresh=fresh,
        deferred=deferred,
        held=held,
        due=due,
        top=tuple(_waiting(database, domain.decode("utf-8", "replace"), count, stopped) for domain, count, stopped in largest),
    )


def _largest(database: sqlite3.Connection, top: int) -> list[tuple[bytes, int, int]]:
    return database.execute(
        f"SELECT CAST(domain AS BLOB), COUNT(*), COUNT(*) FILTER (WHERE state = {HELD}) FROM queue_recipients"
        " GROUP BY domain ORDER BY 2 DESC, 1 LIMIT ?",
        (top,),
    ).fetchall()


def _waiting(database: sqlite3.Connection, domain: str, count: int, held: int) -> Waiting:
    due = database.execute("SELECT next_due FROM queue_destinations WHERE domain = ?", (domain,)).fetchone()
    # SQLite takes the other columns from the row that has the maximum.
    said = database.execute(
        "SELECT MAX(last_try), CAST(last_reply AS BLOB), CAST(host AS BLOB) FROM queue_recipients WHERE domain = ?", (domain,)
    ).fetchone()
    return Waiting(
        domain=domain,
        recipients=count,
        held=held,
        next_due=None if due is None else due[0],
        last_reply=(said[1] or b"").decode("utf-8", "replace"),
        last_host=(said[2] or b"").decode("utf-8", "replace"),
    )
