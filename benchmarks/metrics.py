"""What counting for Prometheus costs, in microseconds of CPU time: `python benchmarks/metrics.py`.

First what every relayed message pays, one thing after the other and in all, beside what the relay takes for a message
(docs/performance.md); then the same by prometheus_client's own counters; then the page itself, which is made for who asks.
Each figure is the median of several runs.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from functools import partial

from prometheus_client import CollectorRegistry
from prometheus_client import Counter as TheirCounter

from postward.contract import Stats
from postward.metrics.exposition import render
from postward.metrics.own import OwnMetrics
from postward.metrics.registry import Metrics, Registry
from postward.metrics.shared import packed
from postward.model import ConnectionReport, Failure, Mode, PolicyResult, ResultType, TlsInfo, TlsResult
from postward.names import Domain

RUNS, CALLS = 9, 20_000
# docs/performance.md: CPU of all processes for one relayed message, milliseconds.
MESSAGE = 1.0
HOOK_CALLS = 6
DOMAIN, HOST = Domain("example.org"), Domain("mx.example.org")
POLICIES = (
    PolicyResult(kind="tlsa", mode=Mode.ENFORCE, domain=HOST, passed=True),
    PolicyResult(
        kind="sts",
        mode=Mode.ENFORCE,
        domain=DOMAIN,
        passed=False,
        failure=Failure(result_type=ResultType.CERTIFICATE_EXPIRED, reason="x509-expired"),
    ),
)
RESULT = TlsResult(day="2026-11-26", domain=DOMAIN, host=HOST, policies=POLICIES)
REPORT = ConnectionReport(
    domain=DOMAIN,
    host=HOST,
    address="192.0.2.1",
    tls=TlsInfo(protocol="TLSv1.3", cipher="TLS_AES_256_GCM_SHA384"),
    policies=POLICIES,
    delivered=True,
)


def measure(call: Callable[[], object], calls: int = CALLS) -> float:
    """Median microseconds of CPU time for one call."""
    figures = []
    for _ in range(RUNS):
        start = time.process_time()
        for _ in range(calls):
            call()
        figures.append((time.process_time() - start) / calls * 1e6)
    return statistics.median(figures)


def main() -> None:
    registry = Registry()
    own, stats = OwnMetrics(registry), Stats()
    empty = measure(lambda: None)
    costs = {
        "a result under two policies, one of them failed": measure(partial(own.result, RESULT)),
        "a connection": measure(partial(own.connection, REPORT)),
        "the time of a delivery": measure(partial(own.waited.observe, 0.2)),
        "a message queued": measure(partial(own.queued.inc, "client")),
        f"the time of {HOOK_CALLS} calls of hooks": HOOK_CALLS * measure(partial(stats.note, 0.0002)),
    }
    for name, cost in costs.items():
        print(f"{name:55}{cost:8.2f}")
    total = sum(costs.values())
    print(f"{'all that for one message':55}{total:8.2f}   {total / MESSAGE / 10:.2f} % of {MESSAGE:g} ms")
    theirs = TheirCounter("x", "X.", ("a", "b", "c", "d"), registry=CollectorRegistry())
    ours = Metrics(Registry()).counter("x", "X.", ("a", "b", "c", "d"))
    print(f"{'one counter with four labels':55}{measure(lambda: ours.inc('a', 'b', 'c', 'd')) - empty:8.2f}")
    print(f"{'the same of prometheus_client':55}{measure(lambda: theirs.labels('a', 'b', 'c', 'd').inc()) - empty:8.2f}")
    for number in range(250):
        own.reasons.inc("tlsa", "failed", "validation-failure", f"reason-{number}")
        own.sessions.inc("sts", "enforce", "failed", f"type-{number}")
    render({"0": registry.families()})
    page = measure(lambda: render({"0": registry.families()}), 20)
    written = measure(lambda: packed(registry.families(), 0), 50)
    print(f"{'the page, 500 series':55}{page:8.0f}")
    print(f"{'what a worker writes every five seconds, 500 series':55}{written:8.0f}   {written / 5e4:.3f} % of the time")


if __name__ == "__main__":
    main()
