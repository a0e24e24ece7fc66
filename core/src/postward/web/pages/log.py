"""The log of one id: what happened to a message, a connection or a report, as `postward logs --cid` shows it.

Only by an id: to read all that is kept would cost seconds each time, and the command can do it.
"""

from __future__ import annotations

import json
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Final

import trio

from postward.log_read import Line, Wanted, find
from postward.web.page import Ask, Block, Mark, Note, Page, Table, Tone, view
from postward.web.params import LIMIT, BadQuery, choice, text

if TYPE_CHECKING:
    from postward.app import App
    from postward.model import WebRoute

_APART: Final = ("timestamp", "level", "event")
_TONES: Final = {"warning": Tone.WARNING, "error": Tone.BAD, "critical": Tone.BAD}
_CID: Final = text("cid", "Id", longest=64, help="Of a message, a connection, a report or a failed page.")
_LEVEL: Final = choice("level", "From level", "info", "warning", "error")
_AT_ONCE: Final = trio.CapacityLimiter(1)


@dataclass(frozen=True, slots=True, kw_only=True)
class LogLine:
    """A line: `at` is RFC 3339 in UTC, `fields` all else that it holds, as JSON."""

    at: str
    level: str
    event: str
    fields: str


@dataclass(frozen=True, slots=True, kw_only=True)
class LogOf:
    """The last lines that belong to an id, in the order of time."""

    cid: str
    lines: list[LogLine]


def routes(app: App) -> Sequence[WebRoute]:
    """The page."""
    return [view("/log", partial(show, app), LogOf, title="Log of an id", params=(_CID, _LEVEL, LIMIT))]


async def show(app: App, ask: Ask) -> Page:
    """Read the files of the log, in a thread of their own."""
    cid = ask.text("cid")
    if cid and not (cid.isascii() and cid.isalnum()):
        raise BadQuery("cid should be letters and digits, such as 4f9a01c2d3e4")
    wanted = Wanted(cid=cid, level=ask.text("level") or "debug")
    lines: list[Line] = []
    if cid:
        work = partial(_read, app, wanted, ask.number("limit"))
        lines = work() if app.store.results.inline else await trio.to_thread.run_sync(work, limiter=_AT_ONCE)
    data = LogOf(cid=cid, lines=[LogLine(at=one.at, level=one.level, event=one.event, fields=_fields(one)) for one in lines])
    blocks: list[Block] = []
    if not app.config.log.keep_bytes:
        blocks.append(Note(text="No log is kept here: log.keep_bytes is 0.", tone=Tone.WARNING))
    if cid:
        blocks.append(
            Table(
                title=f"Lines of {cid}",
                columns=["When, UTC", "Level", "What", "More"],
                rows=[
                    (one.at[:23], Mark(one.level, _TONES.get(one.level, Tone.PLAIN)), one.event, one.fields)
                    for one in data.lines
                ],
                empty="Nothing of this id is in the files that are kept.",
            )
        )
    intro = "Ids stand in the queue, in reports, in Received fields, and in what clients were answered."
    return Page(title="Log of an id", intro=intro, data=data, blocks=blocks)


def _read(app: App, wanted: Wanted, limit: int) -> list[Line]:
    return list(deque(find(app.config.core.data_dir, wanted), maxlen=limit))


def _fields(line: Line) -> str:
    fields = {name: value for name, value in line.fields.items() if name not in _APART and value not in (None, "")}
    told = {name: value if isinstance(value, str) else json.dumps(value, default=str) for name, value in fields.items()}
    return ", ".join(f"{name}: {value}" for name, value in told.items())
