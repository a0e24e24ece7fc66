"""The pages of core itself: what needs attention, the queue, outgoing reports, plugins and their hooks."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from postward.web.pages import dns, log, overview, plugins, queue, reports

if TYPE_CHECKING:
    from postward.app import App
    from postward.model import WebRoute


def core_routes(app: App) -> Sequence[WebRoute]:
    """All of them, in the order of the navigation."""
    return [
        *overview.routes(app),
        *queue.routes(app),
        *reports.routes(app),
        *dns.routes(app),
        *plugins.routes(app),
        *log.routes(app),
    ]
