"""`postward logs`: what the service has logged, of all its processes in order; with `--cid`, the way of one message."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Final

import typer

from postward.errors import PostwardError

if TYPE_CHECKING:
    from collections.abc import Iterable

    from postward.log_read import Line, Wanted

LINES: Final = 200
_POLL: Final = 0.5
_SPANS: Final = {"s": 1, "m": 60, "min": 60, "h": 3600, "d": 86400}
_STYLES: Final = {"debug": "dim", "info": "", "warning": "yellow", "error": "bold red", "critical": "bold red"}
_APART: Final = ("timestamp", "level", "event")


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command()(logs)


def logs(
    cid: Annotated[
        str, typer.Option(metavar="ID", help="What belongs to a message, connection or report.", show_default=False)
    ] = "",
    since: Annotated[
        str, typer.Option(metavar="T", help="From a time on: 30m, 6h, 2d ago, or 2026-11-26T07:00.", show_default=False)
    ] = "",
    level: Annotated[str, typer.Option(metavar="L", help="From this level upwards.")] = "debug",
    event: Annotated[str, typer.Option(metavar="E", help="Events that begin like this.", show_default=False)] = "",
    lines: Annotated[int, typer.Option("--lines", "-n", min=0, metavar="N", help="The last so many; 0 is all.")] = LINES,
    follow: Annotated[bool, typer.Option("--follow", "-f", help="Go on with what is logged from now on.")] = False,
    config: Annotated[Path | None, typer.Option("--config", "-c", help="Configuration file.", show_default=False)] = None,
    json: Annotated[bool, typer.Option("--json", help="One JSON object per line, as it was logged.")] = False,
) -> None:
    """Show what the service has logged. Exit code 1 when there is nothing that was asked for.

    With --cid everything that belongs to an id: the connection that brought a message, those that it went over, what hosts
    answered, its bounce, the report in it. Ids stand in `queued as …` replies, Received fields, `postward queue list` and
    `postward reports list`.
    """
    from collections import deque

    from postward.cli.site import act_as_owner, settings
    from postward.log import LEVELS
    from postward.log_read import Wanted, find

    if level not in LEVELS:
        raise typer.BadParameter(f"there are {', '.join(LEVELS)}", param_hint="--level")
    loaded = settings(config)
    if not loaded.log.keep_bytes:
        raise PostwardError("nothing is kept: log.keep_bytes is 0, so look where the output of the service goes")
    data = loaded.core.data_dir
    act_as_owner(data)
    wanted = Wanted(cid=cid, since=_instant(since), level=level, event=event)
    # Before the look at what is there, so that nothing falls in between.
    follower = _follower(data) if follow else None
    found: Iterable[Line] = find(data, wanted)
    shown = deque(found, maxlen=lines) if lines else found
    count = _show(shown, json=json)
    if follower is not None:
        _follow(follower, wanted, json=json)
    if not count:
        raise typer.Exit(1)


def _instant(text: str) -> str:
    """A time as the log has it. Raises `BadParameter`."""
    import re
    from datetime import UTC, datetime, timedelta

    if not text:
        return ""
    if match := re.fullmatch(r"(\d{1,6})\s*(s|m|min|h|d)", text):
        then = datetime.now(UTC) - timedelta(seconds=int(match[1]) * _SPANS[match[2]])
    else:
        try:
            then = datetime.fromisoformat(text)
        except ValueError:
            raise typer.BadParameter("should be like 30m, 6h, 2d or 2026-11-26T07:00", param_hint="--since") from None
        # Without an offset it is the time of this machine's people.
        then = then.astimezone(UTC)
    # Without the Z, so that it sorts before its own fractions.
    return then.isoformat().removesuffix("+00:00")


def _show(found: Iterable[Line], *, json: bool) -> int:
    import sys

    count = 0
    for line in found:
        count += 1
        if json:
            sys.stdout.write(line.text + "\n")
        else:
            _show_one(line)
    sys.stdout.flush()
    return count


def _show_one(line: Line) -> None:
    from postward.cli.output import is_terminal, say
    from postward.log import escape

    fields = {key: value for key, value in line.fields.items() if key not in _APART}
    trace = fields.pop("exception", "")
    head = f"{line.at[:23]}Z {line.level:<7} {line.event}" if len(line.at) > 20 else f"{line.at} {line.level:<7} {line.event}"
    rest = " ".join(f"{key}={_value(value)}" for key, value in fields.items() if value not in (None, ""))
    if is_terminal():
        from rich.console import Console
        from rich.text import Text

        text = Text(escape(head), _STYLES.get(line.level, ""))
        Console(soft_wrap=True).print(text.append(f"  {escape(rest)}", "default not bold"))
    else:
        say(f"{head}  {rest}")
    for each in str(trace).splitlines():
        say(f"    {each}")


def _value(value: Any) -> str:
    import json

    if isinstance(value, str):
        return value if value and not any(letter in value for letter in ' "=') else json.dumps(value, ensure_ascii=False)
    return json.dumps(value, ensure_ascii=False)


def _follower(data: Path) -> Any:
    from postward.log_read import Follower

    return Follower(data)


def _follow(follower: Any, wanted: Wanted, *, json: bool) -> None:
    import time

    while True:
        _show(follower.news(wanted), json=json)
        time.sleep(_POLL)
