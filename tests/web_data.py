"""What an operator has after some weeks, put into the databases of a program, with the texts of people who mean harm."""

from __future__ import annotations

import gzip
import json
from html import escape
from pathlib import Path
from typing import Any

from dmarc_samples import new, old
from postward.app import App
from postward.model import MICROSECONDS, Mode, ReportTarget, Window, day_of
from postward.names import Address, Domain
from postward.queue.pick import Pick
from postward.reports.rows import put
from postward_dmarc.reading.message import stream_in
from postward_mtasts import tables as sts_tables
from postward_mtasts.cache import Entry
from postward_tlsrpt import received_tables
from postward_tlsrpt.own import Kept
from postward_tlsrpt.read import read
from queue_kit import new_message
from report_kit import make_report
from tlsrpt_samples import as_json, detail, plain, policy

DAY = 86_400 * MICROSECONDS
EVIL = "<img src=x onerror=alert(1)>\u202e\x1b[2J'\"><script>alert(1)</script>"
POLICY = "version: STSv1\r\nmode: enforce\r\nmx: *.b.example\r\nmax_age: 604800\r\n"
POLICY_ID = "a" * 64

CONFIG: dict[str, Any] = {
    "plugins": ["mtasts", "dane", "tlsrpt", "dmarc"],
    "plugin": {"tlsrpt": {"own_domains": ["example.com"]}, "dmarc": {"addresses": ["dmarc@example.com"]}},
}


async def fill(app: App) -> None:
    """Put everything in."""
    now = app.clock.now()
    await _queue(app, now)
    await _outbox(app, now)
    await _results(app, now)
    await _received(app, now)
    await _policies(app, now)
    await _dmarc(app, now)


async def _queue(app: App, now: int) -> None:
    for number in range(60):
        message = new_message(
            f"user{number}@{('b', 'c', 'xn--bcher-kva')[number % 3]}.example",
            sender=Address.parse(f"sender{number % 4}@sender.example"),
            received=now - number * 60 * MICROSECONDS,
        )
        writer = app.queue.writer()
        await writer.write(f"Subject: Hello {EVIL}\r\n\r\nhello\r\n".encode())
        await writer.commit(message)
        if number % 10 == 0:
            await app.queue.hold(Pick(cid=message.cid))


async def _outbox(app: App, now: int) -> None:
    yesterday = Window.of_day(day_of(now - DAY))
    content = gzip.compress(json.dumps({"organization-name": EVIL, "policies": []}).encode())
    reports = [
        make_report(f"r{number}", content=content, window=yesterday, policy_domain=Domain(f"d{number}.example"))
        for number in range(55)
    ]
    targets = [ReportTarget(uri="mailto:tls@d.example"), ReportTarget(uri="https://reports.example/v1")]
    await app.store.results.write(lambda connection: put(connection, reports, targets, due=now + DAY, cid="0123456789ab"))
    failed = "UPDATE core_outbox_targets SET state = 'failed', last_detail = '550 5.1.1 no such user', attempts = 3"

    def fail(connection: Any) -> None:
        connection.exec_driver_sql(f"{failed} WHERE position = 0 AND report IN (SELECT id FROM core_outbox LIMIT 5)")

    await app.store.results.write(fail)


async def _results(app: App, now: int) -> None:
    sts = {"policy-type": "sts", "policy-string": POLICY.splitlines(), "policy-domain": "b.example", "mx-host": ["*.b.example"]}
    what = detail("certificate-expired", 0, **{"additional-information": EVIL})
    sessions, details = [], []
    for back in range(3):
        for number in range(40):
            domain, day = f"d{number:02}.example", day_of(now - back * DAY)
            failures = number % 7
            sessions.append((domain, day, POLICY_ID, domain, json.dumps(sts), 100 + number, failures))
            if failures:
                details.append((domain, day, POLICY_ID, "e" * 64, json.dumps(what), failures))

    def write(connection: Any) -> None:
        connection.exec_driver_sql("INSERT INTO tlsrpt_sessions VALUES (?, ?, ?, ?, ?, ?, ?)", sessions)
        connection.exec_driver_sql("INSERT INTO tlsrpt_details VALUES (?, ?, ?, ?, ?, ?)", details)

    await app.store.results.write(write)


async def _received(app: App, now: int) -> None:
    for back in range(1, 25):
        window = Window.of_day(day_of(now - back * DAY))
        for sender in ("Big Mail Inc", EVIL):
            bad = (back * 7) % 30 if back % 3 else 0
            found = policy(400 + back * 20, bad, **({} if bad else {"failure-details": []}))
            if bad:
                found["failure-details"] = [detail("certificate-expired", bad, **{"receiving-mx-hostname": EVIL[:200]})]
            span = {"start-datetime": f"{window.day}T00:00:00Z", "end-datetime": f"{window.day}T23:59:59Z"}
            report = plain(**{"organization-name": sender, "report-id": f"{window.day}-{len(sender)}", "date-range": span})
            report["policies"] = [found]
            reading = read(as_json(report))
            kept = tuple(Kept(domain="example.com", is_host=False, result=one) for one in reading.report.policies)
            arrived = received_tables.Arrived(reading=reading, kept=kept, via="mail", submitter="big.example", received=now)
            await app.store.results.write(lambda connection, one=arrived: received_tables.store(connection, one))


async def _policies(app: App, now: int) -> None:
    for number in range(60):
        entry = Entry(
            domain=Domain(f"p{number:02}.example"),
            record_id=f"2026{number}",
            text=POLICY,
            mode=(Mode.ENFORCE, Mode.TESTING, Mode.NONE)[number % 3],
            fetched=now - DAY,
            expires=now + (6 - number % 9) * DAY,
            last_use=now - number * 3600 * MICROSECONDS,
            last_attempt=now - DAY,
            last_error=EVIL if number % 11 == 3 else "",
        )
        await app.store.results.write(lambda connection, one=entry: sts_tables.save(connection, one))


async def _dmarc(app: App, now: int) -> None:
    plugin: Any = app.plugins.instances["dmarc"]
    for back in range(1, 12):
        begin = Window.of_day(day_of(now - back * DAY)).start // MICROSECONDS
        for content in (old(60), new(), old(3).replace(b"big-mailbox.example", escape(EVIL[:60]).encode())):
            dated = content.replace(b"1767225600", b"%d" % begin).replace(b"1767311999", b"%d" % (begin + 86_399))
            stored = await plugin.receiver.take(stream_in(dated), via="file", voucher="")
            assert [each.state for each in stored] == ["stored"], stored


def configure(folder: Path, **more: Any) -> dict[str, Any]:
    """The tables of a configuration below `folder`."""
    return {"core": {"hostname": "mx.sender.example", "data_dir": str(folder / "data")}, **CONFIG, **more}
