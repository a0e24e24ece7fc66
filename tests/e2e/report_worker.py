"""The program of `test_kill_reports`, which kills itself before the n-th commit of its results database.

It journals results of yesterday, counts, builds and sends, all at the same time. What it sends goes into the file `sent`, one
line each, which is there as soon as it is written.
"""

from __future__ import annotations

import ipaddress
import itertools
import os
import signal
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any, cast

sys.path.insert(0, str(Path(__file__).parents[1]))

import sqlalchemy
import structlog
import trio
import trio.lowlevel

from fake_dns import FakeDns
from postward.clock import SettableClock
from postward.core import Core
from postward.emission import Emitter
from postward.model import Delivered, Report, ReportTarget, ResultBatch, Window
from postward.names import Domain
from postward.reports.outbox import HOUR, Outbox
from postward.reports.schedule import Scheduler
from postward.reports.sender import Sender
from postward.reports.tables import SCHEMA
from postward.store import Store, open_store
from postward_tlsrpt import tables
from postward_tlsrpt.plugin import TlsRpt
from report_kit import FakeHooks, FakeOutcome
from result_kit import DAY, StubHooks, tls_result

if TYPE_CHECKING:
    from postward.hooks import Hooks

DOMAINS = 5
RECORD = '"v=TLSRPTv1; rua=mailto:a@example.com,https://r.example.com/x"'


async def journal(store: Store, life: int) -> None:
    """Each result has an address of its own, and happens twice."""
    for number in itertools.count():
        address = str(ipaddress.IPv4Address((10 << 24) + life * 100_000 + number))
        result = replace(tls_result(number % DOMAINS), sending_ip=address)
        await store.journal.append(result, result)
        sys.stdout.write(f"{address}\n")
        sys.stdout.flush()
        await trio.sleep(0.005)


def dying(commits: int) -> Callable[[object], None]:
    left = itertools.count(commits, -1)

    def die(_connection: object) -> None:
        if not next(left):
            os.kill(os.getpid(), signal.SIGKILL)

    return die


def make_plugin(store: Store, clock: SettableClock) -> TlsRpt:
    core: Any = Core(
        plugin="tlsrpt",
        hostname=Domain("mx.sender.example"),
        node="mx1",
        data_dir=Path("/nonexistent"),
        clock=clock,
        dns=FakeDns({(f"_smtp._tls.d{number}.example.com", "TXT"): [RECORD] for number in range(DOMAINS)}),
        net=SimpleNamespace(),  # type: ignore[arg-type]
        http=SimpleNamespace(),  # type: ignore[arg-type]
        trust=SimpleNamespace(),  # type: ignore[arg-type]
        signer=SimpleNamespace(),  # type: ignore[arg-type]
        submitter=Domain("sender.example"),
        log=structlog.get_logger(),
    )
    core.store = store
    return TlsRpt(TlsRpt.Config(), core)


async def main(where: Path, life: int, commits: int) -> None:
    # Each life comes an hour later, so that the leases of the one before have run out.
    clock = SettableClock(Window.of_day(DAY).end + (life + 1) * HOUR)
    out = os.open(where / "sent", os.O_WRONLY | os.O_CREAT | os.O_APPEND)

    def deliver(*, report: Report, target: ReportTarget) -> FakeOutcome:
        os.write(out, f"{report.report_id} {target.uri}\n".encode())
        return FakeOutcome("test", value=Delivered(accepted=True))

    async with open_store(
        url=f"sqlite:///{where / 'results.db'}",
        node_path=where / "node.db",
        node="mx1",
        schemas={"reports": SCHEMA, "tlsrpt": tables.SCHEMA},
        consumers=["tlsrpt"],
        clock=clock,
    ) as store:
        plugin = make_plugin(store, clock)
        outbox = Outbox(store.results, node="mx1")
        log = structlog.get_logger()
        sender = Sender(
            outbox=outbox,
            hooks=cast("Hooks", FakeHooks(deliver)),
            clock=clock,
            signer=cast("Any", None),
            http=cast("Any", None),
            send=cast("Any", None),
            log=log,
        )

        async def closed_until(_plugin: str) -> int:
            return clock.now()

        scheduler = Scheduler(
            jobs=[("tlsrpt", job) for job in plugin.report_jobs()],
            store=store,
            clock=clock,
            closed_until=closed_until,
            outbox=outbox,
            log=log,
            jitter=False,
        )

        async def emit(batch: ResultBatch) -> None:
            await plugin.emit(batch)

        async def report() -> None:
            while True:
                await scheduler.run_once()
                await trio.sleep(0.02)

        async def send() -> None:
            while True:
                await sender.send_due()
                await trio.lowlevel.checkpoint()

        emitter = Emitter(cast("Hooks", StubHooks({"tlsrpt": emit})), store, ["tlsrpt"], clock, log)
        async with trio.open_nursery() as nursery:
            await nursery.start(emitter.run)
            if not commits:
                await emitter.caught_up()
                await scheduler.run_once()
                await sender.send_due()
                nursery.cancel_scope.cancel()
            sqlalchemy.event.listen(store.results.engines.writer, "commit", dying(commits))
            nursery.start_soon(journal, store, life)
            nursery.start_soon(report)
            nursery.start_soon(send)


if __name__ == "__main__":
    structlog.configure(logger_factory=structlog.PrintLoggerFactory(sys.stderr))
    trio.run(main, Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3]))
