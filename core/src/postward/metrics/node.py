"""What there is on a node when somebody asks: the queue, the reports to send, the journal, the disk.

Reading the queue costs time that grows with it, so what was read stands for ten seconds, and for as much longer as keeps the
reading below a fiftieth of the time.
"""

from __future__ import annotations

import math
import os
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Final

import trio

from postward.errors import StoreError
from postward.metrics.registry import Gauge, Metrics, Registry
from postward.model import MICROSECONDS

if TYPE_CHECKING:
    from structlog.typing import FilteringBoundLogger

    from postward.clock import Clock
    from postward.emission import Emitter
    from postward.queue.figures import Figures
    from postward.queue.store import Queue
    from postward.reports.outbox import Outbox

STANDS_FOR: Final = 10.0
SHARE: Final = 50
READ_WITHIN: Final = 5.0


class NodeMetrics:
    """The metrics of the node. `refresh` brings them up to date; without it they say what was read last."""

    def __init__(self, registry: Registry) -> None:
        metrics = Metrics(registry)
        self._gauges: dict[str, Gauge] = {}

        def gauge(name: str, help: str, *labels: str) -> None:
            self._gauges[name] = metrics.gauge(name, help, labels, of_node=True)

        gauge("queue_messages", "Messages in the queue.")
        gauge("queue_bytes", "Size of the messages in the queue.")
        gauge("queue_recipients", "Recipients in the queue: fresh (never tried), deferred, held (for a person).", "state")
        gauge("queue_due", "Recipients in the queue that could go now.")
        gauge("queue_oldest_seconds", "Age of the oldest message in the queue; 0 when it is empty.")
        gauge("reports", "Addresses of reports in the outbox, by kind of report and state.", "kind", "state")
        gauge("journal_behind", "Results in the journal that a plugin has not taken yet.", "plugin")
        gauge("journal_failures", "How often in a row a plugin has failed to take results.", "plugin")
        gauge("disk_free_bytes", "Room on the disk of the data directory.")
        self.build = metrics.gauge("build_info", "Always 1: the version of this program.", ("version",), of_node=True)
        self.worker_age = metrics.gauge(
            "worker_age_seconds",
            "How old the figures of a worker other than the first are: some seconds, or it is stuck or dead.",
            ("process",),
            of_node=True,
        )
        self._again = -math.inf
        self._reading = trio.Lock()

    async def refresh(
        self, *, queue: Queue, outbox: Outbox, emitter: Emitter, data_dir: Path, clock: Clock, log: FilteringBoundLogger
    ) -> None:
        """Read what is there now, unless that was done a short while ago. What cannot be read keeps its value."""
        async with self._reading:
            started = trio.current_time()
            if started < self._again:
                return
            with trio.move_on_after(READ_WITHIN):
                try:
                    now = clock.now()
                    self._note_queue(await queue.figures(now), now)
                    self._gauges["reports"].replace(await outbox.census())
                except StoreError as exc:
                    log.warning("metrics-not-read", error=str(exc))
            states = {plugin: emitter.state(plugin) for plugin in emitter.consumers}
            self._gauges["journal_behind"].replace({(name,): float(state.behind) for name, state in states.items()})
            self._gauges["journal_failures"].replace({(name,): float(state.failures) for name, state in states.items()})
            disk = await trio.to_thread.run_sync(partial(os.statvfs, data_dir))
            self._gauges["disk_free_bytes"].set(float(disk.f_bavail * disk.f_frsize))
            ended = trio.current_time()
            self._again = ended + max(STANDS_FOR, SHARE * (ended - started))

    def _note_queue(self, figures: Figures, now: int) -> None:
        gauges = self._gauges
        gauges["queue_messages"].set(figures.messages)
        gauges["queue_bytes"].set(figures.bytes)
        gauges["queue_recipients"].replace(
            {("fresh",): figures.fresh, ("deferred",): figures.deferred, ("held",): figures.held}
        )
        gauges["queue_due"].set(figures.due)
        age = max(0, now - figures.oldest) / MICROSECONDS if figures.oldest else 0.0
        gauges["queue_oldest_seconds"].set(age)
