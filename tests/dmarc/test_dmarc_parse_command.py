"""`postward dmarc parse`: files of every kind, one line for each report, and large ones in little memory."""

from __future__ import annotations

import gzip
import io
import json
import tracemalloc
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from dmarc_samples import RECORD, failure_mail, mail, new, old, report_mail, zipped
from postward_dmarc import parse_command
from postward_dmarc.reading import message as reading_message
from postward_dmarc.reading.defects import DEFECTS


def parsed(*files: Path, capsys: pytest.CaptureFixture[str]) -> tuple[int, list[dict[str, Any]]]:
    code = parse_command.run(parse_command.found_in([str(file) for file in files]), as_json=True)
    return code, [json.loads(text) for text in capsys.readouterr().out.splitlines()]


def test_every_kind_of_file(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "a.xml").write_bytes(old())
    (tmp_path / "b.xml.gz").write_bytes(gzip.compress(new()))
    (tmp_path / "c.zip").write_bytes(zipped(old(3)))
    (tmp_path / "d.eml").write_bytes(report_mail())
    (tmp_path / "e.eml").write_bytes(failure_mail())
    (tmp_path / "f.mbox").write_bytes(b"From a\n" + report_mail() + b"\nFrom b\n" + mail() + b"\nFrom c\n" + failure_mail())
    maildir = tmp_path / "g"
    for name in ("new", "cur", "tmp"):
        (maildir / name).mkdir(parents=True)
    (maildir / "new" / "1").write_bytes(report_mail())
    (maildir / "tmp" / "2").write_bytes(b"half a mail")
    code, found = parsed(tmp_path, tmp_path / "missing", capsys=capsys)
    assert code == 1
    lines = {(Path(each["file"]).name, each.get("message")): each for each in found}
    kinds = {name: (each["kind"], each["records"], each["messages"]) for name, each in lines.items()}
    assert kinds == {
        ("a.xml", None): ("aggregate", 2, 3),
        ("b.xml.gz", None): ("aggregate", 1, 12),
        ("c.zip", None): ("aggregate", 3, 6),
        ("d.eml", None): ("aggregate", 2, 3),
        ("e.eml", None): ("failure", 0, 3),
        ("f.mbox", 1): ("aggregate", 2, 3),
        ("f.mbox", 2): ("other", 0, 0),
        ("f.mbox", 3): ("failure", 0, 3),
        ("1", None): ("aggregate", 2, 3),
        ("missing", None): ("other", 0, 0),
    }
    assert lines["a.xml", None] == {
        "file": str(tmp_path / "a.xml"),
        "kind": "aggregate",
        "ok": True,
        "error": None,
        "org": "big-mailbox.example",
        "report_id": "13987654321098765432",
        "domain": "example.com",
        "begin": 1_767_225_600,
        "end": 1_767_311_999,
        "records": 2,
        "messages": 3,
        "defects": [],
    }
    assert lines["missing", None]["error"] == "No such file or directory"


def test_good_files_alone_exit_with_0(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "a.xml").write_bytes(old().replace(b">pass<", b">Pass<"))
    code, [line] = parsed(tmp_path / "a.xml", capsys=capsys)
    assert (code, line["defects"]) == (0, ["result-case"])
    assert parse_command.run(parse_command.found_in([str(tmp_path)]), as_json=False) == 0
    shown = capsys.readouterr().out
    assert "1 reports about 3 messages, 0 that cannot be read" in shown
    assert DEFECTS["result-case"] in shown


def pieces(records: int) -> Iterator[bytes]:
    head, _, end = old(0).partition(b"</feedback>")
    yield head
    record = RECORD.format(ip="192.0.2.1", count=2).encode()
    for _ in range(records // 100):
        yield record * 100
    yield b"</feedback>" + end


@pytest.mark.parametrize("kind", ["xml", "gz", "zip"])
def test_a_large_report_takes_little_memory(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, kind: str
) -> None:
    monkeypatch.setattr(parse_command, "MAX_MAIL", 10_000)
    monkeypatch.setattr(reading_message, "MAX_XML", 100_000)
    file = tmp_path / f"large.{kind}"
    if kind == "zip":
        with zipfile.ZipFile(file, "w") as archive, archive.open("report.xml", "w") as member:
            for piece in pieces(20_000):
                member.write(piece)
    else:
        with gzip.open(file, "wb", 0) if kind == "gz" else file.open("wb") as stream:
            for piece in pieces(20_000):
                stream.write(piece)
    assert file.stat().st_size > 9_000_000
    tracemalloc.start()
    try:
        code, [line] = parsed(file, capsys=capsys)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert (code, line["records"], line["messages"], line["defects"]) == (0, 20_000, 40_000, [])
    assert peak < 4_000_000


def test_a_large_mail_is_not_read(tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(parse_command, "MAX_MAIL", 1000)
    (tmp_path / "a.eml").write_bytes(report_mail() + b"x" * 1000)
    code, [line] = parsed(tmp_path / "a.eml", capsys=capsys)
    assert (code, line["error"]) == (1, "a mail that is too large")


def test_standard_input(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    class Standard:
        buffer = io.BytesIO(gzip.compress(new()))

    monkeypatch.setattr("sys.stdin", Standard)
    code, [line] = parsed(Path("-"), capsys=capsys)
    assert (code, line["messages"]) == (0, 12)
