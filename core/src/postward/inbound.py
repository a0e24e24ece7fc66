"""A received message: authenticated by all plugins, judged by all, and counted together with the answer.

The strictest judgement wins. What a plugin could not decide because it failed is decided by its `on_error`: the client is asked
to come back, or the plugin counts as not asked.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

from postward import hookspecs
from postward.model import AuthResult, Disposition, InboundMessage, Judgement, MessageResult

if TYPE_CHECKING:
    from postward.hooks import Hooks, Outcome
    from postward.store import Journal

_STRICTNESS: Final = {disposition: number for number, disposition in enumerate(Disposition)}


@dataclass(frozen=True, slots=True, kw_only=True)
class Judged:
    """What is to happen to a message: the strictest `judgement`, and every authentication result, in plugin order."""

    judgement: Judgement
    results: tuple[AuthResult, ...]


async def judge(message: InboundMessage, hooks: Hooks, journal: Journal) -> Judged:
    """Authenticate and judge one message; what the plugins want counted is durable when this returns.

    A message that is to come back is not counted: it will be judged again.
    """
    answers = await hooks.gather(hookspecs.authenticate, message=message)
    results = tuple(result for answer in answers for result in answer.value or ())
    judgements = await hooks.gather(hookspecs.judge, message=message, results=results)
    chosen = strictest([*_failures(answers), *_failures(judgements), *(each.value for each in judgements if each.value)])
    counted: list[MessageResult] = [result for each in judgements if each.value for result in each.value.results]
    if counted and chosen.disposition is not Disposition.DEFER:
        await journal.append(*counted)
    added = tuple(result for each in judgements if each.value for result in each.value.auth)
    return Judged(judgement=chosen, results=(*results, *added))


def strictest(judgements: Sequence[Judgement]) -> Judgement:
    """The judgement that wins: the strictest, the first of equals; acceptance where nobody objects."""
    accept = Judgement(disposition=Disposition.ACCEPT)
    return max(judgements, key=lambda judgement: _STRICTNESS[judgement.disposition], default=accept)


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
