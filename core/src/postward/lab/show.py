"""How the lab looks: a line per case while it runs, and what the reports said; or JSON Lines for scripts."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from rich.console import Console, Group
from rich.progress import BarColumn, MofNCompleteColumn, Progress, SpinnerColumn, TextColumn
from rich.table import Table
from rich.text import Text

from postward.cli.output import emit_json_line, table
from postward.delivery.shape import attempt_json
from postward.lab.run import CaseResult, LabRun, Watcher

if TYPE_CHECKING:
    from postward.lab.world import World

_HEADINGS: Final = ("", "case", "what it is", "what came of it")


def case_json(result: CaseResult) -> dict[str, Any]:
    """The line of one case."""
    return {
        "case": result.case.name,
        "expected": result.expected,
        "outcome": result.outcome,
        "ok": result.ok,
        "attempts": [attempt_json(attempt) for attempt in result.delivery.attempts],
    }


def summary_json(done: LabRun) -> dict[str, Any]:
    """The last line."""
    return {
        "summary": {
            "cases": len(done.results),
            "ok": done.right,
            "reports_sent": done.sent,
            "reports_received": done.received,
            "problems": done.problems,
        }
    }


class JsonWatcher(Watcher):
    """Prints a line per case."""

    def case_done(self, result: CaseResult) -> None:
        emit_json_line(case_json(result))


class TerminalWatcher(Watcher):
    """Shows progress on a terminal; use it as a context manager. Elsewhere it keeps quiet until the end."""

    def __init__(self, console: Console, total: int) -> None:
        columns = SpinnerColumn(), TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn()
        self._progress = Progress(*columns, console=console, transient=True, disable=not console.is_terminal)
        self._task = self._progress.add_task("building the internet", total=total)

    def __enter__(self) -> TerminalWatcher:
        self._progress.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._progress.stop()

    def case_done(self, result: CaseResult) -> None:
        self._progress.advance(self._task)

    def stage(self, text: str) -> None:
        self._progress.update(self._task, description=text)


def show_run(console: Console, world: World, done: LabRun) -> None:
    """Print what the run came to: a table of cases, then the reports."""
    if console.is_terminal:
        console.print(_cases(done))
    else:
        rows = [(_word(result), result.case.name, result.case.why, _came(result).plain) for result in done.results]
        table(_HEADINGS, [[cell.replace("\n", " | ") for cell in row] for row in rows])
    console.print(_reports(world, done), soft_wrap=True)


def _cases(done: LabRun) -> Table:
    shown = Table(title="The lab", title_justify="left", header_style="bold")
    for heading in _HEADINGS:
        shown.add_column(heading, overflow="fold")
    for result in done.results:
        mark = Text("✓", "green") if result.ok else Text("✗", "bold red")
        shown.add_row(mark, result.case.name, result.case.why, _came(result))
    return shown


def _word(result: CaseResult) -> str:
    return "ok" if result.ok else "WRONG"


def _came(result: CaseResult) -> Text:
    fate, *hosts = result.outcome.split("; ")
    colour = "green" if fate == "delivered over TLS" else "yellow"
    said = Text(fate, colour if result.ok else "bold red")
    for host in hosts:
        said.append(f"\n{host}", "dim" if result.ok else "")
    if not result.ok:
        said.append(f"\nexpected: {result.expected}", "bold red")
    return said


def _reports(world: World, done: LabRun) -> Group:
    good = done.right == len(done.results)
    lines = [Text(f"{done.right} of {len(done.results)} cases came out as they must", "green" if good else "bold red")]
    if "tlsrpt" in world.without:
        lines.append(Text("no TLS reports without the plugin tlsrpt", "yellow"))
    else:
        ways = ", ".join(f"{sum(each.by == way for each in done.receipts)} by {way}" for way in ("mail", "https"))
        told = f"{done.sent} TLS reports sent, {done.received} received and found true ({ways})"
        lines.append(Text(told, "bold red" if done.problems else "green"))
    lines += [Text(problem, "bold red") for problem in done.problems]
    lines += [Text(f"plugin {name} is not installed, so the lab did without", "yellow") for name in world.missing]
    return Group(*lines)


def show_address(console: Console, world: World) -> None:
    """Say how to use a lab that stays up."""
    config = world.config_file
    console.print(f"\nThe internet stays up until Ctrl-C. Its name server is {world.nameserver}.")
    case = next((case for case in world.cases if case.hosts), None)
    if case is not None:
        console.print("Send to it, or look at it, from another terminal:\n")
        to = f"--from me@sender.test --to you@{case.domain}"
        console.print(f"  postward deliver --config {config} {to} message.eml", soft_wrap=True)
        console.print(f"  postward probe --config {config} {case.domain}", soft_wrap=True)
