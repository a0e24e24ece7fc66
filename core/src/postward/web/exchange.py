"""One request and its answer over HTTP/1.1 (RFC 9112), and then the end: strangers come once, with one policy or report.

A handler is an ASGI application, or takes a request and gives one, as a Starlette endpoint does. Nothing of a request is
believed: heads are bounded by h11, times here, bodies by whoever reads them.
"""

from __future__ import annotations

import inspect
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

import h11
import trio

from postward.web.routes import NoPage, Pages, first_headers

if TYPE_CHECKING:
    from structlog.typing import FilteringBoundLogger

HEAD_WITHIN: Final = 20.0
WITHIN: Final = 120.0
# A client that is answered before it has sent everything would lose the answer with the connection (RFC 9112 §9.6).
_DRAIN_WITHIN: Final = 5.0
_DRAIN_BYTES: Final = 4 << 20
_PIECE: Final = 64 * 1024
_BROKEN: Final = (trio.BrokenResourceError, trio.ClosedResourceError, h11.RemoteProtocolError, h11.LocalProtocolError)


class Gone(Exception):
    """The client went away, or is none."""


@dataclass(frozen=True, slots=True)
class Request:
    """A request as handlers get it: `headers` by lower-case name, and the body piece by piece."""

    method: str
    path: str
    headers: Mapping[str, str]
    _receive: Callable[[], Any]

    async def stream(self) -> AsyncIterator[bytes]:
        """The body. Raises `Gone` when the client ends it early."""
        while True:
            event = await self._receive()
            if event["type"] != "http.request":
                raise Gone
            if event["body"]:
                yield event["body"]
            if not event["more_body"]:
                return


class Exchange:
    """What happens on one connection."""

    def __init__(self, stream: trio.abc.Stream, pages: Pages, log: FilteringBoundLogger, *, peer: str) -> None:
        self._stream, self._pages, self._log, self._peer = stream, pages, log, peer
        self._http = h11.Connection(h11.SERVER, max_incomplete_event_size=32 * 1024)
        self._status = 0

    async def run(self) -> None:
        """Answer, and close."""
        try:
            with trio.move_on_after(WITHIN), suppress(Gone, *_BROKEN):
                await self._whole()
        finally:
            await trio.aclose_forcefully(self._stream)

    async def _whole(self) -> None:
        try:
            with trio.fail_after(HEAD_WITHIN):
                request = await self._next()
        except h11.RemoteProtocolError as exc:
            return await self._say(exc.error_status_hint)
        except trio.TooSlowError:
            return await self._say(408)
        if not isinstance(request, h11.Request):
            return None
        await self._answer(request)
        if self._status:
            self._log.info("web", status=self._status, method=request.method.decode("latin-1"), peer=self._peer)
        with trio.move_on_after(_DRAIN_WITHIN):
            await self._drain()
        return None

    async def _answer(self, request: h11.Request) -> None:
        headers = first_headers(request.headers.raw_items())
        method, target = request.method.decode("latin-1"), request.target.decode("latin-1")
        path = target.partition("?")[0]
        handler = self._pages.find(method, headers.get("host", ""), path)
        if isinstance(handler, NoPage):
            return await self._say(handler.status, allow=handler.allow)
        scope = {"type": "http", "method": method, "path": path, "headers": request.headers.raw_items(), "scheme": "http"}
        try:
            if inspect.iscoroutinefunction(handler):
                application = await handler(Request(method, path, headers, self._receive))
            else:
                application = handler
            await application(scope, self._receive, self._send)
        except h11.RemoteProtocolError as exc:
            await self._say(exc.error_status_hint)
        except (Gone, *_BROKEN):
            raise
        except Exception:  # noqa: BLE001 - one request's trouble must not end the service
            self._log.exception("page-failed", path=path[:100])
            await self._say(500)
        return None

    # --- ASGI ---

    async def _receive(self) -> dict[str, Any]:
        if self._http.they_are_waiting_for_100_continue:
            go_on = h11.InformationalResponse(status_code=100, headers=[])
            await self._stream.send_all(self._http.send(go_on) or b"")
        event = await self._next()
        if isinstance(event, h11.Data):
            return {"type": "http.request", "body": bytes(event.data), "more_body": True}
        if isinstance(event, h11.EndOfMessage) or self._http.their_state is h11.DONE:
            return {"type": "http.request", "body": b"", "more_body": False}
        return {"type": "http.disconnect"}

    async def _send(self, event: Mapping[str, Any]) -> None:
        if event["type"] == "http.response.start":
            self._status = event["status"]
            headers = [*event.get("headers", ()), (b"connection", b"close")]
            data = self._http.send(h11.Response(status_code=event["status"], headers=headers))
        else:
            data = self._http.send(h11.Data(data=event.get("body", b""))) or b""
            if not event.get("more_body", False):
                data += self._http.send(h11.EndOfMessage()) or b""
        await self._stream.send_all(data or b"")

    # --- the wire ---

    async def _next(self) -> h11.Event | type[h11.NEED_DATA] | type[h11.PAUSED]:
        while True:
            event = self._http.next_event()
            if event is not h11.NEED_DATA:
                return event
            self._http.receive_data(bytes(await self._stream.receive_some(_PIECE)))

    async def _say(self, status: int, *, allow: str = "") -> None:
        """Answer with a status alone; not behind an answer that has begun."""
        if self._http.our_state not in (h11.IDLE, h11.SEND_RESPONSE):
            return
        headers = [(b"content-type", b"text/plain; charset=utf-8"), (b"content-length", b"0")]
        headers += [(b"allow", allow.encode())] if allow else []
        await self._send({"type": "http.response.start", "status": status, "headers": headers})
        await self._send({"type": "http.response.body"})

    async def _drain(self) -> None:
        if (send_eof := getattr(self._stream, "send_eof", None)) is not None:
            await send_eof()
        left = _DRAIN_BYTES
        while left > 0 and (piece := await self._stream.receive_some(_PIECE)):
            left -= len(piece)
