"""`postward plugins new`: what it writes conforms and passes its own tests, as it stands."""

from __future__ import annotations

import os
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

from deliver_kit import call
from postward.scaffold import package


@pytest.mark.parametrize("name", ["long_lived", "x"])
def test_a_new_package_passes_its_own_tests(name: str, tmp_path: Path) -> None:
    done = call("plugins", "new", name, "--into", tmp_path)
    assert done.code == 0, done.err
    folder = tmp_path / f"postward-{name.replace('_', '-')}"
    assert f"postward plugins enable {name}" in done.out.decode()
    # As without this checkout's settings: the package has to do with its own.
    tested = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "-p", "postward.testing.pytest_plugin"],
        cwd=folder,
        env={key: value for key, value in os.environ.items() if not key.startswith("PYTEST")},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert tested.returncode == 0, tested.stdout + tested.stderr
    assert "4 passed" in tested.stdout


def test_what_is_written_keeps_to_the_style_of_this_checkout(tmp_path: Path) -> None:
    call("plugins", "new", "long_lived", "--into", tmp_path)
    folder = tmp_path / "postward-long-lived"
    for tool in (["check", "--select", "E,F,I,UP,B"], ["format", "--check"]):
        words = [sys.executable, "-m", "ruff", *tool, "."]
        done = subprocess.run(words, cwd=folder, capture_output=True, text=True, timeout=60, check=False)
        assert done.returncode == 0, done.stdout + done.stderr


def test_the_entry_point_names_the_class() -> None:
    files = package("long_lived")
    project = tomllib.loads(files["pyproject.toml"])["project"]
    assert project["entry-points"]["postward.v1"] == {"long_lived": "postward_long_lived.plugin:LongLived"}
    assert "class LongLived:" in files["src/postward_long_lived/plugin.py"]


@pytest.mark.parametrize("name", ["Big", "1st", "a-b", "queue", "../x"])
def test_a_name_that_no_plugin_can_have_is_refused(name: str, tmp_path: Path) -> None:
    done = call("plugins", "new", name, "--into", tmp_path)
    assert done.code == 2
    assert list(tmp_path.iterdir()) == []


def test_nothing_is_overwritten(tmp_path: Path) -> None:
    (tmp_path / "postward-mine").mkdir()
    done = call("plugins", "new", "mine", "--into", tmp_path)
    assert done.code != 0
    assert "is there already" in done.err
    assert list((tmp_path / "postward-mine").iterdir()) == []
