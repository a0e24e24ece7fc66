"""What is counted, and how it is told: weeks, sums and text. No trio, no database."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Final

from postward import MICROSECONDS, JournalEntry, TlsResult, Window

_NO_POLICY: Final = "no-policy-found"
WEEK: Final = 7 * 86_400 * MICROSECONDS
# The epoch was a Thursday; 1970-01-05 the first Monday.
_FIRST_MONDAY: Final = 4 * 86_400 * MICROSECONDS


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """One domain in one week: its sessions, those that broke a policy, and those without TLS."""

    domain: str
    sessions: int
    failed: int
    clear: int


def week_of(instant: int) -> Window:
    """The week, from Monday 00:00 UTC, that an instant in microseconds is in."""
    start = instant - (instant - _FIRST_MONDAY) % WEEK
    return Window(start=start, end=start + WEEK)


def week_of_day(day: str) -> Window:
    """The week of a UTC day, `YYYY-MM-DD`."""
    return week_of(Window.of_day(day).start)


def add_up(entries: Iterable[JournalEntry]) -> dict[tuple[int, str], tuple[int, int, int]]:
    """Sessions, failed and clear ones, by the start of the week and the domain. Reports are not mail that counts."""
    sums: dict[tuple[int, str], tuple[int, int, int]] = {}
    for entry in entries:
        result = entry.result
        if not isinstance(result, TlsResult) or result.is_report:
            continue
        key = week_of_day(result.day).start, str(result.domain)
        # Where nobody has a policy there is none to break, and core says so in the place of one.
        failed = 0 if all(each.passed or each.kind == _NO_POLICY for each in result.policies) else entry.count
        clear = 0 if result.protocol else entry.count
        before = sums.get(key, (0, 0, 0))
        sums[key] = before[0] + entry.count, before[1] + failed, before[2] + clear
    return sums


def days(window: Window) -> str:
    """The days of a week in words."""
    first = datetime.fromtimestamp(window.start // MICROSECONDS, UTC)
    return f"{first:%Y-%m-%d} to {first + timedelta(days=6):%Y-%m-%d}"


def text(window: Window, rows: Sequence[Row], most: int) -> str:
    """The mail."""
    sessions, failed, clear = (sum(getattr(row, name) for row in rows) for name in ("sessions", "failed", "clear"))
    lines = [
        f"Week of {days(window)}",
        f"{sessions} sessions with {len(rows)} domains; {failed} broke a policy, {clear} went without TLS.",
        "",
        f"{'domain':<40} {'sessions':>9} {'failed':>9} {'no TLS':>9}",
    ]
    worst = sorted(rows, key=lambda row: (-row.failed, -row.clear, -row.sessions, row.domain))
    lines += [f"{row.domain:<40} {row.sessions:>9} {row.failed:>9} {row.clear:>9}" for row in worst[:most]]
    if len(rows) > most:
        lines.append(f"and {len(rows) - most} more")
    return "\n".join([*lines, ""])
