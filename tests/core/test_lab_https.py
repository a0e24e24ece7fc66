"""The lab's web hosts, seen by a client that knows nothing of the product."""

from __future__ import annotations

import ssl
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass

import pytest
import trio

from postward.lab import https
from postward.lab.ca import Authority, self_signed
from postward.lab.ground import WEB, claim
from postward.lab.https import POLICY_PATH, REPORT_PATH, Serving, Site, WebHosts
from postward.names import Domain

pytestmark = pytest.mark.loopback

AUTHORITY = Authority()
POLICY = "version: STSv1\r\nmode: enforce\r\nmx: mx.a.test\r\nmax_age: 86400\r\n"


@dataclass
class Browser:
    """Makes one request per connection, and verifies certificates."""

    port: int

    async def connect(self, host: str, sni: str | None = None) -> trio.SSLStream[trio.SocketStream]:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        context.load_verify_locations(cadata=AUTHORITY.root_pem.decode())
        transport = await trio.open_tcp_stream(WEB, self.port)
        stream = trio.SSLStream(transport, context, server_hostname=sni or host, https_compatible=True)
        try:
            await stream.do_handshake()
        except BaseException:
            await trio.aclose_forcefully(stream)
            raise
        return stream

    async def ask(self, host: str, method: str, target: str, body: bytes = b"", kind: str = "text/plain") -> tuple[str, bytes]:
        stream = await self.connect(host)
        head = f"{method} {target} HTTP/1.1\r\nHost: {host}\r\nContent-Type: {kind}\r\nContent-Length: {len(body)}\r\n\r\n"
        await stream.send_all(head.encode() + body)
        answer = b""
        try:
            while data := await stream.receive_some():
                answer += data
        finally:
            await trio.aclose_forcefully(stream)
        header, _, rest = answer.partition(b"\r\n\r\n")
        return header.decode(), rest


def site(name: str, serving: Serving = Serving.GOOD, *, reports: bool = False) -> Site:
    return Site(context=AUTHORITY.issue([name]).server_context(), policy=POLICY, serving=serving, takes_reports=reports)


@asynccontextmanager
async def running(**sites: Site) -> AsyncIterator[tuple[Browser, WebHosts]]:
    ground = claim([WEB])
    hosts = WebHosts(sites={Domain(f"{name}.test"): each for name, each in sites.items()})
    with trio.fail_after(20):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(hosts.serve, ground.listeners[WEB])
            yield Browser(ground.port), hosts
            nursery.cancel_scope.cancel()
    ground.close()


async def test_a_good_policy() -> None:
    async with running(a=site("a.test")) as (browser, hosts):
        head, body = await browser.ask("a.test", "GET", POLICY_PATH)
        assert head.startswith("HTTP/1.1 200")
        assert "content-type: text/plain" in head.lower()
        assert body == POLICY.encode()
        assert list(hosts.requests) == [("a.test", POLICY_PATH)]


async def test_sni_picks_the_certificate() -> None:
    """RFC 8461 §7.1; both hosts share one address."""
    expired = self_signed(["b.test"]).server_context()
    async with running(a=site("a.test"), b=Site(context=expired)) as (browser, _):
        await (await browser.connect("a.test")).aclose()
        with pytest.raises(trio.BrokenResourceError) as caught:
            await browser.connect("b.test")
        assert isinstance(caught.value.__cause__, ssl.SSLCertVerificationError)
        with pytest.raises(trio.BrokenResourceError):
            await browser.connect("nobody.test")


@pytest.mark.parametrize(
    ("serving", "status"), [(Serving.MISSING, "404"), (Serving.REDIRECT, "301"), (Serving.OVERSIZED, "200")]
)
async def test_bad_answers(serving: Serving, status: str) -> None:
    async with running(a=site("a.test", serving)) as (browser, _):
        head, body = await browser.ask("a.test", "GET", POLICY_PATH)
        assert head.split()[1] == status
        assert ("location: https://a.test/" in head.lower()) == (serving is Serving.REDIRECT)
        assert (len(body) > 65536) == (serving is Serving.OVERSIZED)


async def test_slow_but_whole() -> None:
    async with running(a=site("a.test", Serving.SLOW)) as (browser, _):
        assert (await browser.ask("a.test", "GET", POLICY_PATH))[1] == POLICY.encode()


async def test_stalled() -> None:
    async with running(a=site("a.test", Serving.STALLED)) as (browser, _):
        with trio.move_on_after(0.3) as waiting:
            await browser.ask("a.test", "GET", POLICY_PATH)
        assert waiting.cancelled_caught


async def test_reports_are_taken_where_they_belong() -> None:
    """RFC 8460 §5.4: 201 for what was taken."""
    async with running(a=site("a.test"), r=site("r.test", reports=True)) as (browser, hosts):
        head, _ = await browser.ask("r.test", "POST", REPORT_PATH, b"gz", "application/tlsrpt+gzip")
        assert head.split()[1] == "201"
        for host, method, target in [("a.test", "POST", REPORT_PATH), ("r.test", "GET", REPORT_PATH), ("r.test", "POST", "/")]:
            assert (await browser.ask(host, method, target))[0].split()[1] == "404"
        [posted] = hosts.posted
        assert (posted.host, posted.content_type, posted.body) == ("r.test", "application/tlsrpt+gzip", b"gz")


async def test_limits(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(https, "MAX_BODY", 10)
    monkeypatch.setattr(https, "MAX_KEPT", 1)
    async with running(r=site("r.test", reports=True)) as (browser, hosts):
        assert (await browser.ask("r.test", "POST", REPORT_PATH, b"x" * 11))[0].split()[1] == "413"
        assert (await browser.ask("r.test", "POST", REPORT_PATH, b"x"))[0].split()[1] == "201"
        assert (await browser.ask("r.test", "POST", REPORT_PATH, b"x"))[0].split()[1] == "507"
        assert len(hosts.posted) == 1


async def test_clients_that_misbehave_end_nothing() -> None:
    async with running(a=site("a.test")) as (browser, _):
        for junk in (b"", b"GET / HTTP/1.1\r\n\r\n", b"\x16\x03\x01\x00\x05hello"):
            transport = await trio.open_tcp_stream(WEB, browser.port)
            await transport.send_all(junk)
            await transport.aclose()
        for junk in (b"nonsense\r\n\r\n", b"GET / HTTP/1.1\r\n", b"GET / HTTP/1.1\r\nHost: a.test\r\nHost: b.test\r\n\r\n"):
            stream = await browser.connect("a.test")
            await stream.send_all(junk)
            await stream.aclose()
        assert (await browser.ask("a.test", "GET", POLICY_PATH))[1] == POLICY.encode()
