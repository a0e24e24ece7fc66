"""The figures of a running service: a worker writes its own down every few seconds, the first one makes the page of all."""

from __future__ import annotations

import math
from functools import partial
from typing import TYPE_CHECKING, Final

import trio

from postward.metrics import shared
from postward.metrics.exposition import render
from postward.model import MICROSECONDS

if TYPE_CHECKING:
    from postward.app import App
    from postward.metrics.registry import Family
    from postward.service.workers import Place

EVERY: Final = 5.0
"""Seconds between two snapshots of a worker."""


async def share(app: App, place: Place) -> None:
    """Write down the figures of a worker again and again, for the process that has the page."""
    path = shared.file_of(app.config.core.data_dir, place.index)
    failing = False
    while True:
        try:
            await trio.to_thread.run_sync(partial(shared.write, path, shared.packed(_own(app), app.clock.now())))
            failing = False
        except OSError as exc:
            if not failing:
                app.log.warning("metrics-not-shared", file=str(path), error=exc.strerror or str(exc))
            failing = True
        await trio.sleep(EVERY)


class FiguresPage:
    """Makes the page of metrics. `workers` is how many processes there are; this is the first."""

    def __init__(self, app: App, workers: int) -> None:
        self._app, self._workers = app, workers
        self._data_dir = app.config.core.data_dir
        app.node_metrics.build.set(1, _version())
        shared.remove(self._data_dir)

    async def render(self, accept: str) -> tuple[bytes, str]:
        """The page and its media type, for an Accept header. What cannot be read is missing or old, and never an error."""
        app = self._app
        await app.node_metrics.refresh(
            queue=app.queue, outbox=app.outbox, emitter=app.emitter, data_dir=self._data_dir, clock=app.clock, log=app.log
        )
        others: dict[str, list[Family]] = {}
        for number in range(1, self._workers):
            found = await trio.to_thread.run_sync(shared.read, shared.file_of(self._data_dir, number))
            age = math.inf if found is None else max(0, app.clock.now() - found[0]) / MICROSECONDS
            app.node_metrics.worker_age.set(age, str(number))
            if found is not None:
                others[str(number)] = [family for family in found[1] if not family.description.of_node]
        return render({"0": _own(app), **others}, accept)


def _own(app: App) -> list[Family]:
    def failed(name: str, error: Exception) -> None:
        app.log.warning("metric-failed", metric=name, error=repr(error))

    return app.registry.families(failed)


def _version() -> str:
    from importlib.metadata import version

    return version("postward")
