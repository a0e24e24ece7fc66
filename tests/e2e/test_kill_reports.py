"""kill -9 between counting, building and sending: every session is in exactly one report, every report is sent."""

from __future__ import annotations

import gzip
import json
import random
import signal
import sqlite3
import subprocess
import sys
from collections import Counter
from contextlib import closing
from pathlib import Path

import pytest

ROUNDS = 12
WORKER = Path(__file__).with_name("report_worker.py")


def start(where: Path, life: int, commits: int) -> subprocess.Popen[str]:
    command = [sys.executable, WORKER, where, str(life), str(commits)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True, bufsize=1)


def reported(connection: sqlite3.Connection) -> Counter[str]:
    """How often each address stands in all reports together."""
    counts: Counter[str] = Counter()
    for (content,) in connection.execute("SELECT content FROM core_outbox"):
        (policy,) = json.loads(gzip.decompress(content))["policies"]
        for detail in policy["failure-details"]:
            counts[detail["sending-mta-ip"]] += detail["failed-session-count"]
        total = sum(detail["failed-session-count"] for detail in policy["failure-details"])
        assert policy["summary"] == {"total-successful-session-count": 0, "total-failure-session-count": total}
    return counts


@pytest.mark.loopback
def test_a_killed_program_reports_every_session_once_and_sends_every_report(tmp_path: Path) -> None:
    acknowledged: set[str] = set()
    for life in range(ROUNDS):
        with start(tmp_path, life, commits=random.randint(1, 60)) as worker:
            assert worker.stdout is not None
            # A line cut by the kill was not acknowledged to anybody.
            lines = worker.stdout.read().splitlines(keepends=True)
            acknowledged |= {line.strip() for line in lines if line.endswith("\n")}
            assert worker.wait(60) == -signal.SIGKILL
    with start(tmp_path, ROUNDS, commits=0) as worker:
        assert worker.wait(60) == 0
    with closing(sqlite3.connect(tmp_path / "results.db")) as connection:
        found = reported(connection)
        targets = {
            f"{report} {uri}"
            for report, uri in connection.execute(
                "SELECT report_id, uri FROM core_outbox_targets JOIN core_outbox ON id = report WHERE state = 'delivered'"
            )
        }
        (count,) = connection.execute("SELECT COUNT(*) FROM core_outbox_targets").fetchone()
    assert acknowledged, "the lives were too short to show anything"
    assert not acknowledged - found.keys(), "lost"
    assert set(found.values()) == {2}, "counted in part or twice"
    sent = Counter((tmp_path / "sent").read_text().splitlines())
    assert targets == set(sent)
    assert len(targets) == count
    # What was on its way when a life ended may go out again: the sender has eight hands.
    assert sum(sent.values()) - len(sent) <= ROUNDS * 8
