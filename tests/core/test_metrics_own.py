"""What core counts: deliveries by policy, verdict and reason, hooks, the queue, reports, and lines of the log."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import structlog
import trio

from delivery_rig import Issuer, Rig, make_rig
from postward import hookspecs, log
from postward.clock import SystemClock
from postward.contract import implementations
from postward.errors import StoreError
from postward.hooks import Hooks
from postward.hookspecs import hookimpl
from postward.metrics.node import STANDS_FOR, NodeMetrics
from postward.metrics.own import OwnMetrics
from postward.metrics.registry import Registry
from postward.model import (
    PASSED,
    ConnectionReport,
    Failure,
    Mode,
    PolicyResult,
    ReportTarget,
    ResultType,
    TlsPolicy,
    TlsResult,
    Verdict,
)
from postward.names import Domain
from postward.reports.outbox import Outbox
from postward.reports.rows import put
from queue_kit import NOW, opened
from report_kit import NEXT, make_report, results_database
from runner_kit import site

EXAMPLE = Domain("example.test")


def values(registry: Registry, name: str) -> dict[tuple[str, ...], Any]:
    (family,) = [family for family in registry.families() if family.description.name == name]
    return dict(family.values)


def count_by(own: OwnMetrics, rig: Rig) -> None:
    rig.pipeline = replace(rig.pipeline, results=replace(rig.pipeline.results, observe=own.connection, counted=own.result))


def result(*policies: PolicyResult) -> TlsResult:
    return TlsResult(day="2026-11-26", domain=EXAMPLE, host=EXAMPLE, policies=policies)


def test_sessions_by_policy_and_their_reasons() -> None:
    registry = Registry()
    own = OwnMetrics(registry)
    unusable = Failure(result_type=ResultType.TLSA_INVALID, reason="all-unusable-records")
    expired = Failure(result_type=ResultType.CERTIFICATE_EXPIRED)
    noted = PolicyResult(kind="tlsa", mode=Mode.ENFORCE, domain=EXAMPLE, passed=True, notes=(unusable,))
    failed = PolicyResult(kind="sts", mode=Mode.TESTING, domain=EXAMPLE, passed=False, failure=expired, notes=(unusable,))
    own.result(result(noted, failed))
    own.result(result(noted))
    assert values(registry, "postward_tls_sessions_total") == {
        ("tlsa", "enforce", "passed", "none"): 2,
        ("sts", "testing", "failed", "certificate-expired"): 1,
    }
    assert values(registry, "postward_tls_reasons_total") == {
        ("tlsa", "passed", "tlsa-invalid", "all-unusable-records"): 2,
        ("sts", "failed", "certificate-expired", "none"): 1,
        ("sts", "failed", "tlsa-invalid", "all-unusable-records"): 1,
    }


async def test_a_delivery_is_counted_where_it_happens_and_a_probe_is_not() -> None:
    registry = Registry()
    own = OwnMetrics(registry)
    policy = TlsPolicy(kind="x-test", mode=Mode.ENFORCE, domain=EXAMPLE)
    async with make_rig() as rig:
        count_by(own, rig)
        rig.plugins.add("issuer", Issuer(domain=policy, verdict=PASSED))
        await rig.pipeline.probe(EXAMPLE)
        assert values(registry, "postward_tls_sessions_total") == {}
        assert (await rig.deliver()).recipients[0].delivered
    assert values(registry, "postward_tls_sessions_total") == {("x-test", "enforce", "passed", "none"): 1}
    connections = values(registry, "postward_connections_total")
    assert connections["TLSv1.3", "delivered"] == 1


async def test_a_verdict_against_a_host_is_counted_with_its_reason() -> None:
    registry = Registry()
    own = OwnMetrics(registry)
    policy = TlsPolicy(kind="x-test", mode=Mode.ENFORCE, domain=EXAMPLE)
    verdict = Verdict.fail(ResultType.VALIDATION_FAILURE, "not-mine")
    async with make_rig() as rig:
        count_by(own, rig)
        rig.plugins.add("issuer", Issuer(domain=policy, verdict=verdict))
        assert not (await rig.deliver()).recipients[0].delivered
    key = ("x-test", "failed", "validation-failure", "not-mine")
    assert values(registry, "postward_tls_reasons_total") == {key: 2}
    assert values(registry, "postward_connections_total")["TLSv1.3", "failed"] == 2


def test_a_host_that_was_not_dialled() -> None:
    registry = Registry()
    own = OwnMetrics(registry)
    own.connection(ConnectionReport(domain=EXAMPLE, host=EXAMPLE, address="", tls=None, policies=(), delivered=False))
    assert values(registry, "postward_connections_total") == {("none", "not-dialled"): 1}


class Sometimes:
    """Answers at the first call, raises at the second, and is slow at the third."""

    calls = 0

    @hookimpl
    async def connection_closed(self) -> None:
        self.calls += 1
        if self.calls == 2:
            raise ValueError("no")
        if self.calls == 3:
            await trio.sleep(40)


async def test_hooks_by_plugin(autojump_clock: trio.testing.MockClock) -> None:
    registry, hooks = Registry(), Hooks()
    own = OwnMetrics(registry)
    own.watch_hooks(hooks)
    hooks.register(implementations("some", Sometimes()))
    report: Any = None
    for _ in range(3):
        await hooks.notify(hookspecs.connection_closed, connection=report)
    key = ("some", "connection_closed")
    counts, seconds = values(registry, "postward_hook_seconds")[key]
    assert sum(counts) == 3
    assert seconds >= 0
    assert values(registry, "postward_hook_failures_total")[key] == 2
    assert values(registry, "postward_hook_slowest_seconds")[key] <= seconds


async def test_what_became_of_recipients(tmp_path: Path, autojump_clock: trio.testing.MockClock) -> None:
    registry = Registry()
    own = OwnMetrics(registry)

    async def answer(domain: Domain, message: Any) -> str:
        await trio.sleep(2)
        return {"a.example": "250 2.0.0 taken", "b.example": "550 5.1.1 no"}.get(domain, "451 4.3.0 later")

    async with site(tmp_path, answer, delivered_after=own.waited.observe) as made:
        own.watch_mail(made.runner.counts, lambda: 3)
        await made.put("x@a.example", "y@a.example", "z@b.example", "w@c.example")
        with trio.fail_after(60):
            while made.runner.counts.delivered + made.runner.counts.failed + made.runner.counts.deferred < 4:  # noqa: ASYNC110
                await trio.sleep(0.1)
        found = values(registry, "postward_recipients_total")
        assert found == {("delivered",): 2, ("deferred",): 1, ("failed",): 1}
        counts, seconds = values(registry, "postward_delivery_seconds")[()]
        assert sum(counts) == 2
        assert 4 <= seconds < 10
        assert values(registry, "postward_listener_clients") == {(): 3}


def test_the_resolver() -> None:
    registry = Registry()
    own = OwnMetrics(registry)
    resolver: Any = SimpleNamespace(validating=None, tally=SimpleNamespace(counts={("TLSA", "bogus"): 2}))
    own.watch_resolver(resolver)
    assert values(registry, "postward_dns_lookups_total") == {("TLSA", "bogus"): 2}
    assert values(registry, "postward_resolver_validating") == {}
    resolver.validating = False
    assert values(registry, "postward_resolver_validating") == {(): 0}


def test_the_process() -> None:
    registry = Registry()
    OwnMetrics(registry)
    assert values(registry, "postward_process_resident_bytes")[()] > 1_000_000
    assert values(registry, "postward_process_open_files")[()] > 2
    assert values(registry, "postward_process_start_time_seconds")[()] > 1_700_000_000


def test_lines_from_warning_upwards_are_counted(capsys: Any) -> None:
    registry = Registry()
    OwnMetrics(registry)
    log.configure("error", json=True)
    try:
        logger = structlog.get_logger("test")
        before = values(registry, "postward_log_problems_total")
        logger.error("on-fire", detail="x")
        logger.error("on-fire", detail="y")
        logger.info("all-well")
        after = values(registry, "postward_log_problems_total")
    finally:
        structlog.reset_defaults()
    assert after.get(("error", "on-fire"), 0) - before.get(("error", "on-fire"), 0) == 2
    assert not any(event == "all-well" for _, event in after)


# --- the node ---


class Emitting:
    consumers = ("tlsrpt",)

    def state(self, plugin: str) -> Any:
        return SimpleNamespace(behind=12, failures=2)


async def test_the_queue_and_the_reports(tmp_path: Path, autojump_clock: trio.testing.MockClock) -> None:
    registry = Registry()
    node = NodeMetrics(registry)
    clock = SimpleNamespace(now=lambda: NOW + 90_000_000)
    async with opened(tmp_path) as rig, results_database() as database:
        outbox = Outbox(database)
        target = ReportTarget(uri="mailto:a@b.example")
        await database.write(lambda connection: put(connection, [make_report()], [target], due=NEXT, cid="c"))
        await rig.put("x@a.example", "y@b.example", received=NOW)

        async def refresh() -> None:
            await node.refresh(
                queue=rig.queue,
                outbox=outbox,
                emitter=Emitting(),  # type: ignore[arg-type]
                data_dir=tmp_path,
                clock=clock,  # type: ignore[arg-type]
                log=structlog.get_logger("test"),
            )

        await refresh()
        assert values(registry, "postward_queue_messages") == {(): 1}
        assert values(registry, "postward_queue_recipients") == {("fresh",): 2, ("deferred",): 0, ("held",): 0}
        assert values(registry, "postward_queue_due") == {(): 2}
        assert values(registry, "postward_queue_oldest_seconds") == {(): 90}
        assert values(registry, "postward_reports") == {("tls", "pending"): 1}
        assert values(registry, "postward_journal_behind") == {("tlsrpt",): 12}
        assert values(registry, "postward_journal_failures") == {("tlsrpt",): 2}
        assert values(registry, "postward_disk_free_bytes")[()] > 0
        await rig.put("z@b.example", received=NOW)
        await refresh()
        assert values(registry, "postward_queue_messages") == {(): 1}
        await trio.sleep(STANDS_FOR)
        await refresh()
        assert values(registry, "postward_queue_messages") == {(): 2}


async def test_a_queue_that_cannot_be_read_keeps_its_figures(tmp_path: Path) -> None:
    registry = Registry()
    node = NodeMetrics(registry)

    class Broken:
        async def figures(self, now: int) -> Any:
            raise StoreError("disk I/O error")

    broken: Any = Broken()
    lines: list[str] = []
    await node.refresh(
        queue=broken,
        outbox=broken,
        emitter=Emitting(),  # type: ignore[arg-type]
        data_dir=tmp_path,
        clock=SystemClock(),
        log=SimpleNamespace(warning=lambda event, **more: lines.append(event)),  # type: ignore[arg-type]
    )
    assert lines == ["metrics-not-read"]
    assert values(registry, "postward_journal_behind") == {("tlsrpt",): 12}
