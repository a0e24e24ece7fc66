"""The command line: `postward COMMAND` and `postward PLUGIN VERB`.

`main` keeps the promises that hold for every command: 0 is good, 1 is bad news, 2 is usage or configuration; an error is one
line on stderr and never a traceback, unless POSTWARD_DEBUG=1. Commands are imported when they are called.
"""

from __future__ import annotations

import contextlib
import io
import os
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Final

DEBUG: Final = "POSTWARD_DEBUG"
INTERRUPTED: Final = 130
PIPE_CLOSED: Final = 141


@dataclass(frozen=True, slots=True)
class Command:
    """A command of core: the module that has its `register(app)`, one line of help, and how much it logs by default."""

    module: str
    help: str
    log_level: str = "warning"


COMMANDS: Final = {
    "deliver": Command("deliver", "Deliver one message to the MX hosts of its recipients, now."),
    "probe": Command("deliver", "Look at a domain as a delivery would, and send no mail."),
    "run": Command("run", "Run: plugins, their background tasks, results and reports.", "info"),
    "queue": Command("queue", "Look at the queue, hold, release, retry and drop mail."),
    "status": Command("status", "Say how the service, its queue and its data do, and what needs attention."),
    "logs": Command("logs", "Look at the log of the service; follow a message by its id."),
    "reports": Command("reports", "Look at the reports that are sent, preview one, send those of a day."),
    "passwd": Command("passwd", "Set the password of a user who may send mail."),
    # Its hosts are broken on purpose: warnings about them are what it is for, and the table shows them.
    "lab": Command("lab", "An internet on loopback, to see all of it work.", "error"),
    "plugins": Command("plugins", "List, examine, enable and disable plugins, and begin a new one."),
    "dkim": Command("dkim", "Make DKIM keys, and show the DNS records to publish for them."),
    "db": Command("db", "Look at the databases and bring them up to date."),
}


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command line and give its exit code."""
    arguments = list(sys.argv[1:] if argv is None else argv)
    _prepare_streams()
    try:
        from postward.cli.frame import invoke

        code = invoke(arguments)
        sys.stdout.flush()
    except BaseException as exc:
        if os.environ.get(DEBUG) == "1" and not isinstance(exc, SystemExit | BrokenPipeError):
            raise
        return _exit_code(exc)
    return code


def _prepare_streams() -> None:
    """Streams that can be written whatever the caller left of them."""
    for name, mode in (("stdin", "r"), ("stdout", "w"), ("stderr", "w")):
        if getattr(sys, name) is None:
            # Closed by the caller. Left so, the next file or connection would take its number.
            setattr(sys, name, open(os.devnull, mode))  # noqa: SIM115 - it stays open until the end
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")  # no name or reply is worth failing over an old locale


def _exit_code(error: BaseException) -> int:
    """Say what is wrong in one line each, and give the exit code."""
    from postward.errors import PostwardError

    leaves = list(_leaves(error))
    if any(isinstance(leaf, BrokenPipeError) for leaf in leaves):
        # Python would complain when it flushes at its end.
        with contextlib.suppress(OSError):
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return PIPE_CLOSED
    if any(isinstance(leaf, KeyboardInterrupt) for leaf in leaves):
        return INTERRUPTED
    for leaf in leaves:
        if isinstance(leaf, SystemExit):
            return leaf.code if isinstance(leaf.code, int) else 0 if leaf.code is None else 2
        if isinstance(leaf, PostwardError):
            _say(str(leaf))
        elif isinstance(leaf, OSError):
            _say(": ".join(str(part) for part in (leaf.filename, leaf.strerror or leaf) if part))
        else:
            _say(f"internal error: {type(leaf).__name__}: {leaf} (set {DEBUG}=1 to see where)")
    return 2


def _leaves(error: BaseException) -> Iterator[BaseException]:
    if isinstance(error, BaseExceptionGroup):
        for inner in error.exceptions:
            yield from _leaves(inner)
    else:
        yield error


def _say(text: str) -> None:
    from postward.log import escape

    for line in text.splitlines() or [""]:
        print(f"postward: {escape(line)}", file=sys.stderr)  # noqa: T201 - this is the command line
