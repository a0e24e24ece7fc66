"""Spans of time, and the UTC day that everything is counted by."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta

MICROSECONDS = 1_000_000


@dataclass(frozen=True, slots=True, kw_only=True, order=True)
class Window:
    """A half-open span of time, `start <= t < end`, in microseconds UTC."""

    start: int
    end: int

    @classmethod
    def of_day(cls, day: str) -> Window:
        """The whole UTC day `YYYY-MM-DD`."""
        start = datetime.combine(date.fromisoformat(day), datetime.min.time(), UTC)
        end = start + timedelta(days=1)
        return cls(start=int(start.timestamp()) * MICROSECONDS, end=int(end.timestamp()) * MICROSECONDS)

    @property
    def day(self) -> str:
        """The UTC day on which the window starts."""
        return day_of(self.start)


def day_of(instant: int) -> str:
    """The UTC day of an instant in microseconds, as `YYYY-MM-DD`."""
    return datetime.fromtimestamp(instant // MICROSECONDS, UTC).date().isoformat()
