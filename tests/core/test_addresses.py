"""Which addresses are public (RFC 6890 and the IANA registries)."""

from __future__ import annotations

import ipaddress

import pytest
from hypothesis import given
from hypothesis import strategies as st

from postward.addresses import is_public, names_a_host


@pytest.mark.parametrize(
    "address",
    ["1.1.1.1", "192.0.1.1", "172.32.0.1", "223.255.255.255", "2606:4700::1", "2a00::1", "64:ff9b::101:101", "2002:101:101::1"],
)
def test_public(address: str) -> None:
    assert is_public(address)


@pytest.mark.parametrize(
    "address",
    [
        "0.0.0.0",
        "10.1.2.3",
        "100.64.0.1",
        "127.0.0.1",
        "169.254.169.254",
        "172.16.0.1",
        "192.0.0.8",
        "192.0.2.1",
        "192.88.99.1",
        "192.168.1.1",
        "198.19.0.1",
        "198.51.100.1",
        "203.0.113.1",
        "224.0.0.1",
        "240.0.0.1",
        "255.255.255.255",
        "::",
        "::1",
        "::ffff:1.1.1.1",
        "::ffff:127.0.0.1",
        "::1.1.1.1",
        "64:ff9b::7f00:1",
        "64:ff9b::a00:1",
        "64:ff9b:1::1",
        "100::1",
        "2001::1",
        "2001:2::1",
        "2001:db8::1",
        "2002:7f00:1::1",
        "2002:c0a8:101::1",
        "3fff::1",
        "4000::1",
        "5f00::1",
        "fc00::1",
        "fd12::1",
        "fe80::1",
        "fe80::1%lo",
        "2606:4700::1%lo",
        "fec0::1",
        "ff02::1",
        "",
        "example.com",
        "127.1",
        "0x7f000001",
    ],
)
def test_not_public(address: str) -> None:
    assert not is_public(address)


@given(st.ip_addresses())
def test_it_is_never_laxer_than_the_standard_library(address: ipaddress.IPv4Address | ipaddress.IPv6Address) -> None:
    if is_public(str(address)):
        assert not any((address.is_loopback, address.is_link_local, address.is_multicast, address.is_unspecified))
        assert not address.is_private or address in ipaddress.ip_network("2002::/16")


@pytest.mark.parametrize(
    ("address", "expected"),
    [("127.0.0.1", True), ("10.0.0.1", True), ("fe80::1", True), ("0.0.0.0", False), ("::", False), ("255.255.255.255", False)],
)
def test_a_host_may_be_private_but_not_nobody(address: str, expected: bool) -> None:
    assert names_a_host(address) is expected
    assert ":" in address or names_a_host(f"::ffff:{address}") is expected
