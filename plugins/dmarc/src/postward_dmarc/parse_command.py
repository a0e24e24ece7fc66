"""`postward dmarc parse`: what is in report files, one line each.

Files are read one after the other and forgotten, and records are counted as they pass, so neither a directory of a hundred
thousand files nor a report of a million records takes more memory than a small one.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Annotated, Any, Final

import typer

from postward.cli.output import emit_json_line, line, table
from postward.model import MICROSECONDS
from postward.reports.sources import Source, sources
from postward_dmarc.reading.defects import DEFECTS
from postward_dmarc.reading.files import stream_of
from postward_dmarc.reading.message import MAX_MAIL, AggregateReading, FailureReading, Found, collected

if TYPE_CHECKING:
    from postward.core import Commands, Core
    from postward_dmarc.plugin import Dmarc

_COLUMNS: Final = ("file", "kind", "organization", "about", "day", "records", "messages", "problems")
_AT_ONCE: Final = 200


def register(plugin: Dmarc, commands: Commands) -> None:
    """Add the verb."""

    def parse(
        files: Annotated[
            list[str],
            typer.Argument(
                help="Mails, XML, gzip, zip, mbox, Maildir or directories; - reads standard input.", metavar="FILE..."
            ),
        ],
        json: Annotated[bool, typer.Option("--json", help="One JSON object per report.")] = False,
        store: Annotated[bool, typer.Option("--store", help="Count them among the received reports.")] = False,
    ) -> int:
        """Read DMARC reports. Exit code 1 when any file has none that can be read."""
        if not store:
            return run(found_in(files), as_json=json)

        async def work(core: Core) -> int:
            shown = Shown(as_json=json)
            for source in sources(files, sys.stdin.buffer, limit=MAX_MAIL, large=True):
                for taken in await plugin.receiver.take(stream_of(source), via="file"):
                    shown.add(source, taken.found, taken.state or "")
            return shown.end()

        return commands.run(work)

    commands.add(parse)


def found_in(files: Sequence[str]) -> Iterator[tuple[Source, Found]]:
    """What is in the files, report by report."""
    for source in sources(files, sys.stdin.buffer, limit=MAX_MAIL, large=True):
        for found in collected(stream_of(source), keep=False):
            yield source, found


def run(found: Iterator[tuple[Source, Found]], *, as_json: bool) -> int:
    """Show every report, and give the exit code."""
    shown = Shown(as_json=as_json)
    for source, each in found:
        shown.add(source, each)
    return shown.end()


class Shown:
    """Reports as they are read, and at the end what all of them came to."""

    def __init__(self, *, as_json: bool) -> None:
        self._as_json = as_json
        self._rows: list[tuple[object, ...]] = []
        self._good = self._bad = self._messages = 0
        self._defects: set[str] = set()

    def add(self, source: Source, found: Found, stored: str = "") -> None:
        """Show a report, with what became of it."""
        value = to_json(source, found)
        self._good += value["ok"]
        self._bad += not value["ok"]
        self._messages += value["messages"]
        self._defects.update(value["defects"])
        if stored:
            value["stored"] = stored
        if self._as_json:
            emit_json_line(value)
            return
        self._rows.append(_row(value))
        if len(self._rows) >= _AT_ONCE:
            self._flush()

    def end(self) -> int:
        """Show what is left; the exit code."""
        if not self._as_json:
            self._flush()
            line(f"{self._good:,} reports about {self._messages:,} messages, {self._bad:,} that cannot be read")
            for slug in sorted(self._defects):
                line(f"  {slug}: {DEFECTS[slug]}")
        return 1 if self._bad else 0

    def _flush(self) -> None:
        if self._rows:
            table(_COLUMNS, self._rows)
            self._rows = []


def to_json(source: Source, found: Found) -> dict[str, Any]:
    """What `--json` prints of a report; a failure report is about `messages` and has no records."""
    value: dict[str, Any] = {
        "file": source.file,
        "kind": "other",
        "ok": False,
        "error": None,
        "org": None,
        "report_id": None,
        "domain": None,
        "begin": None,
        "end": None,
        "records": 0,
        "messages": 0,
        "defects": [],
    }
    if isinstance(found, AggregateReading):
        report = found.report
        value |= {
            "kind": "aggregate",
            "ok": True,
            "org": report.org,
            "report_id": report.report_id,
            "domain": report.policy.domain,
            "begin": report.begin // MICROSECONDS,
            "end": report.end // MICROSECONDS,
            "records": report.records,
            "messages": report.messages,
            "defects": list(found.defects),
        }
        if report.damaged:
            value["damaged"] = report.damaged
    elif isinstance(found, FailureReading):
        failure = found.report
        value |= {
            "kind": "failure",
            "ok": True,
            "org": failure.user_agent,
            "report_id": failure.message_id,
            "domain": failure.reported_domain,
            "begin": failure.arrival // MICROSECONDS or None,
            "end": failure.arrival // MICROSECONDS or None,
            "messages": failure.incidents,
            "defects": list(failure.defects),
        }
    else:
        value["error"] = str(found)
    if source.message is not None:
        value["message"] = source.message
    return value


def _row(value: dict[str, Any]) -> tuple[object, ...]:
    name = value["file"] if "message" not in value else f"{value['file']} ({value['message']})"
    if not value["ok"]:
        return name, "-", "-", "-", "-", "-", "-", value["error"]
    day = datetime.fromtimestamp(value["begin"], UTC).date().isoformat() if value["begin"] else "-"
    problems = ", ".join((*value["defects"], *([value["stored"]] if "stored" in value else []))) or "-"
    return name, value["kind"], value["org"] or "-", value["domain"] or "-", day, value["records"], value["messages"], problems
