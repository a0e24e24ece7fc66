"""kill -9 while days are closed and reports go out through the queue: every session is in exactly one report.

Real processes, real SMTP, SQLite and PostgreSQL. `POSTWARD_KILLS=50` runs more rounds.
"""

from __future__ import annotations

import base64
import email
import gzip
import itertools
import json
import random
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import structlog
import trio

from postward.app import App
from postward.clock import SystemClock, today
from postward.config import load
from postward.dkim import generate
from postward.dkim.sign import private_pem
from postward.lab.zones import Signing
from postward.model import Failure, Mode, PolicyResult, ResultType, TlsResult
from postward.names import Domain
from postward.store.cursors import day_before
from relay_kit import Arrived, Internet, environment_number, internet, pause, relay, relay_config, until

KILLS = environment_number("POSTWARD_KILLS", 8)
DOMAINS = [f"d{number}.test" for number in range(12)]
TIMES = 3
RECORD = '_smtp._tls TXT "v=TLSRPTv1; rua=mailto:tls@reports.test"'
QUICKLY = {"RELAY_REPORTS": "0.3", "RELAY_LOOK": "0.3"}


class Sessions:
    """Puts sessions of yesterday into the journal, each failure from an address of its own."""

    def __init__(self, config: Path) -> None:
        self._config = config
        self._numbers = itertools.count()
        self._day = day_before(today(SystemClock()))
        self.addresses: list[str] = []
        self.successes: Counter[str] = Counter()

    def put(self, count: int) -> None:
        """Journal so many failures, each several times, and as many successes; durable on return."""
        results: list[TlsResult] = []
        for _ in range(count):
            number = next(self._numbers)
            address, domain = f"10.{number >> 16}.{number >> 8 & 255}.{number & 255}", DOMAINS[number % len(DOMAINS)]
            self.addresses.append(address)
            self.successes[domain] += 1
            results += [self._result(domain, address, passed=False)] * TIMES + [self._result(domain, address, passed=True)]
        trio.run(self._append, results)

    def _result(self, domain: str, address: str, *, passed: bool) -> TlsResult:
        failure = None if passed else Failure(result_type=ResultType.CERTIFICATE_EXPIRED)
        policy = PolicyResult(
            kind="sts", mode=Mode.TESTING, domain=Domain(domain), passed=passed, failure=failure, evidence=("version: STSv1",)
        )
        host = Domain(f"mx.{domain}")
        return TlsResult(
            day=self._day, domain=Domain(domain), host=host, policies=(policy,), sending_ip=address, protocol="TLSv1.3"
        )

    async def _append(self, results: list[TlsResult]) -> None:
        async with App(load(self._config), emit=False) as app:
            await app.store.journal.append(*results)


def make(tmp_path: Path, world: Internet, **core: Any) -> Path:
    for domain in DOMAINS:
        world.zones.add(domain, RECORD, signing=Signing.INSECURE)
    key = tmp_path / "key.pem"
    key.write_bytes(private_pem(generate("ed25519")))
    key.chmod(0o600)
    return relay_config(
        tmp_path,
        world,
        plugins=["tlsrpt"],
        core={"hostname": "relay.sender.test", "data_dir": str(tmp_path / "data"), **core},
        dkim=[{"domain": "sender.test", "selector": "s1", "key_file": str(key)}],
    )


async def left(config: Path) -> dict[str, int]:
    """What has not come to its end."""
    async with App(load(config), emit=False) as app:
        counts = await app.outbox.counts()
        query = "SELECT COUNT(*) FROM tlsrpt_sessions"
        counts["counted"] = await app.store.read(lambda connection: connection.exec_driver_sql(query).scalar()) or 0
        end = await app.store.journal.refresh()
        counts["journalled"] = max(0, end - app.store.position("tlsrpt"))
    counts.pop("delivered", None)
    return {name: number for name, number in counts.items() if number}


def report_in(mail: Arrived) -> Any:
    (part,) = (each for each in email.message_from_bytes(mail.content).walk() if each.get_content_subtype() == "tlsrpt+gzip")
    return json.loads(gzip.decompress(base64.b64decode(str(part.get_payload()))))


def check(world: Internet, sessions: Sessions) -> None:
    mails = world.to("tls@reports.test")
    unique = {email.message_from_bytes(mail.content)["Message-ID"]: mail for mail in mails}
    reports = [report_in(mail) for mail in unique.values()]
    assert len({report["report-id"] for report in reports}) == len(reports)
    failures: Counter[str] = Counter()
    successes: Counter[str] = Counter()
    for report in reports:
        (policy,) = report["policies"]
        summary, details = policy["summary"], policy["failure-details"]
        for detail in details:
            failures[detail["sending-mta-ip"]] += detail["failed-session-count"]
        assert summary["total-failure-session-count"] == sum(detail["failed-session-count"] for detail in details)
        successes[policy["policy"]["policy-domain"]] += summary["total-successful-session-count"]
    assert failures == dict.fromkeys(sessions.addresses, TIMES), "lost, or counted twice"
    assert successes == sessions.successes
    # What was in flight at a kill may come again, as the same mail.
    print(f"{len(reports)} reports, {len(mails) - len(unique)} mails came twice in {KILLS} kills")
    assert len(mails) - len(unique) <= KILLS
    lives: dict[str, list[int]] = {}
    for mail in mails:
        lives.setdefault(email.message_from_bytes(mail.content)["Message-ID"], []).append(mail.life)
    assert all(len(set(found)) == len(found) for found in lives.values()), "sent twice in one life"


def kill_again_and_again(world: Internet, config: Path) -> None:
    sessions = Sessions(config)
    for _ in range(KILLS):
        sessions.put(100)
        with relay(config, **QUICKLY) as running:
            pause(random.uniform(0, 1.5))
            running.kill()
        until(lambda: world.sessions == 0)
        world.life += 1
    with relay(config, **QUICKLY) as running:
        until(lambda: not trio.run(left, config))
        assert running.stop() == 0
        assert not running.events("outbox-unusable")
    check(world, sessions)


@pytest.fixture(autouse=True)
def quiet() -> Iterator[None]:
    """Our own peeks into the databases say nothing."""
    with structlog.testing.capture_logs():
        yield


@pytest.mark.loopback
def test_each_session_is_reported_once_with_sqlite(tmp_path: Path) -> None:
    """RFC 8460 §4.1: a day is told once, and success and failure add up to the sessions."""
    with internet("reports.test") as world:
        kill_again_and_again(world, make(tmp_path, world))


@pytest.mark.loopback
@pytest.mark.interop
def test_each_session_is_reported_once_with_postgresql(tmp_path: Path, url: str) -> None:
    """The same where the counters and the outbox are shared by nodes."""
    with internet("reports.test") as world:
        kill_again_and_again(world, make(tmp_path, world, database=url))
