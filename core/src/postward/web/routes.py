"""Which page a request is for: by host name where a page has one of its own, otherwise below `/<plugin>/` (`WebRoute`).

Only what is for strangers is found here: pages of a host, and public ones.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from collections.abc import Callable

    from postward.model import WebRoute

_HOST: Final = re.compile(r"([A-Za-z0-9_.-]{1,254}?)\.?(?::\d{1,5})?")


@dataclass(frozen=True, slots=True, kw_only=True)
class NoPage:
    """There is none: `status` 404, or 405 with the methods that there are."""

    status: int
    allow: str = ""


class Pages:
    """The pages of all plugins, given as plugin names with their routes."""

    def __init__(self, routes: Iterable[tuple[str, WebRoute]]) -> None:
        self._pages: dict[tuple[str, str], dict[str, Callable[..., Any]]] = {}
        for plugin, route in routes:
            if route.host is None and not route.public:
                continue
            place = (str(route.host), route.path) if route.host is not None else ("", f"/{plugin}{route.path}")
            methods = {*route.methods, "HEAD"} if "GET" in route.methods else set(route.methods)
            self._pages.setdefault(place, {}).update(dict.fromkeys(methods, route.handler))

    def __bool__(self) -> bool:
        return bool(self._pages)

    def find(self, method: str, host: str, path: str) -> Callable[..., Any] | NoPage:
        """The handler of a page; the host is as the request has it, the path without its query."""
        match = _HOST.fullmatch(host)
        name = match[1].lower() if match else ""
        page = (self._pages.get((name, path)) if name else None) or self._pages.get(("", path))
        if page is None:
            return NoPage(status=404)
        return page.get(method) or NoPage(status=405, allow=", ".join(sorted(page)))


def first_headers(headers: Iterable[tuple[bytes, bytes]]) -> Mapping[str, str]:
    """Headers by name in lower case, the first of each."""
    found: dict[str, str] = {}
    for name, value in headers:
        found.setdefault(name.decode("latin-1").lower(), value.decode("latin-1"))
    return found
