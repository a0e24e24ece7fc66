"""Answers kept for as long as they hold: bounded, least recently used first out.

The validating resolver has the real cache; this one spares the questions of one delivery from being asked several times, so
lifetimes are short.
"""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import replace
from typing import Final

from postward.dns.answer import Answer, Status

MAX_FOUND: Final = 3600.0
MAX_ABSENT: Final = 900.0
FAILED: Final = 5.0
MAX_SIZE: Final = 8192
"""Octets of an answer, about, up to which it is kept: strangers' zones must not fill the memory."""
_OVERHEAD: Final = 128

Key = tuple[str, str]


def lifetime(answer: Answer) -> float:
    """Seconds for which an answer is kept: its TTL, at most an hour, 15 min for an absence (RFC 2308 §5); 5 s for a failure."""
    if answer.status is Status.FAILED:
        return FAILED
    return min(float(answer.ttl), MAX_FOUND if answer.found else MAX_ABSENT)


def size(answer: Answer) -> int:
    """About how many octets an answer takes; only the data of TXT and TLSA can be long."""
    long = (len(getattr(each, "cert", b"")) + sum(map(len, getattr(each, "strings", ()))) for each in answer.records)
    return sum(long) + _OVERHEAD * len(answer.records)


class AnswerCache:
    """A map from question to answer with a size limit. `now` is any clock in seconds that does not go back."""

    def __init__(self, size: int) -> None:
        self._size = size
        self._entries: OrderedDict[Key, tuple[float, Answer]] = OrderedDict()

    def get(self, key: Key, now: float) -> Answer | None:
        """The answer with the TTL that is left, or None."""
        entry = self._entries.get(key)
        if entry is None:
            return None
        stored, answer = entry
        age = now - stored
        if age >= lifetime(answer):
            del self._entries[key]
            return None
        self._entries.move_to_end(key)
        return replace(answer, ttl=max(0, answer.ttl - int(age))) if age >= 1 else answer

    def put(self, key: Key, answer: Answer, now: float) -> None:
        """Keep an answer unless it is very large; the least recently used one goes when there is no room."""
        if self._size < 1 or lifetime(answer) <= 0 or size(answer) > MAX_SIZE:
            return
        self._entries[key] = (now, answer)
        self._entries.move_to_end(key)
        while len(self._entries) > self._size:
            self._entries.popitem(last=False)

    def __len__(self) -> int:
        return len(self._entries)
