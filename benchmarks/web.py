"""How long each web page takes with the data of a large site, and what the service that serves them needs of memory.

Run: python benchmarks/web.py [--results N] [--reports N] [--queue N] [--rounds N]

A service is started on loopback with `results` rows of TLS results, `reports` received TLS reports, `queue` messages and a
large cache of policies and outbox, in files. Each page is asked for over and over by one client, in turns, and its JSON too;
the time is from the request to the last octet of the answer.
"""

from __future__ import annotations

import argparse
import http.client
import json
import shutil
import signal
import socket
import sqlite3
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import closing
from pathlib import Path

import tomli_w
import trio

from postward.app import App
from postward.clock import SystemClock
from postward.config import load
from postward.dns import ZoneResolver
from postward.model import MICROSECONDS, day_of

DAY = 86_400 * MICROSECONDS
KINDS = 7
DOMAINS = 20
SENDERS = 40
POLICY = {"policy-type": "sts", "policy-string": ["version: STSv1", "mode: enforce"], "policy-domain": "x.example"}
DETAIL = {"result-type": "certificate-expired", "receiving-mx-hostname": "mx.x.example"}


def free_port() -> int:
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        return int(sock.getsockname()[1])


def configure(folder: Path, port: int) -> Path:
    file = folder / "postward.toml"
    tables = {
        "plugins": ["mtasts", "dane", "tlsrpt", "dmarc"],
        "core": {"hostname": "mx.sender.example", "data_dir": str(folder / "data")},
        "dns": {"nameservers": ["127.0.0.1:1"], "self_test": {"secure": "", "bogus": ""}},
        "web": {"bind": f"127.0.0.1:{port}"},
    }
    file.write_text(tomli_w.dumps(tables))
    return file


async def make_tables(config: Path) -> None:
    async with App(load(config), dns=ZoneResolver(), inline=True):
        pass


def fill(folder: Path, results: int, reports: int, queue: int) -> None:
    now = SystemClock().now()
    with closing(sqlite3.connect(folder / "data" / "results.db")) as database, database:
        database.executemany("INSERT INTO tlsrpt_sessions VALUES (?, ?, ?, ?, ?, ?, ?)", sessions(results, now))
        database.executemany("INSERT INTO tlsrpt_details VALUES (?, ?, ?, ?, ?, ?)", details(results, now))
        fill_received(database, reports, now)
        fill_outbox(database, 20_000, now)
        database.executemany(
            "INSERT INTO mtasts_policies VALUES (?, '1', 'version: STSv1', 'enforce', ?, ?, ?, ?, '', '', 'text/plain', ?)",
            ((f"p{number}.example", now, now + 7 * DAY, now, now, now + DAY) for number in range(100_000)),
        )
    with closing(sqlite3.connect(folder / "data" / "node.db")) as database, database:
        fill_queue(database, queue, now)


def sessions(results: int, now: int) -> Iterator[tuple[object, ...]]:
    days = [day_of(now - back * DAY) for back in range(2)]
    policy = json.dumps(POLICY)
    for number in range(results):
        domain, failures = f"d{number // 2}.example", number % 10 // 9
        yield domain, days[number % 2], "a" * 64, domain, policy, number % 90, failures


def details(results: int, now: int) -> Iterator[tuple[object, ...]]:
    text = json.dumps(DETAIL)
    for domain, day, policy, _, _, _, failures in sessions(results, now):
        if failures:
            yield domain, day, policy, "e" * 64, text, failures


def fill_received(database: sqlite3.Connection, reports: int, now: int) -> None:
    for number in range(reports):
        at = now - (1 + number % 90) * DAY
        row = (
            "mail",
            f"s{number % SENDERS}.example",
            f"r{number}",
            f"{number:064}",
            f"Sender {number % SENDERS}",
            "",
            day_of(at),
        )
        database.execute(
            "INSERT INTO tlsrpt_received VALUES (?, ?, ?, ?, ?, ?, ?, ?, '', ?, ?, ?)", (number, *row, at, at, now)
        )
        domain = f"own{number % DOMAINS}.example"
        database.execute(
            "INSERT INTO tlsrpt_received_policies VALUES (?, 0, ?, 'sts', ?, 0, 900, ?)",
            (number, domain, json.dumps(POLICY), KINDS),
        )
        for kind in range(KINDS):
            database.execute(
                "INSERT INTO tlsrpt_received_failures VALUES (?, 0, ?, 'certificate-expired', ?, 'mx.example', ?, 1)",
                (number, kind, f"reason {kind}", json.dumps(DETAIL)),
            )


def fill_outbox(database: sqlite3.Connection, reports: int, now: int) -> None:
    for number in range(reports):
        key = f"{number:032x}"
        database.execute(
            "INSERT INTO core_outbox VALUES (?, 'tls', ?, 'sender.example', ?, ?, ?, 's', 'f', 'application/tlsrpt+json', ?,"
            " 'e', 'm', '[]', 'cid', ?)",
            (key, f"r{number}", f"d{number}.example", now // DAY * DAY - DAY, now // DAY * DAY, b"{}", now - number),
        )
        database.execute(
            "INSERT INTO core_outbox_targets (report, position, uri, way, state, attempts, first_try, next_try, lease_by,"
            " last_detail) VALUES (?, 0, 'mailto:a@b.example', 'mail', 'delivered', 1, 0, 0, '', '250 ok')",
            (key,),
        )


def fill_queue(database: sqlite3.Connection, messages: int, now: int) -> None:
    """Held, so that the service does not try to deliver them."""
    for number in range(1, messages + 1):
        domain = f"d{number % 500}.example"
        _insert(
            database,
            "queue_messages",
            {
                "id": number,
                "cid": f"{number:012x}",
                "sender": "a@sender.example",
                "received": now,
                "size": 10,
                "wish": "follow",
            },
        )
        _insert(database, "queue_recipients", {"message": number, "domain": domain, "state": 1, "local": "u"})


def _insert(database: sqlite3.Connection, table: str, values: dict[str, object]) -> None:
    """A row with `values`, and with nothing in all other columns."""
    row = {}
    for _, name, kind, *_ in database.execute(f"PRAGMA table_info({table})"):
        nothing: object = 0 if "INT" in kind.upper() else b"" if "BLOB" in kind.upper() else ""
        row[name] = values.get(name, nothing)
    database.execute(f"INSERT INTO {table} ({', '.join(row)}) VALUES ({', '.join('?' * len(row))})", tuple(row.values()))


def pages(results: int) -> Sequence[str]:
    today = day_of(SystemClock().now())
    deep = f"d{results // 4}.example/{today}/{'a' * 64}"
    return [
        "/",
        "/queue",
        "/queue?domain=d7.example",
        "/reports",
        "/reports?state=failed",
        "/reports/suppressed",
        "/plugins",
        "/tlsrpt/results",
        f"/tlsrpt/results?after={deep}",
        "/tlsrpt/results?domain=d77.example",
        f"/tlsrpt/results?day={today}",
        f"/tlsrpt/results?day={today}&show=with+failures",
        f"/tlsrpt/results/d77.example/{day_of(SystemClock().now() - DAY)}/{'a' * 64}",
        "/tlsrpt/received",
        "/tlsrpt/received?domain=own7.example&days=90",
        "/mtasts/cache",
        "/mtasts/cache?after=p5.example",
        "/api/v1/overview",
        "/api/v1/tlsrpt/results?limit=200",
    ]


def ask(connection: http.client.HTTPConnection, path: str) -> tuple[int, float]:
    begin = time.perf_counter()
    connection.request("GET", path)
    answer = connection.getresponse()
    answer.read()
    return answer.status, 1000 * (time.perf_counter() - begin)


def memory(process: int) -> float:
    lines = Path(f"/proc/{process}/status").read_text().splitlines()
    return int(next(line for line in lines if line.startswith("VmRSS")).split()[1]) / 1024


def measure(port: int, results: int, rounds: int) -> None:
    times: dict[str, list[float]] = {path: [] for path in pages(results)}
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=60)
    for _ in range(rounds):
        for path, taken in times.items():
            status, took = ask(connection, path)
            assert status in (200, 404), (path, status)
            taken.append(took)
    print(f"{'page':<66}{'first':>9}{'median':>9}{'p99':>9}   ms")
    for path, taken in times.items():
        late = sorted(taken)[min(len(taken) - 1, int(len(taken) * 0.99))]
        print(f"{path[:64]:<66}{taken[0]:>9.1f}{statistics.median(taken):>9.1f}{late:>9.1f}")
    connection.close()


def main(results: int, reports: int, queue: int, rounds: int) -> None:
    folder, port = Path(tempfile.mkdtemp(prefix="postward-web-")), free_port()
    try:
        config = configure(folder, port)
        trio.run(make_tables, config)
        fill(folder, results, reports, queue)
        command = [sys.executable, "-m", "postward", "run", "--config", str(config)]
        process = subprocess.Popen(command, stderr=(folder / "log").open("wb"))
        try:
            while b'"running"' not in (folder / "log").read_bytes():
                assert process.poll() is None, (folder / "log").read_text()
                time.sleep(0.1)
            before = memory(process.pid)
            print(f"{results:,} results, {reports:,} received TLS reports, {queue:,} messages; {rounds} rounds")
            measure(port, results, rounds)
            print(f"RSS {before:.0f} MB before, {memory(process.pid):.0f} MB after")
        finally:
            process.send_signal(signal.SIGTERM)
            process.wait(30)
    finally:
        shutil.rmtree(folder)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--results", type=int, default=1_000_000)
    parser.add_argument("--reports", type=int, default=10_000)
    parser.add_argument("--queue", type=int, default=20_000)
    parser.add_argument("--rounds", type=int, default=50)
    options = parser.parse_args()
    main(options.results, options.reports, options.queue, options.rounds)
