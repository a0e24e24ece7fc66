"""kill -9 at any moment: what `append` has promised is counted once, and nothing is counted twice."""

from __future__ import annotations

import random
import sqlite3
import subprocess
import sys
import time
from contextlib import closing
from pathlib import Path

import pytest

ROUNDS = 8
WORKER = Path(__file__).with_name("journal_worker.py")


def start(where: Path, first: int, *arguments: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, WORKER, where, str(first), *arguments], stdout=subprocess.PIPE, text=True, bufsize=1
    )


def counts(where: Path) -> dict[str, int]:
    with closing(sqlite3.connect(where / "results.db")) as connection:
        return dict(connection.execute("SELECT key, n FROM alpha_seen"))


@pytest.mark.loopback
def test_a_killed_program_loses_and_doubles_nothing(tmp_path: Path) -> None:
    """Several lives of one node, each appending (in groups and one by one), counting, and killed; then one in peace."""
    acknowledged: set[int] = set()
    for life in range(ROUNDS):
        with start(tmp_path, life * 1_000_000) as worker:
            assert worker.stdout is not None
            assert worker.stdout.readline() == "ready\n"
            time.sleep(random.uniform(0, 0.25))
            worker.kill()
            # A line cut by the kill was not acknowledged to anybody.
            lines = worker.stdout.read().splitlines(keepends=True)
            acknowledged |= {int(number) for line in lines if line.endswith("\n") for number in line.split()}
    with start(tmp_path, 0, "--finish") as worker:
        assert worker.wait(60) == 0
    found = counts(tmp_path)
    assert acknowledged, "the lives were too short to show anything"
    missing = [number for number in acknowledged if f"d{number}.example.com" not in found]
    assert not missing
    doubled = {key: n for key, n in found.items() if n != 1}
    assert not doubled
