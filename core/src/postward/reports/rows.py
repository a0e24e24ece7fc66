"""Rows of the outbox, written and read by the driver's own statements: SQLAlchemy's would cost more than a report does.

All functions run inside a transaction of the results database, SQLite or PostgreSQL.
"""

from __future__ import annotations

import json
import secrets
from collections.abc import Sequence
from enum import StrEnum
from typing import TYPE_CHECKING, Any, Final

from postward.model import Report, ReportTarget, Window
from postward.names import Domain
from postward.store import change, fetch

if TYPE_CHECKING:
    from sqlalchemy import Connection

MAIL: Final = "mail"
WEB: Final = "web"
_SCHEME: Final = "mailto:"


class State(StrEnum):
    """The states of a target. A queued one is a mail in the queue of the node that put it there."""

    PENDING = "pending"
    LEASED = "leased"
    QUEUED = "queued"
    DELIVERED = "delivered"
    FAILED = "failed"
    SUPPRESSED = "suppressed"


CLAIMABLE: Final = (State.PENDING, State.LEASED)
OPEN: Final = (*CLAIMABLE, State.QUEUED)

REPORT: Final = (
    "kind, report_id, policy_domain, window_start, window_end, submitter, subject, filename, media_type, content, explanation,"
    " mail_type, headers"
)
_PUT_REPORT: Final = (
    f"INSERT INTO core_outbox (id, cid, created, {REPORT}) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)"
)
_PUT_TARGET: Final = (
    "INSERT INTO core_outbox_targets (report, position, uri, way, state, attempts, first_try, next_try, lease_by, last_detail)"
    f" VALUES (?, ?, ?, ?, '{State.PENDING}', 0, 0, ?, '', '')"
)
_SUPPRESS: Final = (
    "INSERT INTO core_suppressions (subject, until, reason) VALUES (?, ?, ?)"
    " ON CONFLICT (subject) DO UPDATE SET until = excluded.until, reason = excluded.reason"
)
_SUPPRESSED: Final = "SELECT subject, reason FROM core_suppressions WHERE subject IN ({}) AND until > ? LIMIT 1"


def way_of(uri: str) -> str:
    """How a target is reached: by mail, or by what is no mail."""
    return MAIL if uri[: len(_SCHEME)].lower() == _SCHEME else WEB


def put(connection: Connection, reports: Sequence[Report], targets: Sequence[ReportTarget], *, due: int, cid: str = "") -> None:
    """Store reports for all `targets`, in the transaction that built them; the first attempt comes at the instant `due`.

    A report that is there already, by kind, id and submitter, raises the database's integrity error, which undoes the build.
    """
    for report in reports:
        key = secrets.token_hex(16)
        change(connection, _PUT_REPORT, (key, cid, due, *_values(report)))
        for position, uri in enumerate(dict.fromkeys(target.uri for target in targets)):
            change(connection, _PUT_TARGET, (key, position, uri, way_of(uri), due))


def report_of(values: Sequence[Any]) -> Report:
    """A report from the columns of `REPORT`."""
    kind, report_id, domain, start, end, submitter, *text, content, explanation, mail_type, headers = values
    subject, filename, media_type = text
    return Report(
        kind=kind,
        report_id=report_id,
        policy_domain=Domain(domain),
        window=Window(start=start, end=end),
        submitter=Domain(submitter),
        subject=subject,
        filename=filename,
        media_type=media_type,
        content=bytes(content),
        explanation=explanation,
        mail_type=mail_type,
        headers=tuple((name, value) for name, value in json.loads(headers)),
    )


def load_report(connection: Connection, key: str) -> tuple[Report, str]:
    """A stored report and its correlation id."""
    ((cid, *values),) = fetch(connection, f"SELECT cid, {REPORT} FROM core_outbox WHERE id = ?", (key,))
    return report_of(values), str(cid)


def suppression(connection: Connection, keys: Sequence[str], now: int) -> str | None:
    """Why an address that goes by `keys` gets nothing now; None when it does."""
    if not keys:
        return None
    found = fetch(connection, _SUPPRESSED.format(", ".join("?" * len(keys))), (*keys, now))
    return f"{found[0][0]} is suppressed: {found[0][1]}" if found else None


def suppress(connection: Connection, subject: str, until: int, reason: str) -> None:
    """Enter or change a suppression."""
    change(connection, _SUPPRESS, (subject, until, reason))


def update(connection: Connection, key: str, position: int, **values: object) -> None:
    """Change a target."""
    columns = ", ".join(f"{name} = ?" for name in values)
    statement = f"UPDATE core_outbox_targets SET {columns} WHERE report = ? AND position = ?"
    change(connection, statement, (*values.values(), key, position))


def _values(report: Report) -> tuple[object, ...]:
    return (
        report.kind,
        report.report_id,
        str(report.policy_domain),
        report.window.start,
        report.window.end,
        str(report.submitter),
        report.subject,
        report.filename,
        report.media_type,
        report.content,
        report.explanation,
        report.mail_type,
        json.dumps(report.headers),
    )
