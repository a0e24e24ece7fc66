"""Statements on the counters: added to by batches, taken out by reports, passed on to the hosts.

All functions run inside a transaction of the results database.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final

import msgspec

from postward.store import change, change_many, fetch
from postward_tlsrpt.report import FailureDetail, Policy, PolicyResult, Summary

if TYPE_CHECKING:
    from sqlalchemy import Connection

    from postward_tlsrpt.counting import Counts

_ADD_SESSIONS: Final = (
    "INSERT INTO tlsrpt_sessions (recipient_domain, day, policy_id, policy_domain, policy, successes, failures)"
    " VALUES (?, ?, ?, ?, ?, ?, ?) ON CONFLICT (recipient_domain, day, policy_id) DO UPDATE"
    " SET successes = tlsrpt_sessions.successes + excluded.successes, failures = tlsrpt_sessions.failures + excluded.failures"
)
_ADD_DETAILS: Final = (
    "INSERT INTO tlsrpt_details (recipient_domain, day, policy_id, detail_id, detail, n) VALUES (?, ?, ?, ?, ?, ?)"
    " ON CONFLICT (recipient_domain, day, policy_id, detail_id) DO UPDATE SET n = tlsrpt_details.n + excluded.n"
)
_PASS_SESSIONS: Final = (
    "INSERT INTO tlsrpt_host_sessions (host, day, told, policy_id, policy, successes, failures) VALUES (?, ?, ?, ?, ?, ?, ?)"
    " ON CONFLICT (host, day, told, policy_id) DO UPDATE SET successes = tlsrpt_host_sessions.successes + excluded.successes,"
    " failures = tlsrpt_host_sessions.failures + excluded.failures"
)
_PASS_DETAILS: Final = (
    "INSERT INTO tlsrpt_host_details (host, day, told, policy_id, detail_id, detail, n) VALUES (?, ?, ?, ?, ?, ?, ?)"
    " ON CONFLICT (host, day, told, policy_id, detail_id) DO UPDATE SET n = tlsrpt_host_details.n + excluded.n"
)
# One statement reads and removes, so nothing can be counted between the two and be lost.
_TAKE_SESSIONS: Final = (
    "DELETE FROM tlsrpt_sessions WHERE recipient_domain = ? AND day = ?"
    " RETURNING policy_id, policy, policy_domain, successes, failures, ''"
)
_TAKE_DETAILS: Final = (
    "DELETE FROM tlsrpt_details WHERE recipient_domain = ? AND day = ? RETURNING policy_id, '', detail_id, detail, n"
)
_TAKE_HOST_SESSIONS: Final = (
    "DELETE FROM tlsrpt_host_sessions WHERE host = ? AND day = ? RETURNING policy_id, policy, host, successes, failures, told"
)
_TAKE_HOST_DETAILS: Final = (
    "DELETE FROM tlsrpt_host_details WHERE host = ? AND day = ? RETURNING policy_id, told, detail_id, detail, n"
)
_DETAILS_OF: Final = "SELECT detail_id, detail, n FROM tlsrpt_details WHERE recipient_domain = ? AND day = ? AND policy_id = ?"
TLSA: Final = "tlsa"


@dataclass(slots=True)
class Taken:
    """A row of sessions with its details: (id, text, n) each. `told` is what `key_of` made of the addresses that know it."""

    policy_id: str
    policy: str
    policy_domain: str
    successes: int
    failures: int
    told: str = ""
    details: list[tuple[str, str, int]] = field(default_factory=list)


@dataclass(frozen=True, slots=True)
class Row:
    """Counters of a recipient domain and day, as they stand."""

    day: str
    domain: str
    taken: Taken


def load_page(connection: Connection, *, domain: str, day: str, after: tuple[str, str, str], limit: int) -> list[Row]:
    """Counters behind (day, domain, policy id), in that order, of one domain or day where these are given."""
    where = "(day, recipient_domain, policy_id) > (?, ?, ?)"
    values: list[object] = [*after]
    for column, value in (("recipient_domain", domain), ("day", day)):
        if value:
            where += f" AND {column} = ?"
            values.append(value)
    statement = (
        "SELECT day, recipient_domain, policy_id, policy, policy_domain, successes, failures FROM tlsrpt_sessions"
        f" WHERE {where} ORDER BY day, recipient_domain, policy_id LIMIT ?"
    )
    found = []
    for one_day, one_domain, *columns in fetch(connection, statement, (*values, limit)):
        taken = Taken(*columns)
        taken.details = fetch(connection, _DETAILS_OF, (one_domain, one_day, taken.policy_id))
        found.append(Row(one_day, one_domain, taken))
    return found


def load_by_domain(
    connection: Connection, *, domain: str, day: str, failed: bool, after: tuple[str, str, str], limit: int
) -> list[Row]:
    """Counters behind (domain, day, policy id), in that order, which is that of the table, so that any page costs the same.

    Without details. Of one domain or day where these are given, and with `failed` only those with failures.
    """
    where = "(recipient_domain, day, policy_id) > (?, ?, ?)"
    values: list[object] = [*after]
    # Not by the index of days: all rows of a day would have to be sorted for each page.
    for column, value in (("recipient_domain", domain), ("day || ''", day)):
        if value:
            where += f" AND {column} = ?"
            values.append(value)
    statement = (
        "SELECT day, recipient_domain, policy_id, policy, policy_domain, successes, failures FROM tlsrpt_sessions"
        f" WHERE {where}{' AND failures > 0' if failed else ''} ORDER BY recipient_domain, day, policy_id LIMIT ?"
    )
    return [Row(day, domain, Taken(*columns)) for day, domain, *columns in fetch(connection, statement, (*values, limit))]


def load_one(connection: Connection, *, domain: str, day: str, policy_id: str) -> Taken | None:
    """The counters of one policy with their details."""
    statement = (
        "SELECT policy_id, policy, policy_domain, successes, failures FROM tlsrpt_sessions"
        " WHERE recipient_domain = ? AND day = ? AND policy_id = ?"
    )
    for columns in fetch(connection, statement, (domain, day, policy_id)):
        taken = Taken(*columns)
        taken.details = fetch(connection, _DETAILS_OF, (domain, day, policy_id))
        return taken
    return None


def by_day(connection: Connection, domain: str = "") -> list[tuple[str, int, int]]:
    """The successes and failures of each day, of one domain or all, in order. Without a domain it reads the whole table."""
    where, values = ("WHERE recipient_domain = ?", (domain,)) if domain else ("", ())
    statement = f"SELECT day, SUM(successes), SUM(failures) FROM tlsrpt_sessions {where} GROUP BY day ORDER BY day"
    return [(day, int(good), int(bad)) for day, good, bad in fetch(connection, statement, values)]


def add(connection: Connection, counts: Counts) -> None:
    """Add what a batch counted."""
    sessions = []
    # Sorted: two nodes that lock the same rows of PostgreSQL in one order do not lock each other out.
    for key in sorted(counts.successes.keys() | counts.failures.keys()):
        policy = counts.policies[key.policy_id]
        numbers = counts.successes[key], counts.failures[key]
        sessions.append((str(key.recipient_domain), key.day, key.policy_id, policy.domain, policy.text, *numbers))
    details = []
    for detail_key in sorted(counts.details):
        key, text = detail_key.session, detail_key.detail
        digest = hashlib.sha256(text.encode()).hexdigest()
        details.append((str(key.recipient_domain), key.day, key.policy_id, digest, text, counts.details[detail_key]))
    change_many(connection, _ADD_SESSIONS, sessions)
    change_many(connection, _ADD_DETAILS, details)


def days_before(connection: Connection, today: str, table: str = "sessions") -> Sequence[str]:
    """The days before `today` that have counters, oldest first. `table` is `sessions` or `host_sessions`."""
    statement = f"SELECT DISTINCT day FROM tlsrpt_{table} WHERE day < ? ORDER BY day"
    return [str(day) for (day,) in fetch(connection, statement, (today,))]


def recipient_domains(connection: Connection, day: str) -> Sequence[str]:
    """The recipient domains that have counters of a day."""
    statement = "SELECT DISTINCT recipient_domain FROM tlsrpt_sessions WHERE day = ? ORDER BY recipient_domain"
    return [str(domain) for (domain,) in fetch(connection, statement, (day,))]


def hosts(connection: Connection, day: str) -> Sequence[str]:
    """The MX hosts that have counters of a day passed on to them."""
    statement = "SELECT DISTINCT host FROM tlsrpt_host_sessions WHERE day = ? ORDER BY host"
    return [str(host) for (host,) in fetch(connection, statement, (day,))]


def take(connection: Connection, day: str, domain: str) -> list[Taken]:
    """Remove the counters of a recipient domain and day, and return them in a fixed order."""
    return _take(connection, _TAKE_SESSIONS, _TAKE_DETAILS, (domain, day))


def take_host(connection: Connection, day: str, host: str) -> list[Taken]:
    """Remove the counters of an MX host and day, and return them in a fixed order."""
    return _take(connection, _TAKE_HOST_SESSIONS, _TAKE_HOST_DETAILS, (host, day))


def pass_on(connection: Connection, day: str, domain: str, rows: Iterable[Taken], told: str) -> None:
    """Give what was found under TLSA records to their hosts (RFC 8460 §1.1); `told` are the addresses that now know it.

    Where the host is the domain itself, its own record was asked already.
    """
    rows = sorted((row for row in rows if row.policy_domain != domain and _is_tlsa(row)), key=lambda row: row.policy_id)
    sessions = [(row.policy_domain, day, told, row.policy_id, row.policy, row.successes, row.failures) for row in rows]
    details = [(row.policy_domain, day, told, row.policy_id, *detail) for row in rows for detail in sorted(row.details)]
    change_many(connection, _PASS_SESSIONS, sessions)
    change_many(connection, _PASS_DETAILS, details)


def policies(rows: Iterable[Taken]) -> tuple[PolicyResult, ...]:
    """Rows as a report shows them: one entry for each policy, in the order of the rows."""
    merged: dict[str, Taken] = {}
    for row in rows:
        before = merged.get(row.policy_id)
        merged[row.policy_id] = row if before is None else _sum(before, row)
    return tuple(_policy_result(row) for row in merged.values())


def drop(connection: Connection, days: Sequence[str]) -> int:
    """Remove all counters of days; how many rows of sessions that were."""
    _keep_out(connection)
    dropped = 0
    for day in days:
        for table in ("sessions", "details", "host_sessions", "host_details"):
            gone = change(connection, f"DELETE FROM tlsrpt_{table} WHERE day = ?", (day,))
            dropped += gone if table.endswith("sessions") else 0
    return dropped


def _take(connection: Connection, sessions: str, details: str, where: tuple[str, str]) -> list[Taken]:
    _keep_out(connection)
    found: dict[tuple[str, str], list[tuple[str, str, int]]] = {}
    for policy_id, told, detail_id, detail, n in fetch(connection, details, where):
        found.setdefault((policy_id, told), []).append((detail_id, detail, n))
    rows = [Taken(*row) for row in fetch(connection, sessions, where)]
    for row in rows:
        row.details = found.get((row.policy_id, row.told), [])
    return sorted(rows, key=lambda row: (row.policy, row.told))


def _is_tlsa(row: Taken) -> bool:
    return msgspec.json.decode(row.policy, type=Policy).policy_type == TLSA


def _sum(one: Taken, other: Taken) -> Taken:
    details: dict[str, tuple[str, str, int]] = {}
    for digest, text, n in (*one.details, *other.details):
        details[digest] = (digest, text, n + details.get(digest, ("", "", 0))[2])
    return Taken(
        policy_id=one.policy_id,
        policy=one.policy,
        policy_domain=one.policy_domain,
        successes=one.successes + other.successes,
        failures=one.failures + other.failures,
        details=list(details.values()),
    )


def _policy_result(row: Taken) -> PolicyResult:
    details = sorted(row.details, key=lambda detail: (-detail[2], detail[1]))
    return PolicyResult(
        policy=msgspec.json.decode(row.policy, type=Policy),
        summary=Summary(row.successes, row.failures),
        failure_details=tuple(_detail(text, n) for _, text, n in details),
    )


def _detail(text: str, n: int) -> FailureDetail:
    return msgspec.structs.replace(msgspec.json.decode(text, type=FailureDetail), failed_session_count=n)


def _keep_out(connection: Connection) -> None:
    """Let no other node of a shared PostgreSQL add or take meanwhile; it waits for the end of the transaction."""
    if connection.dialect.name == "postgresql":
        connection.exec_driver_sql("LOCK TABLE tlsrpt_sessions IN SHARE ROW EXCLUSIVE MODE")
