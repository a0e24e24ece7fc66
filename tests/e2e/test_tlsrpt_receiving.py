"""TLS reports that come by mail to a real `postward run`: counted when somebody vouches for them, delivered in any case."""

from __future__ import annotations

import base64
import json
import re
import smtplib
import subprocess
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import dkim
import pytest
from cryptography.hazmat.primitives.asymmetric.rsa import RSAPrivateKey, generate_private_key
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat, PublicFormat

from deliver_kit import ENVIRONMENT
from postward.lab.zones import Signing
from relay_kit import PROGRAM, Internet, internet, port_of, relay, relay_config, until
from tlsrpt_samples import as_json, mail, plain

pytestmark = pytest.mark.loopback

REPORTER = "reporter.test"
OURS = "tlsreports@example.com"


@pytest.fixture(scope="module")
def key() -> RSAPrivateKey:
    return generate_private_key(65537, 2048)


@pytest.fixture
def world(key: RSAPrivateKey) -> Iterator[Internet]:
    public = base64.b64encode(key.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)).decode()
    half = len(public) // 2
    with internet("a.test") as made:
        records = "\n".join(
            f'{name}._domainkey TXT "v=DKIM1; k=rsa; {service}p={public[:half]}" "{public[half:]}"'
            for name, service in (("all", ""), ("tlsrpt", "s=tlsrpt; "), ("mail", "s=email; "))
        )
        made.zones.add(REPORTER, records, signing=Signing.INSECURE)
        yield made


def report(number: int = 1, *, failed: int = 0) -> dict[str, Any]:
    """A report about yesterday, of which `failed` sessions had an expired certificate."""
    yesterday = datetime.now(UTC).date() - timedelta(days=1)
    value = plain()
    value["date-range"] = {"start-datetime": f"{yesterday}T00:00:00Z", "end-datetime": f"{yesterday}T23:59:59Z"}
    value["report-id"] = f"report-{number}@{REPORTER}"
    policy = value["policies"][0]
    policy["summary"] = {"total-successful-session-count": 10 * number, "total-failure-session-count": failed}
    policy["failure-details"] = [{"result-type": "certificate-expired", "failed-session-count": failed}] if failed else []
    return value


def signed(content: bytes, key: RSAPrivateKey, *, selector: str = "all", domain: str = REPORTER, length: bool = False) -> bytes:
    """The message with a DKIM signature."""
    pem = key.private_bytes(Encoding.PEM, PrivateFormat.TraditionalOpenSSL, NoEncryption())
    head: bytes = dkim.sign(content, selector.encode(), domain.encode(), pem, length=length)
    return head + content


def said(config: Path) -> list[str]:
    """What was put on top of each message that was delivered, by the fields of ours."""
    found = []
    for file in sorted((config.parent / "data" / "inbound" / "new").glob("*"), key=lambda path: path.stat().st_mtime_ns):
        header = file.read_bytes().partition(b"\r\n\r\n")[0].partition(b"\n\n")[0].decode()
        found += re.findall(r"(?im)^(X-Postward-(?:Report|TLSReport-Error): .*?)\r?$", header)
    return found


def received(config: Path, *arguments: str) -> list[dict[str, Any]]:
    command = [*PROGRAM, "tlsrpt", "received", *arguments, "--json", "--config", str(config)]
    done = subprocess.run(command, capture_output=True, text=True, env=ENVIRONMENT, timeout=60, check=False)
    assert done.returncode in (0, 1), done.stderr
    return [json.loads(line) for line in done.stdout.splitlines()]


def test_reports_by_mail(world: Internet, tmp_path: Path, key: RSAPrivateKey) -> None:
    """RFC 8460 §3, §5.3: DKIM of the author's domain, no l=, a key for this service; otherwise it is mail like any other."""
    config = relay_config(tmp_path, world, plugins=["tlsrpt"], plugin={"tlsrpt": {"addresses": [OURS]}})
    sender = f"reports@{REPORTER}"
    first, second, broken = (
        mail(data, "application/tlsrpt+json", sender=sender) for data in (as_json(report()), as_json(report(2, failed=3)), b"{")
    )
    cases = [
        (signed(first, key), "X-Postward-Report: tlsrpt; "),
        (signed(first, key), "X-Postward-Report: tlsrpt; "),
        (signed(second, key, selector="tlsrpt"), "X-Postward-Report: tlsrpt; "),
        (signed(second, key, selector="mail"), "X-Postward-TLSReport-Error: "),
        (signed(second, key, length=True), "X-Postward-TLSReport-Error: "),
        (second, "X-Postward-TLSReport-Error: no DKIM signature"),
        (signed(second, key).replace(b"This is a report.", b"This is another."), "X-Postward-TLSReport-Error: "),
        (signed(broken, key), "X-Postward-TLSReport-Error: could not parse TLS report"),
    ]  # fmt: skip
    with relay(config) as running:
        with smtplib.SMTP("127.0.0.1", port_of(config), local_hostname=f"mx.{REPORTER}", timeout=60) as smtp:
            for number, (content, _) in enumerate(cases):
                # What claims to be ours is taken away.
                smtp.sendmail(sender, [OURS], b"X-Postward-Report: forged\r\n" + content)
                until(lambda number=number: len(said(config)) == number + 1)
            smtp.sendmail(sender, ["TLSreports+x@example.com"], signed(first, key))
            until(lambda: len(said(config)) == len(cases) + 1)
        assert running.stop() == 0
    for line, (_, expected) in zip(said(config), cases, strict=False):
        assert line.startswith(expected), said(config)
    [line] = received(config)
    assert (line["domain"], line["reports"], line["successes"], line["failures"]) == ("example.com", 2, 30, 3)
    days = received(config, "example.com")
    assert sum(each["successes"] for each in days if each["kind"] == "day") == 30
    [failure] = [each for each in days if each["kind"] == "failure"]
    assert (failure["result_type"], failure["n"]) == ("certificate-expired", 3)
    assert failure["do"]
    plain_text = subprocess.run(
        [*PROGRAM, "tlsrpt", "received", "example.com", "--config", str(config)],
        capture_output=True, text=True, env=ENVIRONMENT, timeout=60, check=False,
    )  # fmt: skip
    assert plain_text.returncode == 1
    assert failure["do"] in plain_text.stdout
