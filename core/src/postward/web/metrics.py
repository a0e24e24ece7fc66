"""`/metrics`, the page that Prometheus reads: for this machine, or for who has the token (RFC 6750 §2.1).

With a token everybody needs it, because this machine may have more users than the operator; and then it may be asked for from
anywhere the web server can be reached, so a Prometheus elsewhere can read it.
"""

from __future__ import annotations

import hmac
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, Final

from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response

from postward.web.origin import is_local

if TYPE_CHECKING:
    from starlette.types import Receive, Scope, Send

_CHALLENGE: Final = {"www-authenticate": 'Bearer realm="postward"'}

Render = Callable[[str], Awaitable[tuple[bytes, str]]]


class MetricsPage:
    """An ASGI application with one page. `render` makes it, and its media type, for an Accept header."""

    def __init__(self, render: Render, token: str = "") -> None:
        self._render, self._token = render, token.encode()

    @property
    def for_strangers(self) -> bool:
        """Whether it is for others than this machine."""
        return bool(self._token)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request."""
        await (await self._answer(Request(scope)))(scope, receive, send)

    async def _answer(self, request: Request) -> Response:
        if request.method not in ("GET", "HEAD"):
            return PlainTextResponse("only GET is for this page\n", 405, {"allow": "GET, HEAD"})
        if self._token:
            scheme, _, given = request.headers.get("authorization", "").partition(" ")
            if scheme.lower() != "bearer" or not hmac.compare_digest(given.strip().encode(), self._token):
                return PlainTextResponse("this page needs the token of web.metrics_token\n", 401, _CHALLENGE)
        elif not is_local(request.scope):
            return PlainTextResponse("this page is for this machine only\n", 403)
        body, media_type = await self._render(request.headers.get("accept", ""))
        return Response(body, headers={"content-type": media_type, "cache-control": "no-store"})
