"""The HTTPS client with real handshakes: in memory, and once over sockets (RFC 8461 §3.3, §7.1)."""

from __future__ import annotations

import ssl
from functools import partial
from typing import Any

import pytest
import trio

from postward.dns import ZoneResolver
from postward.http import H11Client, HttpError, HttpResponse
from postward.lab.ca import Authority, Issued, self_signed
from postward.model import MICROSECONDS, ResultType
from postward.names import Domain
from postward.net import TcpNetwork
from postward.testing.network import MemoryNetwork
from postward.tls import TlsError, TrustStore, server_handshake

HOST = Domain("mta-sts.example.com")
ADDRESS = "127.0.0.1"
NOW = 1_800_000_000 * MICROSECONDS
DAY = 86_400 * MICROSECONDS
ROOT = Authority()
RESPONSE = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"


class FixedClock:
    """It is always `NOW`."""

    def now(self) -> int:
        return NOW

    async def sleep_until(self, instant: int) -> None:
        await trio.sleep_forever()


class Server:
    """Answers every request with 200; remembers the SNI."""

    def __init__(self, issued: Issued, **options: Any) -> None:
        self.context = issued.server_context()
        self.names: list[str | None] = []
        self.context.sni_callback = lambda connection, name, context: self.names.append(name)
        for name, value in options.items():
            setattr(self.context, name, value)

    async def __call__(self, transport: trio.abc.Stream) -> None:
        try:
            stream = await server_handshake(transport, self.context)
        except TlsError:
            return
        seen = b""
        while b"\r\n\r\n" not in seen:
            received = bytes(await stream.receive_some(65_536))
            if not received:
                return
            seen += received
        await stream.send_all(RESPONSE)


async def fetch(handler: Any, *, method: str = "GET", **options: Any) -> HttpResponse:
    dns = ZoneResolver({"example.com": f"mta-sts A {ADDRESS}"})
    result: HttpResponse | HttpError
    async with trio.open_nursery() as nursery:
        net = MemoryNetwork(nursery)
        net.listen(ADDRESS, 443, handler)
        client = H11Client(net, dns, TrustStore(extra=[ROOT.root]), FixedClock())
        try:
            result = await client.request(method, HOST, "/", **options)
        except HttpError as exc:
            result = exc
        nursery.cancel_scope.cancel()
    if isinstance(result, HttpError):
        raise result
    return result


def good(**options: Any) -> Issued:
    return ROOT.issue([HOST], not_before=NOW - DAY, not_after=NOW + DAY, **options)


async def test_a_trusted_host_is_asked_by_its_name() -> None:
    """RFC 8461 §7.1: SNI is the policy host."""
    server = Server(good())
    assert (await fetch(server)).body == b"ok"
    assert server.names == [HOST]


@pytest.mark.parametrize(
    ("issued", "result_type"),
    [
        (partial(ROOT.issue, [HOST], not_before=NOW - 9 * DAY, not_after=NOW - DAY), ResultType.CERTIFICATE_EXPIRED),
        (
            partial(ROOT.issue, ["other.example.com"], not_before=NOW - DAY, not_after=NOW + DAY),
            ResultType.CERTIFICATE_HOST_MISMATCH,
        ),
        (partial(ROOT.issue, [], cn=HOST, not_before=NOW - DAY, not_after=NOW + DAY), ResultType.CERTIFICATE_HOST_MISMATCH),
        (partial(self_signed, [HOST], not_before=NOW - DAY, not_after=NOW + DAY), ResultType.CERTIFICATE_NOT_TRUSTED),
        (
            partial(Authority("Other").issue, [HOST], not_before=NOW - DAY, not_after=NOW + DAY),
            ResultType.CERTIFICATE_NOT_TRUSTED,
        ),
    ],
)
async def test_a_certificate_that_does_not_verify(issued: Any, result_type: ResultType) -> None:
    """RFC 8461 §3.3: unexpired, trusted, and a DNS-ID of the policy host."""
    server = Server(issued())
    with pytest.raises(HttpError) as caught:
        await fetch(server)
    assert caught.value.kind == "tls"
    assert caught.value.failure is not None
    assert caught.value.failure.result_type is result_type
    assert (await fetch(server, verify=False)).body == b"ok"


@pytest.mark.parametrize("cut", [True, False])
async def test_a_body_that_only_the_connection_ends(cut: bool) -> None:
    """RFC 9112 §9.8: whoever can cut TCP could otherwise shorten a policy, and its lifetime."""

    async def serve(transport: trio.abc.Stream) -> None:
        stream = trio.SSLStream(transport, good().server_context(), server_side=True)
        await stream.receive_some(65_536)
        await stream.send_all(b"HTTP/1.1 200 OK\r\n\r\nmax_age: 86")
        if cut:
            await trio.aclose_forcefully(stream)
        else:
            await stream.aclose()

    assert (await fetch(serve, method="POST")).status == 200
    if not cut:
        assert (await fetch(serve)).body == b"max_age: 86"
        return
    with pytest.raises(HttpError) as caught:
        await fetch(serve)
    assert caught.value.kind == "protocol"


async def test_what_does_not_speak_tls() -> None:
    async def plain(stream: trio.abc.Stream) -> None:
        await stream.receive_some(1000)
        await stream.send_all(RESPONSE)

    with pytest.raises(HttpError) as caught:
        await fetch(plain)
    assert caught.value.kind == "tls"
    assert caught.value.failure is not None
    assert caught.value.failure.result_type is ResultType.VALIDATION_FAILURE


@pytest.mark.parametrize("version", [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3])
async def test_a_server_that_wants_a_certificate_of_ours_is_a_tls_failure(version: ssl.TLSVersion) -> None:
    """RFC 8446 §4.4.2.4: with TLS 1.3 the alert comes after the handshake."""
    server = Server(good(), verify_mode=ssl.CERT_REQUIRED, maximum_version=version)
    with pytest.raises(HttpError) as caught:
        await fetch(server)
    assert caught.value.kind == "tls"
    assert caught.value.failure is not None
    assert caught.value.failure.reason.startswith("tls-remote-alert-")


@pytest.mark.loopback
async def test_over_sockets() -> None:
    server = Server(good())
    dns = ZoneResolver({"example.com": f"mta-sts A {ADDRESS}"})
    async with trio.open_nursery() as nursery:
        listeners = await nursery.start(partial(trio.serve_tcp, server, 0, host=ADDRESS))
        net = TcpNetwork({443: listeners[0].socket.getsockname()[1]})
        response = await H11Client(net, dns, TrustStore(extra=[ROOT.root]), FixedClock()).request("GET", HOST, "/")
        nursery.cancel_scope.cancel()
    assert response.body == b"ok"
