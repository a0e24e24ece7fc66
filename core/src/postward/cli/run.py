"""`postward run`: assemble everything the configuration names, and keep it running until told to stop."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from postward.config import Config


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command()(run)


def run(
    config: Annotated[Path | None, typer.Option("--config", "-c", help="Configuration file.", show_default=False)] = None,
    lab: Annotated[bool, typer.Option("--lab", help="Run in the lab's own internet, and send mail through it.")] = False,
    once: Annotated[bool, typer.Option("--once", help="With --lab: end when every message has gone its way.")] = False,
    json: Annotated[bool, typer.Option("--json", help="With --lab: a JSON object per message.")] = False,
) -> None:
    """Run until SIGTERM or SIGINT: take mail, deliver it, and send reports.

    Without a configuration file it starts all the same: for this machine alone, in ./postward-data, and says what it chose.
    The first signal ends it cleanly: what was begun is finished within a bound, and what is queued stays. SIGHUP reads
    certificates again.

    With --lab it needs neither: it brings an internet on loopback with good and broken mail hosts, sends a message to each
    through itself, and shows what became of every one.
    """
    if lab:
        from postward.cli.run_lab import run_lab

        if config is not None:
            raise typer.BadParameter("the lab has a configuration of its own", param_hint="--config")
        raise typer.Exit(run_lab(once=once, json=json))
    if once or json:
        raise typer.BadParameter("belongs to --lab", param_hint="--once" if once else "--json")
    import sys

    import structlog
    import trio

    from postward.service.run import run_service
    from postward.service.workers import command_of_this_program, place_of_this_process, supervise

    settings = _settings(config)
    place = place_of_this_process()
    if place is None and settings.delivery.workers > 1:
        trio.run(supervise, settings, command_of_this_program(sys.argv[1:]), structlog.get_logger("postward"))
    else:
        trio.run(run_service, settings, place)


def _settings(config: Path | None) -> Config:
    from postward.config import load
    from postward.config_file import exists

    if config is None and not exists():
        from postward.service.defaults import default_config

        settings, text = default_config()
        _say_what_was_chosen(text)
        return settings
    return load(config)


def _say_what_was_chosen(text: str) -> None:
    typer.echo(
        "There is no configuration file, so Postward runs for this machine alone, as this postward.toml would say:\n\n"
        + "".join(f"    {line}\n" for line in text.splitlines())
        + "\nTo change it, put that into ./postward.toml or /etc/postward/postward.toml and edit it.\n",
        err=True,
    )
