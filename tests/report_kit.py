"""What tests of the reports machinery share: a database with its tables, a report, and stand-ins for hooks and log."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

import sqlalchemy as sa
import structlog
import trio
from alembic.migration import MigrationContext
from alembic.operations import Operations

from postward.model import Report, Window
from postward.names import Domain
from postward.reports.tables import SCHEMA
from postward.store.database import Database
from postward.store.engine import open_engines

DAY = Window.of_day("2026-11-23")
NEXT = DAY.end + 3_600_000_000


def make_report(report_id: str = "r1", **changes: Any) -> Report:
    values: dict[str, Any] = {
        "kind": "tls",
        "report_id": report_id,
        "policy_domain": Domain("b.example"),
        "window": DAY,
        "submitter": Domain("a.example"),
        "subject": f"Report Domain: b.example Submitter: a.example Report-ID: <{report_id}@a.example>",
        "filename": "a.example!b.example!1!2.json.gz",
        "media_type": "application/tlsrpt+gzip",
        "content": b"\x1f\x8b" + b"x" * 200,
        "explanation": "A report.\n",
        "mail_type": 'multipart/report; report-type="tlsrpt"',
        "headers": (("TLS-Report-Domain", "b.example"), ("TLS-Report-Submitter", "a.example")),
    }
    return Report(**(values | changes))


def migrate(connection: sa.Connection, migrations: Sequence[Callable[[Operations], None]]) -> None:
    operations = Operations(MigrationContext.configure(connection))
    for migration in migrations:
        migration(operations)


@asynccontextmanager
async def results_database(
    url: str = "sqlite://", migrations: Sequence[Callable[[Operations], None]] = (), *, new: bool = True
) -> AsyncIterator[Database]:
    database = Database(open_engines(url), inline=True)
    async with trio.open_nursery() as nursery:
        await nursery.start(database.run)
        try:
            if new:
                await database.write(lambda connection: migrate(connection, (*SCHEMA.migrations, *migrations)))
            yield database
        finally:
            await database.aclose()


@dataclass
class FakeOutcome:
    plugin: str
    value: Any = None
    error: BaseException | None = None


@dataclass
class FakeHooks:
    """Answers `deliver_report` by a function, if given, and remembers what was told."""

    answer: Callable[..., FakeOutcome | None] = lambda **_: None
    told: list[Any] = field(default_factory=list)

    async def first(self, spec: Any, **arguments: Any) -> FakeOutcome | None:
        await trio.lowlevel.checkpoint()
        return self.answer(**arguments)

    def plugins_for(self, spec: Any) -> list[str]:
        return []

    async def notify(self, spec: Any, **arguments: Any) -> None:
        self.told.append(arguments["outcome"])


class FakeLog:
    """A structlog logger that keeps its events."""

    def __init__(self) -> None:
        self.events: list[dict[str, Any]] = []
        keep = structlog.testing.LogCapture()
        self.events = keep.entries
        self.log = structlog.wrap_logger(None, processors=[keep])


@dataclass
class HandClock:
    """A clock that stands still until a test moves it."""

    at: int = NEXT

    def now(self) -> int:
        return self.at

    async def sleep_until(self, instant: int) -> None:
        raise AssertionError("nobody moves this clock")


class VirtualClock:
    """Wall time that follows trio's clock, so that it jumps along with it."""

    def __init__(self, start: int = NEXT) -> None:
        self.start = start - int(trio.current_time() * 1_000_000)

    def now(self) -> int:
        return self.start + int(trio.current_time() * 1_000_000)

    async def sleep_until(self, instant: int) -> None:
        while (left := instant - self.now()) > 0:  # noqa: ASYNC110 - rounding may leave a microsecond
            await trio.sleep(left / 1_000_000 + 0.001)
