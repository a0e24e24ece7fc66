"""The operator's site in memory: a program with plugins, and a browser that keeps cookies and follows forms."""

from __future__ import annotations

import json
import re
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from html import unescape
from pathlib import Path
from typing import Any
from urllib.parse import urlencode

import pytest

from postward.app import App
from postward.config import from_dict
from postward.dns import ZoneResolver
from postward.web import assembly
from postward.web.routes import assemble
from queue_kit import SENDER, FixedClock, new_message

PASSWORDS = {"ada": "right", "eve": "reading"}


class FakeUsers:
    """Users without the price of argon2."""

    def __init__(self, path: object = None, log: object = None) -> None:
        self.passwords = dict(PASSWORDS)

    async def check(self, user: str, password: str) -> bool:
        return self.passwords.get(user) == password

    def stored(self, user: str) -> str:
        return self.passwords.get(user, "")


@dataclass
class Answer:
    """What came back."""

    status: int
    text: str
    headers: list[tuple[str, str]]

    def header(self, name: str) -> str:
        return next((value for key, value in self.headers if key == name), "")

    @property
    def json(self) -> Any:
        return json.loads(self.text)

    @property
    def token(self) -> str:
        found = re.search(r'name="token" value="([^"]*)"', self.text)
        return found[1] if found else ""

    @property
    def said(self) -> str:
        """The text of the page, without its markup."""
        return " ".join(unescape(re.sub(r"<[^>]*>", " ", self.text)).split())


@dataclass
class Browser:
    """Asks an ASGI application, with the cookies it was given."""

    app: Any
    host: str = "127.0.0.1:8460"
    client: str = "127.0.0.1"
    cookies: dict[str, str] = field(default_factory=dict)

    async def get(self, target: str, *, method: str = "GET", **headers: str) -> Answer:
        return await self._ask(method, target, b"", headers)

    async def post(self, target: str, form: Mapping[str, str], **headers: str) -> Answer:
        kind = {"content-type": "application/x-www-form-urlencoded"}
        return await self._ask("POST", target, urlencode(form).encode(), kind | headers)

    async def log_in(self, user: str = "ada", password: str = "") -> Answer:
        page = await self.get("/login")
        return await self.post("/login", {"token": page.token, "user": user, "password": password or PASSWORDS[user]})

    async def _ask(self, method: str, target: str, body: bytes, headers: Mapping[str, str]) -> Answer:
        path, _, query = target.partition("?")
        messages: list[dict[str, Any]] = []
        fields = [(b"host", self.host.encode())]
        fields += [(name.replace("_", "-").encode(), value.encode()) for name, value in headers.items()]
        if self.cookies:
            fields.append((b"cookie", "; ".join(f"{name}={value}" for name, value in self.cookies.items()).encode()))

        async def receive() -> dict[str, Any]:
            return {"type": "http.request", "body": body, "more_body": False}

        async def send(message: dict[str, Any]) -> None:
            messages.append(message)

        scope = {
            "type": "http",
            "http_version": "1.1",
            "method": method,
            "path": path,
            "raw_path": path.encode(),
            "query_string": query.encode(),
            "root_path": "",
            "scheme": "http",
            "headers": fields,
            "client": (self.client, 40000),
            "server": ("127.0.0.1", 8460),
        }
        await self.app(scope, receive, send)
        start = next(message for message in messages if message["type"] == "http.response.start")
        content = b"".join(message.get("body", b"") for message in messages if message["type"] == "http.response.body")
        found = [(name.decode(), value.decode()) for name, value in start["headers"]]
        for name, value in found:
            if name == "set-cookie":
                key, _, rest = value.partition("=")
                self.cookies[key] = rest.partition(";")[0].strip('"')
        return Answer(start["status"], content.decode(), found)


@dataclass
class Rig:
    """A program with its pages."""

    app: App
    browser: Browser
    clock: FixedClock
    users: FakeUsers | None

    def another(self, **how: Any) -> Browser:
        return Browser(self.browser.app, **how)

    async def put(self, *to: str, body: bytes = b"Subject: x\r\n\r\nhello\r\n", **how: Any) -> str:
        """Queue a message."""
        how.setdefault("sender", SENDER)
        message = new_message(*to, **how)
        writer = self.app.queue.writer()
        await writer.write(body)
        await writer.commit(message)
        return message.cid


@asynccontextmanager
async def site(
    folder: Path, *, extra: Mapping[str, object] = {}, users: bool = True, patch: pytest.MonkeyPatch, **tables: Any
) -> AsyncIterator[Rig]:
    """The site of a program below `folder`; ada may change, eve may read."""
    web: dict[str, Any] = {"users": "users", "readers": ["eve"]} if users else {}
    web |= tables.pop("web", {})
    config = from_dict({"core": {"hostname": "mx.sender.example", "data_dir": str(folder / "data")}, "web": web, **tables})
    clock = FixedClock()
    known = FakeUsers()
    patch.setattr(assembly, "Users", lambda path, log: known)
    async with App(config, clock=clock, dns=ZoneResolver(), inline=True, extra=extra) as app:
        pages, others = assembly.site_of(app)
        yield Rig(app, Browser(assemble(others, site=pages).local), clock, known if users else None)
