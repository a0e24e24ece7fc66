"""`postward run` receives TLS reports by SMTP, LMTP and HTTPS, and shows them; also when it is killed meanwhile."""

from __future__ import annotations

import http.client
import json
import smtplib
import ssl
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from deliver_kit import run
from postward.dkim import Signer, SigningKey, dns_record
from postward.lab.zones import Signing
from postward.names import Domain
from relay_kit import AUTHORITY, Internet, client, free_port, internet, relay, relay_config
from tlsrpt_samples import mail, plain, policy, zipped

pytestmark = pytest.mark.loopback

COMPANY = Domain("company-x.example")
KEY = SigningKey(domain=COMPANY, selector="s1", key=Ed25519PrivateKey.generate())
REPORTS = "tlsrpt@example.com"


@pytest.fixture(scope="module")
def world() -> Iterator[Internet]:
    with internet("a.test") as made:
        _, record = dns_record(KEY)
        made.zones.add(COMPANY, f"s1._domainkey TXT {record}", signing=Signing.INSECURE)
        yield made


@pytest.fixture
def config(world: Internet, tmp_path: Path) -> Path:
    identity = AUTHORITY.issue([Domain("mx.example.com")])
    cert, key = tmp_path / "web.pem", tmp_path / "web.key"
    cert.write_bytes(identity.chain_pem)
    key.write_bytes(identity.key_pem)
    listen = [
        {"kind": "smtp", "bind": f"127.0.0.1:{free_port()}", "networks": ["192.0.2.0/24"]},
        {"kind": "lmtp", "bind": f"unix:{tmp_path}/lmtp"},
    ]
    return relay_config(
        tmp_path,
        world,
        *listen,
        plugins=["tlsrpt"],
        web={
            "bind": f"127.0.0.1:{free_port()}",
            "public": f"127.0.0.1:{free_port()}",
            "certificates": [{"cert_file": str(cert), "key_file": str(key)}],
        },
        inbound={"per_minute": 100_000},
        plugin={"tlsrpt": {"addresses": [REPORTS], "send": False, "keep_days": 36500}},
    )


def report(number: int = 0, **counts: int) -> bytes:
    identifier = {"report-id": f"report-{number}@company-x.example"} if number else {}
    return zipped(plain(policies=[policy(**counts)], **identifier))


def signed(content: bytes) -> bytes:
    return Signer([KEY]).sign(mail(content), COMPANY)


def shown(config: Path, *words: str) -> tuple[int, list[dict[str, Any]]]:
    done = run("tlsrpt", "received", "--config", config, "--json", "--days", "36500", *words)
    return done.code, [json.loads(line) for line in done.out.decode().splitlines()]


def post(config: Path, body: bytes) -> int:
    import tomllib

    bind = tomllib.loads(config.read_text())["web"]["public"]
    context = ssl.create_default_context(cadata=AUTHORITY.root_pem.decode())
    context.check_hostname = False
    connection = http.client.HTTPSConnection("127.0.0.1", int(bind.rpartition(":")[2]), context=context, timeout=30)
    connection.request("POST", "/tlsrpt/report", body, {"Content-Type": "application/tlsrpt+gzip"})
    status = connection.getresponse().status
    connection.close()
    return status


def test_by_smtp_lmtp_and_https_and_shown(config: Path, tmp_path: Path) -> None:
    """RFC 8460 §5.3, §5.4: each report once, whatever way it comes."""
    with relay(config) as service:
        with client(config) as smtp:
            smtp.sendmail("reports@company-x.example", [REPORTS], signed(report(1, good=10, bad=2)))
            with pytest.raises(smtplib.SMTPRecipientsRefused):
                smtp.sendmail("reports@company-x.example", ["you@a.test"], signed(report(1)))
        with smtplib.LMTP(f"{tmp_path}/lmtp") as lmtp:
            lmtp.sendmail("reports@company-x.example", ["tlsrpt+x@example.com"], signed(report(2, good=20, bad=0)))
            lmtp.sendmail("reports@company-x.example", [REPORTS], mail(report(9)))
        assert [post(config, report(number, good=30, bad=3)) for number in (3, 3)] == [201, 200]
        assert post(config, report(1, good=10, bad=2)) == 200
        assert post(config, b"\x1f\x8brubbish") == 400
        code, (found,) = shown(config)
        assert service.stop() == 0
    assert (code, found["domain"], found["is_host"]) == (1, "example.com", False)
    assert (found["reports"], found["successes"], found["failures"]) == (3, 60, 5)
    delivered = [file.read_text() for file in (tmp_path / "data" / "inbound" / "new").iterdir()]
    assert sorted("X-Postward-Report: tlsrpt;" in text for text in delivered) == [False, True, True]
    assert [text for text in delivered if "X-Postward-TLSReport-Error: no DKIM signature" in text]
    text = run("tlsrpt", "received", "example.com", "--days", "36500", "--config", config).out.decode()
    assert "Renew it" in text


def test_killed_while_storing_nothing_is_lost_or_counted_twice(config: Path) -> None:
    """Every report that was answered 250 or 2xx is counted once, also when its sender tried again."""
    sent: set[int] = set()

    def feed(numbers: range) -> None:
        for number in numbers:
            try:
                if number % 2:
                    good = post(config, report(number, good=1, bad=0)) in (200, 201)
                else:
                    with client(config) as smtp:
                        smtp.sendmail("r@company-x.example", [REPORTS], signed(report(number, good=1, bad=0)))
                    good = True
            except (OSError, smtplib.SMTPException, http.client.HTTPException):
                good = False
            if good:
                sent.add(number)

    for life in range(3):
        with relay(config) as service:
            threads = [threading.Thread(target=feed, args=(range(1 + first, 61, 3),)) for first in range(3)]
            for each in threads:
                each.start()
            while any(each.is_alive() for each in threads) and len(sent) < 12 * (life + 1):
                threads[0].join(0.01)
            service.kill()
            for each in threads:
                each.join()
    with relay(config) as service:
        feed(range(1, 61))
        service.stop()
    _, (found,) = shown(config)
    assert sent == set(range(1, 61))
    assert (found["reports"], found["successes"]) == (60, 60)


def test_parse_with_store_counts_among_the_received(config: Path, tmp_path: Path) -> None:
    for number in (1, 2):
        (tmp_path / f"{number}.json.gz").write_bytes(report(number, good=7, bad=0))
    for stored in ("stored", "duplicate"):
        files = [tmp_path / "1.json.gz", tmp_path / "2.json.gz"]
        done = run("tlsrpt", "parse", "--config", config, "--store", "--json", *files)
        assert done.code == 0, done.err
        assert [json.loads(line)["stored"] for line in done.out.decode().splitlines()] == [stored] * 2
    code, (found,) = shown(config)
    assert (code, found["reports"], found["successes"]) == (0, 2, 14)
