"""From a message to MX hosts: routes, attempts, and the one function that decides.

Public for plugins that check a domain as a delivery would see it: `find_route`, `resolve_host`, `RouteError`.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from postward.delivery.route import RouteError, find_route, resolve_host

__all__ = ["RouteError", "find_route", "resolve_host"]


def __getattr__(name: str) -> Any:
    if name in __all__:
        return getattr(import_module("postward.delivery.route"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
