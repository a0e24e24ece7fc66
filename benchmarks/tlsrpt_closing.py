"""What closing a day costs: counters become reports, the reports signed mails in the queue; time, memory, cost per report.

Run: python benchmarks/tlsrpt_closing.py [--domains N ...] [--details N]

For each number of policy domains a day is filled with `--details` distinct failures each, and closed by a process of its own,
as `postward run` does it: on real files, with an fsync for every transaction, Ed25519 signatures and the log as JSON. DNS
answers at once. `closing` ends when all reports are in the outbox, `signing` when all mails are in the queue. Afterwards the
sessions in the mails are counted against those that were put in.
"""

from __future__ import annotations

import argparse
import base64
import gzip
import hashlib
import json
import os
import resource
import shutil
import sqlite3
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import dns.rdata
import msgspec
import trio

from postward.app import App
from postward.clock import SettableClock
from postward.config import load
from postward.dkim import generate
from postward.dkim.sign import private_pem
from postward.dns.answer import Answer, Status
from postward.log import configure
from postward.model import Window
from postward.names import Domain
from postward.reports.sender import Sender
from postward_tlsrpt.report import FailureDetail, Policy

DAY = "2026-03-01"
SECONDS, MEGABYTES = 90.0, 200.0
CONFIG = """
plugins = ["tlsrpt"]
[core]
hostname = "mx1.sender.example"
data_dir = "{where}"
database = "sqlite:///{where}/results.db"
[[dkim]]
domain = "sender.example"
selector = "s1"
key_file = "{where}/key.pem"
"""
RECORD = dns.rdata.from_text("IN", "TXT", '"v=TLSRPTv1; rua=mailto:tls-reports@reports.example"')


class Dns:
    """Gives everybody the same record, at once."""

    validating = True
    problems = ()

    async def query(self, name: Domain | str, rdtype: str) -> Answer:
        name = Domain(name)
        return Answer(name=name, rdtype=rdtype, status=Status.INSECURE, canonical=name, records=(RECORD,), ttl=300)

    async def addresses(self, name: Domain) -> tuple[Answer, Answer]:
        return await self.query(name, "A"), await self.query(name, "AAAA")


def sessions(domains: int) -> Iterator[tuple[str, str, str, str, str, int, int]]:
    for number in range(domains):
        domain = f"d{number}.example.com"
        lines = ("version: STSv1", "mode: enforce", f"mx: *.{domain}", "max_age: 604800")
        policy = msgspec.json.encode(
            Policy(policy_type="sts", policy_string=lines, policy_domain=domain, mx_host=(f"*.{domain}",))
        )
        yield domain, DAY, hashlib.sha256(policy).hexdigest(), domain, policy.decode(), 90, 10


def details(domain: str, policy: str, number: int) -> Iterator[tuple[str, str, str, str, str, int]]:
    for each in range(number):
        detail = msgspec.json.encode(
            FailureDetail(
                result_type="certificate-expired",
                sending_mta_ip="192.0.2.1",
                receiving_mx_hostname=f"mx{each}.{domain}",
                receiving_mx_helo=f"mx{each}.{domain}",
                receiving_ip=f"198.51.100.{each}",
                failure_reason_code="x509-10",
            )
        )
        yield domain, DAY, policy, hashlib.sha256(detail).hexdigest(), detail.decode(), 10


async def prepare(where: Path) -> None:
    key = where / "key.pem"
    key.write_bytes(private_pem(generate("ed25519")))
    key.chmod(0o600)
    (where / "postward.toml").write_text(CONFIG.format(where=where))
    async with App(load(where / "postward.toml"), clock=SettableClock(Window.of_day(DAY).end), dns=Dns()):
        pass


def fill(where: Path, domains: int, number: int) -> None:
    with closing(sqlite3.connect(where / "results.db")) as database, database:
        for row in sessions(domains):
            database.execute("INSERT INTO tlsrpt_sessions VALUES (?, ?, ?, ?, ?, ?, ?)", row)
            database.executemany("INSERT INTO tlsrpt_details VALUES (?, ?, ?, ?, ?, ?)", details(row[0], row[2], number))


async def close(where: Path) -> None:
    """The measured process."""
    clock = SettableClock(Window.of_day(DAY).end + 3_600_000_000)
    async with App(load(where / "postward.toml"), clock=clock, dns=Dns()) as app:
        sender = Sender(
            outbox=app.outbox, hooks=app.hooks, clock=clock, signer=app.signer, http=app.http, send=app.deliver,
            post=app.post, log=app.log,
        )  # fmt: skip
        before, begin = os.times(), time.perf_counter()
        run = await app.build_reports()
        middle = time.perf_counter()
        sent = await sender.send_due()
        end, after = time.perf_counter(), os.times()
    print(
        json.dumps(
            {
                "reports": run.built,
                "queued": sent.queued,
                "closing": middle - begin,
                "signing": end - middle,
                "cpu": after.user + after.system - before.user - before.system,
                "rss": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024,
            }
        )
    )


def counted(where: Path) -> tuple[int, int]:
    """Mails in the queue, and the sessions in them."""
    mails = total = 0
    with closing(sqlite3.connect(where / "node.db")) as database:
        for (body,) in database.execute("SELECT data FROM queue_bodies"):
            encoded = body.rpartition(b"base64\r\n\r\n")[2].partition(b"--")[0]
            report = json.loads(gzip.decompress(base64.b64decode(encoded)))
            mails += body.startswith(b"DKIM-Signature:")
            for policy in report["policies"]:
                total += sum(policy["summary"].values())
    return mails, total


def main(sizes: list[int], number: int) -> None:
    for domains in sizes:
        where = Path(tempfile.mkdtemp(prefix="postward-bench-"))
        try:
            trio.run(prepare, where)
            fill(where, domains, number)
            command = [sys.executable, __file__, "--close", str(where)]
            with (where / "log").open("w") as log:
                said = subprocess.run(command, check=True, stdout=subprocess.PIPE, stderr=log, text=True)
            found = json.loads(said.stdout)
            mails, total = counted(where)
            assert found["reports"] == found["queued"] == mails == domains, found
            assert total == domains * 100, "sessions were lost or counted twice"
            seconds = found["closing"] + found["signing"]
            verdict = [f"above {SECONDS:g} s"] * (seconds > SECONDS) + [f"above {MEGABYTES:g} MB"] * (found["rss"] > MEGABYTES)
            print(
                f"{domains:>7} reports, {domains * number:>8} details: {found['closing']:6.1f} s closing,"
                f" {found['signing']:6.1f} s signing, {seconds / domains * 1e6:5.0f} us a report"
                f" ({found['cpu'] / domains * 1e6:.0f} us CPU), RSS {found['rss']:.0f} MB   {', '.join(verdict)}",
                flush=True,
            )
        finally:
            shutil.rmtree(where)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--domains", type=int, nargs="+", default=[1_000, 10_000, 100_000])
    parser.add_argument("--details", type=int, default=10)
    parser.add_argument("--close", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.close is None:
        main(options.domains, options.details)
    else:
        configure("info", json=True)
        trio.run(close, options.close)
