"""The queue as lists show it: messages with all their recipients, the oldest first, by any combination of conditions.

Reads only, on the driver's own connection. A damaged message spoils no list: it stands there with its problem.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from postward.names import Address, Domain
from postward.queue.pick import Pick, RecipientState
from postward.queue.read import is_unreadable, read_recipients
from postward.queue.tables import HELD

_MESSAGE: Final = "SELECT cid, sender, received, size, wish FROM queue_messages WHERE id = ?"


@dataclass(frozen=True, slots=True, kw_only=True)
class Conditions:
    """What a listed message must have, all of it: `sender` is an address, empty for the null sender.

    `domain`, `recipient` and `held` speak of the same recipient.
    """

    domain: Domain | None = None
    sender: str | None = None
    recipient: Address | None = None
    held: bool = False

    def __bool__(self) -> bool:
        return self.domain is not None or self.sender is not None or self.recipient is not None or self.held


@dataclass(frozen=True, slots=True, kw_only=True)
class Entry:
    """A message with its recipients. `number` is its row, `cid` its public id; `problem` says why it cannot be read.

    The next try of a recipient is not before the destination's own wait is over.
    """

    number: int
    cid: str = ""
    sender: str = ""
    received: int = 0
    size: int = 0
    wish: str = ""
    recipients: tuple[RecipientState, ...] = ()
    problem: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Entries:
    """A page of a list. `messages` and `recipients` count what meets the conditions on all pages, `held` the held of those.

    `next` is the cursor of the next page, empty at the end.
    """

    page: tuple[Entry, ...]
    next: str
    messages: int = 0
    recipients: int = 0
    held: int = 0


def survey(database: sqlite3.Connection, conditions: Conditions, *, after: str, limit: int, count: bool = True) -> Entries:
    """A page of the list behind the cursor `after`. Without `count` the totals are 0. Raises `ValueError` for a bad cursor."""
    where, values = _where(conditions)
    start = int(after) if after else 0
    query = f"SELECT id FROM queue_messages AS m WHERE id > ? AND {where} ORDER BY id LIMIT ?"
    numbers = [number for (number,) in database.execute(query, (start, *values, limit + 1))]
    page = tuple(entry for number in numbers[:limit] if (entry := entry_of(database, number)) is not None)
    following = str(numbers[limit - 1]) if len(numbers) > limit else ""
    if not count:
        return Entries(page=page, next=following)
    messages, recipients, held = _totals(database, conditions)
    return Entries(page=page, next=following, messages=messages, recipients=recipients, held=held)


def entry_of(database: sqlite3.Connection, number: int) -> Entry | None:
    """One message; None where it is gone."""
    try:
        row = database.execute(_MESSAGE, (number,)).fetchone()
        if row is None:
            return None
        cid, sender, received, size, wish = row
        if not isinstance(received, int) or not isinstance(size, int):
            return Entry(number=number, cid=str(cid), problem="its row is damaged")
    except sqlite3.OperationalError as exc:
        if not is_unreadable(exc):
            raise
        return Entry(number=number, problem=str(exc))
    recipients: tuple[RecipientState, ...] = ()
    problem = ""
    try:
        found = read_recipients(database, number)
        waits = _waits(database, {one.address.domain for one, _, _ in found})
        recipients = tuple(
            RecipientState(recipient=one, held=state == HELD, next_try=max(next_try, waits.get(one.address.domain, 0)))
            for one, state, next_try in found
        )
    except ValueError as exc:
        problem = str(exc)
    return Entry(
        number=number,
        cid=str(cid),
        sender=str(sender),
        received=received,
        size=size,
        wish=str(wish),
        recipients=recipients,
        problem=problem,
    )


def _waits(database: sqlite3.Connection, domains: set[Domain]) -> dict[str, int]:
    """Until when whole destinations wait: nothing is tried there before."""
    query = "SELECT not_before FROM queue_destinations WHERE domain = ? AND not_before > 0"
    return {domain: row[0] for domain in domains if (row := database.execute(query, (domain,)).fetchone()) is not None}


def matching(database: sqlite3.Connection, pick: Pick) -> tuple[int, int]:
    """How many messages and recipients a pick speaks of."""
    where, values = "1", list[str]()
    if pick.cid:
        where, values = "message IN (SELECT id FROM queue_messages WHERE cid = ?)", [pick.cid]
    elif pick.domain is not None:
        where, values = "domain = ?", [str(pick.domain)]
    elif pick.sender is not None:
        where, values = "message IN (SELECT id FROM queue_messages WHERE sender = ?)", [pick.sender]
    elif pick.held:
        where = f"state = {HELD}"
    found = database.execute(f"SELECT COUNT(DISTINCT message), COUNT(*) FROM queue_recipients WHERE {where}", values).fetchone()
    return int(found[0]), int(found[1])


def _where(conditions: Conditions) -> tuple[str, Sequence[str]]:
    wanted: list[str] = []
    values: list[str] = []
    if conditions.sender is not None:
        wanted.append("m.sender = ?")
        values.append(conditions.sender)
    inner, more = _recipient(conditions)
    if inner:
        wanted.append(f"m.id IN (SELECT message FROM queue_recipients WHERE {' AND '.join(inner)})")
        values += more
    return " AND ".join(wanted) or "1", values


def _recipient(conditions: Conditions) -> tuple[list[str], list[str]]:
    wanted: list[str] = []
    values: list[str] = []
    if conditions.domain is not None:
        wanted.append("domain = ?")
        values.append(str(conditions.domain))
    if conditions.recipient is not None:
        wanted += ["domain = ?", "local = ?"]
        values += [str(conditions.recipient.domain), conditions.recipient.local]
    if conditions.held:
        wanted.append(f"state = {HELD}")
    return wanted, values


def _totals(database: sqlite3.Connection, conditions: Conditions) -> tuple[int, int, int]:
    wanted, values = _recipient(conditions)
    if conditions.sender is not None:
        wanted.append("message IN (SELECT id FROM queue_messages WHERE sender = ?)")
        values.append(conditions.sender)
    if not wanted:
        (messages,) = database.execute("SELECT COUNT(*) FROM queue_messages").fetchone()
        (recipients,) = database.execute("SELECT COUNT(*) FROM queue_recipients").fetchone()
        (held,) = database.execute(f"SELECT COUNT(*) FROM queue_recipients WHERE state = {HELD}").fetchone()
        return messages, recipients, held
    query = (
        f"SELECT COUNT(DISTINCT message), COUNT(*), COUNT(*) FILTER (WHERE state = {HELD}) FROM queue_recipients"
        f" WHERE {' AND '.join(wanted)}"
    )
    messages, recipients, held = database.execute(query, values).fetchone()
    return messages, recipients, held
