"""The examples: each passes its own tests from its own folder; as wheels in a clean environment, they are what they promise."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tomllib
from pathlib import Path
from typing import get_args

import pytest

from postward.config import load

ROOT = Path(__file__).parents[2]
EXAMPLES = sorted(file.parent for file in (ROOT / "examples").glob("*/pyproject.toml"))
TESTED = [example for example in EXAMPLES if (example / "tests").is_dir()]
ENVIRONMENT = {key: value for key, value in os.environ.items() if not key.startswith(("PYTEST", "PYTHONPATH"))}


def run(*words: str | Path, cwd: Path, code: int = 0) -> str:
    done = subprocess.run(
        [str(word) for word in words], cwd=cwd, env=ENVIRONMENT, capture_output=True, text=True, timeout=600, check=False
    )
    assert done.returncode == code, done.stdout + done.stderr
    return done.stdout


def test_there_is_one_for_each_kind_of_hook() -> None:
    names = {example.name for example in EXAMPLES}
    assert names == {"hello_plugin", "required_tls", "socks_route", "webhook_sink", "weekly_digest"}


@pytest.mark.parametrize("example", TESTED, ids=lambda path: path.name)
def test_its_own_tests_pass(example: Path) -> None:
    words = ["-q", "-p", "no:cacheprovider", "-p", "postward.testing.pytest_plugin"]
    said = run(sys.executable, "-m", "pytest", *words, cwd=example)
    assert " passed" in said
    assert "skipped" not in said


@pytest.mark.interop
@pytest.mark.skipif("CI" not in os.environ, reason="fetches packages, which only the checks of a submission do")
def test_as_wheels_in_a_clean_environment(tmp_path: Path) -> None:
    """Nothing of the checkout is seen there: what a wheel lacks, a user lacks."""
    wheels = tmp_path / "wheels"
    pip = ["python3", "-m", "pip"]
    run(*pip, "wheel", "--quiet", "--no-deps", "--wheel-dir", wheels, ROOT / "core", *EXAMPLES, cwd=tmp_path)
    run("python3", "-m", "venv", "--without-pip", tmp_path / "venv", cwd=tmp_path)
    python = tmp_path / "venv" / "bin" / "python"
    run(
        *pip, "--python", python, "install", "--quiet", "--find-links", wheels, "-c", ROOT / "constraints.txt",
        "pytest", "pytest-trio", *sorted(wheels.glob("*.whl")), cwd=tmp_path,
    )  # fmt: skip
    postward = tmp_path / "venv" / "bin" / "postward"
    found = {row["name"] for row in map(json.loads, run(postward, "plugins", "list", "--json", cwd=tmp_path).splitlines())}
    for example in EXAMPLES:
        project = tomllib.loads((example / "pyproject.toml").read_text())["project"]
        assert set(project["entry-points"]["postward.v1"]) <= found
    for example in TESTED:
        # Only its tests come along: the package is the installed one.
        (tmp_path / example.name).symlink_to(example / "tests")
        words = ["-q", "-p", "no:cacheprovider", "-c", os.devnull, "--rootdir", tmp_path, f"{example.name}/"]
        run(python, "-m", "pytest", *words, cwd=tmp_path)


@pytest.mark.parametrize("file", sorted((ROOT / "examples").glob("*.toml")), ids=lambda file: file.name)
def test_a_configuration_is_good_for_its_plugins(file: Path) -> None:
    from postward.plugins import prepare

    config = load(file)
    assert list(prepare(config)) == list(config.plugins)


def test_the_full_configuration_has_every_key() -> None:
    from postward.config import Config

    written = tomllib.loads((ROOT / "examples" / "full.toml").read_text())
    missing = []
    for name, field in Config.model_fields.items():
        if name in ("file", "plugin", "plugins"):
            continue
        given = written.get(name, [])
        sections = given if isinstance(given, list) else [given]
        kind = get_args(field.annotation)[0] if get_args(field.annotation) else field.annotation
        missing += [f"{name}.{key}" for key in kind.model_fields if not any(key in section for section in sections)]
    assert missing == []
