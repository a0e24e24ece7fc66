"""The outbox: finished reports on their way to each of their addresses.

A target is pending, leased, delivered, failed or suppressed. A lease is a promise with an end: when the process that holds it
dies, the target becomes due again. A delivery whose end could not be stored may happen again; nothing is lost, and nothing
that was stored is done twice. The next try comes after 5 minutes, doubling, for 24 hours (RFC 8460 §5.5).
"""

from __future__ import annotations

import json
import random
import re
import secrets
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from typing import TYPE_CHECKING, Any, Final

from postward.model import MICROSECONDS, Report, ReportOutcome, ReportTarget, Window
from postward.names import Domain
from postward.reports.tables import OUTBOX, SUPPRESSIONS, TARGETS, suppress
from postward.reports.targets import suppression_keys

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
KEEP_ENDED: Final = 14 * 24 * HOUR
SUPPRESS_FOR: Final = 30 * 24 * HOUR

# Enhanced codes that speak of the mailbox and not of the message or of us (RFC 3463 §3.2, §3.3).
_BAD_ADDRESS: Final = re.compile(r"\b5\.(?:1\.[0-9]{1,2}|2\.1)\b")


class State(StrEnum):
    """The states of a target."""

    PENDING = "pending"
    LEASED = "leased"
    DELIVERED = "delivered"
    FAILED = "failed"
    SUPPRESSED = "suppressed"


OPEN: Final = (State.PENDING, State.LEASED)


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


def pause_after(attempts: int, chance: float) -> int:
    """How long to wait after a number of attempts, in microseconds: `chance` in [0, 1) spreads it by a fifth around."""
    pause = min(FIRST_PAUSE << min(attempts - 1, 20), LONGEST_PAUSE)
    return int(pause * (0.8 + 0.4 * chance))


def put(connection: Connection, reports: Sequence[Report], targets: Sequence[ReportTarget], *, due: int, cid: str = "") -> None:
    """Store reports for all `targets`, in the transaction that built them; the first attempt comes at the instant `due`.

    A report that is there already, by kind, id and submitter, raises the database's integrity error, which undoes the build.
    """
    for report in reports:
        key = secrets.token_hex(16)
        row = {"id": key, "cid": cid, "created": due, **_row_of(report)}
        connection.execute(OUTBOX.insert(), row)
        rows = [
            {
                "report": key,
                "position": position,
                "uri": uri,
                "state": State.PENDING.value,
                "attempts": 0,
                "first_try": 0,
                "next_try": due,
                "lease_by": "",
                "last_detail": "",
            }
            for position, uri in enumerate(dict.fromkeys(target.uri for target in targets))
        ]
        if rows:
            connection.execute(TARGETS.insert(), rows)


class Outbox:
    """The outbox in a results database, as one node sees it."""

    def __init__(self, database: Database, *, node: str = "", rng: random.Random | None = None) -> None:
        self._database, self._node = database, node
        self._rng = rng or random.Random()

    async def claim(self, now: int) -> Claimed | Ended | None:
        """Take the target that has been due for longest: leased to us, or ended because it is suppressed.

        None when nothing is due.
        """
        token = f"{self._node}:{secrets.token_hex(8)}"
        return await self._database.write(lambda connection: _claim(connection, now, token))

    async def settle(self, claimed: Claimed, delivered: Delivered, now: int) -> Ended | None:
        """Store how an attempt ended; what it returns when that was the end of the target.

        A lease that ran out and was taken by another counts only for a success.
        """
        chance = self._rng.random()
        return await self._database.write(lambda connection: _settle(connection, claimed, delivered, now, chance))

    async def next_due(self) -> int | None:
        """The instant at which the next target is due; None for an empty outbox."""

        def find(connection: Connection) -> int | None:
            due = [
                connection.execute(
                    TARGETS.select().where(TARGETS.c.state == state.value).order_by(TARGETS.c.next_try).limit(1)
                ).one_or_none()
                for state in OPEN
            ]
            return min((row.next_try for row in due if row is not None), default=None)

        return await self._database.read(find)

    async def counts(self) -> dict[str, int]:
        """How many targets there are in each state that occurs."""

        def count(connection: Connection) -> dict[str, int]:
            counts: dict[str, int] = {}
            for row in connection.execute(TARGETS.select().with_only_columns(TARGETS.c.state)):
                counts[row.state] = counts.get(row.state, 0) + 1
            return counts

        return await self._database.read(count)

    async def suppress(self, subject: str, *, until: int, reason: str) -> None:
        """Send no reports to an address, domain or host before `until`."""
        await self._database.write(lambda connection: suppress(connection, subject.lower(), until, reason))

    async def unsuppress(self, subject: str) -> bool:
        """Lift a suppression; False when there was none."""
        statement = SUPPRESSIONS.delete().where(SUPPRESSIONS.c.subject == subject.lower())
        return await self._database.write(lambda connection: connection.execute(statement).rowcount > 0)

    async def suppressions(self) -> list[tuple[str, int, str]]:
        """All suppressions, also those that have run out: subject, until, reason."""
        statement = SUPPRESSIONS.select().order_by(SUPPRESSIONS.c.subject)
        return await self._database.read(
            lambda connection: [(row.subject, row.until, row.reason) for row in connection.execute(statement)]
        )

    async def prune(self, now: int) -> int:
        """Remove reports of more than 14 days ago all of whose targets have ended, and old suppressions."""

        def remove(connection: Connection) -> int:
            going = TARGETS.select().with_only_columns(TARGETS.c.report).where(TARGETS.c.state.in_(_values(OPEN)))
            old = (OUTBOX.c.created < now - KEEP_ENDED) & OUTBOX.c.id.not_in(going)
            gone = [row.id for row in connection.execute(OUTBOX.select().with_only_columns(OUTBOX.c.id).where(old).limit(500))]
            if gone:
                connection.execute(TARGETS.delete().where(TARGETS.c.report.in_(gone)))
                connection.execute(OUTBOX.delete().where(OUTBOX.c.id.in_(gone)))
            connection.execute(SUPPRESSIONS.delete().where(SUPPRESSIONS.c.until < now))
            return len(gone)

        return await self._database.write(remove)


def _values(states: Iterable[State]) -> list[str]:
    return [state.value for state in states]


def _claim(connection: Connection, now: int, token: str) -> Claimed | Ended | None:
    due = TARGETS.c.state.in_(_values(OPEN)) & (TARGETS.c.next_try <= now)
    # A leased target's next try is the end of its lease, so one condition finds both kinds.
    found = TARGETS.select().where(due).order_by(TARGETS.c.next_try, TARGETS.c.report, TARGETS.c.position).limit(1)
    row = connection.execute(found.with_for_update(skip_locked=True)).one_or_none()
    if row is None:
        return None
    stored = connection.execute(OUTBOX.select().where(OUTBOX.c.id == row.report)).one()
    report, target = _report_of(stored), ReportTarget(uri=row.uri)
    if (reason := _suppressed(connection, row.uri, now)) is not None:
        _update(connection, row.report, row.position, state=State.SUPPRESSED.value, lease_by="", last_detail=reason)
        outcome = ReportOutcome(target=target, state=State.SUPPRESSED.value, attempts=row.attempts, detail=reason)
        return Ended(report=report, outcome=outcome, cid=stored.cid)
    _update(
        connection,
        row.report,
        row.position,
        state=State.LEASED.value,
        attempts=row.attempts + 1,
        first_try=row.first_try or now,
        next_try=now + LEASE,
        lease_by=token,
    )
    return Claimed(
        report=report,
        target=target,
        attempts=row.attempts + 1,
        cid=stored.cid,
        key=row.report,
        position=row.position,
        token=token,
    )


def _suppressed(connection: Connection, uri: str, now: int) -> str | None:
    keys = suppression_keys(uri)
    if not keys:
        return None
    found = SUPPRESSIONS.select().where(SUPPRESSIONS.c.subject.in_(keys) & (SUPPRESSIONS.c.until > now))
    row = connection.execute(found.limit(1)).one_or_none()
    return None if row is None else f"{row.subject} is suppressed: {row.reason}"


def _settle(connection: Connection, claimed: Claimed, delivered: Delivered, now: int, chance: float) -> Ended | None:
    same = (TARGETS.c.report == claimed.key) & (TARGETS.c.position == claimed.position)
    row = connection.execute(TARGETS.select().where(same).with_for_update()).one_or_none()
    if row is None or row.state not in _values(OPEN):
        return None
    if row.lease_by != claimed.token and not delivered.accepted:
        return None
    detail = _storable(delivered.detail)
    state, next_try = State.PENDING, 0
    if delivered.accepted:
        state = State.DELIVERED
    elif delivered.permanent:
        state = State.FAILED
    else:
        last = row.first_try + GIVE_UP_AFTER
        next_try = min(now + pause_after(row.attempts, chance), last)
        if now >= last:
            state, detail = State.FAILED, f"given up after 24 hours: {detail}"
    _update(connection, claimed.key, claimed.position, state=state.value, next_try=next_try, lease_by="", last_detail=detail)
    if state is State.PENDING:
        return None
    if state is State.FAILED and delivered.permanent:
        _suppress_bounce(connection, claimed.target.uri, detail, now)
    outcome = ReportOutcome(target=claimed.target, state=state.value, attempts=row.attempts, detail=detail)
    return Ended(report=claimed.report, outcome=outcome, cid=claimed.cid)


def _storable(text: str) -> str:
    """What a plugin or a peer said, in characters that every database takes."""
    return "".join(char if char.isprintable() else " " for char in text[:1000])


def _suppress_bounce(connection: Connection, uri: str, detail: str, now: int) -> None:
    """Leave an address alone that does not exist; a refusal of this one message says nothing about the next."""
    keys = suppression_keys(uri)
    if len(keys) > 1 and _BAD_ADDRESS.search(detail):
        suppress(connection, keys[0], now + SUPPRESS_FOR, f"refused: {detail[:200]}")


def _update(connection: Connection, key: str, position: int, **values: object) -> None:
    same = (TARGETS.c.report == key) & (TARGETS.c.position == position)
    connection.execute(TARGETS.update().where(same).values(**values))


def _row_of(report: Report) -> dict[str, Any]:
    return {
        "kind": report.kind,
        "report_id": report.report_id,
        "submitter": str(report.submitter),
        "policy_domain": str(report.policy_domain),
        "window_start": report.window.start,
        "window_end": report.window.end,
        "subject": report.subject,
        "filename": report.filename,
        "media_type": report.media_type,
        "content": report.content,
        "explanation": report.explanation,
        "mail_type": report.mail_type,
        "headers": json.dumps(report.headers),
    }


def _report_of(row: Any) -> Report:
    return Report(
        kind=row.kind,
        report_id=row.report_id,
        policy_domain=Domain(row.policy_domain),
        window=Window(start=row.window_start, end=row.window_end),
        submitter=Domain(row.submitter),
        subject=row.subject,
        filename=row.filename,
        media_type=row.media_type,
        content=bytes(row.content),
        explanation=row.explanation,
        mail_type=row.mail_type,
        headers=tuple((name, value) for name, value in json.loads(row.headers)),
    )
