"""Who counts as one client, and how often one may be wrong about a password.

An IPv6 client has the whole of its /64 (RFC 4291 §2.5.1), so an address of it says nothing about who comes back. Sessions end
after a few failed logins; what counts here goes on from session to session and over all listeners of a process.
"""

from __future__ import annotations

import ipaddress
from collections import OrderedDict
from typing import Final

import trio

MAX_WRONG: Final = 20
WRONG_WITHIN: Final = 600.0
_REMEMBERED: Final = 10_000


def client_of(peer: str) -> str:
    """The client behind an address: itself for IPv4, also where it is mapped, and its /64 for IPv6; else `peer` as it is."""
    if ":" not in peer:
        return peer
    try:
        ip = ipaddress.IPv6Address(peer.partition("%")[0])
    except ValueError:
        return peer
    if ip.ipv4_mapped is not None:
        return str(ip.ipv4_mapped)
    return f"{ipaddress.IPv6Address(int(ip) >> 64 << 64)}/64"


class WrongLogins:
    """Failed logins of each client. After `MAX_WRONG` of them, none is answered until `WRONG_WITHIN` seconds after the first.

    What is remembered is bounded; beyond that, the client that was wrong first is forgotten.
    """

    def __init__(self) -> None:
        self._wrong: OrderedDict[str, tuple[float, int]] = OrderedDict()

    def too_many(self, peer: str) -> bool:
        """Whether this client has to wait."""
        return self._of(client_of(peer))[1] >= MAX_WRONG

    def count(self, peer: str) -> None:
        """A login of this client failed."""
        client = client_of(peer)
        since, times = self._of(client)
        self._wrong[client] = (since, times + 1)
        while len(self._wrong) > _REMEMBERED:
            self._wrong.popitem(last=False)

    def forgive(self, peer: str) -> None:
        """The login that was counted last was right after all."""
        client = client_of(peer)
        since, times = self._of(client)
        if times > 1:
            self._wrong[client] = (since, times - 1)
        else:
            self._wrong.pop(client, None)

    def _of(self, client: str) -> tuple[float, int]:
        now = trio.current_time()
        since, times = self._wrong.get(client, (now, 0))
        if now - since < WRONG_WITHIN:
            return since, times
        del self._wrong[client]
        return now, 0
