"""The plugin of docs/web.md does what the page says of it."""

from __future__ import annotations

import re
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from postward.config import WebConfig
from web_kit import site

PAGE = (Path(__file__).parents[2] / "docs" / "web.md").read_text()


async def test_the_pages_of_a_plugin(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (code,) = re.findall(r"```python\n(.*?)```", PAGE, re.S)
    module: Any = ModuleType("hello")
    monkeypatch.setitem(sys.modules, "hello", module)
    exec(compile(code, "docs/web.md", "exec"), module.__dict__)
    async with site(tmp_path, patch=monkeypatch, extra={"hello": module.Greeter()}) as rig:
        await rig.browser.log_in()
        page = await rig.browser.get("/hello/greetings?domain=b%C3%BCcher.example")
        assert page.status == 200
        assert "xn--bcher-kva.example" in page.said
        assert "<rect" in page.text
        twin = await rig.browser.get("/api/v1/hello/greetings")
        assert twin.json == {"data": {"domains": ["example.com"]}, "next": None}
        assert (await rig.browser.get("/hello/greetings?domain=nobody.example")).status == 404


def test_every_key_is_described() -> None:
    for key in WebConfig.model_fields:
        assert f"`{key}`" in PAGE or f"{key} =" in PAGE or f"web.{key}" in PAGE, key
