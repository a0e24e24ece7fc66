"""The other end of TLS reporting: take what arrived at the lab's receivers, believe nothing, and compare with the truth.

Mailed reports need a DKIM signature of the submitter (RFC 8460 §3) made by the key in DNS; the contents of all are opened with
limits, read, and counted against what the cases must have come to (RFC 8460 §4).
"""

from __future__ import annotations

import json
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass
from email import message_from_bytes
from typing import TYPE_CHECKING, Any, Final

from postward.dkim import verify
from postward.lab.case import Case, expect
from postward.lab.world import COLLECTOR, REPORT_ADDRESS, SENDER
from postward.reports.container import ContainerError, gunzip, mime_parts

if TYPE_CHECKING:
    from postward.dns import Resolver
    from postward.lab.https import Posted
    from postward.lab.mx import Mail
    from postward.lab.world import World

MAX_REPORT: Final = 10 * 1024 * 1024
_GZIP: Final = "application/tlsrpt+gzip"

Counts = dict[tuple[str, str], tuple[int, int, frozenset[str]]]


@dataclass(frozen=True, slots=True, kw_only=True)
class Receipt:
    """A report that arrived `by` mail or https, about `domain` as far as that could be read, and what was wrong with it."""

    by: str
    domain: str
    report_id: str
    problems: tuple[str, ...]


def expected_counts(case: Case, without: Collection[str] = ()) -> Counts:
    """Successes, failures and result types of one message to a case, per policy type and policy domain (RFC 8460 §4.2)."""
    counts: Counts = {}
    for session in expect(case, without).sessions:
        for line in session.lines:
            key = (line.kind, session.host if line.kind == "tlsa" else case.domain)
            good, bad, types = counts.get(key, (0, 0, frozenset()))
            told = {line.result_type.value} if line.result_type else set()
            counts[key] = (good + line.passed, bad + (not line.passed), types | told)
    return counts


def due(cases: Iterable[Case], without: Collection[str] = ()) -> set[tuple[str, str]]:
    """The reports that must arrive, as pairs of how and about which domain."""
    if "tlsrpt" in without:
        return set()
    return {(way, case.domain) for case in cases if expect(case, without).sessions for way in case.by}


async def receive(world: World, resolver: Resolver, day: str) -> list[Receipt]:
    """Examine everything at the lab's receivers, mail first. `day` is the day that was closed."""
    truth = {case.domain: expected_counts(case, world.without) for case in world.cases}
    receipts = [await check_mail(mail, resolver, truth, day) for mail in world.mailbox.to(REPORT_ADDRESS)]
    receipts += [check_post(posted, truth, day) for posted in world.web.posted]
    return receipts


async def check_mail(mail: Mail, resolver: Resolver, truth: dict[str, Counts], day: str) -> Receipt:
    """Examine a report that came by mail (RFC 8460 §5.3)."""
    problems: list[str] = []
    signatures = await verify(mail.content, resolver, service="tlsrpt")
    good = [each for each in signatures if each.result == "pass" and each.domain == SENDER and not each.body_length]
    if not good:
        said = ", ".join(f"{each.domain}: {each.result} {each.reason}".strip() for each in signatures)
        problems.append(f"no valid DKIM signature of {SENDER} ({said or 'none at all'})")
    header = message_from_bytes(mail.content)
    for name, value in (("TLS-Report-Submitter", SENDER), ("TLS-Required", "No"), ("Auto-Submitted", "auto-generated")):
        if header.get_all(name) != [value]:
            problems.append(f"{name} is {header.get_all(name)}, not {value}")
    try:
        parts = [part for part in mime_parts(mail.content, MAX_REPORT) if part.media_type == _GZIP]
    except ContainerError as exc:
        parts, problems = [], [*problems, str(exc)]
    if len(parts) != 1 or parts[0].report_type != "tlsrpt":
        problems.append(f"{len(parts)} parts of type {_GZIP} in a TLS report")
        return Receipt(by="mail", domain="", report_id="", problems=tuple(problems))
    domain, report_id, more = _check_report(parts[0].data, truth, day)
    if header.get_all("TLS-Report-Domain") != [domain]:
        more.append(f"TLS-Report-Domain is {header.get_all('TLS-Report-Domain')}, not {domain}")
    return Receipt(by="mail", domain=domain, report_id=report_id, problems=(*problems, *more))


def check_post(posted: Posted, truth: dict[str, Counts], day: str) -> Receipt:
    """Examine a report that came by HTTPS (RFC 8460 §5.4)."""
    domain, report_id, problems = _check_report(posted.body, truth, day)
    if (posted.host, posted.content_type) != (COLLECTOR, _GZIP):
        problems.append(f"posted to {posted.host} as {posted.content_type}")
    return Receipt(by="https", domain=domain, report_id=report_id, problems=tuple(problems))


def _check_report(data: bytes, truth: dict[str, Counts], day: str) -> tuple[str, str, list[str]]:
    """The recipient domain, the identifier and the problems of a compressed report."""
    try:
        report: Any = json.loads(gunzip(data, MAX_REPORT))
        span = report["date-range"]
        counts = _counts(report["policies"])
        report_id, contact = str(report["report-id"]), str(report["contact-info"])
    except (ContainerError, ValueError, KeyError, TypeError, AttributeError, RecursionError) as exc:
        return "", "", [f"cannot be read: {type(exc).__name__} {exc}"]
    problems = []
    domain = _about(counts, truth)
    if counts != truth.get(domain):
        problems.append(f"counts {_show(counts)}, not {_show(truth.get(domain, {}))}")
    if [span.get("start-datetime"), span.get("end-datetime")] != [f"{day}T00:00:00Z", f"{day}T23:59:59Z"]:
        problems.append(f"covers {span}, not {day}")
    if contact.rpartition("@")[2] != SENDER:
        problems.append(f"contact {contact} is not at {SENDER}")
    return domain, report_id, problems


def _counts(policies: Sequence[Any]) -> Counts:
    counts: Counts = {}
    for entry in policies:
        key = (str(entry["policy"]["policy-type"]), str(entry["policy"]["policy-domain"]))
        summary = entry["summary"]
        types = frozenset(str(detail["result-type"]) for detail in entry["failure-details"])
        good, bad, told = counts.get(key, (0, 0, frozenset()))
        good, bad = good + summary["total-successful-session-count"], bad + summary["total-failure-session-count"]
        counts[key] = (good, bad, told | types)
    return counts


def _about(counts: Counts, truth: dict[str, Counts]) -> str:
    """The recipient domain of a report: that of its policies, or above the host of a TLSA policy."""
    for _, name in counts:
        for domain in (name, name.partition(".")[2]):
            if domain in truth:
                return domain
    return next((name for _, name in counts), "")


def _show(counts: Counts) -> str:
    lines = [f"{kind} {name} {good} good {bad} bad {sorted(types)}" for (kind, name), (good, bad, types) in counts.items()]
    return "; ".join(sorted(lines)) or "nothing"
