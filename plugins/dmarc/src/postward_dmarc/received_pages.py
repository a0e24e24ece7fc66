"""Web pages of received DMARC reports: who sends as our domains, from where, and is it ourselves; day by day.

Texts in reports are those of strangers; they are shown as text, and cut where they are long.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import TYPE_CHECKING, Final

from postward.model import MICROSECONDS
from postward.names import Domain
from postward.web import (
    AFTER,
    DOMAIN,
    LIMIT,
    Ask,
    BadQuery,
    Block,
    Cell,
    Chart,
    Code,
    Column,
    Facts,
    Instant,
    Kind,
    Mark,
    Note,
    Page,
    Param,
    Table,
    Tone,
    link,
    view,
)
from postward_dmarc.received_view import Counts, DomainLine, DomainView
from postward_dmarc.who import ACT, EXPLAINED, Who

if TYPE_CHECKING:
    from postward.core import Core
    from postward.model import WebRoute

_DAY: Final = 86_400 * MICROSECONDS
_DAYS: Final = Param(name="days", kind=Kind.NUMBER, label="Days back", default=30, least=1, most=400)
_MOST: Final = 50
_TONES: Final = {Who.OURS: Tone.GOOD, Who.MISALIGNED: Tone.BAD, Who.BROKEN: Tone.BAD}


@dataclass(frozen=True, slots=True, kw_only=True)
class Received:
    """What was reported of the last `days`: all our domains, or `view` of one of them."""

    days: int
    domains: list[DomainLine]
    view: DomainView | None


def routes(core: Core) -> Sequence[WebRoute]:
    """The page, of all domains or one."""
    show = partial(_show, core)
    return [view("/received", show, Received, title="Received DMARC reports", params=(DOMAIN, _DAYS, AFTER, LIMIT))]


async def _show(core: Core, ask: Ask) -> Page:
    from postward_dmarc import shown_tables

    domain, days, start, limit = ask.text("domain"), ask.number("days"), _offset(ask), ask.number("limit")
    until = core.clock.now()
    since = until - days * _DAY
    if not domain:
        found = await core.store.read(partial(shown_tables.domains, since=since, until=until))
        following = str(start + limit) if len(found) > start + limit else ""
        intro = f"What receivers reported of mail that claims to be from our domains, in the last {days} days (RFC 9990)."
        data = Received(days=days, domains=list(found[start : start + limit]), view=None)
        return Page(title="Received DMARC reports", intro=intro, data=data, blocks=[_domains(data)], next=following)
    load = partial(shown_tables.domain_view, domain=domain, since=since, until=until, sources=start + limit + 1)
    seen = await core.store.read(load)
    following = str(start + limit) if len(seen.sources) > start + limit else ""
    seen = replace(
        seen,
        sources=seen.sources[start : start + limit],
        senders=seen.senders[:_MOST],
        reporters=seen.reporters[:_MOST],
        reasons=seen.reasons[:_MOST],
    )
    title = f"DMARC reports about {Domain(domain).unicode}"
    return Page(title=title, data=Received(days=days, domains=[], view=seen), blocks=_one(seen), next=following)


def _domains(data: Received) -> Table:
    return Table(
        title="Our domains",
        columns=[
            "Domain",
            _number("Reports"),
            _number("Reporters"),
            _number("Messages"),
            _number("Passed, %"),
            _number("Own mail that fails"),
            _number("Failure reports"),
        ],
        rows=[
            (
                link(Domain(one.domain).unicode, "/dmarc/received", domain=one.domain, days=data.days),
                one.reports,
                one.reporters,
                one.counts.messages,
                _share(one.counts),
                Mark(f"{one.act:,}", Tone.BAD) if one.act else 0,
                one.failure_reports or None,
            )
            for one in data.domains
        ],
        empty="No report was received about this time. Whoever wants them publishes a DMARC record with rua.",
    )


def _one(seen: DomainView) -> list[Block]:
    counts = seen.counts
    policy = "; ".join(f"{tag}={value}" for tag, value in seen.policy.items())
    kinds = {one.who for one in seen.senders}
    blocks: list[Block] = [
        Note(text=f"{EXPLAINED[kind].means}", tone=Tone.BAD, mend=EXPLAINED[kind].do) for kind in Who if kind in kinds & ACT
    ]
    blocks.append(
        Facts(
            rows=[
                ("Messages", counts.messages),
                ("Passed DMARC", f"{counts.passed:,}"),
                ("Failed", Mark(f"{counts.failed:,}", Tone.WARNING) if counts.failed else 0),
                ("Quarantined, rejected", f"{counts.quarantined:,}, {counts.rejected:,}"),
                ("Policy, as last reported", Code(policy) if policy else None),
            ]
        )
    )
    if len(seen.days) > 1:
        blocks.append(
            Chart(
                title="Messages by day",
                series=["passed", "failed"],
                tones=[Tone.GOOD, Tone.BAD],
                points=[(one.day, (one.counts.passed, one.counts.failed)) for one in seen.days],
            )
        )
    blocks += [_senders(seen), _sources(seen), _reporters(seen)]
    if seen.reasons:
        rows = [(one.reasons, one.messages) for one in seen.reasons]
        blocks.append(Table(title="Why not the published policy", columns=["Reason", _number("Messages")], rows=rows))
    if seen.failures:
        blocks.append(_failures(seen))
    return blocks


def _senders(seen: DomainView) -> Table:
    return Table(
        title=f"Who sends as {Domain(seen.domain).unicode}, and is it me?",
        columns=["Is it me", "Who stands behind it", _number("Addresses"), *_numbers(), "Last", "What it means"],
        rows=[
            (
                Mark(EXPLAINED[one.who].is_me, _TONES.get(one.who, Tone.PLAIN)),
                one.stands,
                one.sources,
                *_cells(one.counts),
                one.last,
                EXPLAINED[one.who].means,
            )
            for one in seen.senders
        ],
        empty="No aggregate report was received about this domain in this time.",
    )


def _sources(seen: DomainView) -> Table:
    return Table(
        title=f"Addresses ({seen.all_sources:,})",
        columns=["Address", "Is it me", "Who stands behind it", "Author domain", *_numbers(), "Last"],
        rows=[
            (
                one.source_ip,
                Mark(EXPLAINED[one.who].is_me, _TONES.get(one.who, Tone.PLAIN)),
                one.stands,
                one.header_from,
                *_cells(one.counts),
                one.last,
            )
            for one in seen.sources
        ],
        empty="There are none.",
    )


def _reporters(seen: DomainView) -> Table:
    return Table(
        title="Who reported",
        columns=["Organization", _number("Reports"), *_numbers(), "Last"],
        rows=[(one.org, one.reports, *_cells(one.counts), one.last) for one in seen.reporters],
        empty="Nobody did.",
    )


def _failures(seen: DomainView) -> Table:
    return Table(
        title="Single messages that failed",
        columns=["When", "Reporter", "Address", "What failed", "Then", "Envelope", "From", "Subject"],
        rows=[
            (
                Instant(one.at),
                one.reporter,
                one.source_ip,
                ", ".join(one.auth_failure),
                one.delivery_result,
                one.mail_from,
                one.header_from,
                one.subject,
            )
            for one in seen.failures
        ],
    )


def _numbers() -> list[Column]:
    return [_number("Messages"), _number("Passed, %"), _number("DKIM"), _number("SPF")]


def _cells(counts: Counts) -> list[Cell]:
    return [counts.messages, _share(counts), counts.dkim, counts.spf]


def _share(counts: Counts) -> float | None:
    return 100 * counts.passed / counts.messages if counts.messages else None


def _offset(ask: Ask) -> int:
    after = ask.text("after")
    if after and not (after.isascii() and after.isdigit() and len(after) < 6):
        raise BadQuery(f"after is {after[:40]!r}, which is no place in this list; begin without it")
    return int(after or 0)


def _number(title: str) -> Column:
    return Column(title=title, number=True)
