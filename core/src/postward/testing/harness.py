"""The harness: the product's own assembly over an internet in memory, with a clock that a test can move.

Nothing of it is a stand-in for core: plugins are configured, checked, registered and called as in service, deliveries go
through the pipeline with real TLS handshakes, results through the journal, reports through the outbox. Only what lies outside
is made of memory: zones, hosts, time, databases. There are no sockets and no threads, and no test waits for anything.
"""

from __future__ import annotations

import re
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Mapping, Sequence
from contextlib import asynccontextmanager
from functools import lru_cache, partial
from pathlib import Path
from typing import Any, Final

import structlog
import trio
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from postward import hookspecs
from postward.app import HAND_OVER_WITHIN, App
from postward.config import from_dict
from postward.core import Core
from postward.dkim.sign import private_pem
from postward.dns.zones import ZoneResolver, ZoneSecurity
from postward.hookspecs import hookimpl
from postward.lab.ca import DAY, Authority, Issued
from postward.lab.mx import Behaviour
from postward.model import (
    ConnectionReport,
    Delivery,
    JournalEntry,
    Message,
    ResultBatch,
    TlsWish,
    Window,
    day_of,
)
from postward.names import Address, Domain
from postward.plugins import choose, installed, load_class
from postward.reports.schedule import Built, Watcher
from postward.store.store import SETTLE
from postward.testing.clock import START, HarnessClock
from postward.testing.mail import MailServer
from postward.testing.network import MemoryNetwork
from postward.testing.web import Page, WebSite
from postward.tls import TrustStore

HOSTNAME: Final = "mx.sender.example"
SENDER: Final = "me@sender.example"
CONTENT: Final = b"From: <me@sender.example>\r\nSubject: hello\r\n\r\nhello\r\n"
RECORDER: Final = "harness"
_CERTIFICATE_DAYS: Final = 90


class Harness:
    """An internet in memory, and a Postward that sends into it. Get one from the fixture `harness`, or from `open_harness`.

    Say first which plugins there are (`use`) and what the world is like (`domain`, `mx`, `site`, `dns`); the first `deliver`,
    or `start`, assembles Postward, and then the world can still be changed, the plugins no more.

    `dns` answers from zone texts, with security states and faults (`ZoneResolver`); `net` is the network, whose `dialled` lists
    every connection; `clock` is wall time, `authority` the only certification authority that Postward trusts.
    `connections`, `results` and `reports` keep what Postward did, `log` what it logged, oldest first.
    """

    def __init__(self, nursery: trio.Nursery, directory: Path, *, log: list[Any], start: int = START) -> None:
        self._nursery, self._directory = nursery, directory
        self._plugins: dict[str, tuple[type[Any], dict[str, Any]]] = {}
        self._tables: dict[str, Any] = {}
        self._over, self._ended = trio.Event(), trio.Event()
        self._app: App | None = None
        self._recorder = _Recorder()
        self._last_address = 0
        self.log = log
        self.clock = HarnessClock(start)
        self.dns = ZoneResolver()
        self.net = MemoryNetwork(nursery)
        self.authority, self._trust = _web_pki()
        self.reports: list[Built] = []

    # --- before it starts ---

    def use(self, plugin: type[Any] | str, /, name: str = "", **options: Any) -> None:
        """Enable a plugin behind those that are there: a class, or the name of an installed one.

        `options` are its keys in `[plugin.x]`, `on_error` and `time_limit` among them. `name` defaults to that of the entry
        point, or of the class. Raises `PluginError` for one that is not installed.
        """
        self._not_started()
        kind = load_class(choose(plugin, _installed())) if isinstance(plugin, str) else plugin
        name = name or (plugin if isinstance(plugin, str) else name_of(kind))
        self._plugins[name] = kind, options

    def configure(self, **tables: Any) -> None:
        """Put tables of the configuration in the place of the harness's own, such as `delivery={"min_tls": "required"}`."""
        self._not_started()
        self._tables |= tables

    async def start(self) -> App:
        """Assemble Postward, once, and give it. Raises what stops a start: `ConfigError`, `PluginError`, `StoreError`."""
        if self._app is None:
            app = self._make()
            failure = await self._nursery.start(self._hold, app)
            if failure is not None:
                raise failure
            self._app = app
        return self._app

    # --- the world ---

    def zone(self, origin: str, text: str, security: ZoneSecurity = "secure") -> None:
        """Publish a zone, or put another in its place: the text of a zone file without SOA. See `ZoneResolver.set_zone`."""
        self.dns.set_zone(origin, text, security)

    def domain(
        self, name: str, *hosts: MailServer, records: str = "", security: ZoneSecurity = "secure"
    ) -> tuple[MailServer, ...]:
        """Publish a domain whose mail goes to `hosts`, in this preference; by default to one good host `mx.NAME`. Gives them.

        `records` are further lines of its zone.
        """
        hosts = hosts or (self.mx(f"mx.{name}", security=security),)
        for host in hosts:
            host.domains.add(Domain(name))
        lines = [f"@ MX {10 * place} {host.name}." for place, host in enumerate(hosts, 1)]
        self.dns.set_zone(name, "\n".join([*lines, records, ""]), security)
        return hosts

    def mx(
        self,
        name: str,
        *,
        certificate: Issued | str | None = "good",
        behaviour: Behaviour | str = Behaviour.NORMAL,
        replies: Mapping[str, str] | None = None,
        tlsa: str | bool = False,
        records: str = "",
        security: ZoneSecurity = "secure",
        address: str | None = None,
    ) -> MailServer:
        """A mail host, in a zone of its own with an address; with `address`, your own zone says that it is there.

        `certificate` is from `certificate()`, "good", or None for a host without TLS. `tlsa` publishes the data of a TLSA
        record, True that of the certificate it shows. `records` are further lines of its zone.
        """
        issued = self.certificate(name) if isinstance(certificate, str) else certificate
        host = MailServer(
            name=Domain(name),
            address=address or self._next_address(),
            domains=set(),
            issued=issued,
            behaviour=Behaviour(behaviour),
            replies=replies or {},
        )
        if address is None:
            data = host.tlsa() if tlsa is True else tlsa
            more = f"_25._tcp TLSA {data}\n" if data else ""
            self.dns.set_zone(name, f"@ A {host.address}\n{more}{records}\n", security)
        self.net.listen(host.address, 25, host)
        return host

    def site(
        self,
        name: str,
        pages: Mapping[str, Page | bytes | str | int] | None = None,
        *,
        certificate: Issued | None = None,
        security: ZoneSecurity = "secure",
        address: str | None = None,
    ) -> WebSite:
        """An HTTPS host, in a zone of its own unless it is given an `address`. `pages` maps paths to answers; see `WebSite`."""
        issued = certificate or self.certificate(name)
        site = WebSite(
            name=Domain(name),
            address=address or self._next_address(),
            context=issued.server_context(),
            pages=dict(pages or {}),
        )
        if address is None:
            self.dns.set_zone(name, f"@ A {site.address}\n", security)
        self.net.listen(site.address, 443, site)
        return site

    def certificate(
        self, *names: str, days: float = _CERTIFICATE_DAYS, age: float = 1, authority: Authority | None = None, **more: Any
    ) -> Issued:
        """A certificate for names: `age` days old and valid for `days` in all, so `days=90, age=91` has expired.

        It is of `authority`, by default the one that Postward trusts. `more` goes to `Authority.issue`.
        """
        begin = self.clock.now() - round(age * DAY)
        return (authority or self.authority).issue(list(names), not_before=begin, not_after=begin + round(days * DAY), **more)

    # --- what Postward does ---

    async def deliver(
        self,
        *recipients: str,
        content: bytes = CONTENT,
        sender: str = SENDER,
        wish: TlsWish = TlsWish.FOLLOW,
    ) -> Delivery:
        """Deliver a message now, and say what came of it. Lines of `content` end in CRLF."""
        app = await self.start()
        message = Message(
            sender=Address.parse(sender),
            recipients=tuple(Address.parse(recipient) for recipient in recipients),
            content=content,
            wish=wish,
        )
        return await app.deliver(message)

    async def next_day(self) -> Sequence[Built]:
        """Let midnight UTC pass: results reach the plugins, windows close, reports are built and sent. Gives the new reports.

        Reports by mail go to the mail hosts of this world, and those by HTTPS to its sites.
        """
        app = await self.start()
        await app.emitted(HAND_OVER_WITHIN)
        midnight = Window.of_day(day_of(self.clock.now())).end
        self.clock.advance(midnight + SETTLE + DAY // 24 - self.clock.now())
        seen = _Seen()
        await app.run_reports(watcher=seen)
        self.reports += seen.reports
        return tuple(seen.reports)

    async def background(self, plugin: str) -> None:
        """Start the `background` of a plugin, which runs only in service; it ends with the test. Its crash is logged."""
        app = await self.start()
        call = partial(app.hooks.call_one, plugin, hookspecs.background, core=app.core_for(plugin))
        self._nursery.start_soon(call)

    async def get(self, path: str) -> tuple[int, str]:
        """Ask for a page, such as `/PLUGIN/`, as the operator's browser does: its status and body."""
        from postward.testing.pages import get

        return await get((await self.start()).hooks, path)

    async def command(self, plugin: str, verb: str, **arguments: Any) -> int:
        """Run a verb of a plugin as `postward PLUGIN VERB` does, its parameters by name: its exit code. It prints as always.

        Raises `KeyError` for a verb that the plugin does not have.
        """
        app = await self.start()
        verbs = _Verbs()
        app.hooks.collect_one(plugin, hookspecs.register_commands, commands=verbs)
        code = verbs.functions[verb](**arguments)
        for work in verbs.works:
            code = await work(app.core_for(plugin))
        return code or 0

    def plugin(self, name: str) -> Any:
        """A plugin object. Raises `KeyError`."""
        return self._running().plugins.instances[name]

    def core(self, name: str) -> Core:
        """The core as a plugin sees it."""
        return self._running().core_for(name)

    @property
    def connections(self) -> list[ConnectionReport]:
        """Every connection, as `connection_closed` is told of them."""
        return self._recorder.connections

    async def results(self) -> list[JournalEntry]:
        """Every result that was journalled, as `emit` is given them."""
        app = await self.start()
        await app.emitted()
        return list(self._recorder.entries)

    def failures(self, plugin: str) -> int:
        """How many calls of a plugin have failed."""
        return sum(stats.failures for (name, _), stats in self._running().hooks.stats.items() if name == plugin)

    # --- how ---

    async def aclose(self) -> None:
        """Let Postward end as it does in service; `open_harness` does this."""
        self._over.set()
        if self._app is not None:
            await self._ended.wait()

    def _make(self) -> App:
        config = from_dict(self._configuration(), file=self._directory / "postward.toml")
        app = App(
            config,
            clock=self.clock,
            dns=self.dns,
            net=self.net,
            trust=self._trust,
            inline=True,
            extra={RECORDER: self._recorder},
            node_path=Path(":memory:"),
        )
        for name, (kind, _) in self._plugins.items():
            app.plugins.bring(name, kind, config, app.core_for)
        return app

    def _configuration(self) -> dict[str, Any]:
        key = self._directory / "dkim.pem"
        key.write_bytes(_signing_key())
        return {
            "plugins": list(self._plugins),
            "plugin": {name: options for name, (_, options) in self._plugins.items() if options},
            "core": {"hostname": HOSTNAME, "data_dir": str(self._directory), "database": "sqlite://"},
            "dkim": [{"domain": "sender.example", "selector": "harness", "key_file": str(key)}],
            "reports": {"private_addresses": True},
            **self._tables,
        }

    async def _hold(self, app: App, *, task_status: trio.TaskStatus[BaseException | None]) -> None:
        """Stay in the program: who enters its nurseries has to be who leaves them, and a test is not."""
        started = False
        try:
            async with app:
                started = True
                task_status.started(None)
                await self._over.wait()
        except Exception as exc:
            if started:
                raise
            task_status.started(exc)
        finally:
            self._ended.set()

    def _next_address(self) -> str:
        self._last_address += 1
        return f"198.18.{self._last_address // 250}.{self._last_address % 250 + 1}"

    def _not_started(self) -> None:
        if self._app is not None:
            raise RuntimeError("Postward has started; say before the first delivery which plugins there are")

    def _running(self) -> App:
        if self._app is None:
            raise RuntimeError("Postward has not started: deliver something, or `await harness.start()`")
        return self._app


@asynccontextmanager
async def open_harness(directory: Path, *, start: int = START) -> AsyncIterator[Harness]:
    """A harness for a program that is no pytest test. Run it under `trio.run(…, clock=MockClock(autojump_threshold=0))`.

    `directory` is empty and for it alone; `start` is the first instant, microseconds UTC.
    """
    with structlog.testing.capture_logs() as log:
        async with trio.open_nursery() as nursery:
            harness = Harness(nursery, directory, log=log, start=start)
            try:
                yield harness
            finally:
                with trio.move_on_after(60, shield=True):
                    await harness.aclose()
                nursery.cancel_scope.cancel()


class _Recorder:
    """Keeps what plugins are told."""

    def __init__(self) -> None:
        self.connections: list[ConnectionReport] = []
        self.entries: list[JournalEntry] = []

    @hookimpl
    def connection_closed(self, connection: ConnectionReport) -> None:
        self.connections.append(connection)

    @hookimpl
    def emit(self, batch: ResultBatch) -> None:
        self.entries.extend(batch.entries)


class _Verbs:
    """Takes verbs, and what they want to run, which a test runs in the program that it has."""

    def __init__(self) -> None:
        self.functions: dict[str, Callable[..., Any]] = {}
        self.works: list[Callable[[Core], Awaitable[int | None]]] = []

    def add(self, function: Callable[..., Any], name: str | None = None, help: str | None = None) -> None:
        self.functions[name or function.__name__.replace("_", "-")] = function

    def run(self, work: Callable[[Core], Awaitable[int | None]]) -> int:
        self.works.append(work)
        return 0


class _Seen(Watcher):
    def __init__(self) -> None:
        self.reports: list[Built] = []

    def built(self, built: Built) -> None:
        self.reports.append(built)


@lru_cache(maxsize=1)
def _web_pki() -> tuple[Authority, TrustStore]:
    """One for all tests of a process: its roots are never asked for anything else."""
    authority = Authority("Harness WebPKI")
    return authority, TrustStore(extra=[authority.root])


@lru_cache(maxsize=1)
def _signing_key() -> bytes:
    return private_pem(Ed25519PrivateKey.generate())  # an RSA key takes longer to make than most tests


@lru_cache(maxsize=1)
def _installed() -> tuple[Any, ...]:
    return installed()


def name_of(kind: type[Any]) -> str:
    """The name under which a class is installed; where it is not, its own, `LongLived` as `long_lived`."""
    target = f"{kind.__module__}:{kind.__qualname__}"
    names: Iterable[str] = (one.name for one in _installed() if one.target == target)
    return next(iter(names), re.sub(r"(?<=[a-z0-9])(?=[A-Z])", "_", kind.__name__).lower())
