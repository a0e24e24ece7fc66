"""How to change the key of a mail host without a moment in which senders with DANE do not deliver (RFC 7671 §8, RFC 7672 §4).

Records of the new key are published beside those of the old one, and everybody's caches are waited for, before the server
changes; only then do the old ones go. Digests are kept the same for both: with digest agility, a stronger digest of only one
key would hide the other (RFC 7671 §9).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from enum import StrEnum
from typing import Any, Final

from postward_dane.tlsa import CERTIFICATE, DANE_EE, PUBLIC_KEY, SHA256, TlsaRecord, of_certificate, usable

_DEFAULT: Final = ((DANE_EE, PUBLIC_KEY, SHA256),)


class Stage(StrEnum):
    """Where a change of keys stands."""

    BROKEN = "broken"
    START = "start"
    STEADY = "steady"
    PUBLISH = "publish"
    SWITCH = "switch"
    CLEAN_UP = "clean-up"
    SAME_KEY = "same-key"


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """What to do now. `publish` and `remove` are records; `steps` are sentences, in order; `ttl` is seconds."""

    stage: Stage
    publish: tuple[TlsaRecord, ...] = ()
    remove: tuple[TlsaRecord, ...] = ()
    steps: tuple[str, ...] = ()
    current: tuple[TlsaRecord, ...] = ()
    coming: tuple[TlsaRecord, ...] = ()
    idle: tuple[TlsaRecord, ...] = ()
    ttl: int = 0

    @property
    def good(self) -> bool:
        """Whether senders with DANE deliver at this moment."""
        return self.stage not in (Stage.BROKEN, Stage.START)

    def to_json(self) -> dict[str, Any]:
        """What `--json` prints."""
        lists = {
            name: [str(each) for each in getattr(self, name)] for name in ("publish", "remove", "current", "coming", "idle")
        }
        return {"stage": self.stage.value, "ttl": self.ttl, **lists, "steps": list(self.steps)}


def plan(published: Sequence[TlsaRecord], serving: Sequence[bytes], new: Sequence[bytes] = (), *, ttl: int = 0) -> Plan:
    """What to do, from the published records, the chain (DER, leaf first) that the server shows, and the one that is to come.

    Without `new`, it says which records are in use and what a change will need.
    """
    used = usable(published)
    now = tuple(record for record in used if matches(record, serving))
    later = tuple(record for record in used if new and matches(record, new))
    idle = tuple(record for record in published if record not in now and record not in later)
    known = Plan(stage=Stage.STEADY, current=now, coming=later, idle=idle, ttl=ttl)
    if not now:
        return _not_served(published, used, serving, known)
    if not new:
        return _steady(now, idle, known)
    if serving[:1] == new[:1]:
        return _clean_up(now, idle, known)
    missing = tuple(record for record in _wanted(now, new) if record not in used)
    if not missing:
        return _switch(now, later, ttl, known)
    steps = (
        f"Publish {_count(missing, 'record')} of the new certificate, and keep those of the current one.",
        f"Wait until no cache holds the old set: {_wait(ttl)}, after every name server has the new one.",
        "Run this command again: it then says that the server may change.",
        "Install the new certificate.",
        "Remove the records that match only the old one.",
    )
    return replace(known, stage=Stage.PUBLISH, publish=missing, steps=steps)


def matches(record: TlsaRecord, chain: Sequence[bytes]) -> bool:
    """Whether a record speaks of a certificate in the place that it names: the server's own, or one above it."""
    for der in chain[:1] if record.usage == DANE_EE else chain[1:]:
        try:
            if of_certificate(der, record.usage, record.selector, record.matching) == record:
                return True
        except ValueError:
            continue
    return False


def _wanted(now: Sequence[TlsaRecord], new: Sequence[bytes]) -> list[TlsaRecord]:
    """For each kind of record that protects the server now, the same of the new chain (RFC 7671 §8.4)."""
    wanted: list[TlsaRecord] = []
    for kind in dict.fromkeys((record.usage, record.selector, record.matching) for record in now):
        chain = new[:1] if kind[0] == DANE_EE else new[1:]
        already = [
            record for record in now if (record.usage, record.selector, record.matching) == kind and matches(record, new)
        ]
        if not already and chain:
            # Of several authorities the nearest: it is the one that must be in the handshake.
            wanted.append(of_certificate(chain[0], *kind))
    if wanted or all(matches(record, new) for record in now):
        return wanted
    return [of_certificate(new[0], *kind) for kind in _DEFAULT]


def _not_served(published: Sequence[TlsaRecord], used: Sequence[TlsaRecord], serving: Sequence[bytes], known: Plan) -> Plan:
    records = tuple(of_certificate(serving[0], *kind) for kind in _DEFAULT)
    if not published:
        first = ("Publish the record of the current certificate.", "From then on, publish new records before a key changes.")
        return replace(known, stage=Stage.START, publish=records, steps=first)
    happens = "do not deliver to this host" if used else "encrypt, and do not know with whom"
    steps = (
        f"No usable record matches what the server shows: senders with DANE {happens}.",
        "Publish the record of the current certificate at once, or go back to the certificate that the records are of.",
        "Remove what matches nothing once mail flows again.",
    )
    return replace(known, stage=Stage.BROKEN, publish=records, steps=steps)


def _steady(now: Sequence[TlsaRecord], idle: Sequence[TlsaRecord], known: Plan) -> Plan:
    steps = ["Nothing to do: the server shows what is published."]
    if any(record.selector == PUBLIC_KEY for record in now):
        steps.append("A renewal with the same key keeps the match of records with selector 1.")
    if any(record.selector == CERTIFICATE for record in now):
        steps.append("Records with selector 0 change with each renewal, also with the same key.")
    if idle:
        steps.append(f"{_count(idle, 'record')} match nothing that is shown: of a key to come, or left over from an old one.")
    steps.append("Before a change, run this again with --cert and the new certificate.")
    return replace(known, stage=Stage.STEADY, steps=tuple(steps))


def _clean_up(now: Sequence[TlsaRecord], idle: Sequence[TlsaRecord], known: Plan) -> Plan:
    if not idle:
        return replace(known, stage=Stage.STEADY, steps=("Nothing to do: the new certificate is served and published.",))
    steps = (
        "The server shows the new certificate.",
        f"Remove {_count(idle, 'record')} of the old one once no server of this name shows it any more.",
    )
    return replace(known, stage=Stage.CLEAN_UP, remove=tuple(idle), steps=steps)


def _switch(now: Sequence[TlsaRecord], later: Sequence[TlsaRecord], ttl: int, known: Plan) -> Plan:
    if all(record in later for record in now):
        only = "Every record that is in use matches the new certificate as well: install it, and change nothing in DNS."
        return replace(known, stage=Stage.SAME_KEY, steps=(only,))
    steps = (
        f"The new certificate is published. When that is longer ago than {_wait(ttl)}, install it.",
        "Then run this again: it names the records to remove.",
    )
    return replace(known, stage=Stage.SWITCH, steps=steps)


def _wait(ttl: int) -> str:
    return f"at least {ttl} seconds, the TTL of the records as the resolver shows it" if ttl else "the TTL of the records"


def _count(records: Sequence[TlsaRecord], what: str) -> str:
    return f"{len(records)} {what}{'' if len(records) == 1 else 's'}"
