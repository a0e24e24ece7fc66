"""Which page answers which request: those of a plugin below its name, those for strangers by host name (`WebRoute`).

What strangers may ask for is decided here and nowhere else: pages of a host name of their own, and public ones. Everything else
is for who sits at this machine.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

from starlette.applications import Starlette
from starlette.responses import PlainTextResponse
from starlette.routing import BaseRoute, Host, Mount, Route, Router

from postward.errors import ConfigError

if TYPE_CHECKING:
    from starlette.requests import Request
    from starlette.types import ASGIApp, Receive, Scope, Send

    from postward.model import WebRoute
    from postward.names import Domain
    from postward.web.metrics import MetricsPage

METRICS: Final = "/metrics"


@dataclass(frozen=True, slots=True, kw_only=True)
class Pages:
    """The pages of all plugins as two applications: for strangers, and with the operator's own for this machine."""

    public: ASGIApp
    local: ASGIApp
    for_strangers: bool


def assemble(routes: Sequence[tuple[str, WebRoute]], metrics: MetricsPage | None = None) -> Pages:
    """Put pages together, each with the name of its plugin. Raises `ConfigError` for two that answer the same request."""
    seen: dict[tuple[str, str, str], str] = {}
    for plugin, route in routes:
        place = (str(route.host or ""), route.path if route.host else f"/{plugin}{_path(route)}")
        for method in route.methods:
            other = seen.setdefault((*place, method), plugin)
            if other != plugin or list(routes).count((plugin, route)) > 1:
                raise ConfigError(f"plugins {other} and {plugin} both answer {method} {''.join(place)}", key="plugins")
    strangers = [(plugin, route) for plugin, route in routes if route.host is not None or route.public]
    shared = metrics if metrics is not None and metrics.for_strangers else None
    return Pages(
        public=_application(strangers, private=(), metrics=shared),
        local=_application(strangers, private=[each for each in routes if each not in strangers], metrics=metrics),
        for_strangers=bool(strangers) or shared is not None,
    )


def _application(
    strangers: Sequence[tuple[str, WebRoute]], *, private: Sequence[tuple[str, WebRoute]], metrics: MetricsPage | None
) -> Starlette:
    by_host: dict[Domain, list[BaseRoute]] = {}
    below: dict[str, list[BaseRoute]] = {}
    for plugin, route in strangers:
        if route.host is not None:
            by_host.setdefault(route.host, []).append(_route(route))
        else:
            below.setdefault(plugin, []).append(_route(route))
    for plugin, route in private:
        below.setdefault(plugin, []).append(_Private(_route(route)))
    routes: list[BaseRoute] = [Host(str(host), app=Router(pages)) for host, pages in by_host.items()]
    if metrics is not None:
        routes.append(Route(METRICS, endpoint=metrics))
    routes += [Mount(f"/{plugin}", routes=pages) for plugin, pages in below.items()]
    return Starlette(routes=routes, exception_handlers={404: _not_here})


def _route(route: WebRoute) -> Route:
    return Route(_path(route), endpoint=route.handler, methods=list(route.methods), name=route.title or None)


def _path(route: WebRoute) -> str:
    return route.path if route.path.startswith("/") else f"/{route.path}"


async def _not_here(_request: Request, _error: Exception) -> PlainTextResponse:
    return PlainTextResponse("there is no such page\n", status_code=404)


class _Private(BaseRoute):
    """A page for who sits at this machine: by the address of the client, and by the name that the browser was told."""

    def __init__(self, route: Route) -> None:
        self._route = route

    def matches(self, scope: Scope) -> tuple[Any, Scope]:
        return self._route.matches(scope)

    async def handle(self, scope: Scope, receive: Receive, send: Send) -> None:
        if is_local(scope):
            await self._route.handle(scope, receive, send)
        else:
            await PlainTextResponse("this page is for this machine only\n", status_code=403)(scope, receive, send)


def is_local(scope: Scope) -> bool:
    """Whether a request came from this machine, and was meant for it: another site may have lent it its name."""
    client = scope.get("client")
    if client and client[0] and not _is_loopback(client[0]):
        return False
    names = [value.decode("latin-1") for name, value in scope["headers"] if name == b"host"]
    if len(names) != 1:
        return False
    host, _, port = names[0].rpartition(":")
    name = host if host and port.isdecimal() else names[0]
    return name.lower() == "localhost" or _is_loopback(name.removeprefix("[").removesuffix("]"))


def _is_loopback(text: str) -> bool:
    try:
        return ipaddress.ip_address(text).is_loopback
    except ValueError:
        return False
