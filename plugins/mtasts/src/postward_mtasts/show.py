"""How policies and findings look: to people as tables or plain columns, to programs as JSON."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import asdict
from shutil import get_terminal_size
from textwrap import wrap
from typing import Any, Final

from postward.cli.output import emit_json_line, is_terminal, say, table
from postward.model import MICROSECONDS, Finding, Severity
from postward.names import Domain
from postward.tls import pattern_matches
from postward_mtasts import policy
from postward_mtasts.cache import Entry
from postward_mtasts.checks import Seen
from postward_mtasts.policy import PolicyError, StsPolicy

_WORDS: Final = {Severity.OK: "ok", Severity.WARNING: "warning", Severity.ERROR: "ERROR"}


# --- a domain as it is seen from outside ---


def seen_json(seen: Seen, found: Sequence[Finding]) -> dict[str, Any]:
    """What `check --json` prints."""
    error, fetched, failed = seen.record_error, seen.fetched, seen.fetch_error
    where = failed.where if failed else None
    read = fetched.policy if fetched else None
    return {
        "domain": seen.domain,
        "record": {
            "texts": list(seen.texts),
            "alias": seen.alias,
            "id": seen.record.id if seen.record else None,
            "error": str(error) if error else seen.dns_error or None,
            "position": error.position if error else None,
        },
        "policy": {
            "mode": read.mode if read else None,
            "max_age": read.max_age if read else None,
            "mx": list(read.mx) if read else [],
            "media_type": fetched.media_type if fetched else None,
            "text": list(policy.lines(fetched.text)) if fetched else list(failed.evidence) if failed else [],
            "error": str(failed) if failed else None,
            "result_type": failed.failure.result_type if failed else None,
            "line": where.line if where else None,
            "column": where.column if where else None,
        },
        "hosts": [{"name": host, "matches": _matches(read, host)} for host in seen.hosts],
        "findings": [asdict(finding) | {"severity": finding.severity.value} for finding in found],
    }


def show_seen(seen: Seen, found: Sequence[Finding]) -> None:
    """The record and the policy as they stand there, with the places of errors, then the findings."""
    texts = [text for text in seen.texts if text.startswith("v=STSv1")] or list(seen.texts)
    for text in texts[:5]:
        say(f"_mta-sts.{seen.domain.unicode}  {text[:500]}")
        if seen.record_error is not None and seen.record_error.slug == "record-syntax-error" and len(texts) == 1:
            say(f"{' ' * len(f'_mta-sts.{seen.domain.unicode}  ')}{' ' * min(seen.record_error.position, 500)}^")
    where = seen.fetch_error.where if seen.fetch_error else None
    lines = policy.lines(seen.fetched.text) if seen.fetched else seen.fetch_error.evidence if seen.fetch_error else ()
    for number, line in enumerate(lines[:40], 1):
        say(f"  {line}".replace("\t", " "))
        if where is not None and where.line == number:
            say(f"  {' ' * (min(where.column, 500) - 1)}^ {where}")
    if len(lines) > 40:
        say(f"  ... {len(lines) - 40} more lines")
    if texts or lines:
        say("")
    for each in found:
        for mark, text in ((_WORDS[each.severity], each.what), ("", each.why), ("  fix:" if each.fix else "", each.fix)):
            for line in _wrapped(text):
                say(f"{mark:<9}{line}")
                mark = ""


def _wrapped(text: str) -> list[str]:
    """The lines of a text on a terminal; in a pipe it stays one."""
    if not is_terminal():
        return [text] if text else []
    return wrap(text, get_terminal_size().columns - 10, break_long_words=False, break_on_hyphens=False)


def _matches(read: StsPolicy | None, host: Domain) -> bool | None:
    return any(pattern_matches(pattern, host) for pattern in read.mx) if read else None


# --- what is remembered ---


def entry_json(entry: Entry, now: int, *, text: bool = False) -> dict[str, Any]:
    """An entry of the cache; instants are seconds since 1970."""
    read = _read(entry)
    return {
        "domain": entry.domain,
        "valid": entry.valid(now),
        "id": entry.record_id or None,
        "mode": entry.mode if entry.text else None,
        "max_age": read.max_age if read else None,
        "mx": list(read.mx) if read else [],
        "media_type": entry.media_type or None,
        "fetched": _seconds(entry.fetched),
        "expires": _seconds(entry.expires),
        "last_use": _seconds(entry.last_use),
        "last_attempt": _seconds(entry.last_attempt),
        "next_look": _seconds(entry.due),
        "last_error": entry.last_error or None,
        "failed_id": entry.failed_id or None,
        **({"text": entry.text} if text else {}),
    }


def show_entries(entries: Sequence[Entry], now: int) -> None:
    """A line for each domain."""
    if not entries:
        say("Nothing is remembered.")
        return
    table(
        ("domain", "mode", "state", "fetched", "expires", "used"),
        [
            (
                entry.domain.unicode,
                entry.mode if entry.text else "-",
                _state(entry, now),
                _ago(entry.fetched, now),
                _ahead(entry.expires, now),
                _ago(entry.last_use, now),
            )
            for entry in entries
        ],
    )


def show_entry(entry: Entry, now: int) -> None:
    """Everything about a domain, with the text as it was served."""
    rows = [
        ("domain", entry.domain.unicode),
        ("state", _state(entry, now)),
        ("id", entry.record_id or "-"),
        ("mode", entry.mode if entry.text else "-"),
        ("served as", entry.media_type or "-"),
        ("fetched", _ago(entry.fetched, now)),
        ("expires", _ahead(entry.expires, now)),
        ("last use", _ago(entry.last_use, now)),
        ("last attempt", _ago(entry.last_attempt, now)),
        ("next look", _ahead(entry.due, now)),
        ("last error", f"{entry.last_error} (id {entry.failed_id})" if entry.last_error else "-"),
    ]
    table(("what", "value"), rows)
    for line in policy.lines(entry.text):
        say(f"  {line}")


def show_refreshed(domain: Domain, entry: Entry | None, error: str, now: int, *, as_json: bool) -> None:
    """What a refresh came to."""
    if as_json:
        shown = entry_json(entry, now) if entry else {"domain": domain, "valid": False}
        emit_json_line(shown | {"error": error or None})
    elif entry is not None and not error:
        say(f"{domain.unicode}: mode {entry.mode}, id {entry.record_id}, expires {_ahead(entry.expires, now)}")
    else:
        kept = "; the cached policy stays" if entry is not None and entry.valid(now) else ""
        say(f"{domain.unicode}: {error}{kept}")


def show_dropped(domain: Domain, dropped: bool, *, as_json: bool) -> None:
    """Whether something was forgotten."""
    if as_json:
        emit_json_line({"domain": domain, "dropped": dropped})
    else:
        say(f"{domain.unicode}: {'dropped' if dropped else 'nothing was remembered'}")


def tell_nothing(domain: Domain, *, as_json: bool) -> None:
    """There is no such entry."""
    if as_json:
        emit_json_line({"domain": domain, "valid": False})
    else:
        say(f"{domain.unicode}: nothing is remembered")


def tell_next(last: Domain | str) -> None:
    """How to go on behind a page; aside, because scripts read standard output."""
    print(f"postward: there is more: --after {last}, or --limit 0 for all", file=sys.stderr)  # noqa: T201


def _read(entry: Entry) -> StsPolicy | None:
    try:
        return policy.parse(entry.text)
    except PolicyError:
        return None


def _state(entry: Entry, now: int) -> str:
    if not entry.text:
        return "not fetched"
    if not entry.valid(now):
        return "expired"
    return "not renewed" if entry.last_error else "valid"


def _seconds(instant: int) -> int | None:
    return instant // MICROSECONDS or None


def _ago(instant: int, now: int) -> str:
    return f"{_span(now - instant)} ago" if instant else "-"


def _ahead(instant: int, now: int) -> str:
    if not instant:
        return "-"
    return f"in {_span(instant - now)}" if instant > now else f"{_span(now - instant)} ago"


def _span(microseconds: int) -> str:
    seconds = max(0, microseconds) // MICROSECONDS
    for unit, size in (("d", 86_400), ("h", 3600), ("min", 60)):
        if seconds >= 2 * size or (unit == "min" and seconds >= size):
            return f"{seconds // size} {unit}"
    return f"{seconds} s"
