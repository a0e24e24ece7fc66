"""Read a report that somebody sent (RFC 8460 §4): the strict form first, then what the field writes instead.

Nothing in it is believed: sizes, counts and dates have limits, and whatever is wrong comes as one `ReportError` of one line.
What was passed over is told by the slugs of `postward_tlsrpt.defects`.
"""

from __future__ import annotations

import hashlib
import re
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from functools import lru_cache
from typing import Final

import msgspec

from postward.errors import InvalidName
from postward.model import MICROSECONDS, ResultType
from postward.names import Domain
from postward_tlsrpt import lenient
from postward_tlsrpt.defects import NO_TYPE
from postward_tlsrpt.report import POLICY_TYPES, Policy, PolicyResult, ReportError, TlsReport

__all__ = ["MAX_COUNT", "MAX_JSON", "Reading", "ReportError", "read"]

MAX_JSON: Final = 20 << 20
MAX_POLICIES: Final = 10_000
MAX_DETAILS: Final = 100_000
MAX_COUNT: Final = 10**12
MAX_ID: Final = 1000
_SLACK: Final = 3600 * MICROSECONDS
# A date without zone may be that of any place on earth.
_ZONE_SLACK: Final = 14 * _SLACK
_TWO_DAYS: Final = 48 * _SLACK
_DATE: Final = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(\.\d+)?(Z|[+-]\d\d:\d\d)", re.ASCII | re.IGNORECASE)
_EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)
_RESULT_TYPES: Final = frozenset(str(each) for each in ResultType)
_STRICT: Final = msgspec.json.Decoder(TlsReport)


@dataclass(frozen=True, slots=True, kw_only=True)
class Reading:
    """A report that was read. `begin` and `end` are its instants as it has them, in microseconds; `defects` are sorted slugs.

    `content` is its JSON. `about` is the domain that its mail or file says it is about, empty where unknown: for
    policies that name none.
    """

    report: TlsReport
    begin: int
    end: int
    defects: tuple[str, ...] = ()
    content: bytes = field(default=b"", repr=False)
    about: str = ""

    @property
    def digest(self) -> str:
        """The SHA-256 of its JSON."""
        return hashlib.sha256(self.content).hexdigest()

    @property
    def successful(self) -> int:
        """Sessions that complied, over all policies: one to which two applied counts in both (RFC 8460 §4)."""
        return sum(result.summary.total_successful_session_count for result in self.report.policies)

    @property
    def failed(self) -> int:
        """Sessions that did not comply, over all policies."""
        return sum(result.summary.total_failure_session_count for result in self.report.policies)

    @property
    def failures(self) -> dict[str, int]:
        """Failed sessions by result type, the most frequent first; they may overlap (RFC 8460 §4)."""
        counts: Counter[str] = Counter()
        for result in self.report.policies:
            for detail in result.failure_details:
                counts[detail.result_type] += detail.failed_session_count
        return dict(sorted(counts.items(), key=lambda item: (-item[1], item[0])))

    @property
    def submitter(self) -> str:
        """The domain of contact-info (RFC 8460 §5.3), empty where that is no address."""
        return domain_or_nothing(self.report.contact_info.rpartition("@")[2]) if "@" in self.report.contact_info else ""


def read(content: bytes, *, now: int | None = None, about: str = "", defects: Iterable[str] = ()) -> Reading:
    """Read the JSON of a report. `now`, microseconds, refuses reports of the future; `defects` were found around it.

    Raises `ReportError`, and nothing else, whatever the content is.
    """
    if len(content) > MAX_JSON:
        raise ReportError(f"JSON of more than {MAX_JSON} bytes")
    found = set(defects)
    report = _decode(content, found)
    if not report.report_id.strip() or len(report.report_id) > MAX_ID:
        raise ReportError("report-id is empty" if len(report.report_id) <= MAX_ID else "report-id is too long")
    begin, end = (_instant(text, found) for text in (report.date_range.start_datetime, report.date_range.end_datetime))
    if end < begin:
        raise ReportError("the report ends before it begins")
    if now is not None and end - now > (_ZONE_SLACK if "date-without-zone" in found else _SLACK):
        raise ReportError("the report is about the future")
    if end - begin > _TWO_DAYS:
        found.add("long-range")
    return Reading(
        report=_checked(report, found),
        begin=begin,
        end=end,
        defects=tuple(sorted(found)),
        content=content,
        about=about,
    )


def domain_or_nothing(text: str) -> str:
    """A domain name in A-labels, or the empty text for what is none."""
    try:
        return str(Domain(text.strip())) if text else ""
    except InvalidName:
        return ""


def _decode(content: bytes, defects: set[str]) -> TlsReport:
    if lenient.DRAFT_NAME not in content:
        try:
            return _STRICT.decode(content)
        except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
            pass
    return lenient.convert(content, defects)


@lru_cache(maxsize=512)
def _parsed_date(text: str) -> tuple[int, str]:
    """The instant, and the defect of its form."""
    defect = ""
    try:
        moment = datetime.fromisoformat(text.strip().replace(":60", ":59"))  # a leap second (RFC 3339 §5.6)
    except ValueError:
        raise ReportError(f"not a date: {text[:40]!r}") from None
    if moment.tzinfo is None:
        defect, moment = "date-without-zone", moment.replace(tzinfo=UTC)
    elif _DATE.fullmatch(text) is None:
        defect = "date-format"
    return (moment - _EPOCH) // timedelta(microseconds=1), defect


def _instant(text: str, defects: set[str]) -> int:
    instant, defect = _parsed_date(text[:60])
    if defect:
        defects.add(defect)
    return instant


def _checked(report: TlsReport, defects: set[str]) -> TlsReport:
    """The report in its normal form: hosts as tuples, domains as A-labels; with its limits kept."""
    policies = report.policies
    if not policies:
        raise ReportError("the report has no policies")
    if len(policies) > MAX_POLICIES:
        raise ReportError(f"more than {MAX_POLICIES} policies")
    if sum([len(result.failure_details) for result in policies]) > MAX_DETAILS:
        raise ReportError(f"more than {MAX_DETAILS} failure details")
    if not report.contact_info:
        defects.add("contact-info-missing")
    types: set[str] = set()
    for result in policies:
        _check_counts(result, types, defects)
    if "" in types or NO_TYPE in types:
        defects.add("result-type-missing")
    if types - _RESULT_TYPES - {"", NO_TYPE}:
        defects.add("result-type-unknown")
    if not {result.policy.policy_type for result in policies} <= POLICY_TYPES:
        defects.add("policy-type-unknown")
    if "" not in types and all(_is_normal(result.policy) for result in policies):
        return report
    return msgspec.structs.replace(report, policies=tuple([_normal(result, defects) for result in policies]))


def _check_counts(result: PolicyResult, types: set[str], defects: set[str]) -> None:
    """Check the counts of a policy, and add its result types to `types`."""
    good, bad = result.summary.total_successful_session_count, result.summary.total_failure_session_count
    if good > MAX_COUNT or bad > MAX_COUNT:
        raise ReportError(f"a count is more than {MAX_COUNT}")
    if result.failure_details:
        # Counts below zero are refused by both decoders.
        counts = [detail.failed_session_count for detail in result.failure_details]
        types.update([detail.result_type for detail in result.failure_details])
        if (most := max(counts)) > MAX_COUNT:
            raise ReportError(f"a count is more than {MAX_COUNT}")
        if most > good + bad or sum(counts) < bad:
            defects.add("counts-disagree")
    elif bad:
        defects.add("failure-details-missing")


def _is_normal(policy: Policy) -> bool:
    return policy.policy_domain != "" and policy.policy_domain.isascii() and not isinstance(policy.mx_host, str)


def _normal(result: PolicyResult, defects: set[str]) -> PolicyResult:
    policy, changes = result.policy, {}
    if isinstance(policy.mx_host, str):
        defects.add("mx-host-not-array")
        changes["mx_host"] = (policy.mx_host,)
    if not policy.policy_domain:
        defects.add("policy-domain-missing")
    elif not policy.policy_domain.isascii():
        defects.add("u-label")
        if domain := domain_or_nothing(policy.policy_domain):
            changes["policy_domain"] = domain  # type: ignore[assignment]
    if changes:
        result = msgspec.structs.replace(result, policy=msgspec.structs.replace(policy, **changes))
    if any(not detail.result_type for detail in result.failure_details):
        details = tuple(
            detail if detail.result_type else msgspec.structs.replace(detail, result_type=NO_TYPE)
            for detail in result.failure_details
        )
        result = msgspec.structs.replace(result, failure_details=details)
    return result
