"""Does the resolver validate? Asked of names whose truth is known, once at start.

A resolver that does not validate either shows every signed domain as insecure, and DANE is silently off, or claims to have
validated what it has not. Only evidence counts: when nothing can be looked up, the answer is "unknown" (RFC 6698 §4.1).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import trio

from postward.dns.answer import Answer, Resolver, Status
from postward.errors import InvalidName
from postward.names import Domain

TIME_LIMIT: Final = 10.0


@dataclass(frozen=True, slots=True, kw_only=True)
class SelfTest:
    """What a self-test found. `validating` is None when it found no evidence; `problems` are lines for people."""

    validating: bool | None
    problems: tuple[str, ...] = ()


async def self_test(resolver: Resolver, secure: str, bogus: str) -> SelfTest:
    """Look up a name in a signed zone and one with broken signatures, for at most 10 s; an empty name skips one.

    The signed name must be answered, or denied, with AD; the broken one must not be answered at all. A signed name that does
    not exist here, and nothing vouches for that, is no evidence: this may be a network with names of its own.
    """
    answers: dict[str, Answer] = {}
    problems: list[str] = []

    async def ask(role: str, text: str, rdtype: str) -> None:
        if not text:
            return
        try:
            name = Domain(text)
            if name.is_literal:
                raise InvalidName(f"not a domain name: {text[:80]!r}")
        except InvalidName as exc:
            problems.append(f"the self-test's {role} name cannot be used: {exc}")
            return
        answers[role] = await resolver.query(name, rdtype)

    with trio.move_on_after(TIME_LIMIT) as scope:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(ask, "secure", secure, "SOA")
            nursery.start_soon(ask, "bogus", bogus, "A")
    if scope.cancelled_caught:
        problems.append(f"the DNS self-test did not end within {TIME_LIMIT:g} s")
    verdict = _judge_secure(answers.get("secure"), problems)
    if _is_fooled(answers.get("bogus"), problems):
        verdict = False
    return SelfTest(validating=verdict, problems=tuple(problems))


def _judge_secure(answer: Answer | None, problems: list[str]) -> bool | None:
    if answer is None:
        return None
    if answer.status is Status.FAILED:
        detail = answer.failure.detail if answer.failure else ""
        problems.append(f"{answer.name} could not be looked up, so whether the resolver validates is unknown: {detail}")
        return None
    if not answer.found and not answer.authenticated:
        problems.append(f"{answer.name} does not exist here, so whether the resolver validates is unknown")
        return None
    if not answer.authenticated:
        problems.append(
            f"{answer.name} is signed, but its answer came without a trusted AD bit: the resolver does not validate"
        )
    return answer.authenticated


def _is_fooled(answer: Answer | None, problems: list[str]) -> bool:
    """Whether a name with broken signatures was answered. Its absence, or a failure, is no evidence of anything."""
    if answer is None or not answer.found:
        return False
    problems.append(f"{answer.name} has broken signatures and was answered all the same: the resolver does not validate")
    return True
