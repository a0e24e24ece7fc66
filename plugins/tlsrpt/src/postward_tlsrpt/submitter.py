"""Who vouches for a report that came by mail: a DKIM signature of its author's domain (RFC 8460 §3, §5.3).

The RFC says "the reporting domain" and not how it is known. Here it is the domain of From, or a parent of it within the same
organization (RFC 9989 §4.10); the key must allow the service `tlsrpt`, and the signature must not have `l=`.
"""

from __future__ import annotations

import re
from collections.abc import Generator, Iterable, Sequence
from typing import Final

from postward.dkim import Signature
from postward.names import Domain

MAX_QUERIES: Final = 8
_DMARC: Final = re.compile(r"v[ \t]*=[ \t]*DMARC1[ \t]*(?:;|$)")
_PSD: Final = re.compile(r";[ \t]*psd[ \t]*=[ \t]*([yn])[ \t]*(?:;|$)", re.IGNORECASE)

Walk = Generator[Domain, Sequence[str] | None, Domain | None]


def usable(signatures: Iterable[Signature], author: Domain) -> tuple[Domain, ...]:
    """The domains at or above the author's that have signed the message well enough for a report, nearest first."""
    good = {
        signature.domain
        for signature in signatures
        if signature.result == "pass"
        and signature.domain is not None
        and not signature.body_length
        and not {"*", "tlsrpt"}.isdisjoint(signature.service_types)
        and author.is_below(signature.domain)
    }
    return tuple(sorted(good, key=len, reverse=True))


def why_not(signatures: Sequence[Signature], author: Domain | None) -> str:
    """Why none of the signatures is good enough, in one line."""
    if author is None:
        return "From is not one address"
    if not signatures:
        return "no DKIM signature"
    said = []
    for each in signatures[:5]:
        if each.result != "pass":
            reason = each.reason or each.result
        elif each.body_length:
            reason = "has l="
        elif {"*", "tlsrpt"}.isdisjoint(each.service_types):
            reason = "key is not for tlsrpt"
        else:
            reason = f"is not of the organization of {author}"
        said.append(f"{each.domain or 'unknown'}: {reason}")
    return f"no acceptable DKIM signature ({', '.join(said)})"


def organization(start: Domain) -> Walk:
    """Find the Organizational Domain of `start` (RFC 9989 §4.10): asks for TXT records at `_dmarc.` of what it yields.

    It is sent the texts, None where the lookup failed; the result is None when that leaves it open.
    """
    labels = start.labels
    names = [start, *(Domain(".".join(labels[-count:])) for count in range(min(len(labels) - 1, MAX_QUERIES - 1), 0, -1))]
    found = start
    for name in names:
        texts = yield name
        if texts is None:
            return None
        records = [text for text in texts if _DMARC.match(text)]
        if len(records) != 1:
            continue
        psd = _PSD.search(records[0])
        if psd is not None and psd[1].lower() == "n":
            return name
        if psd is not None and psd[1].lower() == "y" and name != start:
            return Domain(".".join(labels[-len(name.labels) - 1 :]))
        found = name
    return found
