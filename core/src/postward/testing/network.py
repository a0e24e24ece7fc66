"""A network in memory: what is dialled meets a handler of the test, over memory streams.

Streams behave as TCP does, without sockets, so a test with an autojumping clock needs no real time.
"""

from __future__ import annotations

import errno
from collections.abc import Awaitable, Callable
from ipaddress import ip_address
from typing import TYPE_CHECKING

import trio
import trio.testing

if TYPE_CHECKING:
    from postward.model import Endpoint

Handler = Callable[[trio.abc.Stream], Awaitable[object]]


class MemoryNetwork:
    """Implements `postward.net.Network` with handlers by address and port; they run in `nursery`.

    A handler is given the server's end, which is closed when it returns; that its peer went away is no error of its own. An
    address without a handler refuses the connection. `dialled` lists every endpoint, in order. With `lockstep`, nothing is
    buffered: a send waits until the other side has received.
    """

    def __init__(self, nursery: trio.Nursery, *, lockstep: bool = False) -> None:
        self._nursery, self._lockstep = nursery, lockstep
        self._handlers: dict[tuple[str, int], Handler | OSError | None] = {}
        self.dialled: list[Endpoint] = []

    def listen(self, address: str, port: int, handler: Handler) -> None:
        """Answer connections to an address and port with `handler`."""
        self._handlers[_key(address, port)] = handler

    def refuse(self, address: str, port: int, error: OSError | None = None) -> None:
        """Let connections fail with `error`, by default as refused."""
        self._handlers[_key(address, port)] = error or _refused()

    def stall(self, address: str, port: int) -> None:
        """Let connections wait for ever, as behind a firewall that drops packets."""
        self._handlers[_key(address, port)] = None

    async def open_stream(self, endpoint: Endpoint) -> trio.abc.Stream:
        """Connect to the handler. Raises `OSError`."""
        self.dialled.append(endpoint)
        await trio.lowlevel.checkpoint()
        handler = self._handlers.get(_key(endpoint.address, endpoint.port), _refused())
        if handler is None:
            await trio.sleep_forever()
        if isinstance(handler, OSError):
            raise handler
        ours, theirs = trio.testing.lockstep_stream_pair() if self._lockstep else trio.testing.memory_stream_pair()
        self._nursery.start_soon(_serve, handler, theirs)
        return ours


def _key(address: str, port: int) -> tuple[str, int]:
    return str(ip_address(address)), port


def _refused() -> OSError:
    return ConnectionRefusedError(errno.ECONNREFUSED, "Connection refused")


async def _serve(handler: Handler, stream: trio.abc.Stream) -> None:
    try:
        await handler(stream)
    except (trio.BrokenResourceError, trio.ClosedResourceError):
        pass
    finally:
        await trio.aclose_forcefully(stream)
