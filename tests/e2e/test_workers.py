"""The parent of several workers, with small programs in their place: the start, a death, and the end."""

from __future__ import annotations

import os
import signal
import socket
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import trio

from postward.config import from_dict
from postward.service import workers
from postward.service.workers import WorkersFailed, supervise

pytestmark = pytest.mark.loopback

# Says that it is there, and ends as SIGTERM wants it; `stop` and `lifeline` leave a file behind.
GOOD = """
import os, select, signal, sys, pathlib
folder, index = pathlib.Path(sys.argv[1]), os.environ["POSTWARD_WORKER"].split("/")[0]
def stop(*_):
    (folder / f"stopped-{index}").touch()
    sys.exit(0)
signal.signal(signal.SIGTERM, stop)
(folder / f"pid-{index}").write_text(str(os.getpid()))
os.write(int(os.environ["POSTWARD_READY_FD"]), b"1")
signal.pause()
"""
DIES_ONCE = (
    """
import os, sys, pathlib
index = os.environ["POSTWARD_WORKER"].split("/")[0]
mark = pathlib.Path(sys.argv[1]) / f"died-{index}"
if index == "1" and not mark.exists():
    os.write(int(os.environ["POSTWARD_READY_FD"]), b"1")
    mark.touch()
    os.kill(os.getpid(), 9)
"""
    + GOOD
)
CANNOT = "import os, sys\nif os.environ['POSTWARD_WORKER'].startswith('1'): sys.exit(2)\n" + GOOD
STUBBORN = GOOD.replace("signal.signal(signal.SIGTERM, stop)", "signal.signal(signal.SIGTERM, signal.SIG_IGN)")


class Log:
    def __init__(self) -> None:
        self.events: list[tuple[str, dict[str, Any]]] = []

    def __getattr__(self, level: str) -> Callable[..., None]:
        return lambda event, **more: self.events.append((event, more))

    def count(self, event: str) -> int:
        return sum(name == event for name, _ in self.events)


async def until(condition: Callable[[], bool]) -> None:
    while not condition():  # noqa: ASYNC110 - other processes make it true
        await trio.sleep(0.01)


async def run(folder: Path, script: str, log: Log, then: Callable[[], Any]) -> list[str]:
    """Supervise two workers, do `then`, and stop; returns what systemd was told."""
    config = from_dict(
        {
            "core": {"hostname": "mx.example"},
            "delivery": {"workers": 2},
            "listen": [{"kind": "smtp", "bind": f"unix:{folder}/in.sock"}],
        }
    )
    (folder / "worker.py").write_text(script)
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as systemd, pytest.MonkeyPatch.context() as patch:
        systemd.bind(str(folder / "notify"))
        systemd.setblocking(False)
        patch.setenv("NOTIFY_SOCKET", str(folder / "notify"))

        async def stop() -> None:
            await then()
            os.kill(os.getpid(), signal.SIGTERM)

        try:
            with trio.fail_after(60):
                async with trio.open_nursery() as nursery:
                    nursery.start_soon(stop)
                    await supervise(config, [sys.executable, str(folder / "worker.py"), str(folder)], log)  # type: ignore[arg-type]
                    nursery.cancel_scope.cancel()
        finally:
            assert not (folder / "in.sock").exists()
        told = []
        while True:
            try:
                told.append(systemd.recv(1000).decode())
            except BlockingIOError:
                return told


def gone(folder: Path, index: int) -> bool:
    return not Path(f"/proc/{(folder / f'pid-{index}').read_text()}").exists()


async def test_workers_start_are_announced_and_stop_together(tmp_path: Path) -> None:
    log = Log()

    async def ready() -> None:
        await until(lambda: log.count("worker-ready") == 2)

    assert await run(tmp_path, GOOD, log, ready) == ["READY=1", "STOPPING=1"]
    assert (tmp_path / "stopped-0").exists()
    assert (tmp_path / "stopped-1").exists()
    assert log.count("worker-died") == 0


async def test_a_worker_that_dies_is_started_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(workers, "FIRST_PAUSE", 0.01)
    log = Log()

    async def again() -> None:
        await until(lambda: (tmp_path / "pid-1").exists() and (tmp_path / "pid-0").exists())
        await until(lambda: log.count("worker-ready") == 3)

    await run(tmp_path, DIES_ONCE, log, again)
    assert [more["code"] for event, more in log.events if event == "worker-died"] == [-9]
    assert (tmp_path / "stopped-1").exists()


async def test_one_that_cannot_start_ends_all(tmp_path: Path) -> None:
    log = Log()
    with pytest.raises(BaseException) as caught:
        await run(tmp_path, CANNOT, log, trio.sleep_forever)
    assert caught.group_contains(WorkersFailed, match="worker 1 could not start")  # type: ignore[attr-defined]
    assert log.count("worker-died") == 0
    assert not (tmp_path / "pid-0").exists() or gone(tmp_path, 0)


async def test_one_that_does_not_stop_is_killed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(workers, "STOP_WITHIN", 0.2)
    log = Log()

    async def ready() -> None:
        await until(lambda: log.count("worker-ready") == 2)

    await run(tmp_path, STUBBORN, log, ready)
    assert gone(tmp_path, 0)
    assert gone(tmp_path, 1)


async def test_a_machine_without_room_for_a_process_is_asked_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(workers, "FIRST_PAUSE", 0.01)
    real, left, log = trio.lowlevel.open_process, 3, Log()

    async def open_process(*args: Any, **more: Any) -> Any:
        nonlocal left
        if left:
            left -= 1
            raise BlockingIOError(11, "Resource temporarily unavailable")
        return await real(*args, **more)

    monkeypatch.setattr(trio.lowlevel, "open_process", open_process)

    async def ready() -> None:
        await until(lambda: log.count("worker-ready") == 2)

    await run(tmp_path, GOOD, log, ready)
    assert log.count("worker-not-started") == 3
