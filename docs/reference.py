"""Writes the pages that repeat what the code says: hooks, data, configuration, commands. `--check` says what is out of date.

python docs/reference.py            write the pages
python docs/reference.py --check    exit 1 when one differs from the code
"""

from __future__ import annotations

import ast
import inspect
import sys
import textwrap
import types
from collections.abc import Callable, Iterator
from dataclasses import fields, is_dataclass
from enum import Enum
from pathlib import Path
from typing import Annotated, Any, Final, Literal, Union, get_args, get_origin

import typer
from pydantic import BaseModel
from pydantic_core import PydanticUndefined

from postward import config, hookspecs, model
from postward.cli import COMMANDS
from postward.cli.frame import assemble
from postward.contract import SPECS
from postward.plugins import choose, installed, load_class, options_class

DOCS: Final = Path(__file__).parent
PLUGINS: Final = ("dane", "mtasts", "tlsrpt", "dmarc")
_NOTE: Final = "<!-- Written by docs/reference.py; change the code instead. -->"


def hooks() -> str:
    """Every hook with its signature, and the rules that hold for all."""
    source = inspect.getsource(hookspecs)
    tree = ast.parse(source)
    stages = _stages(source)
    lines = ["# Hooks", _NOTE, "", inspect.getdoc(hookspecs) or "", ""]
    shown = ""
    for node in tree.body:
        if not isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef) or node.name not in SPECS:
            continue
        stage = [name for line, name in stages if line < node.lineno][-1]
        if stage != shown:
            lines += [f"## {stage.capitalize()}", ""]
            shown = stage
        spec = SPECS[node.name]
        word = "async def" if spec.is_async else "def"
        returns = ast.unparse(node.returns) if node.returns else "None"
        limit = f", within {spec.limit:g} s" if spec.limit else ""
        lines += [
            f"### {node.name}",
            "",
            f"`{word} {node.name}({ast.unparse(node.args)}) -> {returns}` ({spec.call.name}{limit})",
        ]
        lines += ["", ast.get_docstring(node) or "", ""]
    return "\n".join(lines)


def _stages(source: str) -> list[tuple[int, str]]:
    return [
        (number, line.strip("# -"))
        for number, line in enumerate(source.splitlines(), 1)
        if line.startswith("# --- ") and line.endswith(" ---")
    ]


def data() -> str:
    """Every type that crosses a hook."""
    lines = [
        "# Data types",
        _NOTE,
        "",
        "All of them are in `postward`; the dataclasses are frozen and take keywords.",
        "",
    ]
    for name in sorted(model.__all__):
        thing = getattr(model, name)
        if not isinstance(thing, type):
            continue
        lines += [f"## {name}", "", inspect.getdoc(thing) or "", ""]
        if is_dataclass(thing):
            lines += ["| field | type |", "|---|---|"]
            lines += [f"| `{field.name}` | `{_escaped(str(field.type))}` |" for field in fields(thing)]
        elif issubclass(thing, Enum):
            lines += [", ".join(f"`{each.name}` = `{each.value}`" for each in thing)]
        lines.append("")
    return "\n".join(lines)


def configuration() -> str:
    """Every key of the file, of core and of the plugins that ship."""
    lines = ["# Configuration", _NOTE, "", inspect.getdoc(config) or "", ""]
    lines += ["`plugins`: the plugins that are enabled, in the order of calls; nothing else is imported.", ""]
    for name, field in config.Config.model_fields.items():
        kind: Any = get_args(field.annotation)[0] if get_args(field.annotation) else field.annotation
        if isinstance(kind, type) and issubclass(kind, BaseModel):
            lines += _section(f"[[{name}]]" if get_args(field.annotation) else f"[{name}]", kind)
    lines += _section("[plugin.x], of every plugin", config.PluginSettings)
    for plugin in PLUGINS:
        options = options_class(plugin, load_class(choose(plugin, installed())))
        if options is not None:
            lines += _section(f"[plugin.{plugin}]", options)
    return "\n".join(lines)


def _section(title: str, kind: type[BaseModel]) -> list[str]:
    lines = [f"## {title}", "", inspect.getdoc(kind) or "", "", "| key | type | default |", "|---|---|---|"]
    inner: list[tuple[str, type[BaseModel]]] = []
    for name, field in kind.model_fields.items():
        default = "see above" if kind is config.CoreConfig else "needed" if field.is_required() else _default(field.default)
        lines.append(f"| `{name}` | {_escaped(_type(field.annotation))} | {default} |")
        inner += [(name, each) for each in _models(field.annotation)]
    lines.append("")
    for name, each in inner:
        lines += _section(f"{title.strip('[]')}, `{name}`", each)
    return lines


def _default(value: Any) -> str:
    if value is PydanticUndefined or isinstance(value, BaseModel):
        return ""
    shown = list(map(str, value)) if isinstance(value, tuple) else value.value if isinstance(value, Enum) else value
    return "" if shown is None else f"`{shown!r}`" if not isinstance(shown, bool) else f"`{str(shown).lower()}`"


def _models(annotation: Any) -> Iterator[type[BaseModel]]:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        yield annotation
    for each in get_args(annotation):
        yield from _models(each)


def _type(annotation: Any) -> str:
    return f"`{_shown(annotation)}`"


def _shown(annotation: Any) -> str:
    """A type as a reader of TOML sees it, without what validates it."""
    origin, inner = get_origin(annotation), get_args(annotation)
    if origin is Annotated:
        return _shown(inner[0])
    if origin in (Union, types.UnionType):
        return " or ".join(_shown(each) for each in inner if each is not type(None))
    if origin is Literal:
        return " or ".join(repr(each) for each in inner)
    if origin is tuple:
        return f"list of {_shown(inner[0])}"
    if origin is dict:
        return f"table of {_shown(inner[0])} to {_shown(inner[1])}"
    if isinstance(annotation, type) and issubclass(annotation, Enum):
        return " or ".join(repr(str(each.value)) for each in annotation)
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return "table"
    return str(getattr(annotation, "__name__", annotation)).lower()


def _escaped(text: str) -> str:
    return text.replace("|", "\\|")


def commands() -> str:
    """Every command and its verbs with their options."""
    lines = ["# Commands", _NOTE, "", inspect.getdoc(sys.modules["postward.cli"]) or "", ""]
    for name, command in COMMANDS.items():
        lines += [f"## postward {name}", "", command.help, ""]
        app = assemble(name)
        for info in app.registered_commands:
            if info.callback is not None and (info.name or info.callback.__name__.replace("_", "-")) == name:
                lines += _verb(info.callback)
        for group in app.registered_groups:
            if group.name == name and group.typer_instance is not None:
                lines += _group(f"postward {name}", group.typer_instance)
    return "\n".join(lines)


def _group(path: str, app: typer.Typer) -> list[str]:
    lines: list[str] = []
    for info in app.registered_commands:
        assert info.callback is not None
        verb = info.name or info.callback.__name__.replace("_", "-")
        lines += [f"### {path} {verb}", "", *_verb(info.callback)]
    for group in app.registered_groups:
        assert group.typer_instance is not None
        lines += _group(f"{path} {group.name}", group.typer_instance)
    return lines


def _verb(function: Callable[..., Any]) -> list[str]:
    lines = [inspect.getdoc(function) or "", ""]
    for name, parameter in inspect.signature(function, eval_str=True).parameters.items():
        for extra in getattr(parameter.annotation, "__metadata__", ()):
            first = getattr(extra, "default", None)  # of `Option("--config", "-c")`, typer keeps the first word there
            words = [first] if isinstance(first, str) and first.startswith("-") else []
            words = [*words, *(getattr(extra, "param_decls", None) or ())] or [f"--{name.replace('_', '-')}"]
            shown = name.upper() if type(extra).__name__ == "ArgumentInfo" else ", ".join(words)
            lines.append(f"- `{shown}`: {extra.help or ''}".rstrip())
    return [*lines, ""]


PAGES: Final = {
    "plugins/hooks.md": hooks,
    "plugins/data.md": data,
    "configuration.md": configuration,
    "commands.md": commands,
}


def main(arguments: list[str]) -> int:
    """Write or check. Gives the exit code."""
    wrong = []
    for path, make in PAGES.items():
        file, text = DOCS / path, "\n".join(line.rstrip() for line in textwrap.dedent(make()).splitlines()) + "\n"
        if "--check" not in arguments:
            file.write_text(text)
        elif not file.exists() or file.read_text() != text:
            wrong.append(f"docs/{path} is out of date: run python docs/reference.py")
    sys.stderr.write("".join(f"{line}\n" for line in wrong))
    return int(bool(wrong))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
