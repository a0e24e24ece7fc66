"""The pages for authors of plugins: they say what the code says, their code runs, and they can be built."""

from __future__ import annotations

import importlib.util
import os
import re
import subprocess
import sys
import tomllib
from pathlib import Path
from types import ModuleType

import pytest

from deliver_kit import call
from postward import config, model
from postward.cli import COMMANDS
from postward.contract import SPECS

DOCS = Path(__file__).parents[2] / "docs"
TUTORIAL = (DOCS / "plugins" / "tutorial.md").read_text()


def script(name: str) -> ModuleType:
    spec = importlib.util.spec_from_file_location(f"docs_{name}", DOCS / f"{name}.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


def test_the_reference_is_that_of_the_code(capsys: pytest.CaptureFixture[str]) -> None:
    assert script("reference").main(["--check"]) == 0, capsys.readouterr().err


def test_every_hook_type_key_and_command_is_in_it() -> None:
    hooks, data = (DOCS / "plugins/hooks.md").read_text(), (DOCS / "plugins/data.md").read_text()
    assert [name for name in SPECS if f"### {name}\n" not in hooks] == []
    assert [name for name in model.__all__ if isinstance(getattr(model, name), type) and f"## {name}\n" not in data] == []
    keys, commands = (DOCS / "configuration.md").read_text(), (DOCS / "commands.md").read_text()
    sections = set(config.Config.model_fields) - {"file", "plugin", "plugins"}
    assert [name for name in sections if f"[{name}]" not in keys] == []
    assert [name for name in COMMANDS if f"## postward {name}\n" not in commands] == []


def test_every_hook_says_what_a_failure_means() -> None:
    life = (DOCS / "plugins/life.md").read_text()
    for name, spec in SPECS.items():
        assert "If it fails" in (spec.function.__doc__ or ""), name
    asked = [name for name, spec in SPECS.items() if spec.is_async and name != "dns_checks"]
    assert [name for name in asked if name not in life] == []


def test_the_tutorial_as_a_new_author_follows_it(tmp_path: Path) -> None:
    """Its two blocks of code in the package that it begins with."""
    assert call("plugins", "new", "long_lived", "--into", tmp_path).code == 0
    folder = tmp_path / "postward-long-lived"
    plugin, tests = re.findall(r"^```python\n(.*?)^```$", TUTORIAL, re.MULTILINE | re.DOTALL)
    (folder / "src/postward_long_lived/plugin.py").write_text(plugin)
    (folder / "tests/test_plugin.py").write_text(tests)
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "-p", "postward.testing.pytest_plugin"],
        cwd=folder,
        env={key: value for key, value in os.environ.items() if not key.startswith("PYTEST")},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "7 passed" in done.stdout


def test_the_tutorial_names_what_the_harness_has() -> None:
    from postward.testing import Harness

    table = TUTORIAL.partition("| in the harness |")[2].partition("\n\n")[0]
    for name in re.findall(r"`(\w+)\(", table):
        assert hasattr(Harness, name), name


def test_the_pages_can_be_built(tmp_path: Path) -> None:
    written = script("build").build(tmp_path)
    pages = {str(file.relative_to(tmp_path)): file.read_text() for file in written}
    assert "plugins/tutorial.html" in pages
    assert 'href="hooks.html"' in pages["plugins/tutorial.html"]
    assert "<table>" in pages["configuration.html"]


def test_links_lead_somewhere() -> None:
    for page in DOCS.rglob("*.md"):
        for link in re.findall(r"\]\(([^)#:\s]+)(?:#[^)]*)?\)", page.read_text()):
            assert (page.parent / link).exists(), f"{page.name}: {link}"


def test_every_piece_of_configuration_can_be_read(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of the pages and of the examples' own; what a plugin makes of its table is a matter of its tests."""
    pages = [*DOCS.rglob("*.md"), *(DOCS.parent / "examples").glob("*/README.md")]
    blocks = [
        block for page in pages for block in re.findall(r"^```toml\n(.*?)^```$", page.read_text(), re.MULTILINE | re.DOTALL)
    ]
    assert len(blocks) >= 5
    for block in blocks:
        for name in re.findall(r'"env:(\w+)"', block):
            monkeypatch.setenv(name, "a-secret-of-the-environment-of-enough-characters")
        data = tomllib.loads(block)
        tables = data.setdefault("plugin", {})
        data.setdefault("plugins", list(tables))
        config.from_dict({"core": {"hostname": "mx.example.net"}, **data})
