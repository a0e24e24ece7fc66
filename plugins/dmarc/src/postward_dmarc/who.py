"""Who sends as a domain, and is it the domain itself: what the results of a reported record make likely (RFC 9990 §3.1.1.11).

DMARC says only whether the author domain stands behind a message. Why it does not, the other results tell: who else stands
behind it, and whether a signature of the domain was there before. It is likely, never certain, and is shown as such.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from typing import Final

from postward_dmarc.reading.aggregate import Record

_ERRORS: Final = frozenset({"temperror", "permerror"})
_PASSED_ON: Final = frozenset({"forwarded", "mailing_list", "trusted_forwarder"})


class Who(StrEnum):
    """Kinds of senders, those that are surely the domain itself first."""

    OURS = "ours"
    MISALIGNED = "misaligned"
    BROKEN = "broken"
    FORWARDED = "forwarded"
    OTHER = "other"
    NOBODY = "nobody"


@dataclass(frozen=True, slots=True, kw_only=True)
class Explained:
    """A kind of sender in words: whether it `is_me`, what it `means`, and what to `do`."""

    is_me: str
    means: str
    do: str


EXPLAINED: Final = {
    Who.OURS: Explained(is_me="yes", means="DMARC passes: SPF or DKIM of the domain stands behind this mail.", do="Nothing."),
    Who.MISALIGNED: Explained(
        is_me="yes",
        means="SPF or DKIM passes for a name of this organization, and yet it does not count for the author domain.",
        do="Sign with the author domain itself, or publish relaxed alignment (adkim=r, aspf=r).",
    ),
    Who.BROKEN: Explained(
        is_me="probably",
        means="A signature of the domain that does not pass, or an SPF record that cannot be used, and nobody else passes.",
        do="If these addresses are yours: add them to SPF, and see that the key that signs is the one that is published.",
    ),
    Who.FORWARDED: Explained(
        is_me="probably",
        means="Mail of the domain that a list or a forwarder passed on, which breaks SPF, and often the signature too.",
        do="Nothing that helps at once: sign all mail, so that whoever does not change it passes.",
    ),
    Who.OTHER: Explained(
        is_me="perhaps",
        means="Another domain stands behind this mail: a service that sends for you under its own name, or a stranger.",
        do="If it is a service of yours, have it sign with your domain, or use an envelope address in it.",
    ),
    Who.NOBODY: Explained(
        is_me="hardly",
        means="Nobody stands behind this mail: somebody abuses the domain, or a host of yours neither signs nor is in SPF.",
        do="If an address is yours, add it to SPF and sign there. Against the others p=reject helps.",
    ),
}
"""What each kind means."""

ACT: Final = frozenset({Who.MISALIGNED, Who.BROKEN})
"""Kinds that are most likely the domain's own mail and fail: bad news, about which its owner can do something."""


@dataclass(frozen=True, slots=True)
class Seen:
    """A kind of sender, and the domain that `stands` behind the mail: another one where there is one; empty for none."""

    who: Who
    stands: str


def seen(record: Record, policy_domain: str = "") -> Seen:
    """Judge a record; `policy_domain` stands in for an author domain that it does not name."""
    author = record.header_from or policy_domain
    results = [(each.domain, each.result) for each in record.dkim_results]
    results += [(each.domain, each.result) for each in record.spf_results]
    passing = [domain for domain, result in results if result == "pass" and domain]
    others = [domain for domain in passing if not related(domain, author)]
    stands = others[0] if others else passing[0] if passing else ""
    if record.passed:
        return Seen(Who.OURS, stands or author)
    if len(others) < len(passing):
        return Seen(Who.MISALIGNED, stands)
    signed = any(each.result != "none" and related(each.domain, author) for each in record.dkim_results)
    if any(reason.kind in _PASSED_ON for reason in record.reasons) or (signed and others):
        return Seen(Who.FORWARDED, stands)
    if others:
        return Seen(Who.OTHER, stands)
    # A forger fails SPF, too; but errors are those of the owner's own records.
    if signed or any(each.result in _ERRORS and related(each.domain, author) for each in record.spf_results):
        return Seen(Who.BROKEN, "")
    return Seen(Who.NOBODY, "")


def related(domain: str, author: str) -> bool:
    """Whether two names are likely of one organization: one is the other, or below it, and neither is a top-level domain."""
    if not domain or not author:
        return False
    if domain == author:
        return True
    shorter, longer = sorted((domain, author), key=len)
    return "." in shorter and longer.endswith(f".{shorter}")
