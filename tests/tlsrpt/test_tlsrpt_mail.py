"""A whole report mail of ours as others read it: RFC 8460 §4.4, §5.1-5.3, by readers that are not ours."""

from __future__ import annotations

import base64
import email
import email.policy
import gzip
import json
import os
import re
import subprocess
import sys
from dataclasses import replace
from email.headerregistry import AddressHeader
from typing import Any

import dkim
import pytest
import trio

import tlsrpt_schema
from postward.dkim import Signer, SigningKey, dns_record, generate
from postward.model import MICROSECONDS, Failure, Mode, PolicyResult, Report, ResultType, TlsResult, Verdict, Window
from postward.names import Address, Domain
from postward.reports.mailto import signed_mail

DAY = "2026-11-23"
WINDOW = Window.of_day(DAY)
SUBMITTER = Domain("mx.sender.example")
KEYS = [SigningKey(domain=SUBMITTER, selector=kind, key=generate(kind)) for kind in ("rsa", "ed25519")]
TO = Address.parse("tls-reports@b.example")
STS = PolicyResult(
    kind="sts",
    mode=Mode.TESTING,
    domain=Domain("bücher.example"),
    passed=False,
    failure=Failure(result_type=ResultType.CERTIFICATE_HOST_MISMATCH),
    mx_patterns=("*.xn--bcher-kva.example",),
    evidence=("version: STSv1", "mode: testing", "mx: *.xn--bcher-kva.example", "max_age: 86400"),
)
TLSA = PolicyResult(
    kind="tlsa", mode=Mode.ENFORCE, domain=Domain("mx.b.example"), passed=True, evidence=("3 1 1 " + "ab" * 32,)
)
NONE = PolicyResult(kind="no-policy-found", mode=Mode.NONE, domain=Domain("bücher.example"), passed=True)


def results() -> list[TlsResult]:
    def one(*policies: PolicyResult, **changes: Any) -> TlsResult:
        values: dict[str, Any] = {
            "day": DAY,
            "domain": Domain("bücher.example"),
            "host": Domain("mx.b.example"),
            "sending_ip": "2001:DB8:0::1",
            "receiving_ip": "::ffff:192.0.2.25",
            "receiving_helo": "mx.b.example",
            "protocol": "TLSv1.3",
            "pkix": Verdict(passed=False, failure=Failure(result_type=ResultType.CERTIFICATE_EXPIRED)),
        }
        return TlsResult(policies=policies, **(values | changes))

    fetch = Failure(result_type=ResultType.STS_POLICY_FETCH_ERROR, reason="http-status-404", detail="not for reports")
    return [
        *[one(STS, TLSA)] * 3,
        one(replace(STS, passed=True, failure=None), TLSA),
        one(replace(STS, passed=False, failure=fetch, evidence=(), mx_patterns=()), host=None, receiving_ip="", protocol=""),
        *[one(NONE)] * 2,
    ]


@pytest.fixture
async def report(rpt: Any) -> Report:
    rpt.configure(organization="Ein Büro", contact="tls@mx.sender.example")
    await rpt.count(*results())
    (built,) = await rpt.build(WINDOW, "xn--bcher-kva.example", f"mailto:{TO}")
    assert isinstance(built, Report)
    return built


@pytest.fixture
async def mail(report: Report) -> bytes:
    return signed_mail(report, TO, signer=Signer(KEYS), now=WINDOW.end + 3600 * MICROSECONDS)


def strict(mail: bytes) -> Any:
    """Read by a parser that takes nothing that is not to the letter."""
    message = email.message_from_bytes(mail, policy=email.policy.strict)
    for part in message.walk():
        assert part.defects == []
        for name, value in part.items():
            assert value.defects == (), f"{name}: {value.defects}"
    return message


def attached(mail: bytes) -> Any:
    return json.loads(gzip.decompress(strict(mail).get_payload()[1].get_payload(decode=True)))


async def test_the_json_keeps_the_rules(mail: bytes) -> None:
    """RFC 8460 §4.4: every field, by a schema that was written from the RFC."""
    document = attached(mail)
    tlsrpt_schema.check(document)
    assert document["organization-name"] == "Ein Büro"
    summaries = [(entry["policy"]["policy-type"], *entry["summary"].values()) for entry in document["policies"]]
    assert sorted(summaries) == [("no-policy-found", 2, 0), ("sts", 0, 1), ("sts", 1, 3), ("tlsa", 4, 0)]
    assert {entry["policy"]["policy-domain"] for entry in document["policies"]} == {"xn--bcher-kva.example", "mx.b.example"}
    details = [detail for entry in document["policies"] for detail in entry["failure-details"]]
    (mismatch,) = (detail for detail in details if detail["result-type"] == "certificate-host-mismatch")
    assert (mismatch["sending-mta-ip"], mismatch["receiving-ip"]) == ("2001:db8::1", "192.0.2.25")
    (fetch,) = (detail for detail in details if detail["result-type"] == "sts-policy-fetch-error")
    assert fetch == {
        "result-type": "sts-policy-fetch-error",
        "failed-session-count": 1,
        "failure-reason-code": "http-status-404",
    }


async def test_the_mime_is_what_the_rfc_says(mail: bytes, report: Report) -> None:
    """RFC 8460 §5.3: multipart/report of tlsrpt, text first, then application/tlsrpt+gzip; §5.1: the file name."""
    message = strict(mail)
    assert (message.get_content_type(), message["Content-Type"].params["report-type"]) == ("multipart/report", "tlsrpt")
    text, file = message.get_payload()
    assert text.get_content_type() == "text/plain"
    assert (file.get_content_type(), file["Content-Transfer-Encoding"]) == ("application/tlsrpt+gzip", "base64")
    begin = WINDOW.start // MICROSECONDS
    name = rf"mx\.sender\.example!xn--bcher-kva\.example!{begin}!{begin + 86399}!([A-Za-z0-9]+)\.json\.gz"
    assert re.fullmatch(name, file.get_filename())
    assert file.get_filename() == report.filename
    assert gzip.decompress(base64.b64decode(file.get_payload())) == gzip.decompress(report.content)
    assert b"\r\n.\r\n" not in mail
    assert all(len(line) <= 998 for line in mail.split(b"\r\n"))
    assert mail.count(b"\n") == mail.count(b"\r\n")


async def test_submitter_contact_author_and_signature_are_one_domain(mail: bytes) -> None:
    """RFC 8460 §5.3: TLS-Report-Submitter MUST be the domain of contact-info; §3: signed by the reporting domain."""
    message, document = strict(mail), attached(mail)
    sender = message["From"]
    assert isinstance(sender, AddressHeader)
    assert [str(address) for address in sender.addresses] == [f"postmaster@{SUBMITTER}"]
    assert message["TLS-Report-Submitter"] == SUBMITTER == document["contact-info"].rpartition("@")[2]
    assert message["TLS-Report-Domain"] == "xn--bcher-kva.example"
    signatures = [_tags(value) for value in message.get_all("DKIM-Signature")]
    assert [tags["d"] for tags in signatures] == [SUBMITTER] * 2


async def test_the_subject(mail: bytes) -> None:
    """RFC 8460 §5.3: `Report Domain: … Submitter: … Report-ID: <left@right>`, A-labels, the id of the JSON (§5.6)."""
    message = strict(mail)
    found = re.fullmatch(r"Report Domain: (\S+) Submitter: (\S+) Report-ID: <(\S+@\S+)>", message["Subject"])
    assert found is not None
    assert found.groups() == ("xn--bcher-kva.example", SUBMITTER, attached(mail)["report-id"])
    assert re.fullmatch(r"[A-Za-z0-9!#$%&'*+/=?^_`{|}~.-]+@[A-Za-z0-9.-]+", found[3]), "the form of a msg-id"


async def test_it_says_that_it_is_automatic_and_wants_no_tls(mail: bytes) -> None:
    """RFC 8460 §3, §5.3.1 MUST deliver despite TLS failures (RFC 8689 §5); RFC 3834 §5 Auto-Submitted."""
    message = strict(mail)
    assert (message["TLS-Required"], message["Auto-Submitted"]) == ("No", "auto-generated")
    assert message.get_all("To") == [str(TO)]


@pytest.mark.parametrize("number", [0, 1])
async def test_dkimpy_verifies_it_as_a_tls_report(mail: bytes, number: int) -> None:
    """RFC 8460 §3: a valid signature without `l=`, with a key for tlsrpt; §5.3 SHOULD sign both TLS-Report fields."""
    records = {str(name): text for name, text in (dns_record(key, ("email", "tlsrpt")) for key in KEYS)}
    published = {
        name: "".join(text.strip('"').split('" "')).replace("s=email:tlsrpt", "s=tlsrpt") for name, text in records.items()
    }

    def txt(name: bytes, timeout: int = 5) -> bytes | None:
        text = published.get(name.decode().rstrip("."))
        return None if text is None else text.encode()

    verifier = dkim.DKIM(mail, tlsrpt="strict")
    assert verifier.verify(idx=number, dnsfunc=txt)
    tags = _tags(strict(mail).get_all("DKIM-Signature")[number])
    assert "l" not in tags
    signed = tags["h"].lower().split(":")
    assert {"tls-report-domain", "tls-report-submitter", "from", "subject", "content-type"} <= set(signed)
    # Once more than it is there, so that nobody can add a second one.
    assert signed.count("tls-report-domain") == signed.count("tls-report-submitter") == signed.count("from") == 2
    forged = mail.replace(b"TLS-Report-Domain: xn", b"TLS-Report-Domain: yn")
    assert not dkim.DKIM(forged, tlsrpt="strict").verify(idx=number, dnsfunc=txt)


def _tags(value: Any) -> dict[str, str]:
    parts = "".join(str(value).split()).split(";")
    return dict(part.partition("=")[::2] for part in parts if part)


READ = """
import json, logging, sys
logging.disable(logging.CRITICAL)
import parsedmarc
found = parsedmarc.parse_report_email(sys.stdin.buffer.read(), offline=True)
print(json.dumps([found["report_type"], found["report"]], default=str))
"""


def parsedmarc() -> str:
    """An interpreter that has parsedmarc, named by the environment where it is not this one."""
    python = os.environ.get("PARSEDMARC_PYTHON", sys.executable)
    found = subprocess.run([python, "-c", "import parsedmarc"], capture_output=True, check=False)
    if found.returncode:
        pytest.skip("needs parsedmarc: PARSEDMARC_PYTHON=/path/to/its/python")
    return python


@pytest.mark.interop
async def test_parsedmarc_reads_the_same_counts(mail: bytes) -> None:
    done = await trio.run_process([parsedmarc(), "-c", READ], stdin=mail, capture_stdout=True)
    kind, read = json.loads(done.stdout)
    document = attached(mail)
    assert (kind, read["report_id"], read["organization_name"]) == ("smtp_tls", document["report-id"], "Ein Büro")
    assert read["contact_info"] == document["contact-info"]
    theirs = [
        (
            policy["policy_type"],
            policy["policy_domain"],
            policy["successful_session_count"],
            policy["failed_session_count"],
            sorted((each["result_type"], each["failed_session_count"]) for each in policy.get("failure_details", [])),
        )
        for policy in read["policies"]
    ]
    ours = [
        (
            entry["policy"]["policy-type"],
            entry["policy"]["policy-domain"],
            *entry["summary"].values(),
            sorted((each["result-type"], each["failed-session-count"]) for each in entry["failure-details"]),
        )
        for entry in document["policies"]
    ]
    assert theirs == ours
