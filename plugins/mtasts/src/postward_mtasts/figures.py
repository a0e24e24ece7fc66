"""What MTA-STS counts for Prometheus: the policies that act for deliveries, and how fetching them goes."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from postward.metrics import Metrics
    from postward.model import Failure, TlsPolicy


class Figures:
    """The metrics of this plugin."""

    def __init__(self, metrics: Metrics) -> None:
        self._policies = metrics.counter(
            "policies",
            "Next-hop domains that were asked about, by what acts for them: none, the mode of a policy, or problem (a policy is"
            " announced and cannot be had, and none is cached). stale tells that a cached one acts that could not be renewed.",
            ("outcome", "stale"),
        )
        self._fetches = metrics.counter(
            "fetches",
            "Fetches of a policy file, by failure type of RFC 8460 (none for a good one) and reason.",
            ("result_type", "reason"),
        )
        self._seconds = metrics.histogram("fetch_seconds", "Time that fetches took.")

    def policy(self, policy: TlsPolicy | None) -> None:
        """Count what acts for a domain."""
        outcome = "none" if policy is None else "problem" if policy.problem is not None else policy.mode.value
        stale = policy is not None and policy.problem is None and bool(policy.notes)
        self._policies.inc(outcome, "yes" if stale else "no")

    def fetched(self, seconds: float, failure: Failure | None = None) -> None:
        """Count a fetch."""
        self._seconds.observe(seconds)
        self._fetches.inc(failure.result_type.value if failure else "none", failure.reason if failure else "none")
