"""What a sender with DANE sees of a domain: its mail hosts, their records, and what the records make of their certificates.

Plain data and what follows from it; `survey` looks.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from postward.model import Failure, Security, Verdict
from postward.names import Domain
from postward_dane.pem import Described
from postward_dane.tlsa import TlsaRecord


@dataclass(frozen=True, slots=True, kw_only=True)
class SeenRecord:
    """One record. `why` says why it is not used, "" when it is; `verdict` is what it alone makes of the server's chain, None
    where there is no chain or it is not used."""

    record: TlsaRecord
    why: str = ""
    verdict: Verdict | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class SeenHost:
    """One mail host.

    `error` says why it could not be looked up at all. `addresses_security` is None then. `asked`: a sender asks for its
    records; with unsigned addresses none does (RFC 7672 §2.2.2). `base` is the TLSA base domain that decided, None without
    one; `tlsa` the state of its records, `secure`, `insecure`, `absent` or `failed`, "" where there can be none. `ttl` is
    seconds, as long as the resolver still keeps them. `unreachable` says why no certificate was seen,
    "" when one was, or when nobody connected; `chain` is what the server sent, `verdict` what all records make of it.
    """

    name: Domain
    preference: int
    error: str = ""
    failure: Failure | None = None
    addresses: tuple[str, ...] = ()
    addresses_security: Security | None = None
    canonical: Domain | None = None
    asked: bool = False
    base: Domain | None = None
    tlsa: str = ""
    tlsa_failure: str = ""
    ttl: int = 0
    records: tuple[SeenRecord, ...] = ()
    unreachable: str = ""
    address: str = ""
    protocol: str = ""
    cipher: str = ""
    chain: tuple[bytes, ...] = ()
    certificate: Described | None = None
    verdict: Verdict | None = None

    @property
    def usable(self) -> tuple[SeenRecord, ...]:
        """The records that are used."""
        return tuple(each for each in self.records if not each.why)

    @property
    def binds(self) -> bool:
        """Whether a sender with DANE insists on a matching certificate here."""
        return self.asked and self.tlsa == "secure" and bool(self.usable)


@dataclass(frozen=True, slots=True, kw_only=True)
class Survey:
    """A domain. `error` says why it has no hosts; `mx_security` is None then. `port` is that of the hosts."""

    domain: Domain
    port: int
    validating: bool | None
    problems: tuple[str, ...]
    error: str = ""
    mx_security: Security | None = None
    from_mx: bool = True
    hosts: tuple[SeenHost, ...] = ()


def to_json(survey: Survey) -> dict[str, Any]:
    """What `postward dane check --json` prints, but for the findings."""
    return {
        "domain": survey.domain,
        "port": survey.port,
        "resolver": {"validating": survey.validating, "problems": list(survey.problems)},
        "error": survey.error or None,
        "mx": {"security": survey.mx_security, "implicit": not survey.from_mx},
        "hosts": [_host(host) for host in survey.hosts],
    }


def _host(host: SeenHost) -> dict[str, Any]:
    return {
        "host": host.name,
        "preference": host.preference,
        "error": host.error or None,
        "addresses": {"security": host.addresses_security, "found": list(host.addresses), "canonical": host.canonical},
        "tlsa": {
            "asked": host.asked,
            "base": host.base,
            "state": host.tlsa or None,
            "failure": host.tlsa_failure or None,
            "ttl": host.ttl,
            "records": [_record(each) for each in host.records],
        },
        "tls": {"protocol": host.protocol, "cipher": host.cipher, "address": host.address} if host.chain else None,
        "unreachable": host.unreachable or None,
        "certificate": None if host.certificate is None else host.certificate.to_json(),
        "verdict": _verdict(host.verdict),
    }


def _record(each: SeenRecord) -> dict[str, Any]:
    return {"record": str(each.record), "usable": not each.why, "why": each.why or None, "verdict": _verdict(each.verdict)}


def _verdict(verdict: Verdict | None) -> dict[str, Any] | None:
    if verdict is None:
        return None
    failure = verdict.failure
    return {
        "passed": verdict.passed,
        "result_type": failure.result_type.value if failure else None,
        "reason": failure.reason if failure else None,
        "detail": failure.detail if failure else None,
    }
