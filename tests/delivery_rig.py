"""A small internet in memory for the tests of delivery: zones, mail hosts, plugins, and a journal that keeps what it gets."""

from __future__ import annotations

import ssl
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

import structlog
import trio

from postward.clock import SystemClock
from postward.delivery.pipeline import Pipeline
from postward.dns import ZoneResolver
from postward.hookspecs import hookimpl
from postward.lab.ca import Authority
from postward.model import (
    ConnectionReport,
    Delivery,
    Destination,
    Message,
    MxHost,
    TlsPeer,
    TlsPolicy,
    TlsResult,
    TlsWish,
    Verdict,
)
from postward.names import Address, Domain
from postward.plugins import Plugins
from postward.smtp.client import Reply
from postward.smtp.server import ServerSettings, serve
from postward.smtp.whole import Whole
from postward.testing.network import MemoryNetwork
from postward.tls import TrustStore

AUTHORITY = Authority("Test WebPKI")
ZONE = """
@ IN MX 10 mx1
@ IN MX 20 mx2
mx1 IN A 192.0.2.1
mx2 IN A 192.0.2.2
"""
RECIPIENT = Address("someone", Domain("example.test"))
CONTENT = b"From: <me@sender.test>\r\nSubject: x\r\n\r\n.a line with a dot\r\n"


@dataclass
class MailHost:
    """Takes mail; `refuse` maps a recipient, or MAIL, to a reply. `wrap` meddles with the stream, `options` with settings."""

    name: str
    context: ssl.SSLContext | None = None
    refuse: Mapping[str, Reply] = field(default_factory=dict)
    wrap: Callable[[trio.abc.Stream], trio.abc.Stream] = lambda stream: stream
    options: Mapping[str, Any] = field(default_factory=dict)
    received: list[tuple[tuple[Address, ...], bytes]] = field(default_factory=list)
    over_tls: list[bool] = field(default_factory=list)
    required: list[bool] = field(default_factory=list)
    sessions: int = 0

    async def __call__(self, stream: trio.abc.Stream) -> None:
        self.sessions += 1
        settings = ServerSettings(hostname=Domain(self.name), context=self.context, **self.options)
        await serve(self.wrap(stream), self, settings, peer="192.0.2.99")

    async def mail(self, session: Any, sender: Address | None, parameters: Any) -> Reply | None:
        return self.refuse.get("MAIL")

    async def rcpt(self, session: Any, recipient: Address, parameters: Any) -> Reply | None:
        return self.refuse.get(str(recipient))

    async def content(self, session: Any, envelope: Any) -> Whole:
        return Whole(session, envelope, self._take)

    async def authenticate(self, session: Any, user: str, password: str) -> bool:
        return False

    async def _take(self, session: Any, envelope: Any, content: bytes) -> Reply:
        self.received.append((tuple(envelope.recipients), content))
        self.over_tls.append(session.tls is not None)
        self.required.append(envelope.require_tls)
        return Reply(250, ("taken",), "2.0.0")


class Journal:
    """Keeps results in memory."""

    def __init__(self) -> None:
        self.results: list[TlsResult] = []

    async def append(self, *results: Any) -> None:
        self.results.extend(results)


class Issuer:
    """A plugin that brings the given policies and judges them by `verdict`; an exception in either place is raised."""

    def __init__(
        self,
        domain: TlsPolicy | Exception | None = None,
        host: TlsPolicy | Exception | None = None,
        verdict: Verdict | Exception | None = None,
    ) -> None:
        self.domain, self.host, self.verdict = domain, host, verdict
        self.asked = 0
        self.peers: list[TlsPeer] = []

    @hookimpl
    async def domain_policy(self, destination: Destination) -> TlsPolicy | None:
        self.asked += 1
        return _given(self.domain)

    @hookimpl
    async def host_policy(self, destination: Destination, mx: MxHost) -> TlsPolicy | None:
        return _given(self.host)

    @hookimpl
    async def verify_tls(self, policy: TlsPolicy, peer: TlsPeer) -> Verdict | None:
        self.peers.append(peer)
        return _given(self.verdict)


def _given(thing: Any) -> Any:
    if isinstance(thing, Exception):
        raise thing
    return thing


@dataclass
class Rig:
    """Everything a test of delivery changes and looks at."""

    dns: ZoneResolver
    net: MemoryNetwork
    plugins: Plugins
    pipeline: Pipeline
    journal: Journal
    observed: list[ConnectionReport]
    mx1: MailHost
    mx2: MailHost

    async def deliver(
        self, *recipients: Address, wish: TlsWish = TlsWish.FOLLOW, is_report: bool = False, **more: Any
    ) -> Delivery:
        given: dict[str, Any] = {"sender": Address("me", Domain("sender.test")), "content": CONTENT, **more}
        message = Message(recipients=recipients or (RECIPIENT,), wish=wish, is_report=is_report, **given)
        with trio.fail_after(3600):
            return await self.pipeline.deliver(message)


def context_for(*names: str, **options: Any) -> ssl.SSLContext:
    """A server's TLS context with a certificate of the test's own WebPKI."""
    return AUTHORITY.issue([Domain(name) for name in names], **options).server_context()


@asynccontextmanager
async def make_rig(**more: Any) -> AsyncIterator[Rig]:
    """A sender, two good mail hosts of `example.test` (secure zone), and no plugin."""
    async with trio.open_nursery() as nursery:
        dns, net, plugins, journal = ZoneResolver({"example.test": ZONE}), MemoryNetwork(nursery), Plugins(), Journal()
        mx1 = MailHost("mx1.example.test", context_for("mx1.example.test"))
        mx2 = MailHost("mx2.example.test", context_for("mx2.example.test"))
        net.listen("192.0.2.1", 25, mx1)
        net.listen("192.0.2.2", 25, mx2)
        observed: list[ConnectionReport] = []
        options: dict[str, Any] = {
            "hooks": plugins.hooks,
            "dns": dns,
            "net": net,
            "trust": TrustStore(extra=[AUTHORITY.root]),
            "clock": SystemClock(),
            "journal": journal,
            "hostname": Domain("relay.sender.test"),
            "tls_always": False,
            "log": structlog.get_logger("test"),
            "observe": observed.append,
        }
        yield Rig(dns, net, plugins, Pipeline(**{**options, **more}), journal, observed, mx1, mx2)
        nursery.cancel_scope.cancel()
