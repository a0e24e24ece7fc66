"""Which page answers which request, and what surrounds it: nothing for strangers but what says that it is."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from typing import Any

import pytest
import structlog
import trio

from postward.errors import ConfigError
from postward.model import WebRoute
from postward.names import Domain
from postward.web.guard import Guard
from postward.web.metrics import MetricsPage
from postward.web.routes import Pages, assemble

LOG = structlog.get_logger("test")


def page(text: str) -> Callable[..., Any]:
    async def answer(request: Any) -> Any:
        from starlette.responses import PlainTextResponse

        return PlainTextResponse(text)

    return answer


ROUTES = [
    ("mtasts", WebRoute(path="/.well-known/mta-sts.txt", host=Domain("mta-sts.example.com"), handler=page("policy"))),
    ("tlsrpt", WebRoute(path="/report", handler=page("posted"), methods=("POST",), public=True)),
    ("tlsrpt", WebRoute(path="/results", handler=page("secret"), title="TLS results")),
]


async def ask(
    app: Any,
    path: str,
    *,
    method: str = "GET",
    host: str = "127.0.0.1:8460",
    client: str | None = "127.0.0.1",
    fields: Mapping[str, str] | None = None,
) -> tuple[int, str, Mapping[str, str]]:
    """One request to an ASGI application: status, body, header fields."""
    messages: list[dict[str, Any]] = []

    async def receive() -> dict[str, Any]:
        return {"type": "http.request", "body": b"", "more_body": False}

    async def send(message: dict[str, Any]) -> None:
        messages.append(message)

    scope = {
        "type": "http",
        "http_version": "1.1",
        "method": method,
        "path": path,
        "raw_path": path.encode(),
        "query_string": b"",
        "root_path": "",
        "scheme": "http",
        "headers": [
            (b"host", host.encode()),
            *((name.encode(), value.encode("latin-1")) for name, value in (fields or {}).items()),
        ],
        "client": (client, 40000) if client else None,
        "server": ("127.0.0.1", 8460),
    }
    await app(scope, receive, send)
    start = next(message for message in messages if message["type"] == "http.response.start")
    body = b"".join(message.get("body", b"") for message in messages if message["type"] == "http.response.body")
    return start["status"], body.decode(), {name.decode(): value.decode() for name, value in start["headers"]}


@pytest.fixture
def pages() -> Pages:
    return assemble(ROUTES)


@pytest.mark.parametrize("app", ["public", "local"])
async def test_strangers_get_what_is_for_strangers(pages: Pages, app: str) -> None:
    """RFC 8461 §3.3: the policy, by the name of its host; RFC 8460 §5.4: the place of reports."""
    served = getattr(pages, app)
    stranger: dict[str, Any] = {"client": "192.0.2.1", "host": "mta-sts.example.com"}
    assert (await ask(served, "/.well-known/mta-sts.txt", **stranger))[:2] == (200, "policy")
    assert (await ask(served, "/.well-known/mta-sts.txt", client="192.0.2.1", host="MTA-STS.example.com:443"))[0] == 200
    assert (await ask(served, "/.well-known/mta-sts.txt", client="192.0.2.1", host="other.example.com"))[0] == 404
    assert (await ask(served, "/.well-known/other.txt", **stranger))[0] == 404
    assert (await ask(served, "/tlsrpt/report", method="POST", client="192.0.2.1", host="mx.example.com"))[:2] == (
        200,
        "posted",
    )
    assert (await ask(served, "/tlsrpt/report", client="192.0.2.1", host="mx.example.com"))[0] == 405


@pytest.mark.parametrize(
    ("host", "client", "status"),
    [
        ("127.0.0.1:8460", "127.0.0.1", 200),
        ("localhost:8460", "127.0.0.1", 200),
        ("localhost", "::1", 200),
        ("[::1]:8460", "::1", 200),
        ("LOCALHOST", None, 200),
        ("127.0.0.1:8460", "192.0.2.1", 403),
        ("evil.example:8460", "127.0.0.1", 403),
        ("localhost.evil.example", "127.0.0.1", 403),
        ("127.0.0.1.evil.example", "127.0.0.1", 403),
        ("", "127.0.0.1", 403),
    ],
)
async def test_other_pages_are_for_this_machine(pages: Pages, host: str, client: str | None, status: int) -> None:
    """Also another site cannot lend this machine its name (DNS rebinding)."""
    assert (await ask(pages.local, "/tlsrpt/results", host=host, client=client))[0] == status


async def test_the_public_side_has_nothing_else(pages: Pages) -> None:
    assert (await ask(pages.public, "/tlsrpt/results"))[0] == 404


def test_two_pages_for_one_request() -> None:
    other = WebRoute(path="/.well-known/mta-sts.txt", host=Domain("mta-sts.example.com"), handler=page("x"))
    with pytest.raises(ConfigError, match="both answer GET mta-sts"):
        assemble([*ROUTES, ("other", other)])
    assert not assemble([ROUTES[2]]).for_strangers


async def test_careful_headers_and_errors(pages: Pages) -> None:
    status, _, headers = await ask(Guard(pages.public, LOG), "/.well-known/mta-sts.txt", host="mta-sts.example.com")
    assert status == 200
    assert headers["x-content-type-options"] == "nosniff"
    assert "default-src 'none'" in headers["content-security-policy"]

    async def broken(request: Any) -> Any:
        raise RuntimeError("a secret")

    app = Guard(assemble([("x", WebRoute(path="/a", handler=broken, public=True))]).public, LOG)
    status, body, _ = await ask(app, "/x/a")
    assert status == 500
    assert "secret" not in body
    assert re.search("under the id [0-9a-f]{12}", body)


async def test_slow_and_many_requests(autojump_clock: trio.testing.MockClock) -> None:
    async def slow(request: Any) -> Any:
        await trio.sleep_forever()

    app = Guard(assemble([("x", WebRoute(path="/a", handler=slow, public=True))]).public, LOG, within=60, at_once=2)
    found: list[int] = []

    async def one() -> None:
        found.append((await ask(app, "/x/a"))[0])

    async with trio.open_nursery() as nursery:
        for _ in range(3):
            nursery.start_soon(one)
    assert sorted(found) == [408, 408, 503]
    assert trio.current_time() >= 60


# --- metrics ---

TOKEN = "t0ken-of-sixteen-characters"


def metrics_of(token: str = "") -> Pages:
    async def render(accept: str) -> tuple[bytes, str]:
        return b"postward_up 1\n", f"text/plain; asked={accept or 'nothing'}"

    return assemble(ROUTES, MetricsPage(render, token))


@pytest.mark.parametrize(
    ("host", "client", "status"),
    [
        ("127.0.0.1:8460", "127.0.0.1", 200),
        ("localhost:8460", "::1", 200),
        ("127.0.0.1:8460", "192.0.2.1", 403),
        ("evil.example:8460", "127.0.0.1", 403),
    ],
)
async def test_metrics_without_a_token_are_for_this_machine(host: str, client: str, status: int) -> None:
    pages = metrics_of()
    found, body, headers = await ask(pages.local, "/metrics", host=host, client=client)
    assert found == status
    assert ("postward_up" in body) is (status == 200)
    if status == 200:
        assert headers["content-type"].startswith("text/plain; asked=")
        assert headers["cache-control"] == "no-store"
    assert (await ask(pages.public, "/metrics"))[0] == 404
    assert (await ask(pages.local, "/metrics", method="POST"))[0] == 405


@pytest.mark.parametrize("side", ["local", "public"])
@pytest.mark.parametrize(
    ("given", "status"),
    [
        (f"Bearer {TOKEN}", 200),
        (f"bearer   {TOKEN}", 200),
        ("", 401),
        ("Bearer ", 401),
        (f"Bearer {TOKEN}x", 401),
        (f"Basic {TOKEN}", 401),
        (TOKEN, 401),
        ("Bearer \xe9", 401),
    ],
)
async def test_with_a_token_everybody_needs_it(side: str, given: str, status: int) -> None:
    """RFC 6750 §2.1: the token comes in the header field."""
    app = getattr(metrics_of(TOKEN), side)
    for client, host in (("127.0.0.1", "localhost"), ("192.0.2.1", "mx.example.com")):
        found, body, headers = await ask(app, "/metrics", client=client, host=host, fields={"authorization": given})
        assert found == status
        assert ("postward_up" in body) is (status == 200)
        assert (status == 401) is ("www-authenticate" in headers)


def test_a_token_makes_the_public_side_worth_serving() -> None:
    async def render(accept: str) -> tuple[bytes, str]:
        return b"", ""

    assert assemble([], MetricsPage(render, TOKEN)).for_strangers
    assert not assemble([], MetricsPage(render)).for_strangers
