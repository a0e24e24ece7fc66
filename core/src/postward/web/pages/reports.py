"""Outgoing reports: what is in the outbox, how each address of one does, what would be said now, and who gets nothing."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Final

from postward.cli.measures import octets, seconds
from postward.errors import InvalidName
from postward.model import WebRoute, Window, day_of
from postward.names import Domain
from postward.queue.poke import NAME, poke
from postward.reports.post import cid_of
from postward.reports.preview import preview
from postward.reports.rows import CLAIMABLE, State
from postward.reports.suppressions import FOR_EVER, Suppressions, normal
from postward.reports.survey import Listed, TargetState, Wanted, find, listed, text_of
from postward.reports.survey import Page as Found
from postward.reports.targets import suppression_keys
from postward.web.page import (
    Action,
    Ask,
    Block,
    Button,
    Cell,
    Code,
    Column,
    Done,
    Facts,
    Instant,
    Mark,
    Note,
    NotHere,
    Page,
    Pre,
    Table,
    Tone,
    link,
    view,
)
from postward.web.params import AFTER, DAY, DOMAIN, LIMIT, BadQuery, Kind, Param, choice, text

if TYPE_CHECKING:
    from postward.app import App
    from postward.model import Report

_MONTH: Final = 30 * 24 * 3600 * 1_000_000
_STATES: Final = tuple(state.value for state in State)
_TONES: Final = {State.DELIVERED: Tone.GOOD, State.FAILED: Tone.BAD, State.SUPPRESSED: Tone.WARNING}
_ID: Final = Param(name="report", longest=64)
_POSITION: Final = Param(name="position", kind=Kind.NUMBER, most=10_000)
_SUBJECT: Final = text("subject", "Address, domain or host")


@dataclass(frozen=True, slots=True, kw_only=True)
class Target:
    """An address of a report; `next_try` in seconds since 1970, null where nothing more happens or the queue decides."""

    uri: str
    state: str
    attempts: int
    next_try: int | None
    detail: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Outgoing:
    """A report in the outbox; `created` in seconds since 1970."""

    id: str
    kind: str
    report_id: str
    domain: str
    submitter: str
    day: str
    created: int | None
    size: int
    cid: str
    targets: list[Target]


@dataclass(frozen=True, slots=True, kw_only=True)
class Outbox:
    """A page of reports, the newest first."""

    reports: list[Outgoing]


@dataclass(frozen=True, slots=True, kw_only=True)
class Shown:
    """A report with its content as text."""

    report: Outgoing
    content: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Would:
    """A report that would be made now; `trouble` says why its addresses are not known."""

    job: str
    day: str
    domain: str
    targets: list[str]
    trouble: str
    content: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Previews:
    """What would be reported about a domain now."""

    domain: str
    reports: list[Would]


@dataclass(frozen=True, slots=True, kw_only=True)
class Silenced:
    """Who gets nothing before `until`, seconds since 1970, and why."""

    subject: str
    until: int | None
    reason: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Silence:
    """The list of those who get no reports."""

    suppressions: list[Silenced]


def routes(app: App) -> Sequence[WebRoute]:
    """The list, one report, a preview, the suppressions, and what there is to do."""
    params = (DAY, DOMAIN, choice("state", "With an address that is", *_STATES), AFTER, LIMIT)
    pages = (AFTER, LIMIT)
    return [
        view("/reports", partial(show_list, app), Outbox, title="Outgoing reports", params=params),
        view("/reports/preview", partial(show_preview, app), Previews, title="Report preview", params=[DOMAIN]),
        view("/reports/suppressed", partial(show_suppressed, app), Silence, title="Suppressed addresses", params=pages),
        view("/reports/{report}", partial(show_one, app), Shown, params=[_ID], summary="A report with its content"),
        *(
            WebRoute(path=path, handler=Action(do=partial(do, app), fields=fields), methods=("POST",))
            for path, do, fields in (
                ("/reports/retry", _retry, (_ID, _POSITION)),
                ("/reports/suppress", _suppress, (_SUBJECT, _ID)),
                ("/reports/lift", _lift, (_SUBJECT,)),
            )
        ),
    ]


async def show_list(app: App, ask: Ask) -> Page:
    """A page of the outbox."""
    day = ask.text("day")
    wanted = Wanted(start=Window.of_day(day).start if day else None, domain=ask.text("domain"), state=ask.text("state"))
    after = ask.text("after")
    created, _, key = after.partition("-")
    if after and not (created.isascii() and created.isdigit() and len(created) < 19 and key):
        raise BadQuery(f"after is {after[:60]!r}, which is no place in the outbox; begin without it")
    found: Found = await app.store.read(partial(listed, wanted=wanted, after=after, limit=ask.number("limit")))
    blocks: list[Block] = []
    if app.submitter is None:
        blocks.append(
            Note(
                text="No report is sent: no configured domain above the hostname has a DKIM key.",
                tone=Tone.WARNING,
                mend="postward dkim generate makes one; [[dkim]] names it.",
            )
        )
    blocks.append(
        Table(
            title="Reports, the newest first",
            columns=["About", "Day", "Kind", "Built", Column(title="Size", number=True), "Addresses"],
            rows=[_row(report) for report in found.reports],
            empty="No report matches."
            if wanted != Wanted()
            else "There are no reports yet. They are made after a UTC day is over.",
        )
    )
    data = Outbox(reports=[_outgoing(report) for report in found.reports])
    intro = "What is sent to others about the day before. Reports stay here for 14 days."
    return Page(title="Outgoing reports", intro=intro, data=data, blocks=blocks, next=found.next)


async def show_one(app: App, ask: Ask) -> Page:
    """A report, its addresses and its content."""
    name = ask.text("report")
    found: list[tuple[Listed, Report]] = await app.store.read(partial(find, name=name))
    if len(found) != 1:
        raise NotHere(f"There is no report {name} in the outbox.")
    ((one, report),) = found
    content = _content(report)
    blocks: list[Block] = [
        Facts(
            rows=[
                ("About", Domain(one.domain).unicode),
                ("UTC day", day_of(one.day_start)),
                ("Kind", one.kind),
                ("Report id", Code(one.report_id)),
                ("From", one.submitter),
                ("Built", Instant(one.created)),
                ("Subject", report.subject),
                ("Log", link(f"cid {one.cid}", "/log", cid=one.cid) if one.cid else None),
            ]
        ),
        Table(
            title="Addresses",
            columns=["Address", "State", Column(title="Attempts", number=True), "Next try", "Detail", "Do"],
            rows=[_target_row(one, at, target) for at, target in enumerate(one.targets)],
            empty="It goes to nobody.",
        ),
        Pre(title="Content", text=content),
    ]
    return Page(
        title=f"Report about {Domain(one.domain).unicode}", data=Shown(report=_outgoing(one), content=content), blocks=blocks
    )


async def show_preview(app: App, ask: Ask) -> Page:
    """What would be said about a domain if its day ended now."""
    domain = ask.text("domain")
    found = []
    if domain:
        jobs = [job for _, job in app.report_jobs()]
        found = await preview(jobs, app.store, app.clock, Domain(domain))
    would = [
        Would(
            job=one.job,
            day=one.report.window.day,
            domain=str(one.report.policy_domain),
            targets=[target.uri for target in one.targets],
            trouble=one.trouble,
            content=_content(one.report),
        )
        for one in found
    ]
    blocks: list[Block] = []
    for one in would:
        where = one.trouble or ", ".join(one.targets) or "nobody: no usable record asks for it"
        blocks.append(Facts(title=f"{one.job}, {one.day}", rows=[("About", one.domain), ("Would go to", where)]))
        blocks.append(Pre(title="Content", text=one.content))
    if domain and not would:
        blocks.append(Note(text=f"There is nothing to report about {domain} now."))
    intro = "What would be reported about a recipient domain or a mail host if the day ended now. Nothing is sent or taken."
    return Page(title="Report preview", intro=intro, data=Previews(domain=domain, reports=would), blocks=blocks)


async def show_suppressed(app: App, ask: Ask) -> Page:
    """Who gets no reports."""
    everybody = await Suppressions(app.store.results).list()
    after, limit = ask.text("after"), ask.number("limit")
    if after and not (after.isascii() and after.isdigit() and len(after) < 10):
        raise BadQuery(f"after is {after[:40]!r}, which is no place in this list; begin without it")
    start = int(after or 0)
    page, following = everybody[start : start + limit], str(start + limit) if len(everybody) > start + limit else ""
    now = app.clock.now()
    table = Table(
        title="Suppressions",
        columns=["Who", "Until", "Why", "Do"],
        rows=[
            (
                one.subject,
                "for good" if one.until >= FOR_EVER else Instant(one.until) if one.until > now else "it has run out",
                one.reason,
                Button(text="Lift", action="/reports/lift", fields={"subject": one.subject}),
            )
            for one in page
        ],
        empty="Nobody is suppressed.",
    )
    data = Silence(suppressions=[Silenced(subject=one.subject, until=seconds(one.until), reason=one.reason) for one in page])
    intro = "Addresses, domains and hosts that get no reports: entered by an operator, or because they refused one for good."
    return Page(title="Suppressed addresses", intro=intro, data=data, blocks=[table], next=following)


async def _retry(app: App, ask: Ask) -> Done:
    key, position = ask.text("report"), ask.number("position")
    state = await app.outbox.retry(key, position, app.clock.now())
    if state is None:
        raise NotHere("There is no such address of a report.")
    if state == State.QUEUED:
        from postward.queue.pick import Pick

        await app.queue.retry(Pick(cid=cid_of(key, position)))
        poke(app.config.core.data_dir / NAME)
    elif state == State.DELIVERED:
        return Done(text="It has been delivered already, and is not sent twice.", to=f"/reports/{key}", tone=Tone.WARNING)
    else:
        app.sender.kick()
    return Done(text="It is tried again now.", to=f"/reports/{key}")


async def _suppress(app: App, ask: Ask) -> Done:
    until = app.clock.now() + _MONTH
    subject = await Suppressions(app.store.results).add(_subject(ask), until=until, reason=f"entered by {ask.user}")
    key = ask.text("report")
    return Done(
        text=f"{subject} gets no reports for 30 days.", to=f"/reports/{key}" if key.isalnum() else "/reports/suppressed"
    )


async def _lift(app: App, ask: Ask) -> Done:
    subject = _subject(ask)
    lifted = await Suppressions(app.store.results).remove(subject)
    told = f"{subject} gets reports again." if lifted else f"{subject} was not suppressed."
    return Done(text=told, to="/reports/suppressed", tone=Tone.GOOD if lifted else Tone.WARNING)


def _subject(ask: Ask) -> str:
    try:
        return normal(ask.text("subject"))
    except InvalidName as exc:
        raise BadQuery(f"subject is neither an address nor a domain: {exc}") from exc


def _row(report: Listed) -> Sequence[Cell]:
    states = Counter(target.state for target in report.targets)
    return (
        link(Domain(report.domain).unicode, f"/reports/{report.id}"),
        day_of(report.day_start),
        report.kind,
        Instant(report.created),
        octets(report.size),
        [Mark(f"{number} {state}", _TONES.get(State(state), Tone.PLAIN)) for state, number in sorted(states.items())],
    )


def _target_row(report: Listed, at: int, target: TargetState) -> Sequence[Cell]:
    buttons: list[Cell] = []
    if target.state != State.DELIVERED:
        fields = {"report": report.id, "position": str(at)}
        buttons.append(Button(text="Try now", action="/reports/retry", fields=fields))
    if keys := suppression_keys(target.uri):
        fields = {"subject": keys[0], "report": report.id}
        ask = f"Send no reports to {keys[0]} for 30 days?"
        buttons.append(Button(text="Suppress", action="/reports/suppress", fields=fields, ask=ask))
    return (
        target.uri,
        Mark(target.state, _TONES.get(State(target.state), Tone.PLAIN)),
        target.attempts,
        Instant(target.next_try) if target.state in CLAIMABLE else None,
        target.detail,
        buttons,
    )


def _outgoing(report: Listed) -> Outgoing:
    return Outgoing(
        id=report.id,
        kind=report.kind,
        report_id=report.report_id,
        domain=report.domain,
        submitter=report.submitter,
        day=day_of(report.day_start),
        created=seconds(report.created),
        size=report.size,
        cid=report.cid,
        targets=[
            Target(
                uri=target.uri,
                state=target.state,
                attempts=target.attempts,
                next_try=seconds(target.next_try) if target.state in CLAIMABLE else None,
                detail=target.detail,
            )
            for target in report.targets
        ],
    )


def _content(report: Report) -> str:
    """What stands in a report, JSON in a form to be read."""
    text_ = text_of(report)
    try:
        return json.dumps(json.loads(text_), indent=2, ensure_ascii=False)
    except ValueError:
        return text_
