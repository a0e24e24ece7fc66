"""Whether a plugin keeps to the contract: `conformance(MyPlugin)` in a test of its own says everything that is wrong, at once.

What is looked at: the names and kinds of its hooks, their annotations, that its `Config` survives being written and read, what
importing it costs, that it uses public names only, and what it does in service: it is run in the harness through deliveries,
received mail and the end of two days, and then with DNS and network that never answer, while core cancels it.
"""

from __future__ import annotations

import subprocess
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

import tomli_w
from pydantic import BaseModel, ValidationError

from postward.contract import SPECS, implemented
from postward.errors import PostwardError
from postward.plugins import check_made, options_class
from postward.testing.annotations import compare
from postward.testing.harness import name_of
from postward.testing.sources import private_names
from postward.testing.trials import trials

# What a command that does not need them would have to wait for; `register_schema` and `register_routes` import these late.
LATE: Final = ("alembic", "hypercorn", "sqlalchemy", "sqlmodel", "starlette")
_IMPORT_WITHIN: Final = 120


class NotConformant(AssertionError):
    """A plugin that does not keep to the contract; the text has a line for each `problem`."""

    def __init__(self, name: str, problems: tuple[str, ...]) -> None:
        self.problems = problems
        super().__init__("\n".join([f"plugin {name!r} does not keep to the contract:", *(f"- {each}" for each in problems)]))


def conformance(plugin: type[Any], /, name: str = "", **options: Any) -> None:
    """Check a plugin's class. `options` are keys of its table that it cannot be without.

    Call it from a plain test: it runs trio itself. `name` defaults to that of the entry point, or of the class. Raises
    `NotConformant`, which is an `AssertionError`.
    """
    name = name or name_of(plugin)
    problems = tuple(dict.fromkeys(_problems(name, plugin, options)))
    if problems:
        raise NotConformant(name, problems)


def _problems(name: str, plugin: type[Any], options: dict[str, Any]) -> Iterator[str]:
    try:
        found = implemented(name, plugin)
        check_made(name, plugin)
        model = options_class(name, plugin)
    except PostwardError as exc:  # nothing else can be asked of what cannot be registered
        yield str(exc)
        return
    for hook, function in found.items():
        yield from compare(SPECS[hook], function)
    if model is not None:
        yield from _options(model, options)
    if "<locals>" not in plugin.__qualname__:  # which cannot be packed: a class that a test made
        yield from private_names(plugin)
        yield from _imports(plugin)
    yield from trials(name, plugin, options)


def _options(model: type[BaseModel], options: dict[str, Any]) -> Iterator[str]:
    """What a program writes, such as `plugins enable`, has to be read as it was."""
    if not model.model_config.get("frozen"):
        yield "its Config can be changed: declare it with frozen=True"
    try:
        given = model.model_validate(options)
    except ValidationError as exc:
        yield f"its Config does not take {options!r}: {exc.errors()[0]['msg']}"
        return
    try:
        written = tomli_w.dumps(given.model_dump(mode="json", exclude_none=True))
        again = model.model_validate(tomllib.loads(written))
    except Exception as exc:  # noqa: BLE001 - validators are the plugin's code
        yield f"its Config cannot be written as TOML and read again: {exc}"
        return
    if again != given:
        yield f"its Config is another one when it is written as TOML and read again: {given!r} became {again!r}"


def _imports(plugin: type[Any]) -> Iterator[str]:
    """What importing its module brings along, in an interpreter of its own."""
    module = plugin.__module__
    path = [place or str(Path.cwd()) for place in sys.path]
    code = f"import sys; sys.path[:] = {path!r}; import postward; import {module}; print(*sys.modules)"
    try:
        done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=_IMPORT_WITHIN, check=False)
    except subprocess.TimeoutExpired:
        yield f"importing {module} takes more than {_IMPORT_WITHIN} s"
        return
    if done.returncode:
        yield f"importing {module} alone fails: {done.stderr.strip().splitlines()[-1]}"
        return
    early = sorted(set(LATE) & set(done.stdout.split()))
    if early:
        yield f"importing {module} imports {', '.join(early)}; import them in the hooks that need them"
