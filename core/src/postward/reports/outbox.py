"""The outbox: finished reports on their way to each of their addresses.

A target is pending, leased, queued, delivered, failed or suppressed. A lease is a promise with an end: when the process that
holds it dies, the target becomes due again. A mail goes into the queue of the node once, under an id that follows from the
target, and is then the queue's (`reports.post`). What is sent directly and could not be settled may be sent again; nothing
is lost, and nothing that was stored is done twice. The next try comes after 5 minutes, doubling, for 24 hours (RFC 8460 §5.5).
"""

from __future__ import annotations

import random
import re
import secrets
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final

from postward.model import MICROSECONDS, Report, ReportOutcome, ReportTarget
from postward.reports import rows
from postward.reports.rows import CLAIMABLE, OPEN, State, load_report, suppress
from postward.reports.targets import suppression_keys
from postward.store import change, change_many, fetch

if TYPE_CHECKING:
    from sqlalchemy import Connection

    from postward.model import Delivered
    from postward.store import Database

MINUTE: Final = 60 * MICROSECONDS
HOUR: Final = 60 * MINUTE
FIRST_PAUSE: Final = 5 * MINUTE
LONGEST_PAUSE: Final = 4 * HOUR
GIVE_UP_AFTER: Final = 24 * HOUR
LEASE: Final = 20 * MINUTE
# The queue gives a report up after 24 hours and says so; a node that has not by then is gone.
QUEUE_ANSWERS_WITHIN: Final = GIVE_UP_AFTER + 6 * HOUR
KEEP_ENDED: Final = 14 * 24 * HOUR
SUPPRESS_FOR: Final = 30 * 24 * HOUR
_AT_ONCE: Final = 500

# Enhanced codes that speak of us, of the message or of the conversation, and not of the mailbox (RFC 3463 §3).
_NOT_THE_ADDRESS: Final = re.compile(r"(?<![0-9.])5\.[3567]\.[0-9]{1,3}(?![0-9.])")

_TARGET: Final = "report, position, uri, state, attempts, first_try, next_try, lease_by"
_FIRST_DUE: Final = (
    f"SELECT {_TARGET} FROM core_outbox_targets WHERE way = ? AND state = ? AND next_try <= ? ORDER BY next_try LIMIT ?"
)
_ONE: Final = f"SELECT {_TARGET} FROM core_outbox_targets WHERE report = ? AND position = ?"
_NEXT_DUE: Final = "SELECT MIN(next_try) FROM core_outbox_targets WHERE way = ? AND state = ?"
_CENSUS: Final = (
    "SELECT r.kind, t.state, COUNT(*) FROM core_outbox_targets t JOIN core_outbox r ON r.id = t.report GROUP BY r.kind, t.state"
)
_COUNTS: Final = "SELECT state, COUNT(*) FROM core_outbox_targets GROUP BY state"
_SILENT: Final = (
    f"SELECT {_TARGET} FROM core_outbox_targets WHERE way = '{rows.MAIL}' AND state = '{State.QUEUED}' AND next_try <= ?"
    " LIMIT 100"
)
_HAND_OVER: Final = (
    "UPDATE core_outbox_targets SET state = ?, next_try = ?, lease_by = ?, last_detail = ?"
    f" WHERE report = ? AND position = ? AND state = '{State.LEASED}' AND lease_by = ?"
)
_OPEN: Final = ", ".join(f"'{state}'" for state in OPEN)
_OLD: Final = (
    "SELECT id FROM core_outbox WHERE created < ? AND NOT EXISTS (SELECT 1 FROM core_outbox_targets"
    f" WHERE report = id AND state IN ({_OPEN})) LIMIT {_AT_ONCE}"
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Claimed:
    """A target that this process holds. `attempts` includes the one to be made now."""

    report: Report
    target: ReportTarget
    attempts: int
    cid: str
    key: str
    position: int
    token: str = field(repr=False)


@dataclass(frozen=True, slots=True, kw_only=True)
class Ended:
    """A target that reached its end, with its report."""

    report: Report
    outcome: ReportOutcome
    cid: str


@dataclass(frozen=True, slots=True)
class _Row:
    """A target as it is stored."""

    report: str
    position: int
    uri: str
    state: str
    attempts: int
    first_try: int
    next_try: int
    lease_by: str


def pause_after(attempts: int, chance: float) -> int:
    """How long to wait after a number of attempts, in microseconds: `chance` in [0, 1) spreads it by a fifth around."""
    pause = min(FIRST_PAUSE << min(attempts - 1, 20), LONGEST_PAUSE)
    return int(pause * (0.8 + 0.4 * chance))


class Outbox:
    """The outbox in a results database, as one node sees it."""

    def __init__(self, database: Database, *, node: str = "", rng: random.Random | None = None) -> None:
        self._database, self._node = database, node
        self._rng = rng or random.Random()

    async def claim(self, now: int, way: str | None = None) -> Claimed | Ended | None:
        """Take the target that has been due for longest: leased to us, or ended because it is suppressed.

        `way` takes only those by `MAIL` or only the others (`WEB`). None when nothing is due.
        """
        return next(iter(await self.claim_some(now, 1, way)), None)

    async def claim_some(self, now: int, limit: int, way: str | None = None) -> list[Claimed | Ended]:
        """Take up to `limit` targets at once, as `claim` does."""
        token = f"{self._node}:{secrets.token_hex(8)}"
        ways = (rows.MAIL, rows.WEB) if way is None else (way,)
        return await self._database.write(lambda connection: _claim_some(connection, now, token, ways, limit))

    async def settle(self, claimed: Claimed, delivered: Delivered, now: int) -> Ended | None:
        """Store how an attempt ended; what it returns when that was the end of the target.

        A lease that ran out and was taken by another counts only for a success.
        """
        chance = self._rng.random()
        return await self._database.write(lambda connection: _settle(connection, claimed, delivered, now, chance))

    async def hand_over(self, queued: Sequence[tuple[Claimed, str]], now: int) -> None:
        """Say that the queue of this node has targets, each as the message of an id. What has ended meanwhile stays so."""
        until = now + QUEUE_ANSWERS_WITHIN
        changes = [
            (
                State.QUEUED.value,
                until,
                f"{self._node}:{cid}",
                f"in the queue as {cid}",
                claimed.key,
                claimed.position,
                claimed.token,
            )
            for claimed, cid in queued
        ]
        await self._database.write(lambda connection: change_many(connection, _HAND_OVER, changes))

    async def settle_queued(self, key: str, position: int, delivered: Delivered, attempts: int, now: int) -> Ended | None:
        """Store what became of a mail that the queue had, after `attempts`; None when that was known, or nobody knows it."""

        def settle(connection: Connection) -> Ended | None:
            row = _one(connection, key, position)
            return None if row is None or row.state not in OPEN else _end(connection, row, delivered, attempts, now)

        return await self._database.write(settle)

    async def retry(self, key: str, position: int, now: int) -> str | None:
        """Make a target due now that waits or has ended without success, for another day of attempts.

        What its state was: a delivered one stays so, and one in the queue is the queue's. None when there is none.
        """

        def again(connection: Connection) -> str | None:
            row = _one(connection, key, position)
            if row is not None and row.state in (State.PENDING, State.FAILED, State.SUPPRESSED):
                rows.update(connection, key, position, state=State.PENDING.value, first_try=0, next_try=now, lease_by="")
            return None if row is None else row.state

        return await self._database.write(again)

    async def give_up_silent(self, now: int) -> list[Ended]:
        """End the targets whose mail is in the queue of a node that has not said for over a day what became of it."""

        def end(connection: Connection) -> list[Ended]:
            found = [_Row(*row) for row in fetch(connection, f"{_SILENT}{_skip_locked(connection)}", (now,))]
            return [_failed(connection, row, f"no word from node {row.lease_by.partition(':')[0]}") for row in found]

        return await self._database.write(end)

    async def next_due(self) -> int | None:
        """The instant at which the next target is due; None for an empty outbox."""

        def find(connection: Connection) -> int | None:
            instants = [
                fetch(connection, _NEXT_DUE, (way, state.value))[0][0] for way in (rows.MAIL, rows.WEB) for state in CLAIMABLE
            ]
            return min((int(instant) for instant in instants if instant is not None), default=None)

        return await self._database.read(find)

    async def counts(self) -> dict[str, int]:
        """How many targets there are in each state that occurs."""
        return await self._database.read(
            lambda connection: {str(state): int(number) for state, number in fetch(connection, _COUNTS)}
        )

    async def census(self) -> dict[tuple[str, ...], float]:
        """How many targets there are, by kind of report and state."""
        return await self._database.read(
            lambda connection: {(str(kind), str(state)): float(number) for kind, state, number in fetch(connection, _CENSUS)}
        )

    async def prune(self, now: int) -> int:
        """Remove reports of more than 14 days ago all of whose targets have ended, and old suppressions."""

        def remove(connection: Connection) -> int:
            gone = [key for (key,) in fetch(connection, _OLD, (now - KEEP_ENDED,))]
            if gone:
                marks = ", ".join("?" * len(gone))
                change(connection, f"DELETE FROM core_outbox_targets WHERE report IN ({marks})", tuple(gone))
                change(connection, f"DELETE FROM core_outbox WHERE id IN ({marks})", tuple(gone))
            change(connection, "DELETE FROM core_suppressions WHERE until < ?", (now,))
            return len(gone)

        removed = 0
        while (some := await self._database.write(remove)) > 0:
            # In pieces: others write to the same database meanwhile.
            removed += some
        return removed


def _one(connection: Connection, key: str, position: int) -> _Row | None:
    found = fetch(connection, f"{_ONE}{_for_update(connection)}", (key, position))
    return _Row(*found[0]) if found else None


def _for_update(connection: Connection) -> str:
    return " FOR UPDATE" if connection.dialect.name == "postgresql" else ""


def _skip_locked(connection: Connection) -> str:
    return " FOR UPDATE SKIP LOCKED" if connection.dialect.name == "postgresql" else ""


def _claim_some(connection: Connection, now: int, token: str, ways: tuple[str, ...], limit: int) -> list[Claimed | Ended]:
    # One query for each state, because the index gives the first of one at once and must sort for several. The next try of a
    # leased target is the end of its lease.
    statement = f"{_FIRST_DUE}{_skip_locked(connection)}"
    due = [
        _Row(*row)
        for way in ways
        for state in CLAIMABLE
        for row in fetch(connection, statement, (way, state.value, now, limit))
    ]
    return [_claim(connection, row, now, token) for row in sorted(due, key=lambda one: one.next_try)[:limit]]


def _claim(connection: Connection, row: _Row, now: int, token: str) -> Claimed | Ended:
    report, cid = load_report(connection, row.report)
    target = ReportTarget(uri=row.uri)
    if (reason := rows.suppression(connection, suppression_keys(row.uri), now)) is not None:
        rows.update(connection, row.report, row.position, state=State.SUPPRESSED.value, lease_by="", last_detail=reason)
        outcome = ReportOutcome(target=target, state=State.SUPPRESSED.value, attempts=row.attempts, detail=reason)
        return Ended(report=report, outcome=outcome, cid=cid)
    attempts, first_try = row.attempts + 1, row.first_try or now
    leased: dict[str, Any] = {"state": State.LEASED.value, "attempts": attempts, "first_try": first_try}
    rows.update(connection, row.report, row.position, **leased, next_try=now + LEASE, lease_by=token)
    return Claimed(report=report, target=target, attempts=attempts, cid=cid, key=row.report, position=row.position, token=token)


def _settle(connection: Connection, claimed: Claimed, delivered: Delivered, now: int, chance: float) -> Ended | None:
    row = _one(connection, claimed.key, claimed.position)
    if row is None or row.state not in OPEN:
        return None
    if row.lease_by != claimed.token and not delivered.accepted:
        return None
    last = row.first_try + GIVE_UP_AFTER
    if delivered.accepted or delivered.permanent or now >= last:
        return _end(connection, row, delivered, row.attempts, now)
    again = min(now + pause_after(row.attempts, chance), last)
    detail = _storable(delivered.detail)
    rows.update(
        connection, row.report, row.position, state=State.PENDING.value, next_try=again, lease_by="", last_detail=detail
    )
    return None


def _end(connection: Connection, row: _Row, delivered: Delivered, attempts: int, now: int) -> Ended:
    """The end of a target: what is neither accepted nor refused for good has been tried for a day."""
    detail = _storable(delivered.detail)
    if not delivered.accepted and not delivered.permanent:
        detail = f"given up after 24 hours: {detail}"
    if delivered.permanent and not delivered.accepted:
        _suppress_bounce(connection, row.uri, detail, now)
    return _ended(connection, row, State.DELIVERED if delivered.accepted else State.FAILED, detail, attempts)


def _failed(connection: Connection, row: _Row, detail: str) -> Ended:
    return _ended(connection, row, State.FAILED, detail, row.attempts)


def _ended(connection: Connection, row: _Row, state: State, detail: str, attempts: int) -> Ended:
    ended: dict[str, Any] = {"state": state.value, "attempts": attempts, "next_try": 0, "lease_by": "", "last_detail": detail}
    rows.update(connection, row.report, row.position, **ended)
    report, cid = load_report(connection, row.report)
    target = ReportTarget(uri=row.uri)
    return Ended(
        report=report, outcome=ReportOutcome(target=target, state=state.value, attempts=attempts, detail=detail), cid=cid
    )


def _storable(text: str) -> str:
    """What a plugin or a peer said, in characters that every database takes."""
    return "".join(char if char.isprintable() else " " for char in text[:1000])


def _suppress_bounce(connection: Connection, uri: str, detail: str, now: int) -> None:
    """Leave an address alone that refused for good, unless what it said is about us or this one message."""
    keys = suppression_keys(uri)
    if len(keys) > 1 and not _NOT_THE_ADDRESS.search(detail):
        suppress(connection, keys[0], now + SUPPRESS_FOR, f"refused: {detail[:200]}")
