"""What others report of us, put together for people: our domains and hosts, their days, and who counted what (RFC 8460 §4).

One reading of the tables for the command line and for pages: `look` asks, `to_json` says it to scripts, and `explained` says
what the failures mean. An organization's sessions are its own count; nothing here adds failures of different kinds, because
they may be the same sessions.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

from postward_tlsrpt import received_tables
from postward_tlsrpt.advice import advice_for, reason_explained

if TYPE_CHECKING:
    from sqlalchemy import Connection

    from postward_tlsrpt.received_tables import DomainLine, FailureLine, TimeLine

MAX_REASONS: Final = 20


@dataclass(frozen=True, slots=True, kw_only=True)
class Counted:
    """What one organization counted for a day under one type of policy, and the failures that it named."""

    sessions: TimeLine
    failures: tuple[FailureLine, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class About:
    """One of our domains or hosts with its timeline, by day, organization and type of policy."""

    total: DomainLine
    timeline: tuple[Counted, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Explained:
    """One kind of failure over the whole time: who saw it, its most frequent reasons, what it means and what to do."""

    result_type: str
    sessions: int
    organizations: tuple[str, ...]
    reasons: tuple[tuple[str, int, str], ...]
    happened: str
    do: str


def look(connection: Connection, since: int, until: int, domain: str = "") -> Sequence[About]:
    """What reports about the time from `since` to `until`, microseconds, say of us, or of `domain` alone."""
    found = received_tables.domains(connection, since, until)
    return [_about(connection, each, since, until) for each in found if not domain or each.domain == domain]


def _about(connection: Connection, total: DomainLine, since: int, until: int) -> About:
    named: dict[tuple[str, str, str, str], list[FailureLine]] = {}
    for line in received_tables.failures(connection, total.domain, since, until):
        named.setdefault(_key(line), []).append(line)
    lines = received_tables.timeline(connection, total.domain, since, until)
    timeline = tuple(Counted(sessions=line, failures=tuple(named.get(_key(line), ()))) for line in lines)
    return About(total=total, timeline=timeline)


def _key(line: TimeLine | FailureLine) -> tuple[str, str, str, str]:
    return line.day, line.organization, line.submitter, line.policy_type


def explained(timeline: Iterable[Counted]) -> Sequence[Explained]:
    """The kinds of failures in a timeline, the most frequent first."""
    kinds: dict[str, list[FailureLine]] = {}
    for counted in timeline:
        for line in counted.failures:
            kinds.setdefault(line.result_type, []).append(line)
    found = [_explained(kind, lines) for kind, lines in kinds.items()]
    return sorted(found, key=lambda each: (-each.sessions, each.result_type))


def _explained(kind: str, lines: Sequence[FailureLine]) -> Explained:
    reasons: dict[str, int] = {}
    for line in lines:
        if line.reason:
            reasons[line.reason] = reasons.get(line.reason, 0) + line.n
    most = sorted(reasons.items(), key=lambda item: (-item[1], item[0]))[:MAX_REASONS]
    advice = advice_for(kind)
    return Explained(
        result_type=kind,
        sessions=sum(line.n for line in lines),
        organizations=tuple(sorted({line.organization or line.submitter for line in lines})),
        reasons=tuple((reason, count, reason_explained(reason)) for reason, count in most),
        happened=advice.happened,
        do=advice.do,
    )


def to_json(about: About) -> dict[str, Any]:
    """One domain or host as scripts get it."""
    return {
        "domain": about.total.domain,
        "kind": "host" if about.total.is_host else "domain",
        "reports": about.total.reports,
        "successful": about.total.successes,
        "failed": about.total.failures,
        "timeline": [_line(each) for each in about.timeline],
        "explained": [
            {
                "result_type": each.result_type,
                "sessions": each.sessions,
                "organizations": list(each.organizations),
                "reasons": [
                    {"reason": reason, "sessions": n, "meaning": meaning or None} for reason, n, meaning in each.reasons
                ],
                "happened": each.happened,
                "do": each.do,
            }
            for each in explained(about.timeline)
        ],
    }


def _line(counted: Counted) -> dict[str, Any]:
    sessions = counted.sessions
    return {
        "day": sessions.day,
        "organization": sessions.organization,
        "submitter": sessions.submitter,
        "policy_type": sessions.policy_type,
        "reports": sessions.reports,
        "successful": sessions.successes,
        "failed": sessions.failures,
        "failures": [
            {"result_type": line.result_type, "reason": line.reason or None, "sessions": line.n} for line in counted.failures
        ],
    }
