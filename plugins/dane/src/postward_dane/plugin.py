"""DANE for SMTP as a plugin: finds the TLSA records of each MX host, and judges handshakes by them (RFC 7672).

DANE needs a resolver that validates. While the self-test says that it does not, DANE is off, which is said loudly once, and
mail goes under the policies that are left; only to `mandatory` destinations it waits.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, Any, Final, Literal, Self

from pydantic import BaseModel, BeforeValidator, Field, model_validator

from postward.core import Commands, Core
from postward.dns import Status
from postward.hookspecs import hookimpl
from postward.model import (
    PASSED,
    Destination,
    DnsRecord,
    Failure,
    Finding,
    Mode,
    MxHost,
    ResultType,
    Scope,
    Security,
    TlsPeer,
    TlsPolicy,
    Verdict,
)
from postward.names import Domain
from postward_dane import base, match, tlsa

KIND: Final = "tlsa"
REMEMBER: Final = 1024

DomainText = Annotated[str, BeforeValidator(lambda text: str(Domain(text)))]


Digest = Literal["sha256", "sha512"]
_MATCHING: Final = {"sha256": tlsa.SHA256, "sha512": tlsa.SHA512}


@dataclass(frozen=True, slots=True, kw_only=True)
class Binding:
    """What a policy of this plugin is judged by: usable records, none when all were unusable, and the reference names."""

    records: tuple[tlsa.TlsaRecord, ...]
    names: tuple[Domain, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Published:
    """A TLSA RRset, read: what a report shows of it, the usable records, and, where there is none, why."""

    evidence: tuple[str, ...]
    records: tuple[tlsa.TlsaRecord, ...]
    notes: tuple[Failure, ...]


class Dane:
    """DANE for SMTP (RFC 7672)."""

    class Config(BaseModel, extra="forbid", frozen=True):
        """What may be set below `[plugin.dane]`.

        `mandatory`: next-hop domains that get mail only over DANE-authenticated TLS (RFC 7672 §6). `audit`: those for which
        failures are recorded and reported, and mail goes all the same (RFC 7672 §9.1). `digests`: the digests to use, the
        strongest first; records with others are unusable (RFC 7671 §9). `common_name`: let the CN of a certificate without
        dNSName count for DANE-TA (RFC 7672 §3.2.3).
        """

        mandatory: tuple[DomainText, ...] = ()
        audit: tuple[DomainText, ...] = ()
        digests: Annotated[tuple[Digest, ...], Field(min_length=1)] = ("sha512", "sha256")
        common_name: bool = False

        @model_validator(mode="after")
        def _consistent(self) -> Self:
            if both := set(self.mandatory) & set(self.audit):
                raise ValueError(f"mandatory and audit at once: {', '.join(sorted(both))}")
            if len(set(self.digests)) < len(self.digests):
                raise ValueError("digests names one twice")
            return self

    def __init__(self, config: Config, core: Core) -> None:
        self.config, self.core = config, core
        self.strongest_first = tuple(_MATCHING[name] for name in config.digests)
        self._mandatory, self._audit = frozenset(config.mandatory), frozenset(config.audit)
        self._on = True
        self._hosts = core.metrics.counter(
            "hosts",
            "MX hosts that were asked about, by what DANE found: usable (TLSA records that bind), unusable (records of which"
            " none can be used), none, insecure-address, failed (the lookup), off (the resolver does not validate).",
            ("outcome",),
        )
        # By the identity of an answer's records, which the resolver's cache hands out again and again.
        self._read: OrderedDict[int, tuple[Sequence[Any], Published]] = OrderedDict()

    @hookimpl
    async def host_policy(self, destination: Destination, mx: MxHost) -> TlsPolicy | None:
        """The policy of the first base domain that has TLSA records, or whose lookup failed.

        RFC 7672 §2.2.2: the first secure RRset decides, whether it is usable or not. RFC 7672 §2.1.2: a lookup that failed is
        no absence, so the host must not be used. RFC 6698 §4.1: insecure records are none.
        """
        if mx.name.is_literal:
            return None
        if not self._resolver_will_do():
            self._hosts.inc("off")
            return self._required(destination, mx.name, "resolver-does-not-validate")
        candidates = base.base_domains(mx)
        for candidate in candidates:
            if (owner := base.tlsa_name(candidate, mx.port)) is None:
                continue
            answer = await self.core.dns.query(owner, "TLSA")
            if answer.failure is not None:
                self._hosts.inc("failed")
                failure = Failure(
                    result_type=ResultType.DNSSEC_INVALID,
                    reason=answer.failure.slug,
                    detail=f"the TLSA records of {candidate} could not be looked up: {answer.failure.detail}",
                )
                return self._policy(destination, candidate, problem=failure)
            if answer.status is Status.SECURE:
                published = self.published(answer.records)
                self._hosts.inc("usable" if published.records else "unusable")
                return self._bind(destination, mx, candidate, published)
        self._hosts.inc("none" if candidates else "insecure-address")
        return self._required(destination, mx.name, "no-tlsa-records" if candidates else "insecure-address")

    @hookimpl
    async def verify_tls(self, policy: TlsPolicy, peer: TlsPeer) -> Verdict | None:
        """Judge a handshake by the records of one of our own policies.

        RFC 7672 §2.2: where no record is usable, TLS without authentication is enough.
        """
        if policy.source != self.core.plugin or not isinstance(policy.data, Binding):
            return None
        if not policy.data.records:
            return PASSED
        return match.judge(
            policy.data.records,
            peer.chain,
            policy.data.names,
            at=self.core.clock.now(),
            common_name=self.config.common_name,
        )

    @hookimpl
    def register_commands(self, commands: Commands) -> None:
        """`postward dane check`, `tlsa`, `rollover`."""
        from postward_dane import command

        command.register(self, commands)

    @hookimpl
    def dns_records(self, domain: Domain) -> Sequence[DnsRecord]:
        """TLSA records for the certificates of our own SMTP listeners (RFC 7672 §3.1)."""
        from postward_dane import advice

        return advice.own_records(self.core)

    @hookimpl
    async def dns_checks(self, domain: Domain) -> Sequence[Finding]:
        """What senders with DANE find at the mail hosts of a domain, without connecting to them."""
        from postward_dane import advice, survey

        return advice.findings(await survey.survey(self, domain, connect=False), self.core)

    def published(self, rdata: Sequence[Any]) -> Published:
        """Read the records of an answer; those of a kept answer are read once."""
        known = self._read.get(id(rdata))
        if known is not None and known[0] is rdata:
            return known[1]
        records = tlsa.of_rdata(rdata)
        usable = tlsa.usable(records, self.strongest_first)
        unusable = Failure(
            result_type=ResultType.TLSA_INVALID,
            reason="all-unusable-records",
            detail="; ".join(dict.fromkeys(tlsa.unusable(record, self.strongest_first) for record in records))[:300],
        )
        found = Published(evidence=tuple(map(str, records)), records=usable, notes=() if usable else (unusable,))
        self._read[id(rdata)] = rdata, found
        if len(self._read) > REMEMBER:
            self._read.popitem(last=False)
        return found

    def _bind(self, destination: Destination, mx: MxHost, candidate: Domain, published: Published) -> TlsPolicy | None:
        insecure_mx = destination.from_mx and destination.security is not Security.SECURE
        if destination.domain in self._mandatory and (insecure_mx or not published.records):
            return self._required(destination, candidate, "insecure-mx" if insecure_mx else "all-unusable-records")
        return self._policy(
            destination,
            candidate,
            # RFC 7672 §2.2.1: whoever forged the MX records chose the host, so its records prove nothing of the next hop.
            authenticates=bool(published.records) and not insecure_mx,
            evidence=published.evidence,
            data=Binding(records=published.records, names=base.reference_names(destination, mx, candidate)),
            notes=published.notes,
        )

    def _required(self, destination: Destination, domain: Domain, reason: str) -> TlsPolicy | None:
        """The policy of a host that DANE says nothing usable of: none (RFC 7672 §2.2), unless it is mandatory (RFC 7672 §6)."""
        if destination.domain not in self._mandatory:
            return None
        detail = f"DANE is mandatory for {destination.domain}"
        return self._policy(
            destination, domain, problem=Failure(result_type=ResultType.DANE_REQUIRED, reason=reason, detail=detail)
        )

    def _policy(
        self,
        destination: Destination,
        domain: Domain,
        *,
        authenticates: bool = False,
        evidence: tuple[str, ...] = (),
        data: Binding | None = None,
        problem: Failure | None = None,
        notes: tuple[Failure, ...] = (),
    ) -> TlsPolicy:
        return TlsPolicy(
            kind=KIND,
            # RFC 7672 §9.1: audit-only mode logs and goes on.
            mode=Mode.TESTING if destination.domain in self._audit else Mode.ENFORCE,
            domain=domain,
            scope=Scope.HOST,
            authenticates=authenticates,
            # RFC 7672 §8.1: SNI is the TLSA base domain.
            server_name=domain,
            evidence=evidence,
            data=data,
            problem=problem,
            notes=notes,
        )

    def _resolver_will_do(self) -> bool:
        """Whether answers of the resolver can be secure at all (RFC 7672 §2.1.1); if that has changed, say so."""
        on = self.core.dns.validating is not False
        if on is self._on:
            return on
        self._on = on
        if on:
            self.core.log.warning("DANE is on again: the resolver validates DNSSEC")
        else:
            self.core.log.error(
                "DANE is off: the resolver does not validate DNSSEC",
                problems=list(self.core.dns.problems),
                deferred=list(self.config.mandatory),
            )
        return on
