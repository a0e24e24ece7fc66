"""The smallest plugin: a line for each connection, and TLS for the domains that must have it."""

from pydantic import BaseModel

from postward import ConnectionReport, Core, Destination, Mode, TlsPeer, TlsPolicy, Verdict, hookimpl


class Hello:
    class Config(BaseModel, extra="forbid", frozen=True):
        must_have_tls: tuple[str, ...] = ()

    def __init__(self, config: Config, core: Core) -> None:
        self.config, self.core = config, core

    @hookimpl
    async def domain_policy(self, destination: Destination) -> TlsPolicy | None:
        if destination.domain in self.config.must_have_tls:
            return TlsPolicy(kind="x-hello", mode=Mode.ENFORCE, domain=destination.domain, authenticates=False)
        return None

    @hookimpl
    async def verify_tls(self, policy: TlsPolicy, peer: TlsPeer) -> Verdict | None:
        return Verdict(passed=peer.protocol >= "TLSv1.2") if policy.kind == "x-hello" else None

    @hookimpl
    async def connection_closed(self, connection: ConnectionReport) -> None:
        self.core.log.info("hello", host=connection.host, delivered=connection.delivered)
