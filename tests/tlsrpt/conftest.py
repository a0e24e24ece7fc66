"""A TLSRPT plugin over memory, fed through the real journal."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from typing import Any

import pytest

from plugin_rig import make_core
from postward.model import Report, ReportTarget, ResultBatch, TlsResult, Window
from postward_tlsrpt import tables
from postward_tlsrpt.plugin import TlsRpt


class Rpt:
    """The plugin, its job, and short words for what happens around it."""

    def __init__(self, core: Any) -> None:
        self.core = core
        self.configure()

    def configure(self, **settings: Any) -> None:
        """Make the plugin anew, as a restart does."""
        self.plugin = TlsRpt(TlsRpt.Config(**settings), self.core)
        self.job, self.host_job = self.plugin.report_jobs()

    async def count(self, *results: TlsResult) -> list[ResultBatch]:
        """Journal results and hand them over as core does."""
        await self.core.store.journal.append(*results)
        batches = []
        while (batch := await self.core.store.journal.read("tlsrpt", 500)) is not None:
            await self.plugin.emit(batch)
            batches.append(batch)
        return batches

    async def build(self, window: Window, subject: str, *targets: str) -> Sequence[Report]:
        wanted = [ReportTarget(uri=uri) for uri in targets]
        return await self.core.store.write(lambda connection: self.job.build(connection, window, subject, wanted))


@pytest.fixture
async def rpt() -> AsyncIterator[Rpt]:
    async with make_core("tlsrpt", tables.SCHEMA) as core:
        yield Rpt(core)
