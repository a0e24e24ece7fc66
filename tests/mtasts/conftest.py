"""An MTA-STS plugin over memory, and the domain `b.example` that it looks at."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

import pytest

from plugin_rig import make_core
from postward.http import HttpError
from postward.model import Destination, TlsPolicy
from postward.names import Domain
from postward_mtasts import tables
from postward_mtasts.cache import Entry
from postward_mtasts.plugin import MtaSts

DOMAIN = Domain("b.example")


class Sts:
    """The plugin and short words for what happens to `b.example`. Tests ask for `autojump_clock`: their time is virtual."""

    def __init__(self, core: Any) -> None:
        self.core = core
        self.restart()

    def restart(self) -> None:
        self.plugin = MtaSts(MtaSts.Config(), self.core)

    def publish(self, *records: str) -> None:
        """Put TXT records at `_mta-sts`."""
        self.core.dns.set_zone("b.example", "".join(f'_mta-sts TXT "{record}"\n' for record in records) or "@ TXT none\n")

    def serve(self, mode: str = "enforce", *, max_age: int = 604_800, mx: str = "mx.b.example") -> None:
        self.page(f"version: STSv1\r\nmode: {mode}\r\nmx: {mx}\r\nmax_age: {max_age}\r\n".encode())

    def page(self, page: bytes | int | HttpError) -> None:
        self.core.http.pages["mta-sts.b.example"] = page

    async def ask(self, domain: Domain = DOMAIN) -> TlsPolicy | None:
        return await self.plugin.domain_policy(Destination(domain=domain, hosts=()))

    async def row(self) -> Entry | None:
        return await self.core.store.read(lambda connection: tables.load(connection, DOMAIN))

    @property
    def fetches(self) -> int:
        return len(self.core.http.requests)


@pytest.fixture
async def sts() -> AsyncIterator[Sts]:
    async with make_core("mtasts", tables.SCHEMA) as core:
        yield Sts(core)
