"""A received message: authenticated by all plugins, judged by all, offered to those who take reports, and counted together
with the answer.

The strictest judgement wins. What a plugin could not decide because it failed is decided by its `on_error`: the client is asked
to come back, or the plugin counts as not asked.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Final

from postward import hookspecs
from postward.hooks import describe
from postward.model import AuthResult, Disposition, InboundMessage, Judgement, MessageResult, ReportReceipt
from postward.names import Address

if TYPE_CHECKING:
    from postward.hooks import Hooks, Outcome
    from postward.store import Journal

REPORT_HEADER: Final = "X-Postward-Report"
_STRICTNESS: Final = {disposition: number for number, disposition in enumerate(Disposition)}
_OURS: Final = re.compile(rb"(?im)^x-postward-[!-9;-~]*[ \t]*:[^\n]*(?:\n[ \t][^\n]*)*(?:\n|\Z)")
_UNFIT: Final = re.compile(r"[^ -~]")
_FIELD_NAME: Final = re.compile(r"[!-9;-~]{1,76}")
_LONGEST: Final = 900
_COME_BACK: Final = "451 4.7.0 this report cannot be judged just now"


@dataclass(frozen=True, slots=True, kw_only=True)
class Judged:
    """What is to happen to a message: the strictest `judgement`, and every authentication result, in plugin order."""

    judgement: Judgement
    results: tuple[AuthResult, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class TakenIn:
    """What became of a message to a report address: `fields` are to be put in front of it.

    `receipt` is None when it was refused or put off before any plugin was offered it.
    """

    judgement: Judgement
    receipt: ReportReceipt | None = None
    fields: bytes = b""


async def judge(message: InboundMessage, hooks: Hooks, journal: Journal) -> Judged:
    """Authenticate and judge one message; what the plugins want counted is durable when this returns.

    A message that is to come back is not counted: it will be judged again.
    """
    judged, counted = await _weigh(message, hooks)
    if counted and judged.judgement.disposition is not Disposition.DEFER:
        await journal.append(*counted)
    return judged


async def take_in(message: InboundMessage, addresses: Sequence[Address], hooks: Hooks, journal: Journal) -> TakenIn:
    """Judge a message to report `addresses`, as they are configured, and offer it to the plugins that take reports.

    One that is not taken in is to be delivered all the same, with the reason in `fields`, unless the judgement says otherwise.
    """
    judged, counted = await _weigh(message, hooks)
    judgement, receipt = judged.judgement, None
    if judgement.disposition in (Disposition.ACCEPT, Disposition.QUARANTINE):
        receipt = await _offer(replace(message, recipients=tuple(addresses)), judged.results, hooks)
        if receipt.temporary and not receipt.accepted:
            judgement = Judgement(disposition=Disposition.DEFER, reason=receipt.reason, reply=_COME_BACK)
    if counted and judgement.disposition is not Disposition.DEFER:
        await journal.append(*counted)
    return TakenIn(judgement=judgement, receipt=receipt, fields=_fields(receipt) if receipt else b"")


def without_our_fields(header: bytes) -> bytes:
    """A header section without fields that only this program may write: a sender could have written them before."""
    return _OURS.sub(b"", header)


def strictest(judgements: Sequence[Judgement]) -> Judgement:
    """The judgement that wins: the strictest, the first of equals; acceptance where nobody objects."""
    accept = Judgement(disposition=Disposition.ACCEPT)
    return max(judgements, key=lambda judgement: _STRICTNESS[judgement.disposition], default=accept)


async def _weigh(message: InboundMessage, hooks: Hooks) -> tuple[Judged, list[MessageResult]]:
    """The judgement, and what is to be counted with it."""
    answers = await hooks.gather(hookspecs.authenticate, message=message)
    results = tuple(result for answer in answers for result in answer.value or ())
    judgements = await hooks.gather(hookspecs.judge, message=message, results=results)
    chosen = strictest([*_failures(answers), *_failures(judgements), *(each.value for each in judgements if each.value)])
    counted: list[MessageResult] = [result for each in judgements if each.value for result in each.value.results]
    added = tuple(result for each in judgements if each.value for result in each.value.auth)
    return Judged(judgement=chosen, results=(*results, *added)), counted


async def _offer(message: InboundMessage, results: Sequence[AuthResult], hooks: Hooks) -> ReportReceipt:
    outcome = await hooks.first(hookspecs.receive_report, message=message, results=results)
    if outcome is None:
        return ReportReceipt(accepted=False, kind="", reason="no kind of report that is taken here")
    if outcome.value is None:
        return ReportReceipt(accepted=False, kind="", reason=f"plugin {outcome.plugin} {_error(outcome)}")
    return outcome.value


def _error(outcome: Outcome[Any]) -> str:
    return describe(outcome.error) if isinstance(outcome.error, Exception) else "failed"


def _fields(receipt: ReportReceipt) -> bytes:
    if receipt.accepted:
        return _field(REPORT_HEADER, "; ".join(part for part in (receipt.kind, receipt.summary) if part))
    return _field(receipt.error_header, receipt.reason or "refused")


def _field(name: str, value: str) -> bytes:
    if _FIELD_NAME.fullmatch(name) is None:
        name = "X-Postward-Report-Error"
    return f"{name}: {_UNFIT.sub('?', value)[:_LONGEST]}\r\n".encode()


def _failures(outcomes: Sequence[Outcome[Any]]) -> list[Judgement]:
    return [
        Judgement(
            disposition=Disposition.DEFER,
            reason=str(outcome.error),
            reply=f"451 4.7.0 plugin {outcome.plugin} could not judge this message",
        )
        for outcome in outcomes
        if outcome.error is not None and outcome.on_error == "defer"
    ]
