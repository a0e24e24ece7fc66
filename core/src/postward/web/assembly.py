"""The pages of a program: core's own and those of its plugins, behind one login."""

from __future__ import annotations

from typing import TYPE_CHECKING

from postward import hookspecs
from postward.listen.users import Users
from postward.web.access import Access
from postward.web.pages import core_routes
from postward.web.places import CORE, Place, Places, is_drawn, places_of
from postward.web.site import Site

if TYPE_CHECKING:
    from postward.app import App
    from postward.model import WebRoute


def site_of(app: App) -> tuple[Site, list[tuple[str, WebRoute]]]:
    """The operator's site, and the routes of plugins that are not drawn by it, each with the plugin's name.

    Raises `ConfigError`, and what a plugin raises that has none to bring.
    """
    places: list[Place] = places_of(CORE, core_routes(app), below="")
    others: list[tuple[str, WebRoute]] = []
    for outcome in app.hooks.collect(hookspecs.register_routes):
        if outcome.error is not None:
            raise outcome.error
        routes = outcome.value or ()
        places += places_of(outcome.plugin, routes, below=f"/{outcome.plugin}")
        others += [(outcome.plugin, route) for route in routes if not is_drawn(route)]
    web = app.config.web
    users = Users(web.users, app.log) if web.users is not None else None
    site = Site(
        Places(places),
        access=Access(users, web.readers),
        clock=app.clock,
        hostname=str(app.config.core.hostname),
        log=app.log,
        hosts=web.hosts,
    )
    return site, others
