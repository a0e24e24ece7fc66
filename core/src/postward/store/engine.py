"""Connections: what a database URL means, how SQLite is set up, and what its errors mean to an operator.

SQLite: WAL, `synchronous=FULL` (a commit is on disk before it is reported), one connection that writes and a few that
cannot. PostgreSQL: psycopg behind the same SQLAlchemy engine, with limits on statements and locks.
"""

from __future__ import annotations

import os
import sqlite3
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from sqlalchemy import Connection, Engine, create_engine, event, make_url
from sqlalchemy.engine import URL
from sqlalchemy.exc import ArgumentError, DBAPIError, NoSuchModuleError
from sqlalchemy.pool import StaticPool

from postward.errors import StoreError

READERS: Final = 4
BUSY_SECONDS: Final = 10
STATEMENT_SECONDS: Final = 60
CONNECT_SECONDS: Final = 10
MEMORY: Final = Path(":memory:")

_SQLITE_TROUBLE: Final = {
    "SQLITE_BUSY": f"another program has held it locked for more than {BUSY_SECONDS} seconds",
    "SQLITE_LOCKED": "it is locked",
    "SQLITE_FULL": "the disk is full",
    "SQLITE_READONLY": "it may only be read",
    "SQLITE_PERM": "access is denied",
    "SQLITE_AUTH": "access is denied",
    "SQLITE_CANTOPEN": "it cannot be opened",
    "SQLITE_NOTADB": "the file is no SQLite database",
    "SQLITE_CORRUPT": "the file is damaged",
    "SQLITE_IOERR": "reading or writing the disk failed",
}
# SQLSTATE classes that speak of the server and not of the statement: connection, resources, operator, system, conflict.
_POSTGRESQL_TROUBLE: Final = ("08", "25006", "28", "3D", "40", "53", "55P03", "57", "58", "XX")
_CONFLICTS: Final = ("40001", "40P01")


@dataclass(frozen=True, slots=True, kw_only=True)
class Engines:
    """One database as two engines: `writer`, and `reader`, which is the same one where there is only one connection."""

    name: str
    writer: Engine
    reader: Engine
    in_memory: bool = False

    @property
    def is_sqlite(self) -> bool:
        """Whether this is SQLite."""
        return self.writer.dialect.name == "sqlite"

    def dispose(self) -> None:
        """Close all connections."""
        self.reader.dispose()
        self.writer.dispose()


def sqlite_url(path: Path) -> str:
    """The URL of a SQLite file, or of a database in memory for `:memory:`."""
    return "sqlite://" if path == MEMORY else URL.create("sqlite", database=str(path)).render_as_string()


def sqlite_path(url: str) -> Path | None:
    """The file of a SQLite URL; None for one in memory and for PostgreSQL. Raises `StoreError` for what is no URL."""
    parsed = _parse(url)
    if parsed.get_backend_name() != "sqlite" or parsed.database in (None, "", ":memory:"):
        return None
    return Path(str(parsed.database))


def open_engines(url: str) -> Engines:
    """Make the engines of `sqlite:///…` or `postgresql+psycopg://…`. Connects to nothing yet. Raises `StoreError`."""
    parsed = _parse(url)
    if parsed.get_backend_name() == "postgresql":
        return _postgresql(parsed)
    path = sqlite_path(url)
    return _sqlite_memory() if path is None else _sqlite_file(path)


def migration_engine(url: str) -> Engine:
    """An engine for changing tables: foreign keys are not enforced meanwhile, because SQLite rebuilds tables to alter them."""
    parsed = _parse(url)
    if parsed.get_backend_name() == "postgresql":
        return _postgresql(parsed).writer
    path = sqlite_path(url)
    if path is None:
        raise StoreError("a database in memory is upgraded by the program that holds it")
    _create_private(path)
    engine = create_engine(_sqlite_file_url(path), pool_size=1, max_overflow=0, connect_args={"check_same_thread": False})
    _set_up_sqlite(engine, begin="BEGIN IMMEDIATE", foreign_keys=False)
    return engine


def _parse(url: str) -> URL:
    try:
        parsed = make_url(url)
    except (ArgumentError, ValueError) as exc:  # a port that is no number is a bare ValueError of SQLAlchemy's
        raise StoreError("the database URL cannot be read: it must be like sqlite:////path or postgresql+psycopg://…") from exc
    if parsed.get_backend_name() not in ("sqlite", "postgresql"):
        raise StoreError(f"databases of kind {parsed.get_backend_name()!r} are not supported: use sqlite or postgresql+psycopg")
    return parsed


def _create_private(path: Path) -> None:
    # Queued mail and recipients stand in these files: nobody but the owner reads them, whatever the umask.
    try:
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        os.close(os.open(path, os.O_RDONLY | os.O_CREAT | os.O_CLOEXEC, 0o600))
    except OSError as exc:
        raise StoreError(f"database {path}: {exc.strerror or exc}") from exc


def _sqlite_file_url(path: Path) -> URL:
    return URL.create("sqlite", database=str(path))


def _sqlite_file(path: Path) -> Engines:
    _create_private(path)
    arguments = {"check_same_thread": False}
    writer = create_engine(_sqlite_file_url(path), pool_size=1, max_overflow=0, connect_args=arguments)
    reader = create_engine(_sqlite_file_url(path), pool_size=READERS, max_overflow=0, connect_args=arguments)
    # IMMEDIATE: a transaction that reads first and writes later would fail when another writer came between.
    _set_up_sqlite(writer, begin="BEGIN IMMEDIATE")
    _set_up_sqlite(reader, begin="BEGIN", query_only=True)
    return Engines(name=str(path), writer=writer, reader=reader)


def _sqlite_memory() -> Engines:
    # One shared connection: with any other pool each thread would see an empty database of its own.
    engine = create_engine("sqlite://", poolclass=StaticPool, connect_args={"check_same_thread": False})
    _set_up_sqlite(engine, begin="BEGIN IMMEDIATE")
    return Engines(name=":memory:", writer=engine, reader=engine, in_memory=True)


def _set_up_sqlite(engine: Engine, *, begin: str, foreign_keys: bool = True, query_only: bool = False) -> None:
    pragmas = [
        f"PRAGMA busy_timeout={BUSY_SECONDS * 1000}",
        "PRAGMA synchronous=FULL",
        # Debian's SQLite overwrites every page it frees, which costs the journal as much as writing it.
        "PRAGMA secure_delete=FAST",
        f"PRAGMA foreign_keys={'ON' if foreign_keys else 'OFF'}",
        *(["PRAGMA query_only=ON"] if query_only else []),
    ]

    @event.listens_for(engine, "connect")
    def connect(connection: Any, _record: object) -> None:
        # Without this, Python's sqlite3 decides by itself when a transaction begins.
        connection.isolation_level = None
        _use_wal(connection)
        for pragma in pragmas:
            connection.execute(pragma)

    @event.listens_for(engine, "begin")
    def start(connection: Connection) -> None:
        connection.exec_driver_sql(begin)


def _use_wal(connection: Any) -> None:
    """Switch to a write-ahead log. Where two programs do it at once, SQLite tells one that it is locked and does not wait."""
    until = time.monotonic() + BUSY_SECONDS
    while True:
        try:
            connection.execute("PRAGMA journal_mode=WAL")
        except sqlite3.OperationalError as exc:
            if exc.sqlite_errorcode & 0xFF != sqlite3.SQLITE_BUSY or time.monotonic() > until:
                raise
            time.sleep(0.01)
        else:
            return


def _postgresql(url: URL) -> Engines:
    options = f"-c statement_timeout={STATEMENT_SECONDS}s -c lock_timeout={BUSY_SECONDS}s -c timezone=UTC"
    try:
        writer = create_engine(
            url.set(drivername="postgresql+psycopg"),
            pool_size=1 + READERS,
            max_overflow=0,
            pool_timeout=BUSY_SECONDS,
            connect_args={"connect_timeout": CONNECT_SECONDS, "options": options, "application_name": "postward"},
        )
    except (ImportError, NoSuchModuleError) as exc:
        raise StoreError("PostgreSQL needs the optional part: pip install 'postward[postgresql]'") from exc
    reader = writer.execution_options(postgresql_readonly=True)
    return Engines(name=url.render_as_string(hide_password=True), writer=writer, reader=reader)


def explain(error: BaseException, database: str) -> StoreError | None:
    """The trouble with the database in one line; None when the error is about the statement or the caller."""
    original = error.orig if isinstance(error, DBAPIError) else error
    if isinstance(original, sqlite3.Error):
        code = getattr(original, "sqlite_errorname", "")
        for prefix, text in _SQLITE_TROUBLE.items():
            if code.startswith(prefix):
                return StoreError(f"database {database}: {text}")
        return None
    if isinstance(error, DBAPIError) and _is_postgresql_trouble(error):
        first_line = str(original).strip().partition("\n")[0]
        return StoreError(f"database {database}: {first_line}")
    return None


def _is_postgresql_trouble(error: DBAPIError) -> bool:
    state = getattr(error.orig, "sqlstate", None)
    if state is None:
        return error.connection_invalidated or type(error.orig).__name__ in ("OperationalError", "ConnectionTimeout")
    return str(state).startswith(_POSTGRESQL_TROUBLE)


def is_conflict(error: BaseException) -> bool:
    """Whether PostgreSQL undid the transaction in favour of another one: a deadlock or a serialisation failure."""
    return isinstance(error, DBAPIError) and getattr(error.orig, "sqlstate", None) in _CONFLICTS


def is_lost(error: BaseException) -> bool:
    """Whether the connection to the server broke."""
    return isinstance(error, DBAPIError) and error.connection_invalidated
