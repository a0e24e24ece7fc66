"""How many TLS report mails a second are read by `postward_tlsrpt`, and by parsedmarc if its interpreter is given.

Run: python benchmarks/tlsrpt_parse.py [--mails N] [--runs N] [--parsedmarc /path/to/python]

The same mails for both, in the same run, one process each, alternating; medians of the runs. parsedmarc is told to be offline
(no DNS, no geography), and gets each mail as bytes, as ours does. The mails are `small`: one policy and three details, as most
are; `medium`: ten policies with four details each; and `large`: 200 policies with nine details each, where half of the time is
zlib and the JSON decoder, which are C in both, so no factor is wanted there.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from postward.model import Report, Window
from postward.names import Address, Domain
from postward.reports.mime import compose
from postward_tlsrpt import naming, report
from postward_tlsrpt.message import reports_in
from postward_tlsrpt.read import Reading

TARGET = 10.0
THEIRS = """
import json, logging, sys, time
logging.disable(logging.CRITICAL)
from pathlib import Path
import parsedmarc
mails = [path.read_bytes() for path in sorted(Path(sys.argv[1]).iterdir())]
parsedmarc.parse_report_email(mails[0], offline=True)
begin = time.perf_counter()
sessions = 0
for mail in mails:
    found = parsedmarc.parse_report_email(mail, offline=True)
    for policy in found["report"]["policies"]:
        sessions += policy["successful_session_count"] + policy["failed_session_count"]
print(json.dumps({"seconds": time.perf_counter() - begin, "sessions": sessions}))
"""


def mail(number: int, policies: int, details: int) -> bytes:
    """A report mail as Postward sends it."""
    window, domain, submitter = Window.of_day("2026-03-01"), Domain(f"d{number}.example.com"), Domain("sender.example")
    identifier = naming.report_id(window, domain, submitter, f"{number:08x}")
    content = report.TlsReport(
        organization_name="Sender",
        date_range=report.DateRange.of(window),
        contact_info="postmaster@sender.example",
        report_id=identifier,
        policies=tuple(policy(each, details) for each in range(policies)),
    )
    whole = Report(
        kind="tls",
        report_id=identifier,
        policy_domain=domain,
        window=window,
        submitter=submitter,
        subject=naming.subject(domain, submitter, identifier),
        filename=naming.filename(window, domain, submitter, f"{number:08x}"),
        media_type=report.MEDIA_TYPE,
        content=report.compress(report.to_json(content)),
        explanation="A report.\n",
        mail_type='multipart/report; report-type="tlsrpt"',
        headers=(("TLS-Report-Domain", str(domain)), ("TLS-Report-Submitter", str(submitter))),
    )
    return compose(whole, Address.parse("tlsrpt@example.com"), now=window.end)


def policy(number: int, details: int) -> report.PolicyResult:
    """One policy with its failures."""
    host = f"mx{number}.example.com"
    return report.PolicyResult(
        policy=report.Policy(
            policy_type="sts",
            policy_string=("version: STSv1", "mode: enforce", f"mx: {host}", "max_age: 604800"),
            policy_domain="example.com",
            mx_host=(host,),
        ),
        summary=report.Summary(1000 + number, 3 * details),
        failure_details=tuple(
            report.FailureDetail(
                result_type="certificate-expired",
                sending_mta_ip=f"192.0.2.{each}",
                receiving_mx_hostname=host,
                receiving_ip="198.51.100.25",
                failed_session_count=3,
            )
            for each in range(details)
        ),
    )


def ours(mails: list[bytes]) -> tuple[float, int]:
    """Seconds for all mails, and the sessions in them."""
    reports_in(mails[0])
    begin, sessions = time.perf_counter(), 0
    for each in mails:
        for found in reports_in(each):
            assert isinstance(found, Reading), found
            sessions += found.successful + found.failed
    return time.perf_counter() - begin, sessions


def theirs(interpreter: str, folder: Path) -> tuple[float, int]:
    """The same by parsedmarc, in a process of its own."""
    done = subprocess.run([interpreter, "-c", THEIRS, str(folder)], check=True, capture_output=True, text=True)
    value = json.loads(done.stdout.splitlines()[-1])
    return value["seconds"], value["sessions"]


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--mails", type=int, default=500)
    parser.add_argument("--runs", type=int, default=5)
    parser.add_argument("--parsedmarc", default="", help="an interpreter that has parsedmarc")
    options = parser.parse_args()
    good = True
    kinds = (
        ("small", 1, 3, options.mails, TARGET),
        ("medium", 10, 4, max(options.mails // 5, 5), TARGET),
        ("large", 200, 9, max(options.mails // 50, 5), 0.0),
    )
    for name, policies, details, count, target in kinds:
        mails = [mail(number, policies, details) for number in range(count)]
        mine: list[float] = []
        other: list[float] = []
        with tempfile.TemporaryDirectory() as folder:
            for number, each in enumerate(mails):
                (Path(folder) / f"{number:06}.eml").write_bytes(each)
            for _ in range(options.runs):
                seconds, sessions = ours(mails)
                mine.append(seconds / count)
                if options.parsedmarc:
                    seconds, same = theirs(options.parsedmarc, Path(folder))
                    other.append(seconds / count)
                    assert same == sessions, f"parsedmarc counts {same} sessions, Postward {sessions}"
        line = f"{name}: {count} mails of {len(mails[0])} bytes: {statistics.median(mine) * 1e6:,.0f} µs a mail"
        if other:
            ratio = statistics.median(other) / statistics.median(mine)
            good = good and ratio >= target
            line += f"; parsedmarc {statistics.median(other) * 1e6:,.0f} µs; ratio {ratio:.1f}" + (
                f" (wanted: {target:.0f})" if target else ""
            )
        print(line)
    return 0 if good else 1


if __name__ == "__main__":
    sys.exit(main())
