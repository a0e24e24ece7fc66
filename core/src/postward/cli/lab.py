"""`postward lab`: an internet on loopback to watch, to test and to try plugins in. It needs no root and no network."""

from __future__ import annotations

import tempfile
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Final

import typer

if TYPE_CHECKING:
    from trio import CancelScope, TaskStatus

    from postward.lab.case import Case
    from postward.lab.run import LabRun

TERMINATED: Final = 143


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command()(lab)


def lab(
    once: Annotated[bool, typer.Option("--once", help="End after the run instead of staying up.")] = False,
    json: Annotated[bool, typer.Option("--json", help="Print a JSON object per case and one with the summary.")] = False,
    without: Annotated[
        list[str] | None, typer.Option("--without", metavar="PLUGIN", help="Unplug a plugin.", show_default=False)
    ] = None,
    directory: Annotated[
        Path | None, typer.Option("--dir", help="Where to put configuration, keys and data, to be kept.", show_default=False)
    ] = None,
    case: Annotated[
        list[str] | None, typer.Option("--case", metavar="NAME", help="Only this case.", show_default=False)
    ] = None,
) -> None:
    """Start an internet on loopback, send mail through it, and check what comes of it.

    Mail hosts of every kind, policies, DNSSEC and TLS reports are real; only the addresses are local. Exits 0 when every case
    came out as it must and every report came back true, 1 when not, 2 when the lab could not be built.
    """
    cases = _chosen(case or [])
    unplugged = _unplugged(without or [])
    with ExitStack() as stack:
        place = directory or Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="postward-lab-")))
        raise typer.Exit(_run(place.absolute(), cases, unplugged, once=once, json=json))


def _chosen(names: list[str]) -> list[Case]:
    from postward.errors import ConfigError
    from postward.lab.case import named
    from postward.lab.cases import CASES

    try:
        return named(CASES, names)
    except KeyError as exc:
        name = str(exc.args[0])
        raise ConfigError(f"there is no case {name!r} in the lab", hint=_nearest(name, [case.name for case in CASES])) from None


def _unplugged(names: list[str]) -> frozenset[str]:
    from postward.errors import ConfigError
    from postward.lab.world import PLUGINS

    for name in names:
        if name not in PLUGINS:
            raise ConfigError(f"the lab does not use a plugin {name!r}", hint=_nearest(name, PLUGINS))
    return frozenset(names)


def _nearest(name: str, known: list[str] | tuple[str, ...]) -> str:
    from difflib import get_close_matches

    return next(iter(get_close_matches(name, known, 1, 0.5)), "")


def _run(place: Path, cases: list[Case], without: frozenset[str], *, once: bool, json: bool) -> int:
    import trio
    from rich.console import Console

    from postward.cli.output import emit_json_line
    from postward.lab.run import run
    from postward.lab.show import JsonWatcher, TerminalWatcher, show_address, show_run, summary_json
    from postward.lab.world import build

    _prepare(place)
    console = Console()

    async def work() -> int:
        done: LabRun | None = None
        async with trio.open_nursery() as nursery:
            await nursery.start(until_terminated, nursery.cancel_scope)
            world = build(place, cases, without=without)
            await nursery.start(world.serve)
            if json:
                done = await run(world, JsonWatcher())
                emit_json_line(summary_json(done))
            else:
                with TerminalWatcher(Console(stderr=True), len(cases)) as watcher:
                    done = await run(world, watcher)
                show_run(console, world, done)
            if not once:
                if not json:
                    show_address(console, world)
                await stopped()
            nursery.cancel_scope.cancel()
        # Without a run it was stopped, by what `until_terminated` waits for.
        return TERMINATED if done is None else 0 if done.ok else 1

    return trio.run(work)


async def until_terminated(scope: CancelScope, *, task_status: TaskStatus[None]) -> None:
    """End it so that what it has made in the file system is removed."""
    import signal

    import trio

    with trio.open_signal_receiver(signal.SIGTERM) as signals:
        task_status.started()
        async for _ in signals:
            scope.cancel()
            return


async def stopped() -> None:
    """Wait for SIGINT or SIGTERM."""
    import signal

    import trio

    with trio.open_signal_receiver(signal.SIGINT, signal.SIGTERM) as signals:
        async for _ in signals:
            return


def _prepare(place: Path) -> None:
    """An empty directory to work in; what an earlier lab left there is nobody's mail, but it is not ours to delete."""
    from postward.errors import PostwardError

    try:
        place.mkdir(mode=0o700, parents=True, exist_ok=True)
        left = next(place.iterdir(), None)
    except OSError as exc:
        raise PostwardError(f"{place}: {exc.strerror or exc}") from exc
    if left is not None:
        raise PostwardError(f"{place}: not empty; the lab wants a directory of its own")
