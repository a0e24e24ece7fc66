"""parsedmarc reads the same report mails with the same counts, wherever it can read them at all.

`POSTWARD_PARSEDMARC=/path/to/python` names an interpreter that has parsedmarc.
"""

from __future__ import annotations

import base64
import json
import os
import subprocess
from typing import Any

import pytest

from postward.model import Window
from postward_tlsrpt.message import reports_in
from postward_tlsrpt.read import Reading
from tlsrpt_samples import CLOUD_OFFICE, LARGE_MAIL, as_json, detail, mail, plain, policy, zipped

NOW = Window.of_day("2026-11-23").end
THEIRS = """
import base64, json, logging, sys
logging.disable(logging.CRITICAL)
import parsedmarc
for line in sys.stdin:
    try:
        policies = parsedmarc.parse_report_email(base64.b64decode(line), offline=True)["report"]["policies"]
        print(json.dumps([[each["successful_session_count"], each["failed_session_count"]] for each in policies]))
    except Exception as exc:
        print(json.dumps(f"{type(exc).__name__}: {exc}"))
"""
FULL = plain(
    policies=[
        policy(5, 4, **{"failure-details": [detail(failed=3), detail("starttls-not-supported", 1)]}),
        policy(10**9, 0),
        policy(0, 2, **{"failure-details": [detail("validation-failure", 2, **{"failure-reason-code": "x509-10"})]}),
    ]
)
MAILS: dict[str, bytes] = {
    "gzip": mail(zipped(FULL)),
    "json": mail(as_json(FULL), "application/tlsrpt+json"),
    "alone": mail(zipped(FULL), top=""),
    "mixed": mail(zipped(FULL), top="multipart/mixed"),
    "large mail": mail(zipped(LARGE_MAIL | {"policies": LARGE_MAIL["policies"][:1]})),
    "cloud office": mail(zipped(CLOUD_OFFICE)),
}


def test_parsedmarc_counts_the_same() -> None:
    interpreter = os.environ.get("POSTWARD_PARSEDMARC")
    if not interpreter:
        pytest.skip("POSTWARD_PARSEDMARC names no interpreter that has parsedmarc")
    given = "".join(f"{base64.b64encode(content).decode()}\n" for content in MAILS.values())
    done = subprocess.run([interpreter, "-c", THEIRS], input=given, capture_output=True, text=True, timeout=120, check=True)
    theirs: list[Any] = [json.loads(line) for line in done.stdout.splitlines()]
    assert dict(zip(MAILS, theirs, strict=True)) == {name: counts(content) for name, content in MAILS.items()}


def counts(content: bytes) -> list[list[int]]:
    """Good and failed sessions of each policy, as we read them."""
    (found,) = reports_in(content, now=NOW)
    assert isinstance(found, Reading), found
    summaries = [result.summary for result in found.report.policies]
    return [[each.total_successful_session_count, each.total_failure_session_count] for each in summaries]
