"""Queries carried to a name server and answers back, over UDP and TCP (RFC 1035 §4.2, RFC 7766).

Not through `postward.net`: what plugins say of streams to mail servers does not hold for the resolver next door.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

import trio

from postward.dns.nameserver import Nameserver


class Transport(Protocol):
    """Carries one query. Raises `OSError`; the caller bounds the time."""

    async def datagram(self, server: Nameserver, query: bytes, accept: Callable[[bytes], bool]) -> bytes:
        """Send over UDP and wait for the first datagram that `accept` takes; others are not ours and are dropped."""

    async def stream(self, server: Nameserver, query: bytes) -> bytes:
        """Send over TCP and read one message."""


class SocketTransport:
    """Real sockets: each query from a port of its own, connected, so only that server's datagrams arrive (RFC 5452 §9.2)."""

    async def datagram(self, server: Nameserver, query: bytes, accept: Callable[[bytes], bool]) -> bytes:
        with await self._connected(server, trio.socket.SOCK_DGRAM) as sock:
            await sock.send(query)
            while True:
                response: bytes = await sock.recv(65_535)
                if accept(response):
                    return response

    async def stream(self, server: Nameserver, query: bytes) -> bytes:
        sock = await self._connected(server, trio.socket.SOCK_STREAM)
        try:
            async with trio.SocketStream(sock) as stream:
                await stream.send_all(len(query).to_bytes(2, "big") + query)
                length = int.from_bytes(await _read_exactly(stream, 2), "big")
                return await _read_exactly(stream, length)
        except trio.BrokenResourceError as exc:
            raise ConnectionError("the connection broke") from exc

    async def _connected(self, server: Nameserver, kind: int) -> trio.socket.SocketType:
        flags = trio.socket.AI_NUMERICHOST | trio.socket.AI_NUMERICSERV
        found = await trio.socket.getaddrinfo(server.address, server.port, type=kind, flags=flags)
        family, _, _, _, address = found[0]
        sock = trio.socket.socket(family, kind)
        try:
            await sock.connect(address)
        except BaseException:
            sock.close()
            raise
        return sock


async def _read_exactly(stream: trio.abc.ReceiveStream, length: int) -> bytes:
    data = bytearray()
    while len(data) < length:
        received = await stream.receive_some(length - len(data))
        if not received:
            raise ConnectionError("the connection was closed early")
        data += received
    return bytes(data)
