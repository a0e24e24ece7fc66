"""What a report would say if its day ended now: built as any other, in a transaction that is undone."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from postward.clock import today
from postward.errors import TryLater
from postward.model import Report, ReportTarget, Window

if TYPE_CHECKING:
    from sqlalchemy import Connection

    from postward.clock import Clock
    from postward.model import ReportJob
    from postward.names import Domain
    from postward.store import Store

# Only so that something is built; no report is ever sent there (RFC 2606 §2).
_SOMEBODY: Final = (ReportTarget(uri="mailto:somebody@preview.invalid"),)


@dataclass(frozen=True, slots=True, kw_only=True)
class Preview:
    """A report that would be made, and where it would go; `trouble` where that cannot be found out now."""

    job: str
    report: Report
    targets: tuple[ReportTarget, ...]
    trouble: str = ""


class _Undo(Exception):
    """Carries what was built out of the transaction that must not be."""

    def __init__(self, reports: Sequence[Report]) -> None:
        self.reports = reports
        super().__init__("a preview")


async def preview(jobs: Sequence[ReportJob], store: Store, clock: Clock, domain: Domain) -> list[Preview]:
    """The reports about `domain` from all that is counted, days that are over and today's. Raises `StoreError`."""
    found: list[Preview] = []
    now = Window.of_day(today(clock))
    for job in jobs:
        for window in dict.fromkeys((*await job.windows(), now)):
            if domain not in await job.subjects(window):
                continue
            trouble, targets = "", tuple[ReportTarget, ...]()
            try:
                targets = tuple(await job.targets(window, domain))
            except TryLater as exc:
                trouble = str(exc)
            reports = await _build(job, store, window, domain, targets or _SOMEBODY)
            found += [Preview(job=job.name, report=report, targets=targets, trouble=trouble) for report in reports]
    return found


async def _build(
    job: ReportJob, store: Store, window: Window, domain: Domain, targets: Sequence[ReportTarget]
) -> Sequence[Report]:
    def build_and_undo(connection: Connection) -> None:
        raise _Undo(job.build(connection, window, domain, targets))

    try:
        await store.results.write(build_and_undo)
    except _Undo as undone:
        return undone.reports
    return ()
