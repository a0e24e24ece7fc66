"""What one session adds to the counters (RFC 8460 §4.2, §4.3, §3)."""

import hashlib
import json
from collections import Counter
from dataclasses import replace
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from postward.model import (
    Failure,
    JournalEntry,
    MessageResult,
    Mode,
    PolicyResult,
    ResultType,
    TlsResult,
    Verdict,
)
from postward.names import Domain
from postward_tlsrpt.counting import Counts, count, identity
from postward_tlsrpt.report import FailureDetail

DAY = "2026-11-24"
STS = PolicyResult(
    kind="sts",
    mode=Mode.ENFORCE,
    domain=Domain("b.example"),
    passed=True,
    mx_patterns=("*.b.example",),
    evidence=("version: STSv1", "mode: enforce"),
)
TLSA = PolicyResult(
    kind="tlsa", mode=Mode.ENFORCE, domain=Domain("mx.b.example"), passed=True, evidence=("3 1 1 " + "ab" * 32,)
)
NONE = PolicyResult(kind="no-policy-found", mode=Mode.NONE, domain=Domain("b.example"), passed=True)


def failed(policy: PolicyResult, kind: ResultType = ResultType.CERTIFICATE_EXPIRED, reason: str = "") -> PolicyResult:
    return replace(policy, passed=False, failure=Failure(result_type=kind, reason=reason))


def result(*policies: PolicyResult, **changes: Any) -> TlsResult:
    values: dict[str, Any] = {
        "day": DAY,
        "domain": Domain("b.example"),
        "host": Domain("mx.b.example"),
        "policies": policies,
        "sending_ip": "192.0.2.1",
        "receiving_ip": "2001:db8:0::25",
        "receiving_helo": "mx.b.example",
        "protocol": "TLSv1.3",
        "cipher": "TLS_AES_128_GCM_SHA256",
    }
    return TlsResult(**(values | changes))


def counted(*results: TlsResult | MessageResult, number: int = 1, **options: bool) -> Counts:
    entries = [JournalEntry(sequence=n, count=number, result=each) for n, each in enumerate(results, 1)]
    return count(entries, **options)


def sessions(counts: Counts) -> dict[str, tuple[int, int]]:
    """Policy type to successes and failures."""
    keys = counts.successes.keys() | counts.failures.keys()
    types = {key: json.loads(counts.policies[key.policy_id].text)["policy-type"] for key in keys}
    return {types[key]: (counts.successes[key], counts.failures[key]) for key in keys}


def details(counts: Counts) -> list[dict[str, Any]]:
    return [json.loads(key.detail) | {"n": number} for key, number in counts.details.items()]


def test_each_policy_of_a_session_is_counted_by_itself() -> None:
    """§4: one session may appear under several policies."""
    assert sessions(counted(result(STS, failed(TLSA)), number=3)) == {"sts": (3, 0), "tlsa": (0, 3)}


def test_a_testing_policy_that_was_not_met_is_a_failure() -> None:
    """§4.2.2: also when the mail was delivered."""
    assert sessions(counted(result(replace(failed(STS), mode=Mode.TESTING)))) == {"sts": (0, 1)}


def test_without_a_policy_any_tls_is_a_success() -> None:
    assert sessions(counted(result(NONE))) == {"no-policy-found": (1, 0)}
    untrusted = failed(NONE, ResultType.CERTIFICATE_NOT_TRUSTED)
    assert sessions(counted(result(untrusted))) == {"no-policy-found": (1, 0)}
    assert details(counted(result(untrusted))) == []
    in_clear = result(failed(NONE, ResultType.STARTTLS_NOT_SUPPORTED), protocol="", cipher="")
    assert sessions(counted(in_clear)) == {"no-policy-found": (0, 1)}
    assert [line["result-type"] for line in details(counted(in_clear))] == ["starttls-not-supported"]


def test_a_detail_tells_the_circumstances() -> None:
    """§4.4; IPv6 in the form of RFC 5952."""
    (line,) = details(counted(result(failed(STS, reason="why")), number=2))
    assert line == {
        "result-type": "certificate-expired",
        "sending-mta-ip": "192.0.2.1",
        "receiving-mx-hostname": "mx.b.example",
        "receiving-mx-helo": "mx.b.example",
        "receiving-ip": "2001:db8::25",
        "failure-reason-code": "why",
        "n": 2,
    }


def test_ipv4_on_a_socket_for_both_kinds_is_ipv4() -> None:
    (line,) = details(counted(result(failed(STS), sending_ip="::ffff:192.0.2.1", receiving_ip="::FFFF:192.0.2.25")))
    assert (line["sending-mta-ip"], line["receiving-ip"]) == ("192.0.2.1", "192.0.2.25")


def test_what_was_not_known_before_a_connection_is_left_out() -> None:
    excluded = result(
        failed(STS, ResultType.VALIDATION_FAILURE), sending_ip="", receiving_ip="", receiving_helo="", protocol=""
    )
    (line,) = details(counted(excluded))
    assert line == {"result-type": "validation-failure", "receiving-mx-hostname": "mx.b.example", "n": 1}


@pytest.mark.parametrize(
    "kind", [ResultType.STS_POLICY_FETCH_ERROR, ResultType.STS_POLICY_INVALID, ResultType.STS_WEBPKI_INVALID]
)
def test_a_failure_of_the_policy_host_is_not_blamed_on_the_mail_host(kind: ResultType) -> None:
    (line,) = details(counted(result(failed(STS, kind, "timeout"))))
    assert line == {"result-type": kind.value, "failure-reason-code": "timeout", "n": 1}


def test_a_failure_without_a_reason_is_a_validation_failure() -> None:
    (line,) = details(counted(result(replace(STS, passed=False))))
    assert line["result-type"] == "validation-failure"


def test_every_note_adds_a_line_and_changes_no_count() -> None:
    """RFC 8461 §6: a cached policy acted because a newer one could not be had."""
    note = Failure(result_type=ResultType.STS_POLICY_FETCH_ERROR, reason="timeout+fallback-to-cached-policy")
    counts = counted(result(replace(STS, notes=(note,))))
    assert sessions(counts) == {"sts": (1, 0)}
    assert [line["failure-reason-code"] for line in details(counts)] == [note.reason]
    counts = counted(result(replace(failed(STS), notes=(note, note))))
    assert sessions(counts) == {"sts": (0, 1)}
    assert [line["n"] for line in details(counts)] == [1, 1]


def test_pkix_is_told_only_on_demand() -> None:
    """Under no-policy-found a certificate that WebPKI refuses stays a success."""
    untrusted = result(NONE, pkix=Verdict.fail(ResultType.CERTIFICATE_NOT_TRUSTED))
    assert details(counted(untrusted)) == []
    counts = counted(untrusted, pkix_details=True)
    assert sessions(counts) == {"no-policy-found": (1, 0)}
    assert [line["result-type"] for line in details(counts)] == ["certificate-not-trusted"]
    assert details(counted(result(STS, pkix=Verdict.fail(ResultType.CERTIFICATE_NOT_TRUSTED)), pkix_details=True)) == []


def test_what_is_not_counted() -> None:
    """§3: sessions that carried a report; literals; policies without a type in the RFC; results of messages."""
    counts = counted(
        result(STS, is_report=True),
        result(NONE, domain=Domain("[192.0.2.1]")),
        result(replace(STS, kind="x-local")),
        MessageResult(day=DAY, kind="dmarc", data="{}"),
    )
    assert counts == Counts()


def test_the_identity_is_all_that_a_report_says_of_a_policy() -> None:
    """§4.5: a policy that changed during the day is another one; mode and verdict are not part of it."""
    same = identity(STS)
    assert same == identity(replace(failed(STS), mode=Mode.TESTING, notes=(Failure(result_type=ResultType.TLSA_INVALID),)))
    assert same.digest == hashlib.sha256(same.text.encode()).hexdigest()
    assert json.loads(same.text) == {
        "policy-type": "sts",
        "policy-string": ["version: STSv1", "mode: enforce"],
        "policy-domain": "b.example",
        "mx-host": ["*.b.example"],
    }
    others = [
        replace(STS, evidence=("version: STSv1", "mode: testing")),
        replace(STS, evidence=("version: STSv1mode: enforce",)),
        replace(STS, domain=Domain("c.example")),
        replace(STS, mx_patterns=("mx.b.example",)),
        replace(STS, kind="tlsa"),
    ]
    assert len({same.digest, *(identity(other).digest for other in others)}) == 6
    assert "mx-host" not in json.loads(identity(replace(TLSA, mx_patterns=("x.example",))).text)


def test_hostile_text_stays_bounded_and_valid() -> None:
    """HELO and reason come from the other side."""
    counts = counted(result(failed(STS, reason="r" * 10_000), receiving_helo='h"\\\0\n' * 10_000, sending_ip="fe80::1%eth0"))
    (line,) = details(counts)
    assert len(line["receiving-mx-helo"]) == 255
    assert len(line["failure-reason-code"]) == 200
    assert line["sending-mta-ip"] == "fe80::1"
    assert "\0" not in next(iter(counts.details)).detail


POLICY = st.builds(
    lambda policy, good, kind, notes: replace(
        policy,
        passed=good,
        failure=None if good else Failure(result_type=kind),
        notes=tuple(Failure(result_type=note) for note in notes),
    ),
    st.sampled_from([STS, TLSA, NONE, replace(STS, evidence=("mode: testing",))]),
    st.booleans(),
    st.sampled_from(list(ResultType)),
    st.lists(st.sampled_from(list(ResultType)), max_size=2),
)
RESULT = st.builds(
    lambda policies, domain, day, protocol: result(*policies, domain=domain, day=day, protocol=protocol),
    st.lists(POLICY, max_size=3, unique_by=lambda policy: (policy.kind, policy.evidence)),
    st.sampled_from([Domain("b.example"), Domain("c.example")]),
    st.sampled_from([DAY, "2026-11-25"]),
    st.sampled_from(["", "TLSv1.3"]),
)


@given(st.lists(st.tuples(RESULT, st.integers(1, 1000)), max_size=20))
def test_successes_and_failures_add_up_to_the_sessions(results: list[tuple[TlsResult, int]]) -> None:
    """§4.2: whatever happened, each policy of each session is counted exactly once."""
    expected: Counter[tuple[str, str, str]] = Counter()
    for each, number in results:
        for policy in each.policies:
            expected[str(each.domain), each.day, identity(policy).digest] += number
    counts = count([JournalEntry(sequence=n, count=number, result=each) for n, (each, number) in enumerate(results, 1)])
    total: Counter[tuple[str, str, str]] = Counter()
    for counter in (counts.successes, counts.failures):
        for key, number in counter.items():
            total[key.recipient_domain, key.day, key.policy_id] += number
    assert total == expected
    assert {key.session.policy_id for key in counts.details} <= counts.policies.keys()
    for key, number in counts.details.items():
        assert number <= total[key.session.recipient_domain, key.session.day, key.session.policy_id]
        assert msgspec.json.decode(key.detail, type=FailureDetail).failed_session_count == 0
