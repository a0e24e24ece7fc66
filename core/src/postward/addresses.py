"""Which IP addresses belong to the public internet, and which to any host at all.

A URL in a DNS record or a report can lead anywhere; a request that somebody else asked for must not reach what only this
host can reach. The judgement is by the IANA registries of special-purpose addresses (RFC 6890), and looks into the IPv4
addresses that IPv6 transition mechanisms carry.
"""

from __future__ import annotations

import ipaddress
from typing import Final

_UNICAST: Final = ipaddress.IPv6Network("2000::/3")
_NAT64: Final = ipaddress.IPv6Network("64:ff9b::/96")
_SPECIAL6: Final = tuple(
    ipaddress.IPv6Network(text)
    for text in (
        "2001::/23",  # protocol assignments, Teredo and benchmarking among them
        "2001:db8::/32",  # documentation
        "3fff::/20",  # documentation
    )
)
_NO_HOST4: Final = (ipaddress.IPv4Network("0.0.0.0/8"), ipaddress.IPv4Network("224.0.0.0/3"))
_SPECIAL4: Final = tuple(
    ipaddress.IPv4Network(text)
    for text in (
        "0.0.0.0/8",
        "10.0.0.0/8",
        "100.64.0.0/10",  # shared by carriers
        "127.0.0.0/8",
        "169.254.0.0/16",  # link-local, and where clouds keep their metadata
        "172.16.0.0/12",
        "192.0.0.0/24",
        "192.0.2.0/24",  # documentation
        "192.88.99.0/24",  # 6to4 relays
        "192.168.0.0/16",
        "198.18.0.0/15",  # benchmarking
        "198.51.100.0/24",  # documentation
        "203.0.113.0/24",  # documentation
        "224.0.0.0/3",  # multicast, reserved, broadcast
    )
)


def names_a_host(address: str) -> bool:
    """Whether one host can have this IP address. The unspecified one would lead to this machine, groups lead nowhere."""
    ip = ipaddress.ip_address(address)
    if isinstance(ip, ipaddress.IPv6Address):
        ip = ip.ipv4_mapped or ip
    if isinstance(ip, ipaddress.IPv4Address):
        return not any(ip in network for network in _NO_HOST4)
    return not (ip.is_unspecified or ip.is_multicast)


def is_public(address: str) -> bool:
    """Whether an IP address is reachable in the public internet. Anything else, also text that is no address, is not."""
    try:
        ip = ipaddress.ip_address(address)
    except ValueError:
        return False
    if isinstance(ip, ipaddress.IPv4Address):
        return not any(ip in network for network in _SPECIAL4)
    embedded = ip.sixtofour or (ipaddress.IPv4Address(int(ip) & 0xFFFFFFFF) if ip in _NAT64 else None)
    if embedded is not None:
        return is_public(str(embedded))
    return ip.scope_id is None and ip in _UNICAST and not any(ip in network for network in _SPECIAL6)
