"""A PostgreSQL of our own, for the tests that need a real one."""

from __future__ import annotations

import os
import pwd
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import sqlalchemy as sa

from interop import need

BINARIES = sorted(Path("/usr/lib/postgresql").glob("*/bin"), reverse=True)


@dataclass(frozen=True)
class Server:
    """A private cluster that listens on a Unix socket only."""

    directory: Path
    binaries: Path
    user: str

    def run(self, program: str, *arguments: str) -> None:
        command = [str(self.binaries / program), *arguments]
        if os.geteuid() == 0:  # PostgreSQL refuses root
            account = pwd.getpwnam(self.user)
            command = ["setpriv", f"--reuid={account.pw_uid}", f"--regid={account.pw_gid}", "--clear-groups", *command]
        subprocess.run(command, check=True, cwd=self.directory, stdout=subprocess.DEVNULL, timeout=60)

    @property
    def data(self) -> str:
        return str(self.directory / "data")

    def start(self) -> None:
        options = f"-c listen_addresses= -c unix_socket_directories={self.directory}"
        log = str(self.directory / "log")
        self.run("pg_ctl", "-D", self.data, "-w", "-t", "30", "-l", log, "-o", options, "start")

    def stop(self, mode: str = "fast") -> None:
        self.run("pg_ctl", "-D", self.data, "-w", "-t", "30", "-m", mode, "stop")

    def url(self, database: str) -> str:
        return f"postgresql+psycopg://{self.user}@/{database}?host={self.directory}"

    def fresh(self, name: str) -> str:
        """The URL of a database that was just made."""
        engine = sa.create_engine(self.url("postgres"), isolation_level="AUTOCOMMIT")
        with engine.connect() as connection:
            connection.exec_driver_sql(f"DROP DATABASE IF EXISTS {name}")
            connection.exec_driver_sql(f"CREATE DATABASE {name}")
        engine.dispose()
        return self.url(name)


@contextmanager
def running() -> Iterator[Server]:
    """A cluster that runs for a while. Skips the test where PostgreSQL is missing."""
    if not BINARIES:
        need("pg_ctl")
    user = pwd.getpwuid(os.geteuid()).pw_name
    if user == "root":
        need("setpriv")
        user = "postgres"
    # Not in pytest's directory: the path of a socket is short, and another user must be able to enter.
    directory = Path(tempfile.mkdtemp(prefix="postward-pg-", dir="/tmp"))
    server = Server(directory, BINARIES[0] if BINARIES else Path(need("pg_ctl")).parent, user)
    try:
        if os.geteuid() == 0:
            shutil.chown(directory, user)
        server.run("initdb", "-D", server.data, "-A", "trust", "-U", user, "--no-sync", "-E", "UTF8", "--locale=C")
        server.start()
        try:
            yield server
        finally:
            server.stop("immediate")
    finally:
        shutil.rmtree(directory, ignore_errors=True)
