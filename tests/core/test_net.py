"""Transports: plain TCP on loopback, and the network in memory."""

from __future__ import annotations

import errno

import pytest
import trio

from postward.errors import ConfigError
from postward.model import Endpoint
from postward.names import Domain
from postward.net import TcpNetwork
from postward.testing.network import MemoryNetwork


def endpoint(address: str, port: int) -> Endpoint:
    return Endpoint(host=Domain("mx.example.com"), address=address, port=port)


@pytest.mark.loopback
@pytest.mark.parametrize(("host", "source"), [("127.0.0.1", "127.0.0.9"), ("::1", "::1")])
async def test_tcp_goes_to_the_mapped_port_from_the_chosen_address(host: str, source: str) -> None:
    peers: list[str] = []

    async def handler(stream: trio.SocketStream) -> None:
        peers.append(stream.socket.getpeername()[0])
        await stream.send_all(b"220 hello\r\n")

    async with trio.open_nursery() as nursery:
        listeners = await nursery.start(lambda task_status: _serve(handler, host, task_status))
        port = listeners[0].socket.getsockname()[1]
        stream = await TcpNetwork({25: port}, source=[source]).open_stream(endpoint(host, 25))
        async with stream:
            assert await stream.receive_some() == b"220 hello\r\n"
            assert stream.socket.getsockopt(trio.socket.IPPROTO_TCP, trio.socket.TCP_NODELAY)
        nursery.cancel_scope.cancel()
    assert peers == [source]


async def _serve(handler: object, host: str, task_status: object) -> None:
    await trio.serve_tcp(handler, 0, host=host, task_status=task_status)  # type: ignore[arg-type]


@pytest.mark.loopback
async def test_a_closed_port_is_an_os_error() -> None:
    with trio.socket.socket() as sock:
        await sock.bind(("127.0.0.1", 0))
        port = sock.getsockname()[1]
    with pytest.raises(ConnectionRefusedError):
        await TcpNetwork().open_stream(endpoint("127.0.0.1", port))


@pytest.mark.parametrize("address", ["localhost", "", "mx.example.com", "256.0.0.1"])
async def test_only_addresses_are_dialled(address: str) -> None:
    with pytest.raises(OSError, match="not an IP address"):
        await TcpNetwork().open_stream(endpoint(address, 25))


@pytest.mark.parametrize("options", [{"port_map": {25: 0}}, {"port_map": {70_000: 25}}])
def test_a_bad_port_map_is_a_configuration_error(options: dict[str, dict[int, int]]) -> None:
    with pytest.raises(ConfigError):
        TcpNetwork(**options)


@pytest.mark.parametrize("source", [["localhost"], ["127.0.0.1", "127.0.0.2"]])
def test_a_bad_source_is_a_configuration_error(source: list[str]) -> None:
    with pytest.raises(ConfigError):
        TcpNetwork(source=source)


async def test_the_network_in_memory(nursery: trio.Nursery, autojump_clock: object) -> None:
    net = MemoryNetwork(nursery)

    async def echo(stream: trio.abc.Stream) -> None:
        async for data in stream:
            await stream.send_all(data)

    net.listen("2001:DB8:0::1", 25, echo)
    net.refuse("192.0.2.2", 25, OSError(errno.EHOSTUNREACH, "No route to host"))
    net.stall("192.0.2.3", 25)
    stream = await net.open_stream(endpoint("2001:db8::1", 25))
    await stream.send_all(b"ping")
    assert await stream.receive_some() == b"ping"
    await stream.aclose()
    with pytest.raises(ConnectionRefusedError):
        await net.open_stream(endpoint("2001:db8::1", 26))
    with pytest.raises(OSError, match="No route"):
        await net.open_stream(endpoint("192.0.2.2", 25))
    with trio.move_on_after(1000) as scope:
        await net.open_stream(endpoint("192.0.2.3", 25))
    assert scope.cancelled_caught
    assert [dialled.address for dialled in net.dialled] == ["2001:db8::1", "2001:db8::1", "192.0.2.2", "192.0.2.3"]


async def test_a_handler_may_lose_its_peer(nursery: trio.Nursery) -> None:
    net = MemoryNetwork(nursery)

    async def talks(stream: trio.abc.Stream) -> None:
        while True:
            await stream.send_all(b"x" * 1000)

    net.listen("192.0.2.1", 25, talks)
    stream = await net.open_stream(endpoint("192.0.2.1", 25))
    await trio.aclose_forcefully(stream)
    await trio.testing.wait_all_tasks_blocked()
