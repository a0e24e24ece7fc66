"""What is due: destinations in the order of their oldest mail, and the messages of one destination with their content.

These functions only read. A message that cannot be read is reported beside the jobs, so that it is put out of the way and
blocks nobody.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import islice
from typing import TYPE_CHECKING, Final

from postward.errors import InvalidName
from postward.names import Domain
from postward.queue.read import read_due, read_message
from postward.queue.rows import raw
from postward.queue.tables import PENDING
from postward.queue.types import Job, Shards

if TYPE_CHECKING:
    from sqlalchemy import Connection

    from postward.queue.retry import RetryRules
    from postward.queue.spool import Spool

JOBS_BYTES: Final = 8 * 1024 * 1024
"""What one claim brings into memory, about."""

_DESTINATIONS: Final = (
    "SELECT CAST(domain AS BLOB), next_due FROM queue_destinations WHERE next_due <= ? AND shard % ? = ?"
    " ORDER BY next_due, shard, domain"
)
_LATER: Final = (
    "SELECT CAST(domain AS BLOB) FROM queue_destinations WHERE next_due > ? AND shard % ? = ? ORDER BY next_due LIMIT ?"
)
_WAITS: Final = "SELECT not_before FROM queue_destinations WHERE domain = ?"
_DUE: Final = (
    f"SELECT message FROM queue_recipients WHERE domain = ? AND state = {PENDING} AND next_try <= ?"
    " ORDER BY next_try, message, position"
)

_OLD: Final = (
    f"SELECT message FROM queue_recipients JOIN queue_messages ON id = message"
    f" WHERE domain = ? AND state = {PENDING} AND next_try <= ?"
    " AND (received <= ? AND told_delay = 0 OR received <= ? OR received <= ? AND (sender = '' OR is_report))"
    " ORDER BY next_try, message, position"
)

CLAMPED_AT_ONCE: Final = 1000
_FOREVER: Final = (1 << 63) - 1


@dataclass(slots=True)
class Claims:
    """Jobs, and messages that could not be read: `damaged` for good, `troubled` by the machine, each with the reason.

    `stale` are destinations of which the run queue says that something is due, and there is nothing.
    """

    jobs: list[Job] = field(default_factory=list)
    stale: list[str] = field(default_factory=list)
    damaged: list[tuple[int, str]] = field(default_factory=list)
    troubled: list[tuple[int, str]] = field(default_factory=list)


@dataclass(frozen=True, slots=True, kw_only=True)
class Due:
    """Destinations that are due, and those whose instant lies beyond reason, which a clock that was set leaves behind.

    `damaged` are rows whose name is none.
    """

    domains: list[Domain]
    stranded: list[str]
    damaged: list[bytes]


def due(connection: Connection, now: int, limit: int, busy: Collection[str], shards: Shards, horizon: int) -> Due:
    """The destinations of these shards that are due, longest due first, without busy ones; stranded are beyond `horizon`."""
    database = raw(connection)
    domains, damaged = [], []
    for name, _ in _free(database, now, limit, busy, shards):
        try:
            domains.append(Domain(name.decode()))
        except (InvalidName, UnicodeDecodeError):
            damaged.append(name)
    rows = database.execute(_LATER, (horizon, shards.count, shards.index, CLAMPED_AT_ONCE))
    return Due(domains=domains, stranded=[name.decode("utf-8", "replace") for (name,) in rows], damaged=damaged)


def next_due(connection: Connection, busy: Collection[str], shards: Shards) -> int | None:
    """The instant of the first destination that is not busy."""
    return next((instant for _, instant in _free(raw(connection), _FOREVER, 1, busy, shards)), None)


def _free(
    database: sqlite3.Connection, now: int, limit: int, busy: Collection[str], shards: Shards
) -> Iterator[tuple[bytes, int]]:
    # The cursor is read no further than needed: the busy ones stand in front, and there are few of them.
    names = {name.encode() for name in busy}
    rows = database.execute(_DESTINATIONS, (now, shards.count, shards.index))
    return islice(((name, instant) for name, instant in rows if name not in names), limit)


def claim(
    connection: Connection, domains: Sequence[Domain], now: int, limit: int, taken: Collection[int], spool: Spool
) -> Claims:
    """Due messages of each of `domains`, at most `limit` of each, without those in `taken`; each message once."""
    database, claims, size = raw(connection), Claims(), 0
    seen = set(taken)
    for domain in domains:
        waits = database.execute(_WAITS, (domain,)).fetchone()
        if waits is None or waits[0] > now:
            continue
        messages = _messages(database, domain, now, limit, seen)
        if messages is None:
            claims.stale.append(domain)
            continue
        for message in messages:
            if size > JOBS_BYTES:
                return claims
            seen.add(message)
            size += _add(claims, database, domain, message, now, spool)
    return claims


def claim_old(
    connection: Connection, domain: Domain, now: int, limit: int, taken: Collection[int], spool: Spool, rules: RetryRules
) -> Claims:
    """Due messages of a destination, whether it waits or not, that are to be given up or told about by their age."""
    database, claims = raw(connection), Claims()
    ages = (now - rules.tell_delay, now - rules.lifetime, now - rules.null_lifetime)
    for message in _first(database.execute(_OLD, (domain, now, *ages)), limit, taken) or ():
        _add(claims, database, domain, message, now, spool)
    return claims


def _add(claims: Claims, database: sqlite3.Connection, domain: Domain, message: int, now: int, spool: Spool) -> int:
    """Read a job into `claims`; returns how much memory it takes."""
    try:
        found = read_message(database, message, spool)
        recipients = read_due(database, message, domain, now)
    except ValueError as exc:
        claims.damaged.append((message, str(exc)))
    except OSError as exc:
        claims.troubled.append((message, f"its file cannot be read: {exc.strerror or exc}"))
    else:
        claims.jobs.append(Job(message=found, domain=domain, recipients=recipients))
        return len(found.content.whole or found.content.header)
    return 0


def _messages(database: sqlite3.Connection, domain: str, now: int, limit: int, seen: Collection[int]) -> list[int] | None:
    """The first due messages that are not `seen`; None when nothing is due at all."""
    return _first(database.execute(_DUE, (domain, now)), limit, seen)


def _first(rows: sqlite3.Cursor, limit: int, seen: Collection[int]) -> list[int] | None:
    found: dict[int, None] = {}
    any_due = False
    for (message,) in rows:
        any_due = True
        if message not in seen and message not in found:
            found[message] = None
            if len(found) >= limit:
                break
    rows.close()
    return list(found) if any_due else None
