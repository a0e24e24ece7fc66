"""Reports that are posted to us (RFC 8460 §5.4): one report in the body of a request, nothing else.

The endpoint needs of its request only `headers` and `stream()`, and what it answers is an ASGI application, as Starlette wants
of both.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, Awaitable, Callable, Mapping
from contextlib import aclosing
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final, Protocol

from postward.errors import StoreError
from postward_tlsrpt.message import GZIP_TYPE, JSON_TYPE, MAX_MAIL, is_report
from postward_tlsrpt.read import ReportError

if TYPE_CHECKING:
    from postward_tlsrpt.receiving import Receiver

TYPES: Final = frozenset(
    {
        JSON_TYPE,
        GZIP_TYPE,
        "application/tlsrpt",
        "application/json",
        "application/gzip",
        "application/x-gzip",
        "application/octet-stream",
    }
)
MAX_BODY: Final = MAX_MAIL
_IDENTITY: Final = ("", "identity", "gzip", "x-gzip")


class Request(Protocol):
    """What is needed of a request."""

    @property
    def headers(self) -> Mapping[str, str]: ...

    def stream(self) -> AsyncGenerator[bytes, None]: ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    """A status with a line of text, as an ASGI application."""

    status: int
    text: str

    async def __call__(self, scope: Any, receive: Any, send: Callable[[dict[str, Any]], Awaitable[None]]) -> None:
        """Send it."""
        body = f"{self.text}\n".encode()
        headers = [(b"content-type", b"text/plain; charset=utf-8"), (b"content-length", str(len(body)).encode())]
        await send({"type": "http.response.start", "status": self.status, "headers": headers})
        await send({"type": "http.response.body", "body": body})


async def take(request: Request, receiver: Receiver) -> Answer:
    """Answer a posted report: 2xx when it is counted, 4xx with the reason when it never will be (RFC 8460 §5.4)."""
    media_type = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if media_type not in TYPES:
        return Answer(status=415, text=f"{media_type[:80] or 'no media type'}: wanted {GZIP_TYPE} or {JSON_TYPE}")
    if request.headers.get("content-encoding", "").strip().lower() not in _IDENTITY:
        return Answer(status=415, text="unknown content-encoding")
    body = await _body(request)
    if body is None:
        return Answer(status=413, text=f"more than {MAX_BODY} bytes")
    return await _judge(body, media_type, receiver)


async def _body(request: Request) -> bytes | None:
    """The body; None when it is too large."""
    length = request.headers.get("content-length", "")
    if length.isdecimal() and (len(length) > 12 or int(length) > MAX_BODY):
        return None
    collected = bytearray()
    async with aclosing(request.stream()) as pieces:
        async for piece in pieces:
            collected += piece
            if len(collected) > MAX_BODY:
                return None
    return bytes(collected)


async def _judge(body: bytes, media_type: str, receiver: Receiver) -> Answer:
    from postward_tlsrpt.receiving import SAID

    if not is_report(body):
        return Answer(status=400, text="no TLS report")
    (found,) = await receiver.find(body)
    if isinstance(found, ReportError):
        receiver.turned_away("https", "unreadable")
        return Answer(status=400, text=str(found))
    try:
        # Nobody vouches for what is posted: the name is for telling reports apart.
        taken = await receiver.take(found, via="https", voucher=found.submitter)
    except StoreError:
        receiver.turned_away("https", "not-stored")
        return Answer(status=503, text="the report could not be stored, please come back")
    status = {"stored": 201, "duplicate": 200, "conflict": 409}.get(taken.state, 422)
    return Answer(status=status, text=SAID[taken.state])
