"""The lab's name server on real sockets, asked by dnspython."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import dns.asyncquery
import dns.flags
import dns.message
import pytest
import trio

from postward.lab.dnsserver import serve_tcp, serve_udp
from postward.lab.ground import DNS, claim
from postward.lab.zones import Zones

pytestmark = pytest.mark.loopback


@asynccontextmanager
async def running() -> AsyncIterator[int]:
    zones = Zones()
    zones.add("a.test", "mx A 127.0.1.1\nbig TXT " + " ".join(f'"{"x" * 250}"' for _ in range(8)))
    ground = claim([])
    async with trio.open_nursery() as nursery:
        nursery.start_soon(serve_udp, zones, ground.datagrams)
        nursery.start_soon(serve_tcp, zones, ground.listeners[DNS])
        yield ground.port
        nursery.cancel_scope.cancel()
    ground.close()


async def test_udp_then_tcp_for_what_is_too_big() -> None:
    async with running() as port:
        query = dns.message.make_query("big.a.test", "TXT", use_edns=0)
        response, used_tcp = await dns.asyncquery.udp_with_fallback(query, DNS, port=port, timeout=5)
        assert used_tcp
        assert len(response.answer[0][0].strings) == 8


async def test_garbage_ends_nothing() -> None:
    async with running() as port:
        with trio.socket.socket(trio.socket.AF_INET, trio.socket.SOCK_DGRAM) as socket:
            for packet in (b"", b"\0", b"\xff" * 600, b"\0" * 12):
                await socket.sendto(packet, (DNS, port))
        for junk in (b"\0\0", b"\0\x05ab", b"\0\x0c" + b"\xff" * 12, b"\xff\xff"):
            stream = await trio.open_tcp_stream(DNS, port)
            await stream.send_all(junk)
            await stream.aclose()
        query = dns.message.make_query("mx.a.test", "A")
        query.flags |= dns.flags.AD
        for ask in (dns.asyncquery.udp, dns.asyncquery.tcp):
            response = await ask(query, DNS, port=port, timeout=5)
            assert response.flags & dns.flags.AD
            assert response.answer[0][0].address == "127.0.1.1"


async def test_two_labs_side_by_side() -> None:
    """Each has a port of its own on the same addresses."""
    addresses = ["127.0.1.1", "127.0.1.2", "127.0.2.1"]
    grounds = [claim(addresses) for _ in range(5)]
    try:
        assert len({ground.port for ground in grounds}) == 5
        for ground in grounds:
            for address in [DNS, *addresses]:
                await (await trio.open_tcp_stream(address, ground.port)).aclose()
    finally:
        for ground in grounds:
            ground.close()
