"""TLS reporting as a plugin: counts what deliveries came to, and once a day reports it to whoever asks (RFC 8460)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Annotated

from pydantic import AfterValidator, BaseModel, Field

from postward.errors import ConfigError, InvalidName
from postward.hookspecs import hookimpl
from postward.names import Address, Domain
from postward_tlsrpt import counters, counting, host_record
from postward_tlsrpt.reporting import Reporter, Rules

if TYPE_CHECKING:
    from postward.core import Commands, Core
    from postward.model import DnsRecord, ReportJob, ResultBatch, Schema

RuaUri = Annotated[str, AfterValidator(host_record.usable)]


class TlsRpt:
    """Results come in by `emit`, reports go out by the job of `report_jobs`."""

    class Config(BaseModel, extra="forbid", frozen=True):
        """`organization` names the sender (default: the hostname), `contact` is the address that reports give (default:
        postmaster at the submitter domain, and always in it). `send`: send reports at all. `report_success`: send those
        without any failure too. `pkix_details`: add a line for unauthenticated certificates where no policy applied.
        `host_record`: where others are asked to send reports about this host, `mailto:` or `https:` URIs."""

        organization: str = Field(default="", max_length=200)
        contact: str = Field(default="", max_length=320)
        send: bool = True
        report_success: bool = True
        pkix_details: bool = False
        host_record: tuple[RuaUri, ...] = Field(default=(), max_length=10)

    def __init__(self, config: Config, core: Core) -> None:
        self._config, self._core = config, core
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
    def register_commands(self, commands: Commands) -> None:
        """`postward tlsrpt results` and `postward tlsrpt suppress …`."""
        from postward_tlsrpt import results_command, suppress_command

        results_command.register(commands)
        suppress_command.register(commands)

    @hookimpl
    def dns_records(self, domain: Domain) -> Sequence[DnsRecord]:
        """What asks others for reports about this host."""
        return host_record.records(domain, self._core.hostname, self._config.host_record)


def _check_contact(contact: str, submitter: Domain) -> None:
    """RFC 8460 §5.3: the domain of contact-info is the submitter."""
    try:
        domain = Address.parse(contact).domain
    except InvalidName as exc:
        raise ConfigError(str(exc), key="plugin.tlsrpt.contact") from exc
    if domain != submitter:
        raise ConfigError(f"the address must be in the domain that signs reports, {submitter}", key="plugin.tlsrpt.contact")
