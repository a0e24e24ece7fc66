"""How often a stranger may come: so many messages in each minute from one network, and no more."""

from __future__ import annotations

import ipaddress
from collections import Counter
from typing import Final

_MINUTE: Final = 60_000_000
_MOST_KNOWN: Final = 50_000


class Pace:
    """Counts by /32 of IPv4 and /64 of IPv6, which is what one customer has."""

    def __init__(self, per_minute: int) -> None:
        self._most = per_minute
        self._minute = 0
        self._counts: Counter[str] = Counter()

    def may(self, peer: str, now: int) -> bool:
        """Whether a client may bring one more message; it counts when it may. `now` is in microseconds."""
        minute = now // _MINUTE
        if minute != self._minute:
            self._minute, self._counts = minute, Counter()
        key = _network(peer)
        if self._counts[key] >= self._most or (key not in self._counts and len(self._counts) >= _MOST_KNOWN):
            return False
        self._counts[key] += 1
        return True


def _network(peer: str) -> str:
    try:
        ip = ipaddress.ip_address(peer.partition("%")[0])
    except ValueError:
        return peer
    ip = getattr(ip, "ipv4_mapped", None) or ip
    return str(ipaddress.ip_network((ip, 64), strict=False)) if ip.version == 6 else str(ip)
