"""The lab believes no report: it checks signatures, headers, spans and counts against the truth (RFC 8460 §3, §4, §5)."""

from __future__ import annotations

import base64
import gzip
import json
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import dkim
import pytest

from postward.dkim import Signer, SigningKey, dns_record, generate
from postward.dns import ZoneResolver
from postward.lab.https import Posted
from postward.lab.mx import Mail
from postward.lab.receive import check_mail, check_post
from postward.lab.world import COLLECTOR, REPORT_ADDRESS, SENDER
from postward.model import Report, Window
from postward.names import Domain
from postward.reports.mime import compose

DAY = "2026-03-01"
TRUTH = {
    "a.test": {("sts", "a.test"): (1, 1, frozenset({"certificate-expired"})), ("tlsa", "mx.a.test"): (2, 0, frozenset())},
    "b.test": {("no-policy-found", "b.test"): (1, 0, frozenset())},
}
KEY = SigningKey(domain=SENDER, selector="lab", key=generate("ed25519"))
OTHER = SigningKey(domain=SENDER, selector="lab", key=generate("ed25519"))


def resolver() -> ZoneResolver:
    name, value = dns_record(KEY, ("email", "tlsrpt"))
    return ZoneResolver({"sender.test": f"@ NS ns\n{name}. TXT {value}"})


def entry(kind: str, domain: str, good: int, bad: int, *types: str) -> dict[str, Any]:
    return {
        "policy": {"policy-type": kind, "policy-string": [], "policy-domain": domain},
        "summary": {"total-successful-session-count": good, "total-failure-session-count": bad},
        "failure-details": [{"result-type": each, "failed-session-count": 1} for each in types],
    }


def body() -> dict[str, Any]:
    return {
        "organization-name": "Lab",
        "date-range": {"start-datetime": f"{DAY}T00:00:00Z", "end-datetime": f"{DAY}T23:59:59Z"},
        "contact-info": f"postmaster@{SENDER}",
        "report-id": "r1",
        "policies": [entry("sts", "a.test", 1, 1, "certificate-expired"), entry("tlsa", "mx.a.test", 2, 0)],
    }


def packed(report: Any) -> bytes:
    return gzip.compress(json.dumps(report).encode())


def mailed(
    content: bytes, *, about: str = "a.test", key: SigningKey | None = KEY, change: Callable[[bytes], bytes] = lambda mail: mail
) -> Mail:
    report = Report(
        kind="tls",
        report_id="r1",
        policy_domain=Domain(about),
        window=Window.of_day(DAY),
        submitter=SENDER,
        subject="Report Domain: a.test Submitter: sender.test Report-ID: <r1@sender.test>",
        filename="r.json.gz",
        media_type="application/tlsrpt+gzip",
        mail_type='multipart/report; report-type="tlsrpt"',
        content=content,
        headers=(("TLS-Report-Domain", about), ("TLS-Report-Submitter", str(SENDER))),
    )
    mail = compose(report, REPORT_ADDRESS, now=Window.of_day(DAY).end)
    if key is not None:
        mail = Signer([key]).sign(mail, SENDER, headers=["TLS-Report-Domain", "TLS-Report-Submitter"])
    return Mail(
        host=Domain("mx.reports.test"),
        helo="relay.sender.test",
        protocol="TLSv1.3",
        sender=None,
        recipients=(REPORT_ADDRESS,),
        require_tls=False,
        content=change(mail),
    )


async def problems(mail: Mail) -> str:
    return "; ".join((await check_mail(mail, resolver(), TRUTH, DAY)).problems)


async def test_a_true_report() -> None:
    receipt = await check_mail(mailed(packed(body())), resolver(), TRUTH, DAY)
    assert (receipt.by, receipt.domain, receipt.report_id, receipt.problems) == ("mail", "a.test", "r1", ())


def swap(old: bytes, new: bytes) -> Callable[[bytes], bytes]:
    def change(mail: bytes) -> bytes:
        assert old in mail
        return mail.replace(old, new)

    return change


@pytest.mark.parametrize(
    ("mail", "problem"),
    [
        (mailed(packed(body()), key=None), "no valid DKIM signature of sender.test (none at all)"),
        (mailed(packed(body()), key=OTHER), "no valid DKIM signature of sender.test (sender.test: fail"),
        (mailed(packed(body()), change=swap(b"bh=", b"bh=A")), "no valid DKIM signature"),
        (mailed(packed(body()), change=swap(b"TLS-Report-Submitter: sender", b"TLS-Report-Submitter: other")), "other.test"),
        (mailed(packed(body()), change=swap(b"TLS-Required: No\r\n", b"")), "TLS-Required is None"),
        (mailed(packed(body()), about="b.test"), "TLS-Report-Domain is ['b.test'], not a.test"),
        (mailed(packed(body()), change=swap(b'report-type="tlsrpt"', b'report-type="other"')), "in a TLS report"),
        (mailed(packed(body()), change=swap(b"tlsrpt+gzip", b"octet-stream")), "0 parts of type"),
        (mailed(b"not gzip"), "cannot be read"),
        (mailed(packed([])), "cannot be read"),
        (mailed(packed({**body(), "policies": [entry("sts", "a.test", 1, 1, "certificate-expired")]})), "counts sts a.test"),
        (mailed(packed({**body(), "date-range": {}})), "covers {}, not 2026-03-01"),
        (mailed(packed({**body(), "contact-info": "me@elsewhere.test"})), "contact me@elsewhere.test is not at"),
    ],
)
async def test_reports_that_are_not_true(mail: Mail, problem: str) -> None:
    assert problem in await problems(mail)


@pytest.mark.parametrize("counts", [(2, 1), (1, 2), (0, 1)])
async def test_wrong_counts(counts: tuple[int, int]) -> None:
    report = body()
    report["policies"][0] = entry("sts", "a.test", *counts, "certificate-expired")
    assert "counts" in await problems(mailed(packed(report)))


async def test_wrong_result_type() -> None:
    report = body()
    report["policies"][0] = entry("sts", "a.test", 1, 1, "validation-failure")
    assert "counts" in await problems(mailed(packed(report)))


async def test_a_signature_that_leaves_room_behind_it() -> None:
    """RFC 8460 §3: `l=` must not be used, although such a signature verifies."""
    plain = mailed(packed(body()), key=None).content
    seed = base64.b64encode(KEY.key.private_bytes_raw())
    field = dkim.sign(plain, b"lab", SENDER.encode(), seed, signature_algorithm=b"ed25519-sha256", length=True)
    assert "sender.test: pass" in await problems(mailed(packed(body()), key=None, change=lambda mail: field + mail))


async def test_a_body_that_was_changed() -> None:
    mail = mailed(packed(body()))
    assert "no valid DKIM signature" in await problems(replace(mail, content=mail.content + b"more\r\n"))


def test_a_posted_report() -> None:
    posted = Posted(host=str(COLLECTOR), content_type="application/tlsrpt+gzip", body=packed(body()))
    assert check_post(posted, TRUTH, DAY).problems == ()
    assert check_post(replace(posted, content_type="text/plain"), TRUTH, DAY).problems
    assert check_post(replace(posted, body=b""), TRUTH, DAY).problems
    assert check_post(replace(posted, body=packed(body()) * 2), TRUTH, DAY).problems


def test_a_report_about_nobody() -> None:
    posted = Posted(
        host=str(COLLECTOR),
        content_type="application/tlsrpt+gzip",
        body=packed({**body(), "policies": [entry("sts", "elsewhere.test", 1, 0)]}),
    )
    receipt = check_post(posted, TRUTH, DAY)
    assert receipt.domain == "elsewhere.test"
    assert receipt.problems
