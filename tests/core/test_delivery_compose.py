"""The one decision: every enforcing policy must pass, and nothing else counts."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from postward.delivery.compose import (
    acting,
    authenticated,
    exclusions,
    may_proceed,
    needs_tls,
    no_policy,
    policy_results,
    prior_verdict,
    server_name,
    without_tls,
)
from postward.model import PASSED, Failure, Mode, MxHost, ResultType, Scope, TlsPolicy, TlsWish, Verdict
from postward.names import Domain

DOMAIN, HOST = Domain("example.test"), Domain("mx1.example.test")
FAILED = Verdict.fail(ResultType.CERTIFICATE_EXPIRED)
PROBLEM = Failure(result_type=ResultType.DNSSEC_INVALID, reason="extended-dns-error-6-dnssec-bogus")


def policy(mode: Mode = Mode.ENFORCE, **more: object) -> TlsPolicy:
    return TlsPolicy(kind="sts", mode=mode, domain=DOMAIN, **more)  # type: ignore[arg-type]


modes = st.sampled_from(list(Mode))
verdicts = st.lists(st.tuples(modes.map(policy), st.sampled_from([PASSED, FAILED])), max_size=6)


@given(verdicts)
def test_proceeds_exactly_when_no_enforcing_policy_failed(judged: list[tuple[TlsPolicy, Verdict]]) -> None:
    failed = [each for each, verdict in judged if each.mode is Mode.ENFORCE and not verdict.passed]
    assert may_proceed(judged) is (not failed)


@given(verdicts, st.integers(0, 5))
def test_a_passing_policy_never_overrides_a_failing_one(judged: list[tuple[TlsPolicy, Verdict]], at: int) -> None:
    """RFC 8461 §2: MTA-STS must not override a failing DANE, and nothing else may either."""
    before = may_proceed(judged)
    judged.insert(at, (policy(Mode.ENFORCE), PASSED))
    assert may_proceed(judged) is before


def test_a_policy_that_could_not_be_had_excludes_only_where_it_enforces() -> None:
    for mode in Mode:
        found = exclusions([policy(mode, problem=PROBLEM)], HOST)
        assert bool(found) is (mode is Mode.ENFORCE)
        assert all(verdict.failure == PROBLEM for _, verdict in found)


def test_a_host_that_no_pattern_names_is_excluded_with_its_own_reason() -> None:
    (found,) = exclusions([policy(mx_patterns=("mx2.example.test", "*.other.test"))], HOST)
    assert found[1].failure is not None
    assert (found[1].failure.result_type, found[1].failure.reason) == (
        ResultType.VALIDATION_FAILURE,
        "sts-policy-mx-mismatch",
    )


def test_the_host_dialled_is_what_patterns_are_matched_with() -> None:
    """RFC 8461 §4.1: `*` stands for exactly one label."""
    assert prior_verdict(policy(mx_patterns=("*.example.test",)), HOST) is None
    assert prior_verdict(policy(mx_patterns=("*.example.test",)), Domain("a.mx1.example.test")) is not None
    assert prior_verdict(policy(mx_patterns=("*.example.test",)), DOMAIN) is not None


def test_testing_mode_is_recorded_and_never_excludes() -> None:
    """RFC 8461 §5."""
    testing = policy(Mode.TESTING, mx_patterns=("other.test",))
    assert exclusions([testing], HOST) == []
    assert prior_verdict(testing, HOST) is not None


def test_mode_none_counts_as_no_policy_unless_it_has_something_to_tell() -> None:
    told = policy(Mode.NONE, problem=PROBLEM)
    assert acting([policy(Mode.NONE), told, policy(Mode.TESTING)]) == [told, policy(Mode.TESTING)]


def test_plaintext_is_refused_where_a_policy_a_wish_or_the_operator_says_so() -> None:
    testing, loose = policy(Mode.TESTING), policy(requires_tls=False)
    assert needs_tls([policy()], TlsWish.FOLLOW, always=False, insists=False)
    assert not needs_tls([testing, loose], TlsWish.FOLLOW, always=False, insists=False)
    assert needs_tls([], TlsWish.REQUIRE, always=False, insists=True)
    assert not needs_tls([], TlsWish.REQUIRE, always=False, insists=False), "a bounce (RFC 8689 §5)"
    assert needs_tls([], TlsWish.FOLLOW, always=True, insists=False)
    assert not needs_tls([policy()], TlsWish.IGNORE, always=True, insists=False), "TLS-Required: No (RFC 8689 §4.2.2)"


def test_sni_is_the_base_domain_of_a_usable_host_policy() -> None:
    """RFC 7672 §8.1; a policy that could not be had has no say."""
    base = Domain("mx.expanded.test")
    host = MxHost(name=HOST)
    assert server_name([policy()], host) == HOST
    assert server_name([policy(), policy(scope=Scope.HOST, server_name=base)], host) == base
    assert server_name([policy(server_name=base, problem=PROBLEM)], host) == HOST


def test_without_tls_every_policy_that_wants_it_fails_with_the_cause() -> None:
    missing = Failure(result_type=ResultType.STARTTLS_NOT_SUPPORTED)
    judged = without_tls([policy(), policy(requires_tls=False), no_policy(DOMAIN)], HOST, missing)
    assert [verdict.passed for _, verdict in judged] == [False, True, False]
    assert judged[0][1].failure == missing


def test_requiretls_wants_a_proven_server() -> None:
    """RFC 8689 §2, §4.2.1, erratum 7705."""
    assert authenticated([(policy(), PASSED)], secure_mx=False, pkix=None)
    assert not authenticated([(policy(Mode.TESTING), PASSED)], secure_mx=False, pkix=PASSED)
    assert not authenticated([(policy(authenticates=False), PASSED)], secure_mx=False, pkix=PASSED)
    assert authenticated([], secure_mx=True, pkix=PASSED)
    assert not authenticated([], secure_mx=True, pkix=FAILED)


def test_results_keep_what_reports_need() -> None:
    note = Failure(result_type=ResultType.STS_POLICY_FETCH_ERROR, reason="timeout+fallback-to-cached-policy")
    given_policy = policy(evidence=("version: STSv1",), mx_patterns=("a.test",), notes=(note,), source="mtasts")
    (result,) = policy_results([(given_policy, FAILED)])
    assert (result.evidence, result.mx_patterns, result.notes) == (("version: STSv1",), ("a.test",), (note,))
    assert (result.passed, result.failure, result.source) == (False, FAILED.failure, "mtasts")
