"""Web pages of TLS results: what is counted and not yet reported, by day, recipient domain and policy, down to one failure."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Final

from postward.model import MICROSECONDS, WebRoute
from postward.names import Domain
from postward.web import (
    AFTER,
    DAY,
    DOMAIN,
    LIMIT,
    Ask,
    BadQuery,
    Block,
    Chart,
    Code,
    Column,
    Facts,
    Mark,
    NotHere,
    Page,
    Param,
    Pre,
    Table,
    Tone,
    choice,
    link,
    view,
)
from postward_tlsrpt import counters
from postward_tlsrpt.advice import advice_for, reason_explained

if TYPE_CHECKING:
    from postward.core import Core
    from postward_tlsrpt.counters import Row
    from postward_tlsrpt.report import FailureDetail

_KEPT_FOR: Final = 300 * MICROSECONDS
_FAILED: Final = "with failures"
_MOST: Final = 200
Totals = list[tuple[str, int, int]]


@dataclass(frozen=True, slots=True, kw_only=True)
class Result:
    """Sessions with a recipient domain on a UTC day under one policy."""

    day: str
    domain: str
    policy_type: str
    policy_domain: str
    policy_id: str
    successful: int
    failed: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Day:
    """All sessions of a UTC day."""

    day: str
    successful: int
    failed: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Results:
    """A page of results, and the sums of the days that are not yet reported."""

    days: list[Day]
    results: list[Result]


@dataclass(frozen=True, slots=True, kw_only=True)
class Failed:
    """A kind of failure: how many sessions, where, and what it means."""

    result_type: str
    reason: str
    sessions: int
    mx_host: str
    ip: str
    sending_ip: str
    information: str
    happened: str
    do: str


@dataclass(frozen=True, slots=True, kw_only=True)
class OnePolicy:
    """A result with its policy and every kind of failure."""

    result: Result
    policy_string: list[str]
    mx_host: list[str]
    failures: list[Failed]


class ResultsPages:
    """The pages. The sums over everything are remembered for five minutes: they cost a look at each row."""

    def __init__(self, core: Core) -> None:
        self._core = core
        self._totals: Totals = []
        self._until = 0

    async def show(self, ask: Ask) -> Page:
        """A page of results."""
        domain, day, failed = ask.text("domain"), ask.text("day"), ask.text("show") == _FAILED
        limit, after = ask.number("limit"), _cursor(ask.text("after"))
        load = partial(counters.load_by_domain, domain=domain, day=day, failed=failed, after=after, limit=limit + 1)
        rows = await self._core.store.read(load)
        days = [Day(day=one, successful=good, failed=bad) for one, good, bad in await self._by_day(domain)]
        results = [_result(row) for row in rows[:limit]]
        blocks: list[Block] = []
        if len(days) > 1:
            blocks.append(_chart(days, domain))
        elif days:
            only = days[0]
            told = f"{only.successful:,} sessions as the policy wants, {only.failed:,} not"
            blocks.append(Facts(rows=[(f"On {only.day}", told)]))
        blocks.append(_table(results, empty="No result matches." if domain or day or failed else "Nothing is counted yet."))
        last = results[-1] if len(rows) > limit else None
        intro = "What deliveries came to, counted for reports. A day is taken out of here when it has been reported."
        return Page(
            title="TLS results",
            intro=intro,
            data=Results(days=days, results=results),
            blocks=blocks,
            next="" if last is None else f"{last.domain}/{last.day}/{last.policy_id}",
        )

    async def show_one(self, ask: Ask) -> Page:
        """One policy with its failures."""
        domain, day, policy_id = ask.text("domain"), ask.text("day"), ask.text("policy")
        taken = await self._core.store.read(partial(counters.load_one, domain=domain, day=day, policy_id=policy_id))
        if taken is None:
            raise NotHere(f"Nothing is counted for {domain} on {day} under this policy; it may have been reported.")
        (result,) = counters.policies([taken])
        shown = _result(counters.Row(day, domain, taken))
        hosts = [result.policy.mx_host] if isinstance(result.policy.mx_host, str) else list(result.policy.mx_host)
        failures = [_failed(detail) for detail in result.failure_details[:_MOST]]
        data = OnePolicy(result=shown, policy_string=list(result.policy.policy_string), mx_host=hosts, failures=failures)
        blocks: list[Block] = [
            Facts(
                rows=[
                    ("Recipient domain", link(Domain(domain).unicode, "/tlsrpt/results", domain=domain)),
                    ("UTC day", day),
                    ("Policy", f"{shown.policy_type} of {shown.policy_domain}"),
                    ("As the policy wants", shown.successful),
                    ("Not as it wants", Mark(f"{shown.failed:,}", Tone.BAD) if shown.failed else 0),
                    ("Mail hosts of the policy", [Code(host) for host in hosts if host]),
                ]
            ),
            _failures(failures),
        ]
        if result.policy.policy_string:
            blocks.append(Pre(title="The policy as it stood", text="\n".join(result.policy.policy_string)))
        return Page(title=f"TLS results of {Domain(domain).unicode}", data=data, blocks=blocks)

    async def _by_day(self, domain: str) -> Totals:
        if domain:
            return await self._core.store.read(lambda connection: counters.by_day(connection, domain))
        now = self._core.clock.now()
        if now >= self._until:
            self._totals = await self._core.store.read(counters.by_day)
            self._until = now + _KEPT_FOR
        return self._totals


def routes(core: Core) -> Sequence[WebRoute]:
    """The list, and one policy."""
    pages = ResultsPages(core)
    params = (DOMAIN, DAY, choice("show", "Only", _FAILED), AFTER, LIMIT)
    one = (DAY, DOMAIN, Param(name="policy", longest=64))
    return [
        view("/results", pages.show, Results, title="TLS results", params=params),
        view("/results/{domain}/{day}/{policy}", pages.show_one, OnePolicy, params=one, summary="Results under one policy"),
    ]


def _cursor(text: str) -> tuple[str, str, str]:
    parts = text.split("/") if text else ["", "", ""]
    if len(parts) != 3:
        raise BadQuery(f"after is {text[:60]!r}, which is no place in this list; begin without it")
    return parts[0], parts[1], parts[2]


def _result(row: Row) -> Result:
    (result,) = counters.policies([row.taken])
    return Result(
        day=row.day,
        domain=row.domain,
        policy_type=result.policy.policy_type,
        policy_domain=row.taken.policy_domain,
        policy_id=row.taken.policy_id,
        successful=row.taken.successes,
        failed=row.taken.failures,
    )


def _chart(days: Sequence[Day], domain: str) -> Chart:
    return Chart(
        title=f"Sessions by day, {Domain(domain).unicode}" if domain else "Sessions by day, of the last minutes not all",
        series=["as the policy wants", "not so"],
        tones=[Tone.GOOD, Tone.BAD],
        points=[(one.day, (one.successful, one.failed)) for one in days],
    )


def _table(results: Sequence[Result], *, empty: str) -> Table:
    return Table(
        title="By recipient domain",
        columns=[
            "Domain",
            "Day",
            "Policy",
            "Of",
            Column(title="Sessions", number=True),
            Column(title="Failed", number=True),
        ],
        rows=[
            (
                link(Domain(one.domain).unicode, f"/tlsrpt/results/{one.domain}/{one.day}/{one.policy_id}"),
                one.day,
                one.policy_type,
                one.policy_domain,
                one.successful + one.failed,
                Mark(f"{one.failed:,}", Tone.BAD) if one.failed else 0,
            )
            for one in results
        ],
        empty=empty,
    )


def _failures(failures: Sequence[Failed]) -> Table:
    return Table(
        title="Failures",
        columns=["What", Column(title="Sessions", number=True), "Mail host", "What it means"],
        rows=[
            (
                [Mark(one.result_type, Tone.BAD), Code(one.reason) if one.reason else ""],
                one.sessions,
                [one.mx_host, one.ip],
                [one.happened, reason_explained(one.reason) if one.reason else "", one.information],
            )
            for one in failures
        ],
        empty="No session failed.",
    )


def _failed(detail: FailureDetail) -> Failed:
    advice = advice_for(detail.result_type)
    return Failed(
        result_type=detail.result_type,
        reason=detail.failure_reason_code,
        sessions=detail.failed_session_count,
        mx_host=detail.receiving_mx_hostname,
        ip=detail.receiving_ip,
        sending_ip=detail.sending_mta_ip,
        information=detail.additional_information,
        happened=advice.happened,
        do=advice.do,
    )
