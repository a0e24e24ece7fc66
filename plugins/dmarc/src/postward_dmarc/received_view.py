"""What was received about our domains, as the command and the pages show it: who sends as a domain, and is it itself.

Plain data, in the order in which it is to be shown. Counts are of messages.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from postward_dmarc.who import Who


@dataclass(frozen=True, slots=True, kw_only=True)
class Counts:
    """Messages, and how many of them passed: DMARC, aligned DKIM, aligned SPF; and were quarantined or rejected."""

    messages: int
    passed: int
    dkim: int
    spf: int
    quarantined: int
    rejected: int

    @property
    def failed(self) -> int:
        """Messages that did not pass DMARC."""
        return self.messages - self.passed


@dataclass(frozen=True, slots=True, kw_only=True)
class DomainLine:
    """One of our domains: how many reports by how many reporters, what they counted, and failure reports.

    `act` of the messages are most likely the domain's own and failed.
    """

    domain: str
    reports: int
    reporters: int
    counts: Counts
    act: int
    failure_reports: int


@dataclass(frozen=True, slots=True, kw_only=True)
class DayLine:
    """A UTC day (that of a report's beginning)."""

    day: str
    reports: int
    counts: Counts


@dataclass(frozen=True, slots=True, kw_only=True)
class SenderLine:
    """Those of one kind for whose mail the same domain stands (empty: none), from so many addresses."""

    who: Who
    stands: str
    sources: int
    counts: Counts
    last: str


@dataclass(frozen=True, slots=True, kw_only=True)
class SourceLine:
    """One address, as far as it is of one kind. `header_from` is one of the author domains that it wrote."""

    source_ip: str
    who: Who
    stands: str
    header_from: str
    counts: Counts
    last: str


@dataclass(frozen=True, slots=True, kw_only=True)
class ReporterLine:
    """An organization that reports."""

    org: str
    reports: int
    counts: Counts
    last: str


@dataclass(frozen=True, slots=True, kw_only=True)
class ReasonLine:
    """Why another policy was applied than the published one (types with spaces between them), and to how many messages."""

    reasons: str
    messages: int


@dataclass(frozen=True, slots=True, kw_only=True)
class FailureLine:
    """A message that failed, as its receiver reported it. `at` is an instant; texts are a stranger's."""

    at: int
    reporter: str
    source_ip: str
    auth_failure: tuple[str, ...]
    delivery_result: str
    mail_from: str
    header_from: str
    subject: str
    incidents: int


@dataclass(frozen=True, slots=True, kw_only=True)
class DomainView:
    """All that is shown of one domain. `policy` is the published one, as the last report had it, by its tags.

    `sources` and `failures` are the most important ones; `all_sources` is how many there are.
    """

    domain: str
    policy: dict[str, str]
    counts: Counts
    days: Sequence[DayLine]
    senders: Sequence[SenderLine]
    sources: Sequence[SourceLine]
    all_sources: int
    reporters: Sequence[ReporterLine]
    reasons: Sequence[ReasonLine]
    failures: Sequence[FailureLine]
