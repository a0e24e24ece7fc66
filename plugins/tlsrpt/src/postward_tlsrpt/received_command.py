"""`postward tlsrpt received`: what other mail servers report of ours, day by day, and what to do about it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Final

import typer

from postward.cli.output import emit_json_line, say, table
from postward.errors import InvalidName
from postward.model import MICROSECONDS
from postward.names import Domain
from postward_tlsrpt import received

if TYPE_CHECKING:
    from collections.abc import Sequence

    from postward.core import Commands, Core
    from postward_tlsrpt.received import About, Counted

_COLUMNS: Final = ("day", "organization", "policy", "good", "failed", "failures")
_DAY: Final = 24 * 3600 * MICROSECONDS


def register(commands: Commands) -> None:
    """Add the verb."""

    def show(
        domain: Annotated[str, typer.Argument(help="One of your domains or MX hosts; all without.", metavar="[DOMAIN]")] = "",
        days: Annotated[int, typer.Option("--days", min=1, max=36_500, help="How many days to look back.")] = 30,
        json: Annotated[bool, typer.Option("--json", help="One JSON object per domain and host.")] = False,
    ) -> int:
        """Show what TLS reports say of your domains and hosts. Exit code 1 when there were failures."""
        name = _domain(domain)

        async def work(core: Core) -> int:
            now = core.clock.now()
            # A day beyond now: a sender's clock, or a date without its zone, may be ahead.
            found = await core.store.read(lambda connection: received.look(connection, now - days * _DAY, now + _DAY, name))
            for about in found:
                if json:
                    emit_json_line(received.to_json(about))
                else:
                    _show(about)
            if not found and not json:
                say(f"No TLS reports about {name or 'any domain or host'} in the last {days} days.")
            return 1 if any(about.total.failures for about in found) else 0

        return commands.run(work)

    commands.add(show, name="received")


def _domain(text: str) -> str:
    try:
        return str(Domain(text)) if text else ""
    except InvalidName as exc:
        raise typer.BadParameter(str(exc), param_hint="DOMAIN") from exc


def _show(about: About) -> None:
    total = about.total
    kind = "host" if total.is_host else "domain"
    say(f"{kind} {total.domain}: {total.reports:,} reports; sessions: {total.successes:,} good, {total.failures:,} failed")
    table(_COLUMNS, [_row(each) for each in about.timeline])
    _explain(received.explained(about.timeline))
    say("")


def _row(counted: Counted) -> tuple[object, ...]:
    sessions = counted.sessions
    kinds: dict[str, int] = {}
    for line in counted.failures:
        kinds[line.result_type] = kinds.get(line.result_type, 0) + line.n
    failures = ", ".join(f"{count} {kind}" for kind, count in kinds.items()) or "-"
    who = sessions.organization or sessions.submitter or "-"
    return sessions.day, who, sessions.policy_type, sessions.successes, sessions.failures, failures


def _explain(found: Sequence[received.Explained]) -> None:
    for each in found:
        say("")
        say(f"{each.result_type}: {each.sessions:,} sessions, seen by {_several(each.organizations)}")
        say(f"  {each.happened}")
        for reason, count, meaning in each.reasons:
            say(f"  reason {reason!r}, {count:,} sessions{': ' + meaning if meaning else ''}")
        say(f"  What to do: {each.do}")


def _several(names: Sequence[str], most: int = 5) -> str:
    shown = ", ".join(name or "somebody" for name in names[:most])
    return f"{shown} and {len(names) - most} more" if len(names) > most else shown
