"""MTA-STS as a plugin: the policy of the next-hop domain, and the verdict of WebPKI on its hosts (RFC 8461)."""

from __future__ import annotations

from functools import cached_property
from typing import TYPE_CHECKING

from pydantic import BaseModel

from postward.hookspecs import hookimpl

if TYPE_CHECKING:
    from postward.core import Core
    from postward.model import Destination, Schema, TlsPeer, TlsPolicy, Verdict
    from postward_mtasts.discovery import Discovery


class MtaSts:
    """Policies come from `domain_policy`; core excludes hosts that no `mx` matches and asks `verify_tls` about the others."""

    class Config(BaseModel, extra="forbid", frozen=True):
        """No settings yet."""

    def __init__(self, config: Config, core: Core) -> None:
        self._core = core

    @cached_property
    def _discovery(self) -> Discovery:
        from postward_mtasts.discovery import Discovery

        return Discovery(self._core)

    @hookimpl
    def register_schema(self) -> Schema:
        """The policy cache."""
        from postward_mtasts import tables

        return tables.SCHEMA

    @hookimpl
    async def background(self) -> None:
        """Renew policies before they expire."""
        await self._discovery.keep_fresh()

    @hookimpl
    async def domain_policy(self, destination: Destination) -> TlsPolicy | None:
        """The policy of the next hop's domain; never that of its parent, nor of a literal (RFC 8461 §3.4)."""
        if destination.domain.is_literal:
            return None
        return await self._discovery.policy(destination.domain)

    @hookimpl
    def verify_tls(self, policy: TlsPolicy, peer: TlsPeer) -> Verdict | None:
        """WebPKI for the MX host that was dialled, not for any host that the policy names (RFC 8461 §4.2)."""
        if policy.kind != "sts":
            return None
        return self._core.trust.verify(peer.chain, peer.endpoint.host, at=self._core.clock.now())
