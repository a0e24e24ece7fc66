"""`postward tlsrpt parse`: what is in report files, one line each, and into the database if wanted.

Files are read one after the other and forgotten, so a directory of a hundred thousand takes no more memory than one.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Annotated, Any, Final

import typer

from postward.cli.output import emit_json_line, is_terminal, table
from postward.model import MICROSECONDS
from postward_tlsrpt.defects import DEFECTS
from postward_tlsrpt.message import reports_in
from postward_tlsrpt.read import Reading, ReportError
from postward_tlsrpt.sources import Source, sources

if TYPE_CHECKING:
    from postward.core import Commands, Core
    from postward_tlsrpt.plugin import TlsRpt

_COLUMNS: Final = ("file", "organization", "report id", "day", "policies", "good", "failed", "failures", "problems")
_AT_ONCE: Final = 200
_SHOWN: Final = 0.1


@dataclass(frozen=True, slots=True, kw_only=True)
class Line:
    """One report of a file, or the reason why there is none."""

    source: Source
    reading: Reading | None = None
    error: str = ""
    stored: str = ""


@dataclass(slots=True)
class Total:
    """What all files came to."""

    reports: int = 0
    bad: int = 0
    good: int = 0
    failed: int = 0
    defects: set[str] = field(default_factory=set)

    def add(self, line: Line) -> None:
        """Count a line."""
        if line.reading is None:
            self.bad += 1
            return
        self.reports += 1
        self.good += line.reading.successful
        self.failed += line.reading.failed
        self.defects.update(line.reading.defects)


def register(plugin: TlsRpt, commands: Commands) -> None:
    """Add the verb."""

    def parse(
        files: Annotated[
            list[str],
            typer.Argument(help="Mails, JSON, gzip, mbox, Maildir or directories; - reads standard input.", metavar="FILE..."),
        ],
        json: Annotated[bool, typer.Option("--json", help="One JSON object per report.")] = False,
        store: Annotated[bool, typer.Option("--store", help="Count them among the received reports.")] = False,
        strict: Annotated[bool, typer.Option("--strict", help="Take a report with any defect for a bad one.")] = False,
    ) -> int:
        """Read TLS reports. Exit code 1 when any file has none that can be read."""
        show = _Json() if json else _Table()
        if not store:
            return run(lines(files, int(time.time()) * MICROSECONDS, strict=strict), show)

        async def work(core: Core) -> int:
            return await _store(plugin, core, lines(files, core.clock.now(), strict=strict), show)

        return commands.run(work)

    commands.add(parse)


def lines(files: Sequence[str], now: int, *, strict: bool = False) -> Iterator[Line]:
    """What is in the files, report by report."""
    for source in sources(files, sys.stdin.buffer):
        if source.error:
            yield Line(source=source, error=source.error)
            continue
        for found in reports_in(source.content, now=now, filename=source.file, attached=True):
            if isinstance(found, ReportError):
                yield Line(source=source, error=str(found))
            elif strict and found.defects:
                yield Line(source=source, error=f"not as RFC 8460 has it: {', '.join(found.defects)}")
            else:
                yield Line(source=source, reading=found)


def run(found: Iterator[Line], show: Shown) -> int:
    """Show every line, and give the exit code."""
    progress = _Progress()
    total = Total()
    for line in found:
        total.add(line)
        progress.tick(total)
        show.add(line)
    progress.end()
    show.end(total)
    return 1 if total.bad else 0


async def _store(plugin: TlsRpt, core: Core, found: Iterator[Line], show: Shown) -> int:
    receiver = plugin.receiver
    progress = _Progress()
    total = Total()
    for line in found:
        done = line
        if line.reading is not None:
            taken = await receiver.take(line.reading, via="file", voucher=line.reading.submitter)
            done = Line(source=line.source, reading=line.reading, stored=taken.state)
        total.add(done)
        progress.tick(total)
        show.add(done)
    progress.end()
    show.end(total)
    return 1 if total.bad else 0


def to_json(line: Line) -> dict[str, Any]:
    """What `--json` prints of a report."""
    reading = line.reading
    value: dict[str, Any] = {
        "file": line.source.file,
        "kind": "tls",
        "ok": reading is not None,
        "error": line.error or None,
        "org": reading.report.organization_name if reading else None,
        "report_id": reading.report.report_id if reading else None,
        "begin": reading.begin // MICROSECONDS if reading else None,
        "end": reading.end // MICROSECONDS if reading else None,
        "policies": len(reading.report.policies) if reading else 0,
        "successful": reading.successful if reading else 0,
        "failed": reading.failed if reading else 0,
        "failures": reading.failures if reading else {},
        "defects": list(reading.defects) if reading else [],
    }
    if line.source.message is not None:
        value["message"] = line.source.message
    if line.stored:
        value["stored"] = line.stored
    return value


class Shown:
    """Where lines go."""

    def add(self, line: Line) -> None:
        """Show one, now or with others."""

    def end(self, total: Total) -> None:
        """Show what is left, and what all came to."""


class _Json(Shown):
    def add(self, line: Line) -> None:
        emit_json_line(to_json(line))


class _Table(Shown):
    def __init__(self) -> None:
        self._rows: list[tuple[object, ...]] = []

    def add(self, line: Line) -> None:
        self._rows.append(_row(line))
        if len(self._rows) >= _AT_ONCE:
            self._flush()

    def _flush(self) -> None:
        if self._rows:
            table(_COLUMNS, self._rows)
            self._rows = []

    def end(self, total: Total) -> None:
        self._flush()
        typer.echo(
            f"{total.reports:,} reports, {total.bad:,} that cannot be read;"
            f" sessions: {total.good:,} good, {total.failed:,} failed"
        )
        for slug in sorted(total.defects):
            typer.echo(f"  {slug}: {DEFECTS[slug]}")


def _row(line: Line) -> tuple[object, ...]:
    name = line.source.file if line.source.message is None else f"{line.source.file} ({line.source.message})"
    reading = line.reading
    if reading is None:
        return name, "-", "-", "-", "-", "-", "-", "-", line.error
    failures = ", ".join(f"{count} {kind}" for kind, count in reading.failures.items()) or "-"
    problems = ", ".join((*reading.defects, *([line.stored] if line.stored else []))) or "-"
    counts = len(reading.report.policies), reading.successful, reading.failed
    return name, reading.report.organization_name or "-", reading.report.report_id, _span(reading), *counts, failures, problems


def _span(reading: Reading) -> str:
    """The day, or the days from the first to the last."""
    first, last = (_day(instant) for instant in (reading.begin, max(reading.begin, reading.end - 1)))
    return first if first == last else f"{first} - {last}"


def _day(instant: int) -> str:
    return datetime.fromtimestamp(instant / MICROSECONDS, UTC).date().isoformat()


class _Progress:
    """A count on a terminal that is rewritten several times a second, unless the lines themselves go there one by one."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._on = sys.stderr.isatty() and not (is_terminal() and "--json" in sys.argv)
        self._clock, self._next, self._said = clock, clock() + 1.0, False

    def tick(self, total: Total) -> None:
        """Say how far it is."""
        if self._on and (now := self._clock()) >= self._next:
            self._next, self._said = now + _SHOWN, True
            sys.stderr.write(f"\r{total.reports:,} reports, {total.bad:,} that cannot be read ")
            sys.stderr.flush()

    def end(self) -> None:
        """Take it away."""
        if self._said:
            sys.stderr.write("\r\x1b[K")
            sys.stderr.flush()
