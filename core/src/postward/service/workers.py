"""Several worker processes over one queue: started, watched, started again when one dies, and stopped together.

The parent binds the sockets and does nothing else, so a worker that dies takes no listener with it. Each worker serves the
destinations of its shards; worker 0 also hands out results and sends reports. A worker whose parent is gone ends by itself.
"""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
from collections.abc import Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Final

import trio

from postward.errors import PostwardError
from postward.log_file import kept
from postward.service.lock import locked
from postward.service.notify import ignore_signals, keep_alive, notify
from postward.service.sockets import INHERITED, bind_all, remove_unix_sockets

if TYPE_CHECKING:
    from structlog.typing import FilteringBoundLogger

    from postward.config import Config

WORKER: Final = "POSTWARD_WORKER"
WAKES: Final = "POSTWARD_WAKE_FDS"
READY: Final = "POSTWARD_READY_FD"
LIFELINE: Final = "POSTWARD_LIFELINE_FD"
FIRST_PAUSE: Final = 0.5
LONGEST_PAUSE: Final = 30.0
HEALTHY_AFTER: Final = 60.0
STOP_WITHIN: Final = 60.0
_CANNOT_START: Final = 2


@dataclass(frozen=True, slots=True, kw_only=True)
class Place:
    """Which worker this process is: `index` of `count`. `wakes` are datagram sockets, one for each worker; its own to read."""

    index: int
    count: int
    wakes: tuple[socket.socket, ...]
    inbox: socket.socket
    lifeline: int
    ready: int

    def say_ready(self) -> None:
        """Tell the parent that this worker takes mail."""
        os.write(self.ready, b"1")


def place_of_this_process() -> Place | None:
    """What the parent says of this process in its environment; None when there is no such parent."""
    text = os.environ.get(WORKER)
    if text is None:
        return None
    index, count = (int(part) for part in text.split("/"))
    inbox, *wakes = (socket.socket(fileno=int(number)) for number in os.environ[WAKES].split(","))
    return Place(
        index=index,
        count=count,
        wakes=tuple(wakes),
        inbox=inbox,
        lifeline=int(os.environ[LIFELINE]),
        ready=int(os.environ[READY]),
    )


class WorkersFailed(PostwardError):
    """The workers cannot start; each has said why."""


async def supervise(config: Config, command: Sequence[str], log: FilteringBoundLogger) -> None:
    """Run `config.delivery.workers` processes of `command` until SIGTERM or SIGINT. Raises `WorkersFailed`, `ConfigError`."""
    async with AsyncExitStack() as stack:
        stack.enter_context(kept(config.core.data_dir, "parent", max_bytes=config.log.keep_bytes))
        lock = await stack.enter_async_context(locked(config, log))
        sockets = [stack.enter_context(sock) for sock in bind_all(config)]
        stack.callback(remove_unix_sockets, config)
        workers = _Workers(command, config.delivery.workers, sockets, lock, stack, log)
        with trio.open_signal_receiver(signal.SIGTERM, signal.SIGINT, signal.SIGHUP) as signals:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(keep_alive)
                nursery.start_soon(workers.run, nursery.cancel_scope)
                async for number in signals:
                    if number == signal.SIGHUP:
                        workers.signal(signal.SIGHUP)
                        continue
                    ignore_signals()
                    notify("STOPPING=1")
                    log.info("stopping", signal=signal.Signals(number).name)
                    await workers.stop()
                    nursery.cancel_scope.cancel()
                    break
    if workers.failed:
        raise WorkersFailed(f"worker {workers.failed} could not start")


class _Workers:
    def __init__(
        self,
        command: Sequence[str],
        count: int,
        sockets: Sequence[socket.socket],
        lock: int,
        stack: AsyncExitStack,
        log: FilteringBoundLogger,
    ) -> None:
        self._command, self._count, self._sockets, self._lock, self._log = command, count, sockets, lock, log
        self.failed = ""
        self._running: dict[int, trio.Process] = {}
        self._ready: set[int] = set()
        self._stopping = False
        self._ended = trio.Event()
        self._pairs = [socket.socketpair(socket.AF_UNIX, socket.SOCK_DGRAM) for _ in range(count)]
        for pair in self._pairs:
            for sock in pair:
                sock.setblocking(False)
                stack.enter_context(sock)
        # Closed by the end of this process, however it ends: that is what tells the workers.
        self._lifeline, write = os.pipe()
        stack.callback(os.close, self._lifeline)
        stack.callback(os.close, write)

    async def run(self, done: trio.CancelScope) -> None:
        """Keep every worker running; return when all have ended for good."""
        async with trio.open_nursery() as nursery:
            for index in range(self._count):
                nursery.start_soon(self._keep, index)
        done.cancel()

    def signal(self, number: int) -> None:
        """Send a signal to every worker."""
        for process in self._running.values():
            process.send_signal(number)

    async def stop(self) -> None:
        """Let every worker finish what it has begun; kill those that take too long."""
        self._stopping = True
        for number, within in ((signal.SIGTERM, STOP_WITHIN), (signal.SIGKILL, 1.0)):
            self.signal(number)
            with trio.move_on_after(within):
                while self._running:
                    await self._ended.wait()

    async def _keep(self, index: int) -> None:
        pause = FIRST_PAUSE
        while not self._stopping and not self.failed:
            started = trio.current_time()
            code = await self._run_once(index)
            if self._is_stopping():
                return
            if code == _CANNOT_START and index not in self._ready:
                self.failed = str(index)
                await self.stop()
                return
            if trio.current_time() - started > HEALTHY_AFTER:
                pause = FIRST_PAUSE
            self._log.error("worker-died", worker=index, code=code, again_in_seconds=pause)
            await trio.sleep(pause)
            pause = min(pause * 2, LONGEST_PAUSE)

    def _is_stopping(self) -> bool:
        return self._stopping

    async def _run_once(self, index: int) -> int | None:
        """Run a worker to its end and return its exit code; None when there was no process to be had."""
        read, write = os.pipe()
        try:
            inbox = self._pairs[index][0]
            wakes = [pair[1] for pair in self._pairs]
            descriptors = [*(sock.fileno() for sock in (*self._sockets, inbox, *wakes)), self._lifeline, self._lock, write]
            environment = {
                **os.environ,
                WORKER: f"{index}/{self._count}",
                INHERITED: ",".join(str(sock.fileno()) for sock in self._sockets),
                WAKES: ",".join(str(sock.fileno()) for sock in (inbox, *wakes)),
                LIFELINE: str(self._lifeline),
                READY: str(write),
                "WATCHDOG_USEC": "",
                "NOTIFY_SOCKET": "",
            }
            spawn = partial(trio.lowlevel.open_process, pass_fds=descriptors, env=environment, stdin=subprocess.DEVNULL)
            process = await spawn([*self._command])
        except OSError as exc:
            os.close(read)
            self._log.error("worker-not-started", worker=index, error=str(exc))
            return None
        except BaseException:
            os.close(read)
            raise
        finally:
            os.close(write)
        self._running[index] = process
        if self._stopping:
            # It came too late to hear of it with the others, and has begun nothing.
            process.kill()
        try:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(self._await_ready, index, read)
                code = await process.wait()
                nursery.cancel_scope.cancel()
            return code
        finally:
            del self._running[index]
            ended, self._ended = self._ended, trio.Event()
            ended.set()

    async def _await_ready(self, index: int, read: int) -> None:
        async with trio.lowlevel.FdStream(read) as stream:
            if await stream.receive_some(1):
                self._ready.add(index)
                self._log.info("worker-ready", worker=index)
                if len(self._ready) == self._count:
                    notify("READY=1")
            await trio.sleep_forever()


def command_of_this_program(arguments: Sequence[str]) -> list[str]:
    """How to start this program again with `arguments`."""
    return [sys.executable, "-m", "postward", *arguments]
