"""Where the pages of a site are: paths with `{names}` in them, and the navigation."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from postward.errors import ConfigError
from postward.model import WebRoute
from postward.web.frame import Entry
from postward.web.page import Action, View
from postward.web.params import Param

API: Final = "/api/v1"
CORE: Final = "Postward"
_NAME: Final = re.compile(r"\{([a-z_]+)\}")


@dataclass(frozen=True, slots=True, kw_only=True)
class Place:
    """A page or an action at a path. `group` is the plugin that it belongs to, or `CORE`."""

    path: str
    group: str
    what: View | Action
    title: str = ""

    @property
    def names(self) -> tuple[str, ...]:
        """The parameters in the path."""
        return tuple(_NAME.findall(self.path))

    @property
    def params(self) -> tuple[Param, ...]:
        """All parameters; those of the path that nobody declared are text."""
        given = self.what.params if isinstance(self.what, View) else self.what.fields
        known = {param.name for param in given}
        return (*given, *(Param(name=name) for name in self.names if name not in known))

    @property
    def conditions(self) -> tuple[Param, ...]:
        """Those that are not in the path, for the form above the page."""
        return tuple(param for param in self.params if param.name not in self.names)

    @property
    def twin(self) -> str:
        """The path of its JSON."""
        return API + ("/overview" if self.path == "/" else self.path)


class Places:
    """All places of a site. Raises `ConfigError` for two at the same path."""

    def __init__(self, places: Sequence[Place]) -> None:
        self.all = tuple(sorted(places, key=lambda place: place.path.count("{")))
        self._patterns: list[tuple[re.Pattern[str], Place, bool]] = []
        seen: dict[str, str] = {}
        for place in self.all:
            shape = _NAME.sub("{}", place.path)
            if shape in seen:
                raise ConfigError(f"{seen[shape]} and {place.group} both have a page at {place.path}", key="plugins")
            seen[shape] = place.group
            self._patterns.append((_pattern(place.path), place, False))
            if isinstance(place.what, View):
                self._patterns.append((_pattern(place.twin), place, True))
        self.groups = _groups(places)

    def find(self, path: str) -> tuple[Place, Mapping[str, str], bool] | None:
        """What is at a path, the values of the names in it, and whether it is asked for as JSON."""
        for pattern, place, as_json in self._patterns:
            if (found := pattern.fullmatch(path)) is not None:
                return place, found.groupdict(), as_json
        return None


def places_of(group: str, routes: Sequence[WebRoute], *, below: str) -> list[Place]:
    """The pages and actions among the routes of a plugin, or of core, each below a path."""
    return [
        Place(path=f"{below}{path}" or "/", group=group, what=route.handler, title=route.title)
        for route in routes
        if isinstance(route.handler, View | Action) and (path := _slashed(route.path)) is not None
    ]


def is_drawn(route: WebRoute) -> bool:
    """Whether core draws it."""
    return isinstance(route.handler, View | Action)


def _slashed(path: str) -> str:
    return path if path.startswith("/") else f"/{path}"


def _pattern(path: str) -> re.Pattern[str]:
    parts = re.split(r"\{([a-z_]+)\}", path)
    return re.compile(
        "".join(re.escape(part) if at % 2 == 0 else f"(?P<{part}>[^/]{{1,400}})" for at, part in enumerate(parts))
    )


def _groups(places: Sequence[Place]) -> tuple[tuple[str, tuple[Entry, ...]], ...]:
    groups: dict[str, list[Entry]] = {}
    for place in places:
        if place.title and "{" not in place.path and isinstance(place.what, View):
            groups.setdefault(place.group, []).append(Entry(title=place.title, href=place.path))
    return tuple((name, tuple(entries)) for name, entries in groups.items())
