"""Verbs that plugins add below `postward PLUGIN`."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from inspect import iscoroutinefunction
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer

from postward.cli.output import plugins_print_aside
from postward.errors import PluginError

if TYPE_CHECKING:
    from postward.app import App
    from postward.core import Core
    from postward.hooks import Outcome


class PluginVerbs:
    """What `postward.core.Commands` promises, on typer and `App`."""

    def __init__(self, app: App, plugin: str) -> None:
        self._app = app
        self._plugin = plugin
        self._typer = typer.Typer(no_args_is_help=True, help=f"Commands of the plugin {plugin}.")
        self._typer.callback()(_nothing)
        self._groups: dict[str, typer.Typer] = {}
        self._names: list[str] = []

    @property
    def names(self) -> tuple[str, ...]:
        """The verbs added so far."""
        return tuple(self._names)

    def add(self, function: Callable[..., Any], name: str | None = None, help: str | None = None) -> None:
        """Add a verb; `group verb` adds to a group. Raises `PluginError` for a name that is taken and for an async function."""
        verb = name or function.__name__.replace("_", "-")
        if verb in self._names or verb in self._groups:
            raise PluginError(self._plugin, f"command {verb!r} is added twice")
        if iscoroutinefunction(function):
            raise PluginError(self._plugin, f"command {verb!r} is async; make it a plain `def` and call commands.run(work)")
        group, _, last = verb.rpartition(" ")
        self._group(group).command(last, help=help)(function)
        self._names.append(verb)

    def _group(self, name: str) -> typer.Typer:
        if not name:
            return self._typer
        if name in self._names:
            raise PluginError(self._plugin, f"command {name!r} is a verb and cannot have verbs below it")
        if name not in self._groups:
            group = self._groups[name] = typer.Typer(no_args_is_help=True)
            group.callback()(_nothing)
            self._typer.add_typer(group, name=name, help=f"Commands about the {name}.")
        return self._groups[name]

    def run(self, work: Callable[[Core], Awaitable[int | None]]) -> int:
        """Assemble the program, run `work(core)` in it, and give its exit code."""
        import trio

        from postward.cli.site import act_as_owner

        act_as_owner(self._app.config.core.data_dir)

        async def enter() -> int | None:
            async with self._app as app:
                return await work(app.core_for(self._plugin))

        return trio.run(enter) or 0


def _nothing() -> None:
    """Keeps typer from making a group of one verb a command without a name."""


def plugin_commands(name: str, config_file: str | None, *, log_level: str = "warning") -> typer.Typer | None:
    """The verbs of an enabled plugin; None when no plugin has this name. Raises `ConfigError`, `PluginError`."""
    from postward.cli.site import settings
    from postward.plugins import installed

    known = any(one.name == name for one in installed())
    config = settings(None if config_file is None else Path(config_file))
    if name not in config.plugins:
        if not known:
            return None
        if config.file is None:
            raise PluginError(name, "is not enabled where there is no configuration; name it in `plugins` of a postward.toml")
        raise PluginError(name, f"is not enabled in {config.file}; `postward plugins enable {name}` does that")

    from postward.app import App
    from postward.hookspecs import register_commands
    from postward.log import configure

    configure(log_level)  # plugin code runs before the options are parsed
    app = App(config)
    commands = PluginVerbs(app, name)
    with plugins_print_aside():
        app.plugins.load(config, app.core_for)
        outcome: Outcome[None] = app.hooks.collect_one(name, register_commands, commands=commands)
    if outcome.error is not None:
        raise outcome.error
    if not commands.names:
        raise PluginError(name, "has no commands")
    return commands._typer
