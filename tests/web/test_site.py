"""Who gets in, who may change, and what is answered when something is wrong."""

from __future__ import annotations

import sqlite3
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import trio
import trio.testing

from postward import hookimpl
from postward.errors import ConfigError, StoreError
from postward.model import WebRoute
from postward.web import AFTER, DAY, DOMAIN, Action, Ask, Done, Note, Page, Param, Pre, Table, Tone, link, text, view
from postward.web.access import IDLE, LIFE
from postward.web.places import Places, places_of
from web_kit import Rig, site

HOSTILE = "<script>alert(1)</script>\x1b[31m\u202egnp.exe\" onload='x' &amp; \x00end"


@dataclass(frozen=True, kw_only=True)
class Data:
    text: str = ""


class Pages:
    """A plugin with pages of every temper."""

    def __init__(self) -> None:
        self.done: list[tuple[str, str]] = []

    @hookimpl
    def register_routes(self) -> list[WebRoute]:
        query = [DAY, DOMAIN, AFTER, text("word", "Word", longest=20)]
        return [
            view("/good", self.good, Data, title="Good page", params=query),
            view("/item/{name}", self.good, Data),
            view("/broken", self.broken, Data, title="Broken"),
            view("/locked", self.locked, Data),
            view("/nonsense", self.nonsense, Data),
            WebRoute(path="/do", handler=Action(do=self.do, fields=(Param(name="word"),)), methods=("POST",)),
            WebRoute(path="/raw", handler=self.raw, title="Raw"),
        ]

    async def good(self, ask: Ask) -> Page:
        said = ask.text("word") or HOSTILE
        blocks = [
            Table(title=said, columns=["A"], rows=[(said,), (link(said, f"/x/{said}", word=said),)]),
            Note(text=said, tone=Tone.BAD, mend=said),
            Pre(title="It", text=said),
        ]
        return Page(title=said, data=Data(text=said), blocks=blocks, next="17")

    async def broken(self, ask: Ask) -> Page:
        raise RuntimeError("a secret")

    async def locked(self, ask: Ask) -> Page:
        raise StoreError("database results.db: it is locked")

    async def nonsense(self, ask: Ask) -> Any:
        return "no page"

    async def do(self, ask: Ask) -> Done:
        self.done.append((ask.user, ask.text("word")))
        return Done(text=f"Did {ask.text('word')}.", to="/x/good")

    async def raw(self, request: Any) -> Any:
        from starlette.responses import PlainTextResponse

        return PlainTextResponse("raw")


Start = Callable[..., AbstractAsyncContextManager[Rig]]


@pytest.fixture
def start(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Start:
    return partial(site, tmp_path, patch=monkeypatch, extra={"x": Pages()})


@pytest.fixture
async def rig(start: Start) -> AsyncIterator[Rig]:
    async with start() as made:
        yield made


async def test_nobody_gets_in_without_a_login(rig: Rig) -> None:
    for path in ("/", "/queue", "/reports", "/x/good", "/nowhere"):
        answer = await rig.browser.get(path)
        assert (answer.status, answer.header("location")) == (303, f"/login?to={path.replace('/', '%2F')}")
    for path in ("/api/v1/queue", "/api/v1/openapi.json", "/x/raw"):
        assert (await rig.browser.get(path)).status == 401
    page = await rig.browser.get("/login")
    assert page.status == 200
    assert "Queue" not in page.text


async def test_login_and_logout(rig: Rig) -> None:
    browser = rig.browser
    page = await browser.get("/login?to=%2Fqueue")
    form = {"token": page.token, "user": "ada", "password": "wrong", "to": "/queue"}
    refused = await browser.post("/login", form)
    assert refused.status == 403
    assert "no name and password" in refused.said
    answer = await browser.post("/login", form | {"password": "right"})
    assert (answer.status, answer.header("location")) == (303, "/queue")
    cookie = answer.header("set-cookie")
    assert "HttpOnly" in cookie
    assert "SameSite=lax" in cookie
    assert "Secure" not in cookie
    queue = await browser.get("/queue")
    assert queue.status == 200
    assert "ada" in queue.said
    assert (await browser.get("/x/raw")).text == "raw"
    assert (await browser.post("/logout", {"token": queue.token})).status == 303
    assert (await browser.get("/queue")).status == 303


@pytest.mark.parametrize("to", ["https://evil.example/", "//evil.example", "/\\evil.example", "javascript:x", "/a\nb"])
async def test_a_login_leads_nowhere_else(rig: Rig, to: str) -> None:
    page = await rig.browser.get("/login")
    answer = await rig.browser.post("/login", {"token": page.token, "user": "ada", "password": "right", "to": to})
    assert answer.header("location") == "/"


async def test_sessions_end(rig: Rig, autojump_clock: trio.testing.MockClock) -> None:
    assert rig.users is not None
    for pause in (IDLE + 1, None):
        await rig.browser.log_in()
        assert (await rig.browser.get("/queue")).status == 200
        if pause is None:
            rig.users.passwords["ada"] = "changed"
        else:
            await trio.sleep(pause)
        assert (await rig.browser.get("/queue")).status == 303
    rig.users.passwords["ada"] = "right"
    await rig.browser.log_in()
    for _ in range(int(LIFE / IDLE) + 1):
        await trio.sleep(IDLE - 1)
        last = await rig.browser.get("/queue")
    assert last.status == 303


async def test_guessing_is_slowed_down(rig: Rig, autojump_clock: trio.testing.MockClock) -> None:
    page = await rig.browser.get("/login")
    form = {"token": page.token, "user": "ada", "password": "guess"}
    statuses = [(await rig.browser.post("/login", form)).status for _ in range(22)]
    assert statuses[-1] == 429
    assert statuses[0] == 403
    assert (await rig.browser.post("/login", form | {"password": "right"})).status == 429
    await trio.sleep(601)
    assert (await rig.browser.post("/login", form | {"password": "right"})).status == 303


async def test_a_form_needs_its_token_and_its_site(rig: Rig) -> None:
    plugin: Any = rig.app.plugins.instances["x"]
    await rig.browser.log_in()
    page = await rig.browser.get("/queue")
    assert (await rig.browser.post("/x/do", {"word": "one"})).status == 403
    assert (await rig.browser.post("/x/do", {"word": "one", "token": "0" * 64})).status == 403
    good = {"word": "one", "token": page.token}
    assert (await rig.browser.post("/x/do", good, sec_fetch_site="cross-site")).status == 403
    assert (await rig.browser.post("/x/do", good, origin="https://evil.example")).status == 403
    assert (await rig.browser.post("/x/do", good, origin="null")).status == 403
    another = rig.another()
    await another.log_in()
    assert (await another.post("/x/do", good)).status == 403
    assert (await rig.browser.get("/x/do")).status == 405
    assert plugin.done == []
    answer = await rig.browser.post("/x/do", good, origin="http://127.0.0.1:8460", sec_fetch_site="same-origin")
    assert (answer.status, answer.header("location")) == (303, "/x/good")
    assert plugin.done == [("ada", "one")]
    assert "Did one." in (await rig.browser.get("/x/good")).said
    assert "Did one." not in (await rig.browser.get("/x/good")).said


async def test_a_question_comes_first(rig: Rig) -> None:
    plugin: Any = rig.app.plugins.instances["x"]
    await rig.browser.log_in()
    token = (await rig.browser.get("/queue")).token
    asked = await rig.browser.post("/x/do", {"word": "two", "token": token, "ask": "Really?", "back": "/queue"})
    assert asked.status == 200
    assert "Really?" in asked.said
    assert plugin.done == []


async def test_who_reads_changes_nothing(rig: Rig) -> None:
    plugin: Any = rig.app.plugins.instances["x"]
    cid = await rig.put("b@b.example")
    await rig.browser.log_in("eve")
    page = await rig.browser.get(f"/queue/{cid}")
    assert "Drop" not in page.said
    assert (await rig.browser.post("/x/do", {"word": "one", "token": page.token})).status == 403
    assert plugin.done == []


async def test_without_users_everybody_here_reads_and_nobody_changes(start: Start) -> None:
    async with start(users=False) as rig:
        page = await rig.browser.get("/queue")
        assert page.status == 200
        assert "Everybody on this machine may read" in page.said
        assert (await rig.browser.post("/x/do", {"word": "one"})).status == 403
        assert (await rig.browser.get("/login")).status == 303
        for host, client in (("evil.example", "127.0.0.1"), ("127.0.0.1:8460", "192.0.2.1"), ("localhost.evil.example", "::1")):
            for path in ("/", "/queue", "/api/v1/queue", "/static/postward.css", "/x/raw", "/login"):
                assert (await rig.another(host=host, client=client).get(path)).status == 403


async def test_a_proxy_offers_the_pages_under_a_name(start: Start) -> None:
    async with start(web={"hosts": ["mail.example.com"]}) as rig:
        browser = rig.another(host="mail.example.com")
        answer = await browser.log_in()
        assert answer.status == 303
        assert "Secure" in answer.header("set-cookie")
        assert (await browser.get("/queue")).status == 200
        assert (await rig.another(host="other.example.com").get("/login")).status == 403
        guesser = rig.another(host="mail.example.com")
        page = await guesser.get("/login")
        form = {"token": page.token, "user": "ada", "password": "guess"}
        for _ in range(25):
            last = await guesser.post("/login", form, x_forwarded_for="10.1.1.1, 198.51.100.7")
        assert last.status == 429
        assert (await guesser.post("/login", form, x_forwarded_for="198.51.100.8")).status == 403


def test_hosts_and_readers_need_users(tmp_path: Path) -> None:
    from postward.config import from_dict

    core = {"hostname": "mx.example.com", "data_dir": str(tmp_path)}
    for table in ({"hosts": ["a.example"]}, {"readers": ["eve"]}):
        with pytest.raises(ConfigError, match="needs users"):
            from_dict({"core": core, "web": table})


async def test_programs_log_in_with_each_request(rig: Rig) -> None:
    basic = "Basic YWRhOnJpZ2h0"
    assert (await rig.browser.get("/api/v1/queue", authorization=basic)).json == {"data": {"messages": []}, "next": None}
    assert (await rig.browser.get("/api/v1/queue", authorization="Basic YWRhOndyb25n")).status == 401
    assert (await rig.browser.get("/queue", authorization=basic)).status == 303
    assert (await rig.browser.post("/x/do", {"word": "one"}, authorization=basic)).status in (303, 401, 403)


async def test_hostile_text_stays_text(rig: Rig) -> None:
    await rig.browser.log_in()
    page = await rig.browser.get("/x/good")
    assert "<script" not in page.text
    assert "onload='" not in page.text.replace("onload=&#39;", "")
    for hidden in ("\x1b", "\u202e", "\x00"):
        assert hidden not in page.text
    assert "U+202E" in page.said
    policy = page.header("content-security-policy")
    assert policy.startswith("default-src 'none';")
    assert "unsafe" not in policy
    assert " style=" not in page.text
    twin = await rig.browser.get("/api/v1/x/good")
    assert twin.json == {"data": {"text": HOSTILE}, "next": "17"}
    assert twin.header("content-type") == "application/json"


@pytest.mark.parametrize(
    ("query", "says"),
    [
        ("day=2026-13-01", "should be a day"),
        ("day=yesterday", "should be a day"),
        ("day=9999999-01-01", "should be a day"),
        ("domain=" + "a" * 300, "no domain name"),
        ("domain=a..b", "no domain name"),
        ("domain=%3Cscript%3E", "no domain name"),
        ("domain=../../etc", "no domain name"),
        ("word=" + "x" * 21, "may have 20"),
        ("word=a%00b", "control characters"),
        ("word=%ff", "not UTF-8"),
        ("word=%C2%85%0A%09", "control characters"),
        ("after=%3Cb%3E", "no place in a list"),
        ("dya=2026-11-24", "no parameter"),
        ("word=a&word=b", "given twice"),
        ("word=" + "x" * 5000, "octets"),
    ],
)
async def test_a_bad_query_is_told_what_is_wrong(rig: Rig, query: str, says: str) -> None:
    await rig.browser.log_in()
    page = await rig.browser.get(f"/x/good?{query}")
    assert page.status == 400
    assert says in page.said
    assert "<script>" not in page.text
    twin = await rig.browser.get(f"/api/v1/x/good?{query}")
    assert twin.status == 400
    assert says in twin.json["error"]


async def test_good_queries(rig: Rig) -> None:
    await rig.browser.log_in()
    for query in ("day=2026-11-24", "domain=b%C3%BCcher.example", "word=%20x%20", "", "word=", "&&"):
        assert (await rig.browser.get(f"/x/good?{query}")).status == 200
    assert (await rig.browser.get("/x/item/a%20b")).status == 200


async def test_a_page_that_fails_costs_itself_alone(rig: Rig) -> None:
    await rig.browser.log_in()
    for path in ("/x/broken", "/x/nonsense"):
        page = await rig.browser.get(path)
        assert page.status == 500
        assert "under the id" in page.said
        assert "secret" not in page.text
    twin = await rig.browser.get("/api/v1/x/broken")
    assert twin.status == 500
    assert len(twin.json["cid"]) == 12
    locked = await rig.browser.get("/x/locked")
    assert locked.status == 503
    assert "it is locked" in locked.said
    assert locked.header("retry-after")
    assert (await rig.browser.get("/queue")).status == 200


async def test_what_is_not_there(rig: Rig) -> None:
    await rig.browser.log_in()
    for path in (
        "/nowhere",
        "/y/good",
        "/queue/none",
        "/reports/none",
        "/static/../config.py",
        "/static/x",
        "/x/item/a/b",
        "/queue/ ",
        "/x/item/  ",
    ):
        assert (await rig.browser.get(path)).status == 404
    assert (await rig.browser.get("/api/v1/nowhere")).json["status"] == 404
    assert (await rig.browser.get("/queue", method="DELETE")).status == 405
    head = await rig.browser.get("/queue", method="HEAD")
    assert (head.status, head.text) == (200, "")


async def test_the_navigation_has_what_plugins_bring(rig: Rig) -> None:
    await rig.browser.log_in()
    page = await rig.browser.get("/x/good")
    assert '<a href="/x/good" aria-current="page">Good page</a>' in page.text
    for title in ("Overview", "Queue", "Outgoing reports", "Plugins and hooks", "Broken"):
        assert title in page.said


def test_two_pages_at_one_place() -> None:
    one = places_of("Postward", [view("/{cid}", Pages().good, Data)], below="/queue")
    other = places_of("queue", [view("{name}", Pages().good, Data)], below="/queue")
    with pytest.raises(ConfigError, match="both have a page"):
        Places([*one, *other])


async def test_the_description_names_every_twin(rig: Rig) -> None:
    await rig.browser.log_in()
    described = (await rig.browser.get("/api/v1/openapi.json")).json
    assert {"/api/v1/overview", "/api/v1/queue", "/api/v1/queue/{cid}", "/api/v1/x/good"} <= set(described["paths"])
    names = [each["name"] for each in described["paths"]["/api/v1/x/good"]["get"]["parameters"]]
    assert names == ["day", "domain", "after", "word"]


async def test_a_locked_database_says_so(rig: Rig, monkeypatch: pytest.MonkeyPatch) -> None:
    await rig.browser.log_in()

    def locked(connection: Any, **more: Any) -> Any:
        error = sqlite3.OperationalError("database is locked")
        error.sqlite_errorname = "SQLITE_BUSY"
        raise error

    monkeypatch.setattr("postward.web.pages.reports.listed", locked)
    page = await rig.browser.get("/reports")
    assert page.status == 503
    assert "locked" in page.said
