"""kill -9 while received TLS reports are stored: afterwards each is there once and whole, and nothing was counted twice."""

from __future__ import annotations

import random
import sqlite3
import subprocess
import time
from contextlib import closing
from pathlib import Path

import pytest

from deliver_kit import ENVIRONMENT
from relay_kit import PROGRAM
from tlsrpt_samples import as_json, plain, policy

pytestmark = pytest.mark.loopback

REPORTS, LIVES = 400, 6


def counts(database: Path) -> tuple[int, ...]:
    """Reports, policies, failures, reports that lack a policy or a failure, good sessions."""
    lacking = (
        "SELECT count(*) FROM tlsrpt_received r"
        " WHERE (SELECT count(*) FROM tlsrpt_received_policies WHERE report = r.id) != 2"
        " OR (SELECT count(*) FROM tlsrpt_received_failures WHERE report = r.id) != 2"
    )
    tables = [f"SELECT count(*) FROM tlsrpt_received{end}" for end in ("", "_policies", "_failures")]
    queries = [*tables, lacking, "SELECT coalesce(sum(successes), 0) FROM tlsrpt_received_policies"]
    with closing(sqlite3.connect(database)) as connection:
        return tuple(connection.execute(query).fetchone()[0] for query in queries)


def test_a_killed_program_stores_each_report_once_and_whole(tmp_path: Path) -> None:
    reports = tmp_path / "reports"
    reports.mkdir()
    for number in range(REPORTS):
        value = plain(**{"report-id": f"{number}@company-x.example", "policies": [policy(number, 3), policy(1, 1)]})
        (reports / f"{number}.json").write_bytes(as_json(value))
    config = tmp_path / "postward.toml"
    config.write_text(
        f'plugins = ["tlsrpt"]\n[core]\nhostname = "mx.example.com"\ndata_dir = "{tmp_path / "data"}"\n'
        '[plugin.tlsrpt]\nown_domains = ["example.com"]\nkeep_days = 36500\n'
    )
    command = [*PROGRAM, "tlsrpt", "parse", "--store", "--json", "--config", str(config), str(reports)]
    seen = []
    for _ in range(LIVES):
        with subprocess.Popen(
            command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True, env=ENVIRONMENT
        ) as program:
            assert program.stdout is not None
            assert '"stored"' in program.stdout.readline()
            time.sleep(random.uniform(0, 0.2))
            program.kill()
        found = counts(tmp_path / "data" / "results.db")
        assert found[3] == 0
        seen.append(found[0])
    assert seen == sorted(seen)
    done = subprocess.run(command, capture_output=True, text=True, env=ENVIRONMENT, timeout=120, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout.count('"stored": "duplicate"') == seen[-1]
    expected = (REPORTS, 2 * REPORTS, 2 * REPORTS, 0, sum(range(REPORTS)) + REPORTS)
    assert counts(tmp_path / "data" / "results.db") == expected
