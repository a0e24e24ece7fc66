"""What TLSRPT counts for Prometheus beside what core counts of every report."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from postward.metrics import Counter, Metrics


def received_counter(metrics: Metrics) -> Counter:
    """The counter of received reports; the same one at each call."""
    return metrics.counter(
        "received",
        "Received TLS reports by the way they came (mail, https, file) and what became of them: stored, duplicate, conflict,"
        " foreign, old, unreadable, nobody-vouches, not-stored.",
        ("via", "outcome"),
    )
