"""kill -9 of a whole relay while it closes days and mails their reports: each day of each domain is reported exactly once.

`POSTWARD_KILLS=50` runs more rounds.
"""

from __future__ import annotations

import base64
import datetime
import gzip
import json
import random
import sqlite3
import time
from collections import Counter
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
import trio

from postward.app import App
from postward.config import load
from postward.dkim import generate, private_pem
from postward.lab.zones import Signing
from postward.model import Failure, Mode, PolicyResult, ResultType, TlsResult
from postward.names import Domain
from relay_kit import Internet, environment_number, internet, relay_config, until
from relay_kit import Relay as Running

pytestmark = pytest.mark.loopback

KILLS = environment_number("POSTWARD_KILLS", 8)
DOMAINS = 60
DAYS = 3
COLLECTORS = ("one.test", "two.test")
# More than may be on its way when a life ends: what was taken and not yet settled comes again, the same but for its date.
AGAIN = 40


def days() -> list[str]:
    today = datetime.datetime.now(datetime.UTC).date()
    return [(today - datetime.timedelta(days=number)).isoformat() for number in range(1, DAYS + 1)]


def sessions(number: int, day: str) -> list[TlsResult]:
    """Sessions of a domain and day, more or fewer according to its number: successes, and failures of two kinds."""
    domain = Domain(f"d{number}.test")
    lines = ("version: STSv1", "mode: testing", f"mx: mx.{domain}", "max_age: 86400")

    def one(failure: Failure | None) -> TlsResult:
        policy = PolicyResult(
            kind="sts", mode=Mode.TESTING, domain=domain, passed=failure is None, failure=failure, evidence=lines
        )  # fmt: skip
        return TlsResult(day=day, domain=domain, host=Domain(f"mx.{domain}"), policies=(policy,), sending_ip="192.0.2.1")

    expired = Failure(result_type=ResultType.CERTIFICATE_EXPIRED)
    mismatch = Failure(result_type=ResultType.CERTIFICATE_HOST_MISMATCH)
    return [one(None)] * (number % 7) + [one(expired)] * (number % 3) + [one(mismatch)] * 2


async def put_in(config: Path) -> dict[tuple[str, str], tuple[int, int]]:
    """Journal and count the sessions; for each domain and day, how many succeeded and failed."""
    expected: dict[tuple[str, str], tuple[int, int]] = {}
    async with App(load(config)) as app:
        for day in days():
            for number in range(DOMAINS):
                results = sessions(number, day)
                await app.store.journal.append(*results)
                expected[f"d{number}.test", day] = (number % 7, number % 3 + 2)
        assert await app.emitter.caught_up()
    return expected


def configured(directory: Path, world: Internet) -> Path:
    for number in range(DOMAINS):
        record = f'_smtp._tls TXT "v=TLSRPTv1; rua=mailto:tls@{COLLECTORS[number % 2]}"'
        world.zones.add(f"d{number}.test", record, signing=Signing.INSECURE)
    key = directory / "key.pem"
    key.write_bytes(private_pem(generate("ed25519")))
    key.chmod(0o600)
    dkim = [{"domain": "sender.test", "selector": "s1", "key_file": str(key)}]
    return relay_config(directory, world, plugins=["tlsrpt"], dkim=dkim)


def read(mail: bytes) -> Any:
    """The report in a mail that arrived."""
    encoded = mail.rpartition(b"base64\r\n\r\n")[2].partition(b"--")[0]
    return json.loads(gzip.decompress(base64.b64decode(encoded)))


def states(directory: Path) -> Counter[str]:
    with closing(sqlite3.connect(directory / "data" / "results.db")) as database:
        return Counter(state for (state,) in database.execute("SELECT state FROM core_outbox_targets"))


def counts(document: Any) -> tuple[int, int]:
    found = [entry["summary"] for entry in document["policies"]]
    succeeded = sum(summary["total-successful-session-count"] for summary in found)
    return succeeded, sum(summary["total-failure-session-count"] for summary in found)


def test_each_day_is_reported_exactly_once_whenever_the_relay_dies(tmp_path: Path) -> None:
    """RFC 8460 §4.1, §5.5: no window twice, none lost, and success and failure are the sessions that were put in."""
    with internet(*COLLECTORS) as world:
        config = configured(tmp_path, world)
        expected = trio.run(put_in, config)
        deaths: Counter[str] = Counter()
        for _ in range(KILLS):
            running = Running(config, RELAY_REPORT_LEASE="1", RELAY_FIRST_RETRY="0.1", RELAY_LOOK="0.2")
            try:
                running.wait_for("running")
                time.sleep(random.uniform(0, 0.5))
            finally:
                running.kill()
            deaths.update(states(tmp_path))
        running = Running(config, RELAY_REPORT_LEASE="1", RELAY_FIRST_RETRY="0.1", RELAY_LOOK="0.2")
        try:
            until(lambda: states(tmp_path) == Counter(delivered=len(expected)), patience=90)
        finally:
            running.kill()
        arrived = [read(mail.content) for mail in world.arrived]
    ids: dict[tuple[str, str], set[str]] = {}
    for document in arrived:
        day = document["date-range"]["start-datetime"][:10]
        domain = document["policies"][0]["policy"]["policy-domain"]
        ids.setdefault((domain, day), set()).add(document["report-id"])
        assert counts(document) == expected[domain, day]
    assert ids.keys() == expected.keys(), "a day of a domain is missing"
    assert {len(each) for each in ids.values()} == {1}, "a day of a domain was reported twice"
    assert len(arrived) - len(expected) <= KILLS * AGAIN
    assert deaths.keys() - {"delivered"}, f"every life ended when nothing was left to do: {deaths}"
