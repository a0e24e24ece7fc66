"""The header `TLS-Required` (RFC 8689 §3, §4.1)."""

from __future__ import annotations

import pytest

from postward.delivery.wish import header_of, wish_of
from postward.model import TlsWish


@pytest.mark.parametrize(
    ("header", "wish"),
    [
        (b"TLS-Required: No", TlsWish.IGNORE),
        (b"tls-required:no", TlsWish.IGNORE),
        (b"TLS-Required:\r\n No", TlsWish.IGNORE),
        (b"TLS-Required: No\r\nTLS-Required: no ", TlsWish.IGNORE),
        (b"TLS-Required: No\r\nTLS-Required: Yes", TlsWish.FOLLOW),
        (b"TLS-Required: Nope", TlsWish.FOLLOW),
        (b"TLS-Required:", TlsWish.FOLLOW),
        (b"X-TLS-Required: No", TlsWish.FOLLOW),
        (b"Subject: x\r\n TLS-Required: No", TlsWish.FOLLOW),
    ],
)
def test_only_no_counts_and_only_alone(header: bytes, wish: TlsWish) -> None:
    content = b"From: a@example.test\r\n" + header + b"\r\n\r\nTLS-Required: No\r\n"
    assert wish_of(content, require=False) is wish


def test_requiretls_overrules_the_header() -> None:
    """RFC 8689 §4.1: with both, the header is ignored."""
    assert wish_of(b"TLS-Required: No\r\n\r\n", require=True) is TlsWish.REQUIRE


def test_the_body_is_no_header() -> None:
    assert wish_of(b"\r\nTLS-Required: No\r\n", require=False) is TlsWish.FOLLOW
    assert wish_of(b"A: b\n\nTLS-Required: No\n", require=False) is TlsWish.FOLLOW


def test_the_header_ends_at_the_first_empty_line() -> None:
    assert header_of(b"A: b\r\nC: d\r\n\r\nE: f\n\n") == b"A: b\r\nC: d"
    assert header_of(b"A: b\nC: d\n\nE: f\r\n\r\n") == b"A: b\nC: d"
    assert header_of(b"A: b") == b"A: b"
