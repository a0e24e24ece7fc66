"""TLS reporting as a plugin: counts what deliveries came to, and once a day reports it to whoever asks (RFC 8460)."""

from __future__ import annotations

import secrets
from collections.abc import Sequence
from functools import cached_property
from typing import TYPE_CHECKING, Final

from pydantic import BaseModel, Field

from postward.clock import today
from postward.errors import ConfigError, InvalidName, TryLater
from postward.hookspecs import hookimpl
from postward.model import MICROSECONDS, Report, ReportJob, ReportTarget, WebRoute, Window
from postward.names import Address, Domain
from postward_tlsrpt import counting, naming, record, report
from postward_tlsrpt.own import Own
from postward_tlsrpt.record import RecordError

if TYPE_CHECKING:
    from sqlalchemy import Connection

    from postward.core import Commands, Core
    from postward.model import AuthResult, InboundMessage, ReportReceipt, ResultBatch, Schema
    from postward_tlsrpt.posted import Answer, Request
    from postward_tlsrpt.receiving import Receiver

KEEP_DAYS: Final = 7
KEEP_AT_MOST: Final = 30
DAY: Final = 24 * 3600 * MICROSECONDS
MAIL_TYPE: Final = 'multipart/report; report-type="tlsrpt"'


class TlsRpt:
    """Results come in by `emit`, reports go out by the job of `report_jobs`."""

    class Config(BaseModel, extra="forbid", frozen=True):
        """`organization` names the sender (default: the hostname), `contact` is the address that reports give (default:
        postmaster at the submitter domain, and always in it). `send`: send reports at all. `report_success`: send those
        without any failure too. `pkix_details`: add a line for unauthenticated certificates where no policy applied.

        Received: `addresses` take mailed reports about their domains, `host_addresses` those about the MX hosts that they are
        at, `own_domains` are further domains to keep reports about, for `keep_days` days behind their end."""

        organization: str = Field(default="", max_length=200)
        contact: str = Field(default="", max_length=320)
        send: bool = True
        report_success: bool = True
        pkix_details: bool = False
        addresses: tuple[Address, ...] = ()
        host_addresses: tuple[Address, ...] = ()
        own_domains: tuple[Domain, ...] = ()
        keep_days: int = Field(default=400, ge=1, le=36_500)

    def __init__(self, config: Config, core: Core) -> None:
        self._config, self._core = config, core
        self._said = False
        self._offered: dict[str, int] = {}
        if config.contact and core.submitter is not None:
            _check_contact(config.contact, core.submitter)

    @hookimpl
    def register_schema(self) -> Schema:
        """The counters."""
        from postward_tlsrpt import tables

        return tables.SCHEMA

    @hookimpl
    async def emit(self, batch: ResultBatch) -> None:
        """Count a batch, once."""
        from postward_tlsrpt import tables

        counts = counting.count(batch.entries, pkix_details=self._config.pkix_details)
        await self._core.store.consume(batch, lambda connection: tables.add(connection, counts))

    @hookimpl
    def report_jobs(self) -> Sequence[ReportJob]:
        """One report per recipient domain and UTC day (RFC 8460 §4.1)."""
        return [ReportJob(name="tlsrpt", windows=self.windows, subjects=self.subjects, targets=self.targets, build=self.build)]

    async def windows(self) -> Sequence[Window]:
        """The days that are over and have counters; none while reports cannot be sent. Drops what can no more be reported."""
        from postward_tlsrpt import tables

        day = today(self._core.clock)
        sends = self._config.send and self._core.submitter is not None
        if self._config.send and not sends:
            self._say_once()
        days = await self._core.store.read(lambda connection: tables.days_before(connection, day))
        gone = [each for each in days if self._is_given_up(each, sends=sends)]
        if gone:
            dropped = await self._core.store.write(lambda connection: tables.drop(connection, gone))
            self._core.log.warning("counters that were never reported are dropped", days=gone, rows=dropped)
        return [Window.of_day(each) for each in days if each not in gone] if sends else []

    def _is_given_up(self, day: str, *, sends: bool) -> bool:
        """Whether the counters of a day go unreported: after a week, but not before a program that was down has tried."""
        now = self._core.clock.now()
        offered = self._offered.setdefault(day, now) if sends else 0
        age = (now - Window.of_day(day).end) // DAY
        return age > KEEP_AT_MOST or (age >= KEEP_DAYS and now - offered > DAY)

    async def subjects(self, window: Window) -> Sequence[str]:
        """The recipient domains with counters of the window."""
        from postward_tlsrpt import tables

        return await self._core.store.read(lambda connection: tables.domains(connection, window.day))

    async def targets(self, window: Window, subject: str) -> Sequence[ReportTarget]:
        """Where the domain wants reports, by its record; none if it has none. Raises `TryLater` when DNS does not say."""
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
        from postward_tlsrpt import tables

        submitter = self._core.submitter
        if submitter is None:
            return ()
        policies = tables.take(connection, window.day, subject)
        worth = any(result.summary.total_failure_session_count or result.failure_details for result in policies)
        if not targets or not policies or not (worth or self._config.report_success):
            return ()
        return (self._report(window, Domain(subject), submitter, policies),)

    def _report(self, window: Window, domain: Domain, submitter: Domain, policies: Sequence[report.PolicyResult]) -> Report:
        unique = secrets.token_hex(8)
        identifier = naming.report_id(window, domain, submitter, unique)
        organization = self._config.organization or str(self._core.hostname)
        contact = self._config.contact or f"postmaster@{submitter}"
        content = report.TlsReport(
            organization_name=organization,
            date_range=report.DateRange.of(window),
            contact_info=contact,
            report_id=identifier,
            policies=tuple(policies),
        )
        failures = sum(result.summary.total_failure_session_count for result in policies)
        sessions = failures + sum(result.summary.total_successful_session_count for result in policies)
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

    # --- receiving ---

    @cached_property
    def receiver(self) -> Receiver:
        """What takes in reports about us: where they are received, what is configured, what is signed for here."""
        from postward_tlsrpt.receiving import Receiver

        config, signer = self._config, self._core.signer
        hosts = {str(self._core.hostname), *(str(address.domain) for address in config.host_addresses)}
        domains = {address.domain for address in config.addresses} | set(config.own_domains) | set(signer.domains)
        own = Own(domains=frozenset(map(str, domains)) - hosts, hosts=frozenset(hosts))
        return Receiver(self._core, own, keep_days=config.keep_days)

    @hookimpl
    def report_addresses(self) -> Sequence[Address]:
        """Those that are configured."""
        return (*self._config.addresses, *self._config.host_addresses)

    @hookimpl
    async def receive_report(self, message: InboundMessage, results: Sequence[AuthResult]) -> ReportReceipt | None:
        """Take in TLS reports that came to one of our addresses (RFC 8460 §5.3)."""
        ours = set(self.report_addresses())
        return await self.receiver.by_mail(message, results) if ours.intersection(message.recipients) else None

    @hookimpl
    def register_routes(self) -> Sequence[WebRoute]:
        """Where reports are posted (RFC 8460 §5.4)."""
        return [WebRoute(path="/report", handler=self.post, methods=("POST",), public=True)]

    async def post(self, request: Request) -> Answer:
        """The endpoint of `/tlsrpt/report`."""
        from postward_tlsrpt import posted

        return await posted.take(request, self.receiver)

    @hookimpl
    async def background(self) -> None:
        """Once a day, forget the reports that are older than they are kept."""
        clock = self._core.clock
        while True:
            await self.receiver.forget_old()
            await clock.sleep_until(clock.now() + DAY)

    @hookimpl
    def register_commands(self, commands: Commands) -> None:
        """`postward tlsrpt parse` and `postward tlsrpt received`."""
        from postward_tlsrpt import parse_command, received_command

        parse_command.register(self, commands)
        received_command.register(commands)

    def _say_once(self) -> None:
        if not self._said:
            self._said = True
            self._core.log.error(
                "no TLS reports are sent: no DKIM key is configured for a domain at or above the hostname",
                hostname=self._core.hostname,
                fix="add a [[dkim]] table with domain, selector and key_file",
            )


def _check_contact(contact: str, submitter: Domain) -> None:
    """RFC 8460 §5.3: the domain of contact-info is the submitter."""
    try:
        domain = Address.parse(contact).domain
    except InvalidName as exc:
        raise ConfigError(str(exc), key="plugin.tlsrpt.contact") from exc
    if domain != submitter:
        raise ConfigError(f"the address must be in the domain that signs reports, {submitter}", key="plugin.tlsrpt.contact")
