"""What in-memory tests of plugins share: a `Core` over a real store without threads, a clock of virtual time, fake HTTPS."""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import structlog
import trio

from postward.core import Core
from postward.dns import ZoneResolver
from postward.http import HttpError, HttpResponse
from postward.model import MICROSECONDS, PASSED, Schema, Verdict
from postward.names import Domain
from postward.store import open_store

NOON = 1_795_521_600 * MICROSECONDS  # 2026-11-24 12:00 UTC


class VirtualClock:
    """Wall time that follows trio's clock, so it stands still unless the test lets time pass."""

    def __init__(self, start: int = NOON) -> None:
        self._start, self._begun = start, trio.current_time()

    def now(self) -> int:
        return self._start + round((trio.current_time() - self._begun) * MICROSECONDS)

    async def sleep_until(self, instant: int) -> None:
        await trio.sleep(max(0, instant - self.now()) / MICROSECONDS)


class FakeHttp:
    """Answers per host from `pages`: a body, a status, or an `HttpError`; takes `delay` seconds; remembers what was asked."""

    def __init__(self) -> None:
        self.pages: dict[str, bytes | int | HttpError] = {}
        self.headers: Mapping[str, str] = {"content-type": "text/plain"}
        self.requests: list[str] = []
        self.options: dict[str, Any] = {}
        self.delay = 0.0

    async def request(self, method: str, host: Domain, target: str, **options: Any) -> HttpResponse:
        self.requests.append(f"{method} https://{host}{target}")
        self.options = options
        await trio.sleep(self.delay)
        page = self.pages.get(host, HttpError("no-address", f"{host} does not exist"))
        if isinstance(page, HttpError):
            raise page
        if isinstance(page, int):
            return HttpResponse(status=page, headers=self.headers, body=b"an error page")
        return HttpResponse(status=200, headers=self.headers, body=page)


class FakeTrust:
    """Gives `verdict` and remembers what was to be verified."""

    def __init__(self) -> None:
        self.verdict: Verdict = PASSED
        self.asked: list[tuple[tuple[bytes, ...], Domain]] = []

    def verify(self, chain: tuple[bytes, ...], name: Domain, *, at: int | None = None) -> Verdict:
        self.asked.append((chain, name))
        return self.verdict


@asynccontextmanager
async def make_core(
    name: str, schema: Schema, *, url: str = "sqlite://", submitter: str | None = "mx.sender.example"
) -> AsyncIterator[Any]:
    """A `Core` for the plugin `name`; its fakes are the attributes `dns`, `http` and `trust`."""
    clock = VirtualClock()
    core: Any = Core(
        plugin=name,
        hostname=Domain("mx.sender.example"),
        node="test",
        data_dir=Path("/nonexistent"),
        clock=clock,
        dns=ZoneResolver(),
        net=SimpleNamespace(),  # type: ignore[arg-type]
        http=FakeHttp(),
        trust=FakeTrust(),  # type: ignore[arg-type]
        signer=SimpleNamespace(),  # type: ignore[arg-type]
        submitter=Domain(submitter) if submitter else None,
        log=structlog.get_logger(name),
    )
    async with open_store(
        url=url,
        node_path=Path(":memory:"),
        node="test",
        schemas={name: schema},
        consumers=[name],
        clock=clock,
        inline=True,
    ) as store:
        core.store = store
        yield core
