"""The overview: what needs a person now, then how mail, reports and plugins do."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Final

from postward import hookspecs
from postward.attention import Attention, no_room, of_journal, of_queue, of_resolver
from postward.cli.measures import count, octets
from postward.dns.health import FILE as HEALTH_FILE
from postward.dns.health import Health, load_health
from postward.queue.disk import room
from postward.queue.figures import Figures, figures
from postward.queue.rows import raw
from postward.store.standing import Standing, standings_of
from postward.web.page import Ask, Block, Column, Facts, Heading, Instant, Link, Mark, Note, Page, Table, Tone, link, view

if TYPE_CHECKING:
    from postward.app import App
    from postward.model import WebRoute

TOP: Final = 10
_HOUR: Final = 3600 * 1_000_000
# An attempt comes at the very end of a lifetime; what is older by this much has been passed over.
_LATE: Final = 2 * _HOUR


@dataclass(frozen=True, slots=True, kw_only=True)
class Need:
    """Something that needs a person: what it is, and how to mend it."""

    what: str
    mend: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Destination:
    """Recipients at one destination, and what was said there last."""

    domain: str
    recipients: int
    held: int
    reply: str
    host: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Behind:
    """How many results a plugin has not taken yet, and since which UTC day."""

    plugin: str
    results: int
    oldest_day: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Overview:
    """`oldest` is in seconds since 1970, null for an empty queue; `reports` are addresses of reports by state."""

    hostname: str
    plugins: list[str]
    attention: list[Need]
    messages: int
    bytes: int
    oldest: int | None
    new: int
    deferred: int
    held: int
    due: int
    destinations: list[Destination]
    reports: dict[str, int]
    journal: list[Behind]
    validating: bool | None
    disk_free: int


def routes(app: App) -> Sequence[WebRoute]:
    """The page."""
    return [view("/", partial(show, app), Overview, title="Overview", summary="What needs attention, and how it all does")]


async def show(app: App, ask: Ask) -> Page:
    """Look at everything once."""
    now = app.clock.now()
    before = now - int(app.config.delivery.expire_hours * _HOUR) - _LATE
    queue = await app.store.node_db.read(lambda connection: figures(raw(connection), now, expired_before=before, top=TOP))
    standings = await standings_of(app.store)
    reports = await app.outbox.counts()
    health = load_health(app.config.core.data_dir / HEALTH_FILE)
    place = app.config.core.data_dir
    disk = os.statvfs(place)
    free = disk.f_bavail * disk.f_frsize
    needs = [
        *of_queue(queue, app.config.delivery.expire_hours),
        *of_journal(standings, now=now, enabled=app.plugins.names, running=True),
        *(of_resolver(health) if health is not None else ()),
        *([] if room(place) else [no_room(place, free, disk.f_favail)]),
        *_of_reports(app, reports),
        *_of_plugins(app),
    ]
    data = _data(app, queue, standings, reports, health, needs, free)
    return Page(title="Overview", data=data, blocks=_blocks(data, queue, needs, free))


def _of_reports(app: App, states: dict[str, int]) -> list[Attention]:
    found = []
    if app.submitter is None and app.hooks.plugins_for(hookspecs.report_jobs):
        mend = "postward dkim generate makes a key; [[dkim]] names it"
        found.append(Attention(what="no report is sent: no configured domain above the hostname has a DKIM key", mend=mend))
    if failed := states.get("failed", 0):
        what = f"{count(failed, 'address', 'addresses')} did not get a report in the last 14 days"
        found.append(
            Attention(what=what, mend="each says why; it may be tried again or left alone", where="/reports?state=failed")
        )
    return found


def _of_plugins(app: App) -> list[Attention]:
    failures: dict[str, int] = {}
    for (plugin, _), stats in app.hooks.stats.items():
        failures[plugin] = failures.get(plugin, 0) + stats.failures
    return [
        Attention(
            what=f"the plugin {plugin} has failed {count(number, 'time')} since the start",
            mend=f"look for errors of {plugin} in the log",
            where="/plugins",
        )
        for plugin, number in failures.items()
        if number
    ]


def _data(
    app: App,
    queue: Figures,
    standings: Sequence[Standing],
    reports: dict[str, int],
    health: Health | None,
    needs: Sequence[Attention],
    free: int,
) -> Overview:
    return Overview(
        hostname=str(app.config.core.hostname),
        plugins=list(app.plugins.names),
        attention=[Need(what=one.what, mend=one.mend) for one in needs],
        messages=queue.messages,
        bytes=queue.bytes,
        oldest=queue.oldest // 1_000_000 if queue.oldest else None,
        new=queue.fresh,
        deferred=queue.deferred,
        held=queue.held,
        due=queue.due,
        destinations=[
            Destination(
                domain=one.domain, recipients=one.recipients, held=one.held, reply=one.last_reply[:500], host=one.last_host
            )
            for one in queue.top
        ],
        reports=reports,
        journal=[Behind(plugin=one.consumer, results=one.results, oldest_day=one.oldest_day) for one in standings],
        validating=None if health is None else health.validating,
        disk_free=free,
    )


def _blocks(data: Overview, queue: Figures, needs: Sequence[Attention], free: int) -> list[Block]:
    validates = {True: Mark("validates", Tone.GOOD), False: Mark("does not validate", Tone.BAD), None: Mark("not known")}
    notes: list[Block] = [
        Note(text=one.what, tone=Tone.WARNING, mend=one.mend, link=Link("Look", one.where) if one.where else None)
        for one in needs
    ]
    states = ", ".join(f"{number:,} {state}" for state, number in sorted(data.reports.items())) or "none yet"
    behind = [f"{one.plugin}: {f'{one.results:,} to take' if one.results else 'up to date'}" for one in data.journal]
    return [
        Heading(text="Needs attention"),
        *(notes or [Note(text="Nothing needs attention.", tone=Tone.GOOD)]),
        Facts(
            title="How it does",
            rows=[
                ("Queue", link(f"{count(data.messages, 'message')}, {octets(data.bytes)}", "/queue")),
                ("Oldest message", Instant(queue.oldest or 0)),
                ("Recipients", f"{data.new:,} new, {data.deferred:,} deferred, {data.held:,} held; {data.due:,} due now"),
                ("Addresses of reports", link(states, "/reports")),
                ("Results taken by plugins", behind),
                ("Resolver", validates[data.validating]),
                ("Free on the disk", octets(free)),
                ("Plugins", link(", ".join(data.plugins) or "none enabled", "/plugins")),
            ],
        ),
        Table(
            title="Where mail waits",
            columns=["Destination", Column(title="Recipients", number=True), Column(title="Held", number=True), "Last reply"],
            rows=[
                (
                    link(one.domain, "/queue", domain=one.domain),
                    one.recipients,
                    one.held or None,
                    ": ".join(part for part in (one.host, one.reply) if part),
                )
                for one in data.destinations
            ],
            empty="No mail waits.",
        ),
    ]
