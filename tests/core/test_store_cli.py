"""`postward db`: what it says, and its exit codes."""

from __future__ import annotations

import json
import sqlite3
from contextlib import closing
from pathlib import Path

import pytest

from postward.cli import main


@pytest.fixture
def config(tmp_path: Path) -> Path:
    file = tmp_path / "postward.toml"
    file.write_text('plugins = []\n[core]\nhostname = "mx1.example.net"\ndata_dir = "data"\n')
    return file


def states(config: Path, capsys: pytest.CaptureFixture[str]) -> tuple[int, dict[str, str]]:
    code = main(["db", "status", "--json", "--config", str(config)])
    lines = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert all(line.keys() == {"name", "database", "current", "available", "state"} for line in lines)
    return code, {line["name"]: line["state"] for line in lines}


def test_status_tells_and_changes_nothing_and_upgrade_mends(config: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert states(config, capsys) == (1, {"core": "behind", "reports": "behind", "node": "behind", "queue": "behind"})
    assert not (config.parent / "data").exists()
    for _ in range(2):
        assert main(["db", "upgrade", "--config", str(config)]) == 0
        assert "current" in capsys.readouterr().out
    assert states(config, capsys) == (0, {"core": "current", "reports": "current", "node": "current", "queue": "current"})


def test_newer_tables_are_bad_news_and_upgrade_refuses_them(config: Path, capsys: pytest.CaptureFixture[str]) -> None:
    main(["db", "upgrade", "--config", str(config)])
    with closing(sqlite3.connect(config.parent / "data" / "results.db")) as connection:
        connection.execute("UPDATE core_schema_version SET version = 99")
        connection.commit()
    capsys.readouterr()
    assert states(config, capsys) == (1, {"core": "newer", "reports": "current", "node": "current", "queue": "current"})
    assert main(["db", "upgrade", "--config", str(config)]) == 2
    error = capsys.readouterr().err
    assert "version 99" in error
    assert len(error.splitlines()) == 1


def test_a_database_that_cannot_be_read_is_one_line(config: Path, capsys: pytest.CaptureFixture[str]) -> None:
    data = config.parent / "data"
    data.mkdir()
    (data / "results.db").write_bytes(b"no database" * 100)
    for verb in ("status", "upgrade"):
        assert main(["db", verb, "--config", str(config)]) == 2
        assert len(capsys.readouterr().err.splitlines()) == 1
