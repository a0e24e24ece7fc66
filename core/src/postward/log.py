"""The log: one event per line on stderr, for people on a terminal and as JSON elsewhere.

Text from the network is data: control characters are made visible, so a line is one line. `cid`, the correlation id, ties
the lines of one connection, one run or one report together.
"""

from __future__ import annotations

import contextlib
import os
import re
import sys
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, MutableMapping
from contextvars import ContextVar
from typing import Any, Final

LEVELS: Final = {"debug": 10, "info": 20, "warning": 30, "error": 40}

_cid: ContextVar[str] = ContextVar("postward_cid", default="")
# An event is a constant of the code, except where some plugin thinks otherwise.
_MOST_EVENTS: Final = 500
_problems: Final = Counter[tuple[str, str]]()
_CALM: Final = frozenset({"debug", "info"})
_keep: Callable[..., None] | None = None
_CONTROL: Final = re.compile(r"[\x00-\x1f\x7f-\x9f\u2028\u2029\ud800-\udfff]")


def configure(level: str = "info", *, json: bool | None = None) -> None:
    """Set up structlog. `level` is one of `LEVELS`; `json` None asks whether stderr is a terminal. Raises `ValueError`."""
    if level not in LEVELS:
        raise ValueError(f"no log level {level!r}; there are {', '.join(LEVELS)}")
    import structlog

    as_json = not sys.stderr.isatty() if json is None else json
    stamp = structlog.processors.TimeStamper(fmt="iso", utc=True)
    colors = sys.stderr.isatty() and not os.environ.get("NO_COLOR")
    last: list[Any] = (
        [structlog.processors.format_exc_info, visible, _as_json]
        if as_json
        else [visible, _also_json, structlog.dev.ConsoleRenderer(colors=colors)]
    )
    structlog.configure(
        processors=[_add_cid, structlog.processors.add_log_level, _count, stamp, *last],
        wrapper_class=structlog.make_filtering_bound_logger(LEVELS[level]),
        logger_factory=_Stderr,
        cache_logger_on_first_use=False,
    )


def keep_in(keep: Callable[..., None] | None) -> None:
    """Give every line as JSON to `keep(line, urgent=…)`, too; None for nobody. Urgent is what is a warning or worse."""
    global _keep
    _keep = keep


def _as_json(logger: Any, method: str, event: MutableMapping[str, Any]) -> str:
    import msgspec

    line = msgspec.json.encode(event, enc_hook=str).decode()
    if _keep is not None:
        _keep(line, urgent=event["level"] not in _CALM)
    return line


def _also_json(logger: Any, method: str, event: MutableMapping[str, Any]) -> MutableMapping[str, Any]:
    if _keep is not None:
        import structlog

        _as_json(logger, method, structlog.processors.format_exc_info(logger, method, dict(event)))
    return event


class _Stderr:
    """Writes lines to what stderr is now. A log that cannot be written never stops what it tells about."""

    def __init__(self, *names: object) -> None:
        """Take the names that structlog passes on."""

    def msg(self, message: str) -> None:
        with contextlib.suppress(OSError, ValueError):
            sys.stderr.write(message + "\n")
            sys.stderr.flush()

    debug = info = warning = error = critical = exception = log = msg


def fresh_cid() -> str:
    """A correlation id that nothing has yet."""
    return os.urandom(6).hex()


def new_cid() -> str:
    """Give the current task and what it starts a new correlation id, and return it."""
    value = fresh_cid()
    _cid.set(value)
    return value


def current_cid() -> str:
    """The correlation id of the current task; empty when it has none."""
    return _cid.get()


@contextlib.contextmanager
def correlated() -> Iterator[str]:
    """A new correlation id for a block, and the former one behind it."""
    with correlated_as(fresh_cid()) as cid:
        yield cid


@contextlib.contextmanager
def correlated_as(cid: str) -> Iterator[str]:
    """A known correlation id for a block, such as that of a message that goes on, and the former one behind it."""
    token = _cid.set(cid)
    try:
        yield cid
    finally:
        _cid.reset(token)


def _add_cid(logger: Any, method: str, event: MutableMapping[str, Any]) -> MutableMapping[str, Any]:
    if cid := _cid.get():
        event.setdefault("cid", cid)
    return event


def _count(logger: Any, method: str, event: MutableMapping[str, Any]) -> MutableMapping[str, Any]:
    if event["level"] not in _CALM:
        key = event["level"], str(event.get("event", ""))
        _problems[key if key in _problems or len(_problems) < _MOST_EVENTS else (key[0], "other")] += 1
    return event


def problems() -> Mapping[tuple[str, str], int]:
    """How often each event from warning upwards was logged by this process, by level and event."""
    return _problems.copy()


def visible(logger: Any, method: str, event: MutableMapping[str, Any]) -> MutableMapping[str, Any]:
    """Make control characters visible in every value except a traceback of our own making."""
    for key, value in event.items():
        if isinstance(value, str) and key != "exception":
            event[key] = escape(value)
    return event


def escape(text: str) -> str:
    """A text as one line that a terminal shows and does not obey."""
    return _CONTROL.sub(lambda match: ascii(match[0])[1:-1], text)
