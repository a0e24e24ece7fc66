"""Which name servers are asked, and whose AD bit is believed.

An AD bit is worth what the way to its sender is worth (RFC 4035 §4.9.3, RFC 6698 §4.1): a validating resolver on loopback is
believed, others only when the operator says so, here or with `options trust-ad` in resolv.conf.
"""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Literal

from postward.errors import ConfigError

TrustAd = Literal["loopback", "always", "never"]

_MAX_SERVERS: Final = 8
_MAX_FILE: Final = 65_536
_WITH_PORT: Final = re.compile(r"(?:\[(?P<v6>[^\]]+)\]|(?P<v4>[0-9.]+)):(?P<port>[0-9]{1,5})")


@dataclass(frozen=True, slots=True)
class Nameserver:
    """One name server: an IP address, a port, and whether its AD bit is believed."""

    address: str
    port: int = 53
    trusted: bool = False

    def __str__(self) -> str:
        return f"[{self.address}]:{self.port}" if ":" in self.address else f"{self.address}:{self.port}"


def parse_nameserver(text: str, trust_ad: TrustAd = "loopback") -> Nameserver:
    """Read `127.0.0.1`, `127.0.0.1:53`, `::1` or `[::1]:53`. Raises `ConfigError`."""
    match = _WITH_PORT.fullmatch(text.strip())
    address = (match["v6"] or match["v4"]) if match else text.strip().removeprefix("[").removesuffix("]")
    port = int(match["port"]) if match else 53
    try:
        ip = ipaddress.ip_address(address)
    except ValueError:
        raise ConfigError(
            f"not a name server, expected an IP address and a port: {text[:80]!r}", key="dns.nameservers"
        ) from None
    if not 0 < port < 65_536:
        raise ConfigError(f"not a port: {port}", key="dns.nameservers")
    return Nameserver(address, port, _is_trusted(ip, trust_ad))


def _is_trusted(ip: ipaddress.IPv4Address | ipaddress.IPv6Address, trust_ad: TrustAd) -> bool:
    if trust_ad == "loopback":
        mapped = ip.ipv4_mapped if isinstance(ip, ipaddress.IPv6Address) else None
        return (mapped or ip).is_loopback
    return trust_ad == "always"


def parse_resolv_conf(text: str, trust_ad: TrustAd = "loopback") -> tuple[Nameserver, ...]:
    """The name servers of a resolv.conf(5), at most eight; without any, the one on this machine, as libc does.

    `options trust-ad` makes all of them believed, unless `trust_ad` is `never`. Lines that make no sense are passed over.
    """
    addresses: list[str] = []
    trust = trust_ad
    for line in text.splitlines():
        words = line.split()
        if len(words) > 1 and words[0] == "nameserver":
            addresses.append(words[1])
        elif words and words[0] == "options" and "trust-ad" in words[1:] and trust_ad == "loopback":
            trust = "always"
    servers = []
    for address in addresses:
        try:
            ip = ipaddress.ip_address(address)
        except ValueError:
            continue
        servers.append(Nameserver(address, 53, _is_trusted(ip, trust)))
    return tuple(servers[:_MAX_SERVERS]) or (parse_nameserver("127.0.0.1", trust),)


def find_nameservers(configured: Sequence[str] | None, trust_ad: TrustAd, resolv_conf: Path) -> tuple[Nameserver, ...]:
    """The configured name servers, or those of `resolv_conf`, which is read once. Raises `ConfigError`."""
    if trust_ad not in ("loopback", "always", "never"):
        raise ConfigError(f"must be loopback, always or never, not {trust_ad!r}", key="dns.trust_ad")
    if configured:
        if len(configured) > _MAX_SERVERS:
            raise ConfigError(f"at most {_MAX_SERVERS} name servers", key="dns.nameservers")
        return tuple(parse_nameserver(text, trust_ad) for text in configured)
    try:
        with resolv_conf.open("rb") as file:
            text = file.read(_MAX_FILE).decode("utf-8", "replace")
    except OSError:
        text = ""
    return parse_resolv_conf(text, trust_ad)
