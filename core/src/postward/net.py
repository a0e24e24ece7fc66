"""The seam to the network: streams to endpoints.

Everything that leaves this process over TCP goes through `Network.open_stream`: plugins may answer for it (a proxy, a source
address), tests and the lab put another network here.
"""

from __future__ import annotations

import errno
import ipaddress
import socket
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Protocol

import trio

from postward.errors import ConfigError
from postward.stream import SocketStream

if TYPE_CHECKING:
    from postward.model import Endpoint


class Network(Protocol):
    """Opens transports."""

    async def open_stream(self, endpoint: Endpoint) -> trio.abc.Stream:
        """Connect, without TLS. Raises `OSError` when that is not possible; the caller bounds the time."""


class TcpNetwork:
    """Plain TCP to the endpoint's address.

    `port_map` dials another port instead, for a lab without privileges (`{25: 20025}`). `source` are local addresses to
    connect from, at most one per family. Raises `ConfigError` for addresses and ports that are none.
    """

    def __init__(self, port_map: Mapping[int, int] | None = None, *, source: Sequence[str] = ()) -> None:
        self._port_map = dict(port_map or {})
        for port in (*self._port_map, *self._port_map.values()):
            if not 0 < port < 65_536:
                raise ConfigError(f"not a port: {port}", key="net.port_map")
        self._source: dict[int, str] = {}
        for text in source:
            try:
                version = ipaddress.ip_address(text).version
            except ValueError:
                raise ConfigError(f"not an IP address to connect from: {text[:80]!r}", key="net.source") from None
            if version in self._source:
                raise ConfigError(f"more than one IPv{version} address to connect from", key="net.source")
            self._source[version] = text

    async def open_stream(self, endpoint: Endpoint) -> SocketStream:
        """Connect. Raises `OSError`; the caller bounds the time."""
        try:
            ip = ipaddress.ip_address(endpoint.address)
        except ValueError:
            raise OSError(errno.EINVAL, f"not an IP address: {endpoint.address[:80]!r}") from None
        # Only getaddrinfo understands the scope of a link-local address.
        flags = trio.socket.AI_NUMERICHOST | trio.socket.AI_NUMERICSERV
        port = self._port_map.get(endpoint.port, endpoint.port)
        found = await trio.socket.getaddrinfo(endpoint.address, port, type=trio.socket.SOCK_STREAM, flags=flags)
        family, kind, _, _, address = found[0]
        plain = socket.socket(family, kind)
        sock = trio.socket.from_stdlib_socket(plain)
        try:
            if source := self._source.get(ip.version):
                await sock.bind((source, 0))
            await sock.connect(address)
            return SocketStream(plain)
        except BaseException:
            sock.close()
            raise
