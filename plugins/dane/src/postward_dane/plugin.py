"""DANE for SMTP as a plugin: finds the TLSA records of each MX host, and judges handshakes by them (RFC 7672)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Final, Self

from pydantic import BaseModel, BeforeValidator, model_validator

from postward.core import Core
from postward.dns import Answer, Status
from postward.hookspecs import hookimpl
from postward.model import (
    PASSED,
    Destination,
    Failure,
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

DomainText = Annotated[str, BeforeValidator(lambda text: str(Domain(text)))]


@dataclass(frozen=True, slots=True, kw_only=True)
class Binding:
    """What a policy of this plugin is judged by: usable records, none when all were unusable, and the reference names."""

    records: tuple[tlsa.TlsaRecord, ...]
    names: tuple[Domain, ...]


class Dane:
    """DANE for SMTP (RFC 7672)."""

    class Config(BaseModel, extra="forbid", frozen=True):
        """`mandatory`: next-hop domains that get mail only over DANE-authenticated TLS (RFC 7672 §6). `audit_only`: those
        for which failures are recorded and reported, and mail goes all the same (RFC 7672 §9.1). `common_name`: let the CN
        of a certificate without dNSName count for DANE-TA."""

        mandatory: tuple[DomainText, ...] = ()
        audit_only: tuple[DomainText, ...] = ()
        common_name: bool = False

        @model_validator(mode="after")
        def _not_both(self) -> Self:
            if both := set(self.mandatory) & set(self.audit_only):
                raise ValueError(f"mandatory and audit_only at once: {', '.join(sorted(both))}")
            return self

    def __init__(self, config: Config, core: Core) -> None:
        self.config, self.core = config, core
        self._told = False

    @hookimpl
    async def host_policy(self, destination: Destination, mx: MxHost) -> TlsPolicy | None:
        """The policy of the first base domain that has TLSA records, or whose lookup failed."""
        if mx.name.is_literal:
            return None
        if not self._resolver_will_do():
            return self._required(destination, mx.name, "resolver-does-not-validate")
        candidates = base.base_domains(mx)
        for candidate in candidates:
            if (owner := base.tlsa_name(candidate, mx.port)) is None:
                continue
            answer = await self.core.dns.query(owner, "TLSA")
            if answer.failure is not None:
                failure = Failure(
                    result_type=ResultType.DNSSEC_INVALID,
                    reason=answer.failure.slug,
                    detail=f"the TLSA records of {candidate} could not be looked up: {answer.failure.detail}",
                )
                return self._policy(destination, candidate, problem=failure)
            if answer.status is Status.SECURE:
                return self._bind(destination, mx, candidate, answer)
        return self._required(destination, mx.name, "no-tlsa-records" if candidates else "insecure-address")

    @hookimpl
    async def verify_tls(self, policy: TlsPolicy, peer: TlsPeer) -> Verdict | None:
        """Judge a handshake by the records of one of our own policies."""
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

    def _bind(self, destination: Destination, mx: MxHost, candidate: Domain, answer: Answer) -> TlsPolicy | None:
        published = tlsa.of_rdata(answer.records)
        evidence = tuple(str(record) for record in published)
        records = tlsa.usable(published)
        insecure_mx = destination.from_mx and destination.security is not Security.SECURE
        if destination.domain in self.config.mandatory and (insecure_mx or not records):
            return self._required(destination, candidate, "insecure-mx" if insecure_mx else "all-unusable-records")
        unusable = Failure(
            result_type=ResultType.TLSA_INVALID,
            reason="all-unusable-records",
            detail="; ".join(dict.fromkeys(tlsa.unusable(record) for record in published))[:300],
        )
        return self._policy(
            destination,
            candidate,
            # Whoever forged the MX records chose the host, so its TLSA records prove nothing of the next-hop domain.
            authenticates=bool(records) and not insecure_mx,
            evidence=evidence,
            data=Binding(records=records, names=base.reference_names(destination, mx, candidate)),
            notes=() if records else (unusable,),
        )

    def _required(self, destination: Destination, domain: Domain, reason: str) -> TlsPolicy | None:
        """The policy of a host that DANE says nothing usable about: none, unless DANE is mandatory."""
        if destination.domain not in self.config.mandatory:
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
            mode=Mode.TESTING if destination.domain in self.config.audit_only else Mode.ENFORCE,
            domain=domain,
            scope=Scope.HOST,
            authenticates=authenticates,
            server_name=domain,
            evidence=evidence,
            data=data,
            problem=problem,
            notes=notes,
        )

    def _resolver_will_do(self) -> bool:
        """Whether answers of the resolver can be secure at all; if not, say so, once."""
        if self.core.dns.validating is not False:
            return True
        if not self._told:
            self._told = True
            self.core.log.error("DANE is off: the resolver does not validate DNSSEC", problems=list(self.core.dns.problems))
        return False
