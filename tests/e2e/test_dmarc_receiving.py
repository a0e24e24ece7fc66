"""`postward run` receives DMARC reports by SMTP and LMTP and shows them; also when it is killed meanwhile."""

from __future__ import annotations

import gzip
import json
import re
import smtplib
import sqlite3
import threading
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from deliver_kit import run
from dmarc_samples import FEEDBACK, RECORD, failure_mail, mail, old
from postward.dkim import Signer, SigningKey, dns_record
from postward.lab.zones import Signing
from postward.names import Domain
from relay_kit import Internet, client, free_port, internet, relay, relay_config, until

pytestmark = pytest.mark.loopback

REPORTER = Domain("big-mailbox.example")
KEY = SigningKey(domain=REPORTER, selector="s1", key=Ed25519PrivateKey.generate())
OURS = "dmarc@example.com"
SENDER = f"noreply-dmarc@{REPORTER}"


@pytest.fixture(scope="module")
def world() -> Iterator[Internet]:
    with internet("a.test") as made:
        _, record = dns_record(KEY)
        records = f's1._domainkey TXT {record}\n_dmarc TXT "v=DMARC1; p=reject"'
        made.zones.add(REPORTER, records, signing=Signing.INSECURE)
        yield made


@pytest.fixture
def config(world: Internet, tmp_path: Path) -> Path:
    listen = [
        {"kind": "smtp", "bind": f"127.0.0.1:{free_port()}", "networks": ["192.0.2.0/24"]},
        {"kind": "lmtp", "bind": f"unix:{tmp_path}/lmtp"},
    ]
    return relay_config(
        tmp_path,
        world,
        *listen,
        plugins=["dmarc"],
        inbound={"per_minute": 100_000},
        plugin={"dmarc": {"addresses": [OURS], "keep_days": 36500}},
    )


def report(number: int, records: str | None = None) -> bytes:
    """A report about `number` messages, with an id of its own."""
    rows = records if records is not None else RECORD.format(ip="192.0.2.1", count=number)
    head, _, end = old(0).partition(b"</feedback>")
    return head.replace(b"13987654321098765432", str(number).encode()) + rows.encode() + b"</feedback>" + end


def mailed(content: bytes) -> bytes:
    return mail(("application/gzip", "x.xml.gz", gzip.compress(content))).replace(b"\n", b"\r\n")


def signed(content: bytes) -> bytes:
    return Signer([KEY]).sign(content, REPORTER)


def shown(config: Path, *words: str) -> tuple[int, list[dict[str, Any]]]:
    done = run("dmarc", "received", "--config", config, "--json", "--days", "36500", *words)
    return done.code, [json.loads(line) for line in done.out.decode().splitlines()]


def said(config: Path) -> list[str]:
    """What was put on top of each message that was delivered, by the fields of ours, oldest first."""
    found = []
    for file in sorted((config.parent / "data" / "inbound" / "new").glob("*"), key=lambda path: path.stat().st_mtime_ns):
        header = file.read_bytes().replace(b"\r\n", b"\n").partition(b"\n\n")[0].decode()
        found += re.findall(r"(?im)^(X-Postward-(?:Report|DMARCReport-Error): .*?)$", header)
    return found


def test_by_smtp_and_lmtp_and_shown(config: Path, tmp_path: Path) -> None:
    """RFC 9990 §3.5.2: a report that passes DMARC counts, once; every other one is mail with a reason on top."""
    cases = [
        (signed(mailed(report(10))), "X-Postward-Report: dmarc; id=\"10\" stored records=1 messages=10"),
        (signed(mailed(report(10))), "X-Postward-Report: dmarc; id=\"10\" duplicate records=1 messages=10"),
        (mailed(report(11)), "X-Postward-DMARCReport-Error: no DMARC pass"),
        (
            signed(mailed(report(12).replace(b"<domain>example.com</domain><adkim>", b"<domain>victim.test</domain><adkim>"))),
            "X-Postward-DMARCReport-Error: published policy domain unrecognized",
        ),
        (signed(mailed(b"rubbish")), "X-Postward-DMARCReport-Error: could not parse report: no XML"),
        (
            signed(failure_mail(FEEDBACK).replace(b"dmarc@receiver.example", SENDER.encode())),
            "X-Postward-Report: dmarc; failure stored domain=example.com incidents=3",
        ),
    ]  # fmt: skip
    with relay(config) as service:
        with client(config) as smtp:
            for number, (content, expected) in enumerate(cases):
                # What claims to be ours is taken away.
                smtp.sendmail(SENDER, [OURS], b"X-Postward-Report: forged\r\n" + content)
                until(lambda number=number: said(config)[number:])
                assert said(config)[-1].startswith(expected), said(config)
            with pytest.raises(smtplib.SMTPRecipientsRefused):
                smtp.sendmail(SENDER, ["you@a.test"], cases[0][0])
        with smtplib.LMTP(f"{tmp_path}/lmtp") as lmtp:
            lmtp.sendmail(SENDER, ["dmarc+x@example.com"], signed(mailed(report(20))))
        code, (found,) = shown(config)
        assert service.stop() == 0
    assert (code, found["domain"], found["reports"], found["messages"], found["failure_reports"]) == (
        0,
        "example.com",
        2,
        30,
        1,
    )
    text = run("dmarc", "received", "example.com", "--days", "36500", "--config", config).out.decode()
    assert "Who sends as example.com, and is it me?" in text
    assert "bounce.example.com" not in text
    _, lines = shown(config, "example.com")
    [sender] = [each for each in lines if each["kind"] == "sender"]
    assert (sender["is_me"], sender["messages"], sender["dkim"]) == ("yes", 30, 30)


def test_killed_while_storing_nothing_is_lost_or_counted_twice(config: Path) -> None:
    """Every report that was answered 250 is counted once, also when its sender tried again."""
    sent: set[int] = set()

    def feed(numbers: range) -> None:
        for number in numbers:
            try:
                with client(config) as smtp:
                    smtp.sendmail(SENDER, [OURS], signed(mailed(report(number))))
                sent.add(number)
            except (OSError, smtplib.SMTPException):
                pass

    for life in range(3):
        with relay(config) as service:
            threads = [threading.Thread(target=feed, args=(range(1 + first, 46, 3),)) for first in range(3)]
            for each in threads:
                each.start()
            while any(each.is_alive() for each in threads) and len(sent) < 10 * (life + 1):
                threads[0].join(0.01)
            service.kill()
            for each in threads:
                each.join()
    with relay(config) as service:
        feed(range(1, 46))
        service.stop()
    _, (found,) = shown(config)
    assert sent == set(range(1, 46))
    assert (found["reports"], found["messages"]) == (45, sum(range(1, 46)))


def test_killed_in_the_middle_of_a_large_report(config: Path) -> None:
    """Half a report is never shown, and the whole one counts when it comes again."""
    rows = "".join(RECORD.format(ip=f"192.0.{at // 250}.{at % 250}", count=1) for at in range(40_000))
    content = signed(mailed(report(1, rows)))
    database = config.parent / "data" / "results.db"

    def staged() -> int:
        with closing(sqlite3.connect(database, timeout=30)) as connection:
            return int(connection.execute("SELECT count(*) FROM dmarc_received_unfinished").fetchone()[0])

    def feed() -> None:
        with pytest.raises((OSError, smtplib.SMTPException)), client(config) as smtp:
            smtp.sendmail(SENDER, [OURS], content)

    with relay(config) as service:
        thread = threading.Thread(target=feed)
        thread.start()
        until(staged)
        service.kill()
        thread.join()
    assert shown(config) == (0, [])
    with relay(config) as service:
        with client(config) as smtp:
            smtp.sendmail(SENDER, [OURS], content)
        assert said(config)[-1].startswith('X-Postward-Report: dmarc; id="1" stored records=40000 messages=40000')
        service.stop()
    _, (found,) = shown(config)
    assert (found["reports"], found["messages"]) == (1, 40_000)


def test_parse_with_store_counts_among_the_received(config: Path, tmp_path: Path) -> None:
    for number in (1, 2):
        (tmp_path / f"{number}.xml.gz").write_bytes(gzip.compress(report(number)))
    for stored in ("stored", "duplicate"):
        done = run("dmarc", "parse", "--config", config, "--store", "--json", tmp_path / "1.xml.gz", tmp_path / "2.xml.gz")
        assert done.code == 0, done.err
        assert [json.loads(line)["stored"] for line in done.out.decode().splitlines()] == [stored] * 2
    code, (found,) = shown(config)
    assert (code, found["reports"], found["messages"]) == (0, 2, 3)
