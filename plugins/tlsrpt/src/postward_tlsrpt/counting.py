"""From results to counters: what one TLS session adds to which policy (RFC 8460 §4.2, §4.3).

A session is a success under a policy that it complied with and a failure under one that it did not, in testing mode too. Where
there was no policy, any TLS is a success. Each policy of a session is counted by itself, so for each of them successes and
failures add up to the sessions.
"""

from __future__ import annotations

import hashlib
import ipaddress
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Final, NamedTuple, TypeVar

import msgspec

from postward.model import Failure, JournalEntry, PolicyResult, ResultType, TlsResult
from postward_tlsrpt.report import NO_POLICY, POLICY_TYPES, FailureDetail, Policy

# The policy host failed, not the mail host: its addresses would mislead (RFC 8460 §4.3.2.2).
_ABOUT_POLICY: Final = frozenset(
    {ResultType.STS_POLICY_FETCH_ERROR, ResultType.STS_POLICY_INVALID, ResultType.STS_WEBPKI_INVALID}
)
_MAX_HELO: Final = 255
_MAX_REASON: Final = 200
_Key = TypeVar("_Key")


class SessionKey(NamedTuple):
    """One row of counters: a policy, by the identity of all that a report says of it, for a recipient domain and UTC day."""

    recipient_domain: str
    day: str
    policy_id: str


class DetailKey(NamedTuple):
    """One kind of failure under a policy; `detail` is the canonical JSON of `FailureDetail` with count 0."""

    session: SessionKey
    detail: str


@dataclass(slots=True)
class Counts:
    """What a batch adds: sessions, failures in detail, and the policies by their identity."""

    successes: Counter[SessionKey] = field(default_factory=Counter)
    failures: Counter[SessionKey] = field(default_factory=Counter)
    details: Counter[DetailKey] = field(default_factory=Counter)
    policies: dict[str, PolicyIdentity] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class PolicyIdentity:
    """A policy as reports show it: `digest` is the SHA-256 of `text`, its canonical JSON."""

    digest: str
    text: str
    domain: str


def count(entries: Iterable[JournalEntry], *, pkix_details: bool = False) -> Counts:
    """What journal entries add. Sessions that carried a report are left out (RFC 8460 §3), as are results of messages.

    With `pkix_details`, a session without any policy whose certificate WebPKI does not accept gets a detail line; it stays a
    success.
    """
    counts = Counts()
    for entry in entries:
        result = entry.result
        if not isinstance(result, TlsResult) or result.is_report or result.domain.is_literal:
            continue
        for policy in result.policies:
            if policy.kind in POLICY_TYPES:
                _count_policy(counts, result, policy, entry.count, pkix_details)
    return counts


def identity(policy: PolicyResult) -> PolicyIdentity:
    """The identity of a policy: type, policy-string, domain and hosts. Policies that change during a day are several."""
    return _identity(policy.kind, policy.evidence, policy.domain, policy.mx_patterns if policy.kind == "sts" else ())


@lru_cache(maxsize=16_384)
def _identity(kind: str, evidence: tuple[str, ...], domain: str, mx_host: tuple[str, ...]) -> PolicyIdentity:
    # `Domain` is a string to Python and not to msgspec.
    strings, hosts = tuple(map(str, evidence)), tuple(map(str, mx_host))
    policy = Policy(policy_type=kind, policy_string=strings, policy_domain=str(domain), mx_host=hosts)
    text = msgspec.json.encode(policy)
    return PolicyIdentity(hashlib.sha256(text).hexdigest(), text.decode(), policy.policy_domain)


def _count_policy(counts: Counts, result: TlsResult, policy: PolicyResult, number: int, pkix_details: bool) -> None:
    known = identity(policy)
    key = SessionKey(result.domain, result.day, known.digest)
    counts.policies[known.digest] = known
    unbound = policy.kind == NO_POLICY
    passed = policy.passed or (unbound and bool(result.protocol))
    _add(counts.successes if passed else counts.failures, key, number)
    if passed and not policy.notes and not (unbound and pkix_details):
        return
    failures = list(policy.notes)
    if not passed:
        failures.insert(0, policy.failure or Failure(result_type=ResultType.VALIDATION_FAILURE))
    elif unbound and pkix_details and result.pkix is not None and result.pkix.failure is not None:
        failures.append(result.pkix.failure)
    for detail in dict.fromkeys(_detail(result, failure) for failure in failures):
        _add(counts.details, DetailKey(key, detail), number)


def _add(counter: Counter[_Key], key: _Key, number: int) -> None:
    # `+=` would ask `Counter.__missing__`, in Python, for each new key.
    counter[key] = counter.get(key, 0) + number


def _detail(result: TlsResult, failure: Failure) -> str:
    reason = failure.reason[:_MAX_REASON]
    if failure.result_type in _ABOUT_POLICY:
        detail = FailureDetail(result_type=failure.result_type.value, failure_reason_code=reason)
    else:
        detail = FailureDetail(
            result_type=failure.result_type.value,
            sending_mta_ip=_plain_ip(result.sending_ip),
            receiving_mx_hostname=str(result.host or ""),
            receiving_mx_helo=result.receiving_helo[:_MAX_HELO],
            receiving_ip=_plain_ip(result.receiving_ip),
            failure_reason_code=reason,
        )
    return msgspec.json.encode(detail).decode()


@lru_cache(maxsize=4096)
def _plain_ip(text: str) -> str:
    """Dotted IPv4, or IPv6 in the form of RFC 5952 without a zone; empty for what is no address.

    A socket for both kinds shows IPv4 as `::ffff:…`.
    """
    try:
        address = ipaddress.ip_address(text.partition("%")[0])
    except ValueError:
        return ""
    return str(getattr(address, "ipv4_mapped", None) or address)
