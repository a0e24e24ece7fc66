"""What a plugin is given: the seams, the store, and a log, in one narrow object.

Each plugin has a `Core` of its own, with its name in `plugin` and bound to its log lines.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from postward.names import Domain

if TYPE_CHECKING:
    from structlog.typing import FilteringBoundLogger

    from postward.clock import Clock
    from postward.dkim import Signer
    from postward.dns import Resolver
    from postward.http import HttpClient
    from postward.net import Network
    from postward.store import Store
    from postward.tls import TrustStore


@dataclass(slots=True, kw_only=True)
class Core:
    """The services of the core, as plugins see them. A plugin reads it and never changes it.

    A plugin is made before the database is open, because its tables are part of that database: `store` may be used from
    `lifespan` on.

    `hostname` is this host's mail name; `node` names this machine among several that share a database. `trust` holds the
    WebPKI roots. `signer` holds the DKIM keys that are configured here; `submitter` is the domain that reports come from, None
    when no configured domain above `hostname` has a DKIM key, and then no report is sent.
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
    store: Store = field(init=False)
