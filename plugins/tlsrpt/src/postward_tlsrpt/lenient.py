"""Read a report that is not quite one: what the field is known to write becomes what RFC 8460 §4.4 means, and is noted.

Only for what the strict decoder refuses. What cannot be understood without guessing is an error: a count that is negative, a
date that is none, a report without an id.
"""

from __future__ import annotations

import re
from typing import Any, Final

import msgspec

from postward_tlsrpt.defects import NO_TYPE
from postward_tlsrpt.report import (
    NO_POLICY,
    DateRange,
    FailureDetail,
    Policy,
    PolicyResult,
    ReportError,
    Summary,
    TlsReport,
)

_BOM: Final = b"\xef\xbb\xbf"
_TRAILING: Final = re.compile(r"trailing characters \(byte (\d+)\)")
_DIGITS: Final = re.compile(r"[0-9]{1,18}")
# Field of ours: names of the RFC and of its drafts.
_DETAIL_TEXTS: Final = {
    "sending_mta_ip": ("sending-mta-ip",),
    "receiving_mx_hostname": ("receiving-mx-hostname",),
    "receiving_mx_helo": ("receiving-mx-helo",),
    "receiving_ip": ("receiving-ip",),
    "additional_information": ("additional-information",),
    "failure_reason_code": ("failure-reason-code", "failure-error-code"),
}
DRAFT_NAME: Final = b'"failure-error-code"'
"""The strict decoder passes over names that it does not know, and would lose the reason."""


def convert(content: bytes, defects: set[str]) -> TlsReport:
    """Read a report, adding what was passed over to `defects`. Raises `ReportError`."""
    value = _object(_decoded(content, defects), "the report")
    dates = _object(value.get("date-range"), "date-range")
    policies = _list(value.get("policies"), defects)
    report_id = _text(value.get("report-id"), "report-id", defects)
    return TlsReport(
        organization_name=_wanted(value, "organization-name", defects),
        date_range=DateRange(
            _needed(dates.get("start-datetime"), "start-datetime"), _needed(dates.get("end-datetime"), "end-datetime")
        ),
        contact_info=_wanted(value, "contact-info", defects),
        report_id=report_id,
        policies=tuple(
            _result(_object(each, f"policies[{at}]"), f"policies[{at}]", defects) for at, each in enumerate(policies)
        ),
    )


def _decoded(content: bytes, defects: set[str]) -> Any:
    if content.startswith(_BOM):
        defects.add("byte-order-mark")
        content = content.removeprefix(_BOM)
    try:
        return msgspec.json.decode(content)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as exc:
        match = _TRAILING.search(str(exc))
        if match is None:
            raise ReportError(_why(exc)) from None
    # What stands behind the object was never a part of it.
    try:
        value = msgspec.json.decode(content[: int(match[1]) - 1])
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as exc:
        raise ReportError(_why(exc)) from None
    defects.add("trailing-data")
    return value


def _why(error: Exception) -> str:
    return "not JSON: nested too deeply" if isinstance(error, RecursionError) else f"not JSON: {error}"


def _result(value: dict[str, Any], where: str, defects: set[str]) -> PolicyResult:
    summary = _object(value.get("summary"), f"{where}.summary")
    good = _count(summary.get("total-successful-session-count", 0), f"{where}: total-successful-session-count", defects)
    bad = _count(summary.get("total-failure-session-count", 0), f"{where}: total-failure-session-count", defects)
    details = value.get("failure-details", [])
    if details is None:
        defects.add("null-value")
        details = []
    return PolicyResult(
        policy=_policy(_object(value.get("policy"), f"{where}.policy"), defects),
        summary=Summary(good, bad),
        failure_details=tuple(
            _detail(_object(each, f"{where}.failure-details[{at}]"), where, defects)
            for at, each in enumerate(_list(details, defects))
        ),
    )


def _policy(value: dict[str, Any], defects: set[str]) -> Policy:
    policy_type = _text(value.get("policy-type"), "policy-type", defects)
    lines = value.get("policy-string")
    if lines is None and policy_type != NO_POLICY:
        defects.add("policy-string-missing")
    hosts = value.get("mx-host", [])
    if hosts is None:
        defects.add("null-value")
    return Policy(
        policy_type=policy_type,
        policy_string=_texts(lines, "policy-string-not-array", defects),
        policy_domain=_text(value.get("policy-domain"), "", defects),
        mx_host=_texts(hosts, "mx-host-not-array", defects),
    )


def _detail(value: dict[str, Any], where: str, defects: set[str]) -> FailureDetail:
    texts: dict[str, str] = {}
    for name, (right, *drafts) in _DETAIL_TEXTS.items():
        for each in drafts:
            if each in value and right not in value:
                defects.add("draft-name")
                right = each
        if value.get(right, "") is None:
            defects.add("null-value")
        texts[name] = _text(value.get(right), "", defects)
    count = _count(value.get("failed-session-count", 0), f"{where}: failed-session-count", defects)
    result_type = _text(value.get("result-type"), "", defects) or NO_TYPE
    return FailureDetail(result_type=result_type, failed_session_count=count, **texts)


def _object(value: Any, where: str) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise ReportError(f"{where} is {'missing' if value is None else 'no object'}")
    return value


def _list(value: Any, defects: set[str]) -> list[Any]:
    if isinstance(value, dict):
        defects.add("policies-not-array")
        return [value]
    if not isinstance(value, list):
        raise ReportError("the policies are missing" if value is None else "the policies are no array")
    return value


def _needed(value: Any, name: str) -> str:
    if not isinstance(value, str):
        raise ReportError(f"{name} is {'missing' if value is None else 'no text'}")
    return value


def _wanted(value: dict[str, Any], name: str, defects: set[str]) -> str:
    if value.get(name) is None:
        defects.add(f"{name}-missing")
    return _text(value.get(name), "", defects)


def _text(value: Any, needed: str, defects: set[str]) -> str:
    """A text; one that is `needed` (its name) must be there."""
    if value is None and not needed:
        return ""
    if isinstance(value, str):
        return value
    if isinstance(value, int | float) and not isinstance(value, bool):
        defects.add("not-text")
        return str(value)
    raise ReportError(f"{needed or 'a text'} is {'missing' if value is None else 'no text'}")


def _texts(value: Any, defect: str, defects: set[str]) -> tuple[str, ...]:
    """An array of texts, also from one text, and from arrays in an array."""
    if value is None:
        return ()
    if isinstance(value, str):
        defects.add(defect)
        return (value,)
    if not isinstance(value, list):
        raise ReportError(f"{defect.removesuffix('-not-array')} is no array")
    found: list[str] = []
    for each in value:
        if isinstance(each, list):
            defects.add(defect)
            found += (_text(inner, "", defects) for inner in each)
        else:
            found.append(_text(each, "", defects))
    return tuple(found)


def _count(value: Any, where: str, defects: set[str]) -> int:
    """A count, also one that is written as text or with a fraction of zero."""
    if isinstance(value, int) and not isinstance(value, bool):
        return _not_negative(value, where)
    if value is None:
        defects.add("null-value")
        return 0
    whole = isinstance(value, float) and value.is_integer()
    if whole or (isinstance(value, str) and _DIGITS.fullmatch(value.strip())):
        defects.add("count-not-integer")
        return _not_negative(int(value), where)
    raise ReportError(f"{where} is no count")


def _not_negative(count: int, where: str) -> int:
    if count < 0:
        raise ReportError(f"{where} is negative")
    return count
