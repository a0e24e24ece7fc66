"""How the queue looks: tables for a person on a terminal, plain columns in a pipe, objects for programs."""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Final

import typer

from postward.cli.measures import ahead, count, local_time, octets, seconds, shortened, span
from postward.cli.output import is_terminal, table
from postward.log import escape
from postward.queue.survey import Conditions, Entries, Entry

if TYPE_CHECKING:
    from rich.text import Text

    from postward.queue import RecipientState, Shown

SHOWN: Final = 3
WIDE: Final = 110
_REPLY: Final = 80
_STYLES: Final = {"held": "bold yellow", "deferred": "yellow", "new": "", "damaged": "bold red"}


def show_list(found: Entries | None, conditions: Conditions) -> None:
    """Print a page, with what there is in total and how to go on; None is a queue that does not exist yet."""
    now = time.time_ns() // 1000
    if found is None or not found.page:
        typer.echo("Nothing in the queue matches." if conditions else "The queue is empty.", err=not is_terminal())
        return
    if is_terminal():
        _rich_list(found.page, conditions, now)
        typer.echo(_summary(found, conditions))
    else:
        columns = ("ID", "AGE", "SIZE", "SENDER", "RECIPIENTS", "STATE", "NEXT TRY", "LAST REPLY")
        table(columns, [_plain_row(entry, conditions, now) for entry in found.page])
    if found.next:
        tell_next(found.next)


def tell_next(cursor: str) -> None:
    """Say that there is more, where it disturbs no program that reads the list."""
    typer.echo(f"More with: --after {cursor}", err=not is_terminal())


def show_one(shown: Shown, entry: Entry, *, header: bool) -> None:
    """Print everything about a message."""
    now = entry.received + shown.age
    flags = [] if shown.message is None else _flags(shown)
    lines = [
        ("id", entry.cid or "-"),
        ("from", _sender(entry)),
        ("received", f"{local_time(entry.received)} ({span(shown.age)} ago)"),
        ("size", f"{octets(entry.size)} ({entry.size:,} octets)"),
        ("TLS", entry.wish),
        *([("also", ", ".join(flags))] if flags else []),
        *([("damaged", shown.problem or entry.problem)] if shown.problem or entry.problem else []),
    ]
    for name, text in lines:
        typer.echo(f"{name + ':':<10}{escape(text)}")
    if entry.recipients:
        typer.echo("")
        _show_recipients(entry.recipients, now)
    if header:
        typer.echo("")
        for line in shown.header.decode("utf-8", "backslashreplace").split("\r\n"):
            typer.echo(_visible(line))


def _visible(line: str) -> str:
    """A line of a header; tabs fold it and mean no harm."""
    return "\t".join(escape(part) for part in line.split("\t"))


def entry_json(entry: Entry) -> dict[str, Any]:
    """A message as `list --json` has it."""
    return {
        "id": entry.cid,
        "sender": entry.sender,
        "received": seconds(entry.received),
        "size": entry.size,
        "wish": entry.wish,
        "recipients": [
            {
                "address": str(each.recipient.address),
                "state": state_of(each),
                "attempts": each.recipient.attempts,
                "next_try": None if each.held else seconds(each.next_try),
                "last_try": seconds(each.recipient.last_try),
                "reply": each.recipient.last_reply,
                "host": each.recipient.host,
            }
            for each in entry.recipients
        ],
        "problem": entry.problem,
    }


def shown_json(shown: Shown, entry: Entry, *, header: bool) -> dict[str, Any]:
    """A message as `show --json` has it: what `list` says, and more."""
    message = shown.message
    more: dict[str, Any] = {
        "smtputf8": message is not None and message.smtputf8,
        "report": message is not None and message.is_report,
        "bounce": message is not None and message.is_bounce,
        "ret": "" if message is None else message.ret,
        "envid": "" if message is None else message.envid,
    }
    if header:
        more["header"] = shown.header.decode("utf-8", "backslashreplace")
    return {**entry_json(entry), **more, "problem": shown.problem or entry.problem}


def state_of(recipient: RecipientState) -> str:
    """The state of a recipient in one word: `new`, `deferred` or `held`."""
    return "held" if recipient.held else "deferred" if recipient.recipient.attempts else "new"


def _flags(shown: Shown) -> list[str]:
    message = shown.message
    assert message is not None
    named = (
        (message.is_report, "report"),
        (message.is_bounce, "delivery status notification"),
        (message.smtputf8, "SMTPUTF8"),
        (bool(message.ret), f"RET={message.ret}"),
        (bool(message.envid), f"ENVID={message.envid}"),
    )
    return [name for holds, name in named if holds]


def _show_recipients(recipients: Sequence[RecipientState], now: int) -> None:
    rows = [
        (
            str(each.recipient.address),
            _state(each),
            "-" if each.held else ahead(each.next_try, now),
            f"{span(now - each.recipient.last_try)} ago" if each.recipient.last_try else "-",
            ": ".join(part for part in (each.recipient.host, each.recipient.last_reply) if part) or "-",
        )
        for each in recipients
    ]
    table(("RECIPIENT", "STATE", "NEXT TRY", "LAST TRY", "LAST REPLY"), rows)


def _state(each: RecipientState) -> str:
    state, attempts = state_of(each), each.recipient.attempts
    return f"{state} ({count(attempts, 'try', 'tries')})" if attempts else state


def _sender(entry: Entry) -> str:
    return entry.sender or ("" if entry.problem and not entry.cid else "<>")


def _chosen(entry: Entry, conditions: Conditions) -> list[RecipientState]:
    """The recipients that were asked for, or all."""
    found = [
        each
        for each in entry.recipients
        if (conditions.domain is None or each.recipient.address.domain == conditions.domain)
        and (conditions.recipient is None or each.recipient.address == conditions.recipient)
        and (each.held or not conditions.held)
    ]
    return found or list(entry.recipients)


def _states(recipients: Sequence[RecipientState], entry: Entry) -> str:
    if entry.problem:
        return "damaged"
    states = [state_of(each) for each in recipients]
    kinds = [kind for kind in ("new", "deferred", "held") if kind in states]
    return ", ".join(kinds if len(kinds) < 2 else (f"{states.count(kind)} {kind}" for kind in kinds))


def _next(recipients: Sequence[RecipientState], now: int) -> str:
    return ahead(min(tries), now) if (tries := [each.next_try for each in recipients if not each.held]) else "-"


def _reply(recipients: Sequence[RecipientState], entry: Entry) -> str:
    """What was said last, or why the message cannot be read."""
    last = max((each.recipient for each in recipients if each.recipient.last_reply), key=lambda one: one.last_try, default=None)
    return shortened(entry.problem or (last.last_reply if last else ""), _REPLY)


def _plain_row(entry: Entry, conditions: Conditions, now: int) -> tuple[str, ...]:
    chosen = _chosen(entry, conditions)
    addresses = [str(each.recipient.address) for each in chosen[:SHOWN]]
    more = [f"+{len(chosen) - SHOWN}"] if len(chosen) > SHOWN else []
    return (
        entry.cid or "-",
        span(now - entry.received) if entry.received else "-",
        octets(entry.size),
        _sender(entry) or "-",
        ",".join([*addresses, *more]) or "-",
        _states(chosen, entry),
        _next(chosen, now),
        _reply(chosen, entry) or "-",
    )


def _rich_list(entries: Sequence[Entry], conditions: Conditions, now: int) -> None:
    from rich.box import SIMPLE_HEAD
    from rich.console import Console
    from rich.table import Table

    console = Console()
    wide = console.width >= WIDE
    shown = Table(box=SIMPLE_HEAD, header_style="bold", pad_edge=False, show_edge=False)
    shown.add_column("ID", no_wrap=True)
    shown.add_column("AGE", justify="right", no_wrap=True)
    shown.add_column("SIZE", justify="right", no_wrap=True)
    shown.add_column("FROM → TO" if wide else "FROM → TO, LAST REPLY", overflow="fold", ratio=1)
    shown.add_column("STATE", no_wrap=True)
    if wide:
        shown.add_column("LAST REPLY", overflow="fold", ratio=1)
    for entry in entries:
        chosen = _chosen(entry, conditions)
        reply = _text(_reply(chosen, entry), "dim")
        mail = _mail(chosen, entry)
        if not wide and reply:
            mail = mail.append("\n").append(reply)
        cells = [
            _text(entry.cid or "-"),
            _text(span(now - entry.received) if entry.received else "-"),
            _text(octets(entry.size)),
            mail,
            _state_cell(chosen, entry, now),
        ]
        shown.add_row(*cells, *([reply] if wide else []))
    console.print(shown)


def _mail(chosen: Sequence[RecipientState], entry: Entry) -> Text:
    lines = [_sender(entry), *(f"→ {each.recipient.address}" for each in chosen[:SHOWN])]
    if len(chosen) > SHOWN:
        lines.append(f"→ and {len(chosen) - SHOWN:,} more")
    return _text("\n".join(escape(line) for line in lines if line))


def _state_cell(chosen: Sequence[RecipientState], entry: Entry, now: int) -> Text:
    states = _states(chosen, entry)
    style = next((_STYLES[word] for word in _STYLES if word in states), "")
    text = _text(states.replace(", ", "\n"), style)
    following = _next(chosen, now)
    return text if following == "-" else text.append(f"\n{following}", "")


def _text(text: str, style: str = "") -> Text:
    from rich.text import Text

    return Text("\n".join(escape(line) for line in text.split("\n")), style)


def _summary(found: Entries, conditions: Conditions) -> str:
    held = f", {found.held:,} of them held" if found.held else ""
    shown = f"; {len(found.page):,} shown" if len(found.page) < found.messages else ""
    total = f"{count(found.messages, 'message')} to {count(found.recipients, 'recipient')}{held}{shown}"
    return f"\n{total}{' (all that match)' if conditions and not shown else ''}."
