"""`postward run` as a service manager meets it: signals, crashes, company, and plugins that fall over."""

from __future__ import annotations

import json
import os
import shutil
import signal
import sqlite3
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import trio

from deliver_kit import ENVIRONMENT, MESSAGE, POSTWARD, run, serving, write_config
from hostile_peers import AUTHORITY, Case, World, build, domain_of
from postward import App
from postward.config import load
from postward.core import Core
from postward.hookspecs import hookimpl

pytestmark = pytest.mark.loopback

CASES = {name: Case() for name in ("first", "second", "third")}


@pytest.fixture(scope="module")
def world() -> Iterator[World]:
    made = build(CASES)
    with serving(made.serve):
        yield made


@pytest.fixture
def config(world: World, tmp_path: Path) -> Path:
    (tmp_path / "ca.pem").write_bytes(AUTHORITY.root_pem)
    return write_config(
        tmp_path,
        dns={"nameservers": [f"127.0.0.1:{world.port}"], "self_test": {"secure": "", "bogus": ""}, "timeout": 5.0},
        tls={"ca_file": str(tmp_path / "ca.pem")},
        net={"port_map": {"25": world.port, "443": world.port}},
    )


class Service:
    """A running `postward run`; what it logged lies in `lines`."""

    def __init__(self, process: subprocess.Popen[str]) -> None:
        assert process.stderr is not None
        self.process, self._log = process, process.stderr
        self.lines: list[dict[str, Any]] = []

    def wait_for(self, event: str) -> dict[str, Any]:
        """Read the log up to a line of this event."""
        for text in self._log:
            line: dict[str, Any] = json.loads(text)
            self.lines.append(line)
            if line["event"] == event:
                return line
        raise AssertionError(f"it ended without {event!r}: {self.lines}")

    def stop(self, number: signal.Signals) -> int:
        """Send a signal; the exit code."""
        self.process.send_signal(number)
        self.lines += [json.loads(text) for text in self._log]
        return self.process.wait(30)


@contextmanager
def service(config: Path) -> Iterator[Service]:
    """Start `postward run` and wait until it says that it runs."""
    command = [*POSTWARD, "run", "--config", str(config)]
    with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True, env=ENVIRONMENT) as process:
        try:
            started = Service(process)
            started.wait_for("running")
            yield started
        finally:
            process.kill()


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_ends_it_cleanly(config: Path, number: signal.Signals) -> None:
    with service(config) as running:
        line = running.lines[-1]
        assert line["plugins"] == ["dane", "mtasts", "tlsrpt", "dmarc"]
        assert line["hostname"] == "relay.sender.test"
        assert running.stop(number) == 0
    [stopping] = [line for line in running.lines if line["event"] == "stopping"]
    assert stopping["signal"] == number.name
    assert running.lines[-1]["event"] == "stopped"


def test_after_a_crash_it_starts_again(config: Path) -> None:
    for _ in range(2):
        with service(config) as running:
            assert running.stop(signal.SIGKILL) == -signal.SIGKILL
    with service(config) as running:
        assert running.stop(signal.SIGTERM) == 0


def command_for(config: Path, name: str) -> list[str]:
    to = f"you@{domain_of(name)}"
    return [*POSTWARD, "deliver", "--config", str(config), "--json", "--from", "me@sender.test", "--to", to, "-"]


def counted(directory: Path) -> dict[str, int]:
    """The sessions in the results database by recipient domain."""
    with sqlite3.connect(directory / "results.db") as results:
        rows = results.execute("SELECT recipient_domain, sum(successes + failures) FROM tlsrpt_sessions GROUP BY 1").fetchall()
    results.close()
    return dict(rows)


@pytest.mark.parametrize("beside", [True, False], ids=["beside-a-service", "alone"])
def test_programs_share_one_directory(config: Path, beside: bool) -> None:
    """Several `deliver` at once, on a new directory or beside `run`: every session is counted, and once."""
    if beside:
        with service(config) as running:
            trio.run(deliver_to_all, config)
            assert running.stop(signal.SIGTERM) == 0
        assert not [line for line in running.lines if "failed" in line["event"]]
    else:
        trio.run(deliver_to_all, config)
    # Whoever comes next hands over what was left in the journal.
    assert run("deliver", "-c", config, "--from", "", "--to", "you@first.test", "-", stdin=MESSAGE).code == 0
    assert counted(config.parent / "data") == {"first.test": 3, "second.test": 2, "third.test": 2}


async def deliver_to_all(config: Path) -> None:
    """A `deliver` for each domain, at once, and once more; none of them may notice the others."""

    async def deliver(name: str) -> None:
        command = command_for(config, name)
        done = await trio.run_process(
            command, stdin=MESSAGE, capture_stdout=True, capture_stderr=True, check=False, env=ENVIRONMENT
        )
        assert (done.returncode, done.stderr) == (0, b""), done.stdout

    for _ in range(2):
        async with trio.open_nursery() as nursery:
            for name in CASES:
                nursery.start_soon(deliver, name)


def test_results_of_a_delivery_that_was_killed_are_kept(config: Path) -> None:
    """What `deliver` had answered for is in the journal; whoever comes next counts it."""
    command = command_for(config, "first")
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, env=ENVIRONMENT) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        process.stdin.write(MESSAGE)
        process.stdin.close()
        assert json.loads(process.stdout.readline())["recipients"][0]["delivered"]
        process.kill()
    assert run("deliver", "-c", config, "--from", "", "--to", "you@second.test", "-", stdin=MESSAGE).code == 0
    assert counted(config.parent / "data") == {"first.test": 1, "second.test": 1}


# --- what stops it from starting ---


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can become somebody else")
@pytest.mark.skipif(shutil.which("setpriv") is None, reason="needs setpriv to be nobody")
def test_a_directory_that_cannot_be_written() -> None:
    """As an ordinary user, because root may write everywhere."""
    directory = Path(tempfile.mkdtemp(prefix="postward-ro"))
    try:
        directory.chmod(0o755)
        for data in (directory / "data", directory / "deeper" / "data"):
            config = write_config(directory, core={"hostname": "relay.sender.test", "data_dir": str(data)})
            data.parent.mkdir(exist_ok=True)
            (directory / "data").mkdir(exist_ok=True)
            command = ["setpriv", "--reuid=65534", "--clear-groups", *POSTWARD, "run", "--config", str(config)]
            settings = {**ENVIRONMENT, "PYTHONPYCACHEPREFIX": "/nonexistent", "HOME": "/"}
            done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False, env=settings, cwd="/")
            assert done.returncode == 2, done.stderr
            [line] = done.stderr.splitlines()
            assert line.startswith("postward: ")
            assert str(data) in line
    finally:
        shutil.rmtree(directory)


def test_a_database_that_is_none(config: Path) -> None:
    data = config.parent / "data"
    data.mkdir()
    (data / "results.db").write_bytes(b"this is no database " * 500)
    done = run("run", "--config", config)
    assert done.code == 2
    [line] = done.err.splitlines()
    assert "results.db" in line
    assert (data / "results.db").read_bytes().startswith(b"this is no database")


def test_a_data_directory_that_is_a_file(config: Path) -> None:
    (config.parent / "data").write_text("")
    done = run("run", "--config", config)
    assert done.code == 2
    [line] = done.err.splitlines()
    assert f"{config.name}: core.data_dir: {config.parent / 'data'} cannot be made a directory" in line


# --- plugins ---


class Stumbling:
    """Its background task falls over at the first two starts."""

    def __init__(self) -> None:
        self.starts = 0
        self.well = trio.Event()

    @hookimpl
    async def background(self, core: Core) -> None:
        self.starts += 1
        if self.starts < 3:
            raise RuntimeError(f"stumbled over {self.starts}")
        self.well.set()
        await trio.sleep_forever()


async def test_a_background_task_that_fails_is_started_again(
    config: Path, autojump_clock: trio.testing.MockClock, capsys: pytest.CaptureFixture[str]
) -> None:
    """And named in the log; the other plugins notice nothing."""
    plugin = Stumbling()
    with trio.fail_after(60):
        async with App(load(config), service=True, inline=True, extra={"stumbling": plugin}):
            await plugin.well.wait()
    assert plugin.starts == 3
    shown = capsys.readouterr()
    said = [line for line in (shown.out + shown.err).splitlines() if "task-failed" in line]
    assert len(said) == 2
    assert all("stumbling-background" in line for line in said)
    assert ["stumbled over 1" in said[0], "stumbled over 2" in said[1]] == [True, True]
