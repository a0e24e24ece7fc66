"""The reports of a day: one about each recipient domain, and one about each MX host that asks for reports itself.

A recipient domain is told all of its sessions. What was found under the TLSA records of an MX host belongs to that host as
well, because the TLSA base domain is the policy domain there (RFC 8460 §1.1): it is told what exactly the same addresses have
not been told already. So hosts come when the recipient domains of the day are through.
"""

from __future__ import annotations

import secrets
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from postward.clock import today
from postward.errors import InvalidName, TryLater
from postward.model import MICROSECONDS, Report, ReportJob, ReportTarget, Window
from postward.names import Domain
from postward_tlsrpt import counters, naming, record, report
from postward_tlsrpt.record import RecordError

if TYPE_CHECKING:
    from sqlalchemy import Connection

    from postward.core import Core
    from postward_tlsrpt.counters import Taken

KEEP_DAYS: Final = 7
KEEP_AT_MOST: Final = 30
DAY: Final = 24 * 3600 * MICROSECONDS
MAIL_TYPE: Final = 'multipart/report; report-type="tlsrpt"'


@dataclass(frozen=True, slots=True, kw_only=True)
class Rules:
    """What the configuration says about reports; see `TlsRpt.Config`. `contact` is empty for postmaster at the submitter."""

    organization: str
    contact: str
    send: bool
    report_success: bool


class Reporter:
    """Brings the reports of TLS results to core."""

    def __init__(self, core: Core, rules: Rules) -> None:
        self._core, self._rules = core, rules
        self._said = False
        self._offered: dict[str, int] = {}

    def jobs(self) -> Sequence[ReportJob]:
        """One report per recipient domain and UTC day, then one per MX host (RFC 8460 §1.1, §4.1)."""
        return [
            ReportJob(name="tlsrpt", windows=self.windows, subjects=self.subjects, targets=self.targets, build=self.build),
            ReportJob(
                name="tlsrpt-hosts",
                windows=self.host_windows,
                subjects=self.host_subjects,
                targets=self.targets,
                build=self.build_host,
            ),
        ]

    async def windows(self) -> Sequence[Window]:
        """The days that are over and have counters; none while reports cannot be sent. Drops what can no more be reported."""
        day = today(self._core.clock)
        sends = self._sends()
        days = await self._core.store.read(
            lambda connection: sorted(
                {*counters.days_before(connection, day), *counters.days_before(connection, day, "host_sessions")}
            )
        )
        gone = [each for each in days if self._is_given_up(each, sends=sends)]
        if gone:
            dropped = await self._core.store.write(lambda connection: counters.drop(connection, gone))
            self._core.log.warning("counters that were never reported are dropped", days=gone, rows=dropped)
        if not sends:
            return []
        left = await self._core.store.read(lambda connection: counters.days_before(connection, day))
        return [Window.of_day(each) for each in left]

    async def host_windows(self) -> Sequence[Window]:
        """The days whose recipient domains have been told, or that have waited for that for a day."""
        if not self._sends():
            return []
        day, now = today(self._core.clock), self._core.clock.now()

        def find(connection: Connection) -> list[Window]:
            open_days = set(counters.days_before(connection, day))
            found = [Window.of_day(each) for each in counters.days_before(connection, day, "host_sessions")]
            return [window for window in found if window.day not in open_days or now - window.end >= DAY]

        return await self._core.store.read(find)

    async def subjects(self, window: Window) -> Sequence[str]:
        """The recipient domains with counters of the window."""
        return await self._core.store.read(lambda connection: counters.recipient_domains(connection, window.day))

    async def host_subjects(self, window: Window) -> Sequence[str]:
        """The MX hosts with counters of the window."""
        return await self._core.store.read(lambda connection: counters.hosts(connection, window.day))

    async def targets(self, _window: Window, subject: str) -> Sequence[ReportTarget]:
        """Where a policy domain wants reports, by its record (RFC 8460 §3); none if it has none.

        Raises `TryLater` when DNS does not say.
        """
        try:
            name = Domain(f"_smtp._tls.{subject}")
        except InvalidName:
            return ()
        answer = await self._core.dns.query(name, "TXT")
        if answer.failure is not None:
            raise TryLater(f"TXT of {name}: {answer.failure.slug}")
        try:
            chosen = record.choose(answer.texts)
        except RecordError as exc:
            self._core.log.info("unusable TLSRPT record", domain=subject, reason=exc.slug, error=str(exc))
            return ()
        if chosen is None:
            return ()
        if chosen.ignored:
            self._core.log.info("TLSRPT addresses ignored", domain=subject, ignored=chosen.ignored)
        return tuple(ReportTarget(uri=uri) for uri in chosen.rua)

    def build(self, connection: Connection, window: Window, subject: str, targets: Sequence[ReportTarget]) -> Sequence[Report]:
        """Take the counters of a domain and day and make the report of them; none when nobody asked for it."""
        if self._core.submitter is None:
            return ()
        rows = counters.take(connection, window.day, subject)
        reports = self._reports(window, subject, targets, rows)
        counters.pass_on(connection, window.day, subject, rows, told=key_of(targets) if reports else "")
        return reports

    def build_host(
        self, connection: Connection, window: Window, subject: str, targets: Sequence[ReportTarget]
    ) -> Sequence[Report]:
        """Take the counters of an MX host and day, and report what these very addresses have not been told."""
        if self._core.submitter is None:
            return ()
        key = key_of(targets)
        rows = [row for row in counters.take_host(connection, window.day, subject) if row.told != key]
        return self._reports(window, subject, targets, rows)

    # --- one report ---

    def _reports(
        self, window: Window, subject: str, targets: Sequence[ReportTarget], rows: Sequence[Taken]
    ) -> Sequence[Report]:
        worth = any(row.failures or row.details for row in rows)
        if not targets or not rows or not (worth or self._rules.report_success):
            return ()
        return (self._report(window, Domain(subject), rows),)

    def _report(self, window: Window, domain: Domain, rows: Sequence[Taken]) -> Report:
        submitter = self._core.submitter
        assert submitter is not None, "without a submitter nothing is built"
        unique = secrets.token_hex(8)
        identifier = naming.report_id(window, domain, submitter, unique)
        organization = self._rules.organization or str(self._core.hostname)
        contact = self._rules.contact or f"postmaster@{submitter}"
        content = report.TlsReport(
            organization_name=organization,
            date_range=report.DateRange.of(window),
            contact_info=contact,
            report_id=identifier,
            policies=counters.policies(rows),
        )
        failures = sum(row.failures for row in rows)
        sessions = failures + sum(row.successes for row in rows)
        return Report(
            kind="tls",
            report_id=identifier,
            policy_domain=domain,
            window=window,
            submitter=submitter,
            subject=naming.subject(domain, submitter, identifier),
            filename=naming.filename(window, domain, submitter, unique),
            media_type=report.MEDIA_TYPE,
            content=report.compress(report.to_json(content)),
            explanation=naming.explanation(window, domain, organization, contact, sessions=sessions, failures=failures),
            mail_type=MAIL_TYPE,
            headers=(("TLS-Report-Domain", str(domain)), ("TLS-Report-Submitter", str(submitter))),
        )

    # --- whether and how long ---

    def _sends(self) -> bool:
        if self._rules.send and self._core.submitter is None:
            self._say_once()
        return self._rules.send and self._core.submitter is not None

    def _is_given_up(self, day: str, *, sends: bool) -> bool:
        """Whether the counters of a day go unreported: after a week, but not before a program that was down has tried."""
        now = self._core.clock.now()
        offered = self._offered.setdefault(day, now) if sends else 0
        age = (now - Window.of_day(day).end) // DAY
        return age > KEEP_AT_MOST or (age >= KEEP_DAYS and now - offered > DAY)

    def _say_once(self) -> None:
        if not self._said:
            self._said = True
            self._core.log.error(
                "no TLS reports are sent: no DKIM key is configured for a domain at or above the hostname",
                hostname=self._core.hostname,
                fix="add a [[dkim]] table with domain, selector and key_file",
            )


def key_of(targets: Sequence[ReportTarget]) -> str:
    """The addresses as a key: the same for the same ones, in whatever order; empty for none."""
    return " ".join(sorted({target.uri for target in targets}))
