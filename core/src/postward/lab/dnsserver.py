"""The lab's name server on UDP and TCP: packets in, packets out. What it answers is the business of `zones`."""

from __future__ import annotations

import struct
from contextlib import suppress
from typing import TYPE_CHECKING, Final

import trio

if TYPE_CHECKING:
    from postward.lab.zones import Zones

_IDLE: Final = 10.0
_MAX_QUESTIONS: Final = 1000


async def serve_udp(zones: Zones, socket: trio.socket.SocketType) -> None:
    """Answer datagrams until cancelled; no packet and no vanished client ends it."""
    while True:
        wire, client = await socket.recvfrom(65535)
        answer = zones.reply(wire, udp=True)
        if answer is not None:
            with suppress(OSError):
                await socket.sendto(answer, client)


async def serve_tcp(zones: Zones, listener: trio.SocketListener) -> None:
    """Answer connections until cancelled (RFC 7766): each message behind its length in two octets."""

    async def connection(stream: trio.SocketStream) -> None:
        async with stream:
            await _talk(zones, stream)

    await trio.serve_listeners(connection, [listener])


async def _talk(zones: Zones, stream: trio.SocketStream) -> None:
    for _ in range(_MAX_QUESTIONS):
        with trio.move_on_after(_IDLE) as idle:
            try:
                length = await _exactly(stream, 2)
                wire = await _exactly(stream, struct.unpack("!H", length)[0]) if length else b""
                if not wire:
                    return
                answer = zones.reply(wire, udp=False)
                if answer is not None:
                    await stream.send_all(struct.pack("!H", len(answer)) + answer)
            except (OSError, trio.BrokenResourceError):
                return
        if idle.cancelled_caught:
            return


async def _exactly(stream: trio.SocketStream, size: int) -> bytes:
    """Read `size` octets; nothing when the client ends before."""
    got = b""
    while len(got) < size:
        part = await stream.receive_some(size - len(got))
        if not part:
            return b""
        got += part
    return got
