"""What an operator speaks of: one message, a sender, a destination, what is held, or everything; and what is shown of it."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Final

from postward.names import Domain
from postward.queue.read import is_unreadable
from postward.queue.tables import HELD, PENDING
from postward.queue.types import QueuedMessage, QueuedRecipient

SHOWN_ADDRESSES: Final = 5


@dataclass(frozen=True, slots=True, kw_only=True)
class Pick:
    """Recipients in the queue, by exactly one of these. `sender` is an address, empty for the null sender."""

    cid: str = ""
    domain: Domain | None = None
    sender: str | None = None
    held: bool = False
    everything: bool = False

    def __post_init__(self) -> None:
        given = (bool(self.cid), self.domain is not None, self.sender is not None, self.held, self.everything)
        if sum(given) != 1:
            raise ValueError("exactly one of cid, domain, sender, held and everything must be given")


EVERYTHING: Final = Pick(everything=True)


@dataclass(frozen=True, slots=True, kw_only=True)
class Listed:
    """A message in a list. `addresses` are the first of its recipients; `next_try` is None when all are held.

    `problem` says why a damaged one cannot be read.
    """

    id: int
    cid: str = ""
    sender: str = ""
    received: int = 0
    size: int = 0
    pending: int = 0
    held: int = 0
    next_try: int | None = None
    last_reply: str = ""
    addresses: tuple[str, ...] = ()
    problem: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Page:
    """A page of a list, and where the next one begins; empty at the end."""

    messages: tuple[Listed, ...]
    next: str


@dataclass(frozen=True, slots=True, kw_only=True)
class RecipientState:
    """How far one recipient has come."""

    recipient: QueuedRecipient
    held: bool
    next_try: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Shown:
    """Everything about one message: `message` is None where it cannot be read, and `problem` says why.

    `header` is its header section, at most 64 KiB of it; `age` is in microseconds.
    """

    listed: Listed
    message: QueuedMessage | None
    recipients: tuple[RecipientState, ...]
    header: bytes = field(repr=False)
    age: int
    problem: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Dropped:
    """Recipients of a message that an operator takes out of the queue."""

    message: QueuedMessage
    recipients: tuple[QueuedRecipient, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class DestinationCount:
    """Recipients at one destination."""

    domain: str
    pending: int
    held: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Counts:
    """The queue in figures. `oldest` is when its oldest message was received; `top` are the largest destinations."""

    messages: int
    pending: int
    held: int
    bytes: int
    oldest: int | None
    top: tuple[DestinationCount, ...]


def numbers(database: sqlite3.Connection, pick: Pick, after: str) -> Iterator[tuple[int, str]]:
    """The numbers of picked messages behind a cursor, each with the cursor that stands behind it.

    By destination the oldest due come first, and a message may come again when its recipients there have different instants;
    otherwise the oldest messages come first.
    """
    if pick.domain is not None:
        yield from _at_destination(database, str(pick.domain), after)
        return
    start = int(after or 0)
    values: tuple[str | int, ...]
    if pick.cid:
        query, values = "SELECT id FROM queue_messages WHERE cid = ? AND id > ?", (pick.cid, start)
    elif pick.sender is not None:
        query, values = "SELECT id FROM queue_messages WHERE sender = ? AND id > ? ORDER BY id", (pick.sender, start)
    elif pick.held:
        query = f"SELECT DISTINCT message FROM queue_recipients WHERE state = {HELD} AND message > ? ORDER BY message"
        values = (start,)
    else:
        query, values = "SELECT id FROM queue_messages WHERE id > ? ORDER BY id", (start,)
    for (number,) in database.execute(query, values):
        yield number, str(number)


def _at_destination(database: sqlite3.Connection, domain: str, after: str) -> Iterator[tuple[int, str]]:
    start = tuple(int(part) for part in after.split(".")) if after else (-1, 0, 0)
    query = (
        "SELECT state, next_try, message FROM queue_recipients WHERE domain = ? AND (state, next_try, message) > (?, ?, ?)"
        " ORDER BY state, next_try, message"
    )
    before = 0
    for state, instant, message in database.execute(query, (domain, *start)):
        if message != before:
            before = message
            yield message, f"{state}.{instant}.{message}"


def listed(database: sqlite3.Connection, number: int) -> Listed | None:
    """One line about a message; None where it is gone."""
    try:
        row = database.execute("SELECT cid, sender, received, size FROM queue_messages WHERE id = ?", (number,)).fetchone()
        if row is None:
            return None
        pending, held, next_try, reply = database.execute(
            f"SELECT COUNT(*) FILTER (WHERE state = {PENDING}), COUNT(*) FILTER (WHERE state = {HELD}),"
            f" MIN(next_try) FILTER (WHERE state = {PENDING}), MAX(last_reply) FROM queue_recipients WHERE message = ?",
            (number,),
        ).fetchone()
        query = "SELECT local || '@' || domain FROM queue_recipients WHERE message = ? ORDER BY position LIMIT ?"
        addresses = tuple(str(address) for (address,) in database.execute(query, (number, SHOWN_ADDRESSES)))
    except sqlite3.OperationalError as exc:
        if not is_unreadable(exc):
            raise
        return Listed(id=number, problem=str(exc))
    return Listed(
        id=number,
        cid=str(row[0]),
        sender=str(row[1]),
        received=row[2],
        size=row[3],
        pending=pending,
        held=held,
        next_try=next_try,
        last_reply=str(reply or ""),
        addresses=addresses,
    )


def counts(database: sqlite3.Connection, top: int) -> Counts:
    """Count everything. Reads the whole queue once."""
    messages, size = database.execute("SELECT COUNT(*), COALESCE(SUM(size), 0) FROM queue_messages").fetchone()
    oldest = database.execute("SELECT received FROM queue_messages ORDER BY id LIMIT 1").fetchone()
    query = (
        f"SELECT CAST(domain AS BLOB), COUNT(*) FILTER (WHERE state = {PENDING}), COUNT(*) FILTER (WHERE state = {HELD})"
        " FROM queue_recipients GROUP BY domain"
    )
    found = [
        DestinationCount(domain=domain.decode("utf-8", "replace"), pending=pending, held=held)
        for domain, pending, held in database.execute(query)
    ]
    found.sort(key=lambda one: (-one.pending - one.held, one.domain))
    return Counts(
        messages=messages,
        pending=sum(one.pending for one in found),
        held=sum(one.held for one in found),
        bytes=size,
        oldest=None if oldest is None else oldest[0],
        top=tuple(found[:top]),
    )
