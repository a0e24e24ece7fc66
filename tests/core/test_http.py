"""The HTTPS client over memory streams: hostile servers, limits, addresses (RFC 8461 §3.3, RFC 8460 §5.4).

The handshake is replaced by none, so each test is the bytes of a conversation; `test_http_tls.py` has the real one.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import pytest
import trio
import trio.testing
from hypothesis import given
from hypothesis import strategies as st

from postward import tls
from postward.dns import ZoneResolver
from postward.errors import PostwardError
from postward.http import H11Client, HttpError, HttpResponse
from postward.model import PASSED, Endpoint, Failure, ResultType, TlsPeer, Verdict
from postward.names import Domain
from postward.testing.network import MemoryNetwork

HOST = Domain("mta-sts.example.com")
V4, V6, PRIVATE = "203.0.114.1", "2600::1", "10.0.0.1"
ZONE = f"""
mta-sts A {V4}
both A {V4}
both AAAA {V6}
private A {PRIVATE}
mixed A {PRIVATE}
mixed A {V4}
many AAAA 2600::1
many AAAA 2600::2
many AAAA 2600::3
empty TXT "x"
"""


class FakeTlsError(PostwardError):
    failure = Failure(result_type=ResultType.VALIDATION_FAILURE, reason="tls-remote-alert-40-handshake-failure")


class FakeTrust:
    """Trusts, or not; remembers for which name it was asked."""

    def __init__(self, verdict: Verdict = PASSED) -> None:
        self.verdict, self.asked = verdict, list[str]()

    def verify(self, chain: Sequence[bytes], name: Domain, *, at: int | None = None) -> Verdict:
        self.asked.append(name)
        return self.verdict


@pytest.fixture(autouse=True)
def handshakes(monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, Sequence[str]]]:
    """No TLS; the list takes the server name and the ALPN of every handshake. 2600::2 fails its own."""
    done: list[tuple[str, Sequence[str]]] = []

    async def client_handshake(
        stream: Any, endpoint: Endpoint, name: Domain, *, alpn: Sequence[str] = (), abrupt_end: bool = True
    ) -> tuple[Any, TlsPeer]:
        done.append((name, alpn))
        await trio.lowlevel.checkpoint()
        if endpoint.address == "2600::2":
            raise FakeTlsError("handshake failed")
        return stream, TlsPeer(endpoint=endpoint, server_name=name, protocol="TLSv1.3", cipher="x", chain=(b"leaf",))

    monkeypatch.setattr(tls, "client_handshake", client_handshake, raising=False)
    monkeypatch.setattr(tls, "TlsError", FakeTlsError, raising=False)
    return done


class Server:
    """A server that reads the request and then sends what it was told."""

    def __init__(self, *parts: bytes | float, close: bool = True) -> None:
        self.parts, self.close, self.request = parts, close, b""

    async def __call__(self, stream: trio.abc.Stream) -> None:
        while b"\r\n\r\n" not in self.request:
            received = await stream.receive_some(65_536)
            if not received:
                return
            self.request += bytes(received)
        for part in self.parts:
            if isinstance(part, bytes):
                await stream.send_all(part)
            else:
                await trio.sleep(part)
        if not self.close:
            await trio.sleep_forever()


def ok(body: bytes = b"hello", *extra: bytes) -> bytes:
    head = [b"HTTP/1.1 200 OK", b"Content-Length: %d" % len(body), *extra]
    return b"\r\n".join(head) + b"\r\n\r\n" + body


async def fetch(
    *servers: tuple[str, Callable[[trio.abc.Stream], Any]] | Server,
    host: str = HOST,
    trust: FakeTrust | None = None,
    prepare: Callable[[MemoryNetwork, ZoneResolver], object] = lambda net, dns: None,
    lockstep: bool = False,
    method: str = "GET",
    target: str = "/.well-known/mta-sts.txt",
    **options: Any,
) -> HttpResponse:
    dns = ZoneResolver({"example.com": ZONE})
    result: HttpResponse | HttpError | None = None
    async with trio.open_nursery() as nursery:
        net = MemoryNetwork(nursery, lockstep=lockstep)
        for server in servers:
            address, handler = (V4, server) if isinstance(server, Server) else server
            net.listen(address, options.get("port", 443), handler)
        prepare(net, dns)
        client = H11Client(net, dns, trust or FakeTrust())  # type: ignore[arg-type]
        try:
            result = await client.request(method, Domain(host), target, **options)
        except HttpError as exc:
            result = exc
        nursery.cancel_scope.cancel()
    if isinstance(result, HttpError):
        raise result
    assert result is not None
    return result


async def fails(*servers: Any, **options: Any) -> HttpError:
    with pytest.raises(HttpError) as caught:
        await fetch(*servers, **options)
    assert "\n" not in str(caught.value)
    return caught.value


async def test_a_request_is_answered(handshakes: list[tuple[str, Sequence[str]]]) -> None:
    server, trust = Server(ok(b"version: STSv1", b"Content-Type: text/plain", b"X-A: 1", b"x-a: 2")), FakeTrust()
    response = await fetch(server, trust=trust)
    assert (response.status, response.body) == (200, b"version: STSv1")
    assert (response.headers["content-type"], response.headers["x-a"]) == ("text/plain", "1")
    lines = server.request.decode().split("\r\n")
    assert lines[0] == "GET /.well-known/mta-sts.txt HTTP/1.1"
    assert {line.lower() for line in lines[1:] if line} == {
        "host: mta-sts.example.com",
        "connection: close",
        "accept-encoding: identity",
        "user-agent: postward",
    }
    assert (handshakes, trust.asked) == ([(HOST, ("http/1.1",))], [HOST])


async def test_a_report_is_posted() -> None:
    server = Server(b"HTTP/1.1 201 Created\r\nContent-Length: 0\r\n\r\n")
    headers = {"Content-Type": "application/tlsrpt+gzip", "HOST": "evil", "Content-Length": "7", "User-Agent": "test"}
    response = await fetch(server, method="POST", target="/v1?x=y", port=8443, body=b"abc", headers=headers)
    assert response.status == 201
    request = server.request.decode()
    assert request.startswith("POST /v1?x=y HTTP/1.1\r\n")
    assert request.endswith("\r\n\r\nabc")
    for line in (
        "host: mta-sts.example.com:8443",
        "content-length: 3",
        "content-type: application/tlsrpt+gzip",
        "user-agent: test",
    ):
        assert request.lower().count(line.partition(":")[0] + ":") == 1
        assert line in request.lower()


@pytest.mark.parametrize(
    "rest",
    [
        b"Content-Length: 100\r\n\r\ncut",
        b"Content-Length: 99999999\r\n\r\n",
        b"Content-Encoding: gzip\r\n\r\n",
        b"Transfer-Encoding: chunked\r\n\r\nnonsense",
    ],
)
async def test_where_only_the_status_counts_no_body_can_undo_it(rest: bytes) -> None:
    """Posting a report again because of it would be a second copy."""
    wire = b"HTTP/1.1 201 Created\r\n" + rest
    assert (await fetch(Server(wire), method="POST", head_only=True)).status == 201
    assert isinstance(await fails(Server(wire), method="POST"), HttpError)


async def test_headers_about_the_body_are_ours() -> None:
    server = Server(ok())
    await fetch(server, headers={"Content-Length": "7", "Transfer-Encoding": "chunked"})
    assert b"content-length" not in server.request.lower()
    assert b"transfer-encoding" not in server.request.lower()


async def test_a_server_may_answer_before_it_has_read_everything(autojump_clock: trio.testing.MockClock) -> None:
    async def early(stream: trio.abc.Stream) -> None:
        await stream.receive_some(10)
        await stream.send_all(b"HTTP/1.1 413 Too Large\r\nContent-Length: 0\r\n\r\n")
        await trio.sleep_forever()

    assert (await fetch((V4, early), method="POST", body=b"x" * 1_000_000, lockstep=True)).status == 413


@pytest.mark.parametrize("status", [301, 302, 404, 500])
async def test_nothing_is_followed(status: int) -> None:
    """RFC 8461 §3.3: redirects must not be followed."""
    server = Server(b"HTTP/1.1 %d X\r\nLocation: https://evil.example/\r\nContent-Length: 0\r\n\r\n" % status)
    response = await fetch(server)
    assert (response.status, response.headers["location"]) == (status, "https://evil.example/")


@pytest.mark.parametrize(
    "wire",
    [
        ok(b"hello"),
        b"HTTP/1.1 200 OK\r\n\r\nhello",
        b"HTTP/1.0 200 OK\r\n\r\nhello",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nhe\r\n3;x=y\r\nllo\r\n0\r\nTrailer: x\r\n\r\n",
        b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 103 Hints\r\nLink: x\r\n\r\n" + ok(b"hello"),
        b"HTTP/1.1 200 OK\r\nContent-Encoding: Identity\r\nContent-Length: 5\r\n\r\nhello",
    ],
)
async def test_every_framing_of_a_body(wire: bytes) -> None:
    assert (await fetch(Server(wire))).body == b"hello"


@pytest.mark.parametrize(
    ("wire", "kind"),
    [
        (b"", "protocol"),
        (b"garbage\r\n\r\n", "protocol"),
        (b"\x16\x03\x01\x02", "protocol"),
        (b"HTTP/1.1 200 OK\r\n", "protocol"),
        (b"HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nshort", "protocol"),
        (b"HTTP/1.1 200 OK\r\nContent-Length: -1\r\n\r\n", "protocol"),
        (b"HTTP/1.1 200 OK\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\nx", "protocol"),
        (b"HTTP/1.1 200 OK\r\nContent-Length: " + b"9" * 5000 + b"\r\n\r\nx", "protocol"),
        (b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n", "protocol"),
        (b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nhe\r\n", "protocol"),
        (b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: x\r\n\r\n", "protocol"),
        (b"HTTP/1.1 100 Continue\r\n\r\n" * 9 + ok(), "protocol"),
        (ok(b"x", b"Content-Encoding: gzip"), "protocol"),
        (ok(b"x" * 101), "too-large"),
        (b"HTTP/1.1 200 OK\r\nContent-Length: 99999999999999999999\r\n\r\nx", "too-large"),
        (b"HTTP/1.1 200 OK\r\n\r\n" + b"x" * 101, "too-large"),
        (b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n" + b"1\r\nx\r\n" * 101 + b"0\r\n\r\n", "too-large"),
        (b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n" + (b"1;" + b"e" * 9000 + b"\r\nx\r\n") * 90, "too-large"),
        (b"HTTP/1.1 200 OK\r\n" + b"A: b\r\n" * 8000 + b"\r\n", "too-large"),
        (b"HTTP/1.1 200 OK\r\nA: " + b"b" * 40_000 + b"\r\n\r\n", "too-large"),
        (b"HTTP/1.1 200 OK\r\nA: " + b"b" * 10_000_000, "too-large"),
    ],
)
async def test_a_hostile_response_is_an_error_of_a_kind(wire: bytes, kind: str) -> None:
    assert (await fails(Server(wire), max_body=100)).kind == kind


@pytest.mark.parametrize("status", [301, 404, 503])
@pytest.mark.parametrize(
    "page",
    [
        b"Content-Length: 99999\r\n\r\n" + b"x" * 200,
        b"\r\n" + b"x" * 101,
        b"Transfer-Encoding: chunked\r\n\r\n65\r\n" + b"x" * 101,
        b"Content-Encoding: gzip\r\nContent-Length: 1\r\n\r\nx",
    ],
)
async def test_an_error_page_of_any_kind_does_not_hide_the_status(status: int, page: bytes) -> None:
    response = await fetch(Server(b"HTTP/1.1 %d X\r\n" % status + page), max_body=100)
    assert response.status == status
    assert len(response.body) <= 100


async def test_the_largest_body_that_is_allowed() -> None:
    assert len((await fetch(Server(ok(b"x" * 100)), max_body=100)).body) == 100


@given(st.lists(st.binary(max_size=60), max_size=6))
def test_whatever_a_server_sends_is_a_response_or_an_error(parts: list[bytes]) -> None:
    async def main() -> None:
        try:
            await fetch(Server(b"HTTP/1.1 200 OK\r\n", *parts))
        except HttpError as exc:
            assert exc.kind in ("protocol", "too-large")  # noqa: PT017 - either outcome is fine

    trio.run(main, clock=trio.testing.MockClock(autojump_threshold=0))


@pytest.mark.parametrize(
    "parts",
    [
        (),
        (b"HTTP/1.1 200 OK\r\n",),
        (*(part for _ in range(90) for part in (1.0, b"HTTP/1.1 200 OK\r\nContent-Length: 90\r\n\r\n" if _ == 0 else b"x")),),
    ],
)
async def test_silence_and_dripping_end_with_the_time_limit(
    parts: tuple[Any, ...], autojump_clock: trio.testing.MockClock
) -> None:
    """RFC 8461 §3.3: bounded in time."""
    start = trio.current_time()
    assert (await fails(Server(*parts, close=False), timeout=60)).kind == "timeout"
    assert trio.current_time() - start == pytest.approx(60)


async def test_a_broken_connection_is_a_protocol_error() -> None:
    async def breaks(stream: trio.abc.Stream) -> None:
        await stream.receive_some(1)
        await trio.aclose_forcefully(stream)

    assert (await fails((V4, breaks))).kind == "protocol"


async def test_a_certificate_that_does_not_verify_says_why() -> None:
    trust = FakeTrust(Verdict.fail(ResultType.CERTIFICATE_EXPIRED, detail="expired yesterday"))
    server = Server(ok())
    error = await fails(server, trust=trust)
    assert error.kind == "tls"
    assert error.failure is not None
    assert error.failure.result_type is ResultType.CERTIFICATE_EXPIRED
    assert server.request == b""


async def test_verification_can_be_left_out() -> None:
    """RFC 8460 §3: certificate errors may be ignored when posting a report."""
    trust = FakeTrust(Verdict.fail(ResultType.CERTIFICATE_EXPIRED))
    assert (await fetch(Server(ok()), trust=trust, verify=False)).status == 200
    assert trust.asked == []


async def test_a_failed_handshake_says_why() -> None:
    error = await fails(("2600::2", Server(ok())), host="many.example.com")
    assert error.kind == "tls"
    assert error.failure == FakeTlsError.failure


async def test_addresses_are_tried_in_turn_ipv6_first() -> None:
    nets: list[MemoryNetwork] = []
    response = await fetch(Server(ok()), host="both.example.com", prepare=lambda net, dns: nets.append(net))
    assert response.status == 200
    assert [(endpoint.address, endpoint.port, endpoint.purpose) for endpoint in nets[0].dialled] == [
        (V6, 443, "https"),
        (V4, 443, "https"),
    ]
    nets.clear()
    response = await fetch(("2600::3", Server(ok())), host="many.example.com", prepare=lambda net, dns: nets.append(net))
    assert [endpoint.address for endpoint in nets[0].dialled] == ["2600::1", "2600::2", "2600::3"]


async def test_an_address_that_swallows_packets_does_not_eat_all_the_time(autojump_clock: trio.testing.MockClock) -> None:
    response = await fetch(Server(ok()), host="both.example.com", prepare=lambda net, dns: net.stall(V6, 443))
    assert response.status == 200
    assert trio.current_time() <= 31


async def test_nobody_there_is_a_connection_error() -> None:
    error = await fails(host="both.example.com")
    assert error.kind == "connect"
    assert "Connection refused" in str(error)


async def test_only_silence_is_a_timeout(autojump_clock: trio.testing.MockClock) -> None:
    def stall(net: MemoryNetwork, dns: ZoneResolver) -> None:
        net.stall(V4, 443)
        net.stall(V6, 443)

    assert (await fails(host="both.example.com", prepare=stall)).kind == "timeout"


@pytest.mark.parametrize("host", ["nothing.example.com", "empty.example.com"])
async def test_a_host_without_address(host: str) -> None:
    assert (await fails(host=host)).kind == "no-address"


async def test_addresses_that_could_not_be_looked_up() -> None:
    error = await fails(
        prepare=lambda net, dns: dns.fault(HOST, "AAAA", "SERVFAIL"), host="private.example.com", private_addresses=False
    )
    assert error.kind == "refused-address"
    assert (await fails(prepare=lambda net, dns: dns.fault(HOST))).kind == "dns"
    assert (await fails(prepare=lambda net, dns: dns.fault("empty.example.com", "A"), host="empty.example.com")).kind == "dns"
    response = await fetch(Server(ok()), prepare=lambda net, dns: dns.fault(HOST, "AAAA"))
    assert response.status == 200


@pytest.mark.parametrize(
    "host", ["private.example.com", "[127.0.0.1]", "[ipv6:::1]", "[169.254.169.254]", "[ipv6:::ffff:10.0.0.1]"]
)
async def test_private_addresses_are_not_dialled(host: str) -> None:
    """A URL in somebody's DNS record must not reach into our network."""
    nets: list[MemoryNetwork] = []
    error = await fails(host=host, private_addresses=False, prepare=lambda net, dns: nets.append(net))
    assert error.kind == "refused-address"
    assert nets[0].dialled == []


async def test_of_mixed_addresses_only_public_ones_are_dialled() -> None:
    nets: list[MemoryNetwork] = []
    options: dict[str, Any] = {"host": "mixed.example.com", "prepare": lambda net, dns: nets.append(net)}
    assert (await fetch(Server(ok()), **options, private_addresses=False)).status == 200
    assert [endpoint.address for endpoint in nets[0].dialled] == [V4]


@pytest.mark.parametrize(
    ("host", "address", "field"),
    [("[192.0.2.1]", "192.0.2.1", "192.0.2.1"), ("[IPv6:2001:db8::1]", "2001:db8::1", "[2001:db8::1]")],
)
async def test_an_address_literal_is_dialled_as_it_is(host: str, address: str, field: str) -> None:
    server = Server(ok())
    await fetch((address, server), host=host)
    assert f"host: {field}\r\n" in server.request.decode().lower()


@pytest.mark.parametrize(
    "options",
    [
        {"target": "no-slash"},
        {"target": "/a b"},
        {"target": "/a\r\nX: y"},
        {"target": "/ü"},
        {"method": "GET /"},
        {"headers": {"X": "a\r\nY: b"}},
        {"headers": {"X Y": "a"}},
        {"headers": {"X": "ü"}},
        {"port": 0},
        {"port": 65_536},
    ],
)
async def test_what_is_no_request_is_not_sent(options: dict[str, Any]) -> None:
    server = Server(ok())
    assert (await fails(server, **options)).kind == "protocol"
    assert server.request == b""
