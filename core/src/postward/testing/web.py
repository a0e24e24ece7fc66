"""HTTPS hosts in memory: pages by path, every trouble that a fetch can meet, and what was posted (RFC 9110)."""

from __future__ import annotations

import ssl
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, field

import h11
import trio

from postward.names import Domain
from postward.tls import TlsError, server_handshake

_MAX_BODY = 64 * 1024 * 1024


@dataclass(frozen=True, slots=True, kw_only=True)
class Page:
    """An answer. `delay` is seconds before it, `pause` seconds between its octets; `length` False leaves out Content-Length.

    Without `close_notify` the connection ends as a broken one does.
    """

    body: bytes = b""
    status: int = 200
    headers: Mapping[str, str] = field(default_factory=lambda: {"content-type": "text/plain"})
    delay: float = 0.0
    pause: float = 0.0
    length: bool = True
    close_notify: bool = True


@dataclass(frozen=True, slots=True, kw_only=True)
class Request:
    """What a client asked for."""

    method: str
    target: str
    headers: Mapping[str, str]
    body: bytes = field(repr=False)


@dataclass(slots=True)
class WebSite:
    """One HTTPS host. `pages` maps a path to a `Page`, a body, or a status; `requests` keeps what was asked, in order.

    What is not in `pages` is answered by `otherwise`. Pages can be changed at any time.
    """

    name: Domain
    address: str
    context: ssl.SSLContext
    pages: dict[str, Page | bytes | str | int] = field(default_factory=dict)
    otherwise: Page = field(default_factory=lambda: Page(status=404, body=b"no such page\n"))
    requests: list[Request] = field(default_factory=list)

    async def __call__(self, transport: trio.abc.Stream) -> None:
        """Answer the one request of a connection."""
        with suppress(TlsError, OSError, h11.RemoteProtocolError):
            stream = await server_handshake(transport, self.context)
            connection = h11.Connection(h11.SERVER)
            request = await self._read(connection, stream)
            if request is not None:
                self.requests.append(request)
                await self._answer(stream, _page(self.pages.get(request.target, self.otherwise)))

    async def _read(self, connection: h11.Connection, stream: trio.abc.Stream) -> Request | None:
        head: h11.Request | None = None
        body = bytearray()
        while True:
            event = connection.next_event()
            if event is h11.NEED_DATA:
                connection.receive_data(bytes(await stream.receive_some(65_536)))
            elif isinstance(event, h11.Request):
                head = event
            elif isinstance(event, h11.Data) and len(body) < _MAX_BODY:
                body += event.data
            elif isinstance(event, h11.EndOfMessage) and head is not None:
                return Request(
                    method=head.method.decode("latin-1"),
                    target=head.target.decode("latin-1"),
                    headers={name.decode("latin-1"): value.decode("latin-1") for name, value in head.headers},
                    body=bytes(body),
                )
            else:
                return None

    async def _answer(self, stream: trio.abc.Stream, page: Page) -> None:
        await trio.sleep(page.delay)
        # By hand: h11 would send what has no length in chunks, and those have an end of their own.
        length = {"content-length": str(len(page.body))} if page.length else {}
        fields = {**page.headers, "connection": "close", **length}
        head = f"HTTP/1.1 {page.status} .\r\n" + "".join(f"{name}: {value}\r\n" for name, value in fields.items())
        await stream.send_all(f"{head}\r\n".encode("latin-1"))
        step = 1 if page.pause else max(1, len(page.body))
        for start in range(0, len(page.body), step):
            await stream.send_all(page.body[start : start + step])
            await trio.sleep(page.pause)
        if page.close_notify:
            await stream.aclose()


def _page(given: Page | bytes | str | int) -> Page:
    if isinstance(given, Page):
        return given
    if isinstance(given, int):
        return Page(status=given)
    return Page(body=given.encode() if isinstance(given, str) else given)
