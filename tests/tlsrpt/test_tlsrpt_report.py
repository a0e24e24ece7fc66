"""The report as JSON (RFC 8460 §4.4) and its names (§5.1, §5.3)."""

import gzip
import json
import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

import tlsrpt_schema
from postward.model import ResultType, Window
from postward.names import Domain
from postward_tlsrpt import naming
from postward_tlsrpt.report import (
    DateRange,
    FailureDetail,
    Policy,
    PolicyResult,
    ReportError,
    Summary,
    TlsReport,
    compress,
    parse,
    to_json,
)

DAY = Window.of_day("2026-11-24")

EXAMPLE = """{
  "organization-name": "Company-X",
  "date-range": {"start-datetime": "2016-04-01T00:00:00Z", "end-datetime": "2016-04-01T23:59:59Z"},
  "contact-info": "sts-reporting@company-x.example",
  "report-id": "5065427c-23d3-47ca-b6e0-946ea0e8c4be",
  "policies": [{
    "policy": {
      "policy-type": "sts",
      "policy-string": ["version: STSv1", "mode: testing", "mx: *.mail.company-y.example", "max_age: 86400"],
      "policy-domain": "company-y.example",
      "mx-host": "*.mail.company-y.example"
    },
    "summary": {"total-successful-session-count": 5326, "total-failure-session-count": 303},
    "failure-details": [{
      "result-type": "certificate-expired",
      "sending-mta-ip": "2001:db8:abcd:0012::1",
      "receiving-mx-hostname": "mx1.mail.company-y.example",
      "failed-session-count": 100
    }, {
      "result-type": "starttls-not-supported",
      "sending-mta-ip": "2001:db8:abcd:0013::1",
      "receiving-mx-hostname": "mx2.mail.company-y.example",
      "receiving-ip": "203.0.113.56",
      "failed-session-count": 200,
      "additional-information": "https://reports.company-x.example/report_info?id=5065427c-23d3#StarttlsNotSupported"
    }, {
      "result-type": "validation-failure",
      "sending-mta-ip": "198.51.100.62",
      "receiving-ip": "203.0.113.58",
      "receiving-mx-hostname": "mx-backup.mail.company-y.example",
      "failed-session-count": 3,
      "failure-reason-code": "X509_V_ERR_PROXY_PATH_LENGTH_EXCEEDED"
    }]
  }]
}"""


def test_the_example_of_the_rfc() -> None:
    """Appendix B; its `mx-host` is a string (erratum 6241)."""
    report = parse(EXAMPLE.encode())
    (result,) = report.policies
    assert result.policy.mx_host == ("*.mail.company-y.example",)
    assert result.summary == Summary(5326, 303)
    assert [detail.failed_session_count for detail in result.failure_details] == [100, 200, 3]
    assert result.failure_details[2].failure_reason_code == "X509_V_ERR_PROXY_PATH_LENGTH_EXCEEDED"
    expected = json.loads(EXAMPLE)
    expected["policies"][0]["policy"]["mx-host"] = ["*.mail.company-y.example"]
    assert json.loads(to_json(report)) == expected


def test_a_window_is_told_by_its_first_and_last_second() -> None:
    """§4.1 a UTC day; RFC 3339 with offset; the end as in Appendix B."""
    assert DateRange.of(DAY) == DateRange("2026-11-24T00:00:00Z", "2026-11-24T23:59:59Z")


def test_lists_are_lists_and_what_is_unknown_is_left_out() -> None:
    """§4.4: failure-details and policy-string are arrays, also when empty."""
    result = PolicyResult(
        policy=Policy(policy_type="no-policy-found", policy_string=(), policy_domain="b.example"),
        summary=Summary(1, 0),
    )
    report = TlsReport("Org", DateRange.of(DAY), "postmaster@a.example", "id@a.example", (result,))
    document = json.loads(to_json(report))
    tlsrpt_schema.check(document)
    assert document["policies"] == [
        {
            "policy": {"policy-type": "no-policy-found", "policy-string": [], "policy-domain": "b.example"},
            "summary": {"total-successful-session-count": 1, "total-failure-session-count": 0},
            "failure-details": [],
        }
    ]


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"{}",
        b"[]",
        b"\xff\xfe",
        EXAMPLE.replace("5326", "-1").encode(),
        EXAMPLE.replace("5326", '"5326"').encode(),
        b'{"policies":' + b"[" * 100_000,
    ],
)
def test_what_is_no_report(content: bytes) -> None:
    with pytest.raises(ReportError):
        parse(content)


def test_unknown_fields_and_types_are_accepted() -> None:
    """§4.3: the list of result types is expected to grow."""
    text = EXAMPLE.replace("certificate-expired", "quantum-trouble").replace('"policies"', '"x": 1, "policies"')
    assert parse(text.encode()).policies[0].failure_details[0].result_type == "quantum-trouble"


def test_equal_reports_are_equal_bytes() -> None:
    assert gzip.decompress(compress(b"x")) == b"x"
    assert compress(b"x") == compress(b"x")
    assert compress(b"x")[3:8] == bytes(5)


TEXT = st.text(st.characters(exclude_categories=["Cs"]), max_size=20)
LINE = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\n"), max_size=20)
NAME = st.sampled_from(["b.example", "xn--bcher-kva.example", "_x.b.example"])
IP = st.ip_addresses().map(str)
DETAIL = st.builds(
    FailureDetail,
    result_type=st.sampled_from([kind.value for kind in ResultType]),
    sending_mta_ip=st.just("") | IP,
    receiving_mx_hostname=st.just("") | NAME,
    receiving_mx_helo=TEXT,
    receiving_ip=st.just("") | IP,
    failed_session_count=st.integers(1, 2**53),
    failure_reason_code=TEXT,
)
POLICY = st.one_of(
    st.builds(Policy, st.just("tlsa"), st.lists(LINE, max_size=3).map(tuple), NAME),
    st.builds(Policy, st.just("sts"), st.lists(LINE, max_size=3).map(tuple), NAME, st.lists(NAME, max_size=3).map(tuple)),
    st.builds(Policy, st.just("no-policy-found"), st.just(()), NAME),
)
NUMBER = st.integers(0, 2**53)
REPORT = st.builds(
    TlsReport,
    organization_name=st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=20),
    date_range=st.just(DateRange.of(DAY)),
    contact_info=st.just("tls@a.example"),
    report_id=st.just("1@a.example"),
    policies=st.lists(
        st.builds(PolicyResult, POLICY, st.builds(Summary, NUMBER, NUMBER), st.lists(DETAIL, max_size=3).map(tuple)), max_size=3
    ).map(tuple),
)


@given(REPORT)
def test_what_is_written_is_read_back(report: TlsReport) -> None:
    """parse after to_json is the identity, and the JSON is of the RFC's shape and I-JSON (RFC 7493)."""
    content = to_json(report)
    assert parse(content) == report
    tlsrpt_schema.check(json.loads(content.decode("utf-8")))


def test_names() -> None:
    """§5.1 file name, §5.3 subject and report id."""
    b, a = Domain("b.example"), Domain("a.example")
    identifier = naming.report_id(DAY, b, a, "0a1b")
    assert identifier == "20261124.b.example.0a1b@a.example"
    assert naming.filename(DAY, b, a, "0a1b") == "a.example!b.example!1795478400!1795564799!0a1b.json.gz"
    assert re.fullmatch(r"[^!]+![^!]+!\d+!\d+![A-Za-z0-9]+\.json\.gz", naming.filename(DAY, b, a, "0a1b"))
    assert naming.subject(b, a, identifier) == f"Report Domain: b.example Submitter: a.example Report-ID: <{identifier}>"
