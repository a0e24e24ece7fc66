"""`postward db`: how far the tables are, and bringing them up to date before the program does it by itself."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from postward.cli.output import emit_json_line, plugins_print_aside, table

if TYPE_CHECKING:
    from collections.abc import Mapping

    from postward.config import Config
    from postward.model import Schema
    from postward.store import SchemaStatus

ConfigOption = Annotated[Path | None, typer.Option("--config", "-c", help="Configuration file.", show_default=False)]
JsonOption = Annotated[bool, typer.Option("--json", help="Print one JSON object per distribution and database.")]


def register(app: typer.Typer) -> None:
    """Add the commands below `db`."""
    group = typer.Typer(help="Look at the databases and bring them up to date.", no_args_is_help=True)
    group.command()(status)
    group.command()(upgrade)
    app.add_typer(group, name="db")


def status(config: ConfigOption = None, json: JsonOption = False) -> None:
    """Compare the tables with this version of the program, changing nothing.

    Exits 0 when they fit, 1 when they are behind or of a newer version, 2 when that cannot be found out.
    """
    from postward.config import load
    from postward.store import status as look

    states = [state for url, schemas in databases(load(config)) for state in look(url, schemas)]
    _show(states, json=json)
    raise typer.Exit(1 if any(state.pending for state in states) else 0)


def upgrade(config: ConfigOption = None, json: JsonOption = False) -> None:
    """Bring the tables up to this version of the program; safe to run twice, and beside a running program.

    A database that cannot be brought up to date is left as it was. `postward run` does the same when it starts.
    """
    from postward.config import load
    from postward.store import status as look
    from postward.store import upgrade as bring_up

    all_of_them = databases(load(config))
    for url, schemas in all_of_them:
        bring_up(url, schemas)
    _show([state for url, schemas in all_of_them for state in look(url, schemas)], json=json)


def databases(config: Config) -> list[tuple[str, Mapping[str, Schema]]]:
    """The results database and the node's own, each with the tables of core and of enabled plugins. Raises `PostwardError`."""
    from postward import hookspecs
    from postward.app import NODE_SCHEMAS, App
    from postward.reports.tables import SCHEMA as REPORTS
    from postward.store.engine import sqlite_url
    from postward.store.tables import NODE, RESULTS

    app = App(config)
    with plugins_print_aside():
        app.plugins.load(config, app.core_for)
        brought = app.hooks.collect(hookspecs.register_schema)
    schemas = {"core": RESULTS, "reports": REPORTS}
    for outcome in brought:
        if outcome.error is not None:
            raise outcome.error
        if outcome.value is not None:
            schemas[outcome.plugin] = outcome.value
    return [(config.core.database, schemas), (sqlite_url(config.core.data_dir / "node.db"), {"node": NODE, **NODE_SCHEMAS})]


def _show(states: list[SchemaStatus], *, json: bool) -> None:
    if json:
        for state in states:
            emit_json_line(
                {
                    "name": state.name,
                    "database": state.database,
                    "current": state.current,
                    "available": state.available,
                    "state": _word(state),
                }
            )
        return
    rows = [(state.name, state.current, state.available, _word(state), state.database) for state in states]
    table(("TABLES OF", "VERSION", "AVAILABLE", "STATE", "DATABASE"), rows)


def _word(state: SchemaStatus) -> str:
    return "behind" if state.pending > 0 else "newer" if state.pending < 0 else "current"
