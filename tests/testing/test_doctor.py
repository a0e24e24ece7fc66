"""`postward plugins doctor`: installed, enabled, incompatible, slow, failing, and the order of calls."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from deliver_kit import call, write_config
from postward import hook_figures
from postward.app import App
from postward.cli import plugins_doctor
from postward.config import load
from postward.contract import Stats
from postward.testing import Harness


def examine(file: Path, code: int = 0) -> tuple[dict[str, Any], dict[str, Any]]:
    done = call("plugins", "doctor", "--json", "--config", file)
    assert done.code == code, done.err
    rows = [json.loads(line) for line in done.out.splitlines()]
    return {row["plugin"]: row for row in rows if "plugin" in row}, {row["hook"]: row for row in rows if "hook" in row}


def fake(folder: Path, name: str, group: str, code: str) -> None:
    """An installed distribution with one plugin."""
    info = folder / f"fake_{name}-1.0.dist-info"
    info.mkdir(parents=True)
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: fake-{name}\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text(f"[{group}]\n{name} = fake_{name}:Plugin\n")
    (folder / f"fake_{name}.py").write_text(code)


def test_the_order_of_calls_is_that_of_the_configuration(tmp_path: Path) -> None:
    file = write_config(tmp_path, plugins=["mtasts", "dane"])
    plugins, hooks = examine(file)
    assert [name for name, row in plugins.items() if row["state"] == "enabled"] == ["mtasts", "dane"]
    assert plugins["dmarc"]["state"] == "not enabled"
    assert plugins["dane"]["import_seconds"] is not None
    assert hooks["verify_tls"] == {"hook": "verify_tls", "call": "first", "limit": 30, "plugins": ["mtasts", "dane"]}
    assert hooks["host_policy"]["plugins"] == ["dane"]
    text = call("plugins", "doctor", "--config", file)
    assert "mtasts, dane" in text.out.decode()


def test_what_is_missing_incompatible_or_broken_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    site = tmp_path / "site"
    fake(site, "old", "postward.v0", "raise SystemExit\n")
    fake(site, "broken", "postward.v1", "raise SystemExit('not today')\n")
    monkeypatch.syspath_prepend(str(site))
    plugins, _ = examine(write_config(tmp_path, plugins=["broken", "nobody", "old"]), code=1)
    assert plugins["broken"]["state"] == "broken"
    assert "not today" in plugins["broken"]["trouble"][0]
    assert plugins["nobody"]["state"] == "missing"
    assert plugins["old"]["trouble"] == ["it is made for postward.v0, not postward.v1"]


def test_wrong_options_are_broken(tmp_path: Path) -> None:
    plugins, _ = examine(write_config(tmp_path, plugins=["dane"], plugin={"dane": {"no_such_key": 1}}), code=1)
    assert (plugins["dane"]["state"], "no_such_key" in plugins["dane"]["trouble"][0]) == ("broken", True)


def test_a_slow_import_and_slow_calls_are_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(plugins_doctor, "SLOW_IMPORT", -1.0)
    file = write_config(tmp_path, plugins=["dane"])
    plugins, _ = examine(file)
    assert (plugins["dane"]["state"], "at every start" in plugins["dane"]["trouble"][0]) == ("slow", True)
    monkeypatch.undo()
    data = load(file).core.data_dir
    data.mkdir()
    hook_figures.write(data, {("dane", "host_policy"): Stats(calls=10, seconds=30.0, slowest=9.0)}, at=1)
    plugins, _ = examine(file)
    assert plugins["dane"]["trouble"] == ["host_policy takes 3.0 s on average"]
    hook_figures.write(data, {("dane", "host_policy"): Stats(calls=10, failures=2)}, at=1)
    plugins, _ = examine(file, code=1)
    assert (plugins["dane"]["state"], plugins["dane"]["failures"]) == ("failing", 2)


def test_figures_that_cannot_be_read_are_none(tmp_path: Path) -> None:
    assert hook_figures.read(tmp_path) == (0, {})
    (tmp_path / hook_figures.FILE).write_text('{"at": 1, "hooks": [{}]}')
    assert hook_figures.read(tmp_path) == (0, {})


async def test_the_service_keeps_the_figures(tmp_path: Path, harness: Harness) -> None:
    """The harness lends its seams; its own program is never started."""
    file = write_config(tmp_path, plugins=["dane"])
    config = load(file)
    async with App(config, clock=harness.clock, dns=harness.dns, net=harness.net, inline=True, service=True):
        import trio

        await trio.sleep(1)
    at, figures = hook_figures.read(config.core.data_dir)
    assert at == pytest.approx(harness.clock.now(), abs=2_000_000)
    assert ("dane", "host_policy") in figures
