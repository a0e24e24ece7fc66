"""A connected socket as a stream that does at once what can be done at once.

`trio.SocketStream` goes once through the scheduler for each call, also where the kernel took or had the octets; in a dialogue
of short lines that is most of what a message costs. Here a task gives way only where it has to wait, and now and then so that
it takes no more than its turn.
"""

from __future__ import annotations

import errno
import socket
from contextlib import suppress
from typing import Final

import trio

_TURN: Final = 16
_READ: Final = 64 * 1024
# As trio does: so much unsent is enough to keep a connection busy, and more would only wait in the kernel.
_UNSENT: Final = 16 * 1024
_CLOSED: Final = frozenset({errno.EBADF, errno.ENOTSOCK})


class SocketStream(trio.abc.HalfCloseableStream):
    """A stream over a connected stream socket, TCP or Unix, which belongs to it from now on. Raises what trio's own does."""

    def __init__(self, sock: socket.socket) -> None:
        sock.setblocking(False)
        self.socket = sock
        self._sending = self._receiving = False
        self._streak = 0
        with suppress(OSError):
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NOTSENT_LOWAT, _UNSENT)

    async def send_all(self, data: bytes | bytearray | memoryview) -> None:
        """Send all of it."""
        if self._sending:
            raise trio.BusyResourceError("another task is sending on this socket")
        self._sending = True
        try:
            await self._take_turn()
            # Also nothing is sent, so that a socket that was closed is found out.
            sent = self._send(data)
            if sent < len(data):
                with memoryview(data) as view:
                    while sent < len(data):
                        await trio.lowlevel.wait_writable(self.socket)
                        self._streak = 0
                        sent += self._send(view[sent:])
        finally:
            self._sending = False

    async def receive_some(self, max_bytes: int | None = None) -> bytes:
        """What is there, at most `max_bytes`; waits until there is something. Empty at the end."""
        if self._receiving:
            raise trio.BusyResourceError("another task is receiving from this socket")
        if max_bytes is not None and max_bytes < 1:
            raise ValueError("max_bytes must be positive")
        self._receiving = True
        try:
            await self._take_turn()
            while True:
                try:
                    return self.socket.recv(max_bytes or _READ)
                except BlockingIOError:
                    pass
                except OSError as exc:
                    raise _told(exc) from exc
                await trio.lowlevel.wait_readable(self.socket)
                self._streak = 0
        finally:
            self._receiving = False

    async def wait_send_all_might_not_block(self) -> None:
        """Wait until the kernel takes something."""
        await trio.lowlevel.wait_writable(self.socket)

    async def send_eof(self) -> None:
        """Say that nothing more will be sent."""
        if self._sending:
            raise trio.BusyResourceError("another task is sending on this socket")
        await trio.lowlevel.checkpoint()
        try:
            self.socket.shutdown(socket.SHUT_WR)
        except OSError as exc:
            raise _told(exc) from exc

    async def aclose(self) -> None:
        """Close it; tasks that wait on it hear `ClosedResourceError`."""
        if self.socket.fileno() >= 0:
            trio.lowlevel.notify_closing(self.socket)
            self.socket.close()
        await trio.lowlevel.checkpoint()

    def _send(self, data: bytes | bytearray | memoryview) -> int:
        try:
            return self.socket.send(data)
        except BlockingIOError:
            return 0
        except OSError as exc:
            raise _told(exc) from exc

    async def _take_turn(self) -> None:
        self._streak += 1
        if self._streak < _TURN:
            await trio.lowlevel.checkpoint_if_cancelled()
        else:
            self._streak = 0
            await trio.lowlevel.checkpoint()


def _told(error: OSError) -> trio.ClosedResourceError | trio.BrokenResourceError:
    if error.errno in _CLOSED:
        return trio.ClosedResourceError("this socket was already closed")
    return trio.BrokenResourceError(f"socket connection broken: {error}")
