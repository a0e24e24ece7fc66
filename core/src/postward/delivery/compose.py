"""The decisions of a delivery, as pure functions of policies and verdicts.

Core knows no policy. It knows that policies compose: a connection may be used when every enforcing policy that applies to it
was satisfied, whoever issued it. So MTA-STS can never override a failing DANE (RFC 8461 §2), a policy in testing mode is
recorded and never enforced (RFC 8461 §5), and a policy of a third party composes for free.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from postward.model import PASSED, Failure, Mode, MxHost, PolicyResult, ResultType, TlsPolicy, TlsWish, Verdict
from postward.names import Domain
from postward.tls import pattern_matches

NO_POLICY = "no-policy-found"

Judged = Sequence[tuple[TlsPolicy, Verdict]]


def may_proceed(verdicts: Iterable[tuple[TlsPolicy, Verdict]]) -> bool:
    """Whether mail may go over a connection: every enforcing policy passed (RFC 8461 §4, RFC 7672 §2.2)."""
    return all(verdict.passed for policy, verdict in verdicts if policy.mode is Mode.ENFORCE)


def acting(policies: Iterable[TlsPolicy]) -> list[TlsPolicy]:
    """The policies that say something: in mode `none` only one that could not be had, for the record (RFC 8461 §5)."""
    return [policy for policy in policies if policy.mode is not Mode.NONE or policy.problem is not None]


def prior_verdict(policy: TlsPolicy, host: Domain) -> Verdict | None:
    """The verdict that stands before any connection: the policy could not be had, or does not name the host (RFC 8461 §4.1)."""
    if policy.problem is not None:
        return Verdict(passed=False, failure=policy.problem)
    if policy.mx_patterns and not any(pattern_matches(pattern, host) for pattern in policy.mx_patterns):
        reason = f"{policy.kind}-policy-mx-mismatch"
        return Verdict.fail(ResultType.VALIDATION_FAILURE, reason, f"the policy does not name {host}")
    return None


def exclusions(policies: Sequence[TlsPolicy], host: Domain) -> list[tuple[TlsPolicy, Verdict]]:
    """All verdicts that stand before dialling, if one of them is that of an enforcing policy and so rules the host out.

    It is ruled out when its turn has come, like a host that cannot be reached, and not before (RFC 8461 §5.1, §8.4).
    """
    verdicts = [(policy, prior_verdict(policy, host)) for policy in policies]
    known = [(policy, verdict) for policy, verdict in verdicts if verdict is not None]
    return [] if may_proceed(known) else known


def needs_tls(policies: Sequence[TlsPolicy], wish: TlsWish, *, always: bool, insists: bool) -> bool:
    """Whether plaintext is out of the question. `TLS-Required: No` overrules all.

    `always` is the operator's own minimum; `insists` says that the message must not go without REQUIRETLS.
    """
    if wish is TlsWish.IGNORE:
        return False
    bound = any(policy.requires_tls for policy in policies if policy.mode is Mode.ENFORCE)
    return insists or always or bound


def server_name(policies: Sequence[TlsPolicy], mx: MxHost) -> Domain:
    """The SNI to send: the first a policy asks for, such as the TLSA base domain (RFC 7672 §8.1), else the MX host name
    (RFC 8461 §7.1)."""
    wanted = (policy.server_name for policy in policies if policy.problem is None)
    return next((name for name in wanted if name is not None), mx.name)


def without_tls(policies: Sequence[TlsPolicy], host: Domain, failure: Failure) -> list[tuple[TlsPolicy, Verdict]]:
    """The verdicts of a session that has no TLS, or whose TLS broke with `failure`."""
    failed = Verdict(passed=False, failure=failure)
    return [(policy, prior_verdict(policy, host) or (failed if policy.requires_tls else PASSED)) for policy in policies]


def no_policy(domain: Domain) -> TlsPolicy:
    """What stands where nothing applied: any TLS is a success, its absence a failure that nobody minds (RFC 8460 §4.3)."""
    return TlsPolicy(kind=NO_POLICY, mode=Mode.NONE, domain=domain, authenticates=False)


def authenticated(verdicts: Judged, *, secure_mx: bool, pkix: Verdict | None) -> bool:
    """Whether the server is proven as REQUIRETLS demands (RFC 8689 §2, §4.2.1).

    The host name must come from DNSSEC or from an enforced policy of the domain, and the certificate must have been
    verified by WebPKI or by a policy. Policies that require TLS without proving anything do not count (erratum 7705).
    """
    proven = [policy for policy, verdict in verdicts if policy.mode is Mode.ENFORCE and policy.authenticates and verdict.passed]
    return bool(proven) or (secure_mx and pkix is not None and pkix.passed)


def policy_results(verdicts: Judged) -> tuple[PolicyResult, ...]:
    """Policies and verdicts in the form that is journalled and printed."""
    return tuple(
        PolicyResult(
            kind=policy.kind,
            mode=policy.mode,
            domain=policy.domain,
            passed=verdict.passed,
            failure=verdict.failure,
            notes=policy.notes,
            source=policy.source,
            scope=policy.scope,
            mx_patterns=policy.mx_patterns,
            evidence=policy.evidence,
        )
        for policy, verdict in verdicts
    )


def stand_in(plugin: str, domain: Domain, detail: str) -> TlsPolicy:
    """What stands for the policy of a plugin that failed and must not be skipped: it cannot be satisfied."""
    failure = Failure(result_type=ResultType.VALIDATION_FAILURE, reason="policy-evaluation-failed", detail=detail)
    return TlsPolicy(kind=f"x-{plugin}", mode=Mode.ENFORCE, domain=domain, source=plugin, problem=failure)
