"""`postward status`: how the service, its queue and its data do, for a person or a monitor. It only looks."""

from __future__ import annotations

import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Final

import typer

from postward.cli.measures import ahead, count, local_time, octets, seconds, shortened, span
from postward.cli.output import emit_json_line, is_terminal, table
from postward.log import escape

if TYPE_CHECKING:
    from postward.cli.status_look import Found
    from postward.config import Config
    from postward.dns import Health

ConfigOption = Annotated[Path | None, typer.Option("--config", "-c", help="Configuration file.", show_default=False)]
JsonOption = Annotated[bool, typer.Option("--json", help="Print one JSON object instead.")]
_LABEL: Final = 12
_REPLY: Final = 70


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command()(status)


def status(config: ConfigOption = None, json: JsonOption = False) -> None:
    """Say how the service does, what is in its queue, and what needs attention. Creates and changes nothing.

    Exits 1 when something needs attention: held or expired mail, mail that waits without a service, tables that are behind,
    no room on the disk, a plugin that is more than a day behind, a key that cannot be used.
    """
    from postward.cli.site import settings
    from postward.cli.status_look import look

    configured = settings(config)
    found = look(configured, time.time_ns() // 1000)
    if json:
        emit_json_line(status_json(configured, found))
    else:
        _show(configured, found)
    raise typer.Exit(1 if found.attention else 0)


def status_json(config: Config, found: Found) -> dict[str, Any]:
    """What `status --json` prints. Instants are seconds since 1970, null where there is none."""
    queue = found.queue
    return {
        "service": {
            "state": found.service.life.value,
            "process": found.service.process or None,
            "since": seconds(found.service.since),
        },
        "hostname": str(config.core.hostname),
        "config": None if config.file is None else str(config.file),
        "data_dir": str(config.core.data_dir),
        "queue": {
            "messages": queue.messages,
            "bytes": queue.bytes,
            "oldest": seconds(queue.oldest),
            "expired": queue.expired,
            "recipients": {"new": queue.fresh, "deferred": queue.deferred, "held": queue.held, "due": queue.due},
            "destinations": [
                {
                    "domain": one.domain,
                    "recipients": one.recipients,
                    "held": one.held,
                    "next_due": seconds(one.next_due),
                    "reply": one.last_reply,
                    "host": one.last_host,
                }
                for one in queue.top
            ],
        },
        "journal": [
            {
                "plugin": one.consumer,
                "position": one.position,
                "end": one.end,
                "behind": one.results,
                "oldest_day": one.oldest_day,
                "seen": seconds(one.seen),
            }
            for one in found.standings
        ],
        "reports": found.reports,
        "tables": [
            {"name": one.name, "database": one.database, "current": one.current, "available": one.available}
            for one in found.tables
        ],
        "absent": list(found.absent),
        "disk": {"free": found.free, "room": found.room},
        "dkim": found.keys,
        "listeners": found.listeners,
        "resolver": None if found.resolver is None else _resolver_json(found.resolver),
        "attention": [{"what": one.what, "mend": one.mend} for one in found.attention],
    }


def _show(config: Config, found: Found) -> None:
    queue = found.queue
    _line("service", _service(found), good=found.service.process > 0)
    _line("node", f"{config.core.hostname}, data in {config.core.data_dir}, {config.file or 'no configuration file'}")
    _line("listening", ", ".join(_listener(one) for one in found.listeners) or "nowhere: no [[listen]] is configured")
    _line("queue", _queue(found))
    if found.standings:
        behind = (f"{one.consumer} {f'{one.results:,} behind' if one.results else 'up to date'}" for one in found.standings)
        _line("journal", ", ".join(behind))
    if found.reports:
        _line("reports", ", ".join(f"{number:,} {state}" for state, number in found.reports.items()))
    _line("tables", _tables(found))
    if found.free is not None:
        _line("disk", f"{octets(found.free)} free" + ("" if found.room else ", which is no room for mail"))
    _line("DKIM", ", ".join(_key(one) for one in found.keys) or "no keys: mail is not signed, and reports are not sent")
    if found.resolver is not None:
        _line("resolver", _resolver(found, found.resolver))
    if queue.top:
        typer.echo("")
        _show_destinations(found)
    if not found.attention:
        typer.echo("\nNothing needs attention.")
        return
    typer.echo("")
    for one in found.attention:
        _styled("! ", "bold red", f"{one.what}: {one.mend}")


def _service(found: Found) -> str:
    answer = found.service
    if answer.process:
        return f"running as process {answer.process} since {local_time(answer.since)} ({span(found.now - answer.since)})"
    said = {
        "silent": "holds its socket, but does not answer",
        "not running": "nobody answers, so it is not running",
        "unknown": "this user may not ask",
    }[answer.life.value]
    latest = max((one.seen for one in found.standings), default=0)
    return f"{said}; last sign of life {span(found.now - latest)} ago" if latest else said


def _queue(found: Found) -> str:
    queue = found.queue
    if not queue.messages:
        return "empty"
    states = ((queue.fresh, "new"), (queue.deferred, "deferred"), (queue.held, "held"))
    said = ", ".join(f"{number:,} {name}" for number, name in states if number)
    oldest = f", the oldest {span(found.now - queue.oldest)} old" if queue.oldest else ""
    due = f"; {queue.due:,} due now" if queue.due else ""
    messages = f"{count(queue.messages, 'message')} ({octets(queue.bytes)}){oldest}"
    return f"{messages}; {count(queue.recipients, 'recipient')}: {said}{due}"


def _tables(found: Found) -> str:
    wrong = [one for one in found.tables if one.pending]
    said = (
        ["up to date" if not wrong else f"{', '.join(one.name for one in wrong)} not of this version"] if found.tables else []
    )
    return "; ".join([*said, *(f"{path} does not exist yet" for path in found.absent)]) or "cannot be looked at"


def _listener(one: dict[str, Any]) -> str:
    extras = [
        word for word in ("" if one["tls"] == "none" else f"TLS {one['tls']}", "logins" if one["users_file"] else "") if word
    ]
    return f"{one['kind']} {one['bind']}" + (f" ({', '.join(extras)})" if extras else "")


def _key(one: dict[str, Any]) -> str:
    return f"{one['selector']} of {one['domain']} ({one['algorithm'] or 'cannot be used'})"


def _resolver_json(health: Health) -> dict[str, Any]:
    return {
        "validating": health.validating,
        "since": seconds(health.since),
        "tested": seconds(health.tested),
        "problems": list(health.problems),
        "outcomes": health.outcomes,
    }


def _resolver(found: Found, health: Health) -> str:
    word = {True: "validates", False: "does not validate", None: "may or may not validate"}[health.validating]
    sums: dict[str, int] = {}
    for counts in health.outcomes.values():
        for outcome, number in counts.items():
            sums[outcome] = sums.get(outcome, 0) + number
    told = ", ".join(f"{number:,} {outcome}" for outcome, number in sorted(sums.items(), key=lambda each: -each[1]))
    lookups = f"; lookups: {told}" if told else ""
    return f"{word}, asked {span(found.now - health.tested)} ago{lookups}"


def _show_destinations(found: Found) -> None:
    rows = [
        (
            one.domain,
            one.recipients,
            one.held or "-",
            "-" if one.next_due is None else ahead(one.next_due, found.now),
            shortened(": ".join(part for part in (one.last_host, one.last_reply) if part), _REPLY) or "-",
        )
        for one in found.queue.top
    ]
    table(("DESTINATION", "RECIPIENTS", "HELD", "NEXT DUE", "LAST REPLY"), rows)


def _line(name: str, text: str, *, good: bool = False) -> None:
    _styled(f"{name + ':':<{_LABEL}}", "bold green" if good else "bold", text)


def _styled(mark: str, style: str, text: str) -> None:
    if not is_terminal():
        typer.echo(f"{mark}{escape(text)}")
        return
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    grid = Table.grid(padding=0)
    grid.add_column(no_wrap=True, width=max(len(mark), 2))
    grid.add_column(overflow="fold")
    grid.add_row(Text(mark, style), Text(escape(text)))
    Console().print(grid)
