"""A report of ours before judges that others wrote: the RFC as a schema, Python's strict MIME parser, dkimpy, parsedmarc.

`POSTWARD_PARSEDMARC=/path/to/python` names an interpreter that has parsedmarc.
"""

from __future__ import annotations

import email
import email.policy
import gzip
import json
import os
from email.message import EmailMessage
from typing import Any

import dkim
import pytest
import trio

import tlsrpt_schema
from postward.dkim import Signer, SigningKey, dns_record, generate
from postward.model import Failure, Mode, PolicyResult, Report, ResultType, TlsResult, Window
from postward.names import Address, Domain
from postward.reports.mime import compose
from postward_tlsrpt.message import reports_in
from postward_tlsrpt.read import Reading
from postward_tlsrpt.report import TlsReport, parse

DAY = "2026-11-23"
WINDOW = Window.of_day(DAY)
NOW = WINDOW.end + 3_600_000_000
RUA = Address.parse("tls-reports@b.example")
TOTALS = {"sts": (7, 3), "tlsa": (0, 5), "no-policy-found": (2, 0)}

THEIRS = """
import json, logging, sys
logging.disable(logging.CRITICAL)
import parsedmarc
found = parsedmarc.parse_report_email(sys.stdin.buffer.read(), offline=True)
print(json.dumps(found, default=str))
"""


def policy(kind: str, *, passed: bool, reason: str = "", **changes: Any) -> PolicyResult:
    failure = None if passed else Failure(result_type=ResultType.CERTIFICATE_EXPIRED, reason=reason)
    values: dict[str, Any] = {"kind": kind, "mode": Mode.ENFORCE, "domain": Domain("b.example"), "passed": passed}
    return PolicyResult(**(values | {"failure": failure} | changes))


def sessions() -> list[TlsResult]:
    lines = ("version: STSv1", "mode: enforce", "mx: *.b.example", "max_age: 86400")
    sts: dict[str, Any] = {"mx_patterns": ("*.b.example",), "evidence": lines}
    tlsa: dict[str, Any] = {"domain": Domain("mx.b.example"), "evidence": ("3 1 1 " + "ab" * 32,)}

    def one(bound: PolicyResult, address: str = "2001:db8::25") -> TlsResult:
        return TlsResult(
            day=DAY, domain=Domain("b.example"), host=Domain("mx.b.example"), policies=(bound,), sending_ip="192.0.2.1",
            receiving_ip=address, receiving_helo="mx.b.example", protocol="TLSv1.3", cipher="TLS_AES_128_GCM_SHA256",
        )  # fmt: skip

    return [
        *[one(policy("sts", passed=True, **sts))] * 7,
        *[one(policy("sts", passed=False, reason="x509-10", **sts))] * 2,
        one(policy("sts", passed=False, **sts), "192.0.2.26"),
        *[one(policy("tlsa", passed=False, **tlsa))] * 5,
        *[one(policy("no-policy-found", passed=True))] * 2,
    ]


@pytest.fixture
async def report(rpt: Any) -> Report:
    await rpt.count(*sessions())
    (built,) = await rpt.build(WINDOW, "b.example", f"mailto:{RUA}")
    assert isinstance(built, Report)
    return built


@pytest.fixture(params=["ed25519", "rsa"])
def key(request: pytest.FixtureRequest, report: Report) -> SigningKey:
    return SigningKey(domain=report.submitter, selector="s1", key=generate(request.param))


def signed(report: Report, key: SigningKey) -> bytes:
    mail = compose(report, RUA, now=NOW)
    return Signer([key]).sign(mail, report.submitter, headers=[name for name, _ in report.headers], at=NOW)


def strict(mail: bytes) -> EmailMessage:
    """The mail by a parser that raises for everything it finds wrong, also in fields and parts that are only looked at."""
    found = email.message_from_bytes(mail, policy=email.policy.SMTP.clone(raise_on_defect=True))
    assert isinstance(found, EmailMessage)
    for part in found.walk():
        assert not part.defects
        for value in part.values():
            assert not value.defects, value
    return found


def counts(document: TlsReport) -> dict[str, tuple[int, int]]:
    return {
        entry.policy.policy_type: (entry.summary.total_successful_session_count, entry.summary.total_failure_session_count)
        for entry in document.policies
    }


async def test_the_json_keeps_the_rules_of_the_rfc(report: Report) -> None:
    """RFC 8460 §4.4: the schema was written from the RFC, and the counts are those that were put in."""
    document = json.loads(gzip.decompress(report.content))
    tlsrpt_schema.check(document)
    assert counts(parse(gzip.decompress(report.content))) == TOTALS


async def test_a_strict_parser_finds_nothing_wrong(report: Report, key: SigningKey) -> None:
    """RFC 8460 §5.3: multipart/report of type tlsrpt, two parts, the second one gzip of the media type, in base64."""
    mail = signed(report, key)
    assert all(len(line) <= 998 for line in mail.split(b"\r\n"))
    assert mail.count(b"\n") == mail.count(b"\r\n")
    found = strict(mail)
    assert (found.get_content_type(), found.get_param("report-type")) == ("multipart/report", "tlsrpt")
    text, attached = found.iter_parts()
    assert text.get_content_type() == "text/plain"
    assert attached.get_content_type() == "application/tlsrpt+gzip"
    assert attached["Content-Transfer-Encoding"] == "base64"
    assert attached.get_filename() == report.filename
    assert attached.get_content() == report.content
    assert found["Subject"] == report.subject
    assert found["From"].addresses[0].addr_spec == f"postmaster@{report.submitter}"
    assert (found["TLS-Report-Domain"], found["TLS-Report-Submitter"]) == ("b.example", str(report.submitter))
    assert found["TLS-Required"] == "No"


# dkimpy does not take a list of services, such as `email:tlsrpt`; the default of our keys names none.
@pytest.mark.parametrize("services", [("*",), ("tlsrpt",)])
async def test_dkimpy_verifies_it_as_a_tls_report(report: Report, key: SigningKey, services: tuple[str, ...]) -> None:
    """RFC 8460 §3: by its own strict rules for TLS reports, which ask for the service type."""
    name, text = dns_record(key, services)
    record = "".join(text.strip('"').split('" "')).encode()

    def answer(asked: bytes, timeout: float = 5) -> bytes | None:
        return record if asked.decode().rstrip(".") == name else None

    mail = signed(report, key)
    verifier = dkim.DKIM(mail, tlsrpt="strict" if "tlsrpt" in services else True)
    assert verifier.verify(dnsfunc=answer)
    assert verifier.domain.decode() == report.submitter
    assert {b"tls-report-domain", b"tls-report-submitter"} <= set(verifier.include_headers)
    assert b"l" not in verifier.signature_fields
    assert not dkim.DKIM(mail.replace(b"TLS-Report-Domain: b.", b"TLS-Report-Domain: c."), tlsrpt=True).verify(dnsfunc=answer)


async def test_we_read_it_back_as_it_was(report: Report, key: SigningKey) -> None:
    """The receiving side, which did not build it, finds no defect and the same report."""
    (found,) = reports_in(signed(report, key))
    assert isinstance(found, Reading), found
    assert not found.defects
    assert counts(found.report) == TOTALS
    assert found.report == parse(gzip.decompress(report.content))


async def test_parsedmarc_counts_the_same(report: Report, key: SigningKey) -> None:
    interpreter = os.environ.get("POSTWARD_PARSEDMARC")
    if not interpreter:
        pytest.skip("POSTWARD_PARSEDMARC names no interpreter that has parsedmarc")
    command = [interpreter, "-c", THEIRS]
    done = await trio.run_process(command, stdin=signed(report, key), capture_stdout=True)
    found = json.loads(done.stdout.splitlines()[-1])
    assert found["report_type"] == "smtp_tls"
    theirs = found["report"]
    assert theirs["report_id"] == report.report_id
    assert {
        entry["policy_type"]: (entry["successful_session_count"], entry["failed_session_count"]) for entry in theirs["policies"]
    } == TOTALS
    details = {
        entry["policy_type"]: sum(detail["failed_session_count"] for detail in entry.get("failure_details", ()))
        for entry in theirs["policies"]
    }
    assert details == {kind: failed for kind, (_, failed) in TOTALS.items()}
