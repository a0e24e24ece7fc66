"""Which page answers which request: those of a plugin below its name, those for strangers by host name (`WebRoute`).

What strangers may ask for is decided here and nowhere else: pages of a host name of their own, and public ones. Everything else
is for who sits at this machine, or has logged in to the `Site`, which has the pages that core draws.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

from starlette.applications import Starlette
from starlette.responses import PlainTextResponse
from starlette.routing import BaseRoute, Host, Route, Router

from postward.errors import ConfigError
from postward.log import current_cid
from postward.web.origin import is_local

if TYPE_CHECKING:
    from starlette.requests import Request
    from starlette.types import ASGIApp, Receive, Scope, Send

    from postward.model import WebRoute
    from postward.names import Domain
    from postward.web.metrics import MetricsPage
    from postward.web.site import Site

METRICS: Final = "/metrics"


@dataclass(frozen=True, slots=True, kw_only=True)
class Pages:
    """The pages of all plugins as two applications: for strangers, and with the operator's own for this machine."""

    public: ASGIApp
    local: ASGIApp
    for_strangers: bool


def assemble(routes: Sequence[tuple[str, WebRoute]], metrics: MetricsPage | None = None, site: Site | None = None) -> Pages:
    """Put pages together, each with the name of its plugin, the one of metrics, and what `site` has behind them.

    Raises `ConfigError` for two that answer the same request.
    """
    seen: dict[tuple[str, str, str], str] = {}
    for plugin, route in routes:
        place = (str(route.host or ""), route.path if route.host else f"/{plugin}{_path(route)}")
        for method in route.methods:
            other = seen.setdefault((*place, method), plugin)
            if other != plugin or list(routes).count((plugin, route)) > 1:
                raise ConfigError(f"plugins {other} and {plugin} both answer {method} {''.join(place)}", key="plugins")
    strangers = [(plugin, route) for plugin, route in routes if route.host is not None or route.public]
    private = [each for each in routes if each not in strangers]
    shared = metrics if metrics is not None and metrics.for_strangers else None
    return Pages(
        public=_application(strangers, metrics=shared),
        local=_application(strangers, private=private, metrics=metrics, site=site),
        for_strangers=bool(strangers) or shared is not None,
    )


def _application(
    strangers: Sequence[tuple[str, WebRoute]],
    *,
    private: Sequence[tuple[str, WebRoute]] = (),
    metrics: MetricsPage | None = None,
    site: Site | None = None,
) -> Starlette:
    by_host: dict[Domain, list[BaseRoute]] = {}
    below: list[BaseRoute] = []
    for plugin, route in strangers:
        if route.host is not None:
            by_host.setdefault(route.host, []).append(_route(route))
        else:
            below.append(_route(route, plugin))
    below += [_Private(_route(route, plugin), site) for plugin, route in private]
    routes: list[BaseRoute] = [Host(str(host), app=Router(pages)) for host, pages in by_host.items()]
    if metrics is not None:
        routes.append(Route(METRICS, endpoint=metrics))
    application = Starlette(routes=[*routes, *below], exception_handlers={404: _not_here, 500: _failed})
    if site is not None:
        application.router.default = site
    return application


def _route(route: WebRoute, plugin: str = "") -> Route:
    path = f"/{plugin}{_path(route)}" if plugin else _path(route)
    return Route(path, endpoint=route.handler, methods=list(route.methods), name=route.title or None)


def _path(route: WebRoute) -> str:
    return route.path if route.path.startswith("/") else f"/{route.path}"


async def _not_here(_request: Request, _error: Exception) -> PlainTextResponse:
    return PlainTextResponse("there is no such page\n", status_code=404)


async def _failed(_request: Request, _error: Exception) -> PlainTextResponse:
    """The error itself goes on to `Guard`, which logs it."""
    return PlainTextResponse(f"something failed here; the log says more under the id {current_cid()}\n", status_code=500)


class _Private(BaseRoute):
    """A page for who sits at this machine, or for who has logged in where there is a site."""

    def __init__(self, route: Route, site: Site | None) -> None:
        self._route, self._site = route, site

    def matches(self, scope: Scope) -> tuple[Any, Scope]:
        return self._route.matches(scope)

    async def handle(self, scope: Scope, receive: Receive, send: Send) -> None:
        refusal: ASGIApp | None = None
        if self._site is not None:
            refusal = await self._site.refusal(scope)
        elif not is_local(scope):
            refusal = PlainTextResponse("this page is for this machine only\n", status_code=403)
        await (refusal or self._route.handle)(scope, receive, send)
