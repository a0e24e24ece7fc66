"""What the end-to-end tests share: the command line as a process, a configuration, and servers on a thread of their own."""

from __future__ import annotations

import io
import json
import os
import subprocess
import sys
import tempfile
import threading
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Sequence
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import structlog
import tomli_w
import trio

from postward.cli import main

POSTWARD = [sys.executable, "-c", "import sys; from postward.cli import main; sys.exit(main())"]
PLUGINS = ("dane", "mtasts", "tlsrpt", "dmarc")
MESSAGE = b"From: me@sender.test\nTo: you@example.test\nSubject: hello\n\nhello\n"
_LIMIT = 60
# Dozens of processes are started, and compiling everything each time would take most of their time.
_BYTECODE = tempfile.TemporaryDirectory(prefix="postward-pyc")
ENVIRONMENT = {**os.environ, "PYTHONDONTWRITEBYTECODE": "", "PYTHONPYCACHEPREFIX": _BYTECODE.name}


@dataclass(frozen=True, slots=True)
class Ran:
    """A process that ended."""

    code: int
    out: bytes
    err: str

    @property
    def json(self) -> Any:
        """The one JSON object of standard output."""
        # Servers of a test that run in the same process log to the same place.
        [line] = [each for each in self.out.splitlines() if each.startswith(b"{")]
        return json.loads(line)

    @property
    def recipients(self) -> list[dict[str, Any]]:
        """The recipients of `deliver --json`."""
        recipients: list[dict[str, Any]] = self.json["recipients"]
        return recipients

    @property
    def attempts(self) -> list[dict[str, Any]]:
        """The attempts of `deliver --json`."""
        attempts: list[dict[str, Any]] = self.json["attempts"]
        return attempts

    @property
    def policies(self) -> dict[str, tuple[bool, str | None]]:
        """Of the only attempt, each policy's kind with its verdict and result type."""
        [attempt] = self.attempts
        return {each["kind"]: (each["passed"], each["result_type"]) for each in attempt["policies"]}


def run(*arguments: str | Path, stdin: bytes = b"", cwd: Path | None = None, **environment: str) -> Ran:
    """Run `postward` and wait. No user may ever see a traceback, so there is none in any test."""
    done = subprocess.run(
        [*POSTWARD, *map(str, arguments)],
        input=stdin,
        capture_output=True,
        timeout=_LIMIT,
        check=False,
        cwd=cwd,
        env={**ENVIRONMENT, **environment},
    )
    errors = done.stderr.decode("utf-8", "backslashreplace")
    assert "Traceback" not in errors, errors
    assert "internal error" not in errors, errors
    return Ran(done.returncode, done.stdout, errors)


def call(*arguments: str | Path, stdin: bytes = b"") -> Ran:
    """The same in this process: what a process costs is paid once, so use it for what has many cases."""
    kept, settings = (sys.stdin, sys.stdout, sys.stderr), structlog.get_config()
    streams = [io.TextIOWrapper(io.BytesIO(data), encoding="utf-8") for data in (stdin, b"", b"")]
    sys.stdin, sys.stdout, sys.stderr = streams
    try:
        code = main([str(word) for word in arguments])
        texts = []
        for stream in streams[1:]:
            stream.flush()
            texts.append(stream.buffer.getvalue())  # type: ignore[attr-defined]
    finally:
        sys.stdin, sys.stdout, sys.stderr = kept
        structlog.configure(**settings)
    errors = texts[1].decode()
    assert "internal error" not in errors, errors
    return Ran(code, texts[0], errors)


def deliver(
    config: Path,
    to: str | Sequence[str],
    message: bytes = MESSAGE,
    *options: str,
    sender: str = "me@sender.test",
    how: Callable[..., Ran] = run,
) -> Ran:
    """`postward deliver --json` with the message on standard input, by `run` or `call`."""
    recipients = [to] if isinstance(to, str) else list(to)
    return how("deliver", "--config", config, "--json", *options, "--from", sender, "--to", *recipients, "-", stdin=message)


def write_config(directory: Path, **tables: Any) -> Path:
    """A configuration with everything below `directory`, asking nobody outside; `tables` are put over it."""
    config: dict[str, Any] = {
        "plugins": list(PLUGINS),
        "core": {"hostname": "relay.sender.test", "data_dir": str(directory / "data")},
        "dns": {"nameservers": ["127.0.0.1:9"], "self_test": {"secure": "", "bogus": ""}, "timeout": 5.0},
        **tables,
    }
    directory.mkdir(parents=True, exist_ok=True)
    file = directory / "postward.toml"
    with file.open("wb") as target:
        tomli_w.dump(config, target)
    return file


@contextmanager
def serving(servers: Callable[..., Awaitable[object]]) -> Iterator[trio.lowlevel.TrioToken]:
    """Run `servers(task_status=...)` by trio on a thread; enter when it has started, cancel it at the end."""
    started = threading.Event()
    scope: list[tuple[trio.lowlevel.TrioToken, trio.CancelScope]] = []

    async def whole() -> None:
        async with trio.open_nursery() as nursery:
            scope.append((trio.lowlevel.current_trio_token(), nursery.cancel_scope))
            await nursery.start(servers)
            started.set()

    thread = threading.Thread(target=trio.run, args=(whole,), name="servers")
    thread.start()
    try:
        while not started.wait(0.05):
            assert thread.is_alive(), "the servers did not start"
        yield scope[0][0]
    finally:
        if scope:
            token, nursery_scope = scope[0]
            token.run_sync_soon(nursery_scope.cancel)
        thread.join(20)


@asynccontextmanager
async def listening(
    handler: Callable[[trio.SocketStream], Awaitable[object]], address: str, port: int = 0
) -> AsyncIterator[int]:
    """Serve TCP connections with `handler` meanwhile; gives the port."""
    async with trio.open_nursery() as nursery:
        [listener] = await trio.open_tcp_listeners(port, host=address)
        nursery.start_soon(partial(trio.serve_listeners, handler, [listener]))
        yield int(listener.socket.getsockname()[1])
        nursery.cancel_scope.cancel()
