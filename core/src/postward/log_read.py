"""Reading the log of a node again: the files of all its processes as one, in the order of time, and the way of one id.

A message has an id, and so have the connection that brought it, each connection that it went over, a bounce about it, and a
report that it carries. Lines name each other's ids, so asking for one finds what belongs to it.
"""

from __future__ import annotations

import heapq
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import msgspec

from postward.log import LEVELS
from postward.log_file import FOLDER

# Fields that hold the id of something else that a line belongs to.
_ABOUT: Final = ("message", "about")
_LEADS_TO: Final = ("message", "session", "notice_cid")


@dataclass(frozen=True, slots=True, kw_only=True)
class Wanted:
    """What lines are asked for; conditions hold together. `since` is an instant as the log has it, `event` a beginning."""

    cid: str = ""
    since: str = ""
    level: str = "debug"
    event: str = ""


@dataclass(frozen=True, slots=True)
class Line:
    """A line as it stands there, and its fields."""

    text: str
    fields: dict[str, Any]

    @property
    def at(self) -> str:
        """When it was written, RFC 3339 in UTC."""
        return str(self.fields.get("timestamp", ""))

    @property
    def level(self) -> str:
        """Its level."""
        return str(self.fields.get("level", ""))

    @property
    def event(self) -> str:
        """What happened."""
        return str(self.fields.get("event", ""))


def files(data_dir: Path) -> list[list[Path]]:
    """The files of each process, the oldest first."""
    groups: dict[str, list[tuple[int, Path]]] = {}
    for path in (data_dir / FOLDER).glob("*.jsonl*"):
        name, _, number = path.name.partition(".jsonl")
        if not number or number.lstrip(".").isdigit():
            groups.setdefault(name, []).append((-int(number.lstrip(".") or 0), path))
    return [[path for _, path in sorted(group)] for _, group in sorted(groups.items())]


def find(data_dir: Path, wanted: Wanted) -> Iterator[Line]:
    """The lines that are wanted, in the order of time. Raises `OSError` for a file that may not be read."""
    if not wanted.cid:
        yield from _all(data_dir, _checks(wanted), ())
        return
    related = {wanted.cid}
    for line in _all(data_dir, lambda line: True, (wanted.cid,)):
        related |= _related(line.fields, wanted.cid)
    check = _checks(wanted)

    def belongs(line: Line) -> bool:
        fields = line.fields
        return (fields.get("cid") in related or any(fields.get(name) == wanted.cid for name in _ABOUT)) and check(line)

    yield from _all(data_dir, belongs, tuple(related))


def _related(fields: dict[str, Any], cid: str) -> set[str]:
    """The ids that a line ties to `cid`."""
    if fields.get("cid") == cid:
        found = {fields.get(name) for name in _LEADS_TO}
    elif any(fields.get(name) == cid for name in _ABOUT):
        found = {fields.get("cid")}
    else:
        return set()
    return {str(one) for one in found if one}


def _checks(wanted: Wanted) -> Callable[[Line], bool]:
    lowest = LEVELS.get(wanted.level, 0)

    def check(line: Line) -> bool:
        return (
            LEVELS.get(line.level, 50) >= lowest
            and line.event.startswith(wanted.event)
            and (not wanted.since or line.at >= wanted.since)
        )

    return check


def _all(data_dir: Path, check: Callable[[Line], bool], words: Sequence[str]) -> Iterator[Line]:
    streams = (_lines(group, check, [word.encode() for word in words]) for group in files(data_dir))
    return heapq.merge(*streams, key=lambda line: line.at)


def _lines(paths: Iterable[Path], check: Callable[[Line], bool], words: Sequence[bytes]) -> Iterator[Line]:
    """Lines of the files of one process; with `words`, only those that hold one of them are looked at more closely."""
    for path in paths:
        try:
            file = path.open("rb")
        except FileNotFoundError:
            # It was turned over in this moment, and stands in the next one now.
            continue
        with file:
            for raw in file:
                if (not words or any(word in raw for word in words)) and (line := parse(raw)) is not None and check(line):
                    yield line


def parse(raw: bytes) -> Line | None:
    """A line of a file; None for one that is damaged, such as the last one of a machine that lost its power."""
    try:
        fields = msgspec.json.decode(raw)
    except msgspec.DecodeError:
        return None
    return Line(raw.decode("utf-8", "replace").rstrip("\n"), fields) if isinstance(fields, dict) else None


class Follower:
    """Finds what is written from now on. Polls, because files of several processes grow and are turned over."""

    def __init__(self, data_dir: Path) -> None:
        self._data_dir = data_dir
        self._read = {path: path.stat().st_size for path in self._current()}

    def _current(self) -> list[Path]:
        return [path for group in files(self._data_dir) for path in group[-1:] if path.suffix == ".jsonl"]

    def news(self, wanted: Wanted) -> list[Line]:
        """The lines since the last call, in the order of time."""
        check = _checks(wanted)
        found: list[Line] = []
        for path in self._current():
            with path.open("rb") as file:
                start = self._read.get(path, 0)
                size = file.seek(0, 2)
                file.seek(start if start <= size else 0)
                data = file.read()
                whole = data.rfind(b"\n") + 1
                self._read[path] = file.tell() - len(data) + whole
            lines = [line for raw in data[:whole].splitlines() if (line := parse(raw)) is not None and check(line)]
            found += [line for line in lines if not wanted.cid or wanted.cid in line.text]
        return sorted(found, key=lambda line: line.at)
