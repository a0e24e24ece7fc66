"""What else strangers write: HTTP responses of policy hosts, names in certificates, and names anywhere (RFC 9112, RFC 9525)."""

# ruff: noqa: PT017 - a target says as much about an error as about an answer
from __future__ import annotations

from contextlib import suppress
from typing import Any

import trio
import trio.testing
from cryptography import x509
from hypothesis import strategies as st

from fuzzing import fuzz, mutated
from postward.dns.nameserver import parse_resolv_conf
from postward.errors import InvalidName
from postward.http import H11Client, HttpError
from postward.lab.ca import Authority, self_signed
from postward.names import Domain
from postward.tls import check_names, check_path, pattern_matches

HOST = Domain("mta-sts.example.com")
POLICY = b"version: STSv1\r\nmode: enforce\r\nmx: mx.example.com\r\nmax_age: 604800\r\n"
HEAD = b"HTTP/1.1 200 OK\r\nContent-Type: text/plain\r\n"
RESPONSES = (
    HEAD + b"Content-Length: %d\r\n\r\n" % len(POLICY) + POLICY,
    HEAD + b"Transfer-Encoding: chunked\r\n\r\n10;x=y\r\n" + POLICY[:16] + b"\r\n0\r\nTrailer: x\r\n\r\n",
    HEAD + b"Connection: close\r\n\r\n" + POLICY,
    b"HTTP/1.1 103 Early Hints\r\nLink: x\r\n\r\n" + HEAD + b"Content-Encoding: gzip\r\nContent-Length: 0\r\n\r\n",
    b"HTTP/1.1 301 Moved\r\nLocation: https://elsewhere.example/\r\nContent-Length: 3\r\n\r\nabc",
    b"HTTP/1.0 404 Not Found\r\n\r\nno",
)
MAX_BODY = 200


class Wire(trio.abc.Stream):
    """Gives `data` piece by piece, and swallows what is sent."""

    def __init__(self, data: bytes, piece: int) -> None:
        self._data, self._piece = data, piece

    async def receive_some(self, max_bytes: int | None = None) -> bytes:
        await trio.lowlevel.checkpoint()
        given, self._data = self._data[: self._piece], self._data[self._piece :]
        return given

    async def send_all(self, data: bytes | bytearray | memoryview) -> None:
        await trio.lowlevel.checkpoint()

    async def wait_send_all_might_not_block(self) -> None:
        await trio.lowlevel.checkpoint()

    async def aclose(self) -> None:
        await trio.lowlevel.checkpoint()


class Direct(H11Client):
    """The client behind its handshake."""

    def __init__(self, stream: trio.abc.Stream) -> None:
        nothing: Any = None
        super().__init__(nothing, nothing, nothing)
        self._stream = stream

    async def _addresses(self, host: Domain, private_addresses: bool) -> list[str]:
        return ["192.0.2.1"]

    async def _connect(self, endpoint: Any, *, verify: bool, whole: bool) -> trio.abc.Stream:
        return self._stream


def test_http_responses() -> None:
    """A response within its limits, or one error of a known kind."""

    async def exchange(data: bytes, piece: int) -> None:
        try:
            response = await Direct(Wire(data, piece)).request("GET", HOST, "/", max_body=MAX_BODY, timeout=60)
        except HttpError as exc:
            assert exc.kind in ("protocol", "too-large")
            assert "\n" not in str(exc)
        else:
            assert 200 <= response.status <= 999
            assert len(response.body) <= MAX_BODY
            assert not set("\r\n\0") & set("".join(response.headers.values()))

    def check(given: tuple[bytes, int]) -> None:
        trio.run(exchange, *given, clock=trio.testing.MockClock(autojump_threshold=0))

    fuzz(st.tuples(mutated(RESPONSES) | st.binary(max_size=300).map(lambda data: HEAD + data), st.integers(1, 400)), check)


ROOT = Authority("Root")
LEAVES = (
    ROOT.issue([Domain("mx.example.org"), "*.example.net", "192.0.2.1"], cn="mx.example.org", with_root=True),
    self_signed(["mx.example.org"], cn="x"),
)


def test_names_of_certificates() -> None:
    """A verdict on names and on the path, for whatever is a certificate to the strict reader; nothing raises."""

    def check(der: bytes) -> None:
        name = Domain("mx.example.org")
        trouble = check_names(der, [name], common_name=True)
        assert trouble is None or "\n" not in trouble.detail
        path = check_path([der, *LEAVES[0].chain[1:]], [ROOT.root])
        # OpenSSL passes over what stands behind a certificate, which no handshake lets through.
        with suppress(ValueError):
            assert (
                path is not None
                or x509.load_der_x509_certificate(der).issuer == x509.load_der_x509_certificate(ROOT.root).subject
            )

    fuzz(mutated([leaf.certificate for leaf in LEAVES], most=3), check)


def test_domain_names() -> None:
    """A name is canonical or refused, and matches the pattern that is itself."""

    def check(text: str) -> None:
        with suppress(InvalidName):
            name = Domain(text)
            assert Domain(str(name)) == name
            assert str(name).isascii()
            assert len(name) <= 255
            if not name.is_literal:
                assert pattern_matches(str(name), name)
                assert not pattern_matches(f"*.{name}", name)

    pieces = st.sampled_from(
        ["a", "xn--", "ü", "ß", ".", "..", "*", "-", "_", "[", "]", "IPv6:", "::1", "1", "\0", " ", "。", "x" * 64]
    )
    fuzz(st.text(max_size=80) | st.lists(pieces | st.characters(), max_size=12).map("".join), check)


def test_resolv_conf() -> None:
    """There is always somebody to ask."""

    def check(data: bytes) -> None:
        assert parse_resolv_conf(data.decode("utf-8", "surrogateescape"))

    fuzz(mutated([b"nameserver 127.0.0.1\nnameserver fe80::1%eth0\noptions edns0 trust-ad\nsearch a b\n"]), check)
