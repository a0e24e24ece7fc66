"""What the lab expects: the rules of a sender, stated a second time and far from the code that keeps them."""

from __future__ import annotations

from dataclasses import replace
from itertools import combinations

import pytest

from postward.lab.case import Case, Certificate, Expectation, Host, expect, named, sts, tlsa
from postward.lab.cases import CASES
from postward.lab.mx import Behaviour
from postward.lab.receive import due, expected_counts
from postward.lab.zones import UNSIGNED, Signing
from postward.model import Mode, ResultType, TlsWish
from postward.names import Domain

BY_NAME = {case.name: case for case in CASES}
UNPLUGGABLE = ("dane", "mtasts", "tlsrpt", "dmarc")


def said(name: str, *without: str) -> str:
    return str(expect(BY_NAME[name], without))


@pytest.mark.parametrize(
    ("name", "without", "expected"),
    [
        ("plain", (), "delivered over TLS; mx.plain.test: no-policy-found none passed"),
        (
            "plain-no-starttls",
            (),
            "delivered in clear; mx.plain-no-starttls.test: no-policy-found none failed starttls-not-supported",
        ),
        # RFC 8461 §4, §5: an enforcing policy holds the mail back, a testing one does not.
        ("sts-wrong-name", (), "deferred; mx.sts-wrong-name.test: sts enforce failed certificate-host-mismatch"),
        ("sts-wrong-name", ("mtasts",), "delivered over TLS; mx.sts-wrong-name.test: no-policy-found none passed"),
        (
            "sts-testing-expired",
            (),
            "delivered over TLS; mx.sts-testing-expired.test: sts testing failed certificate-expired",
        ),
        # RFC 8461 §3.3: what cannot be fetched and is not cached binds nobody.
        ("sts-policy-404", (), "delivered over TLS; mx.sts-policy-404.test: sts none failed sts-policy-fetch-error"),
        # RFC 7672 §2.1.2: a lookup that failed is not an absence; §2.2: all unusable means TLS without authentication.
        ("dane-servfail", (), "deferred; mx.dane-servfail.test: tlsa enforce failed dnssec-invalid"),
        ("dane-servfail", ("dane",), "delivered over TLS; mx.dane-servfail.test: no-policy-found none passed"),
        ("dane-unusable", (), "delivered over TLS; mx.dane-unusable.test: tlsa enforce passed tlsa-invalid"),
        # RFC 8461 §2: MTA-STS must not override DANE, and here not the other way round either.
        (
            "both-dane-fails",
            (),
            "deferred; mx.both-dane-fails.test: sts enforce passed + tlsa enforce failed validation-failure",
        ),
        ("both-dane-fails", ("dane",), "delivered over TLS; mx.both-dane-fails.test: sts enforce passed"),
        ("both-sts-fails", ("mtasts",), "delivered over TLS; mx.both-sts-fails.test: tlsa enforce passed"),
        (
            "sts-second-mx",
            (),
            "delivered over TLS; mx1.sts-second-mx.test: sts enforce failed certificate-host-mismatch; "
            "mx2.sts-second-mx.test: sts enforce passed",
        ),
        ("sts-second-mx", ("mtasts",), "delivered over TLS; mx1.sts-second-mx.test: no-policy-found none passed"),
        ("null-mx", (), "refused"),
        ("bogus-mx", (), "deferred; bogus-mx.test: no-policy-found none failed dnssec-invalid"),
        # RFC 8689 §4.2.1 and §4.1.
        ("requiretls-unproven", (), "refused; mx.requiretls-unproven.test: no-policy-found none passed"),
        ("requiretls-proven", (), "delivered over TLS; mx.requiretls-proven.test: no-policy-found none passed"),
        ("tls-required-no", (), "delivered over TLS; mx.tls-required-no.test: sts enforce failed certificate-expired"),
    ],
)
def test_expectations(name: str, without: tuple[str, ...], expected: str) -> None:
    assert said(name, *without) == expected


def test_unplugging_changes_only_what_depends_on_the_plugin() -> None:
    for size in range(len(UNPLUGGABLE) + 1):
        for without in combinations(UNPLUGGABLE, size):
            for case in CASES:
                changed = str(expect(case, without)) != str(expect(case))
                assert changed == bool(case.plugins & set(without)), (case.name, without)


def test_the_table_is_sound() -> None:
    assert len(BY_NAME) == len(CASES)
    for case in CASES:
        assert Domain(case.domain) == case.domain
        assert case.why
        assert set(case.by) <= {"mail", "https"}
        labels = [host.label for host in case.hosts]
        assert len(set(labels)) == len(labels)
        assert case.hosts or case.null_mx
        assert (
            case.policy is None
            or any(line.plugin == "mtasts" for host in case.hosts for line in host.lines)
            or case.policy.mode is Mode.NONE
        )


def test_the_table_shows_every_result_type() -> None:
    """All of RFC 8460 §4.3 but `dane-required`, which takes a local policy."""
    seen = {line.result_type for case in CASES for session in expect(case).sessions for line in session.lines}
    assert seen - {None} == set(ResultType) - {ResultType.DANE_REQUIRED}


def test_the_table_shows_every_behaviour() -> None:
    """All but the one that would take a minute."""
    assert {host.behaviour for case in CASES for host in case.hosts} == set(Behaviour) - {Behaviour.SILENT}


def test_hosts_are_tried_in_order_until_one_takes_the_mail() -> None:
    hosts = (
        Host(label="a", lines=(tlsa(ResultType.DNSSEC_INVALID),)),
        Host(label="b", behaviour=Behaviour.NO_STARTTLS),
        Host(label="c"),
    )
    result = expect(Case(name="x", why="y", hosts=hosts))
    assert (result.fate, result.arrives) == ("delivered in clear", "b.x.test")
    assert [session.host for session in result.sessions] == ["a.x.test", "b.x.test"]


def test_requiretls_needs_tls_and_proof() -> None:
    """RFC 8689 §4.2.1: refused only when every host falls short."""

    def of(host: Host, signing: Signing = Signing.INSECURE) -> Expectation:
        return expect(Case(name="x", why="y", hosts=(host,), signing=signing, wish=TlsWish.REQUIRE))

    assert of(Host()).fate == "refused"
    assert of(Host(lines=(sts(Mode.ENFORCE),))).fate == "delivered over TLS"
    assert of(Host(lines=(sts(Mode.TESTING),))).fate == "refused"
    assert of(Host(), Signing.SECURE).fate == "delivered over TLS"
    assert of(Host(behaviour=Behaviour.NO_STARTTLS), Signing.SECURE).fate == "refused"
    # Erratum 7705 and RFC 7672 §2.2.1: unusable records vouch for nothing, others not for a name that may be forged.
    private = Host(certificate=Certificate.SELF_SIGNED, lines=(tlsa(),))
    assert of(private, Signing.SECURE).fate == "delivered over TLS"
    assert of(replace(private, lines=(tlsa(note=ResultType.TLSA_INVALID),)), Signing.SECURE).fate == "refused"
    unsigned_mx = Case(name="x", why="y", hosts=(private,), wish=TlsWish.REQUIRE, mx_fault=UNSIGNED)
    assert expect(unsigned_mx).fate == "refused"


def test_counts_follow_the_sessions() -> None:
    """RFC 8460 §1.1, §4.2: TLSA under the host's name, the rest under the domain's; a note is told without a failure."""
    assert expected_counts(BY_NAME["dane-second-mx"]) == {
        ("tlsa", "mx1.dane-second-mx.test"): (0, 1, frozenset({"validation-failure"})),
        ("tlsa", "mx2.dane-second-mx.test"): (1, 0, frozenset()),
    }
    assert expected_counts(BY_NAME["sts-second-mx"]) == {
        ("sts", "sts-second-mx.test"): (1, 1, frozenset({"certificate-host-mismatch"})),
    }
    assert expected_counts(BY_NAME["dane-unusable"]) == {
        ("tlsa", "mx.dane-unusable.test"): (1, 0, frozenset({"tlsa-invalid"})),
    }
    assert expected_counts(BY_NAME["null-mx"]) == {}


def test_reports_that_are_due() -> None:
    cases = [BY_NAME[name] for name in ("plain", "sts-expired", "null-mx")]
    assert due(cases) == {("mail", "plain.test"), ("https", "plain.test"), ("https", "sts-expired.test")}
    assert due(cases, {"tlsrpt"}) == set()


def test_choosing_cases() -> None:
    assert named(CASES, []) == list(CASES)
    assert [case.name for case in named(CASES, ["sts-good", "plain"])] == ["plain", "sts-good"]
    with pytest.raises(KeyError):
        named(CASES, ["nonsense"])
