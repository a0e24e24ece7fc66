"""Around every page: a limit to its time and to how many are at work, an answer whatever goes wrong, and careful headers."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import trio

from postward.log import correlated

if TYPE_CHECKING:
    from starlette.types import ASGIApp, Message, Receive, Scope, Send
    from structlog.typing import FilteringBoundLogger

WITHIN: Final = 60.0
AT_ONCE: Final = 100
_HEADERS: Final = (
    (b"x-content-type-options", b"nosniff"),
    (b"x-frame-options", b"DENY"),
    (b"referrer-policy", b"no-referrer"),
    (b"content-security-policy", b"default-src 'none'; frame-ancestors 'none'; base-uri 'none'; form-action 'self'"),
)


class Guard:
    """An ASGI application around another one. Requests beyond `at_once` hear 503, those beyond `within` seconds end."""

    def __init__(self, app: ASGIApp, log: FilteringBoundLogger, *, within: float = WITHIN, at_once: int = AT_ONCE) -> None:
        self._app, self._log, self._within, self._left = app, log, within, at_once

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request."""
        if scope["type"] == "lifespan":
            await _live(receive, send)
            return
        if scope["type"] != "http":
            return
        answer = _Answer(send)
        if self._left <= 0:
            await answer.fail(503, b"too many requests at once, please come back\n")
            return
        self._left -= 1
        with correlated() as cid:
            await self._served(scope, receive, answer, cid)

    async def _served(self, scope: Scope, receive: Receive, answer: _Answer, cid: str) -> None:
        try:
            with trio.move_on_after(self._within) as limit:
                await self._app(scope, receive, answer.send)
            if limit.cancelled_caught:
                self._log.warning("web-request-too-slow", path=scope["path"][:200], seconds=self._within)
                await answer.fail(408, b"that took too long\n")
        except Exception:  # noqa: BLE001 - a page may fail in any way, and the client must hear of it
            self._log.exception("web-page-failed", path=scope["path"][:200])
            await answer.fail(500, f"something failed here; the log says more under the id {cid}\n".encode())
        finally:
            self._left += 1


async def _live(receive: Receive, send: Send) -> None:
    """Startup and shutdown are the service's own, so there is nothing to do."""
    while True:
        message = await receive()
        await send({"type": f"{message['type']}.complete"})
        if message["type"] == "lifespan.shutdown":
            return


class _Answer:
    def __init__(self, send: Send) -> None:
        self._send, self._begun = send, False

    async def send(self, message: Message) -> None:
        if message["type"] == "http.response.start":
            self._begun = True
            given = list(message.get("headers", ()))
            names = {name.lower() for name, _ in given}
            message = {**message, "headers": [*given, *(each for each in _HEADERS if each[0] not in names)]}
        await self._send(message)

    async def fail(self, status: int, text: bytes) -> None:
        """Say what went wrong, if nothing was said before."""
        if self._begun:
            return
        headers = [(b"content-type", b"text/plain; charset=utf-8"), (b"content-length", str(len(text)).encode())]
        await self.send({"type": "http.response.start", "status": status, "headers": headers})
        await self._send({"type": "http.response.body", "body": text})
