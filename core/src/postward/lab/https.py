"""The lab's web hosts: MTA-STS policies, good and bad (RFC 8461 §3.3), and an endpoint for TLS reports (RFC 8460 §5.4).

All hosts share one address; SNI picks the certificate and the Host field the site, as with a real hosting provider.
"""

from __future__ import annotations

import ssl
from collections import deque
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from enum import StrEnum
from typing import TYPE_CHECKING, Final

import h11
import trio

from postward.tls import TlsError, TlsStream, server_handshake

if TYPE_CHECKING:
    from postward.names import Domain

POLICY_PATH: Final = "/.well-known/mta-sts.txt"
REPORT_PATH: Final = "/reports"
MAX_BODY: Final = 16 * 1024 * 1024
MAX_KEPT: Final = 1000
_CONNECTION_LIMIT: Final = 60.0
_OVERSIZE: Final = 256 * 1024
_PIECE: Final = 16
_PAUSE: Final = 0.02


class Serving(StrEnum):
    """How a policy host answers."""

    GOOD = "good"
    MISSING = "404"
    REDIRECT = "redirect"
    OVERSIZED = "oversized"
    SLOW = "slow"
    STALLED = "stalled"


@dataclass(frozen=True, slots=True, kw_only=True)
class Site:
    """One web host: its certificate, the policy it serves and how, and whether reports may be posted to it."""

    context: ssl.SSLContext
    policy: str = ""
    serving: Serving = Serving.GOOD
    takes_reports: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Posted:
    """A report that was posted: to which host, as what, and the body as it came."""

    host: str
    content_type: str
    body: bytes = field(repr=False)


@dataclass(slots=True)
class WebHosts:
    """All sites, and what was posted to them; of posts, at most `MAX_KEPT` are kept and counted as accepted."""

    sites: dict[Domain, Site]
    posted: list[Posted] = field(default_factory=list)
    requests: deque[tuple[str, str]] = field(default_factory=lambda: deque(maxlen=MAX_KEPT))

    async def serve(self, listener: trio.SocketListener) -> None:
        """Serve until cancelled. Nothing a client does ends it."""
        context = self._front()

        async def connection(transport: trio.SocketStream) -> None:
            with trio.move_on_after(_CONNECTION_LIMIT):
                with suppress(TlsError, OSError, trio.BrokenResourceError, trio.ClosedResourceError, h11.RemoteProtocolError):
                    await self._request(await server_handshake(transport, context))
            await trio.aclose_forcefully(transport)

        await trio.serve_listeners(connection, [listener])

    def _front(self) -> ssl.SSLContext:
        """The context in which every handshake begins; SNI changes it for the site's."""

        def choose(connection: ssl.SSLObject, name: str | None, _: ssl.SSLContext) -> int | None:
            site = next((site for host, site in self.sites.items() if host == (name or "").lower()), None)
            if site is None:
                return ssl.ALERT_DESCRIPTION_UNRECOGNIZED_NAME
            connection.context = site.context
            return None

        front = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        front.minimum_version = ssl.TLSVersion.TLSv1_2
        front.sni_callback = choose
        return front

    async def _request(self, stream: TlsStream) -> None:
        connection = h11.Connection(h11.SERVER)
        request = await _next_event(connection, stream)
        if not isinstance(request, h11.Request):
            return
        body = await _body(connection, stream)
        host = next(
            (value.decode("latin-1").partition(":")[0].lower() for name, value in request.headers if name == b"host"), ""
        )
        kind = next((value.decode("latin-1") for name, value in request.headers if name == b"content-type"), "")
        target = request.target.decode("latin-1")
        self.requests.append((host, target))
        site = next((site for name, site in self.sites.items() if name == host), None)
        if body is None:
            await _respond(connection, stream, 413)
        elif site is not None and site.takes_reports and (request.method, target) == (b"POST", REPORT_PATH):
            await self._take(connection, stream, Posted(host=host, content_type=kind, body=body))
        elif site is not None and (request.method, target) == (b"GET", POLICY_PATH):
            await _serve_policy(connection, stream, site, host)
        else:
            await _respond(connection, stream, 404, b"no such page\n")

    async def _take(self, connection: h11.Connection, stream: TlsStream, report: Posted) -> None:
        if len(self.posted) >= MAX_KEPT:
            return await _respond(connection, stream, 507)
        self.posted.append(report)
        return await _respond(connection, stream, 201)


async def _serve_policy(connection: h11.Connection, stream: TlsStream, site: Site, host: str) -> None:
    text = site.policy.encode()
    match site.serving:
        case Serving.MISSING:
            # The right policy under the wrong status: only the status keeps a client from using it.
            await _respond(connection, stream, 404, text)
        case Serving.REDIRECT:
            location = f"https://{host}/moved.txt"
            await _respond(connection, stream, 301, text, extra=[("location", location)])
        case Serving.OVERSIZED:
            await _respond(connection, stream, 200, text + b"# padding padding padding\n" * (_OVERSIZE // 26))
        case Serving.SLOW:
            await _respond(connection, stream, 200, text, pause=_PAUSE)
        case Serving.STALLED:
            await _respond(connection, stream, 200, text, pause=_CONNECTION_LIMIT)
        case Serving.GOOD:
            await _respond(connection, stream, 200, text)


async def _respond(
    connection: h11.Connection,
    stream: TlsStream,
    status: int,
    body: bytes = b"",
    *,
    extra: Sequence[tuple[str, str]] = (),
    pause: float = 0,
) -> None:
    headers = [
        ("content-type", "text/plain; charset=utf-8"),
        ("content-length", str(len(body))),
        ("connection", "close"),
        *extra,
    ]
    head = connection.send(h11.Response(status_code=status, headers=headers))
    await stream.send_all(head or b"")
    piece = _PIECE if pause else max(len(body), 1)
    for start in range(0, len(body), piece):
        await stream.send_all(connection.send(h11.Data(data=body[start : start + piece])) or b"")
        await trio.sleep(pause)
    await stream.send_all(connection.send(h11.EndOfMessage()) or b"")
    await stream.aclose()


async def _body(connection: h11.Connection, stream: TlsStream) -> bytes | None:
    """The whole body; None when it is larger than allowed."""
    parts: list[bytes] = []
    size = 0
    while isinstance(event := await _next_event(connection, stream), h11.Data):
        size += len(event.data)
        if size > MAX_BODY:
            return None
        parts.append(bytes(event.data))
    return b"".join(parts)


async def _next_event(connection: h11.Connection, stream: TlsStream) -> h11.Event | None:
    while True:
        event = connection.next_event()
        if event is h11.NEED_DATA:
            connection.receive_data(bytes(await stream.receive_some(65536)))
        elif isinstance(event, h11.Event):
            return event
        else:
            return None
