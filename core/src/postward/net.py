"""The seam to the network: streams to endpoints.

Everything that leaves this process over TCP goes through `Network.open_stream`: plugins may answer for it (a proxy, a source
address), tests and the lab put another network here.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    import trio

    from postward.model import Endpoint


class Network(Protocol):
    """Opens transports."""

    async def open_stream(self, endpoint: Endpoint) -> trio.abc.Stream:
        """Connect, without TLS. Raises `OSError` when that is not possible; the caller bounds the time."""
