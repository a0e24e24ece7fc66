"""What is remembered of a domain, and what to do next: decisions without I/O (RFC 8461 §3.3, §5.1).

The cache is the only defence against somebody who suppresses the record or the policy host: an unexpired policy acts whenever
no newer one can be had (RFC 8461 §3.3). A policy that could not be fetched is tried again after five minutes, per id.
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
REFRESH_LEAST: Final = 900 * MICROSECONDS
UNUSED: Final = 180 * DAY

FALLBACK: Final = "+fallback-to-cached-policy"


@dataclass(frozen=True, slots=True, kw_only=True)
class Entry:
    """One domain's memory. Instants are microseconds UTC; `text` is empty when no policy was ever had, only an error.

    `failed_id` is the id whose fetch failed at `last_attempt` with `last_error`; empty after a success. `media_type` is what
    the policy was served as (RFC 8461 §3.2). `due` is when it has to be looked at again, to renew or to drop it.
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
    media_type: str = ""
    due: int = 0

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
    """Decide, knowing the memory and the TXT lookup. Ids are the same or another, never older (RFC 8461 §3.1)."""
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


def fetched(
    entry: Entry | None, domain: Domain, record_id: str, text: str, now: int, *, media_type: str = "", chance: float = 0.0
) -> Entry:
    """The memory after a successful fetch. `max_age` counts from now (RFC 8461 §3.2). `chance`: see `next_look`."""
    read = policy.parse(text)
    renewed = replace(
        entry or Entry(domain=domain, last_use=now),
        record_id=record_id,
        text=text,
        mode=read.mode,
        fetched=now,
        expires=now + read.max_age * MICROSECONDS,
        last_attempt=now,
        failed_id="",
        last_error="",
        media_type=media_type[:100],
    )
    return replace(renewed, due=next_look(renewed, now, chance))


def failed(entry: Entry | None, domain: Domain, record_id: str, error: str, now: int, *, chance: float = 0.0) -> Entry:
    """The memory after a fetch that failed; a policy that is there stays (RFC 8461 §3.3)."""
    before = entry or Entry(domain=domain, last_use=now)
    error = "".join(letter if letter.isprintable() else "?" for letter in error[:300])
    noted = replace(before, last_attempt=now, failed_id=record_id, last_error=error)
    return replace(noted, due=next_look(noted, now, chance))


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


def next_look(entry: Entry, now: int, chance: float) -> int:
    """When to look at an entry again: to renew a policy well before it expires, or to drop what is of no use any more.

    RFC 8461 §3.3, §10.2: policies are renewed daily, or at half their lifetime, whether or not the record changed, and within
    an hour after a renewal that failed. `chance` (0 to 1) takes up to a quarter off, so that policies that were fetched
    together are renewed spread over six hours. A policy of less than half an hour is left to the deliveries that need it.
    """
    if entry.valid(now):
        lifetime = entry.expires - entry.fetched
        pause, since = min(DAY, lifetime // 2), entry.fetched
        if entry.last_attempt > entry.fetched:
            pause, since = min(REFRESH_RETRY, lifetime // 4), entry.last_attempt
        due = since + max(REFRESH_LEAST, pause - int(chance * pause / 4))
        if due < entry.expires:
            return due
    return max(entry.last_attempt, entry.expires) + DAY


def disposable(entry: Entry, now: int) -> bool:
    """Whether nothing is lost by forgetting: expired or only an old error, or unused for half a year."""
    if not entry.valid(now) and now - max(entry.last_attempt, entry.expires) >= DAY:
        return True
    return now - entry.last_use >= UNUSED
