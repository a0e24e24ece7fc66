"""`postward run` with all plugins and the data of weeks, for tests that look at its pages from outside."""

from __future__ import annotations

import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import tomli_w
import trio

from deliver_kit import ENVIRONMENT
from postward.app import App
from postward.config import load
from postward.dns import ZoneResolver
from postward.listen.users import set_password
from relay_kit import free_port, until
from web_data import configure, fill

SECRET = "a long enough password"


@dataclass
class Served:
    """A running service with its pages; ada may change, eve may read."""

    url: str
    log: Path


@contextmanager
def serving_pages(folder: Path) -> Iterator[Served]:
    """Start one below `folder`, and stop it behind the block."""
    port = free_port()
    tables = configure(
        folder,
        web={"bind": f"127.0.0.1:{port}", "users": str(folder / "users"), "readers": ["eve"]},
        dns={"nameservers": ["127.0.0.1:1"], "self_test": {"secure": "", "bogus": ""}},
    )
    config = folder / "postward.toml"
    config.write_text(tomli_w.dumps(tables))
    for user in ("ada", "eve"):
        set_password(folder / "users", user, SECRET)

    async def prepare() -> None:
        async with App(load(config), dns=ZoneResolver(), inline=True) as app:
            await fill(app)

    trio.run(prepare)
    log = folder / "log"
    with log.open("wb") as out:
        command = [sys.executable, "-m", "postward", "run", "--config", str(config)]
        process = subprocess.Popen(command, stderr=out, env=ENVIRONMENT)
    try:
        until(lambda: b'"running"' in log.read_bytes() or process.poll() is not None)
        assert process.poll() is None, log.read_text()
        yield Served(f"http://127.0.0.1:{port}", log)
    finally:
        process.send_signal(signal.SIGTERM)
        process.wait(30)
