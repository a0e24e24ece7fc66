"""The typer application, with only that command imported which is called.

The others are stubs with their line of help, so `--help` and completion list everything and cost nothing.
"""

from __future__ import annotations

import os
import shlex
from collections.abc import Callable, Sequence
from importlib import import_module
from importlib.metadata import entry_points
from typing import Annotated, Any, Final

import typer
from typer.core import TyperGroup

from postward.cli import COMMANDS, DEBUG
from postward.cli.output import is_terminal
from postward.config_file import SHIPPED, exists, find, read
from postward.errors import ConfigError, PluginError, PostwardError
from postward.hookspecs import GROUP

LEVEL_ENVIRONMENT: Final = "POSTWARD_LOG_LEVEL"
_WITH_VALUE: Final = ("--config", "-c", "--log-level")
_CONFIG: Final = ("--config", "-c")


class PipeClosed(BaseException):
    """Carries a broken pipe past typer, which would make it exit code 1: bad news."""


class Group(TyperGroup):
    """The root group."""

    def invoke(self, ctx: Any) -> Any:
        try:
            return super().invoke(ctx)
        except BrokenPipeError as exc:
            raise PipeClosed from exc


def invoke(arguments: Sequence[str]) -> int:
    """Run a command line and give its exit code. Usage errors are shown here, others are raised."""
    words = completed_words() or list(arguments)
    name = command_in(words)
    config: str | None = None
    if name is not None and name not in COMMANDS:
        config, arguments = without_config(arguments)
    try:
        app = assemble(name, config)
        code = app(list(arguments), prog_name="postward", standalone_mode=False)
    except PipeClosed as exc:
        raise BrokenPipeError from exc
    except typer.Abort:
        return 130
    except Exception as exc:
        if not (hasattr(exc, "show") and hasattr(exc, "exit_code")):
            if name is None or name in COMMANDS or isinstance(exc, PostwardError | OSError | ExceptionGroup):
                raise
            raise _failed_verb(name, exc) from exc
        exc.show()  # a usage error: typer says what is wrong and where to find help
        return 2
    return code if isinstance(code, int) else 0


def _failed_verb(plugin: str, error: Exception) -> PluginError:
    from postward.hooks import describe

    return PluginError(plugin, f"its command {describe(error)} (set {DEBUG}=1 to see where)")


def command_in(words: Sequence[str]) -> str | None:
    """The first word that is a command: global options and their values go before it."""
    rest = iter(words)
    for word in rest:
        if word in _WITH_VALUE:
            next(rest, None)
        elif not word.startswith("-"):
            return word
    return None


def completed_words() -> list[str]:
    """The words of the line that a shell wants completed, without the program; empty when it is no completion."""
    if "_POSTWARD_COMPLETE" not in os.environ:
        return []
    line = os.environ.get("_TYPER_COMPLETE_ARGS") or os.environ.get("COMP_WORDS", "")
    try:
        return shlex.split(line)[1:]
    except ValueError:
        return line.split()[1:]


def assemble(name: str | None, config: str | None = None) -> typer.Typer:
    """The application in which the command or plugin `name` is real and all others are stubs."""
    app = typer.Typer(
        cls=Group,
        no_args_is_help=True,
        pretty_exceptions_enable=False,
        rich_markup_mode="rich" if is_terminal() else None,
        context_settings={"help_option_names": ["-h", "--help"]},
        help="Mail transport security: deliver, verify, report.",
    )
    app.callback()(_globals(name))
    module = COMMANDS[name].module if name in COMMANDS else None
    if module is not None:
        _register(app, module)
    for other, command in COMMANDS.items():
        if command.module != module:
            app.command(other, help=command.help)(_stub)
    if name is None:
        for plugin in _enabled():
            app.command(plugin, help=f"Commands of the plugin {plugin}.", rich_help_panel="Plugins")(_stub)
    elif module is None:
        from postward.cli.commands import plugin_commands

        commands = plugin_commands(name, config, log_level=os.environ.get(LEVEL_ENVIRONMENT, "warning"))
        if commands is not None:
            app.add_typer(commands, name=name)
    return app


def _register(app: typer.Typer, module: str) -> None:
    path = f"postward.cli.{module}"
    register: Callable[[typer.Typer], None] = import_module(path).register
    register(app)


def _stub() -> None:
    """Stands for a command in the help."""


def _globals(name: str | None) -> Callable[..., None]:
    level = COMMANDS[name].log_level if name in COMMANDS else "warning"

    def options(
        log_level: Annotated[
            str, typer.Option("--log-level", envvar=LEVEL_ENVIRONMENT, help="debug, info, warning or error.")
        ] = level,
        version: Annotated[bool, typer.Option("--version", is_eager=True, callback=_version, help="Show the version.")] = False,
    ) -> None:
        if name != "plugins":  # the one command that must be quick and logs nothing
            _configure_log(log_level)

    return options


def _configure_log(level: str) -> None:
    from postward.log import configure

    try:
        configure(level)
    except ValueError as exc:
        raise typer.BadParameter(str(exc), param_hint="--log-level") from None


def _version(wanted: bool) -> None:
    if wanted:
        from importlib.metadata import version

        typer.echo(f"postward {version('postward')}")
        raise typer.Exit


def without_config(words: Sequence[str]) -> tuple[str | None, list[str]]:
    """The value of `--config`, wherever it stands before `--`, and the other words.

    A plugin's verbs exist only after the file was read, so its name cannot wait for them to be parsed.
    """
    value: str | None = None
    others: list[str] = []
    rest = iter(words)
    for word in rest:
        if word == "--":
            return value, [*others, word, *rest]
        if word in _CONFIG:
            value = next(rest, "")
        elif word.startswith("--config="):
            value = word.partition("=")[2]
        else:
            others.append(word)
    return value, others


def _enabled() -> list[str]:
    """The enabled plugins, as far as the file can be read, for the help only."""
    try:
        if not exists():
            there = entry_points(group=GROUP).names
            return [name for name in SHIPPED if name in there]
        names = read(find()).get("plugins")
    except ConfigError:
        return []
    return [name for name in names if isinstance(name, str)] if isinstance(names, list) else []
