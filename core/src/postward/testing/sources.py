"""Whether the source of a plugin uses public names only, read without importing anything."""

from __future__ import annotations

import ast
import importlib.util
import inspect
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

# A package stands for its public names: its modules are its own business.
PUBLIC: Final = frozenset(
    {
        "postward",
        "postward.cli.output",
        "postward.clock",
        "postward.config",
        "postward.core",
        "postward.delivery",
        "postward.dkim",
        "postward.dns",
        "postward.errors",
        "postward.hookspecs",
        "postward.http",
        "postward.metrics",
        "postward.model",
        "postward.names",
        "postward.net",
        "postward.reports",
        "postward.reports.container",
        "postward.reports.receipt",
        "postward.reports.sources",
        "postward.smtp",
        "postward.store",
        "postward.testing",
        "postward.tls",
        "postward.web",
    }
)
"""What plugins may import, and what stays compatible within one version of the contract."""


def private_names(plugin: type[Any]) -> Iterator[str]:
    """Uses of what is not public, in every file of the package of a class, with file and line."""
    for file in _files(plugin):
        try:
            tree = ast.parse(file.read_text())
        except (OSError, SyntaxError, ValueError):
            continue
        for line, name in _private_in(tree):
            yield f"{file.name}:{line} uses {name}, which is not public"


def _files(plugin: type[Any]) -> list[Path]:
    try:
        own = Path(inspect.getfile(plugin))
    except (OSError, TypeError):
        return []
    package = importlib.util.find_spec(plugin.__module__.partition(".")[0])
    # A folder without __init__.py, such as one of tests, is not what a plugin is packed in.
    places = [Path(package.origin).parent] if package and package.origin and package.submodule_search_locations else []
    return sorted({own, *(file for place in places for file in place.rglob("*.py"))})


def _private_in(tree: ast.AST) -> Iterator[tuple[int, str]]:
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            for alias in node.names:
                if _is_ours(alias.name) and alias.name not in PUBLIC:
                    yield node.lineno, alias.name
        elif isinstance(node, ast.ImportFrom) and not node.level and node.module and _is_ours(node.module):
            for alias in node.names:
                whole = f"{node.module}.{alias.name}"
                if (
                    (node.module not in PUBLIC and whole not in PUBLIC)
                    or alias.name.startswith("_")
                    or (whole not in PUBLIC and _is_module(whole))
                ):
                    yield node.lineno, whole
        elif isinstance(node, ast.Attribute) and _is_private(node.attr) and _is_core(node.value):
            yield node.lineno, f"core.{node.attr}"


def _is_ours(module: str) -> bool:
    return module == "postward" or module.startswith("postward.")


def _is_module(name: str) -> bool:
    try:
        return importlib.util.find_spec(name) is not None
    except (ImportError, ValueError):
        return False


def _is_private(name: str) -> bool:
    return name.startswith("_") and not name.startswith("__")


def _is_core(value: ast.expr) -> bool:
    """`core`, `self.core`, `self._core`, and what hangs below them, such as `core.store`."""
    if isinstance(value, ast.Name):
        return value.id == "core"
    return isinstance(value, ast.Attribute) and (value.attr in ("core", "_core") or _is_core(value.value))
