"""`postward tlsrpt received`: what others saw of our TLS, by day and sender, and what to do about each kind of failure."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from typing import TYPE_CHECKING, Annotated, Any, Final

import typer

from postward.cli.output import emit_json_line, line, table
from postward.errors import ConfigError, InvalidName
from postward.model import MICROSECONDS
from postward.names import Domain
from postward_tlsrpt import received_tables
from postward_tlsrpt.advice import advice_for, reason_explained
from postward_tlsrpt.received_tables import DomainLine, FailureLine, TimeLine

if TYPE_CHECKING:
    from postward.core import Commands, Core

DAY: Final = 86_400 * MICROSECONDS


def register(commands: Commands) -> None:
    """Add the verb."""

    def received(
        domain: Annotated[str, typer.Argument(help="One of our domains or MX hosts; without, all of them.")] = "",
        days: Annotated[int, typer.Option(help="How far back to look.", min=1, max=36_500)] = 30,
        json: Annotated[bool, typer.Option("--json", help="JSON Lines.")] = False,
    ) -> int:
        """Show the TLS reports that were received. Exit code 1 when they tell of failures."""
        name = _domain(domain)

        async def work(core: Core) -> int:
            until = core.clock.now()
            since = until - days * DAY
            if name is None:
                found = await core.store.read(lambda connection: received_tables.domains(connection, since, until))
                _show_domains(found, as_json=json, days=days)
                return 1 if any(each.failures for each in found) else 0
            lines = await core.store.read(lambda connection: received_tables.timeline(connection, name, since, until))
            failures = await core.store.read(lambda connection: received_tables.failures(connection, name, since, until))
            _show_domain(name, lines, failures, as_json=json)
            return 1 if any(each.failures for each in lines) else 0

        return commands.run(work)

    commands.add(received)


def _domain(text: str) -> Domain | None:
    try:
        return Domain(text) if text else None
    except InvalidName as exc:
        raise ConfigError(str(exc), key="DOMAIN") from None


def _show_domains(found: Sequence[DomainLine], *, as_json: bool, days: int) -> None:
    if as_json:
        for each in found:
            emit_json_line(asdict(each))
        return
    if not found:
        line(f"no TLS reports about us in {days} days")
        return
    rows = [
        (each.domain, "MX host" if each.is_host else "domain", each.reports, each.successes, each.failures, _rate(each))
        for each in found
    ]
    table(("about", "", "reports", "good sessions", "failed", "failed %"), rows)


def _show_domain(name: Domain, lines: Sequence[TimeLine], failures: Sequence[FailureLine], *, as_json: bool) -> None:
    if as_json:
        for each in lines:
            emit_json_line({"kind": "day", "domain": name, **asdict(each)})
        for failure in failures:
            emit_json_line({"kind": "failure", "domain": name, **asdict(failure), **_advice(failure)})
        return
    if not lines:
        line(f"no TLS reports about {name}")
        return
    rows = [
        (each.day, each.organization or each.submitter, each.policy_type, each.successes, each.failures, _rate(each))
        for each in lines
    ]
    table(("day", "sender", "policy", "good sessions", "failed", "failed %"), rows)
    if not failures:
        return
    line()
    table(
        ("day", "sender", "policy", "sessions", "failure", "at", "reason"),
        [
            (
                each.day,
                each.organization or each.submitter,
                each.policy_type,
                each.n,
                each.result_type,
                each.mx_host or "-",
                each.reason or "-",
            )
            for each in failures
        ],
    )
    for kind in dict.fromkeys(failure.result_type for failure in failures):
        advice = advice_for(kind)
        line()
        line(kind, style="bold")
        line(f"  {advice.happened}")
        for reason in dict.fromkeys(failure.reason for failure in failures if failure.result_type == kind):
            if text := reason_explained(reason):
                line(f"  {reason}: {text}")
        line(f"  {advice.do}")


def _rate(counted: DomainLine | TimeLine) -> str:
    total = counted.successes + counted.failures
    return f"{100 * counted.failures / total:.1f}" if total else "-"


def _advice(failure: FailureLine) -> dict[str, Any]:
    advice = advice_for(failure.result_type)
    return {"happened": advice.happened, "do": advice.do, "reason_explained": reason_explained(failure.reason)}
