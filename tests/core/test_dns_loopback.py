"""The resolver's own sockets against a hostile name server on loopback."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import dns.flags
import dns.message
import dns.rcode
import dns.rrset
import pytest
import trio

from postward.dns import Answer, Status, SystemResolver

pytestmark = pytest.mark.loopback

Mangle = Callable[[bytes], list[bytes]]


def reply(query: bytes, *lines: str, tc: bool = False) -> bytes:
    message = dns.message.make_response(dns.message.from_wire(query))
    message.flags |= dns.flags.AD | (dns.flags.TC if tc else 0)
    for line in lines:
        owner, kind, data = line.split(maxsplit=2)
        message.answer.append(dns.rrset.from_text(owner, 60, "IN", kind, data))
    return message.to_wire(max_size=65_535)


A = "example.com. A 192.0.2.7"


async def ask(udp: Mangle, tcp: Callable[[bytes], bytes] | None = None, *, host: str = "127.0.0.1", limit: float = 5) -> Answer:
    """Start a server that answers with the datagrams of `udp` and the raw bytes of `tcp`, and ask it."""
    family = trio.socket.AF_INET6 if ":" in host else trio.socket.AF_INET
    with trio.socket.socket(family, trio.socket.SOCK_DGRAM) as sock, trio.socket.socket(family) as listening:
        # TCP first: its numbers are in use by others, while those of UDP are nearly all free.
        await listening.bind((host, 0))
        port = listening.getsockname()[1]
        await sock.bind((host, port))

        async def serve_udp() -> None:
            while True:
                query, peer = await sock.recvfrom(4096)
                for datagram in udp(query):
                    await sock.sendto(datagram, peer)

        async def serve_tcp(stream: trio.SocketStream) -> None:
            query = await stream.receive_some(4096)
            await stream.send_all(tcp(bytes(query[2:])) if tcp else b"")

        async with trio.open_nursery() as nursery:
            nursery.start_soon(serve_udp)
            if tcp:
                listening.listen()
                await nursery.start(partial(trio.serve_listeners, serve_tcp, [trio.SocketListener(listening)]))
            text = f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
            answer = await SystemResolver([text], timeout=limit, try_timeout=limit).query("example.com", "A")
            nursery.cancel_scope.cancel()
    return answer


@pytest.mark.parametrize("host", ["127.0.0.1", "::1"])
async def test_an_answer_comes_over_udp(host: str) -> None:
    answer = await ask(lambda query: [reply(query, A)], host=host)
    assert (answer.status, answer.records[0].address) == (Status.SECURE, "192.0.2.7")


async def test_a_truncated_answer_comes_over_tcp() -> None:
    def tcp(query: bytes) -> bytes:
        data = reply(query, A)
        return len(data).to_bytes(2, "big") + data

    answer = await ask(lambda query: [reply(query, tc=True)], tcp)
    assert answer.status is Status.SECURE


@pytest.mark.parametrize("data", [b"", b"\x00", b"\x00\x20short", b"\x00\x00"])
async def test_a_broken_tcp_answer_is_a_failure(data: bytes) -> None:
    answer = await ask(lambda query: [reply(query, tc=True)], lambda _: data)
    assert answer.failure is not None
    assert answer.failure.rcode in ("NETWORK", "MALFORMED")


async def test_wrong_ids_and_garbage_are_dropped() -> None:
    def udp(query: bytes) -> list[bytes]:
        wrong = bytearray(reply(query, "example.com. A 203.0.113.66"))
        wrong[0] ^= 0xFF
        return [bytes(wrong), b"", b"\xff" * 600, reply(query, A)]

    assert (await ask(udp)).records[0].address == "192.0.2.7"


async def test_a_malformed_answer_is_a_failure() -> None:
    answer = await ask(lambda query: [reply(query, A)[:-3]])
    assert answer.failure is not None
    assert answer.failure.rcode == "MALFORMED"


async def test_a_silent_server_is_a_timeout() -> None:
    answer = await ask(lambda query: [], limit=0.05)
    assert answer.failure is not None
    assert answer.failure.rcode == "TIMEOUT"


async def test_a_closed_port_is_a_network_failure() -> None:
    with trio.socket.socket(trio.socket.AF_INET, trio.socket.SOCK_DGRAM) as sock:
        await sock.bind(("127.0.0.1", 0))
        port = sock.getsockname()[1]
    answer = await SystemResolver([f"127.0.0.1:{port}"]).query("example.com", "A")
    assert answer.failure is not None
    assert answer.failure.rcode == "NETWORK"
