"""`postward dmarc received`: who sends as our domains by what others report, and whether it is us."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Annotated, Any, Final

import typer

from postward.cli.output import emit_json_line, is_terminal, line, table
from postward.errors import ConfigError, InvalidName
from postward.model import MICROSECONDS
from postward.names import Domain
from postward_dmarc import shown_tables
from postward_dmarc.received_view import Counts, DomainLine, DomainView, SenderLine, SourceLine
from postward_dmarc.who import ACT, EXPLAINED, Who

if TYPE_CHECKING:
    from postward.core import Commands, Core

DAY: Final = 86_400 * MICROSECONDS
_BAR: Final = 24
_TAGS: Final = ("p", "sp", "np", "adkim", "aspf", "fo", "pct", "testing")


def register(commands: Commands) -> None:
    """Add the verb."""

    def received(
        domain: Annotated[str, typer.Argument(help="One of our domains; without, all of them.")] = "",
        days: Annotated[int, typer.Option(help="How far back to look.", min=1, max=36_500)] = 30,
        sources: Annotated[int, typer.Option(help="How many addresses to show.", min=1, max=1_000_000)] = shown_tables.SOURCES,
        json: Annotated[bool, typer.Option("--json", help="JSON Lines.")] = False,
    ) -> int:
        """Show the DMARC reports that were received. Exit code 1 when mail failed that is most likely our own."""
        name = _domain(domain)

        async def work(core: Core) -> int:
            until = core.clock.now()
            since = until - days * DAY
            if name is None:
                found = await core.store.read(lambda connection: shown_tables.domains(connection, since, until))
                show_domains(found, as_json=json, days=days)
                return 1 if any(each.act for each in found) else 0
            view = await core.store.read(
                lambda connection: shown_tables.domain_view(connection, name, since, until, sources=sources)
            )
            show_domain(view, as_json=json, days=days)
            return 1 if any(each.who in ACT for each in view.senders) else 0

        return commands.run(work)

    commands.add(received)


def _domain(text: str) -> Domain | None:
    try:
        return Domain(text) if text else None
    except InvalidName as exc:
        raise ConfigError(str(exc), key="DOMAIN") from None


def show_domains(found: Sequence[DomainLine], *, as_json: bool, days: int) -> None:
    """All our domains."""
    if as_json:
        for each in found:
            emit_json_line(_flat(each))
        return
    if not found:
        line(f"no DMARC reports about us in {days} days")
        return
    most = max(each.counts.messages for each in found)
    columns, rows = _with_bars(
        ("domain", "reports", "reporters", "messages", "passed", "failed", "passed %", "ours, failed", "failure reports"),
        [
            (
                each.domain,
                each.reports,
                each.reporters,
                each.counts.messages,
                each.counts.passed,
                each.counts.failed,
                _rate(each.counts),
                each.act,
                each.failure_reports,
            )
            for each in found
        ],
        [each.counts for each in found],
        most,
    )
    table(columns, rows)


def show_domain(view: DomainView, *, as_json: bool, days: int) -> None:
    """One domain: by day, who sends, from where, who reports."""
    if as_json:
        for value in _lines(view):
            emit_json_line({**value, "domain": view.domain})
        return
    if not (view.days or view.failures):
        line(f"no DMARC reports about {view.domain} in {days} days")
        return
    policy = "; ".join(f"{tag}={view.policy[tag]}" for tag in _TAGS if tag in view.policy)
    counts = view.counts
    line(f"{view.domain}: {counts.messages:,} messages, {_rate(counts)} % passed DMARC, {counts.failed:,} failed", style="bold")
    line(f"published policy, as last reported: {policy or 'none'}")
    if view.days:
        _show_days(view)
        _show_senders(view)
        _show_sources(view.sources, view.all_sources)
        _show_reporters(view)
    if view.failures:
        _show_failures(view)


def _show_days(view: DomainView) -> None:
    line()
    columns, rows = _with_bars(
        ("day", "reports", "messages", "passed", "failed", "passed %", "DKIM", "SPF", "quarantined", "rejected"),
        [(each.day, each.reports, *_numbers(each.counts)) for each in view.days],
        [each.counts for each in view.days],
        max(each.counts.messages for each in view.days),
    )
    table(columns, rows)


def _show_senders(view: DomainView) -> None:
    line()
    line(f"Who sends as {view.domain}, and is it me?", style="bold")
    columns, rows = _with_bars(
        ("is it me", "kind", "stands behind it", "addresses", "messages", "DKIM", "SPF", "quarantined", "rejected", "last"),
        [_sender(each) for each in view.senders],
        [each.counts for each in view.senders],
        max((each.counts.messages for each in view.senders), default=0),
    )
    table(columns, rows)
    for kind in [kind for kind in Who if kind is not Who.OURS and any(each.who is kind for each in view.senders)]:
        explained = EXPLAINED[kind]
        line(f"{kind}: {explained.means}")
        line(f"  {explained.do}")


def _sender(each: SenderLine) -> tuple[object, ...]:
    counts = each.counts
    numbers = (each.sources, counts.messages, counts.dkim, counts.spf, counts.quarantined, counts.rejected)
    return EXPLAINED[each.who].is_me, each.who, each.stands or "-", *numbers, each.last


def _show_sources(sources: Sequence[SourceLine], every: int) -> None:
    if not sources:
        return
    line()
    table(
        ("address", "is it me", "stands behind it", "author domain", "messages", "passed", "quarantined", "rejected", "last"),
        [
            (
                each.source_ip or "-",
                EXPLAINED[each.who].is_me,
                each.stands or "-",
                each.header_from or "-",
                each.counts.messages,
                each.counts.passed,
                each.counts.quarantined,
                each.counts.rejected,
                each.last,
            )
            for each in sources
        ],
    )
    if every > len({each.source_ip for each in sources}):
        line(f"of {every:,} addresses; --sources shows more")


def _show_reporters(view: DomainView) -> None:
    line()
    table(
        ("reporter", "reports", "messages", "passed", "failed", "passed %", "DKIM", "SPF", "quarantined", "rejected", "last"),
        [(each.org or "-", each.reports, *_numbers(each.counts), each.last) for each in view.reporters],
    )
    if view.reasons:
        line()
        table(("why not the published policy", "messages"), [(each.reasons, each.messages) for each in view.reasons])


def _show_failures(view: DomainView) -> None:
    line()
    table(
        ("failed at", "reporter", "address", "what failed", "then", "envelope", "from", "subject"),
        [
            (
                datetime.fromtimestamp(each.at // MICROSECONDS, UTC).isoformat(sep=" ").removesuffix("+00:00"),
                each.reporter or "-",
                each.source_ip or "-",
                ", ".join(each.auth_failure) or "-",
                each.delivery_result or "-",
                each.mail_from or "-",
                each.header_from or "-",
                each.subject or "-",
            )
            for each in view.failures
        ],
    )


def _numbers(counts: Counts) -> tuple[object, ...]:
    rate = _rate(counts)
    return counts.messages, counts.passed, counts.failed, rate, counts.dkim, counts.spf, counts.quarantined, counts.rejected


def _rate(counts: Counts) -> str:
    return f"{100 * counts.passed / counts.messages:.1f}" if counts.messages else "-"


def _with_bars(
    columns: Sequence[str], rows: Sequence[tuple[object, ...]], counts: Sequence[Counts], most: int
) -> tuple[Sequence[str], Sequence[tuple[object, ...]]]:
    """With a bar for each row, on a terminal: what passed is full, what failed is light."""
    if not is_terminal():
        return columns, rows
    return (*columns, ""), [(*row, bar(each, most)) for row, each in zip(rows, counts, strict=True)]


def bar(counts: Counts, most: int) -> str:
    """A bar whose length is to that of `most` as the messages are; nothing that is there is too small to be seen."""
    if not counts.messages or not most:
        return ""
    failed = -(-_BAR * counts.failed // most)
    return "█" * max(-(-_BAR * counts.messages // most) - failed, 1 if counts.passed else 0) + "░" * failed


def _lines(view: DomainView) -> list[dict[str, Any]]:
    """What `--json` prints."""
    found: list[dict[str, Any]] = [{"kind": "total", "policy": view.policy, "addresses": view.all_sources, **_of(view.counts)}]
    found += [{"kind": "day", **_flat(each)} for each in view.days]
    found += [{"kind": "sender", **_flat(each), "is_me": EXPLAINED[each.who].is_me} for each in view.senders]
    found += [{"kind": "source", **_flat(each), "is_me": EXPLAINED[each.who].is_me} for each in view.sources]
    found += [{"kind": "reporter", **_flat(each)} for each in view.reporters]
    found += [{"kind": "reason", **asdict(each)} for each in view.reasons]
    found += [{"kind": "failure", **asdict(each), "at": each.at // MICROSECONDS} for each in view.failures]
    return found


def _flat(value: Any) -> dict[str, Any]:
    fields = asdict(value)
    del fields["counts"]
    return {**fields, **_of(value.counts)}


def _of(counts: Counts) -> dict[str, int]:
    return {**asdict(counts), "failed": counts.failed}
