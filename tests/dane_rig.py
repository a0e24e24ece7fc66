"""The DANE plugin over zones in memory."""

from __future__ import annotations

import dataclasses
from types import SimpleNamespace
from typing import Any

import structlog
import structlog.testing

from postward.delivery.route import find_route, resolve_host
from postward.dns import ZoneResolver
from postward.lab.ca import DAY, Authority, tlsa
from postward.metrics import unread
from postward.model import (
    Endpoint,
    TlsPeer,
    TlsPolicy,
)
from postward.names import Domain
from postward_dane.plugin import Dane

NOW = 1_800_000_000_000_000
AUTHORITY = Authority("Lab", not_before=0)
MX = Domain("mx.example.org")
LEAF = AUTHORITY.issue([MX], not_before=NOW - DAY, not_after=NOW + DAY)
RECORD = tlsa(LEAF.certificate)
ZONE = f"@ MX 10 mx\nmx A 192.0.2.1\n_25._tcp.mx TLSA {RECORD}\n"
DIGEST = "01" * 32


class Rig:
    """The plugin over one zone, `example.org`, and whatever a test adds to `dns`."""

    def __init__(self, zone: str = ZONE, security: Any = "secure", **config: Any) -> None:
        self.dns = ZoneResolver()
        self.dns.set_zone("example.org", zone, security)
        self.now = NOW
        self.core: Any = SimpleNamespace(
            plugin="dane",
            dns=self.dns,
            clock=SimpleNamespace(now=lambda: self.now),
            log=structlog.get_logger(),
            metrics=unread(),
        )
        self.plugin = Dane(Dane.Config(**config), self.core)

    async def find(self, domain: str = "example.org") -> TlsPolicy | None:
        """The policy of the first host of a domain, routed as core does, and with its source filled in as core does."""
        destination = await find_route(Domain(domain), self.dns)
        mx = await resolve_host(destination.hosts[0], self.dns)
        policy = await self.plugin.host_policy(destination, mx)
        return dataclasses.replace(policy, source="dane") if policy else None

    async def policy(self, domain: str = "example.org") -> TlsPolicy:
        policy = await self.find(domain)
        assert policy is not None
        return policy

    def asked(self) -> list[str]:
        return [name for name, rdtype in self.dns.queries if rdtype == "TLSA"]

    async def judge(self, policy: TlsPolicy, chain: tuple[bytes, ...] = LEAF.chain) -> Any:
        endpoint = Endpoint(host=MX, address="192.0.2.1", port=25)
        peer = TlsPeer(endpoint=endpoint, server_name=MX, protocol="TLSv1.3", cipher="x", chain=chain)
        return await self.plugin.verify_tls(policy, peer)
