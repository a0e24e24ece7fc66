"""The program: plugins, seams, store and pipeline, put together and kept running.

`async with App(config) as app: await app.deliver(message)`. Everything outside (clock, DNS, network, roots) can be given from
outside, so tests and the lab run this very assembly.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from types import TracebackType
from typing import TYPE_CHECKING, Final, Self

import structlog
import trio

from postward import hookspecs
from postward.clock import Clock, SystemClock
from postward.core import Core
from postward.delivery.pipeline import Pipeline
from postward.dkim import Signer, SigningKey
from postward.dns.resolver import SystemResolver
from postward.emission import Emitter
from postward.errors import ConfigError
from postward.hooks import Hooks
from postward.http import H11Client
from postward.model import ConnectionReport, Delivery, Endpoint, Message, ReportJob, Schema, TlsWish
from postward.names import Domain
from postward.net import Network, TcpNetwork
from postward.plugins import Plugins
from postward.store import Store, open_store
from postward.supervise import keep_running
from postward.tls import TrustStore

if TYPE_CHECKING:
    from structlog.typing import FilteringBoundLogger

    from postward.config import Config
    from postward.dns import Resolver

OBSERVERS_AT_ONCE: Final = 1000
LEAVE_WITHIN: Final = 5.0


@dataclass(frozen=True, slots=True)
class HookedNetwork:
    """The network as plugins left it: `open_stream` is asked first, plain TCP is what remains."""

    hooks: Hooks
    default: Network

    async def open_stream(self, endpoint: Endpoint) -> trio.abc.Stream:
        """Connect. Raises `OSError`, also where a plugin failed: its route must not be bypassed."""
        outcome = await self.hooks.first(hookspecs.open_stream, endpoint=endpoint)
        if outcome is None:
            return await self.default.open_stream(endpoint)
        if outcome.value is None:
            raise OSError(f"plugin {outcome.plugin} could not connect: {outcome.error}")
        return outcome.value


class App:
    """One assembled Postward.

    Entering it loads the plugins, opens and migrates the databases, asks the resolver for its self-test and starts handing
    results to the plugins. With `service`, background tasks and the report schedule run too, as `postward run` wants;
    without, only what is asked for happens. `extra` are plugin objects to add to the configured ones, by name.
    """

    def __init__(
        self,
        config: Config,
        *,
        clock: Clock | None = None,
        dns: Resolver | None = None,
        net: Network | None = None,
        trust: TrustStore | None = None,
        inline: bool = False,
        service: bool = False,
        extra: Mapping[str, object] | None = None,
    ) -> None:
        self.config = config
        self.log: FilteringBoundLogger = structlog.get_logger("postward")
        self.clock = clock or SystemClock()
        self._inline, self._service = inline, service
        self.signer = Signer(load_keys(config))
        self.submitter = find_submitter(config, self.signer)
        self.dns = dns or SystemResolver(
            config.dns.nameservers or None, trust_ad=config.dns.trust_ad, timeout=config.dns.timeout
        )
        self._own_dns = dns is None
        self.trust = trust or TrustStore(config.tls.ca_file)
        self.plugins = Plugins()
        self.hooks = self.plugins.hooks
        self.net = HookedNetwork(self.hooks, net or TcpNetwork(config.net.port_map))
        self.http = H11Client(self.net, self.dns, self.trust, clock=self.clock)
        self._cores: dict[str, Core] = {}
        self._extra = extra or {}
        self._stack = AsyncExitStack()

    def core_for(self, plugin: str) -> Core:
        """The services as one plugin sees them, made once."""
        if plugin not in self._cores:
            self._cores[plugin] = Core(
                plugin=plugin,
                hostname=self.config.core.hostname,
                node=self.config.core.node,
                data_dir=self.config.core.data_dir,
                clock=self.clock,
                dns=self.dns,
                net=self.net,
                http=self.http,
                trust=self.trust,
                signer=self.signer,
                submitter=self.submitter,
                log=structlog.get_logger(f"postward.{plugin}", plugin=plugin),
            )
        return self._cores[plugin]

    async def __aenter__(self) -> Self:
        await self._stack.enter_async_context(self._assembled())
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> bool | None:
        return await self._stack.__aexit__(kind, error, trace)
