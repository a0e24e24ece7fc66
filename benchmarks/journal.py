"""What one TLS result costs, journalled durably and counted by one plugin: CPU per result, median of several bursts.

Run: python benchmarks/journal.py [--results N] [--runs N]

- `identical`: equal results, 500 in one call, as one busy destination gives.
- `20 destinations`: the same with some variety.
- `distinct`: every result is another one.
- `at once`: 500 tasks journal one result each and wait for it, as concurrent deliveries do; `tasks alone` is what trio takes
  of that.

On real files, with an fsync before `append` returns; counted by a plugin that keeps one row per domain, in this process.
"""

from __future__ import annotations

import argparse
import gc
import os
import shutil
import statistics
import tempfile
import time
from collections import Counter
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import structlog
import trio
import trio.testing
from sqlalchemy import Connection

from postward.clock import SettableClock
from postward.emission import Emitter
from postward.hooks import Outcome
from postward.model import PASSED, Mode, PolicyResult, ResultBatch, Schema, TlsResult, Window
from postward.names import Domain
from postward.store import Store, open_store

if TYPE_CHECKING:
    from postward.hooks import Hooks

DAY = "2026-03-01"
TARGET = 10.0
CALL = 500
COUNT = "INSERT INTO bench_counts (domain, n) VALUES (?, ?) ON CONFLICT (domain) DO UPDATE SET n = n + excluded.n"


def result(number: int) -> TlsResult:
    domain = Domain(f"d{number}.example.com")
    evidence = ("version: STSv1", "mode: enforce", "mx: *.example.com", "max_age: 604800")
    policy = PolicyResult(
        kind="sts", mode=Mode.ENFORCE, domain=domain, passed=True, source="mtasts", mx_patterns=("*.example.com",),
        evidence=evidence,
    )  # fmt: skip
    return TlsResult(
        day=DAY, domain=domain, host=Domain("mx.example.com"), policies=(policy,), sending_ip="192.0.2.1",
        receiving_ip="192.0.2.25", receiving_helo="mx.example.com", protocol="TLSv1.3", cipher="TLS_AES_256_GCM_SHA384",
        pkix=PASSED,
    )  # fmt: skip


class Counting:
    """The plugin, and the hooks that call it."""

    def __init__(self, store: Store) -> None:
        self._store = store

    async def call_one(self, plugin: str, _spec: object, *, batch: ResultBatch) -> Outcome[None]:
        counts: Counter[str] = Counter()
        for entry in batch.entries:
            counts[cast("TlsResult", entry.result).domain] += entry.count
        rows = list(counts.items())
        await self._store.consume(batch, lambda connection: connection.exec_driver_sql(COUNT, rows) and None)
        return Outcome(plugin=plugin)


async def in_calls(store: Store, results: list[TlsResult]) -> None:
    for start in range(0, len(results), CALL):
        await store.journal.append(*results[start : start + CALL])


async def at_once(store: Store, results: list[TlsResult]) -> None:
    for start in range(0, len(results), CALL):
        async with trio.open_nursery() as nursery:
            for each in results[start : start + CALL]:
                nursery.start_soon(store.journal.append, each)


async def tasks_alone(_store: Store, results: list[TlsResult]) -> None:
    for start in range(0, len(results), CALL):
        lot = trio.lowlevel.ParkingLot()
        async with trio.open_nursery() as nursery:
            for _ in results[start : start + CALL]:
                nursery.start_soon(lot.park)
            await trio.testing.wait_all_tasks_blocked()
            lot.unpark_all()


async def measure(
    name: str, burst: Callable[[Store, list[TlsResult]], Awaitable[None]], results: list[TlsResult], runs: int
) -> float:
    where = Path(tempfile.mkdtemp(prefix="postward-bench-"))
    clock = SettableClock(Window.of_day(DAY).start)
    schema = Schema(migrations=(lambda op: op.execute("CREATE TABLE bench_counts (domain TEXT PRIMARY KEY, n BIGINT)"),))
    cpu, wall = [], []
    try:
        async with (
            open_store(
                url=f"sqlite:///{where / 'results.db'}",
                node_path=where / "node.db",
                node="bench",
                schemas={"bench": schema},
                consumers=["bench"],
                clock=clock,
            ) as store,
            trio.open_nursery() as nursery,
        ):
            emitter = Emitter(cast("Hooks", Counting(store)), store, ["bench"], clock, structlog.get_logger("bench"))
            await nursery.start(emitter.run)
            for _ in range(runs):
                before, started = os.times(), time.perf_counter()
                await burst(store, results)
                await emitter.caught_up()
                after = os.times()
                cpu.append((after.user + after.system - before.user - before.system) / len(results) * 1e6)
                wall.append((time.perf_counter() - started) / len(results) * 1e6)
            assert await store.read(total) in (runs * len(results), None)
            nursery.cancel_scope.cancel()
    finally:
        shutil.rmtree(where)
    median = statistics.median(cpu)
    verdict = "" if "task" in name or median <= TARGET else f"   above the target of {TARGET:g} us"
    print(f"{name:<24} {median:7.2f} us CPU per result   {statistics.median(wall):7.2f} us elapsed{verdict}")
    return median


def total(connection: Connection) -> Any:
    return connection.exec_driver_sql("SELECT SUM(n) FROM bench_counts").scalar()


async def main(count: int, runs: int) -> None:
    same, distinct = [result(0) for _ in range(count)], [result(number) for number in range(count)]
    few = [result(number % 20) for number in range(count)]
    gc.collect()
    gc.freeze()  # the collector must not walk through our input, which a program would not hold
    print(f"{count} results per burst, {runs} bursts")
    await measure("identical", in_calls, same, runs)
    await measure("20 destinations", in_calls, few, runs)
    await measure("distinct", in_calls, distinct, runs)
    await measure("500 tasks alone", tasks_alone, same, runs)
    await measure("identical, at once", at_once, same, runs)
    await measure("distinct, at once", at_once, distinct, runs)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--results", type=int, default=10_000)
    parser.add_argument("--runs", type=int, default=7)
    options = parser.parse_args()
    trio.run(main, options.results, options.runs)
