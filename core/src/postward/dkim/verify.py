"""Verify the signatures of a message: keys are fetched side by side, then everything is decided without waiting."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Final

import trio

from postward.dkim.canonical import Field, split_message
from postward.dkim.key import BadKey, KeyRecord, parse_key
from postward.dkim.signature import BadSignature, Parsed, Signature, judge, parse
from postward.dns.answer import Status
from postward.errors import InvalidName
from postward.model import MICROSECONDS
from postward.names import Domain

if TYPE_CHECKING:
    from postward.dns.answer import Answer, Resolver

MAX_SIGNATURES: Final = 20
_MAX_RECORDS: Final = 10
# A hop into a thread costs 0.16 ms; hashing that much costs more and would hold up everybody else.
_THREAD_FROM: Final = 100_000


async def verify(
    content: bytes, resolver: Resolver, *, service: str = "email", at: int | None = None, inline: bool = False
) -> tuple[Signature, ...]:
    """Verify every DKIM-Signature of a message, at most the first 20, in the order of the message.

    `service` is what the key must be meant for: a TLS report's key may be `s=tlsrpt` (RFC 8460 §3). `at` is the instant that
    `x=` is measured by, now by default. `inline` keeps the work out of threads. Never raises for what the message says.
    """
    now = time.time_ns() // 1000 if at is None else at
    fields, _ = split_message(content)
    found = [field for field in fields if field.name == b"dkim-signature"][:MAX_SIGNATURES]
    todo = [_parse(field, number, now // MICROSECONDS) for number, field in enumerate(found)]
    answers = await _fetch({_key_name(item) for item in todo if isinstance(item, Parsed)}, resolver)

    def decide() -> tuple[Signature, ...]:
        return _decide(todo, answers, content, service)

    if inline or len(content) < _THREAD_FROM:
        return decide()
    return await trio.to_thread.run_sync(decide, abandon_on_cancel=True)


def _parse(field: Field, number: int, now: int) -> Parsed | Signature:
    try:
        return parse(field, number, now=now)
    except BadSignature as exc:
        return exc.signature


def _key_name(parsed: Parsed) -> str:
    return f"{parsed.known.selector}._domainkey.{parsed.domain}"


async def _fetch(names: set[str], resolver: Resolver) -> Mapping[str, Answer | None]:
    answers: dict[str, Answer | None] = {}

    async def ask(name: str) -> None:
        try:
            answers[name] = await resolver.query(Domain(name), "TXT")
        except InvalidName:
            answers[name] = None

    async with trio.open_nursery() as nursery:
        for name in names:
            nursery.start_soon(ask, name)
    return answers


def _decide(
    todo: Sequence[Parsed | Signature], answers: Mapping[str, Answer | None], content: bytes, service: str
) -> tuple[Signature, ...]:
    results: list[Signature] = []
    keys: dict[str, KeyRecord | Signature] = {}
    for item in todo:
        if isinstance(item, Signature):
            results.append(item)
            continue
        name = _key_name(item)
        if name not in keys:
            keys[name] = _key(item.known, answers[name])
        key = keys[name]
        if isinstance(key, Signature):
            results.append(replace(item.known, result=key.result, reason=key.reason))
        else:
            results.append(judge(item, key, content, service=service))
    return tuple(results)


def _key(known: Signature, answer: Answer | None) -> KeyRecord | Signature:
    """The first key record that can be used (RFC 6376 §3.6.2.2 leaves the choice open), or the result without one."""
    if answer is None:
        return replace(known, reason="s= is no selector")
    if answer.status is Status.FAILED:
        reason = answer.failure.slug if answer.failure else "no answer"
        return replace(known, result="temperror", reason=f"key lookup failed: {reason}")
    problem = "no key record"
    for text in answer.texts[:_MAX_RECORDS] if answer.found else ():
        try:
            return parse_key(text)
        except BadKey as exc:
            problem = str(exc)
    return replace(known, result="permerror", reason=problem)
