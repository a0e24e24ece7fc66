"""Asking the pages of plugins without a server: the application is called as a server calls it."""

from __future__ import annotations

from typing import Any
from urllib.parse import urlsplit

from postward import hookspecs
from postward.hooks import Hooks
from postward.web.routes import assemble


async def get(hooks: Hooks, path: str) -> tuple[int, str]:
    """Status and body of a page, asked from this machine. Raises what a plugin's `register_routes` raises."""
    routes = []
    for outcome in hooks.collect(hookspecs.register_routes):
        if outcome.error is not None:
            raise outcome.error
        routes += [(outcome.plugin, route) for route in outcome.value or ()]
    said: list[Any] = []

    async def receive() -> dict[str, Any]:
        return {"type": "http.request", "body": b"", "more_body": False}

    async def send(message: Any) -> None:
        said.append(message)

    parts = urlsplit(path)
    scope = {
        "type": "http",
        "asgi": {"version": "3.0"},
        "http_version": "1.1",
        "method": "GET",
        "scheme": "http",
        "path": parts.path,
        "raw_path": parts.path.encode(),
        "root_path": "",
        "query_string": parts.query.encode(),
        "headers": [(b"host", b"localhost")],
        "client": ("127.0.0.1", 50_000),
        "server": ("127.0.0.1", 8460),
    }
    await assemble(routes).local(scope, receive, send)
    status = next(int(each["status"]) for each in said if each["type"] == "http.response.start")
    return status, b"".join(each.get("body", b"") for each in said).decode()
