"""The pages that plugins bring: every one of them with the data of weeks, by pages, and with hostile texts."""

from __future__ import annotations

import html.parser
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from postward.model import day_of
from web_data import CONFIG, POLICY_ID, fill
from web_kit import Rig, site


@pytest.fixture
async def rig(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Rig]:
    async with site(tmp_path, patch=monkeypatch, **CONFIG) as made:
        await fill(made.app)
        await made.browser.log_in()
        yield made


class Strict(html.parser.HTMLParser):
    """Sees what a browser would make of a page."""

    def __init__(self) -> None:
        super().__init__()
        self.tags: set[str] = set()
        self.wrong: list[str] = []
        self.ids: list[str] = []
        self.hrefs: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.add(tag)
        for name, value in attrs:
            if name.startswith("on") or name == "style":
                self.wrong.append(f"{tag} {name}")
            if name == "id":
                self.ids.append(value or "")
            if name in ("href", "src", "action") and tag != "link":
                self.hrefs.append(value or "")


def looked_at(text: str) -> Strict:
    seen = Strict()
    seen.feed(text)
    return seen


async def every_page(rig: Rig) -> list[str]:
    """All that can be reached from the overview by links, one of each kind of page at most."""
    found, waiting, kinds = list[str](), ["/"], set[str]()
    while waiting:
        path = waiting.pop()
        page = await rig.browser.get(path)
        assert page.status == 200, f"{path}: {page.said}"
        found.append(path)
        seen = looked_at(page.text)
        assert not seen.wrong, path
        assert not seen.tags & {"script", "img", "iframe", "style", "object"}, path
        assert len(set(seen.ids)) == len(seen.ids), path
        for href in seen.hrefs:
            if href.startswith("#"):
                continue
            assert href.startswith("/"), path
            kind = "/".join(part if part.isalpha() and len(part) < 20 else "*" for part in href.partition("?")[0].split("/"))
            if kind not in kinds and "/api/" not in href and not href.startswith(("/static/", "/logout")):
                kinds.add(kind)
                if not await _is_action(rig, href):
                    waiting.append(href)
    return found


async def _is_action(rig: Rig, href: str) -> bool:
    return (await rig.browser.get(href)).status == 405


async def test_every_page_holds_no_markup_of_strangers(rig: Rig) -> None:
    found = await every_page(rig)
    for start in ("/queue/", "/reports/", "/tlsrpt/results/", "/mtasts/cache/"):
        assert any(path.startswith(start) for path in found), (start, found)


async def test_every_twin_is_json(rig: Rig) -> None:
    described = (await rig.browser.get("/api/v1/openapi.json")).json
    plain = [path for path in described["paths"] if "{" not in path]
    assert {"/api/v1/tlsrpt/results", "/api/v1/tlsrpt/received", "/api/v1/mtasts/cache"} <= set(plain)
    for path in plain:
        answer = await rig.browser.get(path)
        assert answer.status == 200, path
        assert set(answer.json) == {"data", "next"}


async def listed(rig: Rig, path: str, key: str, limit: int) -> list[Any]:
    """All entries of a list, page by page."""
    entries, after = list[Any](), ""
    while True:
        join = "&" if "?" in path else "?"
        answer = await rig.browser.get(f"{path}{join}limit={limit}{f'&after={after}' if after else ''}")
        assert answer.status == 200, answer.text
        page = answer.json
        assert len(page["data"][key]) <= limit
        entries += page["data"][key]
        if page["next"] is None:
            return entries
        after = page["next"]


async def test_tls_results(rig: Rig) -> None:
    rows = await listed(rig, "/api/v1/tlsrpt/results", "results", 50)
    assert len(rows) == 120
    assert [(one["domain"], one["day"]) for one in rows] == sorted((one["domain"], one["day"]) for one in rows)
    today = day_of(rig.clock.now())
    assert len(await listed(rig, f"/api/v1/tlsrpt/results?day={today}", "results", 30)) == 40
    failed = await listed(rig, "/api/v1/tlsrpt/results?show=with%20failures", "results", 50)
    assert failed
    assert all(one["failed"] for one in failed)
    of_one = (await rig.browser.get("/api/v1/tlsrpt/results?domain=d03.example")).json["data"]
    assert [(one["successful"], one["failed"]) for one in of_one["days"]] == [(103, 3)] * 3
    one = (await rig.browser.get(f"/api/v1/tlsrpt/results/d03.example/{today}/{POLICY_ID}")).json["data"]
    assert one["failures"][0]["result_type"] == "certificate-expired"
    assert one["failures"][0]["sessions"] == 3
    assert "out of date" in one["failures"][0]["happened"]
    assert (await rig.browser.get(f"/tlsrpt/results/none.example/{today}/{POLICY_ID}")).status == 404
    for query in ("after=x", "after=a/b", "day=2026", "show=all"):
        assert (await rig.browser.get(f"/tlsrpt/results?{query}")).status == 400


async def test_received_tls_reports(rig: Rig) -> None:
    data = (await rig.browser.get("/api/v1/tlsrpt/received")).json["data"]
    assert [(one["domain"], one["reports"]) for one in data["domains"]] == [("example.com", 48)]
    one = (await rig.browser.get("/api/v1/tlsrpt/received?domain=example.com")).json["data"]
    assert len(one["timeline"]) == 24
    assert sum(each["failed"] for each in one["timeline"]) == sum(each["failed"] for each in one["senders"])
    failures = await listed(rig, "/api/v1/tlsrpt/received?domain=example.com", "failures", 10)
    assert sum(each["sessions"] for each in failures) == sum(each["failed"] for each in one["timeline"])
    page = await rig.browser.get("/tlsrpt/received?domain=example.com")
    assert page.text.count("<rect") > 24
    for query in ("days=0", "days=x", "after=y", "domain=a..b"):
        assert (await rig.browser.get(f"/tlsrpt/received?{query}")).status == 400


async def test_policies_of_others(rig: Rig) -> None:
    rows = await listed(rig, "/api/v1/mtasts/cache", "policies", 25)
    assert [one["domain"] for one in rows] == [f"p{number:02}.example" for number in range(60)]
    assert {one["valid"] for one in rows} == {True, False}
    one = (await rig.browser.get("/api/v1/mtasts/cache/p00.example")).json["data"]
    assert one["mx"] == ["*.b.example"]
    page = await rig.browser.get("/mtasts/cache/p00.example")
    assert "mode: enforce mx: *.b.example" in page.said
    assert 'role="search"' not in page.text
    assert (await rig.browser.get("/mtasts/cache/none.example")).status == 404
    assert (await rig.browser.get("/mtasts/cache/a..b")).status == 400
    assert "Nothing is remembered of none.example." in (await rig.browser.get("/mtasts/cache?domain=none.example")).said


async def test_received_dmarc_reports(rig: Rig) -> None:
    data = (await rig.browser.get("/api/v1/dmarc/received")).json["data"]
    assert [(one["domain"], one["reports"]) for one in data["domains"]] == [("example.com", 33)]
    first = (await rig.browser.get("/api/v1/dmarc/received?domain=example.com&limit=20")).json
    seen = first["data"]["view"]
    assert len(seen["days"]) == 11
    assert {one["who"] for one in seen["senders"]} == {"ours", "forwarded"}
    sources, after = [one["source_ip"] for one in seen["sources"]], first["next"]
    while after:
        page = (await rig.browser.get(f"/api/v1/dmarc/received?domain=example.com&limit=20&after={after}")).json
        sources += [one["source_ip"] for one in page["data"]["view"]["sources"]]
        after = page["next"]
    assert len(sources) == len(set(sources)) == seen["all_sources"] == 61
    page = await rig.browser.get("/dmarc/received?domain=example.com")
    assert "and is it me?" in page.said
    assert page.text.count("<rect") >= 11
    for query in ("days=0", "after=x", "domain=a..b"):
        assert (await rig.browser.get(f"/dmarc/received?{query}")).status == 400


async def test_without_a_plugin_its_pages_are_gone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async with site(tmp_path, patch=monkeypatch, plugins=["mtasts"]) as rig:
        await rig.browser.log_in()
        assert (await rig.browser.get("/mtasts/cache")).status == 200
        assert (await rig.browser.get("/tlsrpt/results")).status == 404
        assert "TLS results" not in (await rig.browser.get("/")).said
