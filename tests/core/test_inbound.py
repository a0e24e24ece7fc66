"""Judging a received message by all plugins: the strictest wins, failures follow `on_error`, counting goes with the answer."""

from __future__ import annotations

from collections.abc import Sequence

import pytest

from delivery_rig import Journal
from postward.hookspecs import hookimpl
from postward.inbound import judge, strictest
from postward.model import AuthResult, Disposition, InboundMessage, Judgement, MessageResult
from postward.names import Address, Domain
from postward.plugins import Plugins

MESSAGE = InboundMessage(
    client_ip=None, helo="x.test", sender=None, recipients=(Address("me", Domain("example.test")),), content=b"\r\n"
)
DKIM = AuthResult(method="dkim", result="pass")
COUNTED = MessageResult(day="2026-11-24", kind="x", data="{}")


class Judge:
    """Authenticates with `results`, judges with `judgement`, and remembers what it was given."""

    def __init__(self, judgement: Judgement | Exception | None, *results: AuthResult) -> None:
        self.judgement, self.results = judgement, results
        self.given: Sequence[AuthResult] = ()

    @hookimpl
    async def authenticate(self, message: InboundMessage) -> Sequence[AuthResult]:
        return self.results

    @hookimpl
    async def judge(self, message: InboundMessage, results: Sequence[AuthResult]) -> Judgement | None:
        self.given = results
        if isinstance(self.judgement, Exception):
            raise self.judgement
        return self.judgement


def plugged(*judges: Judge, on_error: str = "defer") -> Plugins:
    plugins = Plugins()
    for number, each in enumerate(judges):
        plugins.add(f"judge{number}", each, on_error=on_error)  # type: ignore[arg-type]
    return plugins


@pytest.mark.parametrize("order", [(0, 1, 2, 3), (3, 2, 1, 0)])
def test_the_strictest_judgement_wins(order: tuple[int, ...]) -> None:
    dispositions = list(Disposition)
    assert strictest([Judgement(disposition=dispositions[at]) for at in order]).disposition is Disposition.REJECT


async def test_without_plugins_mail_is_accepted() -> None:
    assert (await judge(MESSAGE, Plugins().hooks, Journal())).judgement.disposition is Disposition.ACCEPT  # type: ignore[arg-type]


async def test_everybody_judges_by_the_results_of_all() -> None:
    first = Judge(None, DKIM)
    second = Judge(
        Judgement(disposition=Disposition.QUARANTINE, results=(COUNTED,), auth=(AuthResult(method="dmarc", result="fail"),))
    )
    journal = Journal()
    judged = await judge(MESSAGE, plugged(first, second).hooks, journal)  # type: ignore[arg-type]
    assert (judged.judgement.disposition, list(first.given)) == (Disposition.QUARANTINE, [DKIM])
    assert [result.method for result in judged.results] == ["dkim", "dmarc"]
    assert journal.results == [COUNTED]


async def test_a_judge_that_fails_makes_the_client_come_back_and_nothing_is_counted() -> None:
    journal = Journal()
    judges = Judge(RuntimeError("broken")), Judge(Judgement(disposition=Disposition.ACCEPT, results=(COUNTED,)))
    judged = await judge(MESSAGE, plugged(*judges).hooks, journal)  # type: ignore[arg-type]
    assert (judged.judgement.disposition, judged.judgement.reply[:9]) == (Disposition.DEFER, "451 4.7.0")
    assert journal.results == []


async def test_a_judge_whose_failures_are_to_be_ignored_is_as_if_it_were_not_there() -> None:
    judged = await judge(MESSAGE, plugged(Judge(RuntimeError("broken")), on_error="ignore").hooks, Journal())  # type: ignore[arg-type]
    assert judged.judgement.disposition is Disposition.ACCEPT
