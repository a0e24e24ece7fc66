"""`postward plugins doctor`: what is the matter with the plugins, and who answers which hook in which order."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from time import perf_counter
from typing import TYPE_CHECKING, Annotated, Any, Final

import typer

from postward.cli.output import emit_json_line, line, plugins_print_aside, table
from postward.errors import ConfigError, PluginError, PostwardError

if TYPE_CHECKING:
    from postward.config import Config
    from postward.plugins import Installed

# Seconds: what importing a plugin adds to every start, and what a delivery waits for when nothing is wrong.
SLOW_IMPORT: Final = 1.0
SLOW_CALL: Final = 1.0


def doctor(
    config: Annotated[Path | None, typer.Option("--config", "-c", help="Configuration file.", show_default=False)] = None,
    json: Annotated[bool, typer.Option("--json", help="Print one JSON object per plugin and per hook.")] = False,
) -> None:
    """Examine the plugins: installed, enabled, incompatible, slow, failing; and the order of calls.

    What the running service has counted is shown, too. Exits 1 when an enabled plugin cannot be used, or has failed.
    """
    with plugins_print_aside():
        loaded = _config(config)
        plugins, hooks = examine(loaded)
    if json:
        for each in (*plugins, *hooks):
            emit_json_line(each)
    else:
        table(
            ("plugin", "distribution", "version", "state", "import", "calls", "failed", "slowest", "trouble"),
            [_cells(each) for each in plugins],
        )
        line()
        table(("hook", "call", "limit", "plugins, in order"), [_hook_cells(each) for each in hooks])
        if loaded is None:
            line("No configuration was found, so no plugin is enabled.", error=True)
    raise typer.Exit(1 if any(each["state"] in ("broken", "missing", "failing") for each in plugins) else 0)


def examine(config: Config | None) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """The plugins, enabled ones first and in order, and the hooks that anybody answers."""
    from postward import hook_figures
    from postward.contract import SPECS
    from postward.plugins import installed

    order = list(config.plugins) if config else []
    figures = hook_figures.read(config.core.data_dir)[1] if config else {}
    available = installed()
    answers: dict[str, list[str]] = {}
    rows = [_enabled(name, config, available, figures, answers) for name in order if config]
    # Of a name that is enabled, the offers of other versions of the contract are worth a line, too.
    rows += [_idle(one) for one in available if one.name not in order or not one.compatible]
    hooks = [
        {"hook": name, "call": spec.call.value, "limit": spec.limit, "plugins": answers[name]}
        for name, spec in SPECS.items()
        if name in answers
    ]
    return rows, hooks


_ROW: Final[dict[str, Any]] = {
    "plugin": "",
    "distribution": "",
    "version": "",
    "contract": "",
    "state": "",
    "import_seconds": None,
    "calls": 0,
    "failures": 0,
    "slowest_seconds": 0.0,
    "trouble": [],
}


def _enabled(
    name: str,
    config: Config,
    available: Sequence[Installed],
    figures: Mapping[tuple[str, str], Mapping[str, Any]],
    answers: dict[str, list[str]],
) -> dict[str, Any]:
    from postward.contract import implemented
    from postward.plugins import check_made, check_options, choose, load_class

    row = {**_ROW, "plugin": name, "state": "enabled", "trouble": []}
    try:
        one = choose(name, available)
    except PluginError as exc:
        return {**row, "state": "missing", "trouble": [exc.message]}
    row |= {"distribution": one.distribution, "version": one.version, "contract": one.group}
    started = perf_counter()
    try:
        kind = load_class(one)
        row["import_seconds"] = round(perf_counter() - started, 3)
        hooks = list(implemented(name, kind))
        check_made(name, kind)
        check_options(name, kind, config)
    except PostwardError as exc:
        reason = exc.message if isinstance(exc, PluginError) else str(exc)
        return {**row, "state": "broken", "trouble": [reason]}
    for hook in hooks:
        answers.setdefault(hook, []).append(name)
    own = [(hook, each) for (plugin, hook), each in figures.items() if plugin == name]
    row["calls"] = sum(each["calls"] for _, each in own)
    row["failures"] = sum(each["failures"] for _, each in own)
    row["slowest_seconds"] = round(max((each["slowest"] for _, each in own), default=0.0), 3)
    if row["import_seconds"] > SLOW_IMPORT:
        row["state"] = "slow"
        row["trouble"].append(f"importing it takes {row['import_seconds']} s, at every start")
    for hook, each in own:
        if each["calls"] and each["seconds"] / each["calls"] > SLOW_CALL and hook not in ("background", "lifespan"):
            row["state"] = "slow"
            row["trouble"].append(f"{hook} takes {each['seconds'] / each['calls']:.1f} s on average")
    for hook, each in own:
        if each["failures"]:
            row["state"] = "failing"
            row["trouble"].append(f"{hook} has failed {each['failures']} times of {each['calls']}")
    return row


def _idle(one: Installed) -> dict[str, Any]:
    row = {**_ROW, "plugin": one.name, "distribution": one.distribution, "version": one.version, "contract": one.group}
    if one.compatible:
        return {**row, "state": "not enabled", "trouble": []}
    from postward.hookspecs import GROUP

    return {**row, "state": "incompatible", "trouble": [f"it is made for {one.group}, not {GROUP}"]}


def _config(path: Path | None) -> Config | None:
    from postward.config import find, load

    try:
        find(path)
    except ConfigError:
        if path is not None:
            raise
        return None
    return load(path)


def _cells(row: Mapping[str, Any]) -> tuple[str, ...]:
    took = "" if row["import_seconds"] is None else f"{row['import_seconds']:.2f} s"
    counted = (str(row["calls"]), str(row["failures"]), f"{row['slowest_seconds']:.2f} s") if row["calls"] else ("", "", "")
    return row["plugin"], row["distribution"], row["version"], row["state"], took, *counted, "; ".join(row["trouble"])


def _hook_cells(row: Mapping[str, Any]) -> tuple[str, ...]:
    return row["hook"], row["call"], f"{row['limit']:g} s" if row["limit"] else "", ", ".join(row["plugins"])
