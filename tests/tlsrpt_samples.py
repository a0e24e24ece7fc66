"""TLS reports as the field writes them: each in the manner of a sender, by descriptions of their habits, with made-up names."""

from __future__ import annotations

import base64
import gzip
import json
from typing import Any

STS = ["version: STSv1", "mode: enforce", "mx: mx1.example.com", "max_age: 604800"]


def plain(**changes: Any) -> dict[str, Any]:
    """A report to the letter of RFC 8460 §4.4."""
    value: dict[str, Any] = {
        "organization-name": "Company-X",
        "date-range": {"start-datetime": "2026-11-23T00:00:00Z", "end-datetime": "2026-11-23T23:59:59Z"},
        "contact-info": "sts-reporting@company-x.example",
        "report-id": "5065427c-23d3@company-x.example",
        "policies": [policy()],
    }
    return value | changes


def policy(good: int = 5326, bad: int = 303, **changes: Any) -> dict[str, Any]:
    """One policy of a report, with one detail."""
    value: dict[str, Any] = {
        "policy": {"policy-type": "sts", "policy-string": STS, "policy-domain": "example.com", "mx-host": ["mx1.example.com"]},
        "summary": {"total-successful-session-count": good, "total-failure-session-count": bad},
        "failure-details": [detail(failed=bad)] if bad else [],
    }
    return value | changes


def detail(result_type: str = "certificate-expired", failed: int = 303, **changes: Any) -> dict[str, Any]:
    """One kind of failure."""
    value: dict[str, Any] = {
        "result-type": result_type,
        "sending-mta-ip": "2001:db8:abcd:12::1",
        "receiving-mx-hostname": "mx1.example.com",
        "receiving-ip": "192.0.2.25",
        "failed-session-count": failed,
    }
    return value | changes


def without(value: dict[str, Any], *names: str) -> dict[str, Any]:
    return {name: each for name, each in value.items() if name not in names}


# A freemail provider that omits empty details and the policy text where there is no policy.
LARGE_MAIL = plain(
    **{
        "organization-name": "Large Mail Inc.",
        "contact-info": "smtp-tls-reporting@large.example",
        "report-id": "2026-11-23T00:00:00Z_example.com",
        "policies": [
            without(policy(12, 0), "failure-details"),
            {
                "policy": {"policy-type": "no-policy-found", "policy-domain": "example.com"},
                "summary": {"total-successful-session-count": 3},
            },
        ],
    }
)
# A cloud provider whose dates have no zone, and with an id of digits and a plus sign.
CLOUD_OFFICE = plain(
    **{
        "organization-name": "Cloud Office Corporation",
        "date-range": {"start-datetime": "2026-11-23T00:00:00", "end-datetime": "2026-11-23T23:59:59"},
        "contact-info": "tlsrpt-noreply@cloudoffice.example",
        "report-id": "133456789012345678+example.com",
        "policies": [policy(41, 0)],
    }
)
# A Postfix with the tlsrpt library: everything under the recipient domain, no policy-domain where nothing was found.
POSTFIX = plain(
    **{
        "organization-name": "Postfix Site",
        "contact-info": "tlsrpt@postfix.example",
        "report-id": "2026-11-23T00:00:00Z_idx17_example.com",
        "policies": [
            {
                "policy": {"policy-type": "no-policy-found"},
                "summary": {"total-successful-session-count": 7, "total-failure-session-count": 1},
                "failure-details": [
                    {
                        "result-type": "starttls-not-supported",
                        "receiving-mx-hostname": "mx1.example.com",
                        "receiving-ip": "192.0.2.25",
                        "sending-mta-ip": "198.51.100.7",
                        "failed-session-count": 1,
                    }
                ],
            },
            {
                "policy": {
                    "policy-type": "tlsa",
                    "policy-string": ["3 1 1 " + "ab" * 32],
                    "policy-domain": "example.com",
                },
                "summary": {"total-successful-session-count": 2, "total-failure-session-count": 0},
                "failure-details": [],
            },
        ],
    }
)
# A provider that leaves out addresses where no connection was made, and counts one session under several kinds of failure.
POST_RU = plain(
    **{
        "organization-name": "Post Ru",
        "contact-info": "abuse@post.example",
        "report-id": "example.com.2026-11-23@post.example",
        "policies": [
            policy(
                90,
                5,
                **{
                    "failure-details": [
                        {"result-type": "sts-policy-fetch-error", "failed-session-count": 5, "failure-reason-code": "404"},
                        detail("certificate-not-trusted", 4, **{"failure-reason-code": "self-signed certificate"}),
                    ]
                },
            )
        ],
    }
)
# A cable company with the string of the RFC's own example, a draft's name for the reason, and null where it knows nothing.
CABLE = plain(
    **{
        "organization-name": "Cable Company",
        "contact-info": "tls-reports@cable.example",
        "report-id": "2026112300_cable_17",
        "policies": [
            policy(
                1,
                2,
                policy={
                    "policy-type": "sts",
                    "policy-string": STS,
                    "policy-domain": "example.com",
                    "mx-host": "mx1.example.com",
                },
                **{
                    "failure-details": [
                        detail("validation-failure", 2, **{"receiving-mx-helo": None, "failure-error-code": "alert 80"}),
                    ]
                },
            )
        ],
    }
)
# A service that sends on behalf of others, without a contact.
NO_CONTACT = plain(**{"organization-name": "Young Server", "contact-info": None, "report-id": "18329_young"})

SAMPLES = {
    "plain": plain(),
    "large-mail": LARGE_MAIL,
    "cloud-office": CLOUD_OFFICE,
    "postfix": POSTFIX,
    "post-ru": POST_RU,
    "cable": CABLE,
    "no-contact": NO_CONTACT,
}


def as_json(value: Any) -> bytes:
    return json.dumps(value).encode()


def mail(
    data: bytes,
    media_type: str = "application/tlsrpt+gzip",
    *,
    top: str = 'multipart/report; report-type="tlsrpt"',
    sender: str = "reports@company-x.example",
    extra: str = "",
    filename: str = "company-x.example!example.com!1795392000!1795478399!1.json.gz",
) -> bytes:
    """A mail with a report; `top` is the type around it, empty for a mail that is nothing but the report."""
    payload = base64.encodebytes(data).decode().replace("\n", "\r\n")
    part = (
        f'Content-Type: {media_type}; name="{filename}"\r\nContent-Disposition: attachment; filename="{filename}"\r\n'
        f"Content-Transfer-Encoding: base64\r\n\r\n{payload}"
    )
    fields = ["To: tlsrpt@example.com", "Subject: Report Domain: example.com", f"{extra}MIME-Version: 1.0"]
    head = "\r\n".join([f"From: Reports <{sender}>", *fields, ""])
    if not top:
        return (head + part).encode()
    text = "Content-Type: text/plain\r\n\r\nThis is a report.\r\n"
    return (f'{head}Content-Type: {top}; boundary="b1"\r\n\r\n--b1\r\n{text}--b1\r\n{part}\r\n--b1--\r\n').encode()


def zipped(value: Any) -> bytes:
    return gzip.compress(as_json(value), mtime=0)
