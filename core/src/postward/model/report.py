"""Reports: how they are scheduled, what they are, where they go and how that ended."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from postward.model.window import Window
from postward.names import Domain

if TYPE_CHECKING:
    from sqlalchemy import Connection


@dataclass(frozen=True, slots=True, kw_only=True)
class ReportTarget:
    """Where a report goes: a `mailto:` or `https:` URI."""

    uri: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Report:
    """A finished report, as the outbox keeps it and `deliver_report` sends it.

    `kind` is `tls`, `aggregate` or `x-…`; `report_id` is unique per submitter; `content` is the finished body of
    `media_type`, compressed if the type says so. By mail it becomes the second part of a multipart message of
    `mail_type` (such as `multipart/report; report-type="tlsrpt"`), behind `explanation`; `headers` are added to that
    message and signed. `submitter` is the domain of From and of the DKIM signature.
    """

    kind: str
    report_id: str
    policy_domain: Domain
    window: Window
    submitter: Domain
    subject: str
    filename: str
    media_type: str
    content: bytes = field(repr=False)
    explanation: str = ""
    mail_type: str = "multipart/mixed"
    headers: tuple[tuple[str, str], ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Delivered:
    """How sending a report to one target ended. `permanent` is about a refusal; `detail` is one line for the log."""

    accepted: bool
    permanent: bool = False
    detail: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class ReportOutcome:
    """A target of a report that reached its end: delivered, failed or suppressed, after `attempts`."""

    target: ReportTarget
    state: str
    attempts: int
    detail: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class ReportJob:
    """A kind of report that is built and sent once per window.

    Core calls, in this order, for each window that has ended on every node: `windows()` lists windows with unreported
    results, oldest first; `subjects(window)` lists what to report about, one report run each; `targets(window, subject)`
    finds the addresses (DNS), none means that nobody asked; then, in one transaction together with the outbox,
    `build(connection, window, subject, targets)` takes the counters, removes them, and returns the reports. A crash before
    the commit leaves the counters, a crash behind it the outbox: nothing is sent twice or lost.
    `period` and `jitter` are seconds; sending starts up to `jitter` after the window's end.
    """

    name: str
    period: int = 86_400
    jitter: int = 14_400
    windows: Callable[[], Awaitable[Sequence[Window]]]
    subjects: Callable[[Window], Awaitable[Sequence[str]]]
    targets: Callable[[Window, str], Awaitable[Sequence[ReportTarget]]]
    build: Callable[[Connection, Window, str, Sequence[ReportTarget]], Sequence[Report]]
