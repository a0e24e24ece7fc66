"""Names in certificates (RFC 9525, RFC 8461 §4.2) and patterns in policies (RFC 8461 §4.1)."""

from __future__ import annotations

import pytest
from cryptography import x509
from hypothesis import given
from hypothesis import strategies as st

from postward.lab.ca import Authority, self_signed
from postward.model import ResultType
from postward.names import Domain
from postward.tls import check_names, names_match, pattern_matches

AUTHORITY = Authority()


def certificate(*names: str, cn: str = "") -> x509.Certificate:
    return x509.load_der_x509_certificate(AUTHORITY.issue(names, cn=cn).certificate)


@pytest.mark.parametrize(
    ("names", "host", "expected"),
    [
        (["mx.example.org"], "mx.example.org", True),
        (["mx.example.org"], "MX.Example.ORG.", True),
        (["mx.example.org"], "mx2.example.org", False),
        (["mx.example.org"], "example.org", False),
        (["a.example.org", "mx.example.org"], "mx.example.org", True),
        (["*.example.org"], "mx.example.org", True),
        (["*.example.org"], "example.org", False),
        (["*.example.org"], "a.mx.example.org", False),
        (["*.example.org"], "mx.example.com", False),
        (["*.org"], "example.org", False),
        (["bücher.example"], "bücher.example", True),
        (["xn--bcher-kva.example"], "bücher.example", True),
        (["*.example"], "xn--bcher-kva.example", False),
        (["*.mail.example"], "xn--bcher-kva.mail.example", True),
        (["192.0.2.1"], "[192.0.2.1]", True),
        (["192.0.2.1"], "[192.0.2.2]", False),
        (["2001:db8::1"], "[IPv6:2001:db8:0::1]", True),
        (["mx.example.org"], "[192.0.2.1]", False),
        ([], "mx.example.org", False),
    ],
)
def test_dns_ids(names: list[str], host: str, expected: bool) -> None:
    """RFC 9525 §6.3: a whole left-most label `*` stands for one label, and nothing else matches loosely."""
    assert names_match(certificate(*names), Domain(host)) is expected


def test_a_partial_wildcard_matches_nothing() -> None:
    """RFC 9525 §6.3: `m*.example.org` is no wildcard."""
    from postward.tls.certificates import _covers

    assert not _covers("m*.example.org", Domain("mx.example.org"))
    assert not _covers("*x.example.org", Domain("mx.example.org"))
    assert not _covers("mx.*.org", Domain("mx.example.org"))


def test_common_name_counts_only_when_asked_for_and_without_dns_ids() -> None:
    """RFC 8461 §4.2 wants a DNS-ID; RFC 7672 §3.2.3 lets the CN count where there is none."""
    host = Domain("mx.example.org")
    only_cn = certificate(cn="mx.example.org")
    assert not names_match(only_cn, host)
    assert names_match(only_cn, host, common_name=True)
    assert names_match(certificate(cn="MX.Example.ORG"), host, common_name=True)
    assert not names_match(certificate("other.example.org", cn="mx.example.org"), host, common_name=True)


def test_names_of_an_unreadable_certificate() -> None:
    failure = check_names(b"\x30\x03rubbish", [Domain("mx.example.org")])
    assert failure is not None
    assert (failure.result_type, failure.reason) == (ResultType.CERTIFICATE_NOT_TRUSTED, "malformed-certificate")


def test_a_san_that_cannot_be_read_matches_nothing() -> None:
    """RFC 5280 §4.2.1.6: dNSName is an IA5String."""
    der = self_signed(["mx-a.example.org"]).certificate
    broken = der.replace(b"mx-a.example.org", b"mx-\xff.example.org")
    assert broken != der
    failure = check_names(broken, [Domain("mx-a.example.org")])
    assert failure is not None
    assert failure.result_type is ResultType.CERTIFICATE_HOST_MISMATCH


@pytest.mark.parametrize(
    ("pattern", "host", "expected"),
    [
        ("mx.example.org", "mx.example.org", True),
        ("MX.example.org", "mx.example.org", True),
        ("*.example.org", "mx.example.org", True),
        ("*.Example.org", "mx.example.org", True),
        ("*.example.org", "example.org", False),
        ("*.example.org", "a.mx.example.org", False),
        ("*.mx.example.org", "mx.example.org", False),
        ("*.org", "example.org", True),
        ("*", "example.org", False),
        ("*.", "org", False),
        ("", "example.org", False),
        ("*.0.2.1]", "[192.0.2.1]", False),
    ],
)
def test_mx_patterns(pattern: str, host: str, expected: bool) -> None:
    """RFC 8461 §4.1."""
    assert pattern_matches(pattern, Domain(host)) is expected


LABEL = st.from_regex(r"[a-z0-9]{1,8}", fullmatch=True)


@given(st.lists(LABEL, min_size=2, max_size=5))
def test_a_wildcard_matches_exactly_its_children(labels: list[str]) -> None:
    """RFC 8461 §4.1: exactly one label, for every name."""
    name = Domain(".".join(labels))
    assert pattern_matches(f"*.{name.parent}", name)
    assert not pattern_matches(f"*.{name}", name)
    assert not pattern_matches(f"*.{name.parent}", Domain(f"x.{name}"))
