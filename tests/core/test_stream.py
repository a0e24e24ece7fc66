"""Sockets and TLS as streams: what trio's own promise holds, and nobody takes more than a turn."""

from __future__ import annotations

import socket
import ssl
import struct
from collections.abc import Iterator

import pytest
import trio
import trio.testing

from postward.lab.ca import Authority
from postward.stream import SocketStream
from postward.tls import TlsStream

LARGE = bytes(range(256)) * 8192


@pytest.fixture
def pair() -> Iterator[tuple[SocketStream, SocketStream]]:
    """Two streams that are connected over TCP."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        client = socket.create_connection(server.getsockname())
        accepted, _ = server.accept()
    with client, accepted:
        yield SocketStream(client), SocketStream(accepted)


async def all_of(stream: trio.abc.ReceiveStream) -> bytes:
    data = b""
    while piece := await stream.receive_some():
        data += piece
    return data


@pytest.mark.loopback
class TestSocketStream:
    async def test_more_than_the_kernel_holds_arrives_whole(
        self, pair: tuple[SocketStream, SocketStream], nursery: trio.Nursery
    ) -> None:
        first, second = pair

        async def send() -> None:
            await first.send_all(LARGE)
            await first.send_eof()

        nursery.start_soon(send)
        assert await all_of(second) == LARGE
        # The other direction is still open.
        await second.send_all(b"thanks")
        assert await first.receive_some(3) == b"tha"
        await first.aclose()
        await second.aclose()

    async def test_who_waits_on_a_socket_that_is_closed_hears_of_it(self, pair: tuple[SocketStream, SocketStream]) -> None:
        first, _second = pair

        async def wait() -> None:
            with pytest.raises(trio.ClosedResourceError):
                await first.receive_some()

        async with trio.open_nursery() as nursery:
            nursery.start_soon(wait)
            await trio.testing.wait_all_tasks_blocked()
            await first.aclose()
        for late in (first.receive_some(), first.send_all(b"x"), first.send_all(b""), first.send_eof()):
            with pytest.raises(trio.ClosedResourceError):
                await late
        await first.aclose()

    async def test_a_peer_that_is_gone_breaks_it(self, pair: tuple[SocketStream, SocketStream]) -> None:
        first, second = pair
        second.socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        await second.aclose()
        with pytest.raises(trio.BrokenResourceError):
            await first.receive_some()
        with pytest.raises(trio.BrokenResourceError):
            await first.send_all(b"x")

    async def test_one_task_at_a_time(self, pair: tuple[SocketStream, SocketStream]) -> None:
        first, _second = pair
        async with trio.open_nursery() as nursery:
            nursery.start_soon(first.receive_some)
            nursery.start_soon(first.send_all, LARGE)
            await trio.testing.wait_all_tasks_blocked()
            for late in (first.receive_some(), first.send_all(b"x"), first.send_eof()):
                with pytest.raises(trio.BusyResourceError):
                    await late
            nursery.cancel_scope.cancel()

    async def test_who_is_cancelled_does_nothing(self, pair: tuple[SocketStream, SocketStream]) -> None:
        first, second = pair
        with trio.CancelScope() as scope:
            scope.cancel()
            await first.send_all(b"x")
        assert scope.cancelled_caught
        await first.send_all(b"y")
        assert await second.receive_some() == b"y"
        await first.send_all(b"z")
        with trio.CancelScope() as scope:
            scope.cancel()
            await second.receive_some()
        assert scope.cancelled_caught
        assert await second.receive_some() == b"z"

    async def test_who_never_has_to_wait_gives_way_all_the_same(self, pair: tuple[SocketStream, SocketStream]) -> None:
        first, second = pair
        turns = 0

        async def count() -> None:
            nonlocal turns
            while True:
                turns += 1
                await trio.lowlevel.checkpoint()

        async with trio.open_nursery() as nursery:
            nursery.start_soon(count)
            for _ in range(160):
                await first.send_all(b"x")
                await second.receive_some()
            nursery.cancel_scope.cancel()
        assert 10 <= turns <= 100

    async def test_a_limit_of_nothing_is_an_error(self, pair: tuple[SocketStream, SocketStream]) -> None:
        first, _second = pair
        with pytest.raises(ValueError, match="max_bytes"):
            await first.receive_some(0)


@pytest.fixture(scope="module")
def contexts() -> tuple[ssl.SSLContext, ssl.SSLContext]:
    issued = Authority("test").issue(["mx.example"])
    client = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    client.check_hostname, client.verify_mode = False, ssl.CERT_NONE
    return client, issued.server_context()


@pytest.fixture
async def tls(contexts: tuple[ssl.SSLContext, ssl.SSLContext]) -> tuple[TlsStream, TlsStream]:
    near, far = trio.testing.memory_stream_pair()
    client = TlsStream(near, contexts[0], server_hostname="mx.example", abrupt_end=False)
    server = TlsStream(far, contexts[1], server_side=True)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(client.shake)
        await server.shake()
    return client, server


async def test_both_directions_at_once(tls: tuple[TlsStream, TlsStream]) -> None:
    client, server = tls
    got: list[bytes] = []

    async def answer() -> None:
        got.append(await all_of(server))

    async with trio.open_nursery() as nursery:
        nursery.start_soon(answer)
        nursery.start_soon(server.send_all, LARGE)
        await client.send_all(LARGE)
        back = b""
        while len(back) < len(LARGE):
            back += await client.receive_some(1000)
        await client.send_all(b"")
        await client.aclose()
    assert back == LARGE
    assert got == [LARGE]


async def test_close_notify_goes_both_ways(tls: tuple[TlsStream, TlsStream]) -> None:
    client, server = tls

    async def see_the_end() -> None:
        assert await client.receive_some() == b""
        await client.unwrap()

    async with trio.open_nursery() as nursery:
        nursery.start_soon(see_the_end)
        await server.unwrap()


async def test_an_abrupt_end_is_one_where_that_is_allowed(tls: tuple[TlsStream, TlsStream]) -> None:
    client, server = tls
    await client.transport.aclose()
    assert await server.receive_some() == b""


async def test_an_abrupt_end_breaks_where_it_would_hide_something(tls: tuple[TlsStream, TlsStream]) -> None:
    client, server = tls
    await server.aclose()
    with pytest.raises(trio.BrokenResourceError) as caught:
        await client.receive_some()
    assert isinstance(caught.value.__cause__, ssl.SSLError)


async def test_what_is_no_tls_breaks_it(tls: tuple[TlsStream, TlsStream]) -> None:
    client, server = tls
    await client.transport.send_all(b"220 hello\r\n")
    with pytest.raises(trio.BrokenResourceError) as caught:
        await server.receive_some()
    assert isinstance(caught.value.__cause__, ssl.SSLError)


async def test_nothing_follows_half_a_record(contexts: tuple[ssl.SSLContext, ssl.SSLContext]) -> None:
    near, far = trio.testing.lockstep_stream_pair()
    client = TlsStream(near, contexts[0])
    server = TlsStream(far, contexts[1], server_side=True)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(client.shake)
        nursery.start_soon(server.shake)
        await trio.testing.wait_all_tasks_blocked()
        nursery.cancel_scope.cancel()
    with trio.CancelScope() as scope:
        scope.cancel()
        await client.send_all(b"x")
    assert scope.cancelled_caught
    with pytest.raises(trio.BrokenResourceError, match="not sent to its end"):
        await client.send_all(b"y")
    await client.aclose()
