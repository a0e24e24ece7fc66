"""Close windows and build their reports: each in one transaction with the outbox, so that it happens exactly once.

A window is built when its time is over and every live node has handed over what belongs to it. Building comes right after
midnight UTC, sending is spread over the hours behind it. Windows that were left over from before keep their own dates.
"""

from __future__ import annotations

import random
import secrets
from collections.abc import Awaitable, Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

import trio

from postward.errors import PostwardError, StoreError, TryLater
from postward.model import MICROSECONDS, ReportTarget, Window, day_of
from postward.reports.outbox import Outbox
from postward.reports.rows import put
from postward.reports.tables import lock_job

if TYPE_CHECKING:
    from sqlalchemy import Connection
    from structlog.typing import FilteringBoundLogger

    from postward.clock import Clock
    from postward.model import Report, ReportJob
    from postward.store import Store

# So many questions are under way at once, and so many builds share a transaction.
AT_ONCE: Final = 128
TARGETS_WITHIN: Final = 120.0
# A little after midnight, because the last results of the day are still on their way into the counters.
_AFTER_MIDNIGHT: Final = 60 * MICROSECONDS
_AGAIN_AFTER: Final = 15 * 60 * MICROSECONDS

ClosedUntil = Callable[[str], Awaitable[int]]


@dataclass(frozen=True, slots=True, kw_only=True)
class Built:
    """A report that went into the outbox, and its addresses."""

    cid: str
    job: str
    report: Report
    targets: tuple[ReportTarget, ...]


@dataclass(slots=True)
class ReportRun:
    """What one run of the schedule came to.

    `built` counts reports, of which there may be too many to be kept here (`Watcher.built`), `nobody` subjects that nobody
    wants reports about, `later` those that must be asked about again, `failed` those whose plugin raised an error, `waiting`
    windows that are over but not yet closed by every node.
    """

    cid: str
    built: int = 0
    nobody: int = 0
    later: int = 0
    failed: int = 0
    waiting: int = 0

    @property
    def complete(self) -> bool:
        """Whether nothing is left to come back for."""
        return not (self.later or self.failed or self.waiting)


class Watcher:
    """Sees a run while it goes on; this one does not look."""

    def window(self, job: str, window: Window, subjects: int) -> None:
        """The subjects of a window are about to be worked on."""

    def subject_done(self) -> None:
        """One of them is done, well or not."""

    def built(self, built: Built) -> None:
        """A report is in the outbox."""


class Scheduler:
    """Runs the report jobs of all plugins.

    `jobs` are (plugin, job) pairs. `closed_until` gives, for a plugin, the instant before which every live node's results have
    reached its counters. `built` is called after a run that put something into the outbox. Without `jitter` everything is due
    at once, as tests and the lab want it. `watcher` sees each report.
    """

    def __init__(
        self,
        *,
        jobs: Sequence[tuple[str, ReportJob]],
        store: Store,
        clock: Clock,
        closed_until: ClosedUntil,
        outbox: Outbox,
        log: FilteringBoundLogger,
        jitter: bool = True,
        built: Callable[[], None] = lambda: None,
        rng: random.Random | None = None,
        watcher: Watcher | None = None,
    ) -> None:
        self._watcher = watcher or Watcher()
        self._jobs, self._store, self._clock, self._outbox = tuple(jobs), store, clock, outbox
        self._closed_until, self._log, self._built = closed_until, log, built
        self._jitter, self._rng = jitter, rng or random.Random()

    async def run_once(self, now: int | None = None, *, day: str | None = None) -> ReportRun:
        """Build every report whose window is over and closed, or only those of a UTC day.

        What fails is logged and left for the next run.
        """
        instant = self._clock.now() if now is None else now
        run = ReportRun(cid=secrets.token_hex(4))
        log = self._log.bind(cid=run.cid)
        for plugin, job in self._jobs:
            try:
                await self._run_job(run, plugin, job, instant, day, log)
            except Exception as exc:  # noqa: BLE001 - one plugin's trouble must not keep the reports of the others
                run.failed += 1
                log.error("report-job-failed", plugin=plugin, job=job.name, error=repr(exc))
        log.info(
            "report-run",
            built=run.built,
            nobody=run.nobody,
            later=run.later,
            failed=run.failed,
            waiting=run.waiting,
        )
        if run.built:
            self._built()
        return run

    async def run_forever(self) -> None:
        """Run now, for what was left over, then after every midnight UTC; sooner again while something is left."""
        while True:
            run = await self.run_once()
            try:
                await self._outbox.prune(self._clock.now())
            except StoreError as exc:
                self._log.error("outbox-unusable", error=str(exc))
            now = self._clock.now()
            midnight = Window.of_day(day_of(now)).end + _AFTER_MIDNIGHT + self._spread(_AFTER_MIDNIGHT)
            await self._clock.sleep_until(midnight if run.complete else min(midnight, now + _AGAIN_AFTER))

    def _spread(self, most: int) -> int:
        return int(self._rng.random() * most) if self._jitter else 0

    async def _run_job(
        self, run: ReportRun, plugin: str, job: ReportJob, now: int, day: str | None, log: FilteringBoundLogger
    ) -> None:
        over = [window for window in await job.windows() if window.end <= now and day in (None, window.day)]
        if not over:
            return
        closed = await self._closed_until(plugin)
        for window in sorted(over):
            if window.end > closed:
                run.waiting += 1
                log.info("window-not-closed", plugin=plugin, job=job.name, window=window.day)
                continue
            found = dict.fromkeys(await job.subjects(window))
            self._watcher.window(job.name, window, len(found))
            subjects = iter(found)
            async with trio.open_nursery() as nursery:
                for _ in range(AT_ONCE):
                    nursery.start_soon(self._worker, run, plugin, job, window, subjects, now, log)

    async def _worker(
        self,
        run: ReportRun,
        plugin: str,
        job: ReportJob,
        window: Window,
        subjects: Iterator[str],
        now: int,
        log: FilteringBoundLogger,
    ) -> None:
        for subject in subjects:
            bound = log.bind(plugin=plugin, job=job.name, window=window.day, subject=subject)
            try:
                await self._build(run, job, window, subject, now, bound)
            except TryLater as exc:
                run.later += 1
                bound.info("report-postponed", reason=str(exc))
            except trio.TooSlowError:
                run.later += 1
                bound.warning("report-postponed", reason="finding the addresses took too long")
            except Exception as exc:  # noqa: BLE001 - one subject's trouble must not keep the reports about the others
                run.failed += 1
                bound.error("report-failed", error=str(exc) if isinstance(exc, PostwardError) else repr(exc))
            self._watcher.subject_done()

    async def _build(
        self, run: ReportRun, job: ReportJob, window: Window, subject: str, now: int, log: FilteringBoundLogger
    ) -> None:
        with trio.fail_after(TARGETS_WITHIN):
            targets = tuple(await job.targets(window, subject))
        due = now + self._spread(job.jitter * MICROSECONDS)
        cid = f"{run.cid}-{secrets.token_hex(4)}"

        def build(connection: Connection) -> Sequence[Report]:
            # Nodes take turns: the second finds the counters already taken.
            lock_job(connection, job.name)
            reports = tuple(job.build(connection, window, subject, targets))
            if targets:
                put(connection, reports, targets, due=due, cid=cid)
            return reports

        reports = await self._store.results.write(build)
        if not targets:
            run.nobody += 1
            log.info("report-unwanted")
            return
        for report in reports:
            run.built += 1
            self._watcher.built(Built(cid=cid, job=job.name, report=report, targets=targets))
            log.info(
                "report-built",
                report_cid=cid,
                report_id=report.report_id,
                bytes=len(report.content),
                targets=[target.uri for target in targets],
            )
