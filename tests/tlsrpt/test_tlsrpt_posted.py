"""Reports that are posted: the answer says whether they count (RFC 8460 §5.4). Over HTTP/1.1 in memory."""

from __future__ import annotations

import gzip
from collections.abc import AsyncIterator
from types import SimpleNamespace
from typing import Any
from unittest.mock import Mock

import pytest
import trio
from trio.testing import memory_stream_pair

from plugin_rig import make_core
from postward.dkim import Signer
from postward.errors import StoreError
from postward.names import Address, Domain
from postward.web.exchange import Exchange
from postward.web.routes import Pages
from postward_tlsrpt import received, tables
from postward_tlsrpt.plugin import TlsRpt
from tlsrpt_samples import as_json, mail, plain, policy, zipped

GOOD = zipped(plain())
GZIP, JSON = "application/tlsrpt+gzip", "application/tlsrpt+json"


class Site:
    """The plugin's pages."""

    def __init__(self, core: Any) -> None:
        self.core = core
        core.signer, core.log = Signer([]), Mock()
        self.plugin = TlsRpt(TlsRpt.Config(addresses=(Address("tlsrpt", Domain("example.com")),)), core)
        self.pages = Pages(("tlsrpt", route) for route in self.plugin.register_routes())

    async def post(self, body: bytes, media_type: str = GZIP, *more: str, length: int | None = None) -> tuple[int, str]:
        """The status and the text of the answer."""
        size = len(body) if length is None else length
        fields = [f"Content-Type: {media_type}"] if media_type else []
        lines = ["POST /tlsrpt/report HTTP/1.1", "Host: mx.example.com", f"Content-Length: {size}", *fields, *more, "", ""]
        client, server = memory_stream_pair()
        answer = b""
        async with trio.open_nursery() as nursery:
            nursery.start_soon(Exchange(server, self.pages, Mock(), peer="203.0.113.9").run)
            nursery.start_soon(self._send, client, "\r\n".join(lines).encode() + body)
            async for piece in client:
                answer += piece
            await client.aclose()
        head, _, text = answer.partition(b"\r\n\r\n")
        return int(head.split(b" ")[1]), text.decode().strip()

    @staticmethod
    async def _send(client: Any, content: bytes) -> None:
        await client.send_all(content)
        await client.send_eof()

    async def counted(self) -> int:
        found = await self.core.store.read(lambda connection: received.look(connection, 0, 1 << 60))
        return sum(each.total.reports for each in found)


@pytest.fixture
async def site() -> AsyncIterator[Site]:
    async with make_core("tlsrpt", tables.SCHEMA) as core:
        yield Site(core)


@pytest.mark.parametrize(
    ("body", "media_type", "more"),
    [
        (GOOD, GZIP, ()),
        (as_json(plain()), JSON, ()),
        (GOOD, "Application/TLSRPT+gzip; charset=utf-8", ()),
        (GOOD, "application/gzip", ()),
        (GOOD, "application/octet-stream", ()),
        (as_json(plain()), "application/json", ()),
        (as_json(plain()), "application/json", ("Content-Encoding: identity",)),
        (GOOD, JSON, ("Content-Encoding: gzip",)),
    ],
)
async def test_a_report_is_taken_once(site: Site, body: bytes, media_type: str, more: tuple[str, ...]) -> None:
    """RFC 8460 §5.4: 2xx, and for one that comes again too, since it is counted."""
    assert await site.post(body, media_type, *more) == (201, "counted")
    assert await site.post(body, media_type, *more) == (200, "was counted before")
    assert await site.counted() == 1


@pytest.mark.parametrize(
    ("body", "media_type", "status", "text"),
    [
        (GOOD, "", 415, "no media type"),
        (GOOD, "text/html", 415, "text/html: wanted"),
        (b"", GZIP, 400, "no TLS report"),
        (b"hello", JSON, 400, "no TLS report"),
        (mail(GOOD), JSON, 400, "no TLS report"),
        (b"{}", JSON, 400, "missing"),
        (GOOD[:40], GZIP, 400, "ends too early"),
        (GOOD + GOOD, GZIP, 400, "more behind"),
        (gzip.compress(b"\0" * (30 << 20)), GZIP, 400, "when decompressed"),
        (b'{"a":' * 100_000, JSON, 400, "not JSON"),
        (zipped(plain(policies=[policy(10**30, 0)])), GZIP, 400, ""),
        (zipped(plain(policies=[policy(-5, 0)])), GZIP, 400, "negative"),
        (zipped(plain(**{"report-id": ""})), GZIP, 400, "report-id is empty"),
    ],
)
async def test_what_will_never_count_is_refused_for_good(
    site: Site, body: bytes, media_type: str, status: int, text: str
) -> None:
    """RFC 8460 §5.4: 4xx, so that nobody tries again for a day."""
    got, said = await site.post(body, media_type)
    assert (got, text in said) == (status, True), said
    assert await site.counted() == 0


async def test_another_report_under_a_known_id_and_one_about_others(site: Site) -> None:
    await site.post(GOOD)
    assert (await site.post(zipped(plain(policies=[policy(1, 0)]))))[0] == 409
    value = plain(**{"report-id": "other"})
    value["policies"][0]["policy"]["policy-domain"] = "stranger.example"
    assert await site.post(zipped(value)) == (422, "report for unknown domain")
    assert await site.counted() == 1


async def test_sizes_have_limits(site: Site) -> None:
    assert (await site.post(b"", length=99_999_999))[0] == 413
    assert (await site.post(b"", length=10**15))[0] == 413
    assert (await site.post(b"x" * (16 << 20)))[0] == 413


async def test_another_encoding_is_not_understood(site: Site) -> None:
    assert (await site.post(GOOD, GZIP, "Content-Encoding: br"))[0] == 415


async def test_a_database_that_fails_makes_the_sender_come_back(site: Site) -> None:
    """RFC 8460 §5.5: other codes may be tried again."""

    async def fail(*_: Any) -> None:
        raise StoreError("gone")

    site.core.store = SimpleNamespace(write=fail)
    site.plugin.receiver._core = site.core
    assert (await site.post(GOOD))[0] == 503
