"""Reading the reports of others (RFC 8460 §4): lenient where the field is, strict where it matters, and never surprised."""

from __future__ import annotations

import json
from datetime import date
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from postward.model import ResultType, Window
from postward_tlsrpt.advice import RESULT_TYPES, UNKNOWN, advice_for, reason_explained
from postward_tlsrpt.defects import DEFECTS, NO_TYPE
from postward_tlsrpt.read import MAX_COUNT, MAX_JSON, Reading, ReportError, read
from postward_tlsrpt.report import DateRange, FailureDetail, Policy, PolicyResult, Summary, TlsReport, to_json
from tlsrpt_samples import CABLE, SAMPLES, STS, as_json, detail, plain, policy, without

DAY = Window.of_day("2026-11-23")
SECOND = 1_000_000


def read_value(value: Any, **options: Any) -> Reading:
    return read(as_json(value), **options)


EXPECTED: dict[str, tuple[int, int, dict[str, int], tuple[str, ...]]] = {
    "plain": (5326, 303, {"certificate-expired": 303}, ()),
    "large-mail": (15, 0, {}, ()),
    "cloud-office": (41, 0, {}, ("date-without-zone",)),
    "postfix": (9, 1, {"starttls-not-supported": 1}, ("policy-domain-missing",)),
    "post-ru": (90, 5, {"sts-policy-fetch-error": 5, "certificate-not-trusted": 4}, ()),
    "cable": (1, 2, {"validation-failure": 2}, ("draft-name", "mx-host-not-array", "null-value")),
    "no-contact": (5326, 303, {"certificate-expired": 303}, ("contact-info-missing",)),
}


@pytest.mark.parametrize("name", SAMPLES)
def test_the_field_is_understood_and_its_defects_are_told(name: str) -> None:
    """RFC 8460 §4.4: reports of the known senders, each with its habits."""
    reading = read_value(SAMPLES[name], now=DAY.end)
    assert (reading.successful, reading.failed, reading.failures, reading.defects) == EXPECTED[name]
    assert (reading.begin, reading.end) == (DAY.start, DAY.end - SECOND)


def change(path: str, value: Any) -> dict[str, Any]:
    """The plain report with one thing changed; `...` removes it. `a.0.b` names it."""
    report: Any = json.loads(as_json(plain()))
    *way, last = path.split(".")
    here = report
    for step in way:
        here = here[int(step) if step.isdecimal() else step]
    if value is ...:
        del here[last]
    else:
        here[int(last) if last.isdecimal() else last] = value
    return dict(report)


POLICY = "policies.0.policy"
DETAIL = "policies.0.failure-details.0"
LENIENT = [
    ("organization-name", None, "organization-name-missing"),
    ("organization-name", ..., "organization-name-missing"),
    ("contact-info", ..., "contact-info-missing"),
    ("contact-info", "", "contact-info-missing"),
    ("report-id", 17, "not-text"),
    ("date-range.start-datetime", "2026-11-23T00:00:00", "date-without-zone"),
    ("date-range.start-datetime", "2026-11-23 00:00:00Z", "date-format"),
    ("date-range.start-datetime", "2026-11-20T00:00:00Z", "long-range"),
    ("policies", policy(), "policies-not-array"),
    (f"{POLICY}.policy-domain", ..., "policy-domain-missing"),
    (f"{POLICY}.policy-domain", None, "policy-domain-missing"),
    (f"{POLICY}.policy-domain", "bücher.example", "u-label"),
    (f"{POLICY}.policy-type", "x-new", "policy-type-unknown"),
    (f"{POLICY}.policy-string", ..., "policy-string-missing"),
    (f"{POLICY}.policy-string", "version: STSv1", "policy-string-not-array"),
    (f"{POLICY}.policy-string", [["version: STSv1"], "mx: a.example"], "policy-string-not-array"),
    (f"{POLICY}.mx-host", "mx1.example.com", "mx-host-not-array"),
    (f"{POLICY}.mx-host", None, "null-value"),
    ("policies.0.summary.total-failure-session-count", "303", "count-not-integer"),
    ("policies.0.summary.total-failure-session-count", 303.0, "count-not-integer"),
    ("policies.0.failure-details", ..., "failure-details-missing"),
    ("policies.0.failure-details", None, "failure-details-missing"),
    ("policies.0.failure-details", detail(), "policies-not-array"),
    (f"{DETAIL}.failed-session-count", 9, "counts-disagree"),
    (f"{DETAIL}.failed-session-count", 9000, "counts-disagree"),
    (f"{DETAIL}.result-type", "certificate-haunted", "result-type-unknown"),
    (f"{DETAIL}.result-type", "", "result-type-missing"),
    (f"{DETAIL}.result-type", ..., "result-type-missing"),
    (f"{DETAIL}.receiving-ip", None, "null-value"),
    (f"{DETAIL}.failure-reason-code", 42, "not-text"),
]


@pytest.mark.parametrize(("path", "value", "defect"), LENIENT)
def test_a_leniency_is_a_defect_of_the_report(path: str, value: Any, defect: str) -> None:
    """RFC 8460 §4.4, as the field writes it."""
    reading = read_value(change(path, value))
    assert defect in reading.defects
    assert set(reading.defects) <= DEFECTS.keys()


STRICT = [
    ("report-id", ...),
    ("report-id", ""),
    ("report-id", "  "),
    ("report-id", "x" * 2000),
    ("date-range", ...),
    ("date-range.end-datetime", "yesterday"),
    ("date-range.end-datetime", None),
    ("date-range.end-datetime", "2026-11-22T00:00:00Z"),
    ("policies", []),
    ("policies", None),
    ("policies", "none"),
    ("policies.0", 5),
    (POLICY, ...),
    ("policies.0.summary", ...),
    ("policies.0.summary.total-successful-session-count", -1),
    ("policies.0.summary.total-successful-session-count", "-1"),
    ("policies.0.summary.total-successful-session-count", MAX_COUNT + 1),
    ("policies.0.summary.total-successful-session-count", 10**30),
    ("policies.0.summary.total-successful-session-count", 1.5),
    ("policies.0.summary.total-successful-session-count", True),
    (f"{DETAIL}.failed-session-count", -5),
    (f"{DETAIL}.failed-session-count", -5.0),
    (f"{DETAIL}.failed-session-count", 10**13),
    ("organization-name", {}),
]


@pytest.mark.parametrize(("path", "value"), STRICT)
def test_what_would_be_a_guess_is_refused(path: str, value: Any) -> None:
    with pytest.raises(ReportError) as caught:
        read_value(change(path, value))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"null",
        b"[]",
        b'"text"',
        b"{",
        b"\xff\xfe{\x00}\x00",
        b"[" * 200_000,
        b'{"x":' * 100_000,
        b'{"report-id": "\xff"}',
        b'{"report-id": "\\ud800"}',
        b'{"report-id": 1e999}',
    ],
)
def test_rubbish_is_one_error(content: bytes) -> None:
    with pytest.raises(ReportError):
        read(content)


def test_nesting_in_fields_that_nobody_knows_is_refused() -> None:
    """Both decoders look at what they pass over."""
    with pytest.raises(ReportError):
        read(as_json(plain())[:-1] + b', "x": ' + b"[" * 100_000 + b"]" * 100_000 + b"}")


def test_too_much_json_is_refused() -> None:
    with pytest.raises(ReportError, match="more than"):
        read(as_json(plain()) + b" " * MAX_JSON)


def test_more_details_than_anybody_has_are_refused() -> None:
    report = TlsReport(
        organization_name="x",
        date_range=DateRange.of(DAY),
        contact_info="a@b.example",
        report_id="1",
        policies=(
            PolicyResult(
                policy=Policy(policy_type="sts", policy_string=(), policy_domain="a.example"),
                summary=Summary(0, 0),
                failure_details=(FailureDetail(result_type="validation-failure"),) * 100_001,
            ),
        ),
    )
    with pytest.raises(ReportError, match="failure details"):
        read(to_json(report))


def test_a_byte_order_mark_and_what_stands_behind_are_passed_over() -> None:
    reading = read(b"\xef\xbb\xbf" + as_json(plain()) + b"\n-- \ngarbage")
    assert reading.defects == ("byte-order-mark", "trailing-data")
    assert reading.failed == 303


def test_the_reason_under_the_name_of_a_draft_is_kept() -> None:
    (result,) = read_value(CABLE).report.policies
    assert result.failure_details[0].failure_reason_code == "alert 80"
    assert result.policy.mx_host == ("mx1.example.com",)


def test_an_unknown_result_type_is_kept_and_a_missing_one_has_a_name() -> None:
    """RFC 8460 §4.3: the list is expected to grow."""
    details = [detail("certificate-haunted", 1), without(detail(failed=2), "result-type"), detail("", 3)]
    reading = read_value(plain(policies=[policy(0, 6, **{"failure-details": details})]))
    assert reading.failures == {NO_TYPE: 5, "certificate-haunted": 1}


def test_names_outside_ascii_become_a_labels() -> None:
    """RFC 8460 §4.4: A-labels MUST be used."""
    reading = read_value(change(f"{POLICY}.policy-domain", "bücher.example"))
    assert reading.report.policies[0].policy.policy_domain == "xn--bcher-kva.example"


@pytest.mark.parametrize(
    ("end", "hours", "future"),
    [
        ("2026-11-23T23:59:59Z", 0, False),
        ("2026-11-24T00:00:00Z", 0, False),
        ("2026-11-24T00:59:00Z", 0, False),
        ("2026-11-24T02:00:00Z", 0, True),
        ("2026-11-24T02:00:00Z", 1, False),
        ("2026-11-24T02:00:00+02:00", 0, False),
        ("2026-11-24T12:00:00", 0, False),
        ("2026-11-24T16:00:00", 0, True),
    ],
)
def test_the_future_is_not_reported_about(end: str, hours: int, future: bool) -> None:
    """A date without zone may be that of any place on earth; of others an hour is forgiven."""
    value = change("date-range.end-datetime", end)
    now = DAY.end + hours * 3600 * SECOND
    if future:
        with pytest.raises(ReportError, match="future"):
            read_value(value, now=now)
    else:
        assert read_value(value, now=now)
    assert read_value(value)


@pytest.mark.parametrize(("contact", "submitter"), [("a@B.example", "b.example"), ("a", ""), ("a@", ""), ("a@-.example", "")])
def test_the_submitter_is_the_domain_of_the_contact(contact: str, submitter: str) -> None:
    """RFC 8460 §5.3."""
    assert read_value(plain(**{"contact-info": contact})).submitter == submitter


NAMES = st.from_regex(r"[a-z0-9]{1,10}(\.[a-z0-9]{1,10}){1,3}", fullmatch=True)
TEXTS = st.text(st.characters(codec="utf-8", exclude_characters="\0"), max_size=30)
COUNTS = st.integers(0, 10**9)
DETAILS = st.builds(
    FailureDetail,
    result_type=st.sampled_from([str(each) for each in ResultType]),
    sending_mta_ip=st.ip_addresses().map(str) | st.just(""),
    receiving_mx_hostname=NAMES | st.just(""),
    receiving_mx_helo=TEXTS,
    receiving_ip=st.ip_addresses().map(str) | st.just(""),
    failed_session_count=COUNTS,
    additional_information=TEXTS,
    failure_reason_code=TEXTS,
)
RESULTS = st.builds(
    PolicyResult,
    policy=st.builds(
        Policy,
        policy_type=st.sampled_from(["sts", "tlsa", "no-policy-found"]),
        policy_string=st.lists(TEXTS, max_size=4).map(tuple),
        policy_domain=NAMES,
        mx_host=st.lists(NAMES, max_size=3).map(tuple),
    ),
    summary=st.builds(Summary, COUNTS, COUNTS),
    failure_details=st.lists(DETAILS, max_size=4).map(tuple),
)
REPORTS = st.builds(
    TlsReport,
    organization_name=TEXTS,
    date_range=st.dates(min_value=date(2000, 1, 1)).map(lambda day: DateRange.of(Window.of_day(day.isoformat()))),
    contact_info=NAMES.map(lambda name: f"postmaster@{name}"),
    report_id=TEXTS.filter(lambda text: text.strip() != ""),
    policies=st.lists(RESULTS, min_size=1, max_size=4).map(tuple),
)


@settings(max_examples=60, deadline=None)
@given(REPORTS)
def test_what_is_built_is_read_back_as_it_was(report: TlsReport) -> None:
    reading = read(to_json(report))
    assert reading.report == report
    assert set(reading.defects) <= {"counts-disagree", "failure-details-missing"}


JSON_LEAVES = st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=20)
JSON_VALUES = st.recursive(
    JSON_LEAVES,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=9), inner, max_size=3),
    max_leaves=8,
)
PATHS = sorted({path for path, _, _ in LENIENT} | {path for path, _ in STRICT})


def read_or_error(content: bytes) -> Reading | str:
    try:
        return read(content, now=DAY.end)
    except ReportError as exc:
        return str(exc)


@settings(max_examples=60, deadline=None)
@given(st.sampled_from(PATHS), JSON_VALUES, st.sampled_from(PATHS), JSON_VALUES)
def test_no_value_anywhere_surprises(first: str, value: Any, second: str, other: Any) -> None:
    """Whatever stands where, it is read, or there is one error of one line."""
    try:
        report = change(first, value)
    except (KeyError, IndexError, TypeError):
        return
    here: Any = report
    try:
        *way, last = second.split(".")
        for step in way:
            here = here[int(step) if step.isdecimal() else step]
        here[int(last) if last.isdecimal() else last] = other
    except (KeyError, IndexError, TypeError):
        pass
    reading = read_or_error(json.dumps(report).encode())
    if isinstance(reading, Reading):
        assert set(reading.defects) <= DEFECTS.keys()
        assert reading.successful >= 0
        assert reading.failed >= 0
    else:
        assert "\n" not in reading


@settings(max_examples=60, deadline=None)
@given(st.binary(max_size=300), st.integers(0, 600), st.booleans())
def test_no_octets_surprise(noise: bytes, at: int, replace: bool) -> None:
    content = as_json(plain(policies=[policy(policy={"policy-type": "sts", "policy-string": STS})]))
    mangled = content[:at] + noise + content[at + (len(noise) if replace else 0) :]
    assert "\n" not in str(read_or_error(mangled))


def test_every_defect_is_described_and_can_happen() -> None:
    """A slug that nothing sets is dead, one that is not described cannot be shown."""
    source = "".join(path.read_text() for path in Path("plugins/tlsrpt/src/postward_tlsrpt").glob("*.py"))
    for slug, text in DEFECTS.items():
        assert text.endswith(".")
        stem = slug if slug not in ("organization-name-missing",) else "-missing"
        assert source.count(f'"{slug}"') >= 2 or stem != slug, slug


@pytest.mark.parametrize("result_type", ResultType)
def test_each_result_type_has_advice(result_type: ResultType) -> None:
    advice = advice_for(str(result_type))
    assert advice is RESULT_TYPES[str(result_type)]
    assert advice.happened.endswith(".")
    assert advice.do.endswith(".")


def test_reasons_are_explained_and_unknown_ones_are_not() -> None:
    assert advice_for("certificate-haunted") is UNKNOWN
    assert "expired" in reason_explained("extended-dns-error-7-signature-expired")
    assert "missing" in reason_explained("extended-dns-error-10-rrsigs-missing")
    assert reason_explained("extended-dns-error-77") == ""
    assert reason_explained("Self-Signed certificate") == "The certificate is signed by itself."
    assert reason_explained("because") == ""
