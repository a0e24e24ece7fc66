"""What the README promises: its plugin is the example, it works, and what it writes is what the program reads."""

from __future__ import annotations

import importlib.util
import re
import sys
import tomllib
from pathlib import Path
from types import ModuleType

import pytest

from delivery_rig import make_rig
from postward import config

ROOT = Path(__file__).parents[2]
README = (ROOT / "README.md").read_text()
PLUGIN = ROOT / "examples/hello_plugin/src/postward_hello/__init__.py"


def blocks(language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```$", README, re.MULTILINE | re.DOTALL)


@pytest.fixture
def hello() -> ModuleType:
    spec = importlib.util.spec_from_file_location("postward_hello", PLUGIN)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


def test_the_plugin_of_the_readme_is_the_example() -> None:
    (code,) = blocks("python")
    _, _, without_docstring = PLUGIN.read_text().partition("\n\n")
    assert code == without_docstring


async def test_the_plugin_demands_tls_for_its_domains_and_no_others(hello: ModuleType) -> None:
    async with make_rig() as rig:
        rig.mx1.context = rig.mx2.context = None
        core = type("Core", (), {"log": rig.pipeline.results.log})()
        rig.plugins.add("hello", hello.Hello(hello.Hello.Config(), core))
        assert (await rig.deliver()).delivered
    async with make_rig() as rig:
        rig.mx1.context = rig.mx2.context = None
        rig.plugins.add("hello", hello.Hello(hello.Hello.Config(must_have_tls=("example.test",)), core))
        delivery = await rig.deliver()
        assert (delivery.delivered, delivery.attempts[0].policies[0].kind) == (False, "x-hello")
    async with make_rig() as rig:
        rig.plugins.add("hello", hello.Hello(hello.Hello.Config(must_have_tls=("example.test",)), core))
        assert (await rig.deliver()).delivered


def test_the_configurations_are_good(tmp_path: Path) -> None:
    whole, dkim = blocks("toml")
    file = tmp_path / "postward.toml"
    file.write_text(whole + dkim)
    loaded = config.load(file)
    assert loaded.plugins == ("dane", "mtasts", "tlsrpt")
    assert loaded.dkim[0].key_file == tmp_path / "dkim.pem"


@pytest.mark.parametrize("file", sorted((ROOT / "examples").glob("*.toml")), ids=lambda file: file.name)
def test_example_configurations_are_good(file: Path) -> None:
    assert config.load(file).plugins


def test_the_two_commands_stand_where_the_checks_look_for_them() -> None:
    commands = re.findall(r"^    \$ (.*)$", README, re.MULTILINE)
    assert len(commands) == 2
    assert commands[0].endswith("postward run --lab --once")
    assert "pytest" in commands[1]


def test_the_requirements_name_the_tools_of_the_workspace() -> None:
    """pip and uv users get the same tools."""
    groups = tomllib.loads((ROOT / "pyproject.toml").read_text())["dependency-groups"]
    names = {re.split(r"[>=<]", entry)[0] for entry in groups["dev"]}
    lines = [line for line in (ROOT / "requirements.txt").read_text().splitlines() if line[:1].isalpha()]
    assert names == set(lines)
