"""Figures for Prometheus: what a plugin declares through `core.metrics`, and what core itself counts.

    class Greylist:
        def __init__(self, config: None, core: postward.Core) -> None:
            self._held = core.metrics.counter("held", "Messages that had to wait, by reason.", ("reason",))

        ...
            self._held.inc("unknown-sender")

makes `postward_greylist_held_total{reason="unknown-sender"}` on the page. Declare in `__init__`, so that the metric is there
and documented before anything has happened; move it from the event loop's thread.
"""

from __future__ import annotations

from postward.metrics.registry import Counter, Gauge, Histogram, Metrics, unread

__all__ = ["Counter", "Gauge", "Histogram", "Metrics", "unread"]
