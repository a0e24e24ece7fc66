"""`postward reports`: what is in the outbox, what a report would say now, and sending those of a day at once."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Final

import typer

from postward.cli.output import emit_json_line, is_terminal, plugins_print_aside
from postward.errors import PostwardError

if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import TypeVar

    from sqlalchemy import Connection

    from postward.config import Config
    from postward.model import Report
    from postward.reports.preview import Preview
    from postward.reports.schedule import ReportRun
    from postward.reports.sender import SendRun
    from postward.reports.survey import Listed

    T = TypeVar("T")

PAGE: Final = 50
_PIECE: Final = 500

ConfigOption = Annotated[Path | None, typer.Option("--config", "-c", help="Configuration file.", show_default=False)]
JsonOption = Annotated[bool, typer.Option("--json", help="Print JSON instead.")]
DayOption = Annotated[str, typer.Option("--day", metavar="D", help="The UTC day it is about, YYYY-MM-DD.", show_default=False)]


def register(app: typer.Typer) -> None:
    """Add the group."""
    group = typer.Typer(no_args_is_help=True, help="Look at the reports that are sent, preview one, send those of a day.")
    group.command("list")(show_list)
    group.command("show")(show_one)
    group.command()(preview)
    group.command()(send)
    app.add_typer(group, name="reports")


def show_list(
    day: DayOption = "",
    domain: Annotated[str, typer.Option(metavar="D", help="Reports about a domain or host.", show_default=False)] = "",
    state: Annotated[
        str, typer.Option(metavar="S", help="With an address that is pending, queued, delivered, failed …", show_default=False)
    ] = "",
    limit: Annotated[int, typer.Option(min=0, metavar="N", help="Reports on a page; 0 is all.")] = PAGE,
    after: Annotated[str, typer.Option(metavar="CURSOR", help="Go on behind a page.", show_default=False)] = "",
    config: ConfigOption = None,
    json: JsonOption = False,
) -> None:
    """List the reports in the outbox, the newest first: they stay there for 14 days.

    With --json one object per report: id, kind, report_id, domain, submitter, day, created, size, targets (uri, state,
    attempts, next_try, detail); instants are seconds since 1970. Exits 1 when there are conditions and nothing meets them.
    """
    from functools import partial

    from postward.cli import reports_show
    from postward.cli.site import settings
    from postward.names import Domain
    from postward.reports.survey import Page, Wanted, listed

    wanted = Wanted(start=_start(day) if day else None, domain=str(Domain(domain)) if domain else "", state=_state(state))
    if after and not after.partition("-")[0].isdigit():
        raise PostwardError(f"not a cursor: {after[:60]!r}")
    configured, left, shown = settings(config), limit or sys.maxsize, 0
    while True:
        fetch_page = partial(listed, wanted=wanted, after=after, limit=min(left, _PIECE))
        page = _read(configured, fetch_page, Page())
        for report in page.reports if json else ():
            emit_json_line(reports_show.listed_json(report))
        if not json:
            reports_show.show_list(page.reports)
        left, shown, after = left - len(page.reports), shown + len(page.reports), page.next
        if not after or left <= 0:
            break
    if not shown and not json:
        typer.echo("No report matches." if wanted != Wanted() else "There are no reports yet.", err=not is_terminal())
    if after:
        typer.echo(f"More with: --after {after}", err=json or not is_terminal())
    raise typer.Exit(1 if wanted != Wanted() and not shown else 0)


def show_one(
    name: Annotated[str, typer.Argument(metavar="ID", help="The beginning of its id, or its report id.", show_default=False)],
    config: ConfigOption = None,
    json: JsonOption = False,
) -> None:
    """Show a report with what became of each of its addresses. Exits 1 when there is none.

    With --json the object of `list` with `content`: the report itself, an object where it is JSON.
    """
    from functools import partial

    from postward.cli import reports_show
    from postward.cli.site import settings
    from postward.reports.survey import find

    none: list[tuple[Listed, Report]] = []
    found = _read(settings(config), partial(find, name=name.strip()), none)
    if len(found) != 1:
        typer.echo(f"{'several reports go' if found else 'no report goes'} by {name}", err=True)
        raise typer.Exit(1)
    ((listed, report),) = found
    if json:
        emit_json_line({**reports_show.listed_json(listed), "content": reports_show.content_json(report)})
    else:
        reports_show.show_one(listed, report)


def preview(
    domain: Annotated[str, typer.Argument(metavar="DOMAIN", help="A recipient domain or an MX host.", show_default=False)],
    config: ConfigOption = None,
    json: JsonOption = False,
) -> None:
    """Show what would be reported about a domain now, and to whom; nothing is sent, and nothing is taken.

    With --json one object per report: job, day, domain, targets, trouble, content. Exits 1 when there is nothing to report.
    """
    from postward.cli import reports_show
    from postward.names import Domain

    found = _preview(config, Domain(domain))
    for each in found:
        if json:
            emit_json_line(reports_show.preview_json(each))
        else:
            reports_show.show_preview(each)
    if not found:
        typer.echo(f"There is nothing to report about {domain}.", err=True)
    raise typer.Exit(0 if found else 1)


def send(
    day: DayOption,
    config: ConfigOption = None,
    json: JsonOption = False,
) -> None:
    """Build the reports of a day that is over, and send what is due, without waiting for the hours they are spread over.

    A service that is running does the sending; otherwise it is done here. With --json one object: day, built, nobody, later,
    failed, waiting, left_to_service, sent (delivered, failed, suppressed, later; null where the service does it). Exits 1 when
    something is left or failed.
    """
    import trio

    from postward.app import App
    from postward.cli import reports_show
    from postward.cli.progress import Bars
    from postward.cli.site import act_as_owner, settings
    from postward.clock import SystemClock, today
    from postward.queue.poke import NAME, Life, ask, poke
    from postward.reports.survey import due

    _start(day)
    if day >= today(SystemClock()):
        raise PostwardError(f"{day} is not over in UTC; `postward reports preview` shows what would be reported")
    configured = settings(config)
    act_as_owner(configured.core.data_dir)
    socket = configured.core.data_dir / NAME
    serviced = ask(socket).life in (Life.RUNNING, Life.SILENT)

    async def work() -> tuple[ReportRun, SendRun | None]:
        async with App(configured) as app:
            with Bars(shown=is_terminal() and not json) as bars:
                run = await app.build_reports(day=day, watcher=bars)
                if serviced:
                    return run, None
                number = await app.store.results.read(lambda connection: due(connection, app.clock.now()))
                return run, await app.sender.send_due(bars.sending(number))

    with plugins_print_aside():
        run, sent = trio.run(work)
    if serviced:
        poke(socket)
    if json:
        emit_json_line(reports_show.sent_json(day, run, sent))
    else:
        reports_show.show_sent(day, run, sent)
    left = run.later + run.failed + run.waiting + (sent.failed + sent.later if sent else 0)
    raise typer.Exit(1 if left else 0)


def _preview(config: Path | None, domain: str) -> list[Preview]:
    import trio

    from postward.app import App
    from postward.cli.site import act_as_owner, settings
    from postward.names import Domain
    from postward.reports.preview import preview

    configured = settings(config)
    act_as_owner(configured.core.data_dir)

    async def work() -> list[Preview]:
        async with App(configured) as app:
            await app.emitted(10)
            return await preview([job for _, job in app.report_jobs()], app.store, app.clock, Domain(domain))

    with plugins_print_aside():
        return trio.run(work)


def _read(config: Config, fn: Callable[[Connection], T], empty: T) -> T:
    """Read the outbox; `empty` where there is none yet. Raises `StoreError`."""
    from postward.cli.site import act_as_owner
    from postward.reports.tables import SCHEMA
    from postward.store import StoreError, status
    from postward.store.engine import sqlite_path
    from postward.store.standing import read_once

    act_as_owner(config.core.data_dir)
    path = sqlite_path(config.core.database)
    if path is not None and not path.exists():
        return empty
    (state,) = status(config.core.database, {"reports": SCHEMA})
    if not state.current:
        return empty
    if state.pending:
        raise StoreError(f"database {state.database}: the tables of reports are of another version; see `postward db status`")
    return read_once(config.core.database, fn)


def _start(day: str) -> int:
    """The beginning of a UTC day. Raises `PostwardError`."""
    from postward.model import Window

    try:
        return Window.of_day(day).start
    except ValueError:
        raise PostwardError(f"not a day: {day[:40]!r}; write it as 2026-11-24") from None


def _state(state: str) -> str:
    from postward.reports.rows import State

    if state and state not in list(State):
        raise PostwardError(f"no state {state[:40]!r}; there are {', '.join(State)}")
    return state
