"""`postward tlsrpt suppress …`: who gets no reports, by address and by domain."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Final

import typer

from postward.cli.output import emit_json_line, line, table
from postward.model import MICROSECONDS, day_of
from postward.reports import FOR_EVER

if TYPE_CHECKING:
    from postward.core import Commands, Core
    from postward.reports import Suppression

DAY: Final = 24 * 3600 * MICROSECONDS

JsonOption = Annotated[bool, typer.Option("--json", help="Print JSON instead.")]
Subject = Annotated[str, typer.Argument(metavar="ADDRESS|DOMAIN", help="An address, a domain or a host.", show_default=False)]


def register(commands: Commands) -> None:
    """Add the verbs."""
    verbs = _Verbs(commands)
    commands.add(verbs.show, "suppress list")
    commands.add(verbs.add, "suppress add")
    commands.add(verbs.remove, "suppress remove")


class _Verbs:
    def __init__(self, commands: Commands) -> None:
        self._commands = commands

    def show(self, json: JsonOption = False) -> int:
        """List who gets no reports, entered here or by a permanent bounce.

        With --json one object each: subject, until (seconds since 1970, null without an end), reason.
        """

        async def work(core: Core) -> int:
            now = core.clock.now()
            found = [one for one in await core.suppressions.list() if one.until > now]
            for one in found if json else ():
                until = None if one.until >= FOR_EVER else one.until // MICROSECONDS
                emit_json_line({"subject": one.subject, "until": until, "reason": one.reason})
            if found and not json:
                table(("SUBJECT", "UNTIL", "REASON"), [_cells(one) for one in found])
            elif not json:
                line("Nobody is suppressed.", error=True)
            return 0

        return self._commands.run(work)

    def add(
        self,
        subject: Subject,
        days: Annotated[int, typer.Option(min=0, max=36_500, metavar="N", help="For so long; 0 is for good.")] = 0,
        reason: Annotated[str, typer.Option(metavar="TEXT", help="Why, for whoever reads the list.")] = "by hand",
    ) -> int:
        """Send no reports to an address, or to anybody at a domain or host. What waits there already is not sent either."""

        async def work(core: Core) -> int:
            until = core.clock.now() + days * DAY if days else FOR_EVER
            name = await core.suppressions.add(subject, until=until, reason=reason[:500])
            line(f"{name} gets no reports {f'before {day_of(until)}' if days else 'any more'}.")
            return 0

        return self._commands.run(work)

    def remove(self, subject: Subject) -> int:
        """Send reports there again, from the next one on. Exits 1 when nothing was suppressed."""

        async def work(core: Core) -> int:
            if await core.suppressions.remove(subject):
                line(f"{subject} gets reports again.")
                return 0
            line(f"{subject} was not suppressed.", error=True)
            return 1

        return self._commands.run(work)


def _cells(one: Suppression) -> tuple[str, str, str]:
    return one.subject, "for good" if one.until >= FOR_EVER else day_of(one.until), one.reason
