"""When a deferred recipient is tried again, when its sender is told of the delay, and when it is given up.

RFC 5321 §4.5.4.1 asks for retries half an hour apart after the first ones, for four to five days. The pause begins with a
minute and doubles up to an hour, so a greylisting server or a short outage costs little.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from postward.model import MICROSECONDS

MINUTE: Final = 60 * MICROSECONDS
HOUR: Final = 60 * MINUTE
DAY: Final = 24 * HOUR
SPREAD: Final = 0.2


@dataclass(frozen=True, slots=True, kw_only=True)
class RetryRules:
    """Pauses and ends, in microseconds. `null_lifetime` is for mail from the null sender, and for reports."""

    first: int = MINUTE
    longest: int = HOUR
    lifetime: int = 5 * DAY
    null_lifetime: int = DAY
    tell_delay: int = 4 * HOUR

    def expires(self, received: int, *, null_sender: bool = False) -> int:
        """The instant from which a message is given up."""
        return received + (self.null_lifetime if null_sender else self.lifetime)


RULES: Final = RetryRules()


def pause_for(times: int, chance: float, *, rules: RetryRules = RULES) -> int:
    """How long to wait after `times` (1 or more) failures in a row. `chance` in [0, 1) spreads it by a fifth to both sides."""
    pause = min(rules.first << min(max(times, 1) - 1, 30), rules.longest)
    return int(pause * (1 - SPREAD + 2 * SPREAD * chance))


def next_try(
    attempts: int, received: int, now: int, chance: float, *, null_sender: bool = False, rules: RetryRules = RULES
) -> int | None:
    """The instant of the next attempt after `attempts` (1 or more), None when the message has expired.

    The last attempt comes at the very end of the lifetime.
    """
    end = rules.expires(received, null_sender=null_sender)
    if now >= end:
        return None
    return min(now + pause_for(attempts, chance, rules=rules), end)


def delay_notice_due(received: int, now: int, *, rules: RetryRules = RULES) -> bool:
    """Whether a message has waited so long that its sender should be told."""
    return now - received >= rules.tell_delay
