"""TLS and DMARC counters and the outbox on PostgreSQL, with two nodes that do everything at the same time."""

from __future__ import annotations

import gzip
import json
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import structlog
import trio

from fake_dns import FakeDns
from postward.clock import SettableClock
from postward.core import Core
from postward.model import Delivered, ReportTarget, Window
from postward.names import Domain
from postward.reports.outbox import Ended, Outbox
from postward.reports.schedule import Built, ReportRun, Scheduler, Watcher
from postward.reports.tables import SCHEMA
from postward.store import Store, open_store
from postward_dmarc import tables as dmarc_tables
from postward_tlsrpt import tables
from postward_tlsrpt.plugin import TlsRpt
from result_kit import DAY, tls_result

pytestmark = [pytest.mark.loopback, pytest.mark.interop]

WINDOW = Window.of_day(DAY)
NAMES = [f"d{number}.example.com" for number in range(8)]
RECORD = '"v=TLSRPTv1; rua=mailto:a@example.com,https://r.example.com/x"'


class Kept(Watcher):
    """Keeps what was built."""

    def __init__(self) -> None:
        self.all: list[Built] = []

    def built(self, built: Built) -> None:
        self.all.append(built)


@dataclass
class Node:
    store: Store
    plugin: TlsRpt
    outbox: Outbox
    scheduler: Scheduler
    kept: Kept

    async def count(self, *results: Any) -> None:
        await self.store.journal.append(*results)
        while (batch := await self.store.journal.read("tlsrpt")) is not None:
            await self.plugin.emit(batch)


@asynccontextmanager
async def node(url: str, where: Path, name: str) -> AsyncIterator[Node]:
    clock = SettableClock(WINDOW.end + 3600 * 10**6)
    schemas = {"reports": SCHEMA, "tlsrpt": tables.SCHEMA, "dmarc": dmarc_tables.SCHEMA}
    opened = open_store(url=url, node_path=where / f"{name}.db", node=name, schemas=schemas, consumers=["tlsrpt"], clock=clock)
    async with opened as store:
        core: Any = Core(
            plugin="tlsrpt",
            hostname=Domain("mx.sender.example"),
            node=name,
            data_dir=where,
            clock=clock,
            dns=FakeDns({(f"_smtp._tls.{each}", "TXT"): [RECORD] for each in NAMES}),
            net=SimpleNamespace(),  # type: ignore[arg-type]
            http=SimpleNamespace(),  # type: ignore[arg-type]
            trust=SimpleNamespace(),  # type: ignore[arg-type]
            signer=SimpleNamespace(),  # type: ignore[arg-type]
            submitter=Domain("sender.example"),
            log=structlog.get_logger(),
        )
        core.store = store
        plugin = TlsRpt(TlsRpt.Config(), core)
        outbox, kept = Outbox(store.results, node=name), Kept()
        scheduler = Scheduler(
            jobs=[("tlsrpt", job) for job in plugin.report_jobs()],
            store=store,
            clock=clock,
            closed_until=store.closed_until,
            outbox=outbox,
            log=structlog.get_logger(),
            jitter=False,
            watcher=kept,
        )
        yield Node(store, plugin, outbox, scheduler, kept)


async def send_all(each: Node, sent: Counter[tuple[str, str]]) -> None:
    now = WINDOW.end + 2 * 3600 * 10**6
    while (claimed := await each.outbox.claim(now)) is not None:
        assert not isinstance(claimed, Ended)
        sent[claimed.report.policy_domain, claimed.target.uri] += 1
        await each.outbox.settle(claimed, Delivered(accepted=True, detail="250 ok\0"), now)


async def test_two_nodes_report_each_session_once_and_send_each_report_once(url: str, tmp_path: Path) -> None:
    async with AsyncExitStack() as stack:
        nodes = [await stack.enter_async_context(node(url, tmp_path, name)) for name in ("mx1", "mx2")]
        async with trio.open_nursery() as nursery:
            for each in nodes:
                for _ in range(10):
                    nursery.start_soon(each.count, *(tls_result(number) for number in range(len(NAMES))))
        for each in nodes:
            await each.store.beat()
        runs: list[ReportRun] = []

        async def run(each: Node) -> None:
            runs.append(await each.scheduler.run_once())

        async with trio.open_nursery() as nursery:
            for each in nodes:
                nursery.start_soon(run, each)
        built = [built for each in nodes for built in each.kept.all]
        assert not any(run.failed or run.later or run.waiting for run in runs)
        assert sorted(one.report.policy_domain for one in built) == NAMES
        for one in built:
            (policy,) = json.loads(gzip.decompress(one.report.content))["policies"]
            assert policy["summary"] == {"total-successful-session-count": 0, "total-failure-session-count": 20}
            assert [detail["failed-session-count"] for detail in policy["failure-details"]] == [20]

        sent: Counter[tuple[str, str]] = Counter()
        async with trio.open_nursery() as nursery:
            for each in nodes * 3:
                nursery.start_soon(send_all, each, sent)
        assert sent == Counter(
            {(name, uri): 1 for name in NAMES for uri in ("mailto:a@example.com", "https://r.example.com/x")}
        )
        assert await nodes[0].outbox.counts() == {"delivered": 16}


async def test_counting_while_the_report_is_built_loses_nothing(url: str, tmp_path: Path) -> None:
    async with AsyncExitStack() as stack:
        nodes = [await stack.enter_async_context(node(url, tmp_path, name)) for name in ("mx1", "mx2")]
        total = 0

        async def count(each: Node) -> None:
            for _ in range(30):
                await each.count(tls_result(0))

        async def build() -> None:
            nonlocal total
            target = [ReportTarget(uri="mailto:a@example.com")]
            for _ in range(30):
                for report in await nodes[1].store.write(
                    lambda connection: nodes[1].plugin.reporter.build(connection, WINDOW, NAMES[0], target)
                ):
                    (policy,) = json.loads(gzip.decompress(report.content))["policies"]
                    number = policy["summary"]["total-failure-session-count"]
                    assert [detail["failed-session-count"] for detail in policy["failure-details"]] == [number]
                    total += number

        async with trio.open_nursery() as nursery:
            for each in nodes:
                nursery.start_soon(count, each)
            nursery.start_soon(build)
        await build()
        assert total == 60


async def test_messages_of_two_nodes_are_counted_together(url: str, tmp_path: Path) -> None:
    row = json.dumps({"domain": "d.example", "published": {"p": "none"}, "source_ip": "192.0.2.1", "note": "\0é"})
    increments = Counter({(DAY, row): 3})
    async with AsyncExitStack() as stack:
        nodes = [await stack.enter_async_context(node(url, tmp_path, name)) for name in ("mx1", "mx2")]
        async with trio.open_nursery() as nursery:
            for each in nodes * 5:
                nursery.start_soon(each.store.write, partial(dmarc_tables.count, increments=increments))
        (counted,) = await nodes[0].store.read(partial(dmarc_tables.counted, day=DAY))
        assert (counted.policy_domain, counted.n) == ("d.example", 30)
