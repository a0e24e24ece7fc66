"""Trace fields: of anything that a client may say, one field that reads as one (RFC 5321 §4.4, RFC 6409 §8)."""

from __future__ import annotations

import email
import email.policy
import ipaddress
import re
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from postward.listen.received import Arrival, complete, count_hops, received_field
from postward.model import TlsInfo
from postward.names import Address, Domain

NOW = 1_790_000_000_000_000
HOST = Domain("mx1.example.net")
PLAIN = Arrival(
    helo="client.example.org",
    peer=ipaddress.ip_address("192.0.2.7"),
    tls=TlsInfo(protocol="TLSv1.3", cipher="TLS_AES_256_GCM_SHA384"),
    protocol="ESMTPSA",
    hostname=HOST,
    cid="0123456789ab",
    received=NOW,
    recipient=Address.parse("joe@example.com"),
)


def unfolded(field: bytes) -> str:
    assert field.endswith(b"\r\n")
    return re.sub(rb"\r\n[ \t]", b" ", field[:-2]).decode()


def test_the_whole_field() -> None:
    field = received_field(PLAIN)
    assert unfolded(field) == (
        "Received: from client.example.org ([192.0.2.7]) by mx1.example.net with ESMTPSA"
        " (TLSv1.3 cipher TLS_AES_256_GCM_SHA384) id 0123456789ab for <joe@example.com>; Mon, 21 Sep 2026 14:13:20 +0000"
    )
    assert max(map(len, field.split(b"\r\n"))) <= 78


def test_requiretls_is_told() -> None:
    assert " with ESMTPSA (TLSv1.3 cipher TLS_AES_256_GCM_SHA384) (requiretls) id " in unfolded(
        received_field(replace(PLAIN, require_tls=True))
    )


@pytest.mark.parametrize(
    ("helo", "peer", "expected"),
    [
        ("[192.0.2.9]", "192.0.2.7", "from [192.0.2.9] ([192.0.2.7]) by"),
        ("[IPv6:2001:DB8::1]", "2001:db8::2", "from [IPv6:2001:db8::1] ([IPv6:2001:db8::2]) by"),
        ("MX.example.org", "fe80::1%eth0", "from mx.example.org ([IPv6:fe80::1]) by"),
        ("", "192.0.2.7", "from [192.0.2.7] (helo=-) by"),
        ("a b", None, "from localhost (helo=a?b) by"),
        ("x) by evil (", "192.0.2.7", "from [192.0.2.7] (helo=x??by?evil??) by"),
        ("a\r\nBcc: b\0\\", "192.0.2.7", "from [192.0.2.7] (helo=a??Bcc:?b??) by"),
    ],
)
def test_what_a_client_says_of_itself(helo: str, peer: str | None, expected: str) -> None:
    arrival = replace(PLAIN, helo=helo, peer=ipaddress.ip_address(peer) if peer else None, tls=None, recipient=None)
    assert unfolded(received_field(arrival)).startswith(f"Received: {expected} mx1.example.net with ESMTPSA id 0123456789ab; ")


@given(st.text(max_size=400))
def test_any_helo_makes_one_field(helo: str) -> None:
    field = received_field(replace(PLAIN, helo=helo))
    message = email.message_from_bytes(field + b"\r\n", policy=email.policy.compat32)
    assert message.keys() == ["Received"]
    assert not message.defects
    assert max(map(len, field.split(b"\r\n"))) <= 998
    assert count_hops(field) == 1
    text = unfolded(field)
    assert text.isascii()
    assert text.isprintable()
    assert text.count("(") == text.count(")") == 2
    assert text.endswith(" id 0123456789ab for <joe@example.com>; Mon, 21 Sep 2026 14:13:20 +0000")


def test_a_long_helo_is_cut() -> None:
    field = received_field(replace(PLAIN, helo="(" * 4000))
    assert max(map(len, field.split(b"\r\n"))) <= 998
    assert b"helo=" + b"?" * 255 + b")" in field


def test_utf8_recipients_and_words_of_ours() -> None:
    address = Address.parse("jörg@example.com")
    assert "for <jörg@example.com>;" in unfolded(received_field(replace(PLAIN, recipient=address)))
    for wrong in ({"protocol": "ESMTP S"}, {"cid": "a b"}, {"cid": ""}):
        with pytest.raises(ValueError, match="atom"):
            received_field(replace(PLAIN, **wrong))


def test_hops() -> None:
    field = received_field(PLAIN)
    assert count_hops(b"") == 0
    assert count_hops(field * 30 + b"RECEIVED : x\r\nX-Received: y\r\nSubject: a\r\n received: b\r\nReceived-SPF: pass") == 31


def test_a_submitted_message_gets_what_it_lacks() -> None:
    """RFC 6409 §8.2, §8.3."""
    assert complete(b"date: x\r\nMESSAGE-ID : <a@b>", HOST, NOW) == b""
    both = complete(b"X-Date: x\r\nSubject: a\r\n Date: b\r\nResent-Message-ID: c", HOST, NOW)
    assert re.fullmatch(rb"Date: Mon, 21 Sep 2026 14:13:20 \+0000\r\nMessage-ID: <[0-9a-f]{32}@mx1\.example\.net>\r\n", both)
    assert complete(b"", HOST, NOW) != both
    assert complete(b"Date: x", HOST, NOW).startswith(b"Message-ID: ")
    assert complete(b"Message-ID: x", HOST, NOW).startswith(b"Date: ")
