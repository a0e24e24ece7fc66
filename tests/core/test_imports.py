"""What importing costs: nothing until it is needed. Asked of `sys.modules`, not of a clock."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

import postward
from postward import hookspecs, model

HEAVY = ("trio", "sqlmodel", "sqlalchemy", "alembic", "starlette", "hypercorn", "OpenSSL", "pydantic", "structlog")


def imported(code: str, *, cwd: Path) -> set[str]:
    """The modules that a fresh interpreter has after running a program."""
    environment = {key: value for key, value in os.environ.items() if not key.startswith(("POSTWARD_", "COV_"))}
    done = subprocess.run(
        [sys.executable, "-c", f"{code}\nimport sys; print(); print('MODULES', *sys.modules)"],
        capture_output=True,
        text=True,
        check=True,
        cwd=cwd,
        env=environment,
        timeout=60,
    )
    last = done.stdout.splitlines()[-1]
    assert last.startswith("MODULES")
    return set(last.split()[1:])


def test_importing_postward_imports_nothing_heavy(tmp_path: Path) -> None:
    assert imported("import postward", cwd=tmp_path).isdisjoint([*HEAVY, "typer", "pluggy", "postward.model"])


def test_a_plugin_author_pays_for_the_hooks_only(tmp_path: Path) -> None:
    modules = imported("from postward import Domain, TlsPolicy, hookimpl", cwd=tmp_path)
    assert modules.isdisjoint([*HEAVY, "typer"])


@pytest.mark.parametrize("arguments", [["--help"], ["--version"], ["plugins", "--help"]])
def test_help_imports_no_program(arguments: list[str], tmp_path: Path) -> None:
    modules = imported(f"from postward.cli import main\nmain({arguments!r})", cwd=tmp_path)
    # Some versions of typer bring pydantic themselves.
    assert modules.isdisjoint([*(set(HEAVY) - {"pydantic"}), "postward.app", "postward.plugins"])


def test_a_wrong_command_opens_no_database(tmp_path: Path) -> None:
    modules = imported("from postward.cli import main\nassert main(['no-such-command']) == 2", cwd=tmp_path)
    assert modules.isdisjoint([*(set(HEAVY) - {"pydantic", "trio"}), "postward.app"])


def test_all_is_reality() -> None:
    assert len(postward.__all__) == len(set(postward.__all__))
    for name in postward.__all__:
        if name != "App":  # assembles everything; its own tests import it
            assert getattr(postward, name) is not None
    assert set(model.__all__) <= set(postward.__all__)
    assert postward.hookimpl is hookspecs.hookimpl
    assert postward.TlsPolicy is model.TlsPolicy
    assert set(postward.__all__) <= set(dir(postward))
    with pytest.raises(AttributeError, match="no attribute 'Nothing'"):
        postward.Nothing  # noqa: B018


def test_app_is_there() -> None:
    assert postward.App.__name__ == "App"
