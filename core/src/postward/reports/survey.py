"""The outbox for people: reports with what has become of each of their addresses, newest first, a page at a time."""

from __future__ import annotations

import zlib
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final

from postward.reports.rows import REPORT, State, report_of
from postward.store import fetch

if TYPE_CHECKING:
    from sqlalchemy import Connection

    from postward.model import Report

LARGEST: Final = 64 * 1024 * 1024


@dataclass(frozen=True, slots=True, kw_only=True)
class TargetState:
    """An address of a report. `next_try` is 0 where nothing more happens, or the queue decides."""

    uri: str
    state: str
    attempts: int
    next_try: int
    detail: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Listed:
    """A report in the outbox, without its content. Instants are microseconds UTC; `day` is that of its window."""

    id: str
    cid: str
    kind: str
    report_id: str
    domain: str
    submitter: str
    day_start: int
    created: int
    size: int
    targets: tuple[TargetState, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Wanted:
    """What reports are asked for; conditions hold together. `start` is that of the window, `state` that of any address."""

    start: int | None = None
    domain: str = ""
    state: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Page:
    """Some reports, and where the next page begins; empty at the end."""

    reports: Sequence[Listed] = field(default_factory=tuple)
    next: str = ""


_LISTED: Final = (
    "SELECT id, cid, kind, report_id, policy_domain, submitter, window_start, created, LENGTH(content) FROM core_outbox"
)
_TARGETS: Final = (
    "SELECT uri, state, attempts, next_try, last_detail FROM core_outbox_targets WHERE report = ? ORDER BY position"
)


def listed(connection: Connection, wanted: Wanted, *, after: str, limit: int) -> Page:
    """A page of reports behind the cursor `after`, newest first. Raises `ValueError` for a cursor that is none."""
    where, values = ["1 = 1"], list[object]()
    if wanted.start is not None:
        where.append("window_start = ?")
        values.append(wanted.start)
    if wanted.domain:
        where.append("policy_domain = ?")
        values.append(wanted.domain)
    if wanted.state:
        where.append("EXISTS (SELECT 1 FROM core_outbox_targets WHERE report = id AND state = ?)")
        values.append(wanted.state)
    if after:
        created, _, key = after.partition("-")
        where.append("(created < ? OR created = ? AND id < ?)")
        values += [int(created), int(created), key]
    query = f"{_LISTED} WHERE {' AND '.join(where)} ORDER BY created DESC, id DESC LIMIT ?"
    rows = fetch(connection, query, (*values, limit + 1))
    reports = [_listed(connection, row) for row in rows[:limit]]
    more = len(rows) > limit and reports
    return Page(reports=reports, next=f"{reports[-1].created}-{reports[-1].id}" if more else "")


def find(connection: Connection, name: str) -> list[tuple[Listed, Report]]:
    """The reports that go by `name`, at most two: the beginning of an id, or a report id."""
    query = f"{_LISTED} WHERE report_id = ? OR id LIKE ? LIMIT 2"
    prefix = f"{name}%" if len(name) >= 6 and name.isalnum() else name
    return [
        (
            _listed(connection, row),
            report_of(fetch(connection, f"SELECT {REPORT} FROM core_outbox WHERE id = ?", (row[0],))[0]),
        )
        for row in fetch(connection, query, (name, prefix))
    ]


def due(connection: Connection, now: int) -> int:
    """How many addresses are due."""
    query = f"SELECT COUNT(*) FROM core_outbox_targets WHERE state = '{State.PENDING}' AND next_try <= ?"
    return int(fetch(connection, query, (now,))[0][0])


def text_of(report: Report) -> str:
    """The content of a report as text; compressed content is opened. Raises `ValueError` for what is none."""
    content = report.content
    if report.media_type.endswith("gzip"):
        try:
            content = zlib.decompressobj(wbits=31).decompress(content, LARGEST)
        except zlib.error as exc:
            raise ValueError(f"the content of {report.report_id} cannot be opened: {exc}") from exc
    return content.decode("utf-8", "replace")


def _listed(connection: Connection, row: Sequence[object]) -> Listed:
    key, cid, kind, report_id, domain, submitter, start, created, size = row
    targets = (
        TargetState(uri=uri, state=state, attempts=attempts, next_try=next_try, detail=detail)
        for uri, state, attempts, next_try, detail in fetch(connection, _TARGETS, (key,))
    )
    return Listed(
        id=str(key),
        cid=str(cid),
        kind=str(kind),
        report_id=str(report_id),
        domain=str(domain),
        submitter=str(submitter),
        day_start=_number(start),
        created=_number(created),
        size=_number(size),
        targets=tuple(targets),
    )


def _number(value: object) -> int:
    if not isinstance(value, int):
        raise ValueError(f"not a number: {value!r}")
    return value
