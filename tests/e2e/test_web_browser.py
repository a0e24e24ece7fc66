"""The pages in Chromium, served by `postward run`: login, every page, each button, at two widths, in light and dark.

Needs Debian's chromium and playwright; without them it is skipped. With `POSTWARD_SCREENSHOTS` pictures are left there.
"""

from __future__ import annotations

import os
import re
import shutil
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import pytest

from web_service import SECRET, Served, serving_pages

playwright = pytest.importorskip("playwright.sync_api")
CHROMIUM = shutil.which("chromium")
pytestmark = [
    pytest.mark.loopback,
    pytest.mark.interop,
    pytest.mark.skipif(CHROMIUM is None, reason="chromium is not installed"),
]
SIZES = {"wide": {"width": 1280, "height": 900}, "narrow": {"width": 390, "height": 844}}


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    with serving_pages(tmp_path_factory.mktemp("web")) as service:
        yield service


@dataclass
class Watched:
    """A page of the browser, and what it complained of or asked for elsewhere."""

    page: Any
    url: str
    complaints: list[str] = field(default_factory=list)

    def open(self, path: str) -> None:
        answer = self.page.goto(f"{self.url}{path}")
        assert answer.status == 200, (path, answer.status)

    def log_in(self, user: str = "ada") -> None:
        self.open("/login")
        self.page.get_by_label("Name").fill(user)
        self.page.get_by_label("Password").fill(SECRET)
        self.page.get_by_role("button", name="Log in").click()
        self.page.wait_for_url(f"{self.url}/")


@pytest.fixture(scope="module")
def chromium() -> Iterator[Any]:
    with playwright.sync_playwright() as started:
        browser = started.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox", "--disable-gpu"])
        yield browser
        browser.close()


@pytest.fixture(params=SIZES)
def watched(request: pytest.FixtureRequest, chromium: Any, served: Served) -> Iterator[Watched]:
    scheme = "dark" if request.param == "narrow" else "light"
    context = chromium.new_context(viewport=SIZES[request.param], color_scheme=scheme, java_script_enabled=True)
    page = context.new_page()
    found = Watched(page, served.url)
    page.on("console", lambda message: found.complaints.append(f"console: {message.text}"))
    page.on("pageerror", lambda error: found.complaints.append(f"error: {error}"))
    page.on(
        "request", lambda asked: asked.url.startswith(served.url) or found.complaints.append(f"asked elsewhere: {asked.url}")
    )
    page.on("dialog", lambda dialog: (found.complaints.append("a script ran"), dialog.dismiss()))
    yield found
    assert found.complaints == []
    context.close()


def paths(watched: Watched) -> list[str]:
    """One page of every kind."""
    watched.open("/")
    entries = [link.get_attribute("href") for link in watched.page.locator("nav a").all()]
    deeper = []
    for path in entries:
        watched.open(path)
        links = watched.page.locator("main table a, main dl a")
        if links.count():
            deeper.append(links.first.get_attribute("href"))
    return list(dict.fromkeys([*entries, *deeper]))


def test_every_page(watched: Watched) -> None:
    from axe_playwright_python.sync_playwright import Axe

    watched.log_in()
    width = watched.page.viewport_size["width"]
    folder = os.environ.get("POSTWARD_SCREENSHOTS")
    for path in paths(watched):
        watched.open(path)
        assert watched.page.locator("h1").count() == 1, path
        needed = watched.page.evaluate("document.documentElement.scrollWidth")
        assert needed <= width, f"{path} is {needed} wide"
        found = Axe().run(watched.page)
        assert found.response["passes"], path
        serious = [one for one in found.response["violations"] if one["impact"] in ("serious", "critical")]
        assert [(one["id"], one["nodes"][0]["html"][:200]) for one in serious] == [], path
        if folder:
            name = re.sub(r"[^a-z0-9]+", "-", path.lower()).strip("-")[:60] or "overview"
            watched.page.screenshot(path=f"{folder}/{name}-{width}.png", full_page=True)


def test_buttons(watched: Watched) -> None:
    page = watched.page
    watched.log_in()
    page.locator("nav").get_by_role("link", name="Queue").click()
    page.locator("main table a").nth(7).click()
    page.get_by_role("button", name="Hold").click()
    assert "1 recipient held." in page.locator("main").inner_text()
    page.get_by_role("button", name="Release").click()
    assert "1 recipient released." in page.locator("main").inner_text()
    page.get_by_role("button", name="Try now").click()
    page.get_by_role("button", name="Drop").click()
    assert "for good" in page.locator("main").inner_text()
    page.get_by_role("button", name="Yes").click()
    assert "1 recipient dropped." in page.locator("main").inner_text()
    page.locator("nav").get_by_role("link", name="Outgoing reports").click()
    page.get_by_label("With an address that is").select_option("failed")
    page.get_by_role("button", name="Show").click()
    page.locator("main table a").first.click()
    page.get_by_role("button", name="Try now").first.click()
    assert "It is tried again now." in page.locator("main").inner_text()
    page.get_by_role("button", name="Suppress").last.click()
    page.get_by_role("button", name="Yes").click()
    assert "gets no reports for 30 days." in page.locator("main").inner_text()
    page.locator("nav").get_by_role("link", name="Suppressed addresses").click()
    page.get_by_role("button", name="Lift").first.click()
    assert "gets reports again." in page.locator("main").inner_text()
    page.locator("nav").get_by_role("link", name="TLS results").click()
    page.get_by_role("link", name="Next page").click()
    page.get_by_role("link", name="To the first page").click()
    page.get_by_role("button", name="Log out").click()
    page.wait_for_url(f"{watched.url}/login")


def test_a_reader_sees_no_buttons(watched: Watched) -> None:
    watched.log_in("eve")
    watched.open("/queue")
    watched.page.locator("main table a").first.click()
    assert watched.page.get_by_role("button", name="Drop").count() == 0
