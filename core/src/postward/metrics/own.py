"""What core itself counts: sessions by policy and verdict, mail, reports, hooks, names looked up, and the process.

Everything on the way of a message is an addition in memory; what costs more is looked up when a page is asked for
(`postward.metrics.node`) or read from where it is counted anyway.
"""

from __future__ import annotations

import os
import resource
import sys
import time
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Final

from postward.contract import HOOK_BUCKETS
from postward.log import problems
from postward.metrics.registry import Distribution, Labels, Metrics, Registry

if TYPE_CHECKING:
    from postward.dns import Resolver
    from postward.hooks import Hooks
    from postward.model import ConnectionReport, Failure, PolicyResult, TlsResult
    from postward.queue.ending import RunnerCounts

NONE: Final = "none"
# How long mail waits: from the blink of an eye to days.
WAITED: Final = (1.0, 5.0, 30.0, 120.0, 600.0, 3600.0, 14400.0, 86400.0)


class OwnMetrics:
    """The metrics of core. What other parts count is given to them as `read_by`."""

    def __init__(self, registry: Registry) -> None:
        metrics = Metrics(registry)
        self.sessions = metrics.counter(
            "tls_sessions",
            "TLS sessions, and hosts that a policy excluded, once for each policy that applied: its kind and mode, whether it"
            " was satisfied, and the failure type of RFC 8460. Connections in clear after broken TLS and probes do not count.",
            ("policy", "mode", "verdict", "result_type"),
        )
        self.reasons = metrics.counter(
            "tls_reasons",
            "Why a policy was not satisfied, or what had to be noted although it was, by its kind and failure type; for tlsa"
            " this is the outcome of DANE by reason.",
            ("policy", "verdict", "result_type", "reason"),
        )
        self.connections = metrics.counter(
            "connections",
            "Connections to mail hosts that have ended, and hosts that were not dialled: the protocol of TLS, and whether"
            " somebody's mail was delivered over it.",
            ("tls", "outcome"),
        )
        self.recipients = metrics.counter(
            "recipients",
            "Attempts to deliver from the queue, by recipient: delivered, deferred (to be tried again), failed (for good).",
            ("outcome",),
        )
        self.waited = metrics.histogram(
            "delivery_seconds",
            "Time from taking a message to its delivery, by recipient.",
            buckets=WAITED,
        )
        self.lanes = metrics.gauge("delivery_lanes", "Connections that the queue is delivering over now.")
        self.destinations = metrics.gauge("delivery_destinations", "Destinations that the queue is delivering to now.")
        self.queued = metrics.counter(
            "messages_queued", "Messages put into the queue, by source: client (through a listener), report.", ("source",)
        )
        self.clients = metrics.gauge("listener_clients", "Clients that are connected to the listeners now.")
        self.reports = metrics.counter(
            "report_attempts",
            "Attempts to send a report to one address, by kind of report: queued (the queue has it), delivered, later (to be"
            " tried again), failed (given up), suppressed.",
            ("kind", "outcome"),
        )
        self.lookups = metrics.counter(
            "dns_lookups",
            "Answers of the resolver, without those from the cache, by record type and outcome.",
            ("type", "outcome"),
        )
        self.validating = metrics.gauge(
            "resolver_validating", "Whether the resolver validates DNSSEC: 1, or 0; absent while nobody knows."
        )
        self.problems = metrics.counter(
            "log_problems",
            "Lines of the log from warning upwards, by event: each is explained in operating.md.",
            ("level", "event"),
        )
        self.problems.read_by(lambda: {pair: float(number) for pair, number in problems().items()})
        self.hooks = metrics.histogram(
            "hook_seconds", "Time that calls of a hook took, by plugin.", ("plugin", "hook"), buckets=HOOK_BUCKETS
        )
        self.hook_failures = metrics.counter(
            "hook_failures", "Calls of a hook that raised, took too long or answered what is no answer.", ("plugin", "hook")
        )
        self.hook_slowest = metrics.gauge("hook_slowest_seconds", "The longest call of a hook so far.", ("plugin", "hook"))
        started = time.time()
        for name, help, read in (
            ("process_start_time_seconds", "When the process was started, seconds since 1970.", lambda: started),
            ("process_resident_bytes", "Memory of the process that is in use.", _resident),
            ("process_open_files", "Open files of the process, connections among them.", _open_files),
        ):
            metrics.gauge(name, help).read_by(_alone(read))
        metrics.counter("process_cpu_seconds", "Processor time of the process.").read_by(_alone(time.process_time))

    def watch_hooks(self, hooks: Hooks) -> None:
        """Take times and failures from these hooks."""

        def times() -> Mapping[Labels, float | Distribution]:
            return {key: (list(stats.buckets), stats.seconds) for key, stats in hooks.stats.items() if stats.calls}

        self.hooks.read_by(times)
        self.hook_failures.read_by(lambda: {key: float(stats.failures) for key, stats in hooks.stats.items()})
        self.hook_slowest.read_by(lambda: {key: stats.slowest for key, stats in hooks.stats.items() if stats.calls})

    def watch_resolver(self, resolver: Resolver) -> None:
        """Take what lookups came to, and whether the resolver validates, from this one."""
        tally = getattr(resolver, "tally", None)
        if tally is not None:
            self.lookups.read_by(lambda: {pair: float(number) for pair, number in tally.counts.items()})

        def validating() -> Mapping[Labels, float]:
            found = resolver.validating
            return {} if found is None else {(): float(found)}

        self.validating.read_by(validating)

    def watch_mail(self, counts: RunnerCounts, clients: Callable[[], int]) -> None:
        """Take what the queue does from these counts, and how many clients there are."""
        self.recipients.read_by(
            lambda: {
                ("delivered",): float(counts.delivered),
                ("deferred",): float(counts.deferred),
                ("failed",): float(counts.failed),
            }
        )
        self.lanes.read_by(_alone(lambda: counts.lanes))
        self.destinations.read_by(_alone(lambda: counts.destinations))
        self.clients.read_by(_alone(clients))

    def result(self, result: TlsResult) -> None:
        """Count a result, under each of its policies."""
        for policy in result.policies:
            failure = policy.failure
            verdict = "passed" if policy.passed else "failed"
            self.sessions.inc(policy.kind, policy.mode, verdict, failure.result_type if failure else NONE)
            if failure is not None or policy.notes:
                self._why(policy, verdict, failure)

    def _why(self, policy: PolicyResult, verdict: str, failure: Failure | None) -> None:
        for each in (failure, *policy.notes) if failure is not None else policy.notes:
            self.reasons.inc(policy.kind, verdict, each.result_type, each.reason or NONE)

    def connection(self, report: ConnectionReport) -> None:
        """Count a connection that has ended."""
        outcome = "delivered" if report.delivered else "failed" if report.address else "not-dialled"
        self.connections.inc(report.tls.protocol if report.tls else NONE, outcome)


def _alone(read: Callable[[], float]) -> Callable[[], Mapping[Labels, float | Distribution]]:
    """One series without labels."""
    return lambda: {(): float(read())}


def _resident() -> float:
    try:
        with open("/proc/self/statm", "rb") as file:
            return float(int(file.read().split()[1]) * resource.getpagesize())
    except OSError:
        # Elsewhere only the most that there ever was can be had.
        most = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        return float(most if sys.platform == "darwin" else most * 1024)


def _open_files() -> float:
    return float(len(os.listdir("/proc/self/fd" if os.path.exists("/proc/self/fd") else "/dev/fd")))
