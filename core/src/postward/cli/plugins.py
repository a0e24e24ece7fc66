"""`postward plugins`: what is installed, what is enabled, and changing that."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from postward.cli.output import emit_json_line, is_terminal, plugins_print_aside, table
from postward.config_file import find, read
from postward.errors import ConfigError, PostwardError

if TYPE_CHECKING:
    from postward.plugins import Installed

ConfigOption = Annotated[Path | None, typer.Option("--config", "-c", help="Configuration file.", show_default=False)]
Name = Annotated[str, typer.Argument(help="The plugin.", show_default=False)]


def register(app: typer.Typer) -> None:
    """Add the group."""
    from postward.cli import plugins_doctor, plugins_new

    group = typer.Typer(no_args_is_help=True, help="List, examine, enable and disable plugins, and begin a new one.")
    group.command("list")(show)
    group.command()(enable)
    group.command()(disable)
    group.command()(plugins_doctor.doctor)
    group.command()(plugins_new.new)
    app.add_typer(group, name="plugins")


def show(
    config: ConfigOption = None,
    json: Annotated[bool, typer.Option("--json", help="Print one JSON object per plugin.")] = False,
) -> None:
    """List installed plugins; of the enabled ones also their hooks, in call order.

    Exits 1 when an enabled plugin cannot be used. Plugins that are not enabled are not imported.
    """
    with plugins_print_aside():
        rows = _rows(config)
    if json:
        for row in rows:
            emit_json_line(row)
    else:
        table(("plugin", "distribution", "version", "enabled", "order", "hooks"), [_cells(row) for row in rows])
        if not rows:
            typer.echo("No plugins are installed.", err=True)
    raise typer.Exit(1 if any(row["enabled"] and row["error"] for row in rows) else 0)


def enable(name: Name, config: ConfigOption = None) -> None:
    """Enable a plugin, as the last in order, after checking that it loads. Comments in the file stay."""
    from postward.config_edit import enabled_in, minimal, replace_file
    from postward.plugins import choose, installed

    choose(name, installed())
    file = _file_to_edit(config)
    exists = file.exists()
    if exists and name in _names(read(file)):
        typer.echo(f"{name} is already enabled in {file}.")
        return
    before = file.read_bytes() if exists else None
    text = minimal(name) if before is None else _edit(file, before, name, enabled_in)
    with plugins_print_aside():
        _check_all(text, file, name)
    replace_file(file, before, text)
    typer.echo(f"Enabled {name} in {file}.")


def disable(name: Name, config: ConfigOption = None) -> None:
    """Disable a plugin. Its options stay in the file, commented out; its data stay in the database."""
    from postward.config import from_dict
    from postward.config_edit import disabled_in, replace_file
    from postward.config_errors import nearest
    from postward.config_file import parse
    from postward.plugins import installed

    file = find(config)
    names = _names(read(file))
    if name not in names:
        if any(one.name == name for one in installed()):
            typer.echo(f"{name} is not enabled in {file}.")
            return
        raise ConfigError(f"there is no plugin {name!r}", file=str(file), key="plugins", hint=nearest(name, names))
    before = file.read_bytes()
    text = _edit(file, before, name, disabled_in)
    from_dict(parse(text.encode(), file), file=file)
    replace_file(file, before, text)
    typer.echo(f"Disabled {name} in {file}.")


def _file_to_edit(config: Path | None) -> Path:
    """The file that is in force; without any, the one that would be found first."""
    from postward.config_file import PLACES

    try:
        return find(config)
    except ConfigError:
        return PLACES[0]


def _names(data: Mapping[str, Any]) -> list[Any]:
    names = data.get("plugins", [])
    return names if isinstance(names, list) else []


def _edit(file: Path, before: bytes, name: str, change: Callable[[str, str], str]) -> str:
    try:
        return change(before.decode(), name)
    except ConfigError as exc:
        raise ConfigError(exc.message, file=str(file), key=exc.key, hint=exc.hint) from None


def _check_all(text: str, file: Path, name: str) -> None:
    """Whether the program would start with this text: its keys, and every enabled plugin with its options and hooks."""
    from postward.config import from_dict
    from postward.config_file import parse
    from postward.contract import implemented
    from postward.plugins import check_made, prepare

    for plugin, (kind, _) in prepare(from_dict(parse(text.encode(), file), file=file)).items():
        if plugin == name:
            implemented(plugin, kind)
            check_made(plugin, kind)


def _rows(config: Path | None) -> list[dict[str, Any]]:
    from postward.plugins import installed

    order = _enabled(config)
    available = installed()
    compatible = {one.name for one in available if one.compatible}
    rows = [
        _row(one, order.index(one.name) + 1 if one.name in order and (one.compatible or one.name not in compatible) else None)
        for one in available
    ]
    known = {one.name for one in available}
    rows += [
        {**_EMPTY, "name": name, "enabled": True, "order": place, "error": "not installed"}
        for place, name in enumerate(order, 1)
        if name not in known
    ]
    return sorted(rows, key=lambda row: (row["order"] is None, row["order"] or 0, row["name"]))


_EMPTY: dict[str, Any] = {
    "name": "",
    "distribution": "",
    "version": "",
    "enabled": False,
    "order": None,
    "hooks": [],
    "contract": "",
    "compatible": False,
    "error": "",
}


def _enabled(config: Path | None) -> list[str]:
    from postward.config import load

    try:
        file = find(config)
    except ConfigError:
        return []
    return list(load(file).plugins)


def _row(one: Installed, place: int | None) -> dict[str, Any]:
    row = {
        **_EMPTY,
        "name": one.name,
        "distribution": one.distribution,
        "version": one.version,
        "enabled": place is not None,
        "order": place,
        "contract": one.group,
        "compatible": one.compatible,
    }
    if not one.compatible:
        row["error"] = f"made for {one.group}"
    elif place is not None:
        try:
            row["hooks"] = _hooks(one.name)
        except PostwardError as exc:
            row["error"] = str(exc)
    return row


def _hooks(name: str) -> list[str]:
    from postward.contract import implemented
    from postward.plugins import choose, installed, load_class

    return list(implemented(name, load_class(choose(name, installed()))))


def _cells(row: Mapping[str, Any]) -> tuple[str, ...]:
    last = row["error"] or ", ".join(row["hooks"])
    order = "" if row["order"] is None else str(row["order"])
    separator = " " if is_terminal() else "-"
    return row["name"], row["distribution"] or separator, row["version"] or separator, _yes(row["enabled"]), order, last


def _yes(value: bool) -> str:
    return "yes" if value else "no"
