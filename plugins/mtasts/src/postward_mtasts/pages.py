"""Web pages of the policy cache: what is remembered of the domains that mail goes to, and one policy as it was served."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Final

from postward.model import MICROSECONDS, Mode
from postward.names import Domain
from postward.web import (
    AFTER,
    DOMAIN,
    LIMIT,
    Ask,
    Block,
    Cell,
    Code,
    Facts,
    Instant,
    Mark,
    NotHere,
    Page,
    Pre,
    Table,
    Tone,
    link,
    view,
)
from postward_mtasts import policy
from postward_mtasts.policy import PolicyError

if TYPE_CHECKING:
    from postward.core import Core
    from postward.model import WebRoute
    from postward_mtasts.cache import Entry

_MODES: Final = {Mode.ENFORCE: Tone.GOOD, Mode.TESTING: Tone.WARNING}


@dataclass(frozen=True, slots=True, kw_only=True)
class Remembered:
    """What is remembered of a domain; instants are seconds since 1970, `mode` is null where no policy was ever had."""

    domain: str
    valid: bool
    mode: str | None
    id: str
    fetched: int | None
    expires: int | None
    last_use: int | None
    last_error: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Cache:
    """A page of the cache, by domain."""

    policies: list[Remembered]


@dataclass(frozen=True, slots=True, kw_only=True)
class OnePolicy:
    """A domain's policy as it was served, and the mail hosts that it names."""

    policy: Remembered
    mx: list[str]
    text: str


def routes(core: Core) -> Sequence[WebRoute]:
    """The list, and one domain."""
    params = (DOMAIN, AFTER, LIMIT)
    return [
        view("/cache", partial(_show, core), Cache, title="MTA-STS policies", params=params),
        view("/cache/{domain}", partial(_show_one, core), OnePolicy, params=(DOMAIN,), summary="The policy of a domain"),
    ]


async def _show(core: Core, ask: Ask) -> Page:
    from postward_mtasts import tables

    limit, now, domain = ask.number("limit"), core.clock.now(), ask.text("domain")
    if domain:
        one = await core.store.read(partial(tables.load, domain=Domain(domain)))
        entries: Sequence[Entry] = [] if one is None else [one]
    else:
        entries = await core.store.read(partial(tables.load_page, after=ask.text("after"), limit=limit + 1))
    shown = entries[:limit]
    table = Table(
        title="By domain",
        columns=["Domain", "Mode", "State", "Fetched", "Expires", "Last used", "Last error"],
        rows=[_row(entry, now) for entry in shown],
        empty=f"Nothing is remembered of {domain}." if domain else "No mail went to a domain with a policy yet.",
    )
    return Page(
        title="MTA-STS policies",
        intro="What is remembered of the domains that mail goes to. An unexpired policy acts whatever DNS says.",
        data=Cache(policies=[_remembered(entry, now) for entry in shown]),
        blocks=[table],
        next=str(shown[-1].domain) if len(entries) > limit else "",
    )


async def _show_one(core: Core, ask: Ask) -> Page:
    from postward_mtasts import tables

    domain, now = Domain(ask.text("domain")), core.clock.now()
    entry = await core.store.read(partial(tables.load, domain=domain))
    if entry is None:
        raise NotHere(f"Nothing is remembered of {domain}.")
    try:
        mx = [str(pattern) for pattern in policy.parse(entry.text).mx]
    except PolicyError:
        mx = []
    blocks: list[Block] = [
        Facts(
            rows=[
                ("State", _state(entry, now)),
                ("Mode", _mode(entry)),
                ("Id", Code(entry.record_id) if entry.record_id else None),
                ("Mail hosts", [Code(pattern) for pattern in mx]),
                ("Fetched", Instant(entry.fetched)),
                ("Expires", Instant(entry.expires)),
                ("Last used", Instant(entry.last_use)),
                ("Looked at next", Instant(entry.due)),
                ("Served as", entry.media_type),
                ("Last error", f"{entry.last_error} (id {entry.failed_id})" if entry.last_error else None),
            ]
        )
    ]
    if entry.text:
        blocks.append(Pre(title="The policy as it was served", text=entry.text))
    data = OnePolicy(policy=_remembered(entry, now), mx=mx, text=entry.text)
    return Page(title=f"MTA-STS policy of {domain.unicode}", data=data, blocks=blocks)


def _row(entry: Entry, now: int) -> Sequence[Cell]:
    return (
        link(entry.domain.unicode, f"/mtasts/cache/{entry.domain}"),
        _mode(entry),
        _state(entry, now),
        Instant(entry.fetched),
        Instant(entry.expires),
        Instant(entry.last_use),
        entry.last_error,
    )


def _mode(entry: Entry) -> Cell:
    return Mark(entry.mode.value, _MODES.get(entry.mode, Tone.PLAIN)) if entry.text else None


def _state(entry: Entry, now: int) -> Mark:
    if not entry.text:
        return Mark("not fetched", Tone.WARNING)
    if not entry.valid(now):
        return Mark("expired", Tone.WARNING)
    return Mark("not renewed", Tone.WARNING) if entry.last_error else Mark("valid", Tone.GOOD)


def _remembered(entry: Entry, now: int) -> Remembered:
    return Remembered(
        domain=str(entry.domain),
        valid=entry.valid(now),
        mode=entry.mode.value if entry.text else None,
        id=entry.record_id,
        fetched=entry.fetched // MICROSECONDS or None,
        expires=entry.expires // MICROSECONDS or None,
        last_use=entry.last_use // MICROSECONDS or None,
        last_error=entry.last_error,
    )
