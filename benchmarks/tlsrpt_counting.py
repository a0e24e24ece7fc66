"""How many TLS results a second go through journal and counters of the TLSRPT plugin, durably, in one process.

Run: python benchmarks/tlsrpt_counting.py [--results N] [--domains N] [--runs N]

- `popular`: policy domains as real mail has them, the n-th asked for in proportion to 1/n; one session in twenty fails.
- `even`: every policy domain as often as any other, the worst case for what collapses.
- `distinct`: every result fails in another way, so that nothing collapses and each makes a row of details.

On real files, with an fsync before `append` returns; the clock stops when every result is in the counters. Then the counters
are added up and compared with what was put in: nothing lost, nothing twice.
"""

from __future__ import annotations

import argparse
import gc
import ipaddress
import itertools
import os
import random
import resource
import shutil
import statistics
import tempfile
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any, cast

import structlog
import trio

from postward.clock import SettableClock
from postward.emission import Emitter
from postward.hooks import Outcome
from postward.model import PASSED, Failure, Mode, PolicyResult, ResultBatch, ResultType, TlsResult, Window
from postward.names import Domain
from postward.store import Store, open_store
from postward_tlsrpt import tables
from postward_tlsrpt.plugin import TlsRpt

if TYPE_CHECKING:
    from sqlalchemy import Connection

    from postward.hooks import Hooks

DAY = "2026-03-01"
TARGET = 100_000
# Deliveries of as many workers end side by side and share commits.
WRITERS = 8
CALL = 2500
FAILED = Failure(result_type=ResultType.CERTIFICATE_EXPIRED, reason="not-after")


def result(number: int) -> TlsResult:
    domain = Domain(f"d{number}.example.com")
    evidence = ("version: STSv1", "mode: enforce", f"mx: *.d{number}.example.com", "max_age: 604800")
    policy = PolicyResult(
        kind="sts", mode=Mode.ENFORCE, domain=domain, passed=True, source="mtasts",
        mx_patterns=(f"*.d{number}.example.com",), evidence=evidence,
    )  # fmt: skip
    return TlsResult(
        day=DAY, domain=domain, host=Domain(f"mx.d{number}.example.com"), policies=(policy,), sending_ip="192.0.2.1",
        receiving_ip="192.0.2.25", receiving_helo=f"mx.d{number}.example.com", protocol="TLSv1.3",
        cipher="TLS_AES_256_GCM_SHA384", pkix=PASSED,
    )  # fmt: skip


def failing(passed: TlsResult, address: str = "192.0.2.1") -> TlsResult:
    policies = tuple(replace(policy, passed=False, failure=FAILED) for policy in passed.policies)
    return replace(passed, policies=policies, sending_ip=address)


def popular(domains: int, count: int) -> list[TlsResult]:
    rng = random.Random(1)
    passed = [result(number) for number in range(domains)]
    failed = [failing(each) for each in passed]
    weights = list(itertools.accumulate(1 / (number + 1) for number in range(domains)))
    chosen = rng.choices(range(domains), cum_weights=weights, k=count)
    return [failed[number] if rng.random() < 0.05 else passed[number] for number in chosen]


def even(domains: int, count: int) -> list[TlsResult]:
    passed = [result(number) for number in range(domains)]
    return [passed[number % domains] for number in range(count)]


def distinct(domains: int, count: int) -> list[TlsResult]:
    passed = [result(number) for number in range(domains)]
    return [failing(passed[number % domains], str(ipaddress.IPv4Address((10 << 24) + number))) for number in range(count)]


class Hook:
    """The plugin, and the hooks that call it."""

    def __init__(self, store: Store) -> None:
        core: Any = SimpleNamespace(store=store, submitter=None)
        self._plugin = TlsRpt(TlsRpt.Config(), core)

    async def call_one(self, plugin: str, _spec: object, *, batch: ResultBatch) -> Outcome[None]:
        await self._plugin.emit(batch)
        return Outcome(plugin=plugin)


async def put_in(store: Store, results: Sequence[TlsResult]) -> None:
    calls = iter([results[start : start + CALL] for start in range(0, len(results), CALL)])

    async def writer() -> None:
        for call in calls:
            await store.journal.append(*call)

    async with trio.open_nursery() as nursery:
        for _ in range(WRITERS):
            nursery.start_soon(writer)


def counted(connection: Connection) -> int:
    return int(connection.exec_driver_sql("SELECT SUM(successes + failures) FROM tlsrpt_sessions").scalar() or 0)


async def measure(name: str, results: Sequence[TlsResult], runs: int) -> None:
    where = Path(tempfile.mkdtemp(prefix="postward-bench-"))
    clock = SettableClock(Window.of_day(DAY).start)
    wall, cpu = [], []
    try:
        async with (
            open_store(
                url=f"sqlite:///{where / 'results.db'}",
                node_path=where / "node.db",
                node="bench",
                schemas={"tlsrpt": tables.SCHEMA},
                consumers=["tlsrpt"],
                clock=clock,
            ) as store,
            trio.open_nursery() as nursery,
        ):
            emitter = Emitter(cast("Hooks", Hook(store)), store, ["tlsrpt"], clock, structlog.get_logger("bench"))
            await nursery.start(emitter.run)
            for run in range(1, runs + 1):
                before, started = os.times(), time.perf_counter()
                await put_in(store, results)
                await emitter.caught_up()
                wall.append(time.perf_counter() - started)
                after = os.times()
                cpu.append(after.user + after.system - before.user - before.system)
                total = await store.read(counted)
                assert total == run * len(results), f"{run * len(results)} were put in, {total} were counted"
            nursery.cancel_scope.cancel()
    finally:
        shutil.rmtree(where)
    rate, per_cpu = len(results) / statistics.median(wall), len(results) / statistics.median(cpu)
    note = "" if name == "distinct" or rate >= TARGET else f"   below the target of {TARGET:,}"
    print(f"{name:<10} {rate:>10,.0f} results/s   {per_cpu:>10,.0f} per second of CPU{note}", flush=True)


async def main(count: int, domains: int, runs: int) -> None:
    gc.set_threshold(20_000, 20, 50)  # as the service does
    print(f"{count:,} results per burst over {domains:,} policy domains, median of {runs} bursts", flush=True)
    for name, make in (("popular", popular), ("even", even), ("distinct", distinct)):
        results = make(domains, count if name != "distinct" else count // 5)
        gc.collect()
        gc.freeze()  # the collector must not walk through our input, which a program would not hold
        await measure(name, results, runs)
        gc.unfreeze()
    print(f"most memory: {resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024:.0f} MB, the input included")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--results", type=int, default=500_000)
    parser.add_argument("--domains", type=int, default=10_000)
    parser.add_argument("--runs", type=int, default=3)
    options = parser.parse_args()
    trio.run(main, options.results, options.domains, options.runs)
