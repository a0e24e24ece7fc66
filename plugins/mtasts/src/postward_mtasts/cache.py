"""What is remembered of a domain, and what to do next: decisions without I/O (RFC 8461 §3.3, §5.1).

The cache is the only defence against somebody who suppresses the record or the policy host: an unexpired policy acts whenever
no newer one can be had. A policy that could not be fetched is tried again after five minutes, per id.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from enum import Enum
from typing import Final

from postward.model import MICROSECONDS, Failure, Mode, ResultType, Scope, TlsPolicy
from postward.names import Domain
from postward_mtasts import policy
from postward_mtasts.policy import PolicyError
from postward_mtasts.record import StsRecord

BACK_OFF: Final = 300 * MICROSECONDS
DAY: Final = 86_400 * MICROSECONDS
REFRESH_RETRY: Final = 3600 * MICROSECONDS
UNUSED: Final = 180 * DAY

FALLBACK: Final = "+fallback-to-cached-policy"


@dataclass(frozen=True, slots=True, kw_only=True)
class Entry:
    """One domain's memory. Instants are microseconds UTC; `text` is empty when no policy was ever had, only an error.

    `failed_id` is the id whose fetch failed at `last_attempt` with `last_error`; empty after a success.
    """

    domain: Domain
    record_id: str = ""
    text: str = ""
    mode: Mode = Mode.NONE
    fetched: int = 0
    expires: int = 0
    last_use: int = 0
    last_attempt: int = 0
    failed_id: str = ""
    last_error: str = ""

    def valid(self, now: int) -> bool:
        """Whether there is a policy that may be applied."""
        return bool(self.text) and now < self.expires

    def backing_off(self, record_id: str, now: int) -> bool:
        """Whether this id was fetched in vain less than five minutes ago (RFC 8461 §3.3)."""
        return self.failed_id == record_id and 0 <= now - self.last_attempt < BACK_OFF


class Lookup(Enum):
    """What the TXT lookup came to, other than a record: nothing, records that name no policy, or no answer at all."""

    ABSENT = "absent"
    INVALID = "invalid"
    FAILED = "failed"


class Step(Enum):
    """What to do: apply what is cached, fetch, forget a withdrawn policy, go on without one, or record the problem."""

    CACHED = "cached"
    FETCH = "fetch"
    FORGET = "forget"
    NOTHING = "nothing"
    PROBLEM = "problem"


def sound(entry: Entry) -> Entry:
    """The entry, without its policy if that cannot be read any more: then it is fetched anew instead of failing for ever."""
    try:
        policy.parse(entry.text)
    except PolicyError:
        return replace(entry, record_id="", text="")
    return entry


def next_step(entry: Entry | None, found: StsRecord | Lookup, now: int) -> Step:
    """Decide, knowing the memory and the TXT lookup."""
    cached = entry if entry is not None and entry.valid(now) else None
    if isinstance(found, StsRecord):
        if cached is not None and cached.record_id == found.id:
            return Step.CACHED
        if entry is None or not entry.backing_off(found.id, now):
            return Step.FETCH
        return Step.CACHED if cached is not None and cached.mode is not Mode.NONE else Step.PROBLEM
    if cached is not None:
        if cached.mode is not Mode.NONE:
            return Step.CACHED
        return Step.FORGET if found is Lookup.ABSENT else Step.NOTHING
    return Step.NOTHING if found is Lookup.ABSENT else Step.PROBLEM


def fetched(entry: Entry | None, domain: Domain, record_id: str, text: str, now: int) -> Entry:
    """The memory after a successful fetch. `max_age` counts from now (RFC 8461 §3.2)."""
    read = policy.parse(text)
    return replace(
        entry or Entry(domain=domain, last_use=now),
        record_id=record_id,
        text=text,
        mode=read.mode,
        fetched=now,
        expires=now + read.max_age * MICROSECONDS,
        last_attempt=now,
        failed_id="",
        last_error="",
    )


def apply(entry: Entry, notes: tuple[Failure, ...] = ()) -> TlsPolicy | None:
    """The policy that core is given; None for mode `none`, which is as no policy (RFC 8461 §5)."""
    if entry.mode is Mode.NONE:
        return None
    read = policy.parse(entry.text)
    return TlsPolicy(
        kind="sts",
        mode=read.mode,
        domain=entry.domain,
        scope=Scope.DOMAIN,
        mx_patterns=read.mx,
        evidence=policy.lines(entry.text),
        data=read,
        notes=notes,
    )


def problem(domain: Domain, failure: Failure, evidence: tuple[str, ...] = ()) -> TlsPolicy:
    """A policy that could not be had and has no predecessor: recorded, and mail goes as without MTA-STS (RFC 8461 §3.3)."""
    return TlsPolicy(kind="sts", mode=Mode.NONE, domain=domain, scope=Scope.DOMAIN, evidence=evidence, problem=failure)


def fallback(failure: Failure) -> Failure:
    """The note on a cached policy that acts because a newer one could not be had (RFC 8461 §6)."""
    return replace(failure, reason=f"{failure.reason}{FALLBACK}")


def backed_off(entry: Entry) -> Failure:
    """The failure of a fetch that was not tried."""
    return Failure(
        result_type=ResultType.STS_POLICY_FETCH_ERROR,
        reason="back-off-after-recent-fetch-error",
        detail=f"not fetched again so soon after: {entry.last_error}",
    )


def refresh_due(entry: Entry, now: int) -> bool:
    """Whether a policy in use should be fetched anew: daily, and well before it expires (RFC 8461 §3.3, §10.2)."""
    lifetime = entry.expires - entry.fetched
    due = entry.fetched + min(DAY, lifetime // 2)
    return entry.valid(now) and now >= due and now - entry.last_attempt >= min(REFRESH_RETRY, lifetime // 4)


def disposable(entry: Entry, now: int) -> bool:
    """Whether nothing is lost by forgetting: expired or only an old error, or unused for half a year."""
    if not entry.valid(now) and now - max(entry.last_attempt, entry.expires) >= DAY:
        return True
    return now - entry.last_use >= UNUSED
