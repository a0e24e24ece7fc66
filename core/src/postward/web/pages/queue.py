"""The queue: what waits in it, one message with everything about it, and what an operator may do with them."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Final

from postward.cli.measures import count, octets, seconds
from postward.cli.queue_show import state_of
from postward.errors import InvalidName
from postward.model import WebRoute
from postward.names import Address, Domain
from postward.queue.pick import Pick
from postward.queue.poke import NAME, poke
from postward.queue.rows import raw
from postward.queue.survey import Conditions, Entry, entry_of, survey
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
    NotHere,
    Page,
    Pre,
    Table,
    Tone,
    link,
    view,
)
from postward.web.params import AFTER, DOMAIN, LIMIT, BadQuery, Param, choice, text

if TYPE_CHECKING:
    from postward.app import App

SHOWN: Final = 3
MOST: Final = 1000
CID: Final = Param(name="cid", longest=64)
SENDER: Final = text("sender", "Sender", help="An address; <> is the null sender.")
RECIPIENT: Final = text("recipient", "Recipient", help="An address.")
STATE: Final = choice("state", "State", "held")
_TONES: Final = {"new": Tone.PLAIN, "deferred": Tone.WARNING, "held": Tone.BAD}


@dataclass(frozen=True, slots=True, kw_only=True)
class Recipient:
    """Instants are seconds since 1970; `state` is new, deferred or held."""

    address: str
    state: str
    attempts: int
    next_try: int | None
    last_try: int | None
    reply: str
    host: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Message:
    """A message in the queue; an empty `sender` is the null one, `problem` says why it cannot be read."""

    id: str
    sender: str
    received: int | None
    size: int
    wish: str
    recipients: list[Recipient]
    problem: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Messages:
    """A page of messages, the oldest first."""

    messages: list[Message]


@dataclass(frozen=True, slots=True, kw_only=True)
class MessageShown:
    """A message with its header."""

    message: Message
    header: str


def routes(app: App) -> Sequence[WebRoute]:
    """The list, one message, and the four things to do with one."""
    admin = app.queue
    verbs: dict[str, tuple[Callable[[Pick], Awaitable[int]], str]] = {
        "retry": (admin.retry, "due now"),
        "hold": (admin.hold, "held"),
        "release": (admin.release, "released"),
        "drop": (admin.drop, "dropped"),
    }
    params = (DOMAIN, SENDER, RECIPIENT, STATE, AFTER, LIMIT)
    return [
        view("/queue", partial(show_list, app), Messages, title="Queue", params=params, summary="Mail that waits"),
        view("/queue/{cid}", partial(show_one, app), MessageShown, params=[CID], summary="A message in the queue"),
        *(
            WebRoute(path=f"/queue/{verb}", handler=Action(do=partial(_act, app, work, said), fields=(CID,)), methods=("POST",))
            for verb, (work, said) in verbs.items()
        ),
    ]


async def show_list(app: App, ask: Ask) -> Page:
    """A page of the queue."""
    conditions = _conditions(ask)
    work = partial(survey, conditions=conditions, after=_cursor(ask), limit=ask.number("limit"), count=False)
    found = await app.store.node_db.read(lambda connection: work(raw(connection)))
    table = Table(
        title="Messages, the oldest first",
        columns=["Id", "Received", Column(title="Size", number=True), "From", "To", "State", "Last reply"],
        rows=[_row(entry) for entry in found.page],
        empty="Nothing in the queue matches." if conditions else "The queue is empty.",
    )
    data = Messages(messages=[_message(entry) for entry in found.page])
    return Page(title="Queue", data=data, blocks=[table], next=found.next)


async def show_one(app: App, ask: Ask) -> Page:
    """Everything about a message."""
    cid = ask.text("cid")
    shown = await app.queue.show(cid)
    entry = None
    if shown is not None:
        number = shown.listed.id
        entry = await app.store.node_db.read(lambda connection: entry_of(raw(connection), number))
    if shown is None or entry is None:
        raise NotHere(f"There is no message {cid} in the queue. It may have been delivered; the log says what became of it.")
    header = shown.header.decode("utf-8", "backslashreplace").replace("\r\n", "\n")
    problem = shown.problem or entry.problem
    fields = {"cid": cid}
    blocks: list[Block] = [
        Facts(
            rows=[
                ("Id", [Code(cid), link("Its log", "/log", cid=cid)]),
                ("From", entry.sender or "<>"),
                ("Received", Instant(entry.received)),
                ("Size", octets(entry.size)),
                ("TLS wish", entry.wish),
                *([("Damaged", Mark(problem, Tone.BAD))] if problem else []),
            ]
        ),
        Button(text="Try now", action="/queue/retry", fields=fields),
        Button(text="Hold", action="/queue/hold", fields=fields),
        Button(text="Release", action="/queue/release", fields=fields),
        Button(
            text="Drop",
            action="/queue/drop",
            fields=fields,
            ask="Take this message out of the queue for good, without telling its sender?",
            tone=Tone.BAD,
        ),
        Table(
            title=count(len(entry.recipients), "recipient"),
            columns=["Recipient", "State", Column(title="Tries", number=True), "Next try", "Last try", "Host", "Last reply"],
            rows=[
                (
                    str(each.recipient.address),
                    Mark(state_of(each), _TONES[state_of(each)]),
                    each.recipient.attempts,
                    None if each.held else Instant(each.next_try),
                    Instant(each.recipient.last_try),
                    each.recipient.host,
                    each.recipient.last_reply,
                )
                for each in entry.recipients[:MOST]
            ],
        ),
        Pre(title="Header", text=header),
    ]
    data = MessageShown(message=_message(entry), header=header)
    return Page(title="A message in the queue", data=data, blocks=blocks)


async def _act(app: App, work: Callable[[Pick], Awaitable[int]], said: str, ask: Ask) -> Done:
    cid = ask.text("cid")
    if not cid:
        raise BadQuery("cid is missing")
    changed = await work(Pick(cid=cid))
    poke(app.config.core.data_dir / NAME)
    there = await app.queue.show(cid) is not None
    to = f"/queue/{cid}" if there and cid.isalnum() else "/queue"
    if changed:
        return Done(text=f"{count(changed, 'recipient')} {said}.", to=to)
    return Done(text="Nothing was changed: it stood so already, or is gone.", to=to, tone=Tone.WARNING)


def _conditions(ask: Ask) -> Conditions:
    domain, sender, recipient = ask.text("domain"), ask.text("sender"), ask.text("recipient")
    return Conditions(
        domain=Domain(domain) if domain else None,
        sender=None if not sender else "" if sender == "<>" else str(_address("sender", sender)),
        recipient=_address("recipient", recipient) if recipient else None,
        held=ask.text("state") == "held",
    )


def _address(name: str, given: str) -> Address:
    try:
        return Address.parse(given.removeprefix("<").removesuffix(">"))
    except InvalidName as exc:
        raise BadQuery(f"{name} is no address: {exc}") from exc


def _cursor(ask: Ask) -> str:
    after = ask.text("after")
    if after and not (after.isascii() and after.isdigit() and len(after) < 19):
        raise BadQuery(f"after is {after[:40]!r}, which is no place in the queue; begin without it")
    return after


def _row(entry: Entry) -> Sequence[Cell]:
    addresses = [str(each.recipient.address) for each in entry.recipients[:SHOWN]]
    more = [f"and {len(entry.recipients) - SHOWN:,} more"] if len(entry.recipients) > SHOWN else []
    states = dict.fromkeys(state_of(each) for each in entry.recipients)
    last = max((each.recipient for each in entry.recipients), key=lambda one: one.last_try, default=None)
    return (
        link(entry.cid, f"/queue/{entry.cid}") if entry.cid else None,
        Instant(entry.received),
        octets(entry.size),
        entry.sender or "<>",
        [*addresses, *more],
        [Mark("damaged", Tone.BAD)] if entry.problem else [Mark(state, _TONES[state]) for state in states],
        entry.problem or (last.last_reply if last is not None else ""),
    )


def _message(entry: Entry) -> Message:
    return Message(
        id=entry.cid,
        sender=entry.sender,
        received=seconds(entry.received),
        size=entry.size,
        wish=entry.wish,
        recipients=[
            Recipient(
                address=str(each.recipient.address),
                state=state_of(each),
                attempts=each.recipient.attempts,
                next_try=None if each.held else seconds(each.next_try),
                last_try=seconds(each.recipient.last_try),
                reply=each.recipient.last_reply,
                host=each.recipient.host,
            )
            for each in entry.recipients[:MOST]
        ],
        problem=entry.problem,
    )
