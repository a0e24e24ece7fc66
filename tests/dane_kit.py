"""The commands of the DANE plugin over zones and mail hosts in memory."""

from __future__ import annotations

import json
from collections.abc import Awaitable, Callable, Mapping
from functools import partial
from types import SimpleNamespace
from typing import Any

import structlog
import trio
import typer
from typer.testing import CliRunner

from delivery_rig import MailHost
from postward.core import OwnCertificate
from postward.dns import ZoneResolver
from postward.lab.ca import DAY, Authority, Issued
from postward.metrics import unread
from postward.names import Domain
from postward.testing.network import MemoryNetwork
from postward_dane.plugin import Dane

NOW = 1_800_000_000_000_000
AUTHORITY = Authority("Lab", not_before=0)
MX = Domain("mx.example.org")
ADDRESS = "192.0.2.1"
LEAF = AUTHORITY.issue([MX], not_before=NOW - DAY, not_after=NOW + 90 * DAY)


class World:
    """Zones by origin and security, servers by address; a host that shows a certificate, or none and so no TLS."""

    def __init__(
        self,
        zones: Mapping[str, tuple[str, Any]],
        servers: Mapping[str, Issued | None],
        *,
        port: int = 25,
        own: tuple[OwnCertificate, ...] = (),
        hostname: str = "relay.example.net",
        **config: Any,
    ) -> None:
        self.dns = ZoneResolver()
        for origin, (text, security) in zones.items():
            self.dns.set_zone(origin, text, security)
        self.servers, self.port = servers, port
        self.core: Any = SimpleNamespace(
            plugin="dane",
            dns=self.dns,
            clock=SimpleNamespace(now=lambda: NOW),
            log=structlog.get_logger(),
            hostname=Domain(hostname),
            certificates=own,
            net=None,
            metrics=unread(),
        )
        self.plugin = Dane(Dane.Config(**config), self.core)
        self.app = typer.Typer()
        self.app.callback()(lambda: None)

    async def run_in(self, work: Callable[[Any], Awaitable[Any]]) -> Any:
        """Run `work(core)` while the servers serve."""
        async with trio.open_nursery() as nursery:
            self.core.net = MemoryNetwork(nursery)
            for address, issued in self.servers.items():
                host = MailHost(name=str(MX), context=issued.server_context() if issued else None)
                self.core.net.listen(address, self.port, host)
            result = await work(self.core)
            nursery.cancel_scope.cancel()
        return result

    # What `postward.core.Commands` promises.

    def add(self, function: Callable[..., Any], name: str | None = None) -> None:
        self.app.command(name or function.__name__)(function)

    def run(self, work: Callable[[Any], Awaitable[int | None]]) -> int:
        return trio.run(partial(self.run_in, work)) or 0

    def command(self, *arguments: str) -> Any:
        """The result of a verb: `return_value`, `stdout`, `exception`."""
        if not self.app.registered_commands:
            self.plugin.register_commands(self)  # type: ignore[arg-type]
        return CliRunner().invoke(self.app, list(arguments), standalone_mode=False, terminal_width=200)

    def json(self, *arguments: str) -> tuple[int, dict[str, Any]]:
        """Exit code and object of a verb with `--json`."""
        result = self.command(*arguments, "--json")
        assert result.exception is None, result.exception
        [line] = result.stdout.splitlines()
        return result.return_value, json.loads(line)


def zone(*records: str, mx: str = "@ MX 10 mx") -> str:
    """A zone with one mail host and TLSA records of it."""
    return "\n".join([mx, f"mx A {ADDRESS}", *(f"_25._tcp.mx TLSA {record}" for record in records), ""])


def world(*records: str, security: str = "secure", issued: Issued | None = LEAF, **options: Any) -> World:
    """A domain `example.org` with one mail host and these records."""
    return World({"example.org": (zone(*records), security)}, {ADDRESS: issued}, **options)
