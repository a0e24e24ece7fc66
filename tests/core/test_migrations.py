"""Tables of every distribution: made once, in order, all or none, by one of several programs."""

from __future__ import annotations

import signal
import sqlite3
import subprocess
import sys
import textwrap
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa
from alembic.operations import Operations

from postward.clock import SystemClock
from postward.errors import StoreError
from postward.model import Schema
from postward.store import open_store, status, upgrade
from postward.store.engine import open_engines
from postward.store.migrations import upgrade_engine


def first(op: Operations) -> None:
    op.create_table("plug_rows", sa.Column("n", sa.Integer, primary_key=True), sa.Column("old", sa.Text))
    op.execute("INSERT INTO plug_rows (n, old) VALUES (1, 'a')")


def second(op: Operations) -> None:
    op.add_column("plug_rows", sa.Column("more", sa.Text, nullable=False, server_default="x"))


def third(op: Operations) -> None:
    with op.batch_alter_table("plug_rows") as table:
        table.drop_column("old")


def broken(op: Operations) -> None:
    op.create_table("plug_half", sa.Column("n", sa.Integer))
    raise LookupError("a bug")


def url(path: Path) -> str:
    return f"sqlite:///{path}"


def fetch(path: Path, query: str) -> list[tuple[Any, ...]]:
    with closing(sqlite3.connect(path)) as connection:
        return connection.execute(query).fetchall()


def columns(path: Path, table: str = "plug_rows") -> list[str]:
    return [row[1] for row in fetch(path, f"PRAGMA table_info({table})")]


def test_each_migration_runs_once_in_order_and_keeps_the_rows(tmp_path: Path) -> None:
    path = tmp_path / "x.db"
    assert [state.pending for state in status(url(path), {"plug": Schema(migrations=(first,))})] == [1]
    assert not path.exists()  # looking changes nothing
    upgrade(url(path), {"plug": Schema(migrations=(first,))})
    assert columns(path) == ["n", "old"]
    whole = {"plug": Schema(migrations=(first, second, third))}
    assert [(state.current, state.available) for state in status(url(path), whole)] == [(1, 3)]
    upgrade(url(path), whole)
    upgrade(url(path), whole)
    assert columns(path) == ["n", "more"]
    assert fetch(path, "SELECT n, more FROM plug_rows") == [(1, "x")]
    assert [(state.current, state.available, state.pending) for state in status(url(path), whole)] == [(3, 3, 0)]


def test_one_version_table_per_distribution(tmp_path: Path) -> None:
    path = tmp_path / "x.db"
    other = Schema(migrations=(lambda op: op.execute("CREATE TABLE other_one_t (n INTEGER)"),))
    upgrade(url(path), {"plug": Schema(migrations=(first,)), "other-one": other})
    for table in ("plug_schema_version", "other_one_schema_version"):
        assert columns(path, table) == ["version"]


def test_a_migration_that_fails_changes_nothing_anywhere(tmp_path: Path) -> None:
    path = tmp_path / "x.db"
    upgrade(url(path), {"plug": Schema(migrations=(first,))})
    schemas = {"plug": Schema(migrations=(first, second)), "bad": Schema(migrations=(broken,))}
    with pytest.raises(StoreError, match=r"migration 1 of 'bad' failed: a bug; nothing was changed"):
        upgrade(url(path), schemas)
    assert columns(path) == ["n", "old"]
    assert columns(path, "plug_half") == []
    assert [state.current for state in status(url(path), schemas)] == [1, 0]


def test_a_migration_with_bad_sql_is_one_line(tmp_path: Path) -> None:
    bad = Schema(migrations=(lambda op: op.execute("CREATE NONSENSE"),))
    with pytest.raises(StoreError, match="migration 1 of 'plug' failed") as caught:
        upgrade(url(tmp_path / "x.db"), {"plug": bad})
    assert "\n" not in str(caught.value)


def test_a_database_of_a_newer_version_is_refused_in_one_line(tmp_path: Path) -> None:
    path = tmp_path / "x.db"
    upgrade(url(path), {"plug": Schema(migrations=(first, second))})
    with pytest.raises(StoreError, match="version 2, this program knows 1") as caught:
        upgrade(url(path), {"plug": Schema(migrations=(first,))})
    assert "\n" not in str(caught.value)
    assert columns(path) == ["n", "old", "more"]


@pytest.mark.parametrize("name", ["", "Caps", "a b", "x;drop table y", "1st", "a" * 60])
def test_a_name_that_cannot_be_part_of_a_table_is_refused(tmp_path: Path, name: str) -> None:
    with pytest.raises(StoreError):
        upgrade(url(tmp_path / "x.db"), {name: Schema(migrations=())})


def test_two_names_that_would_share_a_version_table_are_refused(tmp_path: Path) -> None:
    with pytest.raises(StoreError, match="share"):
        upgrade(url(tmp_path / "x.db"), {"a-b": Schema(migrations=()), "a_b": Schema(migrations=())})


def test_rebuilding_a_table_keeps_rows_that_refer_to_it(tmp_path: Path) -> None:
    """SQLite rebuilds a table to alter it; with foreign keys enforced, dropping the old one would delete its children."""
    path = tmp_path / "x.db"

    def parent_and_child(op: Operations) -> None:
        first(op)
        op.execute("CREATE TABLE plug_child (n INTEGER REFERENCES plug_rows ON DELETE CASCADE)")
        op.execute("INSERT INTO plug_child VALUES (1)")

    upgrade(url(path), {"plug": Schema(migrations=(parent_and_child,))})
    upgrade(url(path), {"plug": Schema(migrations=(parent_and_child, second, third))})
    assert fetch(path, "SELECT n FROM plug_child") == [(1,)]


def test_a_migration_that_leaves_dangling_rows_is_refused(tmp_path: Path) -> None:
    def dangling(op: Operations) -> None:
        first(op)
        op.execute("CREATE TABLE plug_child (n INTEGER REFERENCES plug_rows)")
        op.execute("INSERT INTO plug_child VALUES (99)")

    with pytest.raises(StoreError, match="refer to nothing"):
        upgrade(url(tmp_path / "x.db"), {"plug": Schema(migrations=(dangling,))})
    assert columns(tmp_path / "x.db") == []


def test_a_database_in_memory_is_upgraded_in_place() -> None:
    engines = open_engines("sqlite://")
    upgrade_engine(engines.writer, {"plug": Schema(migrations=(first, second, third))})
    with engines.reader.connect() as connection:
        assert connection.exec_driver_sql("SELECT more FROM plug_rows").scalar() == "x"
    engines.dispose()


def test_several_programs_that_start_at_once_do_the_work_once(tmp_path: Path) -> None:
    path = tmp_path / "x.db"
    schemas = {"plug": Schema(migrations=(first, second, third))}
    with ThreadPoolExecutor(8) as pool:
        before = list(pool.map(lambda _: upgrade(url(path), schemas)[0].current, range(8)))
    assert sorted(before) == [0] + [3] * 7
    assert fetch(path, "SELECT COUNT(*) FROM plug_rows") == [(1,)]


async def test_opening_the_store_upgrades_and_refuses_newer_tables(tmp_path: Path) -> None:
    async def open_with(*migrations: object) -> None:
        async with open_store(
            url=url(tmp_path / "x.db"),
            node_path=tmp_path / "node.db",
            node="mx1",
            schemas={"plug": Schema(migrations=migrations)},  # type: ignore[arg-type]
            consumers=(),
            clock=SystemClock(),
            inline=True,
        ):
            pass

    await open_with(first)
    assert columns(tmp_path / "x.db") == ["n", "old"]
    await open_with(first, second)
    assert columns(tmp_path / "x.db") == ["n", "old", "more"]
    with pytest.raises(StoreError, match="newer version"):
        await open_with(first)


KILLED = """
import os, signal, sys
from postward.model import Schema
from postward.store import upgrade

def step(number):
    def run(op):
        op.execute(f"CREATE TABLE plug_{number} (n INTEGER)")
        for row in range(300):
            op.execute(f"INSERT INTO plug_{number} VALUES ({row})")
        if number == int(sys.argv[2]):
            os.kill(os.getpid(), signal.SIGKILL)
    return run

upgrade(sys.argv[1], {"plug": Schema(migrations=tuple(step(number) for number in range(4)))})
"""


@pytest.mark.parametrize("moment", range(4))
def test_a_kill_in_the_middle_leaves_the_old_version(tmp_path: Path, moment: int) -> None:
    path = tmp_path / "x.db"
    script = tmp_path / "killed.py"
    script.write_text(textwrap.dedent(KILLED))
    killed = subprocess.run([sys.executable, script, url(path), str(moment)], check=False, timeout=60)
    assert killed.returncode == -signal.SIGKILL
    assert columns(path, "plug_0") == []
    done = subprocess.run([sys.executable, script, url(path), "9"], check=False, timeout=60)
    assert done.returncode == 0
    for number in range(4):
        assert fetch(path, f"SELECT COUNT(*) FROM plug_{number}") == [(300,)]
