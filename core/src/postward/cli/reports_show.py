"""How reports look: tables and indented JSON for a person, plain columns in a pipe, objects for programs."""

from __future__ import annotations

import json
import time
from collections import Counter
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Final

from postward.cli.measures import ahead, count, local_time, octets, seconds, shortened
from postward.cli.output import is_terminal, line, table
from postward.model import day_of
from postward.names import Domain
from postward.reports.rows import CLAIMABLE, State
from postward.reports.survey import text_of

if TYPE_CHECKING:
    from postward.model import Report
    from postward.reports.preview import Preview
    from postward.reports.schedule import ReportRun
    from postward.reports.sender import SendRun
    from postward.reports.survey import Listed, TargetState

_ID: Final = 12
_DETAIL: Final = 90


def show_list(reports: Sequence[Listed]) -> None:
    """Print reports, one in a row."""
    if reports:
        columns = ("ID", "DAY", "KIND", "ABOUT", "BUILT", "SIZE", "ADDRESSES")
        table(columns, [_row(report) for report in reports])


def show_one(listed: Listed, report: Report) -> None:
    """Print everything about a report."""
    for name, text in (
        ("id", listed.id),
        ("report id", listed.report_id),
        ("about", Domain(listed.domain).unicode),
        ("day", day_of(listed.day_start)),
        ("from", listed.submitter),
        ("built", local_time(listed.created)),
        ("log", f"cid {listed.cid}"),
    ):
        line(f"{name + ':':<11}{text}")
    line()
    now = time.time_ns() // 1000
    columns = ("ADDRESS", "STATE", "ATTEMPTS", "NEXT TRY", "DETAIL")
    table(columns, [_target_row(target, now) for target in listed.targets])
    line()
    _show_content(report)


def show_preview(found: Preview) -> None:
    """Print a report that would be made."""
    where = ", ".join(target.uri for target in found.targets) or "nobody: no usable record asks for it"
    line(f"{found.report.policy_domain.unicode}, {found.report.window.day}, to {found.trouble or where}", style="bold")
    _show_content(found.report)


def show_sent(day: str, run: ReportRun, sent: SendRun | None) -> None:
    """Print what sending came to."""
    words = [f"{count(run.built, 'report')} built for {day}"]
    words += [f"{count(run.nobody, 'domain')} that want none"] * bool(run.nobody)
    words += [f"{run.later} to be asked again"] * bool(run.later)
    words += [f"{run.failed} failed"] * bool(run.failed)
    words += ["the day is not yet handed over by every node"] * bool(run.waiting)
    line("; ".join(words))
    if sent is None:
        line("The service that is running sends them.")
        return
    ends = {"delivered": sent.delivered, "failed": sent.failed, "suppressed": sent.suppressed, "tried again later": sent.later}
    line(", ".join(f"{number} {name}" for name, number in ends.items() if number) or "Nothing was due to be sent.")


def listed_json(report: Listed) -> dict[str, Any]:
    """A report as `list --json` has it."""
    return {
        "id": report.id,
        "kind": report.kind,
        "report_id": report.report_id,
        "domain": report.domain,
        "submitter": report.submitter,
        "day": day_of(report.day_start),
        "created": seconds(report.created),
        "size": report.size,
        "cid": report.cid,
        "targets": [
            {
                "uri": target.uri,
                "state": target.state,
                "attempts": target.attempts,
                "next_try": seconds(target.next_try) if target.state in CLAIMABLE else None,
                "detail": target.detail,
            }
            for target in report.targets
        ],
    }


def preview_json(found: Preview) -> dict[str, Any]:
    """A preview as an object."""
    return {
        "job": found.job,
        "day": found.report.window.day,
        "domain": str(found.report.policy_domain),
        "targets": [target.uri for target in found.targets],
        "trouble": found.trouble,
        "content": content_json(found.report),
    }


def sent_json(day: str, run: ReportRun, sent: SendRun | None) -> dict[str, Any]:
    """What sending came to, as an object."""
    ends = None
    if sent is not None:
        ends = {"delivered": sent.delivered, "failed": sent.failed, "suppressed": sent.suppressed, "later": sent.later}
    return {
        "day": day,
        "built": run.built,
        "nobody": run.nobody,
        "later": run.later,
        "failed": run.failed,
        "waiting": run.waiting,
        "left_to_service": sent is None,
        "sent": ends,
    }


def content_json(report: Report) -> Any:
    """What stands in a report: an object where it is JSON, otherwise its text."""
    text = text_of(report)
    try:
        return json.loads(text)
    except ValueError:
        return text


def _show_content(report: Report) -> None:
    content = content_json(report)
    if not isinstance(content, dict):
        for text in str(content).splitlines():
            line(text)
    elif is_terminal():
        from rich.console import Console

        Console().print_json(json.dumps(content))
    else:
        for text in json.dumps(content, indent=2).splitlines():
            line(text)


def _row(report: Listed) -> tuple[str, ...]:
    states = Counter(target.state for target in report.targets)
    return (
        report.id[:_ID],
        day_of(report.day_start),
        report.kind,
        Domain(report.domain).unicode,
        local_time(report.created),
        octets(report.size),
        ", ".join(f"{number} {state}" for state, number in sorted(states.items())) or "none",
    )


def _target_row(target: TargetState, now: int) -> tuple[object, ...]:
    again = ahead(target.next_try, now) if target.state == State.PENDING else "-"
    return target.uri, target.state, target.attempts, again, shortened(target.detail, _DETAIL) or "-"
