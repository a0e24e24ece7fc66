"""`postward tlsrpt results`: what is counted and not yet reported."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Annotated, Any, Final

import typer

from postward.cli.output import emit_json_line, line, table
from postward.errors import PostwardError
from postward.model import Window
from postward.names import Domain
from postward_tlsrpt import counters

if TYPE_CHECKING:
    from postward.core import Commands, Core
    from postward_tlsrpt.counters import Row

PAGE: Final = 100
HAND_OVER_WITHIN: Final = 2.0

JsonOption = Annotated[bool, typer.Option("--json", help="Print JSON instead.")]


def register(commands: Commands) -> None:
    """Add the verb."""

    def results(
        domain: Annotated[str, typer.Option(metavar="D", help="Of a recipient domain.", show_default=False)] = "",
        day: Annotated[str, typer.Option(metavar="D", help="Of a UTC day, YYYY-MM-DD.", show_default=False)] = "",
        limit: Annotated[int, typer.Option(min=1, metavar="N", help="How many policies.")] = PAGE,
        after: Annotated[str, typer.Option(metavar="CURSOR", help="Go on behind a page.", show_default=False)] = "",
        json: JsonOption = False,
    ) -> int:
        """Show what is counted and not yet reported, by UTC day, recipient domain and policy.

        With --json one object per policy: day, domain, policy (as in a report), successful, failed, failure_details. Exits 1
        when there are conditions and nothing meets them.
        """
        wanted = str(Domain(domain)) if domain else ""
        _check_day(day)

        async def work(core: Core) -> int:
            load = partial(counters.load_page, domain=wanted, day=day, after=_cursor(after), limit=limit + 1)
            rows = await core.store.read(load)
            show_results(rows[:limit], as_json=json)
            if len(rows) > limit:
                last = rows[limit - 1]
                line(f"More with: --after {last.day}/{last.domain}/{last.taken.policy_id}", error=True)
            return int(bool(wanted or day) and not rows)

        return commands.run(work)

    commands.add(results)


def show_results(rows: list[Row], *, as_json: bool) -> None:
    """Print counters: one object each, or a table."""
    if as_json:
        for row in rows:
            emit_json_line(to_json(row))
    elif rows:
        columns = ("DAY", "DOMAIN", "POLICY", "OF", "SUCCESSFUL", "FAILED", "FAILURES")
        table(columns, [_cells(row) for row in rows])
    else:
        line("Nothing is counted that was not reported.", error=True)


def to_json(row: Row) -> dict[str, Any]:
    """A row of counters as an object; what stands in reports has its form of there (RFC 8460 §4.4)."""
    import msgspec

    (result,) = counters.policies([row.taken])
    built: dict[str, Any] = msgspec.to_builtins(result)
    return {
        "day": row.day,
        "domain": row.domain,
        "policy": built["policy"],
        "successful": row.taken.successes,
        "failed": row.taken.failures,
        "failure_details": built["failure-details"],
    }


def _cells(row: Row) -> tuple[object, ...]:
    (result,) = counters.policies([row.taken])
    kinds: dict[str, int] = {}
    for detail in result.failure_details:
        words = " ".join(word for word in (detail.result_type, detail.failure_reason_code) if word)
        kinds[words] = kinds.get(words, 0) + detail.failed_session_count
    failures = ", ".join(f"{number} {words}" for words, number in kinds.items())
    numbers = f"{row.taken.successes:,}", f"{row.taken.failures:,}"
    of = Domain(row.taken.policy_domain).unicode
    return row.day, Domain(row.domain).unicode, result.policy.policy_type, of, *numbers, failures or "-"


def _check_day(day: str) -> None:
    if day:
        try:
            Window.of_day(day)
        except ValueError:
            raise PostwardError(f"not a day: {day[:40]!r}; write it as 2026-11-24") from None


def _cursor(text: str) -> tuple[str, str, str]:
    parts = text.split("/") if text else ["", "", ""]
    if len(parts) != 3:
        raise PostwardError(f"not a cursor: {text[:80]!r}")
    return parts[0], parts[1], parts[2]
