"""MTA-STS as a plugin: the policy of the next-hop domain, the verdict of WebPKI on its hosts, and own policies (RFC 8461)."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from functools import cached_property
from typing import TYPE_CHECKING

from postward.hookspecs import hookimpl
from postward_mtasts.figures import Figures
from postward_mtasts.settings import Settings

if TYPE_CHECKING:
    from postward.core import Commands, Core
    from postward.model import Destination, DnsRecord, Finding, Schema, TlsPeer, TlsPolicy, Verdict, WebRoute
    from postward.names import Domain
    from postward_mtasts.checks import Seen
    from postward_mtasts.discovery import Discovery
    from postward_mtasts.hosting import Served
    from postward_mtasts.refresh import Refresher


class MtaSts:
    """Policies come from `domain_policy`; core excludes hosts that no `mx` matches and asks `verify_tls` about the others."""

    Config = Settings

    def __init__(self, config: Settings, core: Core) -> None:
        self._core, self._figures = core, Figures(core.metrics)
        self.hosted = config.policies(core.hostname) if config.host else {}
        self._served: dict[Domain, Served] = {}

    @cached_property
    def discovery(self) -> Discovery:
        """The policies of other domains. Made at the first use: commands that need none must not pay for it."""
        from postward_mtasts.discovery import Discovery

        return Discovery(self._core, self._figures)

    @cached_property
    def refresher(self) -> Refresher:
        """Renews them."""
        from postward_mtasts.refresh import Refresher

        return Refresher(self._core, self.discovery)

    # --- assembly and lifetime ---

    @hookimpl
    def register_schema(self) -> Schema:
        """The policy cache, and what is served."""
        from postward_mtasts import tables

        return tables.SCHEMA

    @hookimpl
    def register_commands(self, commands: Commands) -> None:
        """`postward mtasts check` and `postward mtasts cache …`."""
        from postward_mtasts.command import register

        register(self, commands)

    @hookimpl
    def register_routes(self) -> Sequence[WebRoute]:
        """The policy files of own domains (RFC 8461 §3.2), and the cache for the operator."""
        from postward_mtasts import hosting, pages

        return [*(hosting.route(own) for own in self.hosted.values()), *pages.routes(self._core)]

    @hookimpl
    @asynccontextmanager
    async def lifespan(self) -> AsyncIterator[None]:
        """Notice that an own policy changed or went, because its owner has to do something about it (RFC 8461 §8)."""
        await self._note_served()
        yield

    async def _note_served(self) -> None:
        from postward_mtasts import hosting, tables

        results, now = self._core.store.results, self._core.clock.now()
        before = await results.read(tables.load_hosted)
        noted = hosting.changes(self.hosted, before, now)
        if noted:
            await results.write(lambda connection: tables.save_hosted(connection, *noted))
        for served in noted:
            if served.withdrawn:
                self._core.log.warning("own policy is served no more", domain=served.domain, hint="see postward mtasts check")
            else:
                own = self.hosted[served.domain]
                self._core.log.info("own policy is new", domain=own.domain, mode=own.mode, publish=own.record)
        self._served = {served.domain: served for served in (*before, *noted)}

    @hookimpl
    async def background(self) -> None:
        """Renew policies before they expire."""
        await self.refresher.run()

    # --- policies of others ---

    @hookimpl
    async def domain_policy(self, destination: Destination) -> TlsPolicy | None:
        """The policy of the next hop's domain; never that of its parent, nor of a literal (RFC 8461 §3.4)."""
        if destination.domain.is_literal:
            return None
        return await self.discovery.policy(destination.domain)

    @hookimpl
    def verify_tls(self, policy: TlsPolicy, peer: TlsPeer) -> Verdict | None:
        """WebPKI for the MX host that was dialled, not for any host that the policy names (RFC 8461 §4, §4.2)."""
        if policy.kind != "sts":
            return None
        return self._core.trust.verify(peer.chain, peer.endpoint.host, at=self._core.clock.now())

    # --- advice ---

    @hookimpl
    def dns_records(self, domain: Domain) -> Sequence[DnsRecord] | None:
        """The records of a domain whose policy is served here (RFC 8461 §3.1)."""
        from postward_mtasts import hosting

        own = self.hosted.get(domain)
        return None if own is None else hosting.dns_records(own, self._core.hostname)

    @hookimpl
    async def dns_checks(self, domain: Domain) -> Sequence[Finding] | None:
        """Record, policy and mail hosts of a domain, as senders see them."""
        if domain.is_literal:
            return None
        from postward_mtasts.look import look

        return self.findings(await look(self._core, domain))

    def findings(self, seen: Seen) -> Sequence[Finding]:
        """What there is to say of a domain that was looked at."""
        from postward_mtasts import checks

        own, served = self.hosted.get(seen.domain), self._served.get(seen.domain)
        return checks.findings(seen, own, served, self._core.hostname, self._core.clock.now())
