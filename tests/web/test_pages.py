"""The pages of core: what they show, and what their buttons do."""

from __future__ import annotations

import gzip
import json
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from postward import Domain, hookimpl, hookspecs
from postward.log_file import FOLDER
from postward.model import Delivered, DnsRecord, Finding, ReportTarget, Severity
from postward.reports.rows import put
from postward.web.chart import describe, nice_top, svg
from postward.web.page import Chart, Link, Tone, link
from queue_kit import NOW
from report_kit import make_report
from web_kit import Rig, site

A = ReportTarget(uri="mailto:a@b.example")
WEB = ReportTarget(uri="https://r.example/x")
EVIL = 'x"><script>alert(1)</script>'


class Failing:
    """A plugin that stumbles."""

    @hookimpl
    async def dns_checks(self, domain: Domain) -> list[Any]:
        raise RuntimeError("oh")


@pytest.fixture
async def rig(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Rig]:
    async with site(tmp_path, patch=monkeypatch, extra={"failing": Failing()}) as made:
        await made.browser.log_in()
        yield made


async def outgoing(rig: Rig, *targets: ReportTarget, number: int = 1, due: int = NOW) -> None:
    reports = [
        make_report(f"r{each}", content=gzip.compress(b'{"organization-name": "%s"}' % EVIL.replace('"', "'").encode()))
        for each in range(number)
    ]
    await rig.app.store.results.write(lambda connection: put(connection, reports, targets, due=due, cid="c1d"))


async def press(rig: Rig, path: str, **form: str) -> str:
    """Press a button, and give the text of the page that follows."""
    token = (await rig.browser.get("/queue")).token
    answer = await rig.browser.post(path, form | {"token": token})
    assert answer.status == 303, answer.said
    return (await rig.browser.get(answer.header("location"))).said


async def test_the_overview_names_what_needs_a_person(rig: Rig) -> None:
    assert "Nothing needs attention." in (await rig.browser.get("/")).said
    cid = await rig.put("b@b.example", "c@c.example")
    await press(rig, "/queue/hold", cid=cid)
    await rig.app.hooks.gather(hookspecs.dns_checks, domain=Domain("x.example"))
    page = await rig.browser.get("/")
    assert "2 recipients held in the queue" in page.said
    assert "the plugin failing has failed 1 time" in page.said
    twin = (await rig.browser.get("/api/v1/overview")).json["data"]
    assert (twin["messages"], twin["held"]) == (1, 2)
    assert len(twin["attention"]) == 2
    assert [one["domain"] for one in twin["destinations"]] == ["b.example", "c.example"]


async def test_the_queue_is_listed_by_pages(rig: Rig) -> None:
    cids = [await rig.put(f"u{number}@b.example") for number in range(5)]
    first = (await rig.browser.get("/api/v1/queue?limit=2")).json
    second = (await rig.browser.get(f"/api/v1/queue?limit=2&after={first['next']}")).json
    third = (await rig.browser.get(f"/api/v1/queue?limit=2&after={second['next']}")).json
    assert [one["id"] for page in (first, second, third) for one in page["data"]["messages"]] == cids
    assert third["next"] is None
    page = await rig.browser.get("/queue?limit=2&domain=b.example")
    assert f'href="/queue?limit=2&amp;domain=b.example&amp;after={first["next"]}"' in page.text


async def test_the_queue_takes_conditions(rig: Rig) -> None:
    cid = await rig.put("u@b.example", sender=None)
    await rig.put("v@c.example")
    for query in ("domain=b.example", "sender=%3C%3E", "recipient=u@b.example"):
        found = (await rig.browser.get(f"/api/v1/queue?{query}")).json["data"]["messages"]
        assert [one["id"] for one in found] == [cid]
    for query in ("sender=nobody", "recipient=%40", "after=x", "state=odd", "limit=0", "limit=201", "limit=2.5"):
        assert (await rig.browser.get(f"/queue?{query}")).status == 400


async def test_a_message_and_what_is_done_with_it(rig: Rig) -> None:
    cid = await rig.put("b@b.example", body=b"Subject: <b>x</b>\r\nX: \x1b]0;t\x07\r\n\r\nhello\r\n")
    page = await rig.browser.get(f"/queue/{cid}")
    assert "Subject: <b>x</b>" in page.said
    assert "<b>" not in page.text
    assert "\x1b" not in page.text
    assert "1 recipient held." in await press(rig, "/queue/hold", cid=cid)
    assert "Nothing was changed" in await press(rig, "/queue/hold", cid=cid)
    assert "1 recipient released." in await press(rig, "/queue/release", cid=cid)
    assert "1 recipient dropped." in await press(rig, "/queue/drop", cid=cid)
    assert (await rig.browser.get(f"/queue/{cid}")).status == 404


async def test_reports_are_listed_and_shown(rig: Rig) -> None:
    await outgoing(rig, A, WEB, number=3)
    first = (await rig.browser.get("/api/v1/reports?limit=2")).json
    second = (await rig.browser.get(f"/api/v1/reports?limit=2&after={first['next']}")).json
    found = first["data"]["reports"] + second["data"]["reports"]
    assert {one["report_id"] for one in found} == {"r0", "r1", "r2"}
    page = await rig.browser.get(f"/reports/{found[0]['id']}")
    assert "mailto:a@b.example" in page.said
    assert "<script" not in page.text
    assert "<script>" in page.said
    for query in ("state=odd", "day=1", "after=zzz", "domain=a..b"):
        assert (await rig.browser.get(f"/reports?{query}")).status == 400
    for query in ("state=pending", "day=2026-11-23", "domain=b.example"):
        assert len((await rig.browser.get(f"/api/v1/reports?{query}")).json["data"]["reports"]) == 3


async def test_an_address_is_tried_again(rig: Rig) -> None:
    await outgoing(rig, A)
    claimed: Any = await rig.app.outbox.claim(NOW)
    await rig.app.outbox.settle(claimed, Delivered(accepted=False, permanent=True, detail="550 5.7.1 no"), NOW)
    assert "1 address did not get a report" in (await rig.browser.get("/")).said
    said = await press(rig, "/reports/retry", report=claimed.key, position="0")
    assert "It is tried again now." in said
    again: Any = await rig.app.outbox.claim(NOW)
    assert again.key == claimed.key
    await rig.app.outbox.settle(again, Delivered(accepted=True, detail="250 ok"), NOW)
    assert "not sent twice" in await press(rig, "/reports/retry", report=claimed.key, position="0")
    assert await rig.app.outbox.claim(NOW) is None
    token = (await rig.browser.get("/queue")).token
    missing = await rig.browser.post("/reports/retry", {"report": "none", "position": "0", "token": token})
    assert missing.status == 404


async def test_an_address_is_suppressed_and_let_in_again(rig: Rig) -> None:
    await outgoing(rig, A)
    said = await press(rig, "/reports/suppress", subject="mailto:a@b.example")
    assert "a@b.example gets no reports for 30 days." in said
    ended: Any = await rig.app.outbox.claim(NOW)
    assert ended.outcome.state == "suppressed"
    assert "entered by ada" in (await rig.browser.get("/reports/suppressed")).said
    assert "gets reports again" in await press(rig, "/reports/lift", subject="a@b.example")
    assert "was not suppressed" in await press(rig, "/reports/lift", subject="a@b.example")


async def test_plugins_and_hooks(rig: Rig) -> None:
    await rig.app.hooks.gather(hookspecs.dns_checks, domain=Domain("x.example"))
    data = (await rig.browser.get("/api/v1/plugins")).json["data"]
    assert [(one["hook"], one["plugin"], one["calls"], one["failures"]) for one in data["hooks"]] == [
        ("dns_checks", "failing", 1, 1)
    ]
    assert "verify_tls" in data["unanswered"]
    assert (await rig.browser.get("/plugins")).status == 200


async def test_a_preview_of_nothing(rig: Rig) -> None:
    assert (await rig.browser.get("/reports/preview")).status == 200
    assert "nothing to report about b.example" in (await rig.browser.get("/reports/preview?domain=b.example")).said


def test_a_chart_tells_what_it_shows() -> None:
    points = [(f"2026-11-{day:02}", (day, 0 if day % 2 else 1)) for day in range(1, 25)]
    chart = Chart(title=EVIL, series=["good <b>", "bad"], points=points, tones=[Tone.GOOD, Tone.BAD])
    drawn = svg(chart, "c")
    assert drawn.count("<rect") == 24 + 12
    assert "<script" not in drawn
    assert "<b>" not in drawn
    assert describe(chart) == "From 2026-11-01 to 2026-11-24: 300 good <b>, 12 bad."
    assert svg(Chart(title="x", series=["a"], points=[]), "c").startswith("<svg")
    assert [nice_top(number) for number in (0, 1, 3, 10, 11, 1_000_001)] == [1, 1, 5, 10, 20, 2_000_000]


@pytest.mark.parametrize("href", ["javascript:alert(1)", "//evil.example", "https://evil.example", "/\\evil", "x", "/a b"])
def test_links_stay_here(href: str) -> None:
    with pytest.raises(ValueError, match="not a path"):
        Link("x", href)


def test_a_link_takes_anything_in_its_query() -> None:
    assert link("x", "/a/ü <b>", domain='"&', none="").href == "/a/%C3%BC%20%3Cb%3E?domain=%22%26"


async def test_the_log_of_an_id(rig: Rig) -> None:
    folder = rig.app.config.core.data_dir / FOLDER
    folder.mkdir(exist_ok=True)
    lines = [
        {"timestamp": f"2026-11-26T07:00:0{number}.000000Z", "level": level, "event": event, "cid": cid, "peer": EVIL}
        for number, (level, event, cid) in enumerate(
            [("info", "taken", "abc123"), ("warning", "deferred", "abc123"), ("info", "other", "ffff00")]
        )
    ]
    (folder / "service.jsonl").write_text("".join(f"{json.dumps(line)}\n" for line in lines))
    found = (await rig.browser.get("/api/v1/log?cid=abc123")).json["data"]["lines"]
    assert [one["event"] for one in found] == ["taken", "deferred"]
    page = await rig.browser.get("/log?cid=abc123&level=warning")
    assert "deferred" in page.said
    assert "taken" not in page.said
    assert "<script" not in page.text
    assert (await rig.browser.get("/log")).status == 200
    assert (await rig.browser.get("/log?cid=../x")).status == 400


class Advising:
    """A plugin with advice."""

    @hookimpl
    def dns_records(self, domain: Domain) -> list[DnsRecord]:
        return [DnsRecord(name=Domain(f"_x.{domain}"), rdtype="TXT", value='"v=X1"', why="So that it is known.")]

    @hookimpl
    async def dns_checks(self, domain: Domain) -> list[Finding]:
        return [
            Finding(area="x", severity=Severity.OK, what="fine"),
            Finding(area="x", severity=Severity.ERROR, what=EVIL, why="bad", fix="publish it"),
        ]


async def test_dns_records_and_check(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async with site(tmp_path, patch=monkeypatch, extra={"advising": Advising(), "failing": Failing()}) as rig:
        await rig.browser.log_in()
        records = (await rig.browser.get("/api/v1/dns/records?domain=b.example")).json["data"]["records"]
        assert [(one["name"], one["type"], one["value"]) for one in records] == [("_x.b.example", "TXT", '"v=X1"')]
        assert '_x.b.example. TXT "v=X1"' in (await rig.browser.get("/dns/records?domain=b.example")).said
        checked = (await rig.browser.get("/api/v1/dns/check?domain=b.example")).json["data"]
        assert [one["severity"] for one in checked["findings"]] == ["error", "ok"]
        assert checked["failed"] == ["failing"]
        page = await rig.browser.get("/dns/check?domain=b.example")
        assert "was not looked at" in page.said
        assert "<script" not in page.text
        assert (await rig.browser.get("/dns/check")).status == 200
        assert (await rig.browser.get("/dns/check?domain=a..b")).status == 400
