"""The plugin: counts results, and writes a mail about each week."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import TYPE_CHECKING, Annotated, Any, Final

from pydantic import BaseModel, Field

from postward import Address, Core, Report, ReportJob, ReportTarget, ResultBatch, WebRoute, Window, hookimpl
from postward_weekly_digest import counts

if TYPE_CHECKING:
    from sqlalchemy import Connection

    from postward import Commands, Schema

NAME: Final = "weekly-digest"
_SUBJECT: Final = "all"


class WeeklyDigest:
    """Counts by domain and week."""

    class Config(BaseModel, extra="forbid", frozen=True):
        """`[plugin.weekly_digest]`."""

        to: Address
        most: Annotated[int, Field(ge=1)] = 50

    def __init__(self, config: Config, core: Core) -> None:
        self._config, self._core = config, core

    @hookimpl
    def register_schema(self) -> Schema:
        """The table. Imported here, because who only asks for help should not wait for a database."""
        from postward_weekly_digest.tables import SCHEMA

        return SCHEMA

    @hookimpl
    async def emit(self, batch: ResultBatch) -> None:
        """Count a batch, once: the numbers and our place in the journal are one transaction."""
        from postward_weekly_digest import tables

        await self._core.store.consume(batch, partial(tables.add, sums=counts.add_up(batch.entries)))

    @hookimpl
    def report_jobs(self) -> Sequence[ReportJob]:
        """One mail a week, some hours after it has ended."""
        return [
            ReportJob(
                name=NAME,
                period=7 * 86_400,
                jitter=3600,
                windows=self._windows,
                subjects=self._subjects,
                targets=self._targets,
                build=self._build,
            )
        ]

    async def _windows(self) -> Sequence[Window]:
        from postward_weekly_digest import tables

        return [Window(start=start, end=start + counts.WEEK) for start in await self._core.store.read(tables.weeks)]

    async def _subjects(self, window: Window) -> Sequence[str]:
        return [_SUBJECT]

    async def _targets(self, window: Window, subject: str) -> Sequence[ReportTarget]:
        # Without somebody who may sign it there is no mail, and nobody to send it to.
        return [ReportTarget(uri=f"mailto:{self._config.to}")] if self._core.submitter else []

    def _build(self, connection: Connection, window: Window, subject: str, targets: Sequence[ReportTarget]) -> Sequence[Report]:
        from postward_weekly_digest import tables

        rows = tables.take(connection, window.start)
        submitter = self._core.submitter
        if not targets or submitter is None:
            return []
        text = counts.text(window, rows, self._config.most)
        return [
            Report(
                kind="x-weekly-digest",
                report_id=f"{NAME}.{window.day}.{self._core.node}",
                policy_domain=self._config.to.domain,
                window=window,
                submitter=submitter,
                subject=f"Mail transport security, week of {counts.days(window)}",
                filename=f"{NAME}-{window.day}.txt",
                media_type="text/plain",
                content=text.encode(),
                explanation=text,
            )
        ]

    @hookimpl
    def register_routes(self) -> Sequence[WebRoute]:
        """`/weekly_digest/`: the week that is being counted."""
        return [WebRoute(path="/", handler=self.page, title="This week")]

    async def page(self, request: Any) -> Any:
        """The page, as text."""
        from starlette.responses import PlainTextResponse

        return PlainTextResponse(await self._so_far(self._core))

    @hookimpl
    def register_commands(self, commands: Commands) -> None:
        """`postward weekly_digest show`."""
        import typer

        def show() -> int:
            """Print the week that is being counted."""

            async def work(core: Core) -> int:
                typer.echo(await self._so_far(core), nl=False)
                return 0

            return commands.run(work)

        commands.add(show)

    async def _so_far(self, core: Core) -> str:
        from postward_weekly_digest import tables

        window = counts.week_of(core.clock.now())
        return counts.text(window, await core.store.read(partial(tables.load, week=window.start)), self._config.most)
