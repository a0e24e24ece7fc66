"""`postward run --lab`: the whole service in the loopback internet of the lab, and a message of every case going through it."""

from __future__ import annotations

import socket
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Final

import typer

if TYPE_CHECKING:
    from collections.abc import Sequence

    from rich.console import Console

    from postward.lab.relay import Life
    from postward.lab.world import World

_HOST: Final = "127.0.0.1"
_HEADINGS: Final = ("", "case", "what it is", "what became of it", "the last word")
_MARKS: Final = {"delivered over TLS": "green", "delivered in clear": "yellow", "deferred": "yellow", "refused": "magenta"}


def run_lab(*, once: bool, json: bool) -> int:
    """Run it; the exit code is 0 when every message came to what it must."""
    with tempfile.TemporaryDirectory(prefix="postward-lab-") as place:
        return _run(Path(place), once=once, json=json)


def _run(place: Path, *, once: bool, json: bool) -> int:
    import trio
    from rich.console import Console

    from postward.cli.lab import stopped, until_terminated
    from postward.config import load
    from postward.lab.cases import CASES
    from postward.lab.relay import send_all
    from postward.lab.show import TerminalWatcher
    from postward.lab.world import build
    from postward.service.run import running

    console = Console()

    async def work() -> int:
        lives: list[Life] = []
        async with trio.open_nursery() as nursery:
            await nursery.start(until_terminated, nursery.cancel_scope)
            world = build(place, CASES, listener=free_place())
            await nursery.start(world.serve)
            async with running(load(world.config_file)) as service:
                port = int(service.sockets[0].getsockname()[1])
                with TerminalWatcher(Console(stderr=True), len(CASES)) as watcher:
                    lives = await send_all(world, service.app.queue, port, watcher)
                show(console, lives, json=json)
                if not once:
                    if not json:
                        _show_how(console, world, port)
                    await stopped()
            nursery.cancel_scope.cancel()
        return 0 if lives and all(life.ok for life in lives) else 1

    return trio.run(work)


def free_place() -> str:
    """Where the relay takes mail: port 2525, or any other one while that is in use."""
    from postward.lab.world import LISTENER

    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((_HOST, int(LISTENER.rpartition(":")[2])))
        except OSError:
            return f"{_HOST}:0"
    return LISTENER


def show(console: Console, lives: Sequence[Life], *, json: bool) -> None:
    """Print a line for each message, and how many came to what they must."""
    from postward.cli.output import emit_json_line
    from postward.cli.tables import Cell
    from postward.cli.tables import show as show_table

    right = sum(life.ok for life in lives)
    if json:
        for life in lives:
            emit_json_line(_json(life))
        emit_json_line({"summary": {"messages": len(lives), "ok": right}})
        return
    rows: list[list[Cell]] = []
    for life in lives:
        became = life.fate if life.ok else f"{life.fate}, and not {life.expected}"
        words = f"{became}\nby {life.host}" if life.host else became
        mark: Cell = ("ok", "green") if life.ok else ("WRONG", "bold red")
        colour = _MARKS.get(life.fate, "bold red") if life.ok else "bold red"
        rows.append([mark, (life.case.name, ""), (life.case.why, ""), (words, colour), (life.said, "dim")])
    show_table("The life of a message", _HEADINGS, rows)
    style = "green" if right == len(lives) else "bold red"
    console.print(f"{right} of {len(lives)} messages came to what they must", style=style)


def _json(life: Life) -> dict[str, object]:
    return {
        "case": life.case.name,
        "id": life.cid,
        "expected": life.expected,
        "outcome": life.fate,
        "host": life.host,
        "said": life.said,
        "ok": life.ok,
    }


def _show_how(console: Console, world: World, port: int) -> None:
    case = next(case for case in world.cases if case.hosts)
    typer.echo(
        f"\nThe relay takes mail at {_HOST}:{port} until Ctrl-C; send some with any program, for instance\n\n"
        f"  swaks --server {_HOST}:{port} --from you@sender.test --to someone@{case.domain}\n\n"
        f"and look from another terminal:\n\n"
        f"  postward queue list --config {world.config_file}\n"
        f"  postward status --config {world.config_file}\n"
    )
