"""TLS reporting as a plugin: counts what deliveries came to, and once a day reports it to whoever asks (RFC 8460)."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property
from typing import TYPE_CHECKING, Annotated, Final

from pydantic import AfterValidator, BaseModel, Field

from postward.errors import ConfigError, InvalidName
from postward.hookspecs import hookimpl
from postward.model import MICROSECONDS, WebRoute
from postward.names import Address, Domain
from postward_tlsrpt import counters, counting, host_record
from postward_tlsrpt.figures import received_counter
from postward_tlsrpt.own import Own
from postward_tlsrpt.reporting import Reporter, Rules

if TYPE_CHECKING:
    from postward.core import Commands, Core
    from postward.model import AuthResult, DnsRecord, InboundMessage, ReportJob, ReportReceipt, ResultBatch, Schema
    from postward_tlsrpt.posted import Answer, Request
    from postward_tlsrpt.receiving import Receiver

DAY: Final = 24 * 3600 * MICROSECONDS
RuaUri = Annotated[str, AfterValidator(host_record.usable)]


class TlsRpt:
    """Results come in by `emit`, reports go out by the job of `report_jobs`."""

    class Config(BaseModel, extra="forbid", frozen=True):
        """`organization` names the sender (default: the hostname), `contact` is the address that reports give (default:
        postmaster at the submitter domain, and always in it). `send`: send reports at all. `report_success`: send those
        without any failure too. `pkix_details`: add a line for unauthenticated certificates where no policy applied.
        `host_record`: where others are asked to send reports about this host, `mailto:` or `https:` URIs.

        Received: `addresses` take mailed reports about their domains, `host_addresses` those about the MX hosts that they are
        at, `own_domains` are further domains to keep reports about, for `keep_days` days behind their end."""

        organization: str = Field(default="", max_length=200)
        contact: str = Field(default="", max_length=320)
        send: bool = True
        report_success: bool = True
        pkix_details: bool = False
        host_record: tuple[RuaUri, ...] = Field(default=(), max_length=10)
        addresses: tuple[Address, ...] = ()
        host_addresses: tuple[Address, ...] = ()
        own_domains: tuple[Domain, ...] = ()
        keep_days: int = Field(default=400, ge=1, le=36_500)

    def __init__(self, config: Config, core: Core) -> None:
        self._config, self._core = config, core
        received_counter(core.metrics)
        self.reporter = Reporter(
            core,
            Rules(
                organization=config.organization,
                contact=config.contact,
                send=config.send,
                report_success=config.report_success,
            ),
        )
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
        counts = counting.count(batch.entries, pkix_details=self._config.pkix_details)
        await self._core.store.consume(batch, lambda connection: counters.add(connection, counts))

    @hookimpl
    def report_jobs(self) -> Sequence[ReportJob]:
        """Reports about recipient domains and about MX hosts, for each UTC day (RFC 8460 §4.1)."""
        return self.reporter.jobs()

    @hookimpl
    def dns_records(self, domain: Domain) -> Sequence[DnsRecord]:
        """What asks others for reports about this host."""
        return host_record.records(domain, self._core.hostname, self._config.host_record)

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
        """Where reports are posted (RFC 8460 §5.4), what is counted here, and what others reported."""
        from postward_tlsrpt import received_pages, results_pages

        return [
            WebRoute(path="/report", handler=self.post, methods=("POST",), public=True),
            *results_pages.routes(self._core),
            *received_pages.routes(self._core),
        ]

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
        """`postward tlsrpt results`, `suppress …`, `parse` and `received`."""
        from postward_tlsrpt import parse_command, received_command, results_command, suppress_command

        results_command.register(commands)
        suppress_command.register(commands)
        parse_command.register(self, commands)
        received_command.register(commands)


def _check_contact(contact: str, submitter: Domain) -> None:
    """RFC 8460 §5.3: the domain of contact-info is the submitter."""
    try:
        domain = Address.parse(contact).domain
    except InvalidName as exc:
        raise ConfigError(str(exc), key="plugin.tlsrpt.contact") from exc
    if domain != submitter:
        raise ConfigError(f"the address must be in the domain that signs reports, {submitter}", key="plugin.tlsrpt.contact")
