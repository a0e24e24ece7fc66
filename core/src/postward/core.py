"""What a plugin is given: the seams, the store, and a log, in one narrow object.

Each plugin has a `Core` of its own, with its name in `plugin` and bound to its log lines.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from postward.metrics import Metrics, unread
from postward.names import Domain

if TYPE_CHECKING:
    from structlog.typing import FilteringBoundLogger

    from postward.clock import Clock
    from postward.dkim import Signer
    from postward.dns import Resolver
    from postward.http import HttpClient
    from postward.net import Network
    from postward.reports import Suppressions
    from postward.store import Store
    from postward.tls import TrustStore


@dataclass(frozen=True, slots=True, kw_only=True)
class OwnCertificate:
    """A certificate that a listener of ours serves: its TCP port, the kind of listener, and the PEM file with the chain."""

    port: int
    kind: str
    file: Path


@dataclass(slots=True, kw_only=True)
class Core:
    """The services of the core, as plugins see them. A plugin reads it and never changes it.

    A plugin is made before the database is open, because its tables are part of that database: `store` may be used from
    `lifespan` on, and so may `suppressions`, the list of those who get no reports.

    `hostname` is this host's mail name; `node` names this machine among several that share a database. `trust` holds the
    WebPKI roots. `signer` holds the DKIM keys that are configured here; `submitter` is the domain that reports come from, None
    when no configured domain above `hostname` has a DKIM key, and then no report is sent. `certificates` are those of the
    configured listeners; their files change when they are renewed, so read them anew each time. `metrics` is where a plugin
    declares what it counts for Prometheus, see `postward.metrics`.
    """

    plugin: str
    hostname: Domain
    node: str
    data_dir: Path
    clock: Clock
    dns: Resolver
    net: Network
    http: HttpClient
    trust: TrustStore
    signer: Signer
    submitter: Domain | None
    log: FilteringBoundLogger
    certificates: tuple[OwnCertificate, ...] = ()
    store: Store = field(init=False)
    suppressions: Suppressions = field(init=False)
    metrics: Metrics = field(default_factory=unread)


class Commands(Protocol):
    """Given to `register_commands`: adds verbs below `postward PLUGIN`, and runs their work inside an assembled program.

    A verb is a typer function: its parameters are the arguments and options, what it returns is the exit code (None is 0).
    `--config` is core's and is taken before the verb is parsed.
    """

    def add(self, function: Callable[..., Any], name: str | None = None, help: str | None = None) -> None:
        """Add a verb; its name defaults to that of the function, its help to the docstring. `cache list` is a verb of a group.

        Raises `PluginError` for a name that is taken and for an async function.
        """

    def run(self, work: Callable[[Core], Awaitable[int | None]]) -> int:
        """Assemble the program from the configuration, run `work(core)` in it, and give its exit code (None is 0)."""
