"""What operators read: the plugin that blocks the loop, one line per event, and the shared look of the commands."""

from __future__ import annotations

import json
import sys
import threading
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import structlog
import trio
from structlog.testing import capture_logs

from postward import hookspecs, log
from postward.cli.output import emit_json_line, table
from postward.contract import implementations
from postward.hooks import Hooks
from postward.hookspecs import hookimpl
from postward.model import Mode, Verdict
from postward.watchdog import watch_loop


@pytest.fixture
def configured() -> Iterator[Callable[..., None]]:
    yield log.configure
    structlog.reset_defaults()


# --- watchdog ---


class Blocks:
    """Does not come back before the watchdog has spoken."""

    def __init__(self, noticed: threading.Event) -> None:
        self.noticed = noticed

    @hookimpl
    async def resolve_route(self) -> None:
        assert self.noticed.wait(20)

    @hookimpl
    def dns_records(self) -> None:
        assert self.noticed.wait(20)


class Notices:
    """A log that wakes the one who blocks."""

    def __init__(self) -> None:
        self.lines: list[tuple[str, dict[str, Any]]] = []
        self.blocked, self.resumed = threading.Event(), threading.Event()

    def error(self, event: str, **fields: Any) -> None:
        self.lines.append((event, fields))
        self.blocked.set()

    def warning(self, event: str, **fields: Any) -> None:
        self.lines.append((event, fields))
        self.resumed.set()


@pytest.mark.parametrize("hook", ["resolve_route", "dns_records"])
async def test_the_plugin_that_blocks_is_named(hook: str) -> None:
    notices = Notices()
    hooks = Hooks()
    hooks.register(implementations("sleepy", Blocks(notices.blocked)))
    async with watch_loop(notices):  # type: ignore[arg-type]
        if hook == "resolve_route":
            await hooks.first(hookspecs.resolve_route, domain=None)  # type: ignore[arg-type]
        else:
            hooks.collect(hookspecs.dns_records, domain=None)  # type: ignore[arg-type]
        assert await trio.to_thread.run_sync(notices.resumed.wait, 20)
    (blocked, fields), (resumed, _) = notices.lines
    assert (blocked, resumed) == ("loop-blocked", "loop-resumed")
    assert (fields["plugin"], fields["hook"]) == ("sleepy", hook)
    assert fields["where"]


async def test_the_watch_ends_with_its_block() -> None:
    async with watch_loop(Notices()):  # type: ignore[arg-type]
        (thread,) = [one for one in threading.enumerate() if one.name == "postward-watchdog"]
    await trio.to_thread.run_sync(thread.join, 20)
    assert not thread.is_alive()


# --- log ---


def test_a_line_is_one_line_of_json(configured: Callable[..., None], capsys: pytest.CaptureFixture[str]) -> None:
    configured("info", json=True)
    with log.correlated() as cid:
        structlog.get_logger().info("event", text="a\nb\x1b[31m\u2028", number=3)
    structlog.get_logger().info("next")
    captured = capsys.readouterr()
    assert captured.out == ""
    first, second = map(json.loads, captured.err.splitlines())
    assert (first["event"], first["text"], first["number"], first["level"]) == ("event", "a\\nb\\x1b[31m\\u2028", 3, "info")
    assert (first["cid"], "cid" in second) == (cid, False)


def test_text_for_people_hides_nothing(configured: Callable[..., None], capsys: pytest.CaptureFixture[str]) -> None:
    configured("info", json=False)
    structlog.get_logger().info("event", text="a\nforged: line")
    (line,) = capsys.readouterr().err.splitlines()
    assert "forged: line" in line


def test_the_level_is_kept(configured: Callable[..., None], capsys: pytest.CaptureFixture[str]) -> None:
    configured("warning", json=True)
    structlog.get_logger().info("quiet")
    structlog.get_logger().warning("loud")
    assert [json.loads(line)["event"] for line in capsys.readouterr().err.splitlines()] == ["loud"]
    with pytest.raises(ValueError, match="no log level 'loud'; there are debug"):
        configured("loud")


def test_a_log_that_cannot_be_written_stops_nothing(configured: Callable[..., None], monkeypatch: pytest.MonkeyPatch) -> None:
    class Closed:
        def isatty(self) -> bool:
            return False

        def write(self, text: str) -> None:
            raise BrokenPipeError

    monkeypatch.setattr(sys, "stderr", Closed())
    configured("info")
    structlog.get_logger().error("nobody reads this")


async def test_a_cid_belongs_to_a_task_and_what_it_starts() -> None:
    seen: list[str] = []

    async def child() -> None:
        seen.append(log.current_cid())

    async def connection() -> None:
        seen.append(log.new_cid())
        async with trio.open_nursery() as nursery:
            nursery.start_soon(child)

    async with trio.open_nursery() as nursery:
        nursery.start_soon(connection)
        nursery.start_soon(connection)
    assert log.current_cid() == ""
    assert len(set(seen)) == 2
    assert len(seen) == 4


def test_a_failure_in_a_hook_is_shown_with_its_traceback_at_debug() -> None:
    class Fails:
        @hookimpl
        def dns_records(self) -> None:
            raise ValueError("here")

    hooks = Hooks()
    hooks.register(implementations("p", Fails()))
    with capture_logs() as logs:
        hooks.collect(hookspecs.dns_records, domain=None)  # type: ignore[arg-type]
    assert [line["log_level"] for line in logs] == ["error", "debug"]
    assert isinstance(logs[1]["exc_info"], ValueError)


# --- output ---


def test_json_lines_take_what_the_model_holds(capsys: pytest.CaptureFixture[str]) -> None:
    emit_json_line({"verdict": Verdict(passed=True), "mode": Mode.ENFORCE, "names": {"b", "a"}, "text": "ü\x1b"})
    (line,) = capsys.readouterr().out.splitlines()
    assert json.loads(line) == {
        "verdict": {"passed": True, "failure": None},
        "mode": "enforce",
        "names": ["a", "b"],
        "text": "ü\x1b",
    }
    assert "\x1b" not in line


def test_a_table_in_a_pipe_is_plain_columns(capsys: pytest.CaptureFixture[str]) -> None:
    table(("name", "value"), [("a", 1), ("long name", "x\x1b[31m")])
    assert capsys.readouterr().out == "name       value\na          1\nlong name  x\\x1b[31m\n"


def test_a_table_on_a_terminal_takes_no_markup(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("postward.cli.output.is_terminal", lambda: True)
    monkeypatch.setenv("NO_COLOR", "1")
    table(("name",), [("[red]x[/red]",)], title="T")
    shown = capsys.readouterr().out
    assert "[red]x[/red]" in shown
    assert "\x1b[3" not in shown
