"""Whom to ask and whom to believe (RFC 4035 §4.9.3)."""

from __future__ import annotations

from pathlib import Path

import pytest

from postward.dns.nameserver import Nameserver, find_nameservers, parse_nameserver, parse_resolv_conf
from postward.errors import ConfigError


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("127.0.0.1", Nameserver("127.0.0.1", 53, True)),
        ("127.0.0.1:5353", Nameserver("127.0.0.1", 5353, True)),
        ("127.8.9.1", Nameserver("127.8.9.1", 53, True)),
        ("::1", Nameserver("::1", 53, True)),
        ("[::1]", Nameserver("::1", 53, True)),
        ("[::1]:53", Nameserver("::1", 53, True)),
        ("[::ffff:127.0.0.1]:53", Nameserver("::ffff:127.0.0.1", 53, True)),
        ("192.0.2.1:53", Nameserver("192.0.2.1", 53, False)),
        ("[2001:db8::1]:53", Nameserver("2001:db8::1", 53, False)),
        ("fe80::1%lo", Nameserver("fe80::1%lo", 53, False)),
    ],
)
def test_servers_are_addresses_and_only_loopback_is_believed(text: str, expected: Nameserver) -> None:
    """RFC 4035 §4.9.3: the way to a server on this machine is safe; to others it is not."""
    assert parse_nameserver(text) == expected
    assert parse_nameserver(str(expected)) == expected


@pytest.mark.parametrize(
    "text", ["", "localhost", "127.0.0.1:0", "127.0.0.1:65536", "127.0.0.1:x", "[::1]:", "1.2.3", "127.0.0.1:53:53"]
)
def test_what_is_no_server_is_a_configuration_error(text: str) -> None:
    with pytest.raises(ConfigError) as caught:
        parse_nameserver(text)
    assert caught.value.key == "dns.nameservers"


def test_belief_can_be_configured() -> None:
    assert parse_nameserver("192.0.2.1", "always").trusted
    assert not parse_nameserver("127.0.0.1", "never").trusted


RESOLV_CONF = """
# a comment
search example.com
nameserver 127.0.0.53
nameserver nonsense
nameserver
nameserver 192.0.2.1 trailing
"""


def test_resolv_conf_is_read() -> None:
    assert parse_resolv_conf(RESOLV_CONF) == (Nameserver("127.0.0.53", 53, True), Nameserver("192.0.2.1", 53, False))


def test_trust_ad_in_resolv_conf_makes_all_believed_unless_forbidden() -> None:
    """RFC 4035 §4.9.3: the administrator vouches for the way."""
    text = RESOLV_CONF + "options edns0 trust-ad\n"
    assert all(server.trusted for server in parse_resolv_conf(text))
    assert not any(server.trusted for server in parse_resolv_conf(text, "never"))
    assert not parse_resolv_conf(RESOLV_CONF + "options no-trust-ad\n")[1].trusted


@pytest.mark.parametrize("text", ["", "nameserver x\n", "\x00\xff"])
def test_without_a_server_the_one_on_this_machine_is_asked(text: str) -> None:
    assert parse_resolv_conf(text) == (Nameserver("127.0.0.1", 53, True),)


def test_resolv_conf_has_limits() -> None:
    assert len(parse_resolv_conf("nameserver 127.0.0.1\n" * 50)) == 8


def test_configured_servers_come_before_resolv_conf(tmp_path: Path) -> None:
    file = tmp_path / "resolv.conf"
    file.write_text("nameserver 192.0.2.1\n")
    assert find_nameservers(None, "loopback", file) == (Nameserver("192.0.2.1", 53, False),)
    assert find_nameservers(["::1"], "loopback", file) == (Nameserver("::1", 53, True),)
    assert find_nameservers(None, "loopback", tmp_path / "missing") == (Nameserver("127.0.0.1", 53, True),)
    with pytest.raises(ConfigError):
        find_nameservers(["::1"] * 9, "loopback", file)
    with pytest.raises(ConfigError):
        find_nameservers(None, "sometimes", file)  # type: ignore[arg-type]
