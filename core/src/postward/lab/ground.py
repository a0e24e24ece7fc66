"""The addresses of the lab: one port number, free on as many loopback addresses as there are hosts.

Every host has an address of its own in 127.0.0.0/8, and all of them share the number of the port, so that one entry of
`net.port_map` leads there. The system chooses the number: labs that run side by side never meet, and nobody has to be root.
"""

from __future__ import annotations

import errno
import socket
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Final

import trio

from postward.errors import PostwardError

DNS: Final = "127.0.0.1"
WEB: Final = "127.0.2.1"
_TRIES: Final = 50
_BACKLOG: Final = 128


class LabError(PostwardError):
    """The lab cannot be built here."""


@dataclass(frozen=True, slots=True)
class Ground:
    """Open sockets: the name server's datagrams, and a listener per address."""

    port: int
    datagrams: trio.socket.SocketType
    listeners: dict[str, trio.SocketListener]

    def close(self) -> None:
        """Close every socket."""
        self.datagrams.close()
        for listener in self.listeners.values():
            listener.socket.close()


def host_address(number: int) -> str:
    """The address of the mail host with this number, counted from 0. Raises `LabError` when there are too many."""
    if number >= 250:
        raise LabError("a lab has room for 250 mail hosts")
    return f"127.0.1.{number + 1}"


def claim(addresses: Sequence[str]) -> Ground:
    """Open the same port on `DNS` (TCP and UDP) and on each of `addresses` (TCP). Raises `LabError`."""
    for _ in range(_TRIES):
        try:
            return _claim(addresses)
        except OSError as exc:
            if exc.errno == errno.EADDRNOTAVAIL:
                raise LabError("this system does not let a program listen on all of 127.0.0.0/8") from exc
            if exc.errno != errno.EADDRINUSE:
                raise LabError(f"cannot listen on loopback: {exc.strerror}") from exc
    raise LabError("no port is free on all loopback addresses")


def _claim(addresses: Sequence[str]) -> Ground:
    with ExitStack() as stack:
        first = stack.enter_context(_listen(DNS, 0))
        port: int = first.getsockname()[1]
        datagrams = stack.enter_context(socket.socket(socket.AF_INET, socket.SOCK_DGRAM))
        datagrams.bind((DNS, port))
        others = {address: stack.enter_context(_listen(address, port)) for address in addresses}
        stack.pop_all()
    listeners = {address: trio.SocketListener(trio.socket.from_stdlib_socket(each)) for address, each in others.items()}
    listeners[DNS] = trio.SocketListener(trio.socket.from_stdlib_socket(first))
    return Ground(port, trio.socket.from_stdlib_socket(datagrams), listeners)


def _listen(address: str, port: int) -> socket.socket:
    listener = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind((address, port))
        listener.listen(_BACKLOG)
    except OSError:
        listener.close()
        raise
    return listener
