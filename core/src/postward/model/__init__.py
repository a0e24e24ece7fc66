"""The data that crosses hooks: frozen, complete in itself, never a database row.

A policy is data and a verdict is data; core only composes them. Instants are integer microseconds since 1970 UTC, days are
`YYYY-MM-DD` of UTC, domains are `Domain` (A-labels), certificates are DER.
"""

from __future__ import annotations

from postward.model.advice import DnsRecord, Finding, Schema, Severity, WebRoute
from postward.model.content import BytesContent, Content
from postward.model.message import (
    AuthResult,
    ConnectionReport,
    Delivery,
    Disposition,
    DsnRequest,
    DsnWish,
    InboundMessage,
    Judgement,
    Message,
    RecipientOutcome,
    ReportReceipt,
    TlsInfo,
)
from postward.model.report import Delivered, Report, ReportJob, ReportOutcome, ReportTarget
from postward.model.tls import (
    PASSED,
    Destination,
    Endpoint,
    Failure,
    JournalEntry,
    MessageResult,
    Mode,
    MxHost,
    PolicyResult,
    ResultBatch,
    ResultType,
    Scope,
    Security,
    TlsPeer,
    TlsPolicy,
    TlsResult,
    TlsWish,
    Verdict,
)
from postward.model.window import MICROSECONDS, Window, day_of

__all__ = [
    "MICROSECONDS",
    "PASSED",
    "AuthResult",
    "BytesContent",
    "ConnectionReport",
    "Content",
    "Delivered",
    "Delivery",
    "Destination",
    "Disposition",
    "DnsRecord",
    "DsnRequest",
    "DsnWish",
    "Endpoint",
    "Failure",
    "Finding",
    "InboundMessage",
    "JournalEntry",
    "Judgement",
    "Message",
    "MessageResult",
    "Mode",
    "MxHost",
    "PolicyResult",
    "RecipientOutcome",
    "Report",
    "ReportJob",
    "ReportOutcome",
    "ReportReceipt",
    "ReportTarget",
    "ResultBatch",
    "ResultType",
    "Schema",
    "Scope",
    "Security",
    "Severity",
    "TlsInfo",
    "TlsPeer",
    "TlsPolicy",
    "TlsResult",
    "TlsWish",
    "Verdict",
    "WebRoute",
    "Window",
    "day_of",
]
