"""The report as JSON, exactly in the shape of RFC 8460 §4.4.

Field names are those of the RFC with `_` for `-`. What a failure before any connection cannot know (addresses, host) is left
out. `failure-details` and `policy-string` are always lists.
"""

from __future__ import annotations

import gzip
from datetime import UTC, datetime
from typing import Annotated, Final

import msgspec
from msgspec import Meta, Struct

from postward.errors import PostwardError
from postward.model import MICROSECONDS, Window

MEDIA_TYPE: Final = "application/tlsrpt+gzip"
NO_POLICY: Final = "no-policy-found"
POLICY_TYPES: Final = frozenset({"tlsa", "sts", NO_POLICY})

Count = Annotated[int, Meta(ge=0)]


class DateRange(Struct, frozen=True, rename="kebab"):
    """The window, RFC 3339 with the last second as its end (RFC 8460 §4.1 and Appendix B)."""

    start_datetime: str
    end_datetime: str

    @classmethod
    def of(cls, window: Window) -> DateRange:
        """The first and the last second of a half-open window."""
        return cls(_rfc3339(window.start), _rfc3339(window.end - MICROSECONDS))


class Policy(Struct, frozen=True, rename="kebab", omit_defaults=True):
    """What bound the sessions. `policy_domain` and `mx_host` are A-labels; `mx_host` is for type `sts` only."""

    policy_type: str
    policy_string: tuple[str, ...]
    policy_domain: str
    mx_host: tuple[str, ...] | str = ()


class Summary(Struct, frozen=True, rename="kebab", gc=False):
    """Sessions that complied with the policy, and sessions that did not."""

    total_successful_session_count: Count
    total_failure_session_count: Count


class FailureDetail(Struct, frozen=True, rename="kebab", omit_defaults=True, gc=False):
    """One kind of failure with its circumstances; counts of several details may overlap (RFC 8460 §4)."""

    result_type: str
    sending_mta_ip: str = ""
    receiving_mx_hostname: str = ""
    receiving_mx_helo: str = ""
    receiving_ip: str = ""
    failed_session_count: Count = 0
    additional_information: str = ""
    failure_reason_code: str = ""


class PolicyResult(Struct, frozen=True, rename="kebab"):
    """A policy, its sessions and what failed."""

    policy: Policy
    summary: Summary
    failure_details: tuple[FailureDetail, ...] = ()


class TlsReport(Struct, frozen=True, rename="kebab"):
    """A whole report. The domain of `contact_info` is the submitter (RFC 8460 §5.3)."""

    organization_name: str
    date_range: DateRange
    contact_info: str
    report_id: str
    policies: tuple[PolicyResult, ...]


class ReportError(PostwardError):
    """A text that is no TLS report; the message says where."""


_DECODER: Final = msgspec.json.Decoder(TlsReport)


def to_json(report: TlsReport) -> bytes:
    """The report as UTF-8 JSON."""
    return msgspec.json.encode(report)


def compress(content: bytes) -> bytes:
    """gzip with no name and no time, so that equal reports are equal bytes (RFC 8460 §5.2)."""
    return gzip.compress(content, 6, mtime=0)


def parse(content: bytes) -> TlsReport:
    """Read a report of the RFC's shape. `mx-host` as a plain string becomes a tuple (erratum 6241). Raises `ReportError`."""
    try:
        report = _DECODER.decode(content)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as exc:
        raise ReportError(f"not a TLS report: {exc}") from exc
    return msgspec.structs.replace(report, policies=tuple(map(_normalised, report.policies)))


def _normalised(result: PolicyResult) -> PolicyResult:
    if not isinstance(result.policy.mx_host, str):
        return result
    policy = msgspec.structs.replace(result.policy, mx_host=(result.policy.mx_host,))
    return msgspec.structs.replace(result, policy=policy)


def _rfc3339(instant: int) -> str:
    return datetime.fromtimestamp(instant // MICROSECONDS, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
