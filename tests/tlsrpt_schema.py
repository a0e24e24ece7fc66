"""RFC 8460 §4.4 as a checker of plain JSON, written from the RFC and not from the code."""

from __future__ import annotations

import ipaddress
import re
from typing import Any

RESULT_TYPES = {
    "starttls-not-supported",
    "certificate-host-mismatch",
    "certificate-expired",
    "certificate-not-trusted",
    "validation-failure",
    "tlsa-invalid",
    "dnssec-invalid",
    "dane-required",
    "sts-policy-fetch-error",
    "sts-policy-invalid",
    "sts-webpki-invalid",
}
DATE_TIME = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(\.\d+)?(Z|[+-]\d\d:\d\d)")
ADDR_SPEC = re.compile(r"[^@\s]+@[a-z0-9.-]+")
A_LABELS = re.compile(r"[a-z0-9_-]+(\.[a-z0-9_-]+)*")
PATTERN = re.compile(r"(\*\.)?[a-z0-9_-]+(\.[a-z0-9_-]+)*")


def check(report: Any) -> None:
    """Raise `AssertionError` unless this is a report to the letter."""
    keys(report, {"organization-name", "date-range", "contact-info", "report-id", "policies"})
    string(report["organization-name"])
    string(report["report-id"])
    assert ADDR_SPEC.fullmatch(report["contact-info"])
    keys(report["date-range"], {"start-datetime", "end-datetime"})
    assert DATE_TIME.fullmatch(report["date-range"]["start-datetime"])
    assert DATE_TIME.fullmatch(report["date-range"]["end-datetime"])
    assert isinstance(report["policies"], list)
    for entry in report["policies"]:
        check_entry(entry)


def check_entry(entry: Any) -> None:
    keys(entry, {"policy", "summary", "failure-details"})
    check_policy(entry["policy"])
    keys(entry["summary"], {"total-successful-session-count", "total-failure-session-count"})
    assert all(type(number) is int and number >= 0 for number in entry["summary"].values())
    assert isinstance(entry["failure-details"], list)
    for detail in entry["failure-details"]:
        check_detail(detail)


def check_policy(policy: Any) -> None:
    keys(policy, {"policy-type", "policy-string", "policy-domain"}, {"mx-host"})
    assert policy["policy-type"] in {"tlsa", "sts", "no-policy-found"}
    assert isinstance(policy["policy-string"], list)
    assert all(isinstance(line, str) and "\n" not in line for line in policy["policy-string"])
    assert A_LABELS.fullmatch(policy["policy-domain"])
    if policy["policy-type"] == "no-policy-found":
        assert policy["policy-string"] == []
    if "mx-host" in policy:
        assert policy["policy-type"] == "sts"
        assert isinstance(policy["mx-host"], list)
        assert all(PATTERN.fullmatch(pattern) for pattern in policy["mx-host"])


def check_detail(detail: Any) -> None:
    optional = {"sending-mta-ip", "receiving-mx-hostname", "receiving-mx-helo", "receiving-ip"}
    keys(detail, {"result-type", "failed-session-count"}, optional | {"additional-information", "failure-reason-code"})
    assert detail["result-type"] in RESULT_TYPES
    assert type(detail["failed-session-count"]) is int
    assert detail["failed-session-count"] > 0
    for key in {"sending-mta-ip", "receiving-ip"} & detail.keys():
        assert str(ipaddress.ip_address(detail[key])) == detail[key]
    if "receiving-mx-hostname" in detail:
        assert A_LABELS.fullmatch(detail["receiving-mx-hostname"])


def keys(value: Any, required: set[str], optional: set[str] = frozenset()) -> None:  # type: ignore[assignment]
    assert isinstance(value, dict)
    assert required <= value.keys() <= required | optional, value.keys()


def string(value: Any) -> None:
    assert isinstance(value, str)
    assert value
