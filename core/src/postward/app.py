"""The program: plugins, seams, store and pipeline, put together and kept running.

`async with App(config) as app: await app.deliver(message)`. Everything outside (clock, DNS, network, roots) can be given from
outside, so tests and the lab run this very assembly.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Mapping
from contextlib import AsyncExitStack, asynccontextmanager, contextmanager, suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Final, Self, TypeVar

import structlog
import trio

from postward import hook_figures, hookspecs
from postward.clock import Clock, SystemClock
from postward.core import Core, OwnCertificate
from postward.data_dir import make_data_dir
from postward.delivery.pipeline import Pipeline
from postward.delivery.results import Results
from postward.dkim import Signer
from postward.dkim.configured import find_submitter, load_keys
from postward.dns.health import FILE as HEALTH_FILE
from postward.dns.health import Watch
from postward.dns.resolver import SystemResolver
from postward.emission import Emitter
from postward.errors import ConfigError, PluginError
from postward.hooks import Hooks, Outcome
from postward.http import H11Client
from postward.inbound import Judged, judge
from postward.lifetime import held_open
from postward.metrics import Metrics
from postward.metrics.node import NodeMetrics
from postward.metrics.own import OwnMetrics
from postward.metrics.registry import Registry
from postward.model import ConnectionReport, Delivery, Endpoint, InboundMessage, Message, ReportJob, Schema, TlsWish
from postward.names import Domain
from postward.net import Network, TcpNetwork
from postward.observe import Observers
from postward.plugins import Plugins
from postward.queue.store import Queue
from postward.queue.tables import SCHEMA as QUEUE_SCHEMA
from postward.queue.types import ALL, Shards
from postward.reports.outbox import Outbox
from postward.reports.post import Post
from postward.reports.schedule import ReportRun, Scheduler, Watcher
from postward.reports.sender import Sender, SendRun
from postward.reports.suppressions import Suppressions
from postward.reports.tables import SCHEMA as REPORTS_SCHEMA
from postward.store import open_store
from postward.supervise import keep_running
from postward.tls import TrustStore
from postward.watchdog import watch_loop

if TYPE_CHECKING:
    from structlog.typing import FilteringBoundLogger

    from postward.config import Config
    from postward.dns import Resolver

T = TypeVar("T")

LEAVE_WITHIN: Final = 5.0
NODE_SCHEMAS: Final = {"queue": QUEUE_SCHEMA}
HAND_OVER_WITHIN: Final = 60.0


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


@dataclass(frozen=True, slots=True)
class ReportsDone:
    """What `run_reports` came to: what was built, and what was sent."""

    built: ReportRun
    sending: SendRun

    @property
    def sent(self) -> int:
        """How many targets have accepted their report."""
        return self.sending.delivered


class App:
    """One assembled Postward.

    Entering it loads the plugins, opens and migrates the databases, asks the resolver for its self-test and starts handing
    results to the plugins. With `service`, background tasks and the report schedule run too, as `postward run` wants, and
    mailed reports go into the queue, which `MailService` delivers; without, only what is asked for happens. Of several
    processes of a node, one has the `service` and hands out results (`emit`), and each has its `shards` of the queue. `extra`
    are plugin objects to add to the configured ones, by name. `node_path` is where the node's own database lies instead of in
    `data_dir`, `:memory:` for one in memory.
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
        emit: bool = True,
        shards: Shards = ALL,
        extra: Mapping[str, object] | None = None,
        node_path: Path | None = None,
    ) -> None:
        self.config = config
        self.log: FilteringBoundLogger = structlog.get_logger("postward")
        self.clock = clock or SystemClock()
        self._inline, self._service, self._emit, self._shards = inline, service, emit, shards
        self.signer = Signer(load_keys(config))
        self.submitter = find_submitter(config, self.signer)
        with _naming_the_file(config):
            self.dns = dns or SystemResolver(
                config.dns.nameservers or None, trust_ad=config.dns.trust_ad, timeout=config.dns.timeout
            )
        self.trust = trust or TrustStore(config.tls.ca_file)
        self.plugins = Plugins()
        self.hooks = self.plugins.hooks
        self._observers = Observers(self.hooks, self.log)
        self.registry = Registry()
        self.metrics, self.node_metrics = OwnMetrics(self.registry), NodeMetrics(self.registry)
        self.metrics.watch_hooks(self.hooks)
        self.net = HookedNetwork(self.hooks, net or TcpNetwork(config.net.port_map))
        self.metrics.watch_resolver(self.dns)
        self.http = H11Client(self.net, self.dns, self.trust, clock=self.clock)
        self._cores: dict[str, Core] = {}
        self._extra = extra or {}
        self._node_path = node_path or config.core.data_dir / "node.db"
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
                certificates=own_certificates(self.config),
                metrics=Metrics(self.registry, plugin),
            )
        return self._cores[plugin]

    async def __aenter__(self) -> Self:
        await self._stack.enter_async_context(self._assembled())
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> bool | None:
        return await self._stack.__aexit__(kind, error, trace)

    @asynccontextmanager
    async def _assembled(self) -> AsyncIterator[None]:
        config = self.config
        with _naming_the_file(config):
            self.trust.load()
        self.plugins.load(config, self.core_for)
        for name, instance in self._extra.items():
            self.plugins.add(name, instance)
        schemas: dict[str, Schema] = {"reports": REPORTS_SCHEMA}
        schemas |= {outcome.plugin: _value(outcome) for outcome in self.hooks.collect(hookspecs.register_schema)}
        consumers = self.hooks.plugins_for(hookspecs.emit)
        make_data_dir(config)
        async with AsyncExitStack() as stack:
            if not self._inline:
                await stack.enter_async_context(watch_loop(self.log))
            self.store = await stack.enter_async_context(
                open_store(
                    url=config.core.database,
                    node_path=self._node_path,
                    node=config.core.node,
                    schemas=schemas,
                    node_schemas=NODE_SCHEMAS,
                    consumers=consumers,
                    clock=self.clock,
                    inline=self._inline,
                )
            )
            for core in self._cores.values():
                core.store, core.suppressions = self.store, Suppressions(self.store.results)
            self.outbox = Outbox(self.store.results, node=config.core.node)
            spool = config.core.data_dir / "spool"
            self.queue = Queue(self.store.node_db, self.store.journal, spool, self.clock, shards=self._shards)
            self.post = Post(outbox=self.outbox, queue=self.queue, signer=self.signer, clock=self.clock, log=self.log)
            self.sender = self._make_sender()
            self.pipeline = self._make_pipeline()
            watch = self._watch_resolver()
            if watch is not None:
                await watch.test()
            await stack.enter_async_context(held_open(self.hooks, self.core_for, self.log))
            async with trio.open_nursery() as nursery:
                self._observers.begin(nursery)
                if watch is not None:
                    nursery.start_soon(keep_running, "resolver-watch", _endless(watch.run), self.log)
                self.emitter = Emitter(self.hooks, self.store, consumers, self.clock, self.log)
                if self._emit:
                    await nursery.start(self.emitter.run)
                if self._service:
                    self._start_service(nursery)
                try:
                    yield
                finally:
                    with trio.CancelScope(shield=True, deadline=trio.current_time() + LEAVE_WITHIN):
                        await self._observers.wait()
                    nursery.cancel_scope.cancel()

    # --- what it is for ---

    async def deliver(self, message: Message) -> Delivery:
        """Deliver a message to every recipient's MX hosts now, and say what came of it; see `Pipeline.deliver`."""
        return await self.pipeline.deliver(message)

    async def probe(self, domain: Domain, *, wish: TlsWish = TlsWish.FOLLOW) -> Delivery:
        """Do all that a delivery does up to EHLO behind TLS; see `Pipeline.probe`."""
        return await self.pipeline.probe(domain, wish=wish)

    async def judge(self, message: InboundMessage) -> Judged:
        """Authenticate and judge a received message; see `postward.inbound.judge`."""
        return await judge(message, self.hooks, self.store.journal)

    async def emitted(self, timeout: float | None = None) -> bool:
        """Wait until every plugin has taken the results that are journalled now; whether it did within `timeout` seconds."""
        return await self.emitter.caught_up(timeout)

    async def run_reports(self, *, day: str | None = None, watcher: Watcher | None = None) -> ReportsDone:
        """Build the reports of every window that is over, and send at once what is due.

        The plugins get a minute to take what is journalled; a window that one of them has not taken completely waits.
        """
        run = await self.build_reports(day=day, watcher=watcher)
        return ReportsDone(run, await self.sender.send_due())

    async def build_reports(self, *, day: str | None = None, watcher: Watcher | None = None) -> ReportRun:
        """Build the reports of every window that is over, or of one UTC day; they are due at once. `watcher` sees them."""
        await self.emitted(HAND_OVER_WITHIN)
        return await self._scheduler(jitter=False, watcher=watcher).run_once(day=day)

    def report_jobs(self) -> list[tuple[str, ReportJob]]:
        """The kinds of report of all plugins, each with the plugin's name. Raises what stops a plugin's assembly."""
        return [(each.plugin, job) for each in self.hooks.collect(hookspecs.report_jobs) for job in _value(each)]

    # --- parts ---

    def _make_pipeline(self) -> Pipeline:
        return Pipeline(
            hooks=self.hooks,
            dns=self.dns,
            net=self.net,
            trust=self.trust,
            clock=self.clock,
            hostname=self.config.core.hostname,
            tls_always=self.config.delivery.min_tls == "required",
            results=Results(
                clock=self.clock,
                journal=self.store.journal,
                log=self.log,
                observe=self._observe,
                counted=self.metrics.result,
            ),
            takes_mail=any(each.kind == "smtp" and each.bind.endswith(":25") for each in self.config.listen),
        )

    def _observe(self, report: ConnectionReport) -> None:
        self.metrics.connection(report)
        self._observers.tell(report)

    def _make_sender(self) -> Sender:
        return Sender(
            outbox=self.outbox,
            hooks=self.hooks,
            clock=self.clock,
            signer=self.signer,
            http=self.http,
            send=self.deliver,
            # Without the service nobody would deliver what is put into the queue.
            post=self.post if self._service else None,
            log=self.log,
            private_addresses=self.config.reports.private_addresses,
            counted=self.metrics.reports.inc,
        )

    def _scheduler(self, *, jitter: bool, watcher: Watcher | None = None) -> Scheduler:
        return Scheduler(
            jobs=self.report_jobs(),
            store=self.store,
            clock=self.clock,
            closed_until=self.store.closed_until,
            outbox=self.outbox,
            log=self.log,
            jitter=jitter,
            built=self.sender.kick,
            watcher=watcher,
        )

    def _start_service(self, nursery: trio.Nursery) -> None:
        scheduler = self._scheduler(jitter=True)
        nursery.start_soon(keep_running, "report-schedule", _endless(scheduler.run_forever), self.log)
        nursery.start_soon(keep_running, "report-sender", _endless(self.sender.run_forever), self.log)
        nursery.start_soon(keep_running, "hook-figures", _endless(self._keep_figures), self.log)
        for plugin in self.hooks.plugins_for(hookspecs.background):
            work = partial(self._background, plugin)
            nursery.start_soon(keep_running, f"{plugin}-background", work, self.log)

    async def _background(self, plugin: str) -> BaseException | None:
        outcome: Outcome[None] = await self.hooks.call_one(plugin, hookspecs.background, core=self.core_for(plugin))
        return outcome.error

    async def _keep_figures(self) -> None:
        while True:
            with suppress(OSError):  # a full disk has louder voices than this one
                hook_figures.write(self.config.core.data_dir, self.hooks.stats, self.clock.now())
            await trio.sleep(hook_figures.EVERY)

    def _watch_resolver(self) -> Watch | None:
        """Asks whether the resolver validates, now and again; None where nobody is to be asked."""
        names = self.config.dns.self_test
        if not isinstance(self.dns, SystemResolver) or not (names.secure or names.bogus):
            return None
        return Watch(
            partial(self.dns.run_self_test, names.secure, names.bogus),
            self.dns.tally,
            clock=self.clock,
            log=self.log,
            file=self.config.core.data_dir / HEALTH_FILE if self._service else None,
        )


@contextmanager
def _naming_the_file(config: Config) -> Iterator[None]:
    """Parts that can be used alone know only the key that is wrong, not the file that it stands in."""
    try:
        yield
    except ConfigError as exc:
        raise ConfigError(exc.message, file=exc.file or str(config.file or ""), key=exc.key, hint=exc.hint) from exc


def own_certificates(config: Config) -> tuple[OwnCertificate, ...]:
    """The certificates of the listeners that strangers can reach, in the order of the file; each once."""
    found = [
        OwnCertificate(port=int(entry.bind.rpartition(":")[2]), kind=entry.kind, file=entry.cert_file)
        for entry in config.listen
        if entry.cert_file is not None and not entry.bind.startswith("unix:")
    ]
    return tuple(dict.fromkeys(found))


def _endless(work: Callable[[], Awaitable[None]]) -> Callable[[], Awaitable[BaseException | None]]:
    async def run() -> BaseException | None:
        await work()
        return None

    return run


def _value(outcome: Outcome[T]) -> T:
    """What a plugin brought to the assembly. Raises its error: a plugin that cannot be assembled stops the start."""
    if outcome.value is None:
        raise outcome.error or PluginError(outcome.plugin, "brought nothing")
    return outcome.value
