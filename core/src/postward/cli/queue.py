"""`postward queue`: look at the queue and change it, while `postward run` is running or not.

What is changed stands in the database first; then the service, if there is one, is poked, so that it acts at once.
"""

from __future__ import annotations

import sys
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Final

import typer

from postward.cli.output import emit_json_line, is_terminal
from postward.errors import PostwardError

if TYPE_CHECKING:
    from postward.config import Config
    from postward.names import Address, Domain
    from postward.queue import Admin, Pick, Shown
    from postward.queue.admin import Bounce
    from postward.queue.survey import Conditions, Entries

PAGE: Final = 50
_PIECE: Final = 500
DROPPED: Final = "550 5.3.0 Taken out of the queue by the operator of this system"

ConfigOption = Annotated[Path | None, typer.Option("--config", "-c", help="Configuration file.", show_default=False)]
JsonOption = Annotated[bool, typer.Option("--json", help="Print JSON instead.")]
Ids = Annotated[list[str] | None, typer.Argument(metavar="ID", help="Messages, by their ids.", show_default=False)]
ByDomain = Annotated[str | None, typer.Option("--domain", metavar="D", help="Recipients at a domain.", show_default=False)]
BySender = Annotated[
    str | None, typer.Option("--sender", metavar="S", help="Mail from a sender; '<>' is the null one.", show_default=False)
]
All = Annotated[bool, typer.Option("--all", help="Everything in the queue.")]
Yes = Annotated[bool, typer.Option("--yes", "-y", help="Do not ask.")]


def register(app: typer.Typer) -> None:
    """Add the group."""
    group = typer.Typer(no_args_is_help=True, help="Look at the queue, hold, release, retry and drop mail.")
    group.command("list")(show_list)
    group.command("show")(show_one)
    for verb in (retry, hold, release, drop, flush):
        group.command()(verb)
    app.add_typer(group, name="queue")


def show_list(
    domain: ByDomain = None,
    sender: BySender = None,
    recipient: Annotated[str | None, typer.Option(metavar="R", help="Mail to a recipient.", show_default=False)] = None,
    held: Annotated[bool, typer.Option("--held", help="Only what is held.")] = False,
    limit: Annotated[int, typer.Option(min=0, metavar="N", help="Messages on a page; 0 is all.")] = PAGE,
    after: Annotated[str, typer.Option(metavar="CURSOR", help="Go on behind a page.", show_default=False)] = "",
    config: ConfigOption = None,
    json: JsonOption = False,
) -> None:
    """List messages, the oldest first; conditions that are given hold together.

    With --json one object per message: id, sender ("" is the null one), received, size, wish, recipients (address, state
    new, deferred or held, attempts, next_try, last_try, reply, host), problem; instants are seconds since 1970.
    Exits 1 when there are conditions and nothing meets them.
    """
    from postward.cli import queue_show
    from postward.cli.site import settings
    from postward.queue.survey import Conditions

    conditions = Conditions(
        domain=None if domain is None else _domain(domain),
        sender=None if sender is None else _sender(sender),
        recipient=None if recipient is None else _address(recipient),
        held=held,
    )
    if after and not (after.isascii() and after.isdigit() and len(after) < 19):
        raise PostwardError(f"not a cursor: {after[:40]!r}")
    found = _list(settings(config), conditions, after, limit, json=json)
    if not json:
        queue_show.show_list(found, conditions)
    elif found is not None and found.next:
        queue_show.tell_next(found.next)
    raise typer.Exit(1 if conditions and (found is None or not found.messages) else 0)


def _list(config: Config, conditions: Conditions, after: str, limit: int, *, json: bool) -> Entries | None:
    """The page; as JSON it is printed piece by piece, so that no length of the queue is held in memory."""
    from dataclasses import replace
    from functools import partial

    from postward.cli.queue_show import entry_json
    from postward.cli.site import read_queue
    from postward.queue.survey import survey

    left = limit or sys.maxsize
    # Each piece is read by itself: a reader that stays would keep the write-ahead log from being cleared.
    first = page = read_queue(config, partial(survey, conditions=conditions, after=after, limit=min(left, _PIECE)), None)
    if first is None or page is None:
        return None
    entries = list(page.page)
    while True:
        if json:
            for entry in page.page:
                emit_json_line(entry_json(entry))
        left -= len(page.page)
        if not page.next or left <= 0:
            return replace(first, page=tuple(entries), next=page.next)
        more = partial(survey, conditions=conditions, after=page.next, limit=min(left, _PIECE), count=False)
        page = read_queue(config, more, page)
        if not json:
            entries += page.page


def show_one(
    cid: Annotated[str, typer.Argument(metavar="ID", help="The message.", show_default=False)],
    header: Annotated[bool, typer.Option("--header", help="Its header too.")] = False,
    config: ConfigOption = None,
    json: JsonOption = False,
) -> None:
    """Show everything about one message. Exits 1 when it is not in the queue (any more)."""
    from functools import partial

    from postward.cli import queue_show
    from postward.cli.site import Site, read_queue, settings, with_queue
    from postward.queue.survey import entry_of

    async def work(site: Site) -> Shown | None:
        return await site.admin.show(cid.strip())

    configured = settings(config)
    shown = with_queue(configured, work, None)
    entry = None if shown is None else read_queue(configured, partial(entry_of, number=shown.listed.id), None)
    if shown is None or entry is None:
        _tell(f"there is no message {cid} in the queue; it may have been delivered, see the log")
        raise typer.Exit(1)
    if json:
        emit_json_line(queue_show.shown_json(shown, entry, header=header))
    else:
        queue_show.show_one(shown, entry, header=header)


def retry(
    ids: Ids = None,
    domain: ByDomain = None,
    sender: BySender = None,
    everything: All = False,
    yes: Yes = False,
    config: ConfigOption = None,
    json: JsonOption = False,
) -> None:
    """Try again now what waits for another try. What is held stays held. Exits 1 when nothing matched."""
    picks = _picks(ids, domain, sender, everything=everything)
    _act("retry", picks, lambda admin: admin.retry, config, json=json)


def hold(
    ids: Ids = None,
    domain: ByDomain = None,
    sender: BySender = None,
    everything: All = False,
    yes: Yes = False,
    config: ConfigOption = None,
    json: JsonOption = False,
) -> None:
    """Keep mail in the queue until it is released. An attempt under way may still deliver it. Exits 1 when nothing matched."""
    picks = _picks(ids, domain, sender, everything=everything)
    _act("hold", picks, lambda admin: admin.hold, config, json=json, ask="" if yes or not everything else "Hold")


def release(
    ids: Ids = None,
    domain: ByDomain = None,
    sender: BySender = None,
    everything: All = False,
    yes: Yes = False,
    config: ConfigOption = None,
    json: JsonOption = False,
) -> None:
    """Let held mail go, at once. Exits 1 when nothing matched."""
    picks = _picks(ids, domain, sender, everything=everything)
    _act("release", picks, lambda admin: admin.release, config, json=json)


def drop(
    ids: Ids = None,
    domain: ByDomain = None,
    sender: BySender = None,
    held: Annotated[bool, typer.Option("--held", help="Everything that is held.")] = False,
    everything: All = False,
    bounce: Annotated[bool, typer.Option("--bounce", help="Tell the senders, by a notice.")] = False,
    yes: Yes = False,
    config: ConfigOption = None,
    json: JsonOption = False,
) -> None:
    """Take mail out of the queue for good, held or not. Exits 1 when nothing matched."""
    from postward.cli.site import settings

    picks = _picks(ids, domain, sender, held=held, everything=everything)
    telling = _bounce(settings(config)) if bounce else None

    def make(admin: Admin) -> Callable[[Pick], Awaitable[int]]:
        return lambda pick: admin.drop(pick, bounce=telling)

    question = "" if yes else "Drop and tell the senders of" if bounce else "Drop without a word"
    _act("drop", picks, make, config, json=json, ask=question)


def flush(
    domain: Annotated[str | None, typer.Argument(metavar="DOMAIN", help="Only this destination.", show_default=False)] = None,
    config: ConfigOption = None,
    json: JsonOption = False,
) -> None:
    """Try everything now that is not held, also where a whole destination waits. Exits 1 when there is nothing for DOMAIN."""
    from postward.queue import EVERYTHING, Pick

    place = None if domain is None else _domain(domain)
    pick = EVERYTHING if place is None else Pick(domain=place)
    _act("flush", [pick], lambda admin: lambda _: admin.flush(place), config, json=json)


_DONE: Final = {"retry": "Due now", "hold": "Held", "release": "Released", "drop": "Dropped", "flush": "Due now"}
_ALREADY: Final = {
    "retry": "nothing waits for a later try: what is not held is due already",
    "hold": "all of it is held already",
    "release": "none of it is held",
    "drop": "it was gone before it could be dropped",
    "flush": "nothing waits for a later try: what is not held is due already",
}


def _act(
    verb: str,
    picks: list[Pick],
    change: Callable[[Admin], Callable[[Pick], Awaitable[int]]],
    config: Path | None,
    *,
    json: bool,
    ask: str = "",
) -> None:
    """Change what is picked, wake the service, and say what came of it."""
    from functools import partial

    from postward.cli.measures import count
    from postward.cli.site import Site, read_queue, settings, with_queue
    from postward.queue import EVERYTHING
    from postward.queue.poke import poke
    from postward.queue.survey import matching

    configured = settings(config)

    async def work(site: Site) -> tuple[int, bool]:
        changed = 0
        for pick in there:
            changed += await change(site.admin)(pick)
        # Also where nothing changed: a destination may have waited as a whole.
        return changed, poke(site.poke)

    matched = [read_queue(configured, partial(matching, pick=pick), (0, 0)) for pick in picks]
    there = [pick for pick, (_, recipients) in zip(picks, matched, strict=True) if recipients]
    missing = [pick.cid for pick in picks if pick not in there and pick.cid]
    messages, recipients = sum(one for one, _ in matched), sum(two for _, two in matched)
    for cid in missing:
        _tell(f"there is no message {cid} in the queue")
    if there and ask and _is_asked(json=json):
        question = f"{ask} {count(recipients, 'recipient')} of {count(messages, 'message')}?"
        if not typer.confirm(question, err=True):
            _tell("nothing was changed")
            raise typer.Exit(1)
    changed, heard = with_queue(configured, work, (0, False)) if there else (0, False)
    if json:
        emit_json_line({"action": verb, "recipients": changed, "missing": missing, "service": heard})
    elif there:
        typer.echo(f"{_DONE[verb]}: {count(changed, 'recipient')}." if changed else f"Unchanged: {_ALREADY[verb]}.")
        if changed and not heard and verb in ("retry", "release", "flush"):
            _tell("no service was reached: this takes effect within half a minute, or when one is started")
    elif not missing:
        typer.echo("Nothing matched." if picks != [EVERYTHING] else "The queue is empty.")
    raise typer.Exit(0 if there or picks == [EVERYTHING] else 1)


def _is_asked(*, json: bool) -> bool:
    return not json and is_terminal() and sys.stdin.isatty()


def _picks(
    ids: list[str] | None, domain: str | None, sender: str | None, *, held: bool = False, everything: bool
) -> list[Pick]:
    """What the options speak of. They exclude each other: `--domain D --sender S` could be meant in two ways."""
    from postward.queue import EVERYTHING, Pick

    given = (bool(ids), domain is not None, sender is not None, held, everything)
    if sum(given) != 1:
        few = "nothing is named" if not any(given) else "these exclude each other"
        raise typer.BadParameter(f"{few}: give ids, --domain, --sender or --all for everything")
    if ids:
        return [Pick(cid=_cid(cid)) for cid in dict.fromkeys(ids)]
    if domain is not None:
        return [Pick(domain=_domain(domain))]
    if sender is not None:
        return [Pick(sender=_sender(sender))]
    return [Pick(held=True) if held else EVERYTHING]


def _cid(text: str) -> str:
    if not text.strip():
        raise typer.BadParameter("an empty id")
    return text.strip()


def _domain(text: str) -> Domain:
    from postward.names import Domain

    return Domain(text.removeprefix("@"))


def _sender(text: str) -> str:
    return "" if text in ("", "<>") else str(_address(text))


def _address(text: str) -> Address:
    from postward.names import Address

    return Address.parse(text.removeprefix("<").removesuffix(">"))


def _bounce(config: Config) -> Bounce:
    """Writes the notices for what is dropped, to those who may be told (RFC 3461 §4.1, RFC 3464 §2)."""
    import structlog

    from postward.clock import SystemClock
    from postward.dkim import Signer
    from postward.dkim.configured import load_keys
    from postward.queue.bounce import Bouncer
    from postward.queue.outcome import Told
    from postward.queue.types import BounceMail

    if TYPE_CHECKING:
        from postward.queue import Dropped

    log = structlog.get_logger("postward.queue")
    bouncer = Bouncer(hostname=config.core.hostname, signer=Signer(load_keys(config)), clock=SystemClock(), log=log)

    async def make(dropped: Dropped) -> BounceMail | None:
        message = dropped.message
        if message.sender is None or message.is_report:
            return None
        told = [Told(recipient=one, reply=DROPPED) for one in dropped.recipients if not one.notify or "FAILURE" in one.notify]
        return await bouncer.notice(message, "failed", told) if told else None

    return make


def _tell(text: str) -> None:
    from postward.log import escape

    typer.echo(f"postward: {escape(text)}", err=True)
