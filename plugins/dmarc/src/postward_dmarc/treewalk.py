"""The DNS tree walk: which record applies, and what the Organizational Domain is (RFC 9989 §4.10).

No I/O: a walk is a generator that yields questions and is sent what was found, so that whoever drives it may cache.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from postward.names import Domain
from postward_dmarc.questions import Asker, Question
from postward_dmarc.record import Record, is_dmarc, parse

MAX_QUERIES: Final = 8
_LABELS_BELOW: Final = 7


@dataclass(frozen=True, slots=True, kw_only=True)
class Walk:
    """What a walk from `start` found, longest name first. With `failed`, it says why nothing can be concluded."""

    start: Domain
    found: tuple[tuple[Domain, Record], ...] = ()
    failed: str = ""

    @property
    def own(self) -> Record | None:
        """The record at the start itself."""
        return self.at(self.start)

    def at(self, name: Domain) -> Record | None:
        """The record found at a name."""
        return next((record for domain, record in self.found if domain == name), None)

    @property
    def organizational(self) -> Domain:
        """The Organizational Domain of the start (RFC 9989 §4.10.2)."""
        for name, record in self.found:
            if record.psd == "n":
                return name
            if record.psd == "y" and name != self.start:
                below = len(name.labels) + 1
                return Domain(".".join(self.start.labels[-below:]))
        return self.found[-1][0] if self.found else self.start

    @property
    def policy(self) -> tuple[Domain, Record] | None:
        """The record that applies and where it stands: at the start, its Organizational Domain, or the PSD (§4.10.1)."""
        if self.own is not None:
            return self.start, self.own
        organizational = self.organizational
        if (record := self.at(organizational)) is not None:
            return organizational, record
        return next(((name, record) for name, record in self.found if record.psd == "y"), None)


def names(start: Domain) -> tuple[Domain, ...]:
    """The names of a walk in order: the start, then its parents down to one label, at most 8 (RFC 9989 §4.10)."""
    labels = start.labels
    first = min(len(labels) - 1, _LABELS_BELOW)
    return start, *(Domain(".".join(labels[-count:])) for count in range(first, 0, -1))


def record_of(texts: Sequence[str]) -> Record | None:
    """The DMARC record among the TXT records of a name; several count as none (RFC 9989 §4.10, step 2)."""
    candidates = [text for text in texts if is_dmarc(text)]
    return parse(candidates[0]) if len(candidates) == 1 else None


def walk(start: Domain) -> Asker[Walk]:
    """Walk the tree from `start`. A failed query ends the walk: nothing may be concluded from what was not seen."""
    found: list[tuple[Domain, Record]] = []
    for name in names(start):
        if len(name) > 253 - len("_dmarc."):
            continue
        answer = yield Question(f"_dmarc.{name}", "TXT")
        if answer.failed:
            return Walk(start=start, found=tuple(found), failed=answer.failed)
        record = record_of(answer.texts)
        if record is not None:
            found.append((name, record))
            if record.psd in "yn":
                break
    return Walk(start=start, found=tuple(found))
