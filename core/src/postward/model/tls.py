"""Destinations, policies, verdicts and results: what is decided about one TLS session."""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any

from postward.names import Domain


class ResultType(StrEnum):
    """The failure types of a TLS report: the complete registry (RFC 8460 §4.3, §6.6)."""

    STARTTLS_NOT_SUPPORTED = "starttls-not-supported"
    CERTIFICATE_HOST_MISMATCH = "certificate-host-mismatch"
    CERTIFICATE_EXPIRED = "certificate-expired"
    CERTIFICATE_NOT_TRUSTED = "certificate-not-trusted"
    VALIDATION_FAILURE = "validation-failure"
    TLSA_INVALID = "tlsa-invalid"
    DNSSEC_INVALID = "dnssec-invalid"
    DANE_REQUIRED = "dane-required"
    STS_POLICY_FETCH_ERROR = "sts-policy-fetch-error"
    STS_POLICY_INVALID = "sts-policy-invalid"
    STS_WEBPKI_INVALID = "sts-webpki-invalid"


class Security(StrEnum):
    """What DNSSEC says of data that exists. Trust in the resolver is already part of it (RFC 4035 §4.3, RFC 6698 §4.1)."""

    SECURE = "secure"
    INSECURE = "insecure"


class Mode(StrEnum):
    """How a policy acts: it binds, it is only recorded, or it says nothing (RFC 8461 §5)."""

    ENFORCE = "enforce"
    TESTING = "testing"
    NONE = "none"


class Scope(StrEnum):
    """What a policy is about: a next-hop domain (MTA-STS), or one MX host (DANE)."""

    DOMAIN = "domain"
    HOST = "host"


class TlsWish(StrEnum):
    """What the message itself asks of TLS: follow the policies, REQUIRETLS, or `TLS-Required: No` (RFC 8689)."""

    FOLLOW = "follow"
    REQUIRE = "require"
    IGNORE = "ignore"


@dataclass(frozen=True, slots=True, kw_only=True)
class Failure:
    """Why something did not hold, in the terms of a TLS report.

    `reason` is a short slug for `failure-reason-code` (RFC 8460 §4.4), such as `tls-remote-alert-70-protocol-version`;
    `detail` is one line for people and logs, never sent in a report.
    """

    result_type: ResultType
    reason: str = ""
    detail: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Verdict:
    """Whether a server satisfied one policy. `failure` says why not, and is None when it did."""

    passed: bool
    failure: Failure | None = None

    @classmethod
    def fail(cls, result_type: ResultType, reason: str = "", detail: str = "") -> Verdict:
        """A failed verdict with its reason."""
        return cls(passed=False, failure=Failure(result_type=result_type, reason=reason, detail=detail))


PASSED = Verdict(passed=True)


@dataclass(frozen=True, slots=True, kw_only=True)
class MxHost:
    """One host that accepts mail for a destination.

    Before `host_policy` is asked, core has resolved the addresses (RFC 7672 §2.2.2): `security` is that of the whole
    address answer with its CNAMEs; `canonical` is the name at their end, equal to `name` without CNAME;
    `alias_security` is that of the first CNAME alone, None without CNAME. `preference` is -1 for an implicit MX.
    """

    name: Domain
    preference: int = 0
    security: Security = Security.INSECURE
    addresses: tuple[str, ...] = ()
    canonical: Domain | None = None
    alias_security: Security | None = None
    port: int = 25


@dataclass(frozen=True, slots=True, kw_only=True)
class Destination:
    """A next hop: where mail for `domain` goes, in preference order.

    `domain` is the policy domain: the recipient's, or the smarthost's when local routing chose one (RFC 8461 §3.4).
    `security` is that of the MX answer with its CNAMEs; `canonical` is the name at their end; `from_mx` tells hosts found
    by MX records from an implicit MX, a literal or a smarthost.
    """

    domain: Domain
    hosts: tuple[MxHost, ...]
    security: Security = Security.INSECURE
    canonical: Domain | None = None
    from_mx: bool = True


@dataclass(frozen=True, slots=True, kw_only=True)
class Endpoint:
    """An address to open a stream to. `host` is the name that led here; `purpose` is `smtp` or `https`."""

    host: Domain
    address: str
    port: int
    purpose: str = "smtp"


@dataclass(frozen=True, slots=True, kw_only=True)
class TlsPolicy:
    """What binds a connection, as its issuer understood it.

    - `source`: the issuing plugin; core fills it in.
    - `kind`: `sts`, `tlsa`, or `x-…` for others: the `policy-type` of reports.
    - `domain`: the policy domain; for DANE the TLSA base domain (RFC 8460 §1.1).
    - `requires_tls`: plaintext does not satisfy it. `authenticates`: a passed verdict proves who the server is, which is
      what REQUIRETLS asks for (RFC 8689 §4.2.1).
    - `mx_patterns`: core itself excludes a host that none matches (`*.` stands for one label). Empty: any host.
    - `server_name`: the SNI the policy asks for; None leaves the MX host name.
    - `evidence`: the `policy-string` of reports (RFC 8460 §4.5). `data`: the issuer's own, opaque to core.
    - `problem`: why the policy could not be had. Such a policy counts as failed wherever it acts, without being judged,
      and in mode ENFORCE excludes the host; in mode NONE it is only recorded.
    - `notes`: what deserves a line in a report although the policy can be judged, such as a cached policy that could not
      be renewed.
    """

    kind: str
    mode: Mode
    domain: Domain
    scope: Scope = Scope.DOMAIN
    source: str = ""
    requires_tls: bool = True
    authenticates: bool = True
    mx_patterns: tuple[str, ...] = ()
    server_name: Domain | None = None
    evidence: tuple[str, ...] = ()
    data: Any = field(default=None, compare=False, repr=False)
    problem: Failure | None = None
    notes: tuple[Failure, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class TlsPeer:
    """The other side of a finished, unverified handshake. `chain` is what it sent, DER, leaf first."""

    endpoint: Endpoint
    server_name: Domain
    protocol: str
    cipher: str
    chain: tuple[bytes, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class PolicyResult:
    """One policy and how one session fared under it. `kind` may also be `no-policy-found`."""

    kind: str
    mode: Mode
    domain: Domain
    passed: bool
    failure: Failure | None = None
    notes: tuple[Failure, ...] = ()
    source: str = ""
    scope: Scope = Scope.DOMAIN
    mx_patterns: tuple[str, ...] = ()
    evidence: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class TlsResult:
    """One TLS session, or one host that a policy excluded, under every policy that applied.

    It stands alone, so it may also come from another MTA. Equal results may be stored once with a count, therefore it
    carries the UTC day and no instant. `domain` is the next hop's policy domain; addresses are empty where there was no
    connection. `pkix` is what WebPKI says of the MX host name, for the record. `is_report`: the mail was itself a report,
    so the session is neither counted nor does it cause one (RFC 8460 §3).
    """

    day: str
    domain: Domain
    host: Domain | None
    policies: tuple[PolicyResult, ...]
    sending_ip: str = ""
    receiving_ip: str = ""
    receiving_helo: str = ""
    protocol: str = ""
    cipher: str = ""
    pkix: Verdict | None = None
    is_report: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class MessageResult:
    """What a plugin wants counted of one received message: `kind` names its shape, `data` is canonical JSON of the plugin's.

    Equal results of a day may be stored once with a count.
    """

    day: str
    kind: str
    data: str


@dataclass(frozen=True, slots=True, kw_only=True)
class JournalEntry:
    """A result as the journal holds it: `sequence` grows by entry, `count` says how often it happened."""

    sequence: int
    count: int
    result: TlsResult | MessageResult


@dataclass(frozen=True, slots=True, kw_only=True)
class ResultBatch:
    """Consecutive journal entries of `node` for one `consumer`; sequences are unique per node.

    `core.store.consume(batch, fn)` commits the plugin's writes and its cursor together, so nothing is counted twice.
    """

    node: str
    consumer: str
    entries: tuple[JournalEntry, ...]
