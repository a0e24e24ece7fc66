"""Reports that are posted: the answer says whether they count (RFC 8460 §5.4). The endpoint alone, without HTTP around it."""

from __future__ import annotations

import gzip
from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import Any
from unittest.mock import Mock

import pytest

from plugin_rig import make_core
from postward.dkim import Signer
from postward.errors import StoreError
from postward.names import Address, Domain
from postward_tlsrpt import received_tables, tables
from postward_tlsrpt.plugin import TlsRpt
from tlsrpt_samples import as_json, mail, plain, policy, zipped

GOOD = zipped(plain())
GZIP, JSON = "application/tlsrpt+gzip", "application/tlsrpt+json"


@dataclass
class Request:
    """What the endpoint needs of one."""

    headers: Mapping[str, str]
    body: bytes = field(repr=False)

    async def stream(self) -> AsyncIterator[bytes]:
        for start in range(0, len(self.body), 65_536):
            yield self.body[start : start + 65_536]
        yield b""


class Site:
    """The plugin's page."""

    def __init__(self, core: Any) -> None:
        self.core = core
        core.signer, core.log = Signer([]), Mock()
        self.plugin = TlsRpt(TlsRpt.Config(addresses=(Address("tlsrpt", Domain("example.com")),)), core)
        (route,) = (route for route in self.plugin.register_routes() if route.public)
        assert (route.path, route.methods, route.public) == ("/report", ("POST",), True)
        self.handler = route.handler

    async def post(
        self, body: bytes, media_type: str = GZIP, *more: tuple[str, str], length: int | None = None
    ) -> tuple[int, str]:
        """The status and the text of the answer."""
        headers = {"content-length": str(len(body) if length is None else length), **dict(more)}
        if media_type:
            headers["content-type"] = media_type
        sent: list[Any] = []

        async def send(event: Any) -> None:
            sent.append(event)

        await (await self.handler(Request(headers, body)))({"type": "http"}, None, send)
        start, rest = sent
        assert dict(start["headers"])[b"content-length"] == str(len(rest["body"])).encode()
        return start["status"], rest["body"].decode().strip()

    async def counted(self) -> int:
        found = await self.core.store.read(lambda connection: received_tables.domains(connection, 0, 1 << 60))
        return sum(each.reports for each in found)


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
        (as_json(plain()), "application/json", (("content-encoding", "identity"),)),
        (GOOD, JSON, (("content-encoding", "gzip"),)),
    ],
)
async def test_a_report_is_taken_once(site: Site, body: bytes, media_type: str, more: tuple[tuple[str, str], ...]) -> None:
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
    assert (await site.post(GOOD, GZIP, ("content-encoding", "br")))[0] == 415


async def test_a_database_that_fails_makes_the_sender_come_back(site: Site) -> None:
    """RFC 8460 §5.5: other codes may be tried again."""

    async def fail(*_: Any) -> None:
        raise StoreError("gone")

    site.core.store = SimpleNamespace(write=fail)
    site.plugin.receiver._core = site.core
    assert (await site.post(GOOD))[0] == 503
