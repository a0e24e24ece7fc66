"""Questions to the DNS as data, so that what asks them needs no I/O and tests need no network.

An asker is a generator: it yields a `Question`, is sent a `Lookup`, and returns its conclusion.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Generator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeVar

from postward.errors import InvalidName
from postward.names import Domain

if TYPE_CHECKING:
    from postward.dns import Resolver

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Question:
    """Something to ask the DNS."""

    name: str
    rdtype: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Lookup:
    """What the DNS said. `records` are rdata; `texts` are TXT records with their strings joined.

    `failed` holds the reason when it said nothing that counts; that never means that there is nothing.
    """

    records: tuple[Any, ...] = ()
    texts: tuple[str, ...] = ()
    nxdomain: bool = False
    failed: str = ""


Asker = Generator[Question, Lookup, T]
Ask = Callable[[Question], Awaitable[Lookup]]


async def answer_all(asker: Asker[T], ask: Ask) -> T:
    """Answer an asker's questions until it has its conclusion."""
    try:
        question = next(asker)
        while True:
            question = asker.send(await ask(question))
    except StopIteration as stop:
        conclusion: T = stop.value
        return conclusion


def remembering(resolver: Resolver) -> Ask:
    """Ask a resolver, and nothing twice: for the time that one message takes."""
    known: dict[Question, Lookup] = {}

    async def ask(question: Question) -> Lookup:
        if question not in known:
            known[question] = await _ask(resolver, question)
        return known[question]

    return ask


async def _ask(resolver: Resolver, question: Question) -> Lookup:
    try:
        answer = await resolver.query(Domain.to_ask(question.name), question.rdtype)
    except InvalidName:
        return Lookup(nxdomain=True)
    if answer.failure is not None:
        return Lookup(failed=f"{question.name}: {answer.failure.slug}")
    if not answer.found:
        return Lookup(nxdomain=answer.nxdomain)
    return Lookup(records=answer.records, texts=answer.texts if question.rdtype == "TXT" else ())
