"""Answering strangers over HTTP/1.1 (RFC 9110, RFC 9112): routing, bodies, and clients that misbehave. Without sockets."""

from __future__ import annotations

from typing import Any
from unittest.mock import Mock

import pytest
import trio
from hypothesis import given
from hypothesis import strategies as st
from trio.testing import MockClock, memory_stream_pair

from postward.model import WebRoute
from postward.names import Domain
from postward.web.exchange import Exchange, Request
from postward.web.routes import NoPage, Pages


class Text:
    """An ASGI application that says one thing."""

    def __init__(self, text: str, status: int = 200) -> None:
        self.text, self.status = text.encode(), status

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        headers = [(b"content-length", str(len(self.text)).encode())]
        await send({"type": "http.response.start", "status": self.status, "headers": headers})
        await send({"type": "http.response.body", "body": b"" if scope["method"] == "HEAD" else self.text})


async def echo(request: Request) -> Text:
    """Says how long the body is."""
    return Text(str(len(b"".join([piece async for piece in request.stream()]))), 201)


async def early(request: Request) -> Text:
    """Answers without reading."""
    return Text("no", 415)


async def broken(request: Request) -> Text:
    """Fails."""
    raise RuntimeError("out of order")


PAGES = Pages(
    [
        ("sts", WebRoute(path="/.well-known/x.txt", handler=Text("policy"), host=Domain("sts.own.example"))),
        ("p", WebRoute(path="/take", handler=echo, methods=("POST",), public=True)),
        ("p", WebRoute(path="/early", handler=early, methods=("POST",), public=True)),
        ("p", WebRoute(path="/broken", handler=broken, public=True)),
        ("p", WebRoute(path="/secret", handler=Text("secret"))),
    ]
)


async def ask(content: bytes, *, end: bool = True, pages: Pages = PAGES) -> bytes:
    """What a client that says `content` is answered."""
    client, server = memory_stream_pair()
    answer = b""
    async with trio.open_nursery() as nursery:
        nursery.start_soon(Exchange(server, pages, Mock(), peer="192.0.2.1").run)
        await client.send_all(content)
        if end:
            await client.send_eof()
        async for piece in client:
            answer += piece
            if answer.startswith(b"HTTP/1.1 100"):
                answer = b""
                await client.send_all(b"body!")
                await client.send_eof()
        await client.aclose()
    return answer


def head(first: str, host: str = "mx.own.example", *more: str) -> bytes:
    return "\r\n".join([f"{first} HTTP/1.1", f"Host: {host}", *more, "", ""]).encode()


@pytest.mark.parametrize(
    ("first", "host", "status"),
    [
        ("GET /.well-known/x.txt", "sts.own.example", 200),
        ("GET /.well-known/x.txt?a=b", "STS.own.example.:8460", 200),
        ("HEAD /.well-known/x.txt", "sts.own.example", 200),
        ("GET /.well-known/x.txt", "mx.own.example", 404),
        ("GET /sts/.well-known/x.txt", "sts.own.example", 404),
        ("POST /.well-known/x.txt", "sts.own.example", 405),
        ("GET /p/take", "any.example", 405),
        ("GET /p/secret", "any.example", 404),
        ("GET /p/broken", "any.example", 500),
        ("GET /", "any.example", 404),
    ],
)
async def test_pages_are_found_by_host_and_path(first: str, host: str, status: int, autojump_clock: MockClock) -> None:
    """RFC 8461 §3.2, RFC 8460 §5.4: policies under their host names, reports at one place, and nothing else."""
    answer = await ask(head(first, host))
    assert answer.startswith(b"HTTP/1.1 %d " % status)
    assert answer.endswith(b"policy") is (status == 200 and first.startswith("GET"))
    assert (b"connection: close" in answer.lower()) is True


async def test_a_body_of_any_kind_is_read(autojump_clock: MockClock) -> None:
    whole = head("POST /p/take", "a", "Content-Length: 5") + b"12345"
    chunked = head("POST /p/take", "a", "Transfer-Encoding: chunked") + b"3\r\nabc\r\n4\r\ndefg\r\n0\r\n\r\n"
    waiting = head("POST /p/take", "a", "Content-Length: 5", "Expect: 100-continue")
    assert (await ask(whole)).endswith(b"\r\n\r\n5")
    assert (await ask(chunked)).endswith(b"\r\n\r\n7")
    assert (await ask(waiting, end=False)).endswith(b"\r\n\r\n5")


async def test_an_answer_before_the_end_of_the_body_arrives(autojump_clock: MockClock) -> None:
    """RFC 9112 §9.6: what is still coming is read for a while, or the answer would be lost."""
    content = head("POST /p/early", "a", "Content-Length: 1000000") + b"x" * 500_000
    assert (await ask(content)).startswith(b"HTTP/1.1 415 ")


@pytest.mark.parametrize(
    ("content", "answer"),
    [
        (b"\x16\x03\x01\x02\x00\x01", b"HTTP/1.1 400 "),
        (b"GET\r\n\r\n", b"HTTP/1.1 400 "),
        (head("GET /", "a", "X: " + "y" * 100_000), b"HTTP/1.1 431 "),
        (b"GET / HTTP/1.1\r\n\r\n", b"HTTP/1.1 400 "),
        (head("POST /p/take", "a", "Content-Length: -1"), b"HTTP/1.1 400 "),
        (head("POST /p/take", "a", "Content-Length: 5", "Content-Length: 6"), b"HTTP/1.1 400 "),
        (head("POST /p/take", "a", "Transfer-Encoding: chunked") + b"zz\r\n", b"HTTP/1.1 400 "),
        (head("POST /p/take", "a", "Content-Length: 5") + b"123", b"HTTP/1.1 400 "),
        (b"", b""),
    ],
)
async def test_rubbish_is_answered_and_forgotten(content: bytes, answer: bytes, autojump_clock: MockClock) -> None:
    assert (await ask(content)).startswith(answer)


async def test_who_says_nothing_is_let_go(autojump_clock: MockClock) -> None:
    assert (await ask(b"GET / HTTP/1.1\r\n", end=False)).startswith(b"HTTP/1.1 408 ")
    assert await ask(head("POST /p/take", "a", "Content-Length: 5") + b"1", end=False) == b""


@given(st.text(max_size=60), st.text(max_size=60), st.sampled_from(["GET", "POST", "PUT", ""]))
def test_any_request_has_a_page_or_none(host: str, path: str, method: str) -> None:
    found = PAGES.find(method, host, path)
    assert callable(found) or (isinstance(found, NoPage) and found.status in (404, 405))


def test_without_pages_there_is_nothing() -> None:
    assert not Pages([])
    assert Pages([]).find("GET", "", "/") == NoPage(status=404)
