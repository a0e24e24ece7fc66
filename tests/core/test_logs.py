"""The log in files, and `postward logs`: bounded, complete, in order, and the whole way of one id."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import structlog

from postward import log
from postward.cli import main
from postward.log_file import FLUSH_AFTER, PIECES, LogFile, kept
from postward.log_read import Follower, Wanted, files, find

Says = Callable[..., None]


class Now:
    """Seconds that stand still unless they are moved."""

    def __init__(self) -> None:
        self.at = 100.0

    def __call__(self) -> float:
        return self.at


def text_of(folder: Path) -> str:
    return "".join(path.read_text() for group in files(folder) for path in group)


@pytest.fixture
def loud(capsys: pytest.CaptureFixture[str]) -> Iterator[None]:
    log.configure("debug", json=True)
    yield
    structlog.reset_defaults()


def write(folder: Path, name: str, *lines: dict[str, Any]) -> None:
    path = folder / "log" / f"{name}.jsonl"
    path.parent.mkdir(exist_ok=True)
    with path.open("a") as file:
        for line in lines:
            file.write(json.dumps({"level": "info", **line}) + "\n")


def at(second: int) -> str:
    return f"2026-11-26T07:00:{second:02}.500000Z"


def events(folder: Path, **wanted: str) -> list[str]:
    return [line.event for line in find(folder, Wanted(**wanted))]


# --- writing ---


def test_lines_wait_a_moment_and_problems_do_not(tmp_path: Path) -> None:
    now = Now()
    file = LogFile(tmp_path / "log" / "0.jsonl", max_bytes=1_000_000, clock=now)
    file.write("a")
    assert files(tmp_path) == []
    file.write("b", urgent=True)
    assert text_of(tmp_path) == "a\nb\n"
    file.write("c")
    now.at += FLUSH_AFTER + 0.1
    file.write("d")
    assert text_of(tmp_path) == "a\nb\nc\nd\n"
    file.write("e")
    file.close()
    assert text_of(tmp_path).endswith("e\n")
    assert (tmp_path / "log" / "0.jsonl").stat().st_mode & 0o777 == 0o600
    assert (tmp_path / "log").stat().st_mode & 0o777 == 0o700


def test_many_lines_do_not_wait_in_memory(tmp_path: Path) -> None:
    file = LogFile(tmp_path / "log" / "0.jsonl", max_bytes=10_000_000, clock=Now())
    for _ in range(1000):
        file.write("x" * 100)
    assert len(text_of(tmp_path)) > 60_000


def test_the_room_is_bounded_and_the_newest_lines_are_kept(tmp_path: Path) -> None:
    file = LogFile(tmp_path / "log" / "0.jsonl", max_bytes=10_000, clock=Now())
    for number in range(2000):
        file.write(f"line {number:04}", urgent=True)
    (group,) = files(tmp_path)
    assert len(group) == PIECES
    assert [path.name for path in group] == [f"0.jsonl.{number}" for number in range(PIECES - 1, 0, -1)] + ["0.jsonl"]
    lines = text_of(tmp_path).splitlines()
    assert sum(path.stat().st_size for path in group) <= 10_000
    assert len(lines) > 700
    assert lines == [f"line {number:04}" for number in range(2000 - len(lines), 2000)]


def test_a_file_that_is_there_is_gone_on_with(tmp_path: Path) -> None:
    for word in ("before", "after"):
        with kept(tmp_path, "0", max_bytes=10_000) as file:
            assert file is not None
            file.write(word)
    assert text_of(tmp_path) == "before\nafter\n"


def test_a_place_that_cannot_be_written_stops_nothing(tmp_path: Path) -> None:
    (tmp_path / "log").write_text("in the way")
    file = LogFile(tmp_path / "log" / "0.jsonl", max_bytes=10_000)
    for _ in range(3):
        file.write("lost", urgent=True)
    (tmp_path / "log").unlink()
    file.write("found", urgent=True)
    assert text_of(tmp_path) == "found\n"


@pytest.mark.parametrize("as_json", [True, False])
def test_what_is_logged_is_kept_as_json(tmp_path: Path, capsys: pytest.CaptureFixture[str], as_json: bool) -> None:
    log.configure("info", json=as_json)
    try:
        with kept(tmp_path, "0", max_bytes=10_000), log.correlated() as cid:
            structlog.get_logger().info("hello", text="a\nb", nothing=None)
            structlog.get_logger().debug("quiet")
            try:
                raise ValueError("here")
            except ValueError:
                structlog.get_logger().exception("failed")
        structlog.get_logger().info("later")
    finally:
        structlog.reset_defaults()
    first, second = (json.loads(line) for line in text_of(tmp_path).splitlines())
    assert (first["event"], first["text"], first["cid"], first["level"]) == ("hello", "a\\nb", cid, "info")
    assert first["timestamp"].endswith("Z")
    assert "ValueError: here" in second["exception"]
    assert "later" in capsys.readouterr().err


def test_nothing_is_kept_where_that_is_wanted(tmp_path: Path, loud: None) -> None:
    with kept(tmp_path, "0", max_bytes=0) as file:
        structlog.get_logger().error("x")
    assert file is None
    assert list(tmp_path.iterdir()) == []


# --- reading ---


def test_several_processes_are_one_log_in_order(tmp_path: Path) -> None:
    write(tmp_path, "0", {"timestamp": at(1), "event": "a"}, {"timestamp": at(4), "event": "d"})
    write(tmp_path, "1", {"timestamp": at(2), "event": "b"}, {"timestamp": at(5), "event": "e"})
    write(tmp_path, "parent", {"timestamp": at(3), "event": "c"})
    (tmp_path / "log" / "1.jsonl.1").write_text('{"timestamp":"2026-11-25T00:00:00Z","event":"older"}\n')
    (tmp_path / "log" / "notes.txt").write_text("not a log")
    assert events(tmp_path) == ["older", "a", "b", "c", "d", "e"]


def test_damaged_lines_are_passed_over(tmp_path: Path) -> None:
    write(tmp_path, "0", {"timestamp": at(1), "event": "a"})
    with (tmp_path / "log" / "0.jsonl").open("ab") as file:
        file.write(b'{"event": "tor\n\xff\xff\n[1]\n\n')
    write(tmp_path, "0", {"timestamp": at(2), "event": "b"})
    assert events(tmp_path) == ["a", "b"]


def test_conditions_hold_together(tmp_path: Path) -> None:
    write(
        tmp_path,
        "0",
        {"timestamp": at(1), "event": "message-queued"},
        {"timestamp": at(2), "event": "message-failed", "level": "error"},
        {"timestamp": at(3), "event": "other", "level": "warning"},
    )
    assert events(tmp_path, level="warning") == ["message-failed", "other"]
    assert events(tmp_path, event="message-") == ["message-queued", "message-failed"]
    assert events(tmp_path, since=at(2)) == ["message-failed", "other"]
    assert events(tmp_path, event="message", level="warning", since=at(2)) == ["message-failed"]


WAY = (
    {"timestamp": at(1), "event": "smtp.tls-failed", "cid": "client"},
    {"timestamp": at(2), "event": "message-queued", "cid": "mail", "session": "client"},
    {"timestamp": at(3), "event": "message-queued", "cid": "other", "session": "client"},
    {"timestamp": at(4), "event": "connection", "cid": "out1", "message": "mail"},
    {"timestamp": at(5), "event": "hook-failed", "cid": "out1"},
    {"timestamp": at(6), "event": "connection", "cid": "out2", "message": "other"},
    {"timestamp": at(7), "event": "message-failed", "cid": "mail", "sender": "x"},
    {"timestamp": at(8), "event": "notice-queued", "cid": "mail", "about": "mail", "notice_cid": "bounce"},
    {"timestamp": at(9), "event": "message-delivered", "cid": "bounce"},
    {"timestamp": at(10), "event": "report-queued", "cid": "report", "message": "rmail"},
    {"timestamp": at(11), "event": "message-delivered", "cid": "rmail"},
    {"timestamp": at(12), "event": "report-delivered", "cid": "report"},
)


@pytest.mark.parametrize(
    ("cid", "seconds"),
    [
        ("mail", [1, 2, 4, 5, 7, 8, 9]),
        ("bounce", [9]),
        ("out1", [2, 4, 5, 7, 8]),
        ("report", [10, 11, 12]),
        ("client", [1]),
        ("nothing", []),
        ("lient", []),
    ],
)
def test_the_way_of_an_id(tmp_path: Path, cid: str, seconds: list[int]) -> None:
    """The connection that brought it, those that it went over, its bounce; and nothing of another message."""
    for number, line in enumerate(WAY):
        write(tmp_path, str(number % 3), line)
    assert [line.at for line in find(tmp_path, Wanted(cid=cid))] == [at(second) for second in seconds]


def test_what_comes_later_is_followed_through_a_turn(tmp_path: Path) -> None:
    write(tmp_path, "0", {"timestamp": at(1), "event": "before"})
    follower = Follower(tmp_path)
    assert follower.news(Wanted()) == []
    write(tmp_path, "0", {"timestamp": at(3), "event": "b"})
    write(tmp_path, "1", {"timestamp": at(2), "event": "a"})
    assert [line.event for line in follower.news(Wanted())] == ["a", "b"]
    with (tmp_path / "log" / "0.jsonl").open("a") as file:
        file.write('{"timestamp":"x","level":"info","event":"ha')
    assert follower.news(Wanted()) == []
    with (tmp_path / "log" / "0.jsonl").open("a") as file:
        file.write('lf"}\n')
    assert [line.event for line in follower.news(Wanted())] == ["half"]
    (tmp_path / "log" / "0.jsonl").replace(tmp_path / "log" / "0.jsonl.1")
    write(tmp_path, "0", {"timestamp": at(4), "event": "new"})
    assert [line.event for line in follower.news(Wanted())] == ["new"]


# --- the command ---


@pytest.fixture
def node(tmp_path: Path) -> Path:
    config = tmp_path / "postward.toml"
    config.write_text(f'plugins = []\n[core]\nhostname = "mx.example"\ndata_dir = "{tmp_path}/data"\n')
    (tmp_path / "data").mkdir()
    return config


def test_the_command(node: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for line in WAY:
        write(node.parent / "data", "0", line)
    assert main(["logs", "-c", str(node), "--cid", "mail"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 7
    assert lines[1] == "2026-11-26T07:00:02.500Z info    message-queued  cid=mail session=client"
    assert main(["logs", "-c", str(node), "-n", "2", "--json"]) == 0
    assert [json.loads(line)["event"] for line in capsys.readouterr().out.splitlines()] == [
        "message-delivered",
        "report-delivered",
    ]
    assert main(["logs", "-c", str(node), "--cid", "nothing"]) == 1
    assert main(["logs", "-c", str(node), "--since", "2026-11-26T07:00:12+00:00"]) == 0
    assert len(capsys.readouterr().out.splitlines()) == 1


def test_hostile_text_is_shown_and_not_obeyed(node: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write(
        node.parent / "data",
        "0",
        {"timestamp": at(1), "event": "x", "reply": "550 \x1b[31m\r\nforged", "exception": "a\nb\x1b"},
    )
    assert main(["logs", "-c", str(node)]) == 0
    out = capsys.readouterr().out
    assert "\x1b" not in out
    assert [line.split()[0] for line in out.splitlines()] == ["2026-11-26T07:00:01.500Z", "a", "b\\x1b"]


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--level", "loud"], "there are debug, info, warning, error"),
        (["--since", "yesterday"], "should be like 30m, 6h, 2d"),
    ],
)
def test_wrong_use(node: Path, capsys: pytest.CaptureFixture[str], arguments: list[str], said: str) -> None:
    assert main(["logs", "-c", str(node), *arguments]) == 2
    assert said in " ".join(capsys.readouterr().err.replace("│", " ").split())


def test_nothing_kept_is_said(node: Path, capsys: pytest.CaptureFixture[str]) -> None:
    node.write_text(node.read_text() + "[log]\nkeep_bytes = 0\n")
    assert main(["logs", "-c", str(node)]) == 2
    assert "nothing is kept: log.keep_bytes is 0" in capsys.readouterr().err
