"""Web pages of received TLS reports: what others saw of our TLS, by domain, day and sender, and what to do about failures.

Every text in a report is that of a stranger; it is shown as text, and cut where it is long.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any, Final

from postward.model import MICROSECONDS, Window, day_of
from postward.names import Domain
from postward.web import (
    AFTER,
    DOMAIN,
    LIMIT,
    Ask,
    BadQuery,
    Block,
    Chart,
    Code,
    Column,
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
from postward_tlsrpt.advice import advice_for, reason_explained

if TYPE_CHECKING:
    from postward.core import Core
    from postward.model import WebRoute
    from postward_tlsrpt.received_tables import FailureLine, TimeLine

_DAY: Final = 86_400 * MICROSECONDS
_DAYS: Final = Param(name="days", kind=Kind.NUMBER, label="Days back", default=30, least=1, most=400)
_SENDERS: Final = 50


@dataclass(frozen=True, slots=True, kw_only=True)
class OfDomain:
    """A domain or host of ours: how many reports were about it, and their sessions."""

    domain: str
    is_host: bool
    reports: int
    successful: int
    failed: int


@dataclass(frozen=True, slots=True, kw_only=True)
class OfDay:
    """All sessions that were reported of a UTC day."""

    day: str
    successful: int
    failed: int


@dataclass(frozen=True, slots=True, kw_only=True)
class OfSender:
    """What an organization reported in all; `submitter` is the domain that vouches for it."""

    organization: str
    submitter: str
    reports: int
    successful: int
    failed: int


@dataclass(frozen=True, slots=True, kw_only=True)
class OfKind:
    """Failed sessions of one kind, as one organization counted them for a day."""

    day: str
    organization: str
    policy_type: str
    result_type: str
    reason: str
    mx_host: str
    sessions: int
    happened: str
    do: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Received:
    """What was reported of the last `days`: our domains, or one of them with its days, senders and a page of failures."""

    domain: str
    days: int
    domains: list[OfDomain]
    timeline: list[OfDay]
    senders: list[OfSender]
    failures: list[OfKind]


def routes(core: Core) -> Sequence[WebRoute]:
    """The page, of all domains or one."""
    show = partial(_show, core)
    return [view("/received", show, Received, title="Received TLS reports", params=(DOMAIN, _DAYS, AFTER, LIMIT))]


async def _show(core: Core, ask: Ask) -> Page:
    from postward_tlsrpt import received_tables

    domain, days = ask.text("domain"), ask.number("days")
    until = core.clock.now()
    since = until - days * _DAY
    if not domain:
        found = await core.store.read(partial(received_tables.domains, since=since, until=until))
        return _all(found, days, _offset(ask), ask.number("limit"))
    lines = await core.store.read(partial(received_tables.timeline, domain=domain, since=since, until=until))
    failures = await core.store.read(partial(received_tables.failures, domain=domain, since=since, until=until))
    start, limit = _offset(ask), ask.number("limit")
    newest = sorted(failures, key=lambda one: (one.day, one.n), reverse=True)
    data = Received(
        domain=domain,
        days=days,
        domains=[],
        timeline=_timeline(lines, since, until),
        senders=_senders(lines)[:_SENDERS],
        failures=[_kind(one) for one in newest[start : start + limit]],
    )
    following = str(start + limit) if len(newest) > start + limit else ""
    title = f"TLS reports about {Domain(domain).unicode}"
    return Page(title=title, data=data, blocks=_one(data, failures), next=following)


def _all(found: Sequence[Any], days: int, start: int, limit: int) -> Page:
    shown = found[start : start + limit]
    domains = [
        OfDomain(domain=one.domain, is_host=one.is_host, reports=one.reports, successful=one.successes, failed=one.failures)
        for one in shown
    ]
    table = Table(
        title="Our domains and hosts",
        columns=["Of", "Kind", _number("Reports"), _number("Sessions"), _number("Failed"), _number("Failed, %")],
        rows=[
            (
                link(one.domain, "/tlsrpt/received", domain=one.domain, days=days),
                "mail host" if one.is_host else "domain",
                one.reports,
                one.successful + one.failed,
                Mark(f"{one.failed:,}", Tone.BAD) if one.failed else 0,
                _share(one.successful, one.failed),
            )
            for one in domains
        ],
        empty="No report was received about this time. Whoever wants them publishes a TLSRPT record.",
    )
    data = Received(domain="", days=days, domains=domains, timeline=[], senders=[], failures=[])
    following = str(start + limit) if len(found) > start + limit else ""
    intro = f"What other servers reported of their deliveries to us in the last {days} days (RFC 8460)."
    return Page(title="Received TLS reports", intro=intro, data=data, blocks=[table], next=following)


def _one(data: Received, failures: Sequence[FailureLine]) -> list[Block]:
    kinds: dict[str, int] = {}
    for one in failures:
        kinds[one.result_type] = kinds.get(one.result_type, 0) + one.n
    notes: list[Block] = []
    for result_type, sessions in sorted(kinds.items(), key=lambda each: -each[1])[:10]:
        advice = advice_for(result_type)
        text = f"{result_type}, {sessions:,} sessions: {advice.happened}"
        notes.append(Note(text=text, tone=Tone.BAD, mend=advice.do))
    if not kinds and data.timeline:
        notes.append(Note(text="Nobody reported a failure.", tone=Tone.GOOD))
    chart = Chart(
        title="Sessions by day, as others counted them",
        series=["good", "failed"],
        tones=[Tone.GOOD, Tone.BAD],
        points=[(one.day, (one.successful, one.failed)) for one in data.timeline],
    )
    return [
        *notes,
        *([chart] if data.senders else []),
        Table(
            title="Who reported",
            columns=["Organization", "Vouched for by", _number("Reports"), _number("Sessions"), _number("Failed")],
            rows=[
                (
                    one.organization,
                    one.submitter,
                    one.reports,
                    one.successful + one.failed,
                    Mark(f"{one.failed:,}", Tone.BAD) if one.failed else 0,
                )
                for one in data.senders
            ],
            empty="No report was received about this domain in this time.",
        ),
        Table(
            title="Failures, the newest first",
            columns=["Day", "What", _number("Sessions"), "Mail host", "Reported by"],
            rows=[
                (
                    one.day,
                    [Mark(one.result_type, Tone.BAD), Code(one.reason) if one.reason else "", reason_explained(one.reason)],
                    one.sessions,
                    one.mx_host,
                    one.organization,
                )
                for one in data.failures
            ],
            empty="No failure was reported.",
        ),
    ]


def _timeline(lines: Sequence[TimeLine], since: int, until: int) -> list[OfDay]:
    """Every day from the first that was reported, also those of which nobody said anything."""
    sums: dict[str, list[int]] = {}
    for one in lines:
        good_bad = sums.setdefault(one.day, [0, 0])
        good_bad[0] += one.successes
        good_bad[1] += one.failures
    if not sums:
        return []
    day = Window.of_day(max(min(sums), day_of(since)))
    last = min(max(sums), day_of(until))
    found = []
    while day.day <= last:
        good, bad = sums.get(day.day, (0, 0))
        found.append(OfDay(day=day.day, successful=good, failed=bad))
        day = Window.of_day(day_of(day.end))
    return found


def _senders(lines: Sequence[TimeLine]) -> list[OfSender]:
    sums: dict[tuple[str, str], list[int]] = {}
    for one in lines:
        into = sums.setdefault((one.organization, one.submitter), [0, 0, 0])
        for at, number in enumerate((one.reports, one.successes, one.failures)):
            into[at] += number
    found = [
        OfSender(organization=organization, submitter=submitter, reports=reports, successful=good, failed=bad)
        for (organization, submitter), (reports, good, bad) in sums.items()
    ]
    return sorted(found, key=lambda one: (-one.failed, -one.successful, one.organization))


def _kind(line: FailureLine) -> OfKind:
    advice = advice_for(line.result_type)
    return OfKind(
        day=line.day,
        organization=line.organization,
        policy_type=line.policy_type,
        result_type=line.result_type,
        reason=line.reason,
        mx_host=line.mx_host,
        sessions=line.n,
        happened=advice.happened,
        do=advice.do,
    )


def _share(successful: int, failed: int) -> float | None:
    total = successful + failed
    return 100 * failed / total if total else None


def _offset(ask: Ask) -> int:
    after = ask.text("after")
    if after and not (after.isascii() and after.isdigit() and len(after) < 10):
        raise BadQuery(f"after is {after[:40]!r}, which is no place in this list; begin without it")
    return int(after or 0)


def _number(title: str) -> Column:
    return Column(title=title, number=True)
