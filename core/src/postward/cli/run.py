"""`postward run`: assemble everything the configuration names, and keep it running until told to stop."""

from __future__ import annotations

import signal
from pathlib import Path
from typing import Annotated

import typer


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command()(run)


def run(
    config: Annotated[Path | None, typer.Option("--config", "-c", help="Configuration file.", show_default=False)] = None,
) -> None:
    """Run until SIGTERM or SIGINT: plugins, their background tasks, results and reports.

    The first signal ends it cleanly: what was counted is handed over, what was begun is finished within a bound.
    """
    import structlog
    import trio

    from postward.app import App
    from postward.config import load

    settings = load(config)
    log = structlog.get_logger("postward")

    async def work() -> None:
        with trio.open_signal_receiver(signal.SIGTERM, signal.SIGINT) as signals:
            async with App(settings, service=True) as app:
                log.info(
                    "running",
                    plugins=list(settings.plugins),
                    hostname=str(settings.core.hostname),
                    data=str(settings.core.data_dir),
                )
                async for number in signals:
                    log.info("stopping", signal=signal.Signals(number).name)
                    break
            del app
        log.info("stopped")

    trio.run(work)
