"""Base domains and reference names (RFC 7672 §2.2.2, §3.2.2)."""

from __future__ import annotations

import pytest

from postward.model import Destination, MxHost, Security
from postward.names import Domain
from postward_dane.base import base_domains, reference_names, tlsa_name

SECURE, INSECURE = Security.SECURE, Security.INSECURE
MX = Domain("mx.example.org")
REAL = Domain("real.example.net")
NEXT_HOP = Domain("example.org")


@pytest.mark.parametrize(
    ("canonical", "security", "alias_security", "expected"),
    [
        (None, SECURE, None, [MX]),
        (MX, SECURE, None, [MX]),
        (MX, INSECURE, None, []),
        (MX, INSECURE, SECURE, []),
        (REAL, SECURE, SECURE, [REAL, MX]),
        (REAL, INSECURE, SECURE, [MX]),
        (REAL, INSECURE, INSECURE, []),
        (REAL, INSECURE, None, []),
    ],
)
def test_base_domains(
    canonical: Domain | None, security: Security, alias_security: Security | None, expected: list[Domain]
) -> None:
    """RFC 7672 §2.2.2: insecure addresses mean no DANE, except for a secure alias into an unsigned zone."""
    mx = MxHost(name=MX, security=security, canonical=canonical, alias_security=alias_security)
    assert list(base_domains(mx)) == expected


def test_an_address_literal_has_no_base_domain() -> None:
    """RFC 7672 §2.2."""
    assert base_domains(MxHost(name=Domain("[192.0.2.1]"), security=SECURE)) == ()


def destination(**changes: object) -> Destination:
    return Destination(**{"domain": NEXT_HOP, "hosts": (), "security": SECURE, "canonical": NEXT_HOP} | changes)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("target", "base", "expected"),
    [
        (destination(), MX, [MX, NEXT_HOP]),
        (destination(), REAL, [REAL, NEXT_HOP]),
        (destination(canonical=REAL), MX, [MX, NEXT_HOP, REAL]),
        (destination(canonical=None), MX, [MX, NEXT_HOP]),
        (destination(security=INSECURE), MX, [MX]),
        (destination(security=INSECURE, canonical=REAL), MX, [MX]),
        (destination(from_mx=False), MX, [MX]),
        (destination(from_mx=False), REAL, [REAL, MX]),
        (destination(from_mx=False, security=INSECURE), REAL, [REAL, MX]),
    ],
)
def test_reference_names(target: Destination, base: Domain, expected: list[Domain]) -> None:
    """RFC 7672 §3.2.2: the base domain first; the next hop only behind a secure MX; the asked name where there is no MX."""
    assert list(reference_names(target, MxHost(name=MX), base)) == expected


def test_the_port_is_the_real_one() -> None:
    """RFC 7672 §2.2.3."""
    assert tlsa_name(MX, 25) == "_25._tcp.mx.example.org"
    assert tlsa_name(MX, 10025) == "_10025._tcp.mx.example.org"
