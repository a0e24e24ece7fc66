"""How long and how much, in a few characters that a person reads at a glance. Instants are microseconds UTC."""

from __future__ import annotations

import time
from typing import Final

from postward.model import MICROSECONDS

_SPANS: Final = ((86_400, "d"), (3600, "h"), (60, "min"))
_SIZES: Final = ((10**12, "TB"), (10**9, "GB"), (10**6, "MB"), (10**3, "kB"))


def span(microseconds: int) -> str:
    """A length of time, such as `12 min`: to the minute below an hour, to the hour below two days."""
    seconds = max(0, microseconds) // MICROSECONDS
    if 3600 <= seconds < 6 * 3600 and (minutes := seconds // 60 % 60):
        return f"{seconds // 3600} h {minutes:02}"
    for unit, name in _SPANS:
        if seconds >= (2 * unit if name == "d" else unit):
            return f"{seconds // unit} {name}"
    return f"{seconds} s"


def ahead(instant: int, now: int) -> str:
    """When something will be: `in 12 min`, or `now` when it is due."""
    return "now" if instant <= now else f"in {span(instant - now)}"


def octets(number: int) -> str:
    """A size, such as `4.2 kB`."""
    for unit, name in _SIZES:
        if number >= unit:
            return f"{number / unit:.1f} {name}" if number < 10 * unit else f"{number // unit} {name}"
    return f"{number} B"


def local_time(instant: int) -> str:
    """An instant in the zone of this machine, with its offset (RFC 3339 to the second)."""
    text = time.strftime("%Y-%m-%d %H:%M:%S%z", time.localtime(instant // MICROSECONDS))
    return f"{text[:-2]}:{text[-2:]}"


def seconds(instant: int | None) -> int | None:
    """An instant as JSON has it, seconds since 1970; None where there is none."""
    return instant // MICROSECONDS if instant else None


def count(number: int, one: str, many: str = "") -> str:
    """A number with its noun: `1 message`, `1,200 messages`."""
    return f"{number:,} {one if number == 1 else many or one + 's'}"


def shortened(text: str, most: int) -> str:
    """The first line of a text, cut to `most` characters."""
    line = text.strip().partition("\n")[0].strip()
    return line if len(line) <= most else f"{line[: most - 1].rstrip()}…"
