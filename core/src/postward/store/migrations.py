"""Bring a database to the tables of this program: each distribution's migrations, once, in order, in one transaction.

Each distribution keeps its own version, the number of migrations that have run, in `<name>_schema_version`. All pending
migrations of all distributions share one transaction under a lock, so a crash leaves the old tables or the new ones, and
two programs that start together do the work once.
"""

from __future__ import annotations

import re
import sqlite3
from collections.abc import Hashable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from sqlalchemy import Connection, Engine, inspect
from sqlalchemy.exc import SQLAlchemyError

from postward.errors import StoreError
from postward.store.engine import explain, migration_engine, open_engines, sqlite_path

if TYPE_CHECKING:
    from postward.model import Schema

_NAME: Final = re.compile(r"[a-z][a-z0-9_-]{0,40}")
_LOCK: Final = 0x706F737477617264
_LOCK_SECONDS: Final = 120
# Which keep their names from before there was a rule.
_CORES_OWN: Final = frozenset({"core", "node", "queue", "reports"})
_MADE_MOST: Final = 32
_MADE: dict[Hashable, bytes] = {}


@dataclass(frozen=True, slots=True, kw_only=True)
class SchemaStatus:
    """How far the tables of one distribution are: `current` of `available` migrations have run in `database`."""

    name: str
    database: str
    current: int
    available: int

    @property
    def pending(self) -> int:
        """How many migrations are still to run; negative when the database is of a newer version."""
        return self.available - self.current


def status(url: str, schemas: Mapping[str, Schema]) -> list[SchemaStatus]:
    """Compare a database with this program's tables, changing nothing. A database that is not there has version 0."""
    path = sqlite_path(url)
    if path is not None and not path.exists():
        return [_compare(name, str(path), 0, schema) for name, schema in schemas.items()]
    engines = open_engines(url)
    name = _show(engines.reader)
    try:
        with engines.reader.connect() as connection, connection.begin() as transaction:
            found = [_compare(schema, name, _version(connection, schema), schemas[schema]) for schema in schemas]
            transaction.rollback()
            return found
    except SQLAlchemyError as exc:
        raise explain(exc, name) or _failed(name, exc) from exc
    finally:
        engines.dispose()


def upgrade(url: str, schemas: Mapping[str, Schema]) -> list[SchemaStatus]:
    """Run what is pending and return the states from before.

    Raises `StoreError` for a database of a newer version, for one that cannot be locked within two minutes, and for a
    migration that fails; then nothing has changed.
    """
    engine = migration_engine(url)
    try:
        return upgrade_engine(engine, schemas)
    finally:
        engine.dispose()


def upgrade_engine(engine: Engine, schemas: Mapping[str, Schema]) -> list[SchemaStatus]:
    """Do what `upgrade` does on an engine that is already there, such as a database in memory."""
    name = _show(engine)
    tables = [version_table(schema) for schema in schemas]
    if len(set(tables)) < len(tables):
        raise StoreError(f"two of these distributions would share a version table: {', '.join(schemas)}")
    try:
        with engine.connect() as connection:
            if engine.dialect.name == "sqlite":
                # Before BEGIN: two programs may start at the same time, and one of them migrates for long.
                connection.connection.cursor().execute(f"PRAGMA busy_timeout={_LOCK_SECONDS * 1000}")
            with connection.begin():
                _lock(connection)
                before = [_compare(schema, name, _version(connection, schema), schemas[schema]) for schema in schemas]
                for state in before:
                    _refuse_newer(state)
                for state in before:
                    if state.pending:
                        _run(connection, state, schemas[state.name])
                if engine.dialect.name == "sqlite" and connection.exec_driver_sql("PRAGMA foreign_key_check").first():
                    raise StoreError(f"database {name}: a migration left rows that refer to nothing; nothing was changed")
            return before
    except SQLAlchemyError as exc:
        raise explain(exc, name) or _failed(name, exc) from exc


def upgrade_memory(engine: Engine, schemas: Mapping[str, Schema]) -> None:
    """Do it on a database in memory that is empty: the second of the same schemas in a process is a copy of the first.

    Tests open hundreds of them, and to migrate one takes longer than most tests.
    """
    wanted = tuple((name, tuple(schema.migrations)) for name, schema in schemas.items())
    with engine.connect() as connection:
        raw = connection.connection.driver_connection
        assert isinstance(raw, sqlite3.Connection)
        if (made := _MADE.get(wanted)) is not None:
            raw.deserialize(made)
            return
    upgrade_engine(engine, schemas)
    if len(_MADE) >= _MADE_MOST:
        _MADE.clear()
    _MADE[wanted] = raw.serialize()


def version_table(schema: str) -> str:
    """The name of a distribution's version table. Raises `StoreError` for names that cannot be part of one."""
    if _NAME.fullmatch(schema) is None:
        raise StoreError(f"{schema!r} cannot be the name of tables: lower-case letters, digits, '-' and '_' are possible")
    return f"{schema.replace('-', '_')}_schema_version"


def _show(engine: Engine) -> str:
    return str(engine.url.database or ":memory:") if engine.dialect.name == "sqlite" else engine.url.render_as_string()


def _compare(name: str, database: str, current: int, schema: Schema) -> SchemaStatus:
    return SchemaStatus(name=name, database=database, current=current, available=len(schema.migrations))


def _version(connection: Connection, schema: str) -> int:
    table = version_table(schema)
    if not connection.dialect.has_table(connection, table):
        return 0
    return int(connection.exec_driver_sql(f"SELECT version FROM {table}").scalar() or 0)


def _lock(connection: Connection) -> None:
    # SQLite: the transaction began IMMEDIATE. PostgreSQL: released with the transaction, also when this process dies.
    if connection.dialect.name == "postgresql":
        connection.exec_driver_sql(f"SET LOCAL lock_timeout = '{_LOCK_SECONDS}s'")
        connection.exec_driver_sql("SET LOCAL statement_timeout = 0")
        connection.exec_driver_sql(f"SELECT pg_advisory_xact_lock({_LOCK})")


def _refuse_newer(state: SchemaStatus) -> None:
    if state.pending < 0:
        raise StoreError(
            f"database {state.database}: the tables of {state.name!r} have version {state.current}, "
            f"this program knows {state.available}: a newer version of it has been here"
        )


def _run(connection: Connection, state: SchemaStatus, schema: Schema) -> None:
    # Alembic is slow to import, and most starts find nothing to do.
    from alembic.migration import MigrationContext
    from alembic.operations import Operations

    table = version_table(state.name)
    before = set(inspect(connection).get_table_names())
    operations = Operations(MigrationContext.configure(connection))
    if not state.current:
        connection.exec_driver_sql(f"CREATE TABLE IF NOT EXISTS {table} (version INTEGER NOT NULL)")
        connection.exec_driver_sql(f"DELETE FROM {table}")
        connection.exec_driver_sql(f"INSERT INTO {table} (version) VALUES (0)")
    for number, migration in enumerate(schema.migrations[state.current :], state.current + 1):
        try:
            migration(operations)
        except SQLAlchemyError as exc:
            if trouble := explain(exc, state.database):
                raise trouble from exc
            raise StoreError(f"migration {number} of {state.name!r} failed: {_one_line(exc)}; nothing was changed") from exc
        except Exception as exc:
            raise StoreError(f"migration {number} of {state.name!r} failed: {_one_line(exc)}; nothing was changed") from exc
    connection.exec_driver_sql(f"UPDATE {table} SET version = {len(schema.migrations)}")
    if state.name not in _CORES_OWN:
        _refuse_foreign(connection, state.name, before)


def _refuse_foreign(connection: Connection, name: str, before: set[str]) -> None:
    """All plugins share one database: what one makes or takes away bears its name, or it may be another one's."""
    after = set(inspect(connection).get_table_names())
    prefix = f"{name.replace('-', '_')}_"
    wrong = sorted(table for table in before ^ after if not table.startswith(prefix))
    if wrong:
        raise StoreError(f"plugin {name!r}: its tables begin with {prefix!r}, and {', '.join(wrong)} may be another's")


def _failed(database: str, error: BaseException) -> StoreError:
    return StoreError(f"database {database}: {_one_line(error)}")


def _one_line(error: BaseException) -> str:
    original = getattr(error, "orig", None) or error
    return str(original).strip().partition("\n")[0] or type(original).__name__
